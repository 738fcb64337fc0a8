package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// What is asked again is asked over the connection of the question before: a new
// one, with TLS and the login, would cost a thin line more than many a message. A
// remote that has closed it, says so or is silent gets a new one.
func TestAskedAgainOverTheSameConnection(t *testing.T) {
	for _, c := range []struct {
		name        string
		after       func(c net.Conn) // what the remote does after the first answer; nil: it answers on
		connections int32
		within      time.Duration
	}{
		{"it is still there", nil, 1, 3 * sec},
		{"closed by the remote", func(c net.Conn) {}, 2, 3 * sec},
		{"closed with a word", func(c net.Conn) {
			go c.Read(make([]byte, 100)) // as a buffer of the network would
			fmt.Fprint(c, "421 too long idle\r\n")
		}, 2, 3 * sec},
		{"nothing is wanted twice", func(c net.Conn) {
			c.Read(make([]byte, 100))
			fmt.Fprint(c, "503 once is enough\r\n")
		}, 2, 3 * sec},
		{"gone without a word", func(c net.Conn) {
			time.Sleep(time.Hour)
		}, 2, 40 * sec},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PullOnly })), func(s *site) {
				var connections, quits atomic.Int32
				s.net.host("192.0.2.1:366", func(conn net.Conn) {
					first := connections.Add(1) == 1
					fmt.Fprint(conn, "220 hub.example\r\n")
					buf, asked := make([]byte, 1000), 0
					for {
						n, err := conn.Read(buf)
						if err != nil {
							return
						}
						switch line := string(buf[:n]); {
						case strings.HasPrefix(line, "EHLO"):
							fmt.Fprint(conn, "250 hub.example\r\n")
						case strings.HasPrefix(line, "QUIT"):
							quits.Add(1)
							return
						case first && asked == 0:
							asked++
							fmt.Fprint(conn, "458 not now\r\n")
							if c.after != nil {
								c.after(conn)
								return
							}
						default:
							fmt.Fprint(conn, "251 OK, no messages waiting\r\n")
						}
					}
				})
				s.up()
				r := s.result(0, "")
				if n := connections.Load(); n != c.connections {
					t.Errorf("%d connections, want %d", n, c.connections)
				}
				if r.Line > api.Seconds(c.within) {
					t.Errorf("the line was used for %v", time.Duration(r.Line))
				}
				time.Sleep(2 * time.Hour) // whoever plays the hub comes to an end
				if quits.Load() != 1 {
					t.Errorf("%d times QUIT", quits.Load())
				}
			})
		})
	}
}

// Over a line of which nothing is known yet one message goes first, and shows how
// many may. One that goes to a host that does not answer does not keep the others
// for ever. When nobody looks any more, nothing is limited.
func TestFirstMessageShowsTheLine(t *testing.T) {
	for _, c := range []struct {
		name          string
		each          time.Duration // of the messages
		size          int64
		after         time.Duration
		before, limit int // until then, and then
	}{
		{"2,400 bit/s", 44 * sec, 3000, 45 * sec, 2, 1},
		{"2,400 bit/s, without TLS", 20 * sec, 3000, 21 * sec, 1, 1},
		{"a modem", 3 * sec, 3000, 4 * sec, 1, 4},
		{"a local network", 100 * ms, 3000, sec, 1, 0},
		{"a long message over a fast line", 20 * sec, 5_000_000, 21 * sec, 1, 0},
		{"a host that does not answer", 10 * time.Minute, 3000, 100 * sec, 8, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly }))
			cfg.Links[0].HangUp = nil
			inBubble(t, cfg, func(s *site) {
				s.hold.each, s.hold.size = c.each, c.size
				s.hold.add("hub", 3)
				s.up()
				for s.hold.pinned("hub") == 0 {
					time.Sleep(ms)
				}
				if got := s.hold.limit("hub"); got != 1 {
					t.Errorf("%d messages at a time to begin with", got)
				}
				time.Sleep(min(c.each, c.after) - 10*ms)
				if got := s.hold.limit("hub"); got != c.before {
					t.Errorf("%d messages at a time until one has gone, want %d", got, c.before)
				}
				time.Sleep(c.after - min(c.each, c.after) + 20*ms)
				if got := s.hold.limit("hub"); got != c.limit {
					t.Errorf("%d messages at a time after %v, want %d", got, c.after, c.limit)
				}
			})
		})
	}
	t.Run("nothing is held", func(t *testing.T) {
		cfg := oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly }))
		cfg.Links[0].HangUp = nil
		inBubble(t, cfg, func(s *site) {
			s.up()
			s.result(0, "")
			if got := s.hold.limit("hub"); got != 0 || s.hold.pinned("hub") == 0 {
				t.Errorf("%d messages at a time when nobody looks, pinned %d times", got, s.hold.pinned("hub"))
			}
		})
	})
}

// The local mail server stops in the middle of a call: nothing comes or goes any
// more, and the line is not kept for it. One that is restarted is waited for.
func TestMTAStopsInTheMiddle(t *testing.T) {
	for _, c := range []struct {
		name   string
		router config.RouterType
		back   time.Duration // when it is there again
		line   time.Duration
		exit   int
		says   string
	}{
		{"it stays away", config.PullPush, 0, 10*sec + mtaGrace, 75, "the local mail server does not answer any more; 1 of 3 messages have come"},
		{"it stays away, and nothing was to go", config.PullOnly, 0, 10*sec + mtaGrace, 75, "the local mail server does not answer any more; 1 of 3 messages have come"},
		{"it is restarted", config.PullOnly, 4 * sec, 20*sec + 500*ms, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = c.router; r.Idle = 30 * sec })), func(s *site) {
				s.hubSays("253 OK, 3 pending messages")
				s.hold.add("hub", 2)
				s.hold.each = 2 * time.Minute // they are under way all the time
				s.up()
				time.Sleep(5 * sec)
				s.mail("M1")
				time.Sleep(5 * sec)
				stopped := time.Now()
				s.net.host("127.0.0.1:25", nil)
				s.hold.mu.Lock()
				s.hold.listed = func() (time.Time, error) {
					if c.back > 0 && time.Since(stopped) >= c.back {
						return time.Now(), nil
					}
					return stopped, errors.New("postqueue fails")
				}
				s.hold.mu.Unlock()
				if c.back > 0 {
					time.Sleep(c.back)
					s.net.host("127.0.0.1:25", greet)
					time.Sleep(10*sec - c.back)
					s.mail("M2")
					s.mail("M3")
				}
				r := s.result(c.exit, c.says)
				if took := time.Duration(r.Line); took < c.line || took > c.line+maxLook {
					t.Errorf("the line was used for %v, want %v", took, c.line)
				}
			})
		})
	}
}

// The local mail server runs full in the middle of a call. The remote tries in vain,
// and the line is not kept for that when it has nothing else to do.
func TestMTABecomesFull(t *testing.T) {
	var full atomic.Bool
	door := func(_ *site, o *Options) {
		o.Door = func(context.Context, string, string, []string) (receive.Refusal, bool, error) {
			if full.Load() {
				return receive.Refusal{}, false, errors.New("452 no space")
			}
			return receive.Refusal{}, false, nil
		}
	}
	inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PullOnly })), func(s *site) {
		s.hubSays("253 OK, 3 pending messages", "253 OK, 2 pending messages")
		s.up()
		time.Sleep(3 * sec)
		s.mail("M1")
		full.Store(true)
		r := s.result(75, "takes no mail now: 452 no space")
		if r.In.Messages != 1 {
			t.Errorf("result %+v", r)
		}
		s.took("the line", time.Duration(r.Line), 8*sec)
	}, door)
}
