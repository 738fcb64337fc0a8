package hold

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// fakeMTA has a queue as Postfix has it: a flush makes a deferred message
// active, and a moment later each recipient is delivered to, or is deferred
// again. Faults are what the test makes of them.
type fakeMTA struct {
	mu       sync.Mutex
	messages map[string]*mta.Message
	calls    []flushCall
	moved    map[string]int // flushes that found the message
	sent     map[string]int // recipients delivered to
	lists    int            // listings
	active   int            // of which at most are tried at one time; 0: any number
	trying   int
	most     int // that were tried at one time
	stamps   bool
	entered  time.Time // when a message last did
	touched  time.Time // when anything last happened

	fault   error                               // of every command, but for the hooks
	down    error                               // what Up says
	takes   time.Duration                       // an attempt
	slow    func([]mta.Recipient) time.Duration // or this
	each    func(address string) time.Duration  // or this for each recipient, none of which waits for another
	putBy   func() bool                         // what is flushed is left in the incoming queue
	fails   func(id string, attempt int, recipient string) (reason string)
	release func(ctx context.Context, domains, ids []string) error // before anything moves
	list    func(ctx context.Context) error
}

type flushCall struct {
	at      time.Duration // since the start of the test
	domains []string
	ids     []string
}

// set changes the hooks.
func (f *fakeMTA) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// unlocked calls a hook, which may take its time, and may change the hooks.
func (f *fakeMTA) unlocked(hook func() error) error {
	f.mu.Unlock()
	defer f.mu.Lock()
	return hook()
}

// peak is how many messages were tried at one time.
func (f *fakeMTA) peak() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

func (f *fakeMTA) listings() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists
}

// first is the first flush.
func (f *fakeMTA) first() flushCall {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[0]
}

// last is the last flush.
func (f *fakeMTA) last() flushCall {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[len(f.calls)-1]
}

func (f *fakeMTA) add(list ...mta.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range list {
		l.Recipients = slices.Clone(l.Recipients)
		f.messages[l.ID] = &l
		f.entered, f.touched = time.Now(), time.Now()
	}
}

// forget prepares for an id that is used again: what is known by it is about
// another message.
func (f *fakeMTA) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.sent, func(what string, _ int) bool { return strings.HasPrefix(what, id+" ") })
}

func (f *fakeMTA) List(ctx context.Context, each func(mta.Message)) error {
	list, err := f.snapshot(ctx)
	if err != nil {
		return err
	}
	// What is handed on may be used again.
	var l mta.Message
	for _, now := range list {
		rcpts := append(l.Recipients[:0], now.Recipients...)
		l = now
		l.Recipients = rcpts
		each(l)
		clear(rcpts)
	}
	return nil
}

func (f *fakeMTA) snapshot(ctx context.Context) (list []mta.Message, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists++
	if list := f.list; list != nil {
		if err := f.unlocked(func() error { return list(ctx) }); err != nil {
			return nil, err
		}
	}
	if f.fault != nil {
		return nil, f.fault
	}
	for _, id := range slices.Sorted(maps.Keys(f.messages)) {
		l := *f.messages[id]
		l.Recipients = slices.Clone(l.Recipients)
		list = append(list, l)
	}
	return list, nil
}

// Stamp is that of directories whose times tell, if the test has them.
func (f *fakeMTA) Stamp(context.Context) (s mta.Stamp) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stamps {
		return s
	}
	s.Entered, s.Moved = uint64(f.entered.UnixNano())|1, uint64(f.touched.UnixNano())|1
	s.Settled.Entered, s.Settled.Moved = time.Since(f.entered) > time.Second, time.Since(f.touched) > time.Second
	return s
}

func (f *fakeMTA) Up(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

func (f *fakeMTA) ActiveLimit(context.Context) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == 0 {
		return 20000, f.fault
	}
	return f.active, f.fault
}

func (f *fakeMTA) Release(ctx context.Context, domains, ids []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, flushCall{time.Since(epoch), domains, ids})
	if release := f.release; release != nil {
		if err := f.unlocked(func() error { return release(ctx, domains, ids) }); err != nil {
			return err
		}
	}
	if f.fault != nil {
		return f.fault
	}
	for _, id := range slices.Sorted(maps.Keys(f.messages)) {
		l := f.messages[id]
		noted := slices.ContainsFunc(l.Recipients, func(r mta.Recipient) bool { return slices.Contains(domains, domainOf(r.Address)) })
		if (l.Queue == "deferred" || l.Queue == "incoming" && f.putBy != nil) && (noted || slices.Contains(ids, id)) {
			f.try(l)
		}
	}
	return nil
}

func (f *fakeMTA) try(l *mta.Message) {
	l.Queue = "active"
	for i := range l.Recipients {
		l.Recipients[i].Reason = ""
	}
	f.moved[l.ID]++
	attempt := f.moved[l.ID]
	f.entered, f.touched = time.Now(), time.Now()
	if f.putBy != nil && f.putBy() {
		l.Queue = "incoming"
		return
	}
	if f.active > 0 && f.trying >= f.active {
		// There is no place: it waits in the incoming queue.
		l.Queue = "incoming"
		f.moved[l.ID]--
		time.AfterFunc(time.Second, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.messages[l.ID] == l {
				f.try(l)
			}
		})
		return
	}
	f.trying++
	f.most = max(f.most, f.trying)
	if f.each != nil {
		f.tryEach(l)
		return
	}
	takes := f.takes
	if f.slow != nil {
		takes = f.slow(l.Recipients)
	}
	time.AfterFunc(takes, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.trying--
		f.touched = time.Now()
		if f.messages[l.ID] != l {
			return
		}
		var left []mta.Recipient
		for _, r := range l.Recipients {
			reason := ""
			if f.fails != nil {
				reason = f.fails(l.ID, attempt, r.Address)
			}
			if reason == "" {
				f.sent[l.ID+" "+r.Address]++
				continue
			}
			r.Reason = reason
			left = append(left, r)
		}
		l.Queue, l.Recipients = "deferred", left
		if left == nil {
			delete(f.messages, l.ID)
		}
	})
}

// tryEach delivers to each recipient in its own time.
func (f *fakeMTA) tryEach(l *mta.Message) {
	left := len(l.Recipients)
	for _, r := range l.Recipients {
		time.AfterFunc(f.each(r.Address), func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.touched = time.Now()
			f.sent[l.ID+" "+r.Address]++
			// Nobody keeps what a listing has handed out.
			l.Recipients = slices.DeleteFunc(slices.Clone(l.Recipients), func(o mta.Recipient) bool { return o.Address == r.Address })
			if left--; left == 0 {
				f.trying--
				delete(f.messages, l.ID)
			}
		})
	}
}

func (f *fakeMTA) IsLocal(context.Context, string) (bool, error) { return false, nil }
func (f *fakeMTA) Refuses(context.Context, string, []netip.Prefix) (bool, error) {
	return false, nil
}
func (f *fakeMTA) RecipientDelimiter(context.Context) (string, error) { return "", nil }
func (f *fakeMTA) Lifetime(context.Context) (time.Duration, error)    { return 5 * 24 * time.Hour, nil }
func (f *fakeMTA) Refresh()                                           {}

// times is when the flushes were, in seconds since the start of the test.
func (f *fakeMTA) times() (list []float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		list = append(list, c.at.Seconds())
	}
	return list
}

// epoch is when every synctest bubble begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// running is a Manager that runs on a fakeMTA.
type running struct {
	*Manager
	mta *fakeMTA
	log *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// lines are those of the log that contain what.
func (b *syncBuffer) lines(what string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.b.String()) {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

// run runs a test in a bubble of virtual time, with messages that are held.
func run(t *testing.T, set *queue.Set, held []mta.Message, test func(t *testing.T, m *running)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeMTA{messages: map[string]*mta.Message{}, moved: map[string]int{}, sent: map[string]int{}, takes: 50 * time.Millisecond}
		f.add(held...)
		log := &syncBuffer{}
		m := New(Options{MTA: f, Queues: set, Reconcile: time.Minute, Logger: slog.New(slog.NewTextHandler(log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		defer done.Wait()
		defer cancel()
		synctest.Wait()
		test(t, &running{m, f, log})
		m.check(t)
	})
}

// check compares the index with a recount of its messages.
func (m *Manager) check(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	ix := &m.index
	type sums struct {
		count  [classes]int
		bytes  int64
		oldest int64
	}
	want := map[string]*sums{}
	domains := map[string]int{} // "queue domain" to messages
	unlistedN, missingN, underWayN, inHandN := 0, 0, 0, 0
	inHand, lent, unlistedIn := map[*queueIndex]int{}, map[*queueIndex]int{}, map[*queueIndex]int{}
	var due []string
	for id, msg := range ix.messages {
		if msg.id != id {
			t.Errorf("message %s is under %s", msg.id, id)
		}
		if msg.place == unlisted {
			unlistedN++
		}
		if msg.missing {
			missingN++
		}
		a := msg.attempt
		if a != nil && a.want != nil {
			underWayN++
		}
		if a != nil && !a.due.IsZero() {
			due = append(due, id)
			if !a.filed.Equal(a.due) {
				t.Errorf("%s is due at %v and filed under %v", id, a.due, a.filed)
			}
		}
		if a != nil && a.want != nil && a.inHand {
			some := 0
			for _, q := range a.want {
				if msg.in(q) {
					inHand[q]++
					if a.by != nil && a.by != q {
						lent[q]++
					}
					some = 1
				}
			}
			inHandN += some
		}
		if msg.place == unlisted {
			for q := range msg.all() {
				unlistedIn[q]++
			}
		}
		seen := map[string]bool{}
		for _, p := range msg.parts() {
			domains[p.domain.queue.name+" "+p.domain.name]++
			name := p.domain.queue.name
			if seen[name] {
				continue
			}
			seen[name] = true
			s := want[name]
			if s == nil {
				s = &sums{oldest: msg.arrived}
				want[name] = s
			}
			s.bytes += msg.size
			s.oldest = min(s.oldest, msg.arrived)
			switch {
			case a != nil && slices.ContainsFunc(a.want, func(q *queueIndex) bool { return q.name == name }):
				s.count[classUnderWay]++
			case msg.place == onHold:
				s.count[classOnHold]++
			case a == nil || a.failed == "":
				s.count[classWaiting]++
			case a.failures == 1 && !a.due.IsZero():
				s.count[classRetry]++
			default:
				s.count[classFailed]++
			}
		}
	}
	for name, q := range ix.queues {
		s := want[name]
		if s == nil {
			s = &sums{}
		}
		n := 0
		for _, c := range s.count {
			n += c
		}
		if q.count != s.count || q.bytes != s.bytes || len(q.messages) != n || n > 0 && q.messages[0].message.arrived != s.oldest {
			t.Errorf("queue %q has %v, %d bytes, %d messages; a recount %v, %d, %d", name, q.count, q.bytes, len(q.messages), s.count, s.bytes, n)
		}
		if len(q.failed) != s.count[classFailed]+s.count[classRetry] {
			t.Errorf("queue %q lists %d that failed of %v", name, len(q.failed), s.count)
		}
		for i, p := range q.failed {
			if int(p.inFailed) != i {
				t.Errorf("queue %q: failed %d is at %d", name, i, p.inFailed)
			}
		}
		for i, p := range q.messages {
			if int(p.inQueue) != i || p.domain.queue != q || i > 0 && q.messages.Less(i, (i-1)/2) {
				t.Errorf("queue %q is no heap at %d", name, i)
			}
		}
		for i, d := range q.domains {
			n := domains[name+" "+d.name]
			if d.at != i || d.queue != q || len(d.parts) != n || n == 0 || ix.domains[domainKey{q, d.name}] != d {
				t.Errorf("queue %q: domain %q at %d of %d has %d messages, a recount %d", name, d.name, i, d.at, len(d.parts), n)
			}
			for j, p := range d.parts {
				if int(p.inDomain) != j || p.domain != d {
					t.Errorf("queue %q: part %d of %s is wrong", name, j, d.name)
				}
			}
			delete(domains, name+" "+d.name)
		}
		delete(want, name)
	}
	if len(want)+len(domains) > 0 {
		t.Errorf("not in the index: queues %v, domains %v", want, domains)
	}
	for _, q := range ix.queues {
		if q.flow.inHand != inHand[q] || q.flow.lent != lent[q] || q.unlisted != unlistedIn[q] || q.flow.inHand > 0 && !has(ix.moving, q) {
			t.Errorf("queue %q has %d in the MTA's hand and %d unlisted, a recount %d and %d", q.name, q.flow.inHand, q.unlisted, inHand[q], unlistedIn[q])
		}
	}
	if ix.inHand != inHandN {
		t.Errorf("%d in the MTA's hand, a recount %d", ix.inHand, inHandN)
	}
	if ix.unlisted != unlistedN || ix.missing != missingN || ix.underWay != underWayN {
		t.Errorf("%d unlisted, %d missing, %d under way; a recount %d, %d, %d", ix.unlisted, ix.missing, ix.underWay, unlistedN, missingN, underWayN)
	}
	filed := map[string]bool{}
	for i, msg := range ix.later {
		if int(msg.attempt.at) != i || msg.attempt.ready || !ix.has(msg) || i > 0 && ix.later.Less(i, (i-1)/2) {
			t.Errorf("later is no heap at %d", i)
		}
		filed[msg.id] = true
	}
	ready := 0
	for i, q := range ix.rounds {
		if q.inRound != i || q.ready.Len() == 0 || ix.queues[q.name] != q {
			t.Errorf("queue %q is in rounds at %d, and means to be at %d", q.name, i, q.inRound)
		}
		for i, p := range q.ready {
			msg := p.message
			if a := msg.attempt; int(p.inReady) != i || p.domain.queue != q || !a.ready || !a.want.has(q) || !ix.has(msg) || i > 0 && q.ready.Less(i, (i-1)/2) {
				t.Errorf("what is ready of queue %q is no heap at %d", q.name, i)
			}
			if !filed[msg.id] {
				ready++
			}
			filed[msg.id] = true
		}
	}
	if ready != ix.ready {
		t.Errorf("%d are ready, a recount %d", ix.ready, ready)
	}
	slices.Sort(due)
	if list := slices.Sorted(maps.Keys(filed)); !slices.Equal(due, list) {
		t.Errorf("due are %v, filed are %v", due, list)
	}
	for q := range m.open {
		if q.window == nil || ix.queues[q.name] != q {
			t.Errorf("queue %q is in open, and has no window", q.name)
		}
	}
}

func has[K comparable](set map[K]struct{}, k K) bool {
	_, ok := set[k]
	return ok
}

// compareAll makes the index equal to a listing that began at start, and reports
// whether anything moved.
func (m *Manager) compareAll(set *queue.Set, list []mta.Message, start time.Time) (moved bool) {
	c := m.compare(set, start)
	for _, l := range list {
		c.add(l)
	}
	c.end()
	return c.moved
}

// seed is a new one each time, and printed, so that a failure can be had again.
func seed(t testing.TB) *rand.Rand {
	s := uint64(time.Now().UnixNano())
	if replay != 0 {
		s = replay
	}
	t.Logf("seed %d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// number names a message.
func number(n int) string { return fmt.Sprintf("M%06d", n) }

// replay is a seed to be had again: HOLD_SEED=n go test -run TestWalk.
var replay, _ = strconv.ParseUint(os.Getenv("HOLD_SEED"), 10, 64)
