package hold

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// testSet is three queues: acme may be asked for by owner, beta by its user,
// nobody by nobody.
func testSet(t testing.TB) *queue.Set {
	t.Helper()
	q := func(name string, domains ...string) queue.Queue {
		q := queue.Queue{Name: name, Window: 5 * time.Minute, MinInterval: 5 * time.Second,
			Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Users: []string{name}, Certificates: []string{strings.Repeat("ab", 32)}}
		for _, d := range domains {
			p, err := queue.ParsePattern(d)
			if err != nil {
				t.Fatal(err)
			}
			q.Domains = append(q.Domains, p)
		}
		return q
	}
	beta := q("beta", "beta.example")
	beta.Clients, beta.Certificates = nil, nil
	nobody := q("nobody", "nobody.example")
	nobody.Clients, nobody.Users, nobody.Certificates = nil, nil, nil
	set, err := queue.NewSet([]queue.Queue{q("acme", "acme.example", ".acme.example"), beta, nobody})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// manager is a Manager whose listings the test hands in; Run is not started, so
// no MTA is asked. What crosses to Postfix is tested with Postfix, in
// internal/scenario.
func manager(t *testing.T) *Manager {
	t.Helper()
	m := New(Options{Queues: testSet(t), Reconcile: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { m.check(t) })
	return m
}

// listing feeds a listing that begins now.
func (m *Manager) listing(msgs ...mta.Message) {
	start := time.Now()
	m.compareAll(m.Queues(), msgs, start)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listed, m.total = start, len(msgs)
}

// flushNow notes that everything due was flushed now.
func (m *Manager) flushNow() (ids []string) {
	_, _, due := m.takeDue(time.Now())
	m.flushed(due, nil, time.Now())
	for _, msg := range due {
		ids = append(ids, msg.id)
	}
	return ids
}

func msg(id, where, reason string, rcpts ...string) mta.Message {
	l := mta.Message{ID: id, Queue: where, Arrived: time.Unix(1e9, 0), Size: 1000}
	for _, r := range rcpts {
		l.Recipients = append(l.Recipients, mta.Recipient{Address: r, Reason: reason})
	}
	return l
}

func (m *Manager) must(t *testing.T, name string) State {
	t.Helper()
	s, ok := m.State(name)
	if !ok {
		t.Fatalf("no queue %s", name)
	}
	return s
}

var owner = etrn.Identity{Addr: netip.MustParseAddr("192.0.2.7")}

func TestAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		ask := func(who etrn.Identity, name string, code, count int) {
			t.Helper()
			if a := m.Ask(t.Context(), who, name); a.Code != code || a.Count != count {
				t.Errorf("Ask(%s) = %+v, want %d, %d", name, a, code, count)
			}
		}
		// Before the first listing nothing can be counted.
		ask(owner, "acme.example", 250, 0)
		time.Sleep(time.Minute)
		m.listing(
			msg("A", "deferred", mta.ReasonHeld, "a@acme.example", "b@beta.example"),
			msg("B", "deferred", mta.ReasonHeld, "a@sub.acme.example"),
			msg("C", "deferred", mta.ReasonHeld, "b@beta.example"),
			msg("D", "hold", mta.ReasonHeld, "a@acme.example"),
			msg("E", "deferred", "host down", "x@elsewhere.example"),
		)
		// The window of the question before the first listing is open.
		if s := m.must(t, "acme"); s.Messages != 3 || s.UnderWay != 1 || s.OnHold != 1 || s.Bytes != 3000 {
			t.Errorf("acme: %+v", s)
		}
		ask(owner, "sub.acme.example", 253, 1)
		ask(owner, "@acme.example", 253, 1) // A goes for the first question, which heard of no count
		ask(owner, "acme.example", 458, 0)  // all of it is under way, and told of
		ask(owner, "none.acme.example", 251, 0)
		ask(owner, "none.acme.example", 458, 0) // asked too often
		time.Sleep(5 * time.Second)
		ask(owner, "none.acme.example", 251, 0)
		for _, name := range []string{"beta.example", "#beta", "#nobody", "nobody.example", "@com", "@example", "com", "unknown.example", "#unknown"} {
			ask(owner, name, 459, 0)
		}
		if s := m.must(t, "beta"); s.UnderWay != 0 || s.Open {
			t.Errorf("beta moved: %+v", s)
		}
		ask(etrn.Identity{User: "beta"}, "#BETA", 253, 2)
	})
}

func TestReleaseIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		held := msg("A", "deferred", mta.ReasonHeld, "a@acme.example")
		m.listing(held)
		if st := m.Release(queue.Selection{Queue: "acme"}); st.Messages != 1 || st.Bytes != 1000 {
			t.Fatalf("Release: %+v", st)
		}
		// A listing from before the flush says nothing.
		m.listing(held)
		if s := m.must(t, "acme"); s.UnderWay != 1 || s.Failed != 0 {
			t.Errorf("before the flush: %+v", s)
		}
		step := func() { time.Sleep(time.Second) }
		step()
		if ids := m.flushNow(); len(ids) != 1 {
			t.Fatalf("flushed %v", ids)
		}
		step()
		// Still deferred for the transport alone: the flush came too early.
		m.listing(held)
		if ids := m.flushNow(); len(ids) != 1 {
			t.Errorf("not flushed again: %v", ids)
		}
		step()
		m.listing(msg("A", "active", "", "a@acme.example"))
		if s := m.must(t, "acme"); s.UnderWay != 1 {
			t.Errorf("while active: %+v", s)
		}
		// Asked for once more while it is tried, it is tried again at once
		// when it comes back.
		m.Release(queue.Selection{Queue: "acme"})
		step()
		m.listing(msg("A", "deferred", "connection refused", "a@acme.example"))
		if s := m.must(t, "acme"); s.UnderWay != 1 || s.Failed != 0 {
			t.Errorf("failed, but asked for again: %+v", s)
		}
		step()
		m.flushNow()
		step()
		m.listing(msg("A", "deferred", "connection refused", "a@acme.example"))
		if s := m.must(t, "acme"); s.UnderWay != 0 || s.Failed != 1 || s.Reason != "connection refused" {
			t.Errorf("failed: %+v", s)
		}
		if ids := m.flushNow(); len(ids) != 0 {
			t.Errorf("flushed without being asked: %v", ids)
		}
		m.Release(queue.Selection{Queue: "acme"})
		m.flushNow()
		step()
		// One absence proves nothing, two do.
		m.listing()
		if s := m.must(t, "acme"); s.Messages != 1 {
			t.Errorf("after one absence: %+v", s)
		}
		m.listing()
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 1 || s.Left.Bytes != 1000 {
			t.Errorf("after two: %+v", s)
		}
	})
}

// A message of two queues that goes for one of them is done when the
// recipients of that one have it.
func TestReleaseOfOneOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing(msg("A", "deferred", mta.ReasonHeld, "a@acme.example", "b@beta.example"))
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(time.Second)
		m.flushNow()
		time.Sleep(time.Second)
		m.listing(msg("A", "deferred", "connection timed out", "b@beta.example"))
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 1 {
			t.Errorf("acme: %+v", s)
		}
		if s := m.must(t, "beta"); s.Messages != 1 || s.UnderWay != 0 || s.Left.Messages != 0 {
			t.Errorf("beta: %+v", s)
		}
	})
}

func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing()
		arrive := func(id, rcpt string) {
			m.Arrived(report.Event{Kind: report.Message, Time: time.Now(), QueueID: id, Recipients: []string{rcpt}, Size: 500})
		}
		// Shut: counted, not released.
		arrive("A", "a@acme.example")
		arrive("X", "a@elsewhere.example")
		if s := m.must(t, "acme"); s.Messages != 1 || s.Bytes != 500 || s.UnderWay != 0 {
			t.Errorf("acme: %+v", s)
		}
		// A report alone does not make a message: the MTA may have refused it
		// after all. It is believed for a while.
		m.listing()
		if s := m.must(t, "acme"); s.Messages != 1 {
			t.Errorf("just after the report: %+v", s)
		}
		time.Sleep(believed)
		m.listing()
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 0 {
			t.Errorf("never listed: %+v", s)
		}
		// Open for one domain: what comes for it goes, the rest does not.
		m.Ask(t.Context(), owner, "acme.example")
		arrive("B", "a@acme.example")
		arrive("C", "a@sub.acme.example")
		time.Sleep(arrivalDelays[0])
		if ids := m.flushNow(); len(ids) != 1 || ids[0] != "B" {
			t.Errorf("flushed %v", ids)
		}
		// Mail that the milter did not see goes out when a listing shows it.
		m.listing(msg("B", "active", "", "a@acme.example"), msg("C", "deferred", mta.ReasonHeld, "a@sub.acme.example"), msg("D", "deferred", mta.ReasonHeld, "a@acme.example"))
		if ids := m.flushNow(); len(ids) != 1 || ids[0] != "D" {
			t.Errorf("flushed %v", ids)
		}
		// The window ends.
		time.Sleep(5 * time.Minute)
		arrive("E", "a@acme.example")
		time.Sleep(time.Minute)
		if ids := m.flushNow(); len(ids) != 0 {
			t.Errorf("flushed %v after the window", ids)
		}
	})
}

func TestPin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing(msg("A", "deferred", mta.ReasonHeld, "b@beta.example"), msg("B", "deferred", mta.ReasonHeld, "b@beta.example"))
		unpin := m.Pin(queue.Selection{Queue: "beta"})
		if ids := m.flushNow(); len(ids) != 2 {
			t.Fatalf("flushed %v", ids)
		}
		time.Sleep(time.Second)
		// One goes, one fails, and is tried again a little later.
		m.listing(msg("A", "active", "", "b@beta.example"), msg("B", "deferred", "no route to host", "b@beta.example"))
		if s := m.must(t, "beta"); s.UnderWay != 1 || s.Failed != 1 || s.Retry != 1 || !s.Pinned {
			t.Errorf("beta: %+v", s)
		}
		time.Sleep(retryDelay(1))
		if ids := m.flushNow(); len(ids) != 1 || ids[0] != "B" {
			t.Errorf("flushed %v", ids)
		}
		time.Sleep(time.Second)
		m.listing(msg("A", "active", "", "b@beta.example"), msg("B", "deferred", "no route to host", "b@beta.example"))
		if s := m.must(t, "beta"); s.Failed != 1 || s.Retry != 0 {
			t.Errorf("beta after the second failure: %+v", s)
		}
		// When the call ends, nothing more is flushed.
		unpin()
		unpin()
		time.Sleep(time.Hour)
		if ids := m.flushNow(); len(ids) != 0 {
			t.Errorf("flushed %v after the call", ids)
		}
		if s := m.must(t, "beta"); s.Open {
			t.Errorf("still open: %+v", s)
		}
	})
}

// A flush by domain moves whatever the MTA has noted for it, so it is used only
// when everything that the MTA has is to go.
func TestPlan(t *testing.T) {
	plan := func(t *testing.T, others ...mta.Message) (domains, ids []string, due []*message) {
		synctest.Test(t, func(t *testing.T) {
			m := manager(t)
			m.listing(append(heldFor(300, "a@acme.example"), others...)...)
			m.Release(queue.Selection{Queue: "acme"})
			domains, ids, due = m.takeDue(time.Now())
		})
		return domains, ids, due
	}
	domains, ids, due := plan(t)
	if len(domains) != 1 || domains[0] != "acme.example" || len(ids) != 0 || len(due) != 300 {
		t.Errorf("all of it: %v, %d ids, %d messages", domains, len(ids), len(due))
	}
	// One that is not to go, for whatever reason, spoils it.
	for _, other := range []mta.Message{
		msg("H", "hold", mta.ReasonHeld, "h@acme.example"),
		msg("B", "deferred", mta.ReasonHeld, "b@beta.example"),
		msg("X", "deferred", "host down", "x@elsewhere.example"),
	} {
		domains, ids, due := plan(t, other)
		if len(domains) != 0 || len(ids) != firstWindow || len(due) != firstWindow {
			t.Errorf("with %s: %v, %d ids, %d messages", other.ID, domains, len(ids), len(due))
		}
	}
}

// The id of a message that is gone may be given to a new one.
func TestReusedID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing(msg("A", "deferred", mta.ReasonHeld, "a@acme.example"))
		m.Release(queue.Selection{Queue: "acme"})
		m.flushNow()
		time.Sleep(time.Second)
		fresh := msg("A", "deferred", mta.ReasonHeld, "a@acme.example")
		fresh.Arrived = fresh.Arrived.Add(time.Hour)
		m.listing(fresh)
		s := m.must(t, "acme")
		if s.Messages != 1 || s.UnderWay != 0 || s.Left.Messages != 1 {
			t.Errorf("acme: %+v", s)
		}
	})
}

// A message that two calls want is not given up when one of them ends.
func TestUnpinOneOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing(msg("A", "deferred", mta.ReasonHeld, "a@acme.example", "b@beta.example"))
		one, two := m.Pin(queue.Selection{Queue: "acme"}), m.Pin(queue.Selection{Queue: "beta"})
		one()
		if ids := m.flushNow(); len(ids) != 1 {
			t.Fatalf("flushed %v after the first call ended", ids)
		}
		time.Sleep(time.Second)
		m.listing(msg("A", "deferred", "no route to host", "a@acme.example", "b@beta.example"))
		if s := m.must(t, "beta"); s.Retry != 1 {
			t.Errorf("beta: %+v", s)
		}
		two()
		if s := m.must(t, "beta"); s.UnderWay != 0 || s.Open {
			t.Errorf("beta after both: %+v", s)
		}
	})
}

// A message that comes off hold under an open window goes.
func TestOffHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing(msg("A", "hold", "", "a@acme.example"))
		m.Ask(t.Context(), owner, "#acme")
		if s := m.must(t, "acme"); s.OnHold != 1 || s.UnderWay != 0 {
			t.Errorf("on hold: %+v", s)
		}
		m.listing(msg("A", "deferred", mta.ReasonHeld, "a@acme.example"))
		if ids := m.flushNow(); len(ids) != 1 {
			t.Errorf("flushed %v", ids)
		}
	})
}

// A message that was put on hold is not told of, and when it comes off again
// it is not as if somebody had asked for it.
func TestOnHoldIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		who := owner
		who.Session = "s"
		m.listing(msg("A", "deferred", mta.ReasonHeld, "a@acme.example"), msg("B", "hold", "", "a@acme.example"))
		if a := m.Ask(t.Context(), who, "#acme"); a.Code != 253 || a.Count != 1 {
			t.Errorf("with one on hold: %+v", a)
		}
		m.flushNow()
		time.Sleep(time.Second)
		// A has failed, B goes because the queue is open.
		m.listing(msg("A", "deferred", "connection refused", "a@acme.example"), msg("B", "deferred", mta.ReasonHeld, "a@acme.example"))
		if a := m.Ask(t.Context(), who, "acme.example"); a.Code != 253 || a.Count != 2 {
			t.Errorf("when it is off again: %+v", a)
		}

		m.listing(msg("C", "deferred", mta.ReasonHeld, "b@beta.example"))
		m.Release(queue.Selection{Queue: "beta"})
		m.listing(msg("C", "hold", "", "b@beta.example"))
		m.listing(msg("C", "deferred", mta.ReasonHeld, "b@beta.example"))
		m.Pin(queue.Selection{Queue: "beta"})()
		if s := m.must(t, "beta"); s.Messages != 1 || s.UnderWay != 0 {
			t.Errorf("after a call has ended: %+v", s)
		}
	})
}

// A client that comes back after its line was cut is told of what is still
// under way from before, once.
func TestAskAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		first, second := owner, owner
		first.Session, second.Session = "s1", "s2"
		m.listing(msg("A", "deferred", mta.ReasonHeld, "a@acme.example"), msg("B", "deferred", mta.ReasonHeld, "a@acme.example"))
		if a := m.Ask(t.Context(), first, "#acme"); a.Code != 253 || a.Count != 2 {
			t.Errorf("first: %+v", a)
		}
		m.flushNow()
		time.Sleep(10 * time.Second)
		// A is still being tried over the dead line, B has failed.
		m.listing(msg("A", "active", "", "a@acme.example"), msg("B", "deferred", "lost connection", "a@acme.example"))
		if a := m.Ask(t.Context(), second, "#acme"); a.Code != 253 || a.Count != 2 {
			t.Errorf("second: %+v", a)
		}
		if a := m.Ask(t.Context(), second, "acme.example"); a.Code != 458 {
			t.Errorf("another name for the same: %+v", a)
		}
		// While the MTA cannot be asked, no count is made up.
		m.mu.Lock()
		m.listErr = mta.ErrDown
		m.mu.Unlock()
		if a := m.Ask(t.Context(), second, "@acme.example"); a.Code != 458 {
			t.Errorf("while the MTA is down: %+v", a)
		}
	})
}

// A client that asks for any number of names opens its queue and no more.
func TestManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing()
		for i := range 20000 {
			m.Ask(t.Context(), owner, fmt.Sprintf("x%d.acme.example", i))
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if n := len(m.index.queue("acme").window.asked); n > maxAsked {
			t.Errorf("%d parts are open", n)
		}
		for who, e := range m.recent.of {
			if n := len(e.Value.(*remembered).asked); n > maxRequests {
				t.Errorf("%d requests of %s are remembered", n, who)
			}
		}
	})
}
