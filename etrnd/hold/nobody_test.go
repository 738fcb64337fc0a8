package hold

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// setOf is queues by name, each with its patterns.
func setOf(t *testing.T, queues map[string][]string) *queue.Set {
	t.Helper()
	var list []queue.Queue
	for name, domains := range queues {
		q := queue.Queue{Name: name, Window: 5 * time.Minute, Clients: testSet(t).Queues()[0].Clients}
		for _, d := range domains {
			p, err := queue.ParsePattern(d)
			if err != nil {
				t.Fatal(err)
			}
			q.Domains = append(q.Domains, p)
		}
		list = append(list, q)
	}
	set, err := queue.NewSet(list)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// Mail whose queue goes is neither lost from sight nor let go by anything that
// may be asked, and is back in its place when its domain is.
func TestHeldForNobody(t *testing.T) {
	both := map[string][]string{"acme": {"acme.example", ".acme.example"}, "beta": {"beta.example"}}
	less := map[string][]string{"acme": {"acme.example"}}
	run(t, setOf(t, both), []mta.Message{
		msg("A", "deferred", mta.ReasonHeld, "a@acme.example"),
		msg("B", "deferred", mta.ReasonHeld, "a@sub.acme.example", "a@acme.example", "b@beta.example"),
		msg("C", "deferred", mta.ReasonHeld, "c@beta.example", "d@beta.example"),
		msg("D", "hold", mta.ReasonHeld, "c@beta.example"),
		msg("E", "deferred", "host down", "x@elsewhere.example"),
	}, func(t *testing.T, m *running) {
		if n := m.Nobody(10); n.Messages != 0 || !n.Known {
			t.Errorf("before: %+v", n)
		}
		m.SetQueues(setOf(t, less))
		if !m.Sorted(t.Context()) {
			t.Fatal("not sorted")
		}
		n := m.Nobody(10)
		if n.Messages != 3 || n.Bytes != 3000 || n.OnHold != 1 || n.More != 0 || len(n.Domains) != 2 || !n.Oldest.Equal(time.Unix(1e9, 0)) {
			t.Errorf("after: %+v", n)
		}
		for i, want := range []NobodyDomain{{"beta.example", 3, 3000, time.Unix(1e9, 0)}, {"sub.acme.example", 1, 1000, time.Unix(1e9, 0)}} {
			if n.Domains[i] != want {
				t.Errorf("domain %d: %+v, want %+v", i, n.Domains[i], want)
			}
		}
		if s, _ := m.State("acme"); s.Messages != 2 {
			t.Errorf("acme: %+v", s)
		}
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(time.Minute)
		// B goes for what acme wanted; the fake tries all of it, as Postfix does,
		// but what is beta's alone is where it was.
		m.mta.set(func() {
			if l := m.mta.messages["C"]; l == nil || m.mta.moved["C"] > 0 || m.mta.moved["D"] > 0 {
				t.Error("something moved what is held for nobody")
			}
		})
		m.SetQueues(setOf(t, both))
		m.Sorted(t.Context())
		if s, _ := m.State("beta"); s.Messages != 2 || m.Nobody(10).Messages != 0 {
			t.Errorf("back: %+v, %+v", s, m.Nobody(10))
		}
	})
}

// Ten thousand domains are counted, and few are shown; of more, the sum is
// right.
func TestHeldForNobodyIsBounded(t *testing.T) {
	n := newNobody(nil)
	s := newSorter(setOf(t, map[string][]string{"acme": {"acme.example"}}))
	for i := range maxNobody + 50 {
		l := msg(number(i), "deferred", mta.ReasonHeld, fmt.Sprintf("a@d%d.example", i))
		n.add(l, s.sort(nil, l.Recipients))
	}
	m := New(Options{Queues: testSet(t), Reconcile: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	m.nobodyIs(m.Queues(), n.done())
	if got := m.Nobody(5); got.Messages != maxNobody+50 || len(got.Domains) != 5 || got.More < maxNobody-5 {
		t.Errorf("%d messages, %d domains, %d more", got.Messages, len(got.Domains), got.More)
	}
}

// What somebody else makes the MTA defer is none of ours.
func TestHeldByOthers(t *testing.T) {
	asked := 0
	n := newNobody(func() func(string) (bool, bool) {
		asked++
		return func(domain string) (bool, bool) { return domain != "slow.example", domain == "acme.example" }
	})
	s := newSorter(setOf(t, map[string][]string{"beta": {"beta.example"}}))
	for i, to := range []string{"a@acme.example", "a@slow.example", "b@beta.example", "b@acme.example"} {
		l := msg(number(i), "deferred", mta.ReasonHeld, to)
		n.add(l, s.sort(nil, l.Recipients))
	}
	// Tried a moment ago, and about to wait again; and one that cannot be
	// delivered, of which nobody knows whether it is held.
	for i, to := range []string{"c@acme.example", "c@rest.example"} {
		l := msg(number(10+i), "deferred", "no route to host", to)
		n.add(l, s.sort(nil, l.Recipients))
	}
	if got := n.done(); got.Messages != 3 || len(got.Domains) != 1 || got.Domains[0].Domain != "acme.example" || asked != 1 {
		t.Errorf("%+v, asked %d times", got, asked)
	}
}

// A queue under a new name is the same queue: its window stays open, what is
// under way goes on, and a call that has it pinned lets it go.
func TestRename(t *testing.T) {
	was, is := map[string][]string{"acme": {"acme.example", ".acme.example"}, "beta": {"beta.example"}}, map[string][]string{"Acme-2": {"acme.example", ".acme.example"}, "beta": {"beta.example"}}
	for name, open := range map[string]func(*running) (shut func()){
		"window": func(m *running) func() {
			m.Ask(t.Context(), owner, "#acme")
			return func() {}
		},
		"pinned": func(m *running) func() { return m.Pin(queue.Selection{Queue: "acme"}) },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, setOf(t, was), []mta.Message{msg("A", "deferred", mta.ReasonHeld, "a@acme.example")}, func(t *testing.T, m *running) {
				m.mta.set(func() { m.mta.takes = 10 * time.Second })
				shut := open(m)
				time.Sleep(time.Second) // A is being tried
				m.SetQueues(setOf(t, is))
				m.Sorted(t.Context())
				if s, ok := m.State("acme-2"); !ok || s.Messages != 1 || s.UnderWay != 1 || !s.Open {
					t.Errorf("renamed: %+v %v", s, ok)
				}
				if n := m.Nobody(10); n.Messages != 0 {
					t.Errorf("held for nobody: %+v", n)
				}
				time.Sleep(20 * time.Second)
				m.mta.add(msg("B", "deferred", mta.ReasonHeld, "b@sub.acme.example"))
				time.Sleep(20 * time.Second)
				s, _ := m.State("Acme-2")
				if s.Messages != 0 || s.Left.Messages != 2 {
					t.Errorf("at the end: %+v", s)
				}
				shut()
				time.Sleep(10 * time.Minute)
				m.mta.add(msg("C", "deferred", mta.ReasonHeld, "b@sub.acme.example"))
				time.Sleep(5 * time.Minute)
				if s, _ := m.State("Acme-2"); s.Open || s.Messages != 1 {
					t.Errorf("shut: %+v", s)
				}
			})
		})
	}
}

// What is no renaming leaves everything where it is.
func TestNoRename(t *testing.T) {
	was := map[string][]string{"acme": {"acme.example"}, "beta": {"beta.example"}}
	for name, is := range map[string]map[string][]string{
		"taken over by one that was there": {"beta": {"beta.example", "acme.example"}},
		"parted":                           {"beta": {"beta.example"}, "a": {"x.example"}},
		"swapped":                          {"acme": {"beta.example"}, "beta": {"acme.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := New(Options{Queues: setOf(t, was), Reconcile: time.Minute, Logger: slog.New(slog.DiscardHandler)})
				m.listing(msg("A", "deferred", mta.ReasonHeld, "a@acme.example"))
				m.Pin(queue.Selection{Queue: "acme"})
				q := m.index.queues["acme"]
				m.SetQueues(setOf(t, is))
				if q.name != "acme" || m.index.queues["acme"] != q {
					t.Errorf("it is now %q", q.name)
				}
				names := []string{}
				for n := range m.index.queues {
					names = append(names, n)
				}
				slices.Sort(names)
				m.check(t)
			})
		})
	}
}
