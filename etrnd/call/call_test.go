package call

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/report"
)

// How long the line is held after the last thing that happened on it. This is
// what a line costs, and the reason for all the rest.
func TestLineIsNotHeldLonger(t *testing.T) {
	pull := func(r *config.Remote) { r.RouterType = config.PullOnly }
	for _, c := range []struct {
		name    string
		remote  func(*config.Remote)
		replies []string
		before  func(s *site) // what is so before the link comes up
		mail    func(s *site) // that comes in; ends with the last sign of life
		held    time.Duration // the line, after that or after the link came up
		exit    int
		says    string
		in, out int
	}{
		{
			"200 messages, all announced", pull, []string{"253 OK, 200 pending messages"}, nil,
			func(s *site) {
				for i := range 200 {
					time.Sleep(50 * ms)
					s.mail(fmt.Sprintf("M%d", i))
				}
			}, 500 * ms, 0, "", 200, 0,
		},
		{
			"the last one's session stays open", pull, []string{"253 OK, 1 pending messages"}, nil,
			func(s *site) {
				s.session("A")
				s.tell("A", report.Mail, "")
				s.tell("A", report.Message, "M1")
			}, 2 * sec, 0, "", 1, 0,
		},
		{"nothing there, nothing here", nil, []string{"251 OK, no messages waiting"}, nil, nil, 0, 0, "", 0, 0},
		{"nothing there, five messages here", nil, []string{"251 OK, no messages waiting"}, func(s *site) { s.hold.add("hub", 5) }, nil, 50 * ms, 0, "", 0, 5},
		{"no count, and nothing comes", pull, []string{"250 OK, queuing started"}, nil, nil, 2 * time.Minute, 0, "", 0, 0},
		{"no count, and some comes", pull, []string{"250 OK, queuing started"}, nil, func(s *site) {
			time.Sleep(time.Minute)
			s.mail("M1")
			time.Sleep(3 * sec)
			s.mail("M2")
		}, 2 * 3 * sec, 0, "", 2, 0}, // twice the time between two messages
		{"announced, and nothing comes", pull, []string{"253 OK, 2 pending messages"}, nil, nil, 2 * time.Minute, 75, "0 of 2 messages have come, and no more within wait = 2m0s", 0, 0},
		{
			// It is asked again, after longer and longer times.
			"two announced, one comes, and the hub insists", pull, []string{"253 OK, 2 pending messages", "253 OK, 1 pending messages"}, nil,
			func(s *site) { time.Sleep(sec); s.mail("M1") },
			2 * time.Minute, 75, "1 of 2 messages have come, and no more", 1, 0,
		},
		{"two announced, one comes, and the hub finds that this was all", pull, []string{"253 OK, 2 pending messages", "251 OK, no messages waiting"}, nil, func(s *site) {
			time.Sleep(sec)
			s.mail("M1")
		}, 5 * sec, 0, "", 1, 0},
		{"no milter", pull, []string{"253 OK, 1 pending messages"}, func(s *site) {
			s.inbound.Handle(report.Event{Kind: report.Gone, Reporter: "m"})
		}, nil, 2 * time.Minute, 75, "nobody could see whether mail came", 0, 0},
		{"a message that takes an hour to come", func(r *config.Remote) { r.RouterType, r.Limit = config.PullOnly, 2*time.Hour }, []string{"253 OK, 1 pending messages"}, nil, func(s *site) {
			s.session("A")
			s.tell("A", report.Mail, "")
			time.Sleep(time.Hour)
			s.tell("A", report.Message, "M1")
			s.tell("A", report.Close, "")
		}, 500 * ms, 0, "", 1, 0},
		{"busy (458) from beginning to end", pull, []string{"458 Unable to queue messages"}, nil, nil, 2 * time.Minute, 75, "hub took no request for #site within wait = 2m0s: 458 Unable to queue messages", 0, 0},
		{"busy (458) for a moment", pull, []string{"458 asked too often", "458 asked too often", "251 OK, no messages waiting"}, nil, nil, 6 * sec, 0, "", 0, 0},
		{"push-wait, and the hub never asks", func(r *config.Remote) { r.RouterType = config.PushWait }, nil, func(s *site) { s.hold.add("hub", 2) }, nil, 2 * time.Minute, 75, "did not ask for the 2 messages", 0, 0},
		{"the limit of a call", func(r *config.Remote) { r.RouterType, r.Limit = config.PullOnly, time.Minute }, []string{"250 OK"}, nil, nil, time.Minute, 75, "the limit of 1m0s for one call was reached", 0, 0},
		{"nobody answers there", pull, nil, nil, nil, (1 + 2 + 4 + 8) * sec, 75, "connection refused", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", c.remote)), func(s *site) {
				if c.replies != nil {
					s.hubSays(c.replies...)
				}
				if c.before != nil {
					c.before(s)
				}
				s.up()
				last := time.Now()
				if c.mail != nil {
					time.Sleep(ms) // the dialogue
					c.mail(s)
					last = time.Now()
				}
				r := s.result(c.exit, c.says)
				s.took("the line was held", s.hungUpAt().Sub(last), c.held)
				if r.In.Messages != c.in || r.Out.Messages != c.out {
					t.Errorf("in %+v, out %+v; want %d, %d", r.In, r.Out, c.in, c.out)
				}
				s.state(api.LinkDown)
				s.commands(0, 1)
			})
		})
	}
}

// One error of two is that of the call, and what the other was is in the result.
func TestUnsent(t *testing.T) {
	inBubble(t, oneLink(remote("hub", func(*config.Remote) {})), func(s *site) {
		s.hold.reason = "host mail.hub.example said: 535 5.7.8 Error: authentication failed"
		s.hold.add("hub", 3)
		s.up() // nobody listens there
		r := s.result(75, "request to hub: connect")
		if r.Unsent == nil || r.Unsent.Messages != 3 || r.Unsent.Reason != s.hold.reason {
			t.Errorf("unsent: %+v", r.Unsent)
		}
	})
}

// What goes out holds the line until it has gone, or until it is plain that it
// does not go.
func TestPush(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(h *fakeHold)
		held  time.Duration
		exit  int
		says  string
		out   int
	}{
		{"a hundred messages of a second each", func(h *fakeHold) { h.each = sec }, 100 * sec, 0, "", 100},
		{"they fail", func(h *fakeHold) { h.reason = "host is gone" }, sec, 75, "100 messages could not be sent: host is gone", 0},
		{"nobody tries them", func(h *fakeHold) { h.each = 0 }, 30 * sec, 75, "100 messages held, not sent", 0},
		{"the queue cannot be listed", func(h *fakeHold) {
			h.listed = func() (time.Time, error) { return time.Time{}, errors.New("postqueue fails") }
		}, 10 * sec, 75, "the mail server's queue cannot be listed: postqueue fails", 100},
		{"the queue is listed late", func(h *fakeHold) {
			late := time.Now().Add(10 * sec)
			h.listed = func() (time.Time, error) {
				if time.Now().Before(late) {
					return time.Time{}, nil
				}
				return late, nil
			}
		}, 10 * sec, 0, "", 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly })), func(s *site) {
				c.setup(s.hold)
				s.hold.add("hub", 100)
				start := time.Now()
				s.up()
				r := s.result(c.exit, c.says)
				held := s.hungUpAt().Sub(start)
				if held < c.held || held > c.held+1100*ms {
					t.Errorf("the line was held for %v, want %v", held, c.held)
				}
				if r.Out.Messages != c.out {
					t.Errorf("out: %+v", r.Out)
				}
				if n := s.hold.pinned("hub"); n != 0 {
					t.Errorf("the queue is still open %d times", n)
				}
			})
		})
	}
}

// A call counts what has gone out in it, and not what went before.
func TestOutIsOfThisCall(t *testing.T) {
	inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PushOnly })), func(s *site) {
		for i, n := range []int{5, 2} {
			s.hold.add("hub", n)
			s.up()
			want := api.Progress{Messages: n, Bytes: int64(n) * 1000, Expected: n}
			if r := s.results(i + 1)[i]; r.Out != want {
				t.Errorf("call %d: out %+v, want %+v", i+1, r.Out, want)
			}
		}
	})
}

// The local mail server is waited for before anything is requested, and not
// for ever.
func TestLocalMTA(t *testing.T) {
	t.Run("comes up", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			start := time.Now()
			s.net.host("127.0.0.1:25", func(c net.Conn) {
				if time.Since(start) > 3*sec {
					greet(c)
				} else {
					fmt.Fprint(c, "421 not yet\r\n")
				}
			})
			s.hubSays("251 OK, no messages waiting")
			s.up()
			s.took("the call", time.Duration(s.result(0, "").Line), 3*sec+250*ms)
		})
	})
	t.Run("does not", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			s.net.host("127.0.0.1:25", func(c net.Conn) { io.Copy(io.Discard, c) })
			s.hubSays("253 OK, 1 pending messages")
			s.up()
			time.Sleep(10 * sec)
			if ev := s.Calls()[0]; ev.Phase != api.PhaseMTA || ev.Waiting != "the local SMTP listener 127.0.0.1:25 to answer" {
				t.Errorf("while it is waited for: %+v", ev)
			}
			r := s.result(75, "the local SMTP listener 127.0.0.1:25 does not answer")
			s.took("the call", time.Duration(r.Line), mtaGreeting)
			if len(r.Replies) != 0 {
				t.Errorf("the hub was asked: %+v", r.Replies)
			}
		})
	})
}

// A file of the configuration that cannot be read is said, and no connection
// is made without it.
func TestFilesOfTheRemote(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*config.Remote){
		"tls-ca: open":                     func(r *config.Remote) { r.TLSCA = filepath.Join(dir, "none") },
		"tls-ca: no certificate in":        func(r *config.Remote) { r.TLSCA = junk },
		"tls-cert: tls: failed to find":    func(r *config.Remote) { r.TLSCert, r.TLSKey = junk, junk },
		"password-file: open " + dir + "/": func(r *config.Remote) { r.User, r.PasswordFile = "u", filepath.Join(dir, "none") },
	} {
		t.Run(key, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", change)), func(s *site) {
				s.net.host("192.0.2.1:366", func(net.Conn) { t.Error("a connection was made") })
				s.up()
				s.result(78, "remote hub: "+key)
			})
		})
	}
}

// A panic ends one call, not the daemon, and the line is hung up.
func TestPanic(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.hold.looked = func() { panic("boom") }
		s.up()
		s.result(75, "internal error")
		s.commands(0, 1)
		s.hold.looked = nil
		s.up()
		s.check(s.results(2)[1], 0, "")
	})
}

// The replies are in the account of the call, once.
func TestReplies(t *testing.T) {
	inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.Request = []string{"#a", "b.example"} })), func(s *site) {
		s.hubSays("253 OK, 1 pending messages", "459 Node b.example not allowed", "253 OK, 0 pending messages", "459 no")
		s.up()
		time.Sleep(sec)
		s.session("A") // and brings nothing: the hub is asked again
		s.tell("A", report.Mail, "")
		s.tell("A", report.Abort, "")
		s.tell("A", report.Close, "")
		r := s.result(69, "hub refused 1 of 2 names: b.example: 459 Node b.example not allowed")
		if len(r.Replies) != 2 || r.Replies[0] != (api.Reply{Name: "#a", Code: 253, Text: "OK, 1 pending messages", Count: 1}) || r.Replies[1].Name != "b.example" {
			t.Errorf("replies: %+v", r.Replies)
		}
		if r.In.Expected != 0 {
			t.Errorf("expected after the second answer: %+v", r.In)
		}
		s.took("the call", time.Duration(r.Line), 6*sec)
	})
}

// provider answers ATRN, each time with the next reply.
func (s *site) provider(replies ...string) {
	next := oneByOne(replies)
	s.net.host("192.0.2.1:366", func(c net.Conn) { smtp(c, "250-hub.example\r\n250 ATRN", next) })
}

func atrnRemote(change func(*config.Remote)) config.Remote {
	return remote("hub", func(r *config.Remote) {
		r.Protocol, r.RouterType, r.Request = config.ProtocolATRN, config.PullOnly, []string{"site.example"}
		if change != nil {
			change(r)
		}
	})
}

// A turned connection is over when the remote says so, and its messages need no
// milter to be counted.
func TestATRN(t *testing.T) {
	type serve func(ctx context.Context, s *site, r *fakeReceiver, conn net.Conn) error
	three := func(ctx context.Context, s *site, r *fakeReceiver, _ net.Conn) error {
		for i := range 3 {
			time.Sleep(time.Minute)
			id := fmt.Sprintf("M%d", i)
			r.take(id)
			s.inbound.Handle(report.Event{Kind: report.Message, Reporter: "m", Session: "local", QueueID: id, Digest: "same"})
		}
		return nil
	}
	for _, c := range []struct {
		name   string
		reply  string
		serve  serve
		remote func(*config.Remote)
		held   time.Duration
		exit   int
		says   string
		in     int
		expect int
		twice  int
	}{
		{"three come, of which two came before", "250 OK", three, nil, 3 * time.Minute, 0, "", 3, 3, 2},
		{"nothing there", "453 You have no mail", nil, nil, 0, 0, "", 0, 0, 0},
		{"refused", "450 ATRN request refused", nil, nil, 0, 69, "450", 0, -1, 0},
		{"the milter does not tell of the last one", "250 OK", func(ctx context.Context, s *site, r *fakeReceiver, _ net.Conn) error {
			time.Sleep(sec)
			r.take("M1")
			return nil
		}, nil, sec + 500*ms, 0, "", 1, 1, 0},
		{"it breaks", "250 OK", func(ctx context.Context, s *site, r *fakeReceiver, _ net.Conn) error {
			time.Sleep(sec)
			r.take("M1")
			return receive.ErrClosed
		}, nil, sec, 75, "the mail of hub: the remote ended the connection without QUIT; 1 message has come", 1, -1, 0},
		{"it panics", "250 OK", func(context.Context, *site, *fakeReceiver, net.Conn) error { panic("boom") }, nil, 0, 75, "internal error: boom", 0, -1, 0},
		{"the limit, with a message in the local mail server's hands", "250 OK", func(ctx context.Context, s *site, r *fakeReceiver, _ net.Conn) error {
			<-ctx.Done()
			time.Sleep(sec)
			r.take("M1")
			return ctx.Err()
		}, func(r *config.Remote) { r.Limit = time.Minute }, time.Minute + sec, 75, "the limit of 1m0s", 1, -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(atrnRemote(c.remote)), func(s *site) {
				s.provider(c.reply, "453 You have no mail")
				s.up()
				r := s.result(c.exit, c.says)
				s.took("the call", time.Duration(r.Line), c.held)
				if r.In.Messages != c.in || r.In.Expected != c.expect || r.Duplicates != c.twice {
					t.Errorf("in %+v, %d duplicates; want %d of %d, %d", r.In, r.Duplicates, c.in, c.expect, c.twice)
				}
				if len(r.Replies) != 1 {
					t.Errorf("replies: %+v", r.Replies)
				}
			}, turning(c.serve))
		})
	}
}

// A line that drops and comes back: the provider takes the old connection for a
// living one for a while.
func TestATRNAfterABreak(t *testing.T) {
	served := 0
	inBubble(t, oneLink(atrnRemote(nil)), func(s *site) {
		s.provider("250 OK", "450 busy", "450 busy", "250 OK")
		s.up()
		time.Sleep(sec)
		s.down()
		s.check(s.results(1)[0], 75, "the link went down")
		s.up()
		r := s.results(2)[1]
		s.check(r, 0, "")
		s.took("the second call", time.Duration(r.Line), 2*staleRetry)
	}, turning(func(ctx context.Context, _ *site, _ *fakeReceiver, _ net.Conn) error {
		if served++; served == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}))
}

// A break that is long past explains no 450.
func TestATRNLongAfterABreak(t *testing.T) {
	inBubble(t, oneLink(atrnRemote(nil)), func(s *site) {
		s.provider("250 OK", "450 busy")
		s.up()
		s.result(75, "without QUIT")
		time.Sleep(staleFor + sec)
		s.up()
		r := s.results(2)[1]
		s.check(r, 69, "450")
		s.took("the second call", time.Duration(r.Line), 0)
	}, turning(func(context.Context, *site, *fakeReceiver, net.Conn) error { return receive.ErrClosed }))
}

// protocol = "auto" asks by ATRN where it is offered and there is a user, and
// else by ETRN on the same connection.
func TestAuto(t *testing.T) {
	for _, c := range []struct {
		name, ehlo, atrn string
		user             bool
		code             int
	}{
		{"offered", "250-hub.example\r\n250-AUTH CRAM-MD5\r\n250 ATRN", "453 no mail", true, 453},
		{"no user", "250-hub.example\r\n250 ATRN", "453 no mail", false, 251},
		{"not offered", "250-hub.example\r\n250 AUTH CRAM-MD5", "453 no mail", true, 251},
		{"offered by a liar", "250-hub.example\r\n250-AUTH CRAM-MD5\r\n250 ATRN", "502 what?", true, 251},
	} {
		t.Run(c.name, func(t *testing.T) {
			password := filepath.Join(t.TempDir(), "password")
			if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			inBubble(t, oneLink(atrnRemote(func(r *config.Remote) {
				r.Protocol = config.ProtocolAuto
				if c.user {
					r.User, r.PasswordFile, r.CRAMMD5 = "acme", password, true
				}
			})), func(s *site) {
				s.net.host("192.0.2.1:366", func(conn net.Conn) {
					smtp(conn, c.ehlo, func(line string) string {
						switch line {
						case "ATRN site.example":
							return c.atrn
						case "ETRN site.example":
							return "251 OK, no messages waiting"
						case "AUTH CRAM-MD5":
							return "334 PDFAaHViLmV4YW1wbGU+"
						}
						return "235 welcome"
					})
				})
				s.up()
				if r := s.result(0, ""); len(r.Replies) != 1 || r.Replies[0].Code != c.code {
					t.Errorf("replies: %+v", r.Replies)
				}
			})
		})
	}
}

// CRAM-MD5 is used where the configuration says so, whatever the protocol.
func TestCRAMMD5(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		protocol config.Protocol
		on       bool
	}{{config.ProtocolATRN, true}, {config.ProtocolATRN, false}, {config.ProtocolETRN, true}, {config.ProtocolETRN, false}} {
		inBubble(t, oneLink(atrnRemote(func(r *config.Remote) {
			r.Protocol, r.User, r.PasswordFile, r.CRAMMD5 = c.protocol, "acme", password, c.on
		})), func(s *site) {
			tried := false
			s.net.host("192.0.2.1:366", func(conn net.Conn) {
				smtp(conn, "250-hub.example\r\n250-AUTH CRAM-MD5\r\n250 ATRN", func(line string) string {
					switch {
					case line == "AUTH CRAM-MD5":
						tried = true
						return "334 PDFAaHViLmV4YW1wbGU+"
					case strings.HasPrefix(line, "ATRN"):
						return "453 You have no mail"
					case strings.HasPrefix(line, "ETRN"):
						return "251 OK, no messages waiting"
					}
					return "235 welcome"
				})
			})
			s.up()
			exit, says := 0, ""
			if !c.on {
				exit, says = 69, "the remote offers CRAM-MD5"
			}
			if r := s.result(exit, says); tried != c.on || !c.on && !strings.Contains(r.Hint, "cram-md5 = true") {
				t.Errorf("%s, %t: tried %t, hint %q", c.protocol, c.on, tried, r.Hint)
			}
		})
	}
}

// Whoever watches sees each phase once, the line go down, and the result.
func TestWatch(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("253 OK, 1 pending messages")
		s.modem.dial = func(context.Context) error { time.Sleep(5 * sec); s.modem.set("ppp0"); return nil }
		s.modem.hangUp = func() error { time.Sleep(5 * sec); s.modem.set(""); return nil }
		ref := s.call("hub")
		events, err := s.Watch(s.t.Context(), []string{ref.Call})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(8 * sec)
			s.mail("M1")
		}()
		var phases []api.Phase
		var last api.CallEvent
		for last = range events {
			if n := len(phases); n == 0 || phases[n-1] != last.Phase {
				phases = append(phases, last.Phase)
			}
			if last.Phase == api.PhaseHangingUp && last.Waiting != "link isp to go down" {
				t.Errorf("while it is hung up: %+v", last)
			}
		}
		if got, want := fmt.Sprint(phases), "[dialling receiving hanging-up done]"; got != want {
			t.Errorf("phases %s, want %s", got, want)
		}
		if last.Result == nil || last.Result.Exit != 0 || last.Result.In.Messages != 1 || last.Call != ref.Call {
			t.Errorf("the last event: %+v", last)
		}
		// It has ended: that is what those are told who come late.
		events, err = s.Watch(s.t.Context(), []string{ref.Call})
		if err != nil {
			t.Fatal(err)
		}
		if ev := <-events; ev.Result == nil || ev.Phase != api.PhaseDone {
			t.Errorf("of a call that has ended: %+v", ev)
		}
		if _, more := <-events; more {
			t.Error("there is more to tell of a call that has ended")
		}
		if _, err := s.Watch(s.t.Context(), []string{"nonsense"}); err == nil {
			t.Error("a call that nobody knows can be watched")
		}
	})
}

// Whoever stops watching is left alone.
func TestWatchEnds(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("250 OK")
		refs := s.up()
		ctx, cancel := context.WithCancel(s.t.Context())
		events, err := s.Watch(ctx, []string{refs[0].Call})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(sec)
		cancel()
		synctest.Wait()
		for range events {
		}
		if n := len(s.Calls()); n != 1 {
			t.Errorf("%d calls under way", n)
		}
	})
}

// The history has the latest call first and forgets the oldest.
func TestHistory(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		for range historyLength + 5 {
			s.up()
			for len(s.Calls()) > 0 {
				time.Sleep(ms)
			}
		}
		all := s.History(historyLength + 5)
		if len(all) != historyLength || all[0].Call <= all[1].Call {
			t.Errorf("%d calls, the first are %s and %s", len(all), all[0].Call, all[1].Call)
		}
		if two := s.History(2); len(two) != 2 || two[0].Call != all[0].Call {
			t.Errorf("the last two: %+v", two)
		}
	})
}

// Stillness begins anew whenever anything has changed.
func TestStillness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stillness
		push := pushSeen{listed: true, held: 2}
		check := func(sent int, want time.Duration) {
			t.Helper()
			if got := s.since(push, sent); got != want {
				t.Errorf("still for %v, want %v", got, want)
			}
		}
		check(0, 0)
		time.Sleep(sec)
		check(0, sec)
		check(1, 0) // one has gone, and another come
		time.Sleep(sec)
		check(1, sec)
		push.underWay = 1
		check(1, 0)
	})
}

// What is on hold is nobody's reason to wait.
func TestPushSeen(t *testing.T) {
	var p pushSeen
	p.add(hold.State{Messages: 5, OnHold: 2, UnderWay: 1, Failed: 1, Retry: 1, Reason: "lost"})
	p.add(hold.State{Messages: 1, Open: true})
	if want := (pushSeen{held: 4, onHold: 2, underWay: 1, failed: 1, retry: 1, reason: "lost", open: true}); p != want {
		t.Errorf("%+v, want %+v", p, want)
	}
}
