package call

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/report"
)

// byClient knows the hub by its address, and takes 192.0.2.7 for somebody who
// comes over the link.
func byClient(client, _ netip.Addr) likeness {
	switch client {
	case hubAddr:
		return certain
	case netip.MustParseAddr("192.0.2.7"):
		return likely
	}
	return foreign
}

// ev makes a report of the hub's session A; more changes it.
func ev(kind report.Kind, more ...func(*report.Event)) report.Event {
	e := report.Event{Kind: kind, Reporter: "m", Session: "A", Client: hubAddr}
	if kind == report.Message {
		e.QueueID, e.Size = "M1", 1000
	}
	for _, f := range more {
		f(&e)
	}
	return e
}

func from(addr string) func(*report.Event) {
	return func(e *report.Event) { e.Client = netip.MustParseAddr(addr) }
}

func session(name string) func(*report.Event) {
	return func(e *report.Event) { e.Session = name }
}

func reporter(name string) func(*report.Event) {
	return func(e *report.Event) { e.Reporter = name }
}

func midway(e *report.Event) { e.Transaction = true }

// What a call may know from the milter's reports.
func TestTally(t *testing.T) {
	ready := ev(report.Ready)
	for _, c := range []struct {
		name   string
		events []report.Event
		want   Counts // Active aside
		active bool
	}{
		{"no milter", nil, Counts{}, false},
		{"a milter that has not told all", []report.Event{ev(report.Hello)}, Counts{}, false},
		{"a milter", []report.Event{ev(report.Hello), ready}, Counts{Connected: true}, false},
		{"a session", []report.Event{ready, ev(report.Open)}, Counts{Connected: true, Open: 1, Any: true}, true},
		{"a message is coming", []report.Event{ready, ev(report.Open), ev(report.Mail)}, Counts{Connected: true, Open: 1, Busy: 1, Any: true}, true},
		{"it has come", []report.Event{ready, ev(report.Open), ev(report.Mail), ev(report.Message)}, Counts{Connected: true, Messages: 1, Seen: 1, Bytes: 1000, Open: 1, Any: true}, true},
		{"it was broken off", []report.Event{ready, ev(report.Open), ev(report.Mail), ev(report.Abort)}, Counts{Connected: true, Broken: 1, Vanished: 1, Open: 1, Any: true}, true},
		{"and the session is over", []report.Event{ready, ev(report.Open), ev(report.Mail), ev(report.Message), ev(report.Close)}, Counts{Connected: true, Messages: 1, Seen: 1, Bytes: 1000, Any: true}, true},
		{"two sessions", []report.Event{ready, ev(report.Mail), ev(report.Message), ev(report.Mail, session("B")), ev(report.Message, session("B"))}, Counts{Connected: true, Messages: 2, Seen: 2, Bytes: 2000, Open: 2, Any: true}, true},
		{"one that was in the middle of a message when the milter was found", []report.Event{ev(report.Open, midway), ready}, Counts{Connected: true, Open: 1, Busy: 1, Any: true}, true},
		{"a stranger", []report.Event{ready, ev(report.Open, from("198.51.100.1")), ev(report.Mail, from("198.51.100.1")), ev(report.Message, from("198.51.100.1"))}, Counts{Connected: true}, false},
		{"the hub by IPv4 in IPv6", []report.Event{ready, ev(report.Open, from("::ffff:192.0.2.1"))}, Counts{Connected: true, Open: 1, Any: true}, true},

		// Somebody who comes over the link, and may be anybody.
		{"he connects: it may be a port scan", []report.Event{ready, ev(report.Open, from("192.0.2.7"))}, Counts{Connected: true}, false},
		{"and leaves", []report.Event{ready, ev(report.Open, from("192.0.2.7")), ev(report.Close, from("192.0.2.7"))}, Counts{Connected: true}, false},
		{"he has mail", []report.Event{ready, ev(report.Open, from("192.0.2.7")), ev(report.Mail, from("192.0.2.7"))}, Counts{Connected: true, Open: 1, Busy: 1, LikelyBusy: 1, Any: true, Stranger: netip.MustParseAddr("192.0.2.7")}, true},
		{"he had mail, and stays", []report.Event{ready, ev(report.Mail, from("192.0.2.7")), ev(report.Message, from("192.0.2.7"))}, Counts{Connected: true, Messages: 1, Seen: 1, Likely: 1, Bytes: 1000, Open: 1, Any: true, Stranger: netip.MustParseAddr("192.0.2.7")}, true},
		{"he was in the middle of a message when the milter was found", []report.Event{ev(report.Open, from("192.0.2.7"), midway), ready}, Counts{Connected: true, Open: 1, Busy: 1, LikelyBusy: 1, Any: true}, false},

		// Milters come and go.
		{"the milter has died: the session may go on unseen", []report.Event{ready, ev(report.Open), ev(report.Gone)}, Counts{Blind: true, Any: true}, true},
		{"another one died before: nothing of it was the hub's", []report.Event{ready, ev(report.Open, from("198.51.100.1")), ev(report.Gone)}, Counts{}, false},
		{"the milter tells all anew", []report.Event{ready, ev(report.Open), ev(report.Hello), ready}, Counts{Connected: true, Any: true}, true},
		{"one of two milters has died", []report.Event{ready, ev(report.Ready, reporter("n")), ev(report.Open), ev(report.Gone, reporter("n"))}, Counts{Connected: true, Open: 1, Any: true}, true},
		{"a report of a kind that does not concern it", []report.Event{ready, ev(report.Lost)}, Counts{Connected: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := NewInbound()
			tally := in.Tally(byClient, time.Minute)
			for _, e := range c.events {
				in.Handle(e)
			}
			got := tally.Counts()
			if !got.Active.IsZero() != c.active {
				t.Errorf("a sign of life: %t, want %t", !got.Active.IsZero(), c.active)
			}
			if came := c.want.Messages > 0; !got.Came.IsZero() != came {
				t.Errorf("something came: %t, want %t", !got.Came.IsZero(), came)
			}
			got.Active, got.Came, got.Gap = time.Time{}, time.Time{}, 0
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v\nwant %+v", got, c.want)
			}
			tally.Close()
			in.Handle(ev(report.Message))
			if after := tally.Counts(); after.Messages != c.want.Messages {
				t.Error("it counts after its end")
			}
		})
	}
}

// The same message a second time is a duplicate, for two days.
func TestDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := NewInbound()
		digest := func(d, id string) func(*report.Event) {
			return func(e *report.Event) { e.Digest, e.QueueID = d, id }
		}
		in.Handle(ev(report.Message, digest("d1", "M1"), from("198.51.100.1"))) // before the call, by another way
		tally := in.Tally(byClient, time.Minute)
		in.Handle(ev(report.Message, digest("d1", "M2"), session("B")))
		in.Handle(ev(report.Message, digest("d2", "M3"), session("B")))
		in.Handle(ev(report.Message, digest("", "M4"), session("B"))) // without a Message-ID nobody can tell
		in.Handle(ev(report.Message, digest("", "M5"), session("B")))
		time.Sleep(seenFor)
		in.Handle(ev(report.Message, digest("d2", "M6"), session("B")))
		if c := tally.Counts(); c.Messages != 5 || c.Duplicates != 1 {
			t.Errorf("%d messages, %d duplicates; want 5, 1", c.Messages, c.Duplicates)
		}
		if n := tally.Again(func(id string) bool { return id == "M2" || id == "M6" }); n != 1 {
			t.Errorf("%d of them came again, want 1", n)
		}
		if n := tally.Again(func(string) bool { return false }); n != 0 {
			t.Errorf("%d of none came again", n)
		}
	})
}

// The memory for that is bounded: what is old goes first, and if nothing is, all.
func TestSeenIsBounded(t *testing.T) {
	var s seen
	now := time.Now()
	come := func(digest string, at time.Time) bool { return s.before(report.Event{Digest: digest}, at) }
	come("old", now)
	for i := range seenMax - 1 {
		come(fmt.Sprint(i), now.Add(seenFor))
	}
	if come("new", now.Add(seenFor+1)); len(s.at) != seenMax {
		t.Errorf("%d are remembered, want %d", len(s.at), seenMax)
	}
	if !come("7", now.Add(seenFor+1)) {
		t.Error("one of two days ago was forgotten")
	}
	come("newer", now.Add(seenFor+1))
	if len(s.at) > seenMax {
		t.Errorf("%d are remembered", len(s.at))
	}
}

// The latest messages are known by their names, those of long ago are not, and
// without a milter nobody can tell.
func TestSaw(t *testing.T) {
	in := NewInbound()
	tally := in.Tally(byClient, time.Minute)
	if !tally.Saw("M1") {
		t.Error("without a milter there is nothing to wait for")
	}
	in.Handle(ev(report.Ready))
	if tally.Saw("M1") {
		t.Error("it has not come")
	}
	in.Handle(ev(report.Message, from("198.51.100.1"))) // whoever sent it
	if !tally.Saw("M1") {
		t.Error("it has come")
	}
	for i := range len(tally.latest) {
		in.Handle(ev(report.Message, func(e *report.Event) { e.QueueID = fmt.Sprintf("N%d", i) }))
	}
	if tally.Saw("M1") || !tally.Saw("N0") {
		t.Error("the last hundred are known, and no others")
	}
}

// Sessions are followed up to a number, and a message beyond it is not counted.
func TestSessionsAreBounded(t *testing.T) {
	in := NewInbound()
	in.Handle(ev(report.Ready))
	for i := range maxSessions + 1 {
		in.Handle(ev(report.Open, session(fmt.Sprint(i))))
	}
	if _, _, n := in.Connected(); n != maxSessions {
		t.Errorf("%d sessions are followed, want %d", n, maxSessions)
	}
}

// Since when the milter reports, or does not.
func TestConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := NewInbound()
		check := func(ok bool, since time.Duration) {
			t.Helper()
			got, at, _ := in.Connected()
			if got != ok || time.Since(at) != since {
				t.Errorf("connected %t for %v, want %t, %v", got, time.Since(at), ok, since)
			}
			time.Sleep(sec)
		}
		if ok, since, _ := in.Connected(); ok || !since.IsZero() {
			t.Errorf("never seen: %t, %v", ok, since)
		}
		in.Handle(ev(report.Ready))
		check(true, 0)
		in.Handle(ev(report.Ready, reporter("n"))) // another beside it
		check(true, sec)
		in.Handle(ev(report.Gone))
		check(true, 2*sec)
		in.Handle(ev(report.Gone, reporter("n")))
		check(false, 0)
		in.Handle(ev(report.Gone, reporter("o"))) // one that was never there
		check(false, sec)
	})
}

// Who waits hears of every report that may concern him.
func TestInboundChanged(t *testing.T) {
	in := NewInbound()
	for kind, want := range map[report.Kind]bool{report.Ready: true, report.Open: true, report.Lost: false} {
		changed := in.Changed()
		in.Handle(ev(kind))
		told := false
		select {
		case <-changed:
			told = true
		default:
		}
		if told != want {
			t.Errorf("%v: told %t, want %t", kind, told, want)
		}
	}
}

// Which sessions are the remote's.
func TestSenders(t *testing.T) {
	addr := netip.MustParseAddr
	conn := addrConn{fakeAddrs{}, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("[::ffff:192.0.2.1]:366"))}
	link := []Interface{{Addrs: []netip.Addr{addr("203.0.113.9")}}}

	learns := newSenders(&config.Remote{})
	fixed := newSenders(&config.Remote{Senders: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}})
	for _, s := range []*senders{learns, fixed} {
		s.connected(conn, link)
		s.resolve(t.Context(), twoAddrs{}, "hub.example")
	}
	for _, c := range []struct {
		name          string
		client, local string
		learnt, fixed likeness
	}{
		{"the address that was connected to", "192.0.2.1", "203.0.113.77", certain, foreign},
		{"another address of the name", "192.0.2.3", "203.0.113.77", certain, foreign},
		{"and one of IPv6", "2001:db8::3", "203.0.113.77", certain, foreign},
		{"somebody, to the address that the request went out by", "192.0.2.200", "203.0.113.8", likely, foreign},
		{"somebody, to an address of the link", "192.0.2.200", "203.0.113.9", likely, foreign},
		{"somebody else", "192.0.2.200", "203.0.113.77", foreign, foreign},
		{"one that the configuration names", "198.51.100.7", "203.0.113.9", likely, certain},
	} {
		if got := learns.match(addr(c.client), addr(c.local)); got != c.learnt {
			t.Errorf("%s: %d, want %d", c.name, got, c.learnt)
		}
		if got := fixed.match(addr(c.client), addr(c.local)); got != c.fixed {
			t.Errorf("%s, with senders: %d, want %d", c.name, got, c.fixed)
		}
	}
}

// fakeAddrs is a connection from 203.0.113.8.
type fakeAddrs struct{ net.Conn }

func (fakeAddrs) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.8:40000"))
}
