package call

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/socket"
)

// pushing is a connection of the MTA over the line, to which nothing has come for
// so long.
func pushing(heard time.Duration) socket.Connection {
	return socket.Connection{
		Local: netip.MustParseAddrPort("192.0.2.2:40000"), Peer: netip.MustParseAddrPort("198.51.100.7:25"), Outgoing: true, Established: true,
		Asking: heard > 0, Info: socket.Info{Heard: heard},
	}
}

// sending is a connection by which the MTA has sent all and awaits the reply.
func sending(heard time.Duration) socket.Connection {
	c := pushing(heard)
	c.Asking = false
	return c
}

// receiving is a connection by which the hub sends: nothing of ours is on its way.
func receiving(heard time.Duration) socket.Connection {
	return socket.Connection{
		Local: netip.MustParseAddrPort("192.0.2.2:25"), Peer: netip.AddrPortFrom(hubAddr, 40000), Established: true, Info: socket.Info{Heard: heard},
	}
}

// A line that ends without a word is given up after the same time, whatever goes
// over it; one that lives is not, however slow it is and however long an answer
// takes.
func TestDeadLine(t *testing.T) {
	const slow = 10 * time.Minute // for a message
	far := func(c socket.Connection) socket.Connection {
		c.MinRTT = 2 * sec
		return c
	}
	behind := func(c socket.Connection) socket.Connection { // others, on their way
		c.MinRTT = 30 * sec
		return c
	}
	near := receiving(0)
	near.Local, near.Peer, near.Near = netip.MustParseAddrPort("192.0.2.2:25"), netip.MustParseAddrPort("192.0.2.77:40000"), true
	elsewhere := pushing(0)
	elsewhere.Local = netip.MustParseAddrPort("203.0.113.1:40001")
	type kernel func(silent time.Duration) []socket.Connection // since a minute after the line came up
	mute := errors.New("operation not permitted")
	for _, c := range []struct {
		name  string
		heard kernel        // nil: the kernel tells nothing
		pull  bool          // else the call only pushes
		gone  bool          // nobody is there whom we ask
		dead  time.Duration // after which silence; 0: it lives
		never bool          // since it came up
	}{
		{name: "the MTA's connection", gone: true, dead: socket.Dead, heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{pushing(d)}
		}},
		{name: "long round trips", gone: true, dead: socket.Dead + 40*sec, heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{far(pushing(d)), behind(far(pushing(d)))}
		}},
		{name: "others live, and not by the line", gone: true, dead: socket.Dead, heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{pushing(d), near, elsewhere}
		}},
		{name: "nobody has ever answered", gone: true, never: true, dead: socket.Dead, heard: func(d time.Duration) []socket.Connection {
			c := pushing(d)
			c.Established, c.Asking = false, true
			return []socket.Connection{c}
		}},
		{name: "the reply is awaited, and nobody is there", gone: true, dead: socket.Dead, heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{sending(d)}
		}},
		{name: "the reply is awaited, and somebody is there", heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{sending(d)}
		}},
		{name: "the hub sends", pull: true, gone: true, dead: socket.Dead, heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{receiving(d)}
		}},
		{name: "the hub takes its time", pull: true, heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{receiving(d)}
		}},
		{name: "gaps of half a minute", pull: true, gone: true, heard: func(d time.Duration) []socket.Connection {
			return []socket.Connection{pushing(d % (30 * sec)), receiving(d % (40 * sec))}
		}},
		{name: "nothing is known of anybody", gone: true, heard: func(time.Duration) []socket.Connection { return nil }},
		{name: "the kernel tells nothing, and nobody is there", pull: true, gone: true, dead: socket.Dead},
		{name: "the kernel tells nothing, and somebody is there", pull: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := remote("hub", func(r *config.Remote) {
				if !c.pull {
					r.RouterType = config.PushOnly
				}
			})
			inBubble(t, oneLink(r), func(s *site) {
				s.hubSays("251 OK, no messages waiting")
				s.net.host("198.51.100.7:25", func(net.Conn) {})
				s.hold.each = slow
				s.hold.add("hub", 1)
				began := time.Now()
				s.net.listen(func() ([]socket.Connection, error) {
					if c.heard == nil {
						return nil, mute
					}
					return c.heard(max(time.Since(began)-time.Minute, 0)), nil
				})
				s.up()
				time.Sleep(time.Minute)
				s.net.vanish(c.gone)
				if c.dead == 0 {
					s.result(0, "")
					return
				}
				r := s.result(api.ExitTempFail, "the line is dead: nothing came over it for 1m")
				held, late := time.Duration(r.Line), 3*pulseLook
				switch {
				case c.heard == nil:
					late += c.dead / probePart // since a knock was answered
				case !c.never:
					held -= time.Minute
				}
				if held < c.dead || held > c.dead+late {
					t.Errorf("the line was held for %v of silence, want %v", held, c.dead)
				}
				if never := strings.Contains(r.Hint, "nobody has answered since the line came up"); never != c.never {
					t.Errorf("hint %q", r.Hint)
				}
				s.commands(0, 1)
				s.state(api.LinkDown)
			})
		})
	}
}

// On a line that shows no life nothing more is sent on its way; when it lives
// again, the push goes on.
func TestNothingGoesOverASilentLine(t *testing.T) {
	var silent atomic.Bool
	inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly })), func(s *site) {
		began := time.Now()
		s.net.listen(func() ([]socket.Connection, error) {
			if !silent.Load() {
				began = time.Now()
			}
			return []socket.Connection{pushing(time.Since(began))}, nil
		})
		s.hold.each = 10 * time.Minute
		s.hold.add("hub", 1)
		limits := func() []int {
			s.hold.mu.Lock()
			defer s.hold.mu.Unlock()
			return slices.Clone(s.hold.limits["hub"])
		}
		s.up()
		time.Sleep(time.Minute)
		silent.Store(true)
		time.Sleep(10 * sec)
		if l := limits(); slices.Contains(l, 0) {
			t.Errorf("held back after ten seconds: %v", l)
		}
		time.Sleep(10 * sec)
		if l := limits(); !slices.Equal(l, []int{0}) {
			t.Errorf("after twenty seconds of silence as many go at a time: %v", l)
		}
		silent.Store(false)
		time.Sleep(2 * pulseLook)
		if l := limits(); slices.Contains(l, 0) {
			t.Errorf("held back on a line that lives again: %v", l)
		}
		s.result(0, "")
	})
}

// A line that nobody hangs up is kept when it is dead, with its queues open: its calls
// end, and it may live again without a word.
func TestDeadLineOfNoCommand(t *testing.T) {
	cfg := oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly }))
	cfg.Links[0].Dial, cfg.Links[0].HangUp = nil, nil
	inBubble(t, cfg, func(s *site) {
		var lives atomic.Bool
		began := time.Now()
		s.net.listen(func() ([]socket.Connection, error) {
			if lives.Load() {
				return []socket.Connection{pushing(0)}, nil
			}
			return []socket.Connection{pushing(time.Since(began))}, nil
		})
		s.hold.each = 10 * time.Minute
		s.hold.add("hub", 1)
		s.up()
		s.result(api.ExitTempFail, "the line is dead")
		time.Sleep(2 * pulseLook)
		s.state(api.LinkUp)
		s.hold.mu.Lock()
		limits, pinned := slices.Clone(s.hold.limits["hub"]), s.hold.pins["hub"]
		s.hold.mu.Unlock()
		if pinned != 1 || slices.Contains(limits, 0) {
			t.Errorf("the queue is open %d times, and %v go at a time", pinned, limits)
		}
		lives.Store(true)
		s.call("hub")
		s.check(s.results(2)[1], 0, "")
	})
}

// The line lives, and whoever takes the mail does not: what goes there does not hold
// the line, nor does it take the place of something else.
func TestDeadDestination(t *testing.T) {
	stray := pushing(0)
	stray.Local, stray.Stray = netip.MustParseAddrPort("203.0.113.9:40000"), true
	for _, c := range []struct {
		name string
		gone socket.Connection
		ago  time.Duration // before the line came up
		also []socket.Connection
		exit int
	}{
		{"a host", pushing(0), 0, nil, api.ExitTempFail},
		{"an earlier line", pushing(0), 2 * time.Minute, nil, api.ExitTempFail},
		{"an earlier line, by another address", stray, 2 * time.Minute, nil, api.ExitTempFail},
		{"and something goes", pushing(0), 0, []socket.Connection{pushing(sec)}, 0},
		{"and something is awaited", pushing(0), 0, []socket.Connection{sending(2 * time.Minute)}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly })), func(s *site) {
				began := time.Now()
				s.net.listen(func() ([]socket.Connection, error) {
					gone := c.gone
					gone.Heard, gone.Asking = c.ago+time.Since(began), true
					return append([]socket.Connection{receiving(0), gone}, c.also...), nil
				})
				s.hold.each = 10 * time.Minute
				s.hold.add("hub", 1)
				s.up()
				time.Sleep(2 * pulseLook)
				s.hold.mu.Lock()
				limits := slices.Clone(s.hold.limits["hub"])
				s.hold.mu.Unlock()
				want := 1 // which shows what the line carries
				if c.ago > 0 {
					want++
				}
				if !slices.Equal(limits, []int{want}) {
					t.Errorf("%v go at a time, want %d", limits, want)
				}
				says := ""
				if c.exit != 0 {
					says = "1 message could not be sent: nobody answers any more on the connections"
				}
				r := s.result(c.exit, says)
				if most := max(socket.Dead-c.ago, stillMax) + 3*pulseLook; c.exit != 0 && time.Duration(r.Line) > most {
					t.Errorf("the line was held for %v, want %v", time.Duration(r.Line), most)
				}
				s.commands(0, 1)
			})
		})
	}
}
