package hold

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// requeue moves a message to maildrop, and has it taken in under another id after
// a while.
func (f *fakeMTA) requeue(l *mta.Message, id string, after time.Duration) {
	l.Queue = "maildrop"
	time.AfterFunc(after, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.messages[l.ID] != l {
			return
		}
		delete(f.messages, l.ID)
		if f.messages[id] != nil || len(l.Recipients) == 0 {
			return
		}
		maps.DeleteFunc(f.sent, func(what string, _ int) bool { return strings.HasPrefix(what, id+" ") })
		next := *l
		next.ID, next.Queue, next.Arrived = id, "deferred", time.Now().Truncate(time.Second)
		next.Recipients = slices.Clone(l.Recipients)
		for i := range next.Recipients {
			next.Recipients[i].Reason = mta.ReasonHeld
		}
		f.messages[id] = &next
		f.entered, f.touched = time.Now(), time.Now()
	})
}

func (f *fakeMTA) requeueAll(after time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, l := range f.messages {
		f.requeue(l, "R"+id, after)
	}
}

// What is requeued in the middle of a release has not gone meanwhile, and goes under
// its new id, whoever has let it go. What nobody has let go stays held.
func TestRequeued(t *testing.T) {
	acme := queue.Selection{Queue: "acme"}
	for name, release := range map[string]func(m *running) func(){
		"released": func(m *running) func() { m.Release(acme); return func() {} },
		"asked":    func(m *running) func() { m.Ask(t.Context(), owner, "#acme"); return func() {} },
		"pinned":   func(m *running) func() { return m.Pin(acme) },
		"held":     func(*running) func() { return func() {} },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, testSet(t), append(heldFor(20, "a@acme.example"), msg("B", "deferred", mta.ReasonHeld, "b@beta.example")), func(t *testing.T, m *running) {
				m.Limit("acme", 1)
				m.mta.set(func() { m.mta.takes = 24 * time.Hour })
				undo := release(m)
				time.Sleep(5 * time.Second)
				m.mta.set(func() { m.mta.takes = 50 * time.Millisecond })
				m.mta.requeueAll(50 * time.Second)
				goes := name != "held"
				for range 8 {
					time.Sleep(5 * time.Second)
					if s := m.must(t, "acme"); s.Messages != 20 || (s.UnderWay == 20) != goes || s.Left.Messages != 0 || s.InHand > 0 {
						t.Fatalf("in maildrop: %+v", s)
					}
				}
				time.Sleep(2 * time.Minute)
				s := m.must(t, "acme")
				if goes && (s.Messages != 0 || s.Left.Messages != 20) || !goes && (s.Messages != 20 || s.UnderWay > 0 || s.Open) {
					t.Errorf("in the end: %+v", s)
				}
				if s := m.must(t, "beta"); s.Messages != 1 || s.UnderWay > 0 || s.Open {
					t.Errorf("beta: %+v", s)
				}
				undo()
			})
		})
	}
}

// A delivery goes on when its message is requeued: to whom it has delivered, it has
// gone. And what is deleted before its turn has not.
func TestRequeuedAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.active = 20000
		both := func(where, reason string, to ...string) mta.Message { return msg("A", where, reason, to...) }
		gone := msg("B", "deferred", mta.ReasonHeld, "a@acme.example")
		m.listing(both("deferred", mta.ReasonHeld, "a@acme.example", "b@beta.example"), gone)
		m.Release(queue.Selection{Queue: "acme"})
		m.Limit("acme", 1)
		if ids := m.flushNow(); len(ids) != 1 || ids[0] != "A" {
			t.Fatalf("flushed %v", ids)
		}
		time.Sleep(time.Second)
		m.listing(both("active", "", "a@acme.example", "b@beta.example"), gone)
		time.Sleep(time.Second)
		m.listing(both("maildrop", "", "a@acme.example", "b@beta.example"), gone)
		if s := m.must(t, "acme"); s.UnderWay != 2 || s.Left.Messages != 0 {
			t.Errorf("requeued: %+v", s)
		}
		time.Sleep(time.Second)
		m.listing(both("maildrop", "", "b@beta.example"), gone)
		if s := m.must(t, "acme"); s.UnderWay != 1 || s.Left.Messages != 1 {
			t.Errorf("delivered meanwhile: %+v", s)
		}
		for range 2 {
			time.Sleep(time.Second)
			m.listing()
		}
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 1 {
			t.Errorf("the other one was deleted: %+v", s)
		}
		// Another message that is new in maildrop, under the same id, is none of ours.
		other := both("maildrop", "", "a@acme.example")
		m.listing(gone)
		other.ID, other.Arrived = "B", time.Unix(2e9, 0)
		for range 2 {
			time.Sleep(time.Second)
			m.listing(other)
		}
		if s := m.must(t, "acme"); s.Messages != 0 {
			t.Errorf("a new one: %+v", s)
		}
	})
}

// What Postfix has put by, as its queue manager was started anew, is flushed again
// within seconds, and again at longer intervals, until it looks; the number of these
// flushes is bounded by nothing but time.
func TestPutBy(t *testing.T) {
	run(t, testSet(t), heldFor(20, "a@acme.example"), func(t *testing.T, m *running) {
		until := time.Now().Add(20 * time.Minute)
		m.mta.set(func() { m.mta.putBy = func() bool { return time.Now().Before(until) } })
		unpin := m.Pin(queue.Selection{Queue: "acme"})
		time.Sleep(10 * time.Second)
		m.mta.mu.Lock()
		first := m.mta.moved[number(0)]
		m.mta.mu.Unlock()
		if first < 2 || first > 5 {
			t.Errorf("flushed %d times in ten seconds", first)
		}
		time.Sleep(19 * time.Minute)
		m.mta.mu.Lock()
		times := m.mta.moved[number(0)]
		m.mta.mu.Unlock()
		if times < 40 || times > 100 {
			t.Errorf("flushed %d times in 19 minutes", times)
		}
		if s := m.must(t, "acme"); s.UnderWay != 20 || s.Failed > 0 || s.InHand != 20 {
			t.Errorf("meanwhile: %+v", s)
		}
		time.Sleep(5 * time.Minute)
		if s := m.must(t, "acme"); s.Messages > 0 || s.Left.Messages != 20 {
			t.Errorf("in the end: %+v", s)
		}
		unpin()
	})
}

// With thousands of them, which Postfix may have no place for, the flushes take no
// more than a small part of the time.
func TestManyPutBy(t *testing.T) {
	run(t, testSet(t), heldFor(2000, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.putBy = func() bool { return true } })
		m.Pin(queue.Selection{Queue: "acme"})
		time.Sleep(5 * time.Minute)
		count := func() (n int) {
			m.mta.mu.Lock()
			defer m.mta.mu.Unlock()
			for _, c := range m.mta.calls {
				n += len(c.ids)
			}
			return n
		}
		before := count()
		time.Sleep(10 * time.Minute)
		if n := count() - before; n == 0 || n > 20*600 {
			t.Errorf("%d flushes in ten minutes, of %d messages in hand", n, m.must(t, "acme").InHand)
		}
	})
}

// What was requeued and taken in between two listings has not gone either, in whatever
// order its two ids are noticed.
func TestRequeuedUnseen(t *testing.T) {
	for name, c := range map[string]struct {
		place    string // where its old id was last seen
		grows    int64
		left     int  // that are counted at the end
		listed   int  // listings that show neither
		maildrop bool // it was seen there
	}{
		"active, so that it is missed at once": {"active", 130, 2, 0, false},
		"deferred: missed later":               {"deferred", 130, 2, 0, false},
		"seen later, too":                      {"active", 130, 2, 2, false},
		"another message, which is larger":     {"active", 5000, 3, 0, false},
		"another message, which is smaller":    {"active", -1, 3, 0, false},
		"seen in maildrop":                     {"active", 130, 2, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := manager(t)
				m.active = 20000
				at := time.Now().Add(-time.Hour).Truncate(time.Second)
				one := func(id, where, reason string, grows int64) mta.Message {
					l := msg(id, where, reason, "a@acme.example")
					l.Arrived, l.Size = at, 1000+grows
					return l
				}
				m.listing(one("A", "deferred", mta.ReasonHeld, 0), one("S", "deferred", mta.ReasonHeld, 0))
				m.Pin(queue.Selection{Queue: "acme"})
				m.flushNow()
				time.Sleep(time.Second)
				reason := ""
				if c.place == "deferred" {
					reason = mta.ReasonHeld
				}
				m.listing(one("A", c.place, reason, 0), one("S", "active", "", 0))
				time.Sleep(time.Second)
				m.listing(one("A", c.place, reason, 0)) // S has gone, just like that
				if s := m.must(t, "acme"); s.Left.Messages != 1 {
					t.Fatalf("one has gone: %+v", s)
				}
				if c.maildrop {
					time.Sleep(time.Second)
					m.listing(one("A", "maildrop", "", 0))
				}
				for range c.listed {
					time.Sleep(time.Second)
					m.listing()
				}
				for range 3 {
					time.Sleep(time.Second)
					m.listing(one("B", "deferred", mta.ReasonHeld, c.grows))
				}
				if s := m.must(t, "acme"); s.Messages != 1 || s.Left.Messages != c.left-1 {
					t.Errorf("it is back: %+v", s)
				}
				m.flushNow()
				time.Sleep(time.Second)
				m.listing(one("B", "active", "", c.grows))
				for range 2 {
					time.Sleep(time.Second)
					m.listing()
				}
				if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != c.left {
					t.Errorf("in the end: %+v", s)
				}
			})
		})
	}
}
