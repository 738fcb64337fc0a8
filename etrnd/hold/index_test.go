package hold

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// walkSets are configurations between which a walk reloads: queues come and
// go, domains and single addresses move from one to another.
func walkSets(t *testing.T) (sets []*queue.Set) {
	for _, spec := range []map[string][]string{
		{"a": {"a.example", ".a.example"}, "b": {"b.example", "vip@a.example"}, "c": {"c.example"}, "rest": {"*"}},
		{"a": {"a.example", ".a.example"}, "b": {"b.example"}, "c": {"c.example", "vip@a.example"}},
		{"a": {"a.example"}, "b": {"b.example", "c.example"}, "d": {".a.example"}},
		{"b": {"*"}, "a": {"b.example"}},
	} {
		var queues []queue.Queue
		for _, name := range slices.Sorted(maps.Keys(spec)) {
			q := queue.Queue{Name: name, Window: 30 * time.Second, MinInterval: time.Second, Users: []string{"u"}}
			for _, d := range spec[name] {
				p, err := queue.ParsePattern(d)
				if err != nil {
					t.Fatal(err)
				}
				q.Domains = append(q.Domains, p)
			}
			queues = append(queues, q)
		}
		set, err := queue.NewSet(queues)
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, set)
	}
	return sets
}

// TestWalk does thousands of random things to a Manager and an MTA. After each
// the sums equal a recount, and whenever it has become quiet the index is what
// the MTA has, counted by the simplest means.
func TestWalk(t *testing.T) {
	rnd := seed(t)
	sets := walkSets(t)
	run(t, sets[0], nil, func(t *testing.T, m *running) {
		salt := rnd.Uint64()
		m.mta.set(func() {
			m.mta.fails = func(id string, attempt int, recipient string) string {
				h := fnv.New32a()
				fmt.Fprint(h, salt, id, attempt, recipient)
				if h.Sum32()/7%3 > 0 {
					return ""
				}
				return fmt.Sprintf("connection to %s refused", recipient)
			}
		})
		// With directories whose times tell and without; with places for all
		// that is released and for little of it.
		m.mta.set(func() { m.mta.stamps, m.mta.active = rnd.IntN(2) == 0, []int{0, 40}[rnd.IntN(2)] })
		w := &walk{T: t, Rand: rnd, m: m, sets: sets}
		for i := 0; i < 3000 && !t.Failed(); i++ {
			w.step()
			synctest.Wait()
			m.check(t)
			if i%250 == 249 {
				w.quiet()
			}
		}
		if w.n < 1000 || len(m.mta.sent) < 100 {
			t.Errorf("%d messages, %d recipients: the walk does not get about", w.n, len(m.mta.sent))
		}
		for what, n := range m.mta.sent {
			if n > 1 {
				t.Errorf("%s was delivered %d times", what, n)
			}
		}
	})
}

type walk struct {
	*testing.T
	*rand.Rand
	m    *running
	sets []*queue.Set
	n    int // messages so far
	pins []func()
}

var walkAddresses = []string{
	"u@a.example", "vip@a.example", "u@x.a.example", "v@X.a.example.", "u@y.x.a.example", "u@b.example", "v@b.example", "u@c.example",
	"u@else.example", "nobody", "u@[192.0.2.1]",
}

func (w *walk) selection() []queue.Selection {
	for {
		name := []string{"a.example", "@a.example", "#a", "#b", "b.example", "@example", "x.a.example", "@x.a.example", "#c", "#d", "#rest", "c.example"}[w.IntN(12)]
		if sels := w.m.Queues().Resolve(name); sels != nil {
			return sels
		}
	}
}

func (w *walk) step() {
	m := w.m
	switch op := w.IntN(100); {
	case op < 30:
		for range 1 + w.IntN(5) {
			w.arrive()
		}
	case op < 42:
		who := etrn.Identity{User: "u", Session: fmt.Sprint(w.IntN(5))}
		name := w.selection()[0].String()
		if a := m.Ask(w.Context(), who, name); a.Code == 459 {
			w.Errorf("Ask(%s): %+v", name, a)
		}
	case op < 50:
		for _, sel := range w.selection() {
			m.Release(sel)
		}
	case op < 58:
		w.pins = append(w.pins, m.Pin(w.selection()...))
	case op < 66 && len(w.pins) > 0:
		i := w.IntN(len(w.pins))
		w.pins[i]()
		w.pins = slices.Delete(w.pins, i, i+1)
	case op < 74:
		w.postsuper()
	case op < 77:
		m.SetQueues(w.sets[w.IntN(len(w.sets))])
	case op < 80:
		var down error
		if w.IntN(2) == 0 {
			down = mta.ErrDown
		}
		w.down(down)
	case op < 81:
		undo := m.Limit(w.selection()[0].Queue, 1+w.IntN(3))
		time.AfterFunc(time.Duration(w.IntN(60))*time.Second, undo)
	case op < 83:
		time.AfterFunc(time.Duration(w.IntN(5000))*time.Millisecond, m.Watch())
	default:
		time.Sleep(time.Duration(w.IntN([]int{500, 5000, 70000}[w.IntN(3)])) * time.Millisecond)
	}
}

// arrive has a message reported, or stored by the MTA, or both, as mostly.
func (w *walk) arrive() {
	w.n++
	id := number(w.n)
	if w.n > 10 && w.IntN(30) == 0 {
		id = number(w.n - w.IntN(10)) // used again
	}
	l := mta.Message{ID: id, Queue: "deferred", Arrived: time.Now().Truncate(time.Second), Size: int64(w.IntN(5000))}
	ev := report.Event{Kind: report.Message, Time: time.Now().Add(-time.Duration(w.IntN(3)) * time.Second), QueueID: id, Size: int64(w.IntN(5000))}
	for _, i := range w.Perm(len(walkAddresses))[:1+w.IntN(4)] {
		ev.Recipients = append(ev.Recipients, walkAddresses[i])
		l.Recipients = append(l.Recipients, mta.Recipient{Address: walkAddresses[i], Reason: mta.ReasonHeld})
	}
	if w.IntN(4) > 0 {
		w.m.Arrived(ev)
	}
	if w.IntN(8) > 0 {
		time.AfterFunc(time.Duration(w.IntN(400))*time.Millisecond, func() {
			w.m.mta.mu.Lock()
			_, there := w.m.mta.messages[id]
			w.m.mta.mu.Unlock()
			if !there {
				w.m.mta.forget(id)
				w.m.mta.add(l)
			}
		})
	}
}

// postsuper puts a message on hold, takes it off, requeues or deletes it.
func (w *walk) postsuper() {
	f := w.m.mta
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := slices.Sorted(maps.Keys(f.messages))
	if len(ids) == 0 {
		return
	}
	l := f.messages[ids[w.IntN(len(ids))]]
	switch {
	case l.Queue == "hold":
		l.Queue, f.entered = "deferred", time.Now()
	case l.Queue == "maildrop":
	case w.IntN(2) == 0:
		delete(f.messages, l.ID)
	case l.Queue == "deferred" && w.IntN(2) == 0:
		l.Queue = "hold"
	case l.Queue == "deferred":
		w.n++
		f.requeue(l, number(w.n), time.Duration(w.IntN(5000))*time.Millisecond)
	}
}

func (w *walk) down(err error) {
	w.m.mta.set(func() { w.m.mta.fault = err })
}

// quiet ends what is under way, and compares.
func (w *walk) quiet() {
	for _, unpin := range w.pins {
		unpin()
	}
	w.pins = nil
	w.down(nil)
	time.Sleep(time.Hour)
	w.m.Relist()
	synctest.Wait()
	w.m.check(w.T)
	f := w.m.mta
	f.mu.Lock()
	defer f.mu.Unlock()
	type count struct {
		messages, onHold int
		bytes            int64
		oldest           time.Time
	}
	want := map[string]count{}
	for _, l := range f.messages {
		seen := map[string]bool{}
		for _, r := range l.Recipients {
			name, ok := w.m.Queues().Match(r.Address)
			if !ok || seen[name] {
				continue
			}
			seen[name] = true
			c := want[name]
			c.messages++
			c.bytes += l.Size
			if l.Queue == "hold" {
				c.onHold++
			}
			if c.oldest.IsZero() || l.Arrived.Before(c.oldest) {
				c.oldest = l.Arrived
			}
			want[name] = c
		}
	}
	for _, s := range w.m.States() {
		c := want[s.Queue]
		if s.Messages != c.messages || s.Bytes != c.bytes || s.OnHold != c.onHold || !s.Oldest.Equal(c.oldest) || s.UnderWay != 0 || s.Open {
			w.Errorf("when all is quiet: %+v, the MTA has %+v", s, c)
		}
		if one, ok := w.m.State(s.Queue); !ok || one != s {
			w.Errorf("State says %+v, States %+v", one, s)
		}
	}
}

// Others get at the index in the middle of a comparison, and may change it.
func TestQuestionsWhileListing(t *testing.T) {
	m := manager(t)
	const n = 10 * compareChunk
	var list []mta.Message
	for i := range n {
		rcpts := []string{fmt.Sprintf("u@d%d.acme.example", i%7)}
		if i%3 == 0 {
			rcpts = append(rcpts, "b@beta.example")
		}
		list = append(list, msg(number(i), "deferred", mta.ReasonHeld, rcpts...))
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	for _, do := range []func(i int){
		func(i int) { m.Ask(t.Context(), owner, []string{"#acme", "d3.acme.example", "@acme.example"}[i%3]) },
		func(i int) {
			m.Pin(queue.Selection{Queue: "beta"}, queue.Selection{Queue: "acme", Domain: "d1.acme.example"})()
		},
		func(i int) {
			m.Arrived(report.Event{Time: time.Now(), QueueID: number(i % (2 * n)), Recipients: []string{"x@acme.example"}})
		},
		func(i int) { m.flushNow() },
		func(i int) {
			m.State("acme")
			for range m.States() {
			}
			if i%100 == 0 {
				m.SetQueues(testSet(t))
			}
		},
	} {
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					do(i)
				}
			}
		})
	}
	for i := range 20 {
		m.compareAll(m.Queues(), list[i%2*n/2:], time.Now())
	}
	close(stop)
	others.Wait()
	m.check(t)
	// Long after that, what the MTA has is what counts.
	later := time.Now().Add(believed)
	m.compareAll(m.Queues(), list, later)
	m.compareAll(m.Queues(), list, later)
	if s := m.must(t, "acme"); s.Messages != n {
		t.Errorf("acme: %+v", s)
	}
	if s := m.must(t, "beta"); s.Messages != (n+2)/3 {
		t.Errorf("beta: %+v", s)
	}
}

// A message to many recipients takes room for its domains, and a walk over a
// selection meets it once.
func TestManyRecipients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		var rcpts []string
		for i := range 3000 {
			rcpts = append(rcpts, fmt.Sprintf("r%d@d%d.acme.example", i, i%3), fmt.Sprintf("r%d@beta.example", i))
		}
		m.listing(msg("A", "deferred", mta.ReasonHeld, rcpts...))
		if n := len(m.index.messages["A"].parts()); n != 4 {
			t.Errorf("%d parts", n)
		}
		for _, name := range []string{"#acme", "@acme.example", "d1.acme.example"} {
			n := 0
			for range m.index.covered(m.Queues().Resolve(name)[0]) {
				n++
			}
			if n != 1 {
				t.Errorf("%s covers it %d times", name, n)
			}
		}
		if s := m.must(t, "acme"); s.Messages != 1 || s.Bytes != 1000 {
			t.Errorf("acme: %+v", s)
		}
	})
}

// Domains are forgotten with the last message for them: a stranger could make
// up any number.
func TestDomainsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		var list []mta.Message
		for i := range 1000 {
			list = append(list, msg(number(i), "deferred", mta.ReasonHeld, fmt.Sprintf("u@d%d.acme.example", i)))
		}
		m.listing(list...)
		m.listing()
		m.listing()
		if n := len(m.index.domains) + len(m.index.queue("acme").domains) + len(m.index.messages); n != 0 {
			t.Errorf("%d things are remembered", n)
		}
	})
}

// The recipients that a reload moves to another queue have not left.
func TestReload(t *testing.T) {
	sets := walkSets(t)
	synctest.Test(t, func(t *testing.T) {
		m := New(Options{Queues: sets[0], Reconcile: time.Minute})
		l := msg("A", "deferred", mta.ReasonHeld, "u@x.a.example", "u@c.example")
		m.listing(l)
		unpin := m.Pin(queue.Selection{Queue: "a"}, queue.Selection{Queue: "c"})
		defer unpin()
		m.SetQueues(sets[2])
		m.listing(l)
		m.check(t)
		for name, held := range map[string]int{"a": 0, "b": 1, "d": 1} {
			if s := m.must(t, name); s.Messages != held || s.Left.Messages != 0 {
				t.Errorf("%+v", s)
			}
		}
		m.SetQueues(sets[0])
		m.listing(l)
		m.flushNow()
		time.Sleep(time.Second)
		m.listing(msg("A", "active", "", "u@c.example"))
		m.check(t)
		if a, c := m.must(t, "a"), m.must(t, "c"); a.Left.Messages != 1 || c.Left.Messages != 0 || c.UnderWay != 1 {
			t.Errorf("a: %+v\nc: %+v", a, c)
		}
	})
}
