package hold

import (
	"fmt"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// hang makes deliveries to some domains take for ever, and those to others none.
func (f *fakeMTA) hang(domains ...string) {
	f.set(func() {
		f.each = func(address string) time.Duration {
			for _, d := range domains {
				if domainOf(address) == d {
					return 24 * time.Hour
				}
			}
			return 50 * time.Millisecond
		}
	})
}

// got is how many messages a recipient has.
func (f *fakeMTA) got(address string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for what, times := range f.sent {
		if len(what) > len(address) && what[len(what)-len(address)-1:] == " "+address {
			n += times
		}
	}
	return n
}

func shared(n int, to ...string) (list []mta.Message) {
	for i := range n {
		list = append(list, msg(fmt.Sprintf("B%06d", i), "deferred", mta.ReasonHeld, to...))
	}
	return list
}

// A message for two queues, the site of one of which hangs, goes to the other one
// as if it were for that alone: whichever was asked for first, whoever's places are
// taken, and wherever the message was filed meanwhile.
func TestSharedGoesByAnyPlace(t *testing.T) {
	const n = 300
	acme, beta := queue.Selection{Queue: "acme"}, queue.Selection{Queue: "beta"}
	for name, release := range map[string]func(m *running){
		"the stuck one first":   func(m *running) { m.Release(beta); m.Release(acme) },
		"the stuck one last":    func(m *running) { m.Release(acme); m.Release(beta) },
		"both at once":          func(m *running) { m.Pin(acme, beta) },
		"the stuck one and all": func(m *running) { m.Pin(beta); m.Ask(t.Context(), owner, "#acme") },
		"more than once":        func(m *running) { m.Release(acme); m.Release(beta); time.Sleep(time.Second); m.Release(beta) },
	} {
		t.Run(name, func(t *testing.T) {
			held := append(heldFor(400, "b@beta.example"), msg("OTHER", "deferred", mta.ReasonHeld, "x@nobody.example"))
			run(t, testSet(t), held, func(t *testing.T, m *running) {
				m.mta.hang("beta.example")
				m.Release(beta)
				time.Sleep(5 * time.Minute) // its window shrinks, and its places are all taken
				if s := m.must(t, "beta"); s.InHand < leastWindow || s.InHand == s.UnderWay {
					t.Fatalf("beta: %d in hand of %d", s.InHand, s.UnderWay)
				}
				m.mta.add(shared(n, "a@acme.example", "b@beta.example")...)
				m.Relist()
				time.Sleep(time.Second)
				release(m)
				time.Sleep(20 * time.Second)
				if got := m.mta.got("a@acme.example"); got != n {
					t.Errorf("acme has %d of its %d messages", got, n)
				}
				if s := m.must(t, "acme"); s.UnderWay > 0 || s.Messages > 0 || s.Left.Messages != n {
					t.Errorf("acme: %+v", s)
				}
			})
		})
	}
}

// One that was filed while its queues had places, and comes to its turn when one
// has none any more, goes by the other. New mail of an open queue does, too.
func TestSharedWindowShrinksMeanwhile(t *testing.T) {
	held := append(shared(600, "a@acme.example", "b@beta.example"), heldFor(600, "b@beta.example")...)
	run(t, testSet(t), held, func(t *testing.T, m *running) {
		m.mta.hang("beta.example")
		m.Pin(queue.Selection{Queue: "beta"}, queue.Selection{Queue: "acme"})
		time.Sleep(30 * time.Second)
		if got := m.mta.got("a@acme.example"); got != 600 {
			t.Errorf("acme has %d of 600", got)
		}
		time.Sleep(10 * time.Minute)
		m.mta.add(msg("NEW", "deferred", mta.ReasonHeld, "a@acme.example", "b@beta.example"))
		time.Sleep(3 * time.Second)
		if got := m.mta.got("a@acme.example"); got != 601 {
			t.Errorf("acme does not have what came last: %d", got)
		}
	})
}

// What is shared with a queue that is stuck takes no more than a part of the MTA's
// places, and those who share nothing with it are served as if it were not there;
// what goes for it and a quick one goes on as soon as it moves again.
func TestSharedLeavesPlaces(t *testing.T) {
	const active, n = 400, 3000
	held := append(shared(n, "a@acme.example", "b@beta.example"), heldFor(100, "x@nobody.example")...)
	run(t, testSet(t), held, func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.active = active })
		m.mta.hang("beta.example")
		m.Pin(queue.Selection{Queue: "acme"})
		m.Pin(queue.Selection{Queue: "beta"})
		time.Sleep(10 * time.Minute)
		s := m.must(t, "beta")
		if s.InHand > active/shareOfActive*2/3 {
			t.Errorf("beta has %d of %d places", s.InHand, active/shareOfActive)
		}
		if got := m.mta.got("a@acme.example"); got < 50 {
			t.Errorf("acme has %d messages, of those that found a place", got)
		}
		m.Release(queue.Selection{Queue: "nobody"})
		time.Sleep(5 * time.Second)
		if s := m.must(t, "nobody"); s.Messages > 0 {
			t.Errorf("nobody, which is quick: %+v", s)
		}
		if m.mta.peak() > active/shareOfActive {
			t.Errorf("%d were tried at one time", m.mta.peak())
		}
	})
}

// Queues that are full of what they share with each other and with quick ones
// keep nobody from looking at them again and again, and nothing from its end.
func TestSharedAmongStuck(t *testing.T) {
	const sites, active = 6, 300
	set := provider(t, sites+1)
	address := func(i int) string { return fmt.Sprintf("u@customer%05d.example", i) }
	var held []mta.Message
	for i := range sites {
		for j := range sites {
			if i == j {
				continue
			}
			for k := range 40 {
				held = append(held, msg(fmt.Sprintf("S%dT%dM%02d", i, j, k), "deferred", mta.ReasonHeld, address(i), address(j), address(sites)))
			}
		}
	}
	run(t, set, held, func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.active = active })
		m.mta.set(func() {
			m.mta.each = func(a string) time.Duration {
				if a == address(sites) {
					return 50 * time.Millisecond
				}
				return 3 * time.Minute
			}
		})
		for i := range sites + 1 {
			m.Pin(queue.Selection{Queue: fmt.Sprintf("customer%05d", i)})
		}
		time.Sleep(2 * time.Hour)
		if left := len(m.mta.messages); left > 0 {
			t.Errorf("%d messages are left", left)
		}
		if m.mta.peak() > active*3/4 {
			t.Errorf("%d were tried at one time", m.mta.peak())
		}
		for what, n := range m.mta.sent {
			if n != 1 {
				t.Errorf("%s: %d", what, n)
			}
		}
	})
}
