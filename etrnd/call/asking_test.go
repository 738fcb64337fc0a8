package call

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/report"
)

// slowly answers like smtp does, with a pause before each reply.
func slowly(pause time.Duration, ehlo, answer string) func(net.Conn) {
	return func(c net.Conn) {
		fmt.Fprint(c, hubGreeting)
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			line := string(buf[:n])
			if strings.HasPrefix(line, "QUIT") {
				return
			}
			time.Sleep(pause)
			switch {
			case strings.HasPrefix(line, "EHLO"):
				fmt.Fprint(c, ehlo)
			default:
				fmt.Fprint(c, answer+"\r\n")
			}
		}
	}
}

// The remote is asked first. What goes out waits for its answer, but not for one
// that does not come, and nothing of it is lost when the remote cannot be asked.
func TestOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		router config.RouterType
		hub    func(net.Conn)
		begins time.Duration // the push
		exit   int
	}{
		{"the answer takes its time", config.PullPush, slowly(10*sec, "250 hub.example\r\n", "251 OK, no messages waiting"), 40 * sec, 0},
		{"no answer", config.PullPush, func(c net.Conn) { io.Copy(io.Discard, c) }, 30 * sec, 75},
		{"one answer after the other, for too long", config.PullPush, slowly(25*sec, "250 hub.example\r\n", "250 OK"), time.Minute, 75},
		{"refused", config.PullPush, slowly(sec, "250 hub.example\r\n", "459 no"), 4 * sec, 69},
		{"nobody is asked", config.PushOnly, nil, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = c.router; r.Request = []string{"#a", "#b", "#c"} })), func(s *site) {
				if c.hub != nil {
					s.net.host("192.0.2.1:366", c.hub)
				}
				s.hold.add("hub", 3)
				start := time.Now()
				s.up()
				for s.hold.pinned("hub") == 0 {
					time.Sleep(10 * ms)
				}
				s.took("the beginning of the push", time.Since(start), c.begins)
				r := s.results(1)[0]
				time.Sleep(time.Minute) // whoever plays the hub comes to an end
				if r.Exit != c.exit || r.Out.Messages != 3 || r.Line < api.Seconds(c.begins) {
					t.Errorf("result %+v", r)
				}
			})
		})
	}
}

// ATRN may take ten minutes to be answered (RFC 2645): what goes out does not wait
// for that.
func TestPushWhileATRNIsAnswered(t *testing.T) {
	inBubble(t, oneLink(atrnRemote(func(r *config.Remote) { r.RouterType = config.PullPush })), func(s *site) {
		s.net.host("192.0.2.1:366", func(c net.Conn) {
			smtp(c, "250-hub.example\r\n250 ATRN", func(string) string { time.Sleep(9 * time.Minute); return "453 You have no mail" })
		})
		s.hold.add("hub", 3)
		start := time.Now()
		s.up()
		for s.hold.pinned("hub") == 0 {
			time.Sleep(10 * ms)
		}
		s.took("the beginning of the push", time.Since(start), time.Minute)
		if got := s.hold.limit("hub"); got != 1 {
			t.Errorf("%d messages at a time beside the dialogue", got)
		}
		s.result(0, "")
		if got := s.hold.limit("hub"); got != 0 {
			t.Errorf("limited after the end: %d", got)
		}
	})
}

// limit is how many messages of a queue may go at a time; 0: no limit.
func (h *fakeHold) limit(q string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.limits[q]) == 0 {
		return 0
	}
	return slices.Min(h.limits[q])
}

// What the line has shown to carry decides how many messages go at a time, in
// this call and in the next one, which may ask nobody.
func TestPushFitsTheLine(t *testing.T) {
	long := "250-hub.example\r\n250-" + string(bytes.Repeat([]byte("x"), 300)) + "\r\n250 ETRN\r\n"
	for _, c := range []struct {
		name  string
		pause time.Duration // before each reply
		bytes int64         // of each message, one every 10 ms
		want  int
	}{
		{"300 bytes a second", sec, 0, 1},
		{"a modem", 60 * ms, 0, 5},
		{"fast", ms, 0, 0},
		{"a server that thinks, and a line that carries more", sec, 40000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
				s.net.host("192.0.2.1:366", slowly(c.pause, long, "251 OK, no messages waiting"))
				s.hold.each = sec
				s.hold.size = c.bytes
				s.hold.add("hub", 5)
				s.call("hub")
				for s.hold.pinned("hub") == 0 {
					time.Sleep(10 * ms)
				}
				time.Sleep(4 * sec)
				if got := s.hold.limit("hub"); got != c.want {
					t.Errorf("%d messages at a time, want %d", got, c.want)
				}
				s.results(1)
				s.state(api.LinkDown)
				s.SetConfig(oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly })))
				s.hold.add("hub", 3)
				s.call("hub")
				for s.hold.pinned("hub") == 0 {
					time.Sleep(10 * ms)
				}
				if got := s.hold.limit("hub"); got != c.want {
					t.Errorf("in the next call %d messages at a time, want %d", got, c.want)
				}
			})
		})
	}
}

// A line that stays up is measured anew by each call.
func TestLineBecomesThin(t *testing.T) {
	cfg := oneLink(remote("hub", nil))
	cfg.Links[0].HangUp = nil
	long := "250-hub.example\r\n250-" + strings.Repeat("x", 300) + "\r\n250 ETRN\r\n"
	inBubble(t, cfg, func(s *site) {
		for i, c := range []struct {
			pause time.Duration
			want  int
		}{{ms, 0}, {sec, 1}, {60 * ms, 5}} {
			s.net.host("192.0.2.1:366", slowly(c.pause, long, "251 OK, no messages waiting"))
			s.call("hub")
			s.results(i + 1)
			if got := s.hold.limit("hub"); got != c.want {
				t.Errorf("call %d: %d messages at a time, want %d", i+1, got, c.want)
			}
		}
	})
}

// Two remotes on one line: one that is only pushed to begins at once, but leaves
// room for the dialogue with the other.
func TestPushBesideADialogue(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil), remote("other", func(r *config.Remote) { r.RouterType = config.PushOnly })), func(s *site) {
		s.net.host("192.0.2.1:366", slowly(5*sec, "250 hub.example\r\n", "251 OK, no messages waiting"))
		s.hold.each, s.hold.size = 10*sec, 400_000
		s.hold.add("other", 5)
		s.up()
		time.Sleep(sec)
		if s.hold.pinned("other") == 0 || s.hold.limit("other") != 1 {
			t.Errorf("pinned %d times, %d at a time", s.hold.pinned("other"), s.hold.limit("other"))
		}
		time.Sleep(10 * sec)
		if got := s.hold.limit("other"); got != 0 {
			t.Errorf("after the dialogue still %d at a time", got)
		}
		s.results(2)
	})
}

// A line is not dialled, or kept, for a local mail server that is not there.
func TestNoLineWithoutMTA(t *testing.T) {
	refuse := func(s *site) { s.net.host("127.0.0.1:25", func(c net.Conn) { fmt.Fprint(c, "421 not yet\r\n") }) }
	t.Run("dialled", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			refuse(s)
			start := time.Now()
			s.call("hub")
			r := s.result(75, "the local SMTP listener 127.0.0.1:25 does not answer")
			if !strings.Contains(r.Hint, "the line was not dialled") || r.Line != 0 {
				t.Errorf("result %+v", r)
			}
			s.took("the call", time.Since(start), mtaGrace)
			s.commands(0, 0)
		})
	})
	t.Run("pushed to only", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly })), func(s *site) {
			refuse(s)
			s.call("hub")
			s.result(0, "")
			s.commands(1, 1)
		})
	})
	// The hook has fired: the line is hung up at once.
	t.Run("up", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			refuse(s)
			s.up()
			r := s.result(75, "the local SMTP listener 127.0.0.1:25 does not answer")
			s.took("the call", time.Duration(r.Line), mtaGrace)
			s.commands(0, 1)
		})
	})
	// Nothing hangs up: etrnd calls again when the mail server is there.
	t.Run("stays up", func(t *testing.T) {
		cfg := oneLink(remote("hub", nil))
		cfg.Links[0].HangUp = nil
		inBubble(t, cfg, func(s *site) {
			refuse(s)
			s.hubSays("251 OK, no messages waiting")
			s.up()
			s.result(75, "does not answer")
			time.Sleep(time.Hour)
			if n := len(s.History(10)); n != 1 {
				t.Fatalf("%d calls while there is no mail server", n)
			}
			s.net.host("127.0.0.1:25", greet)
			s.check(s.results(2)[1], 0, "")
		})
	})
	t.Run("stays up, and goes down", func(t *testing.T) {
		cfg := oneLink(remote("hub", nil))
		cfg.Links[0].HangUp = nil
		inBubble(t, cfg, func(s *site) {
			refuse(s)
			s.up()
			s.result(75, "does not answer")
			s.down()
			s.net.host("127.0.0.1:25", greet)
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := len(s.History(10)); n != 1 {
				t.Errorf("%d calls", n)
			}
		})
	})
}

// door has the local mail server say beforehand what it thinks of mail.
func door(why receive.Refusal, all bool, err error) options {
	return func(_ *site, o *Options) {
		o.Door = func(context.Context, string, string, []string) (receive.Refusal, bool, error) { return why, all, err }
	}
}

// What the local mail server says before there is any mail.
func TestDoor(t *testing.T) {
	shut := receive.Refusal{Class: receive.Gate, Reply: "554 5.7.1 Client host rejected: Access denied"}
	once := func(context.Context, *site, *fakeReceiver, net.Conn) error { return nil }
	for _, c := range []struct {
		name     string
		protocol config.Protocol
		dials    bool
		door     options
		exit     int
		says     string
		dialled  int
		asked    bool
	}{
		{"open", config.ProtocolATRN, true, door(receive.Refusal{}, false, nil), 0, "", 1, true},
		{"shut", config.ProtocolATRN, false, door(shut, true, nil), 69, `the local mail server refuses the mail of hub: "554 5.7.1 Client host rejected: Access denied"`, 0, false},
		{"shut, and no line yet", config.ProtocolATRN, true, door(shut, true, nil), 69, "the local mail server refuses the mail of hub", 0, false},
		{"shut for some domains", config.ProtocolATRN, true, door(shut, false, nil), 69, "refuses mail of hub for some domains", 1, true},
		{"shut for this host itself, and the hub connects", config.ProtocolETRN, true, door(shut, true, nil), 0, "", 1, true},
		{"no room", config.ProtocolETRN, true, door(receive.Refusal{}, false, errors.New("452 no space")), 75, "takes no mail now: 452 no space", 0, false},
		{"no room, and the line is up", config.ProtocolETRN, false, door(receive.Refusal{}, false, errors.New("452 no space")), 75, "takes no mail now: 452 no space", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(atrnRemote(func(r *config.Remote) { r.Protocol = c.protocol })), func(s *site) {
				asked := false
				s.net.host("192.0.2.1:366", func(conn net.Conn) {
					smtp(conn, "250-hub.example\r\n250 ATRN", func(line string) string {
						asked = true
						if strings.HasPrefix(line, "ETRN") {
							return "251 OK, no messages waiting"
						}
						return "250 OK"
					})
				})
				if c.dials {
					s.call("hub")
				} else {
					s.up()
				}
				if r := s.result(c.exit, c.says); c.exit == 69 && !strings.Contains(r.Hint, "let it take mail for these domains from 127.0.3.66") {
					t.Errorf("the hint is %q", r.Hint)
				}
				synctest.Wait()
				if dials, _ := s.modem.ran(); dials != c.dialled || asked != c.asked {
					t.Errorf("dialled %d times, asked %t; want %d, %t", dials, asked, c.dialled, c.asked)
				}
			}, turning(once), c.door)
		})
	}
}

// What the local mail server refused is in the account and in the exit code, if
// somebody has to do something about it.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		why  receive.Refusal
		err  error
		exit int
		says string
	}{
		{"not now", receive.Refusal{Class: receive.Temporary, Reply: "452 4.3.1 Insufficient system storage"}, nil, 75, `the local mail server refused mail of hub: "452 4.3.1 Insufficient system storage"; 1 message has come, 6 refused here`},
		{"never, since it is not for here", receive.Refusal{Class: receive.Own, Reply: "450 4.7.1 Mail for this domain was not asked for in this session"}, nil, 69, `mail of hub that this site has not asked for was refused: "450 4.7.1 Mail`},
		{"never, for its form", receive.Refusal{Class: receive.Form, Reply: "450 4.1.3 Recipient address cannot be passed on"}, nil, 69, `mail of hub was refused for the form of an address or of the message: "450 4.1.3 Rec`},
		{"never, for all that comes", receive.Refusal{Class: receive.Gate, Reply: "550 Client host rejected"}, nil, 69, `"550 Client host rejected"`},
		{"never, and then it broke", receive.Refusal{Class: receive.Gate, Reply: "550 Client host rejected"}, receive.ErrClosed, 69, `"550 Client host rejected"`},
		{"the mail itself, which its senders hear of", receive.Refusal{Class: receive.Permanent, Reply: "550 5.1.1 unknown"}, nil, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(atrnRemote(nil)), func(s *site) {
				s.provider("250 OK", "453 You have no mail")
				s.up()
				r := s.result(c.exit, c.says)
				if toMend := strings.Contains(r.Hint, "let it take mail for these domains from 127.0.3.66"); toMend != (c.why.Class == receive.Gate) {
					t.Errorf("the hint is %q", r.Hint)
				}
				if want := (api.Refused{Messages: 6, Recipients: 0, Reply: c.why.Reply}); r.Refused == nil || !reflect.DeepEqual(*r.Refused, want) {
					t.Errorf("refused %+v, want %+v", r.Refused, want)
				}
			}, turning(func(_ context.Context, s *site, r *fakeReceiver, _ net.Conn) error {
				r.take("M1")
				r.mu.Lock()
				r.c.Refused, r.c.Why = 6, c.why
				r.mu.Unlock()
				time.Sleep(sec)
				if ev := s.Calls()[0]; ev.Refused == nil || ev.Refused.Messages != 6 {
					t.Errorf("meanwhile: %+v", ev)
				}
				return c.err
			}))
		})
	}
}

// A provider that ends the turned connection after each message is asked until it
// has no more; one that is known to send all that it has is not.
func TestOneMessageATurn(t *testing.T) {
	for _, c := range []struct {
		name    string
		ehlo    string
		has     int
		last    string // the answer when it has no more
		asked   int
		in      int
		expects int
		exit    int
		says    string
	}{
		{"three messages", "250-hub.example\r\n250 ATRN", 3, "453 You have no mail", 4, 3, 3, 0, ""},
		{"it does not say 453, but turns and has nothing", "250-hub.example\r\n250 ATRN", 3, "250 OK", 4, 3, 3, 0, ""},
		{"it wants to be asked less often", "250-hub.example\r\n250 ATRN", 1, "450 too often", 2, 1, 1, 0, ""},
		{"it cannot tell any more", "250-hub.example\r\n250 ATRN", 1, "451 not now", 2, 1, 1, 75, "451"},
		{"etrnd", "250-hub.example\r\n250-X-ETRN-AHEAD\r\n250 ATRN", 1, "453 You have no mail", 1, 1, 1, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			has, asked := c.has, 0
			inBubble(t, oneLink(atrnRemote(nil)), func(s *site) {
				s.net.host("192.0.2.1:366", func(conn net.Conn) {
					smtp(conn, c.ehlo, func(string) string {
						asked++
						if has == 0 {
							return c.last
						}
						return "250 OK"
					})
				})
				s.up()
				r := s.result(c.exit, c.says)
				if asked != c.asked || r.In.Messages != c.in || r.In.Expected != c.expects || r.In.Bytes != int64(c.in)*1000 {
					t.Errorf("asked %d times, in %+v; want %d times, %d of %d", asked, r.In, c.asked, c.in, c.expects)
				}
			}, turning(func(_ context.Context, _ *site, r *fakeReceiver, _ net.Conn) error {
				if has > 0 {
					has--
					r.take(fmt.Sprint("M", has))
				}
				time.Sleep(sec)
				return nil
			}))
		})
	}
}

// A message to a thousand in twenty parts, with gaps between them: the number of
// messages says nothing.
func TestParts(t *testing.T) {
	for _, c := range []struct {
		name    string
		replies []string
		gap     time.Duration
		held    time.Duration // after the last
	}{
		{"a hub that counts", []string{"253 OK, 1 pending messages", "458 already under way, 1 pending", "251 OK, no messages waiting"}, sec, 2*sec + 500*ms},
		{"one that does not", []string{"250 OK, queuing started"}, sec, 5 * sec},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PullOnly })), func(s *site) {
				s.hubSays(c.replies...)
				s.up()
				time.Sleep(10 * ms)
				for i := range 20 {
					id := fmt.Sprint("P", i)
					s.inbound.Handle(report.Event{Kind: report.Mail, Reporter: "m", Session: id, Client: hubAddr})
					s.inbound.Handle(report.Event{Kind: report.Message, Reporter: "m", Session: id, Client: hubAddr, QueueID: id, Size: 1000, Digest: id, Letter: "L", To: 50})
					s.inbound.Handle(report.Event{Kind: report.Close, Reporter: "m", Session: id, Client: hubAddr})
					if i < 19 {
						time.Sleep(c.gap)
					}
				}
				last := time.Now()
				r := s.result(0, "")
				if r.In.Messages != 1 || r.In.Bytes != 20000 {
					t.Errorf("in %+v", r.In)
				}
				if held := s.hungUpAt().Sub(last); held > c.held+200*ms {
					t.Errorf("the line was held for %v after the last part, want %v", held, c.held)
				}
			})
		})
	}
}

// Bytes are seen to move inside a message.
func TestBytesOfAMessage(t *testing.T) {
	inBubble(t, oneLink(atrnRemote(nil)), func(s *site) {
		s.provider("250 OK", "453 You have no mail")
		s.up()
		r := s.result(0, "")
		if r.In.Bytes != 1000 {
			t.Errorf("at the end: %+v", r.In)
		}
	}, turning(func(_ context.Context, s *site, r *fakeReceiver, _ net.Conn) error {
		r.mu.Lock()
		r.c.Busy, r.c.Coming = 1, 700
		r.mu.Unlock()
		r.Changed()
		time.Sleep(2 * sec)
		if ev := s.Calls()[0]; ev.In.Bytes != 700 || ev.In.Messages != 0 {
			t.Errorf("meanwhile: %+v", ev.In)
		}
		r.mu.Lock()
		r.c.Busy, r.c.Coming = 0, 0
		r.mu.Unlock()
		r.take("M1")
		return nil
	}))
}

// The names of calls sort by age and are not used again after a restart, whatever
// the clock says then.
func TestIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[string]bool{}
		for range 20 {
			d, last := newLedger(nil), ""
			for range 20 {
				id := d.newID()
				if id <= last || len(id) > 20 {
					t.Errorf("%q after %q", id, last)
				}
				last = id
				seen[id] = true
			}
		}
		// Two letters: of twenty restarts in one second some may have the same.
		if len(seen) < 300 {
			t.Errorf("%d names of 400 are different", len(seen))
		}
	})
}

// Whoever connects over the link and is none of the remote's addresses neither
// holds the line for as long as he likes, nor takes the place of the mail that the
// remote has announced.
func TestStrangersOverTheLink(t *testing.T) {
	stranger := func(s *site, kinds ...report.Kind) {
		for _, kind := range kinds {
			s.inbound.Handle(report.Event{Kind: kind, Reporter: "m", Session: "X", Client: netip.MustParseAddr("198.51.100.66"), Local: netip.MustParseAddrPort("192.0.2.2:25"), QueueID: "X1", Size: 1000})
		}
	}
	for _, c := range []struct {
		name    string
		replies []string
		mail    func(s *site)
		line    time.Duration
		in      int
		exit    int
		says    string
	}{
		{"a transaction that does not end, and a hub without mail", []string{"251 OK, no messages waiting"}, func(s *site) { stranger(s, report.Open, report.Mail) }, 0, 0, 0, ""},
		{"one beside the remote's mail", []string{"253 OK, 1 pending messages"}, func(s *site) {
			stranger(s, report.Open, report.Mail)
			time.Sleep(sec)
			s.mail("M1")
		}, sec + 500*ms, 1, 0, ""},
		{"one, and a hub that does not count", []string{"250 OK"}, func(s *site) { stranger(s, report.Open, report.Mail) }, 2 * time.Minute, 0, 0, ""},
		{"his message is not the one that was announced", []string{"253 OK, 1 pending messages", "458 already under way", "458 already under way", "253 OK, 1 pending messages"}, func(s *site) {
			stranger(s, report.Open, report.Mail, report.Message, report.Close)
			time.Sleep(20 * sec)
			s.mail("M1")
		}, 20*sec + 500*ms, 1, 0, ""},
		{"it is the remote, by another address", []string{"253 OK, 1 pending messages", "251 OK, no messages waiting"}, func(s *site) {
			stranger(s, report.Open, report.Mail, report.Message, report.Close)
		}, 500 * ms, 1, 0, ""},
		{"nothing else comes", []string{"253 OK, 2 pending messages"}, func(s *site) {
			stranger(s, report.Open, report.Mail, report.Message, report.Close)
		}, 2 * time.Minute, 1, 75, "1 of 2 messages have come"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PullOnly })), func(s *site) {
				s.hubSays(c.replies...)
				s.up()
				time.Sleep(ms)
				c.mail(s)
				r := s.result(c.exit, c.says)
				s.took("the line", time.Duration(r.Line), c.line)
				if r.In.Messages != c.in || c.exit != 0 && !strings.Contains(r.Hint, "198.51.100.66") {
					t.Errorf("result %+v", r)
				}
			})
		})
	}
}

// A remote that says that it has mail, and does not say how much, and sends none: that
// is not done.
func TestAnnouncedUncounted(t *testing.T) {
	for _, reply := range []string{"252 OK, pending messages for node site started", "253 OK, some pending messages for node site started"} {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			s.hubSays(reply)
			s.up()
			r := s.result(75, reply)
			s.took("the call", time.Duration(r.Line), 2*time.Minute)
		})
	}
}
