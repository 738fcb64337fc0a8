package hold

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// slowFor makes attempts for one domain take their time.
func (f *fakeMTA) slowFor(domain string, takes time.Duration) {
	f.set(func() {
		f.slow = func(rcpts []mta.Recipient) time.Duration {
			for _, r := range rcpts {
				if domainOf(r.Address) == domain {
					return takes
				}
			}
			return 50 * time.Millisecond
		}
	})
}

// A site with thousands of messages that takes minutes for each keeps nobody else
// waiting, and does not fill the MTA.
func TestSlowSite(t *testing.T) {
	held := append(heldFor(3000, "a@acme.example"), msg("ONE", "deferred", mta.ReasonHeld, "b@beta.example"))
	run(t, testSet(t), held, func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.active = 2000 })
		m.mta.slowFor("acme.example", 10*time.Minute)
		if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 253 || a.Count != 3000 {
			t.Errorf("the count is not all of it: %+v", a)
		}
		time.Sleep(3 * time.Minute)
		if s := m.must(t, "acme"); s.UnderWay != 3000 || s.InHand < leastWindow || s.InHand > firstWindow {
			t.Errorf("acme: %d under way, %d in hand", s.UnderWay, s.InHand)
		}
		m.Ask(t.Context(), etrn.Identity{User: "beta"}, "#beta")
		time.Sleep(2 * time.Second)
		if s := m.must(t, "beta"); s.Messages != 0 || s.Left.Messages != 1 {
			t.Errorf("beta after two seconds: %+v", s)
		}
		// When the site is quick again, all of it goes.
		m.mta.slowFor("acme.example", 50*time.Millisecond)
		m.SetQueues(m.Queues())
		time.Sleep(20 * time.Minute)
		if s := m.must(t, "acme"); s.Messages != 0 {
			t.Errorf("acme in the end: %+v", s)
		}
		m.mta.sentOnce(t, 3001)
	})
}

// Many sites that are stuck at once leave a place for the next one, whatever
// the MTA has of them.
func TestManySlowSites(t *testing.T) {
	const sites, each, active = 40, 50, 200
	set := provider(t, sites+1)
	var held []mta.Message
	for i := range sites {
		for j := range each {
			held = append(held, msg(fmt.Sprintf("S%03dM%03d", i, j), "deferred", mta.ReasonHeld, fmt.Sprintf("u@customer%05d.example", i)))
		}
	}
	last := fmt.Sprintf("customer%05d", sites)
	held = append(held, msg("ONE", "deferred", mta.ReasonHeld, "u@"+last+".example"))
	run(t, set, held, func(t *testing.T, m *running) {
		m.mta.set(func() {
			m.mta.active = active
			m.mta.slow = func(rcpts []mta.Recipient) time.Duration {
				if domainOf(rcpts[0].Address) == last+".example" {
					return 50 * time.Millisecond
				}
				return time.Hour
			}
		})
		for i := range sites {
			m.Release(queue.Selection{Queue: fmt.Sprintf("customer%05d", i)})
			if i%7 == 0 {
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Minute)
		m.Release(queue.Selection{Queue: last})
		time.Sleep(3 * time.Second)
		if s := m.must(t, last); s.Messages != 0 {
			t.Errorf("the last one: %+v", s)
		}
		if m.mta.peak() > active*3/4 {
			t.Errorf("%d were tried at one time", m.mta.peak())
		}
	})
}

// Queues take turns: a small one that is asked for after a large one is not
// behind all of it.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.active = 20000
		m.listing(append(heldFor(90, "a@acme.example"), msg("B1", "deferred", mta.ReasonHeld, "b@beta.example"), msg("B2", "deferred", mta.ReasonHeld, "b@beta.example"))...)
		m.Release(queue.Selection{Queue: "acme"})
		m.Release(queue.Selection{Queue: "beta"})
		ids := m.flushNow()
		for i, id := range ids {
			if id == "B2" && i > 2*flowQuantum {
				t.Errorf("B2 is number %d of %d", i, len(ids))
			}
		}
		if len(ids) != 92 {
			t.Errorf("%d flushed", len(ids))
		}
	})
}

// A quick queue gets as many places as it needs: the window grows.
func TestWindowGrows(t *testing.T) {
	const n = 5000
	held := append(heldFor(n, "a@acme.example"), msg("OTHER", "deferred", mta.ReasonHeld, "b@beta.example"))
	run(t, testSet(t), held, func(t *testing.T, m *running) {
		// Each flush of one message takes 1.5 ms, with four at a time.
		m.mta.set(func() {
			m.mta.release = func(_ context.Context, _, ids []string) error {
				time.Sleep(time.Duration(len(ids)) * 1500 * time.Microsecond)
				return nil
			}
		})
		start := time.Now()
		m.Release(queue.Selection{Queue: "acme"})
		for m.must(t, "acme").Messages > 0 && time.Since(start) < time.Minute {
			<-m.Changed()
		}
		// 7.5 s are spent in flushes; before there were windows it was 8.5.
		if took := time.Since(start); took > 9500*time.Millisecond {
			t.Errorf("%d messages took %v", n, took)
		}
	})
}

// A limit holds from the first flush to its end, and the least of several does.
func TestLimit(t *testing.T) {
	run(t, testSet(t), append(heldFor(300, "a@acme.example"), msg("B", "deferred", mta.ReasonHeld, "b@beta.example")), func(t *testing.T, m *running) {
		undo := m.Limit("acme", 5)
		one := m.Limit("acme", 1)
		unpin := m.Pin(queue.Selection{Queue: "acme"})
		defer unpin()
		for range 20 {
			time.Sleep(time.Second)
			if s := m.must(t, "acme"); s.InHand > 1 || m.mta.peak() > 1 {
				t.Fatalf("%d in hand, %d tried at one time", s.InHand, m.mta.peak())
			}
		}
		if s := m.must(t, "acme"); s.Left.Messages < 10 {
			t.Errorf("%d went in 20 s", s.Left.Messages)
		}
		one()
		one()
		time.Sleep(5 * time.Second)
		if m.mta.peak() != 5 {
			t.Errorf("%d tried at one time", m.mta.peak())
		}
		undo()
		time.Sleep(time.Minute)
		if s := m.must(t, "acme"); s.Messages != 0 {
			t.Errorf("at the end: %+v", s)
		}
		m.mta.sentOnce(t, 300)
	})
	// A flush by domain knows no limit.
	run(t, testSet(t), heldFor(300, "a@acme.example"), func(t *testing.T, m *running) {
		defer m.Limit("acme", 2)()
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(10 * time.Second)
		if m.mta.peak() > 2 {
			t.Errorf("%d tried at one time", m.mta.peak())
		}
	})
}

// Nothing is a limit, too: of the queue that has it no message is tried, and of the
// others as many as before.
func TestLimitOfNothing(t *testing.T) {
	list := append(heldFor(300, "a@acme.example"), msg("B", "deferred", mta.ReasonHeld, "b@beta.example"))
	run(t, testSet(t), list, func(t *testing.T, m *running) {
		undo := m.Limit("acme", 0)
		defer m.Pin(queue.Selection{Queue: "acme"})()
		defer m.Pin(queue.Selection{Queue: "beta"})()
		time.Sleep(time.Hour)
		if a, b := m.must(t, "acme"), m.must(t, "beta"); a.Left.Messages != 0 || a.InHand != 0 || b.Messages != 0 {
			t.Errorf("acme %+v, beta %+v", a, b)
		}
		undo()
		time.Sleep(time.Minute)
		if s := m.must(t, "acme"); s.Messages != 0 {
			t.Errorf("at the end: %+v", s)
		}
		m.mta.sentOnce(t, 301)
	})
}

// A domain is flushed whole only when the MTA has a place for all of it.
func TestDomainThatDoesNotFit(t *testing.T) {
	run(t, testSet(t), heldFor(1000, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.active = 1000 })
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(time.Minute)
		if s := m.must(t, "acme"); s.Messages != 0 || m.mta.peak() > 500 {
			t.Errorf("%d tried at one time; %+v", m.mta.peak(), s)
		}
		if m.mta.first().domains != nil {
			t.Error("flushed whole")
		}
	})
}

// What arrives while a window is full waits for its turn: the urgent first, then
// the oldest.
func TestArrivalsWaitTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing()
		defer m.Limit("beta", 1)()
		defer m.Pin(queue.Selection{Queue: "beta"})()
		arrive := func(id string, p report.Priority) mta.Message {
			ev := report.Event{Kind: report.Message, Time: time.Now(), QueueID: id, Recipients: []string{"b@beta.example"}, Size: 500, Priority: p}
			m.Arrived(ev)
			l := msg(id, "deferred", mta.ReasonHeld, "b@beta.example")
			l.Arrived = time.Now()
			return l
		}
		var list []mta.Message
		for _, a := range []struct {
			id string
			p  report.Priority
		}{{"OLD", ""}, {"LOW", report.PriorityLow}, {"NEW", report.PriorityNormal}, {"HIGH", report.PriorityHigh}} {
			list = append(list, arrive(a.id, a.p))
			time.Sleep(2 * time.Second)
		}
		m.listing(list...)
		for _, want := range []string{"HIGH", "OLD", "NEW", "LOW"} {
			ids := m.flushNow()
			if len(ids) != 1 || ids[0] != want {
				t.Fatalf("flushed %v, want %s", ids, want)
			}
			if s := m.must(t, "beta"); s.InHand != 1 || s.UnderWay != len(list) {
				t.Errorf("with %s: %+v", want, s)
			}
			time.Sleep(time.Second)
			var left []mta.Message
			for _, l := range list {
				if l.ID != want {
					left = append(left, l)
				}
			}
			list = left
			m.listing(list...)
			m.listing(list...)
		}
	})
}

// A message of two queues takes a place of each that it goes for, and one place
// of the MTA.
func TestPlacesOfTwoQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		both := msg("A", "deferred", mta.ReasonHeld, "a@acme.example", "b@beta.example")
		m.listing(both)
		m.Release(queue.Selection{Queue: "acme"})
		m.Release(queue.Selection{Queue: "beta"})
		m.flushNow()
		if a, b := m.must(t, "acme"), m.must(t, "beta"); a.InHand != 1 || b.InHand != 1 || m.index.inHand != 1 {
			t.Errorf("in hand: acme %d, beta %d, of all %d", a.InHand, b.InHand, m.index.inHand)
		}
		time.Sleep(time.Second)
		m.listing(msg("A", "active", "", "b@beta.example"))
		if a, b := m.must(t, "acme"), m.must(t, "beta"); a.InHand != 0 || b.InHand != 1 || a.Left.Messages != 1 {
			t.Errorf("when one has it: %+v, %+v", a, b)
		}
		time.Sleep(time.Second)
		m.listing()
		m.listing()
		if m.index.inHand != 0 || m.must(t, "beta").InHand != 0 {
			t.Errorf("at the end %d are in hand", m.index.inHand)
		}
	})
}

// Eleven connections with a thousand names each hurt nobody else.
func TestOneRequesterFillsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing(msg("A", "deferred", mta.ReasonHeld, "b@beta.example"))
		for i := range 11000 {
			m.Ask(t.Context(), owner, fmt.Sprintf("x%d.acme.example", i))
		}
		if a := m.Ask(t.Context(), etrn.Identity{User: "beta"}, "#beta"); a.Code != 253 {
			t.Errorf("somebody else: %+v", a)
		}
		// Not even he himself, and what he asked for last is remembered.
		if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 251 {
			t.Errorf("himself: %+v", a)
		}
		if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 458 {
			t.Errorf("himself, again: %+v", a)
		}
	})
}

// Any number of requesters are remembered by what they did last; those of one
// network of IPv6 are one.
func TestManyRequesters(t *testing.T) {
	var m memory
	now := time.Unix(1e9, 0)
	sels := []queue.Selection{{Queue: "acme"}}
	for i := range 3 * maxRequesters {
		m.tooSoon(etrn.Identity{User: fmt.Sprint(i)}, sels, time.Hour, now)
	}
	if n := len(m.of); n > maxRequesters || n != m.order.Len() {
		t.Errorf("%d are remembered, and %d in order", n, m.order.Len())
	}
	if m.tooSoon(etrn.Identity{User: fmt.Sprint(3*maxRequesters - 1)}, sels, time.Hour, now) == 0 {
		t.Error("the last one is forgotten")
	}
	for i := range 1000 {
		m.tooSoon(etrn.Identity{Addr: netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1))}, sels, time.Hour, now)
	}
	if e := m.of["2001:db8::/64"]; e == nil || len(e.Value.(*remembered).asked) != maxRequests {
		t.Error("a network of IPv6 is not one requester")
	}
	// What may be asked for again is not kept.
	m.tooSoon(etrn.Identity{User: "late"}, sels, time.Hour, now.Add(2*time.Hour))
	if n := len(m.of); n != 1 {
		t.Errorf("%d are remembered for ever", n)
	}
}

// Mail of which nobody has told is found before anybody is told that there is
// none.
func TestLookBeforeNo(t *testing.T) {
	for _, stamps := range []bool{false, true} {
		run(t, testSet(t), nil, func(t *testing.T, m *running) {
			m.mta.set(func() { m.mta.stamps = stamps })
			time.Sleep(10 * time.Second)
			m.mta.add(msg("ALIAS", "deferred", mta.ReasonHeld, "a@acme.example"))
			if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 253 || a.Count != 1 {
				t.Errorf("ETRN: %+v", a)
			}
			time.Sleep(time.Second)
			m.mta.add(msg("TURN", "deferred", mta.ReasonHeld, "b@beta.example"))
			if n, ok := m.Count(t.Context(), queue.Selection{Queue: "beta"}); n != 1 || !ok {
				t.Errorf("ATRN: %d, %v", n, ok)
			}
			time.Sleep(10*time.Second + 7*time.Millisecond)
			m.mta.add(msg("NAME", "deferred", mta.ReasonHeld, "a@acme.example"))
			// Postfix says the same whatever there is, and does not wait. What
			// there is goes all the same.
			start := time.Now()
			if a := m.AskStripped(owner, "acme.example"); a.Code != 251 || time.Since(start) != 0 {
				t.Errorf("ETRN by Postfix: %+v after %v", a, time.Since(start))
			}
			time.Sleep(3 * time.Second)
			if s := m.must(t, "acme"); s.Left.Messages != 2 {
				t.Errorf("what Postfix was asked for has not gone: %+v", s)
			}
		})
	}
}

// Asking again and again does not make the MTA list: not while nothing has come
// in, and not more often than a listing is worth when something always does.
func TestLooksAreShared(t *testing.T) {
	run(t, testSet(t), nil, func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.stamps = true })
		time.Sleep(2 * time.Minute)
		before := m.mta.listings()
		start := time.Now()
		for i := range 1000 {
			if a := m.Ask(t.Context(), owner, fmt.Sprintf("x%d.acme.example", i)); a.Code != 251 {
				t.Fatalf("%+v", a)
			}
		}
		if n, took := m.mta.listings()-before, time.Since(start); n > 1 || took > time.Second {
			t.Errorf("%d listings for 1,000 questions, in %v", n, took)
		}

		// A listing that takes two seconds, and mail that comes in all the time.
		m.mta.set(func() {
			m.mta.list = func(context.Context) error {
				time.Sleep(2 * time.Second)
				return nil
			}
		})
		stop := make(chan struct{})
		var others sync.WaitGroup
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					m.mta.add(msg(number(i), "active", "", "x@elsewhere.example"))
				}
			}
		})
		time.Sleep(2 * time.Minute)
		before = m.mta.listings()
		for i := range 200 {
			others.Go(func() {
				time.Sleep(time.Duration(i) * 300 * time.Millisecond)
				asked := time.Now()
				a := m.Ask(t.Context(), owner, fmt.Sprintf("y%d.acme.example", i))
				if a.Code != 251 && a.Code != 250 {
					t.Errorf("%+v", a)
				}
				if took := time.Since(asked); took > lookTimeout {
					t.Errorf("the answer took %v", took)
				}
				// Nobody else waits.
				before := time.Now()
				if m.State("beta"); time.Since(before) != 0 {
					t.Error("others wait")
				}
			})
		}
		time.Sleep(time.Minute)
		if n := m.mta.listings() - before; n < 4 || n > 9 {
			t.Errorf("%d listings of two seconds in a minute", n)
		}
		close(stop)
		others.Wait()
	})
}

// Nobody is promised mail that the MTA cannot let go: it has been stopped a moment
// ago, or cannot be listed.
func TestDown(t *testing.T) {
	run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
		check := func(when string) {
			t.Helper()
			if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 458 {
				t.Errorf("%s: ETRN: %+v", when, a)
			}
			if n, ok := m.Count(t.Context(), queue.Selection{Queue: "acme"}); ok {
				t.Errorf("%s: ATRN: %d", when, n)
			}
			if s := m.must(t, "acme"); s.Open || s.UnderWay > 0 {
				t.Errorf("%s: %+v", when, s)
			}
		}
		m.mta.set(func() { m.mta.down = mta.ErrDown })
		check("stopped")
		m.mta.set(func() { m.mta.down, m.mta.fault = nil, mta.ErrPermission })
		m.Relist()
		synctest.Wait()
		check("not to be listed")
		m.mta.set(func() { m.mta.fault = nil })
		time.Sleep(10 * time.Second)
		if n, ok := m.Count(t.Context(), queue.Selection{Queue: "acme"}); n != 3 || !ok {
			t.Errorf("up again: %d, %v", n, ok)
		}
	})
}

// When no listing ends in time, the answer is that mail will come if there is
// any, and it does.
func TestLookTakesTooLong(t *testing.T) {
	run(t, testSet(t), nil, func(t *testing.T, m *running) {
		m.mta.set(func() {
			m.mta.list = func(context.Context) error {
				time.Sleep(40 * time.Second)
				return nil
			}
		})
		time.Sleep(time.Second)
		m.mta.add(msg("ALIAS", "deferred", mta.ReasonHeld, "a@acme.example"))
		start := time.Now()
		if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 250 || time.Since(start) != lookTimeout {
			t.Errorf("%+v after %v", a, time.Since(start))
		}
		if _, ok := m.Count(t.Context(), queue.Selection{Queue: "beta"}); ok {
			t.Error("a count that is sure")
		}
		time.Sleep(5 * time.Minute)
		m.mta.sentOnce(t, 1)
	})
}

// What the milter has told of and the MTA has not stored is not promised to
// anybody, and is no reason to wait for long.
func TestPhantoms(t *testing.T) {
	for _, stored := range []bool{false, true} {
		run(t, testSet(t), nil, func(t *testing.T, m *running) {
			time.Sleep(10 * time.Second)
			told := report.Event{Kind: report.Message, QueueID: "A", Recipients: []string{"a@acme.example"}, Time: time.Now()}
			m.Arrived(told)
			if stored {
				time.AfterFunc(200*time.Millisecond, func() { m.mta.add(msg("A", "deferred", mta.ReasonHeld, "a@acme.example")) })
			}
			start := time.Now()
			a := m.Ask(t.Context(), owner, "#acme")
			want := etrn.Answer{Code: 251}
			if stored {
				want = etrn.Answer{Code: 253, Count: 1}
			}
			if a != want || time.Since(start) > 2*time.Second {
				t.Errorf("stored %v: %+v after %v", stored, a, time.Since(start))
			}
			// Now the queue is open, and such a message is to go at once.
			time.Sleep(10 * time.Second)
			m.Arrived(report.Event{Kind: report.Message, QueueID: "B", Recipients: []string{"a@acme.example"}, Time: time.Now()})
			if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 251 {
				t.Errorf("while it is open: %+v", a)
			}
		})
		// The filter between takes the message and hands in another.
		run(t, testSet(t), heldFor(1, "a@acme.example"), func(t *testing.T, m *running) {
			time.Sleep(10 * time.Second)
			for _, id := range []string{"IN", "OUT"} {
				m.Arrived(report.Event{Kind: report.Message, QueueID: id, Recipients: []string{"a@acme.example"}, Time: time.Now()})
			}
			m.mta.add(msg("OUT", "deferred", mta.ReasonHeld, "a@acme.example"))
			if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 253 || a.Count != 2 {
				t.Errorf("with a filter: %+v", a)
			}
		})
	}
}

// Nor does it count as delivered, when the queue is open.
func TestPhantomsAreNotDelivered(t *testing.T) {
	run(t, testSet(t), nil, func(t *testing.T, m *running) {
		time.Sleep(10 * time.Second)
		defer m.Pin(queue.Selection{Queue: "acme"})()
		for i := range 10 {
			time.Sleep(3 * time.Second)
			id := number(i)
			m.Arrived(report.Event{Kind: report.Message, QueueID: id, Recipients: []string{"a@acme.example"}, Time: time.Now()})
			if i%2 == 0 {
				time.AfterFunc(20*time.Millisecond, func() { m.mta.add(msg(id, "deferred", mta.ReasonHeld, "a@acme.example")) })
				time.Sleep(time.Second)
				if s := m.must(t, "acme"); s.Messages != 0 {
					t.Errorf("after a second: %+v", s)
				}
			}
		}
		time.Sleep(10 * time.Second)
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 5 {
			t.Errorf("%+v", s)
		}
		m.mta.sentOnce(t, 5)
	})
}

// While nothing moves, the MTA is left alone, the more so the longer a listing
// takes, and mail of which nobody has told is found in some seconds all the same.
func TestStill(t *testing.T) {
	run(t, testSet(t), heldFor(1000, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() {
			m.mta.stamps = true
			m.mta.list = func(context.Context) error {
				time.Sleep(4 * time.Second) // of 100,000 messages
				return nil
			}
		})
		m.Relist()
		time.Sleep(time.Hour)
		before := m.mta.listings()
		time.Sleep(10 * time.Hour)
		if n := m.mta.listings() - before; n < 9 || n > 11 {
			t.Errorf("%d listings in ten hours", n)
		}
		// The MTA tries what it holds, as it does, and defers it again.
		stop := make(chan struct{})
		var trying sync.WaitGroup
		trying.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					m.mta.set(func() { m.mta.touched = time.Now() })
				}
			}
		})
		before = m.mta.listings()
		time.Sleep(10 * time.Hour)
		if n := m.mta.listings() - before; n < 10 || n > 46 {
			t.Errorf("%d listings in ten hours of attempts", n)
		}
		close(stop)
		trying.Wait()

		m.mta.set(func() { m.mta.list = nil })
		m.Relist()
		time.Sleep(time.Minute)
		// A queue that is open costs no listings either, while nothing comes in.
		if a := m.Ask(t.Context(), owner, "none.acme.example"); a.Code != 251 {
			t.Errorf("%+v", a)
		}
		before = m.mta.listings()
		time.Sleep(4 * time.Minute)
		if n := m.mta.listings() - before; n > 5 {
			t.Errorf("%d listings in four minutes in which a queue was open", n)
		}
		m.mta.add(msg("OPEN", "deferred", mta.ReasonHeld, "a@none.acme.example"))
		time.Sleep(3 * time.Second)
		if s := m.must(t, "acme"); s.Left.Messages != 1 {
			t.Errorf("what comes in is not found: %+v", s)
		}
		m.mta.add(msg("NEW", "deferred", mta.ReasonHeld, "b@beta.example"))
		time.Sleep(2 * glanceEvery)
		if s := m.must(t, "beta"); s.Messages != 1 {
			t.Errorf("not found: %+v", s)
		}
	})
}
