package testbed

import (
	"math/rand/v2"
	"testing"
	"time"
)

func newLane(s Shape, now time.Time) *lane {
	l := &lane{rng: rand.New(rand.NewPCG(1, 2))}
	l.shape(now, s, false)
	return l
}

// arrivals runs a lane until it is empty and returns when each packet came out.
func arrivals(l *lane, epoch time.Time) []time.Duration {
	var out []time.Duration
	for {
		at, ok := l.next()
		if !ok {
			return out
		}
		for l.due(at) != nil {
			out = append(out, at.Sub(epoch))
		}
	}
}

func TestLaneTimes(t *testing.T) {
	const ms = time.Millisecond
	epoch := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		shape   Shape
		packets []int // sizes, all offered at once
		want    []time.Duration
	}{
		// A perfect cable: everything at once.
		"no limits": {Shape{}, []int{1500, 1500}, []time.Duration{0, 0}},
		// Half the round trip each way.
		"only distance": {Shape{RTT: 600 * ms}, []int{100, 1500}, []time.Duration{300 * ms, 300 * ms}},
		// 1,000 bytes at 8 kbit/s are a second; the second waits for the first.
		"only rate": {Shape{Rate: 8000}, []int{1000, 500}, []time.Duration{1000 * ms, 1500 * ms}},
		// Time on the wire and distance add up; the wire is free meanwhile.
		"both": {Shape{Rate: 8000, RTT: 200 * ms}, []int{1000, 500}, []time.Duration{1100 * ms, 1600 * ms}},
		// The third finds 1,500 of 2,000 bytes taken.
		"full buffer": {Shape{Rate: 8000, Buffer: 2000}, []int{1000, 500, 600}, []time.Duration{1000 * ms, 1500 * ms}},
		// All lost.
		"loss": {Shape{Loss: 1}, []int{100, 100}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLane(c.shape, epoch)
			for _, size := range c.packets {
				l.offer(epoch, make([]byte, size))
			}
			got := arrivals(l, epoch)
			if len(got) != len(c.want) {
				t.Fatalf("arrivals %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("arrivals %v, want %v", got, c.want)
				}
			}
			if missing := int64(len(c.packets) - len(got)); l.lost+l.overflow != missing {
				t.Errorf("lost %d and overflow %d, %d packets are missing", l.lost, l.overflow, missing)
			}
			if l.queued != 0 || l.flying != 0 {
				t.Errorf("an empty lane counts %d bytes queued, %d flying", l.queued, l.flying)
			}
		})
	}
}

// A packet that is half through the wire takes the other half at the new rate.
func TestLaneRateChange(t *testing.T) {
	epoch := time.Unix(1000, 0)
	l := newLane(Shape{Rate: 8000}, epoch)
	l.offer(epoch, make([]byte, 1000))
	l.shape(epoch.Add(500*time.Millisecond), Shape{Rate: 80000}, false)
	if got := arrivals(l, epoch); len(got) != 1 || got[0] != 550*time.Millisecond {
		t.Errorf("arrivals %v, want [550ms]", got)
	}
}

// What is sent after the distance shrank arrives behind what was sent before.
func TestLaneKeepsOrder(t *testing.T) {
	epoch := time.Unix(1000, 0)
	l := newLane(Shape{RTT: time.Second}, epoch)
	l.offer(epoch, []byte("first"))
	l.shape(epoch, Shape{}, false)
	l.offer(epoch, []byte("second"))
	at := epoch.Add(time.Second)
	if a, b := string(l.due(at)), string(l.due(at)); a != "first" || b != "second" {
		t.Errorf("came out as %q, %q", a, b)
	}
}

func TestLaneBackRate(t *testing.T) {
	l := &lane{}
	l.shape(time.Unix(0, 0), Shape{Rate: 1000, RateBack: 64000, RTT: time.Minute}, true)
	if l.rate != 64000 || l.buffer != 2*64000/8*60 {
		t.Errorf("rate %d, buffer %d; want 64000 and twice the product of rate and RTT", l.rate, l.buffer)
	}
}
