package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/report"
)

// reports tells of a session of the hub, one word a report: "open", "mail",
// "message", "abort", "close"; "to:N" is a message to N recipients, "again" one that
// has come before, and anything else the refusal of a recipient, "DOMAIN STATUS TEXT".
func (s *site) reports(session string, what ...string) {
	for i, w := range what {
		e := report.Event{Kind: report.Kind(w), Reporter: "m", Session: session, Client: hubAddr, Size: 1000}
		var to int
		switch domain, reply, refused := strings.Cut(w, " "); {
		case refused:
			e.Kind, e.Domain, e.Reply = report.Refused, domain, reply
		case w == "again":
			e.Kind, e.QueueID, e.Digest = report.Message, fmt.Sprint(session, i), "same"
		case w == "message":
			e.QueueID = fmt.Sprint(session, i)
		default:
			if _, err := fmt.Sscanf(w, "to:%d", &to); err == nil {
				e.Kind, e.To, e.QueueID = report.Message, to, fmt.Sprint(session, i)
			}
		}
		s.inbound.Handle(e)
	}
}

const (
	noRelay  = "5.7.1 Relay access denied"
	notYet   = "4.7.1 Relay access denied"
	greylist = "4.2.0 Recipient address rejected: Greylisted"
	unknown  = "5.1.1 Recipient address rejected: User unknown in virtual mailbox table"
)

// Mail that the local mail server refuses is waited for no further, and the call
// says what it was: there is nothing that the line could be of use for.
func TestRefusedOverOthers(t *testing.T) {
	for _, c := range []struct {
		name    string
		request []string
		replies []string
		mail    func(s *site)
		held    time.Duration // the line, after the last sign of life
		exit    int
		says    string
		refused *api.Refused
		in      int
	}{
		{
			"all of it, for good", []string{"a.example"}, []string{"253 OK, 2 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "a.example "+noRelay, "abort", "mail", "a.example "+noRelay, "abort", "close")
			}, 500 * ms, 69, `the local mail server refused mail of hub for a.example: "5.7.1 Relay access denied"; 0 of 2 messages have come, 2 refused here`,
			&api.Refused{Messages: 2, Reply: noRelay, Domains: []string{"a.example"}}, 0,
		},
		{
			"all of it, and nobody counts", []string{"a.example"}, []string{"250 OK"},
			func(s *site) { s.reports("A", "open", "mail", "a.example "+notYet, "abort", "close") },
			5 * sec, 69, `refused mail of hub for a.example: "4.7.1 Relay`, &api.Refused{Messages: 1, Reply: notYet, Domains: []string{"a.example"}}, 0,
		},
		{
			"the session stays open after a RSET that the MTA keeps to itself", []string{"a.example"}, []string{"253 OK, 1 pending messages"},
			func(s *site) { s.reports("A", "open", "mail", "a.example "+noRelay) },
			2 * sec, 69, "refused mail of hub", &api.Refused{Messages: 1, Reply: noRelay, Domains: []string{"a.example"}}, 0,
		},
		{
			// The rest would be refused too, and what is refused for good is lost to
			// its recipients.
			"three of many: the line is not used for the rest", []string{"a.example"}, []string{"253 OK, 500 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "a.example "+noRelay, "abort", "mail", "a.example "+noRelay, "abort", "mail", "a.example "+noRelay, "abort", "mail")
			}, 0, 69, "0 of 500 messages have come, 3 refused here", &api.Refused{Messages: 3, Reply: noRelay, Domains: []string{"a.example"}}, 0,
		},
		{
			"three, but another one is coming in", []string{"a.example", "b.example"}, []string{"253 OK, 3 pending messages", "253 OK, 1 pending messages"},
			func(s *site) {
				s.reports("B", "open", "mail")
				s.reports("A", "open", "mail", "a.example "+noRelay, "abort", "mail", "a.example "+noRelay, "abort", "mail", "a.example "+noRelay, "abort", "close")
				time.Sleep(time.Minute)
				s.reports("B", "message", "close")
			}, 500 * ms, 69, `for a.example (asked for as a.example): "5.7.1 Relay access denied"; 1 of 4 messages have come, 3 refused here`,
			&api.Refused{Messages: 3, Reply: noRelay, Domains: []string{"a.example"}}, 1,
		},
		{
			"that of one of two names", []string{"@a.example", "b.example"}, []string{"253 OK, 1 pending messages", "253 OK, 1 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "x.a.example "+noRelay, "abort", "mail", "message", "close")
			}, 500 * ms, 69, `for x.a.example (asked for as @a.example): "5.7.1`, &api.Refused{Messages: 1, Reply: noRelay, Domains: []string{"x.a.example"}}, 1,
		},
		{
			"unknown recipients: their senders hear of it", []string{"a.example"}, []string{"253 OK, 4 pending messages"},
			func(s *site) {
				for range 4 {
					s.reports("A", "open", "mail", "a.example "+unknown, "abort")
				}
				s.reports("A", "close")
			}, 500 * ms, 0, "", &api.Refused{Messages: 4, Reply: unknown, Domains: []string{"a.example"}}, 0,
		},
		{
			"one of several, and the remote keeps its connection", []string{"a.example"}, []string{"253 OK, 2 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "a.example "+unknown, "abort", "mail", "message")
			}, 2 * sec, 0, "", &api.Refused{Messages: 1, Reply: unknown, Domains: []string{"a.example"}}, 1,
		},
		{
			"for a time only", []string{"a.example"}, []string{"253 OK, 2 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "message", "mail", "a.example "+greylist, "abort", "close")
			}, 5 * sec, 75, `"4.2.0 Recipient address rejected: Greylisted"; 1 of 2 messages have come, 1 refused here`, &api.Refused{Messages: 1, Reply: greylist, Domains: []string{"a.example"}}, 1,
		},
		{
			"some recipients of a message, before and after those that are taken", []string{"a.example"}, []string{"253 OK, 1 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "a.example "+unknown, "a.example "+unknown, "mail", "message", "close")
			}, 500 * ms, 0, "", &api.Refused{Recipients: 2, Reply: unknown, Domains: []string{"a.example"}}, 1,
		},
		{
			"some recipients, and the message is a long one", []string{"a.example"}, []string{"253 OK, 1 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "a.example "+noRelay, "mail")
				time.Sleep(10 * time.Minute)
				s.reports("A", "message", "close")
			}, 500 * ms, 69, "1 of 1 message has come, 1 recipient refused here", &api.Refused{Recipients: 1, Reply: noRelay, Domains: []string{"a.example"}}, 1,
		},
		{
			"some at the end of a message, where it is not seen: the hub has none left", []string{"a.example"}, []string{"253 OK, 4 pending messages", "251 OK, no messages waiting"},
			func(s *site) {
				s.reports("A", "open", "mail", "message", "mail", "abort", "mail", "abort", "mail", "abort", "close")
			}, 5 * sec, 75, "of 4 messages that hub announced 1 came; 3 came to nothing here, and it has no more", nil, 1,
		},
		{
			"one at its end, where it is not seen, and nobody counts", []string{"a.example"}, []string{"250 OK"},
			func(s *site) { s.reports("A", "open", "mail", "message", "mail", "abort", "close") },
			5 * sec, 75, "at the end 1 message of hub came to nothing here; 1 message has come", nil, 1,
		},
		{
			"a message that was broken off, and came then", []string{"a.example"}, []string{"253 OK, 1 pending messages"},
			func(s *site) {
				s.reports("A", "open", "mail", "close")
				s.reports("B", "open", "mail", "message", "close")
			}, 500 * ms, 0, "", nil, 1,
		},
		{
			"a stranger's: that happens every day", []string{"a.example"}, []string{"253 OK, 1 pending messages"},
			func(s *site) {
				for range 5 {
					s.inbound.Handle(report.Event{Kind: report.Refused, Reporter: "m", Session: "X", Client: netip.MustParseAddr("198.51.100.66"), Local: netip.MustParseAddrPort("192.0.2.2:25"), Reply: noRelay})
				}
				s.reports("A", "open", "mail", "message", "close")
			}, 500 * ms, 0, "", nil, 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType, r.Request = config.PullOnly, c.request })), func(s *site) {
				s.hubSays(c.replies...)
				s.up()
				time.Sleep(ms)
				c.mail(s)
				last := time.Now()
				r := s.result(c.exit, c.says)
				s.took("the line was held", s.hungUpAt().Sub(last), c.held)
				if !reflect.DeepEqual(r.Refused, c.refused) || r.In.Messages != c.in {
					t.Errorf("refused %+v, in %+v; want %+v, %d", r.Refused, r.In, c.refused, c.in)
				}
				if c.exit == 69 && !strings.Contains(r.Hint, "mydestination") || strings.Contains(r.Hint, "stays held") && strings.HasPrefix(r.Refused.Reply, "5") {
					t.Errorf("the hint is %q", r.Hint)
				}
			})
		})
	}
}

// What the local mail server is known to refuse is not asked for, the line is not
// dialled for it alone, and the result names it.
func TestNotAskedFor(t *testing.T) {
	refuses := func(closed ...string) options {
		return func(s *site, o *Options) {
			o.Refuses = func(_ context.Context, domain string, from []netip.Prefix) (bool, error) {
				s.unlocked()
				if strings.HasPrefix(domain, "broken.") {
					return true, errors.New("no postmap")
				}
				return slices.Contains(closed, domain) && (len(from) > 0 || domain == "certain.example"), nil
			}
		}
	}
	for _, c := range []struct {
		name    string
		request []string
		router  config.RouterType
		host    string
		asked   []string
		dials   int
		exit    int
		says    string
		hint    string
	}{
		{"all of it, which only fetches", []string{"a.example", "b.example"}, config.PullOnly, "192.0.2.1", nil, 0, 69, "refuses mail for a.example, b.example: the domains are neither", "the line was not dialled"},
		{"all of it, and something is to go", []string{"a.example"}, config.PullPush, "192.0.2.1", nil, 1, 69, "refuses mail for a.example: the domain is neither", "nothing was requested"},
		{"some of it", []string{"@a.example", "a.example", "c.example", "#a.example", "@b.example", "broken.example"}, config.PullPush, "192.0.2.1", []string{"c.example", "#a.example", "@b.example", "broken.example"}, 1, 69, "refuses mail for a.example: the domain is neither", "mydestination"},
		{"all of it, which shows only when the remote's address is known", []string{"a.example"}, config.PullOnly, "hub.example", nil, 1, 69, "refuses mail for a.example", "nothing was requested"},
		{"whoever brings it", []string{"certain.example"}, config.PullOnly, "hub.example", nil, 0, 69, "refuses mail for certain.example", "the line was not dialled"},
		{"none of it", []string{"c.example"}, config.PullOnly, "192.0.2.1", []string{"c.example"}, 1, 0, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType, r.Request, r.Host = c.router, c.request, c.host })), func(s *site) {
				var asked []string
				s.net.host(c.host+":366", func(conn net.Conn) {
					smtp(conn, "250 hub.example", func(line string) string {
						asked = append(asked, strings.TrimPrefix(line, "ETRN "))
						return "251 OK, no messages waiting"
					})
				})
				s.hold.add("hub", 2)
				s.call("hub")
				r := s.result(c.exit, c.says)
				var unasked []string
				for _, name := range c.request {
					if !slices.Contains(c.asked, name) {
						unasked = append(unasked, name)
					}
				}
				if c.dials == 0 {
					unasked = nil // there was no call in which it could have been
				}
				if !slices.Equal(asked, c.asked) || !slices.Equal(r.Unasked, unasked) || !strings.Contains(r.Hint, c.hint) {
					t.Errorf("asked %q; result %+v", asked, r)
				}
				if pushes := c.router == config.PullPush; pushes != (r.Out.Messages == 2) {
					t.Errorf("out: %+v", r.Out)
				}
				s.commands(c.dials, c.dials)
			}, refuses("a.example", "b.example", "certain.example"))
		})
	}
}

// A call that has to ask again does not begin to wait anew with each question, nor
// with each sign that it tries in vain: wait is how long nothing has come.
func TestWaitIsBounded(t *testing.T) {
	for _, c := range []struct {
		name  string
		reply string
		mail  func(s *site, n int) // behind the n-th question
		line  time.Duration
		says  string
	}{
		{"it connects, and no message is taken", "253 OK, 2 pending messages", func(s *site, n int) { s.reports(fmt.Sprint(n), "open", "mail", "abort", "close") }, 2 * time.Minute, "0 of 2 messages have come"},
		{"it sends the same message again and again", "253 OK, 2 pending messages", func(s *site, n int) { s.reports(fmt.Sprint(n), "open", "mail", "again", "close") }, 2 * time.Minute, "have come"},
		{"half a message each time: while it is coming in the time stands still", "253 OK, 2 pending messages", func(s *site, n int) {
			s.reports(fmt.Sprint(n), "open", "mail")
			time.Sleep(20 * sec)
			s.reports(fmt.Sprint(n), "abort", "close")
		}, 2*time.Minute + 3*20*sec, "0 of 2 messages have come"},
		{"one message after the other that comes to nothing, without a count", "250 OK", func(s *site, n int) {
			for i := range 1000 {
				s.reports(fmt.Sprint(n, i), "open", "mail")
				time.Sleep(400 * ms)
				s.reports(fmt.Sprint(n, i), "abort", "close")
				time.Sleep(100 * ms)
			}
		}, 2*time.Minute + sec, "begins messages, and none of them is taken whole"},
		{"one message with each question: something comes", "253 OK, 9 pending messages", func(s *site, n int) {
			if n <= 4 {
				s.reports(fmt.Sprint(n), "open", "mail", "message", "close")
			}
		}, 2*time.Minute + 30*sec, "have come, and no more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PullOnly })), func(s *site) {
				n := 0
				s.net.host("192.0.2.1:366", func(conn net.Conn) {
					smtp(conn, "250 hub.example", func(string) string {
						n++
						n := n
						s.hold.sending.Go(func() { time.Sleep(ms); c.mail(s, n) })
						return c.reply
					})
				})
				s.up()
				r := s.result(75, c.says)
				if line := time.Duration(r.Line); line < c.line-sec || line > c.line+sec {
					t.Errorf("the line was up for %v with %d questions, want %v", line, n, c.line)
				}
			})
		})
	}
}

// Hubs that answer oddly: the line is neither hung up while their mail is on its
// way, nor kept for mail that there is not.
func TestOddAnswers(t *testing.T) {
	foreign := func(s *site, answer func(string) string) {
		s.net.host("192.0.2.1:366", func(c net.Conn) {
			fmt.Fprint(c, "220 hub.example ESMTP\r\n")
			buf := make([]byte, 512)
			for {
				n, err := c.Read(buf)
				if err != nil || strings.HasPrefix(string(buf[:n]), "QUIT") {
					return
				}
				if line := string(buf[:n]); strings.HasPrefix(line, "EHLO") {
					fmt.Fprint(c, "250-hub.example\r\n250 ETRN\r\n")
				} else {
					fmt.Fprint(c, answer(line)+"\r\n")
				}
			}
		})
	}
	for _, c := range []struct {
		name     string
		replies  []string
		mail     func(s *site, n int) // behind the n-th question
		line     time.Duration
		in       int
		expected int
	}{
		{"250, and nothing comes: its mail is for others", []string{"250 OK, queuing started"}, nil, 2 * time.Minute, 0, -1},
		{"251, and nothing comes", []string{"251 OK, no messages waiting"}, nil, sec, 0, 0},
		{"251, and a message comes in the same second", []string{"251 OK, no messages waiting"}, func(s *site, n int) {
			if n == 1 {
				time.Sleep(900 * ms)
				s.reports("A", "open", "mail")
				time.Sleep(10 * sec)
				s.reports("A", "message", "close")
			}
		}, 12*sec + 400*ms, 1, 1},
		{"251, and a session is open: it is about to begin", []string{"251 OK, no messages waiting"}, func(s *site, n int) {
			if n == 1 {
				s.reports("A", "open")
				time.Sleep(1900 * ms)
				s.reports("A", "mail", "message", "close")
			}
		}, 3400 * ms, 1, 1},
		{"253, which counts recipients, and then 250", []string{"253 OK, 5 pending", "250 OK, queuing started"}, func(s *site, n int) {
			if n == 1 {
				s.reports("A", "open", "mail", "to:5", "close")
			}
		}, 10 * sec, 1, 1},
		{"253, which counts recipients, and then 251", []string{"253 OK, 5 pending", "251 OK, no messages waiting"}, func(s *site, n int) {
			if n == 1 {
				s.reports("A", "open", "mail", "to:5", "close")
			}
		}, 6 * sec, 1, 1},
		{"253, which counts messages, and the first of them has five recipients", []string{"253 OK, 5 pending", "253 OK, 4 pending", "251 OK, no messages waiting"}, func(s *site, n int) {
			switch n {
			case 1:
				s.reports("A", "open", "mail", "to:5", "close")
			case 2:
				time.Sleep(4 * sec)
				s.reports("B", "open", "mail", "to:1", "mail", "to:1", "mail", "to:1", "mail", "to:1", "close")
			}
		}, 9*sec + 500*ms, 5, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.RouterType = config.PullOnly })), func(s *site) {
				next, n := oneByOne(c.replies), 0
				foreign(s, func(line string) string {
					n++
					n := n
					if c.mail != nil {
						s.hold.sending.Go(func() { time.Sleep(ms); c.mail(s, n) })
					}
					return next(line)
				})
				s.up()
				r := s.result(0, "")
				if line := time.Duration(r.Line); line < c.line || line > c.line+300*ms {
					t.Errorf("the line was up for %v, want %v", line, c.line)
				}
				if r.In.Messages != c.in || r.In.Expected != c.expected {
					t.Errorf("in %+v, want %d of %d", r.In, c.in, c.expected)
				}
			})
		})
	}
}
