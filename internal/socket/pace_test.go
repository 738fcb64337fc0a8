package socket

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// How many connections a line can carry, by what it has shown.
func TestConnections(t *testing.T) {
	for _, c := range []struct {
		name string
		pace Pace
		want int
	}{
		{"nothing is known", Pace{}, 0},
		{"round trips of a local network, no rate", Pace{RTT: time.Millisecond}, 0},
		{"a geostationary satellite, no rate", Pace{RTT: 600 * time.Millisecond}, 0},
		{"round trips that only a thin line has, no rate", Pace{RTT: 1800 * time.Millisecond}, 1},
		{"2,400 bit/s", Pace{RTT: 1800 * time.Millisecond, Rate: 300}, 1},
		{"9,600 bit/s, short round trips", Pace{RTT: 200 * time.Millisecond, Rate: 1200}, 1},
		{"a modem", Pace{Rate: 5600}, 5},
		{"long round trips, but much fits", Pace{RTT: 2 * time.Second, Rate: 32000}, 0},
	} {
		if got := c.pace.Connections(); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// Waits grow with the round trip, and not without bounds.
func TestGrace(t *testing.T) {
	for rtt, want := range map[time.Duration]time.Duration{
		-time.Second:            30 * time.Second,
		0:                       30 * time.Second,
		10 * time.Millisecond:   30200 * time.Millisecond,
		1800 * time.Millisecond: 66 * time.Second,
		time.Hour:               230 * time.Second,
	} {
		if got := (Pace{RTT: rtt}).Grace(30 * time.Second); got != want {
			t.Errorf("with a round trip of %v: %v, want %v", rtt, got, want)
		}
	}
	a, _ := net.Pipe()
	if got := Grace(a, time.Second); got != time.Second {
		t.Errorf("on something without a round trip: %v", got)
	}
}

// What a Meter makes of answers: the fastest is the nearest to the truth, and
// what is too short says nothing.
func TestMeter(t *testing.T) {
	type chunk struct {
		after time.Duration
		bytes int
	}
	for _, c := range []struct {
		name   string
		chunks []chunk // of the answers, one question before each
		train  bool    // no: they are one answer
		want   int
	}{
		{"a short reply", []chunk{{time.Second, 20}}, false, 0},
		{"a long one", []chunk{{time.Second, 290}}, false, 300},
		{"the second is faster: the first server was thinking", []chunk{{10 * time.Second, 290}, {time.Second, 290}}, false, 300},
		{"the second is slower", []chunk{{time.Second, 290}, {10 * time.Second, 290}}, false, 300},
		{"segments behind each other", []chunk{{10 * time.Second, 100}, {4 * time.Second, 600}, {4 * time.Second, 1000}}, true, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				defer here.Close()
				defer there.Close()
				m := NewMeter(here)
				buf := make([]byte, 4096)
				go there.Write(make([]byte, 500)) // the greeting
				if _, err := m.Read(buf); err != nil {
					t.Fatal(err)
				}
				for i, chunk := range c.chunks {
					if i == 0 || !c.train {
						go m.Write(make([]byte, 10))
						if _, err := there.Read(buf); err != nil {
							t.Fatal(err)
						}
					}
					go func() {
						time.Sleep(chunk.after)
						there.Write(make([]byte, chunk.bytes))
					}()
					if _, err := m.Read(buf); err != nil {
						t.Fatal(err)
					}
				}
				if got := m.Pace().Rate; got != c.want {
					t.Errorf("%d bytes a second, want %d", got, c.want)
				}
			})
		})
	}
}
