// Package hold knows what the MTA holds for each queue, and lets it go.
//
// The MTA's queue is the only place where mail lives. The Manager's index is a
// cache of it: built from the MTA's listing, kept by what the milter reports,
// and compared with the listing again on a cadence and after every release. A
// release is a request to the MTA to try some messages now; the Manager follows
// each until the MTA has delivered it or has given a reason for not doing so.
//
// It decides who may ask for which queue (RFC 1985, section 6). It does not
// speak any protocol and delivers nothing.
package hold

import (
	"cmp"
	"context"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// Options for a Manager.
type Options struct {
	MTA    mta.MTA
	Queues *queue.Set
	// Reconcile is the longest time between two listings of the MTA's queue.
	Reconcile time.Duration
	Logger    *slog.Logger
}

// Manager keeps the index. Its methods may be called from several goroutines;
// only Arrived may wait for the MTA, which it asks whether a domain is its own.
type Manager struct {
	mta       mta.MTA
	reconcile time.Duration
	log       *slog.Logger
	poke      chan struct{} // wakes Run
	mu        sync.Mutex
	set       *queue.Set
	entries   map[string]*entry
	open      map[string]*window   // by queue name
	recent    map[string]time.Time // until when a request must not come again
	left      map[string]Left      // what has gone, by queue name
	released  map[string]time.Time
	changed   chan struct{} // closed and replaced at every change

	listAt    time.Time // when the next listing is due
	doubt     bool      // a message was absent from the last listing, once
	moving    bool      // a release was under way in the last listing
	watchers  int       // who wait for changes
	inListing int       // entries that the last good listing had
	total     int       // messages in the last good listing, of any queue or none
	listed    time.Time // when the last good listing began; zero: never
	listTook  time.Duration
	listEnded time.Time
	listErr   error
	flushErrs int       // flushes that failed since one succeeded
	forgot    time.Time // when recent was last tidied
	quiet     int       // listings since anything moved
}

// window is the time in which new mail of a queue goes out at once.
type window struct {
	asked []asked            // of ETRN requests
	pins  []*queue.Selection // of calls and turns under way
}

// asked is a part of a queue that was asked for lately.
type asked struct {
	sel   queue.Selection
	until time.Time
}

// maxAsked bounds the parts of a queue that are open one by one. Whoever asks
// for more names than this has all of it open.
const maxAsked = 50

func (w *window) open(now time.Time) bool {
	return w != nil && (len(w.pins) > 0 || now.Before(w.until()))
}

// until is when the last part shuts.
func (w *window) until() (t time.Time) {
	for _, a := range w.asked {
		if a.until.After(t) {
			t = a.until
		}
	}
	return t
}

// ask opens a part until a time.
func (w *window) ask(sel queue.Selection, until, now time.Time) {
	w.asked = slices.DeleteFunc(w.asked, func(a asked) bool { return !now.Before(a.until) || a.sel == sel && !until.Before(a.until) })
	if len(w.asked) >= maxAsked {
		w.asked, sel = nil, queue.Selection{Queue: sel.Queue}
	}
	w.asked = append(w.asked, asked{sel, until})
}

func (w *window) pinned() bool { return w != nil && len(w.pins) > 0 }

func (w *window) covers(e *entry, now time.Time) bool {
	return slices.ContainsFunc(w.pins, func(sel *queue.Selection) bool { return e.covered(*sel) }) ||
		slices.ContainsFunc(w.asked, func(a asked) bool { return now.Before(a.until) && e.covered(a.sel) })
}

// Left counts what has left the MTA's queue after a release: delivered, or
// returned to its sender.
type Left struct {
	Messages int
	Bytes    int64
}

// State is what is known of one queue.
type State struct {
	Queue    string
	Messages int   // with at least one recipient that has not got it
	Bytes    int64 // of those messages
	Oldest   time.Time
	UnderWay int       // released, and neither gone nor back
	Failed   int       // tried after a release, and back
	Retry    int       // of these, those about to be tried a second time
	OnHold   int       // put on hold by an administrator
	Reason   string    // why one that failed did; empty if none did
	Open     bool      // new mail goes out at once
	Pinned   bool      // for as long as a call lasts
	Until    time.Time // end of the window; zero if pinned or closed
	Released time.Time // the last release; zero: none since the start
	Left     Left
	Known    bool // false until the MTA's queue has been listed
}

// New returns a Manager. Run does the work.
func New(o Options) *Manager {
	return &Manager{
		mta: o.MTA, reconcile: o.Reconcile, log: o.Logger, set: o.Queues,
		poke:    make(chan struct{}, 1),
		entries: map[string]*entry{}, open: map[string]*window{}, recent: map[string]time.Time{}, left: map[string]Left{}, released: map[string]time.Time{},
		changed: make(chan struct{}),
	}
}

// SetQueues swaps the queues, as a reload does. What is held is sorted into the
// new ones by the next listing, which it asks for.
func (k *Manager) SetQueues(set *queue.Set) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set = set
	for name := range k.open {
		if _, ok := set.ByName(name); !ok && !k.open[name].pinned() {
			delete(k.open, name)
		}
	}
	k.listAt = time.Time{}
	k.touched()
}

// Queues returns the set in use.
func (k *Manager) Queues() *queue.Set {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set
}

// touched tells waiters and Run that something changed. The caller holds mu.
func (k *Manager) touched() {
	k.notify()
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

// Changed returns a channel that is closed at the next change of any state.
func (k *Manager) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Arrived takes the milter's report of a message that the MTA is about to
// accept. The listing that follows corrects it: the MTA may rewrite
// recipients, or refuse the message after all.
func (k *Manager) Arrived(ev report.Event) {
	if !plainID(ev.QueueID) {
		return
	}
	// Matching may ask the MTA, so it is done before the lock is taken.
	rcpts := make([]recipient, 0, len(ev.Recipients))
	set := k.Queues()
	for _, addr := range ev.Recipients {
		name, _ := set.Match(addr)
		rcpts = append(rcpts, recipient{address: addr, queue: name})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if ev.Time.IsZero() || ev.Time.After(now) {
		ev.Time = now
	}
	e := &entry{id: ev.QueueID, arrived: ev.Time, size: ev.Size, reported: ev.Time, rcpts: rcpts}
	if len(e.queues()) == 0 {
		return
	}
	k.due(now.Add(time.Second))
	k.touched()
	// Reports may come late, when nobody listened at first. What a listing has
	// said since is newer.
	old := k.entries[ev.QueueID]
	if old != nil && !old.seen.Before(ev.Time) || old == nil && k.listed.After(ev.Time.Add(unlisted)) {
		return
	}
	if old == nil && k.unlisted() >= maxUnlisted {
		return
	}
	// An id may be used again: the MTA has just given this one to a new
	// message, so what was known under it is gone.
	k.entries[e.id] = e
	k.openFor(e, now)
}

// maxUnlisted bounds the messages that only the milter has told of: beyond it
// the listing has to do.
const maxUnlisted = 10000

func (k *Manager) unlisted() int { return len(k.entries) - k.inListing }

// plainID reports whether a queue id looks like one: it goes on to commands.
func plainID(id string) bool {
	return id != "" && len(id) <= 64 && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
	})
}

// Watch makes the Manager look at short intervals, for somebody who waits for
// what becomes of the queue, until the function that it returns is called.
func (k *Manager) Watch() (stop func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watchers++
	k.due(time.Now())
	k.touched()
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.watchers--
	})
}

// Relist asks for a listing now, without waiting for it.
func (k *Manager) Relist() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listAt = time.Time{}
	k.touched()
}

// due moves the next listing forward, but never too far. The caller holds mu.
func (k *Manager) due(at time.Time) {
	if soonest := k.listEnded.Add(k.pause()); at.Before(soonest) {
		at = soonest
	}
	if at.Before(k.listAt) {
		k.listAt = at
	}
}

// openFor releases a message that has just arrived if its queue is open. The
// caller holds mu.
func (k *Manager) openFor(e *entry, now time.Time) {
	if e.held() {
		return
	}
	for _, name := range e.queues() {
		if w := k.open[name]; w.open(now) && w.covers(e, now) && e.release(name, now) && e.where == "" {
			e.flushAt = now.Add(arrivalDelays[0])
		}
	}
}

// Release lets a selection go. It does not wait for the MTA.
func (k *Manager) Release(sel queue.Selection) Started {
	k.mu.Lock()
	defer k.mu.Unlock()
	st := k.release(sel, time.Now(), true)
	k.touched()
	return st
}

// Started is what a release set going.
type Started struct {
	Messages int
	Bytes    int64
	UnderWay int // messages that were under way already
}

// release lets a selection go. asked says that somebody asked for just this,
// so that it is not taken back when a call or a turn ends. The caller holds mu.
func (k *Manager) release(sel queue.Selection, now time.Time, asked bool) (st Started) {
	k.released[sel.Queue] = now
	for _, e := range k.entries {
		if e.held() || !e.covered(sel) {
			continue
		}
		// Whoever asks anew has a new connection, and what failed on the last
		// one gets a second try again.
		e.failures = 0
		e.asked = e.asked || asked
		fresh := e.where == "" && e.want == nil
		if !e.release(sel.Queue, now) {
			st.UnderWay++
			continue
		}
		if fresh {
			e.flushAt = now.Add(arrivalDelays[0])
		}
		st.Messages++
		st.Bytes += e.size
	}
	return st
}

// Pin opens queues, or parts of them, for as long as a call or a turn lasts:
// what is held goes now, what arrives goes at once, and what fails is tried
// again after a while. The function that it returns ends that; what is still
// held then stays held.
func (k *Manager) Pin(sels ...queue.Selection) (unpin func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	pins := make([]*queue.Selection, len(sels))
	for i, sel := range sels {
		pins[i] = &sel
		w := k.windowOf(sel.Queue)
		w.pins = append(w.pins, pins[i])
		k.release(sel, now, false)
	}
	// Whoever waits for the queue to drain wants to know how it stands now.
	k.due(now)
	k.touched()
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, pin := range pins {
			k.unpin(pin)
		}
		k.touched()
	})
}

// unpin ends one pin. Nothing more of it is flushed; what the MTA is trying
// now ends by itself. The caller holds mu.
func (k *Manager) unpin(pin *queue.Selection) {
	w := k.windowOf(pin.Queue)
	w.pins = slices.DeleteFunc(w.pins, func(p *queue.Selection) bool { return p == pin })
	now := time.Now()
	for _, e := range k.entries {
		if e.asked || !e.covered(*pin) || w.open(now) && w.covers(e, now) {
			continue
		}
		kept := slices.ContainsFunc(e.queues(), func(name string) bool {
			other := k.open[name]
			return other.open(now) && other.covers(e, now)
		})
		e.drop(pin.Queue, kept)
	}
}

func (k *Manager) windowOf(name string) *window {
	w := k.open[name]
	if w == nil {
		w = &window{}
		k.open[name] = w
	}
	return w
}

// State returns what is known of one queue.
func (k *Manager) State(name string) (State, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	q, ok := k.set.ByName(name)
	if !ok {
		return State{}, false
	}
	states := k.states([]queue.Queue{q})
	return states[0], true
}

// States returns what is known of every queue, in the order of the
// configuration.
func (k *Manager) States() []State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.states(k.set.Queues())
}

func (k *Manager) states(queues []queue.Queue) []State {
	now := time.Now()
	states := make([]State, len(queues))
	at := map[string]*State{}
	for i, q := range queues {
		s := &states[i]
		*s = State{Queue: q.Name, Released: k.released[q.Name], Left: k.left[q.Name], Known: !k.listed.IsZero()}
		if w := k.open[q.Name]; w.open(now) {
			s.Open, s.Pinned = true, w.pinned()
			if !s.Pinned {
				s.Until = w.until()
			}
		}
		at[q.Name] = s
	}
	for _, e := range k.entries {
		for _, name := range e.queues() {
			s := at[name]
			if s == nil {
				continue
			}
			s.Messages++
			s.Bytes += e.size
			if s.Oldest.IsZero() || e.arrived.Before(s.Oldest) {
				s.Oldest = e.arrived
			}
			switch {
			case slices.Contains(e.want, name):
				s.UnderWay++
			case e.held():
				s.OnHold++
			case e.failed != "":
				s.Failed++
				s.Reason = e.failed
				if s.Pinned && e.failures == 1 && !e.retryAt.IsZero() {
					s.Retry++
				}
			}
		}
	}
	return states
}

// Listed returns when the last good listing began, how long it took, and the
// error of the last try if that failed.
func (k *Manager) Listed() (at time.Time, took time.Duration, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.listed, k.listTook, k.listErr
}

// Run lists and flushes until ctx ends. The MTA is asked by this goroutine
// alone, so that a listing is either older or newer than a flush.
func (k *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-k.poke:
		}
		timer.Reset(k.step(ctx))
	}
}

// step does what is due and returns how long until something is due again.
func (k *Manager) step(ctx context.Context) (wait time.Duration) {
	defer func() {
		// A panic here must not cost the daemon its index for good: the next
		// listing builds it anew.
		if p := recover(); p != nil {
			k.log.Error("panic while looking after the MTA's queue", "panic", p, "stack", string(debug.Stack()))
			wait = time.Second
		}
	}()
	k.flush(ctx)
	k.mu.Lock()
	list := !time.Now().Before(k.listAt)
	k.mu.Unlock()
	if list && ctx.Err() == nil {
		k.list(ctx)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.listAt
	for _, e := range k.entries {
		for _, at := range []time.Time{e.flushAt, e.retryAt} {
			if !at.IsZero() && at.Before(next) {
				next = at
			}
		}
	}
	return max(time.Until(next), 0)
}

// flushChunk bounds the messages of one flush: a listing and new arrivals get
// their turn in between.
const flushChunk = 200

// domainWorth is the number of messages from which a flush by domain is worth
// its while: one by message costs some milliseconds each.
const domainWorth = 100

// flush asks the MTA to try what is due.
func (k *Manager) flush(ctx context.Context) {
	domains, ids, due := k.takeDue(time.Now())
	if due == nil {
		return
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := k.mta.Release(ctx, domains, ids)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.quiet = 0
	k.due(now.Add(300 * time.Millisecond))
	if err != nil {
		// Some may have gone, and which ones is not known: all are asked for
		// again, which does no harm to those that went.
		k.flushErrs++
		k.log.Error("the MTA did not take a release", "messages", len(due), "error", err)
		for _, e := range due {
			e.tries--
			if e.want != nil {
				e.flushAt = now.Add(min(time.Second<<min(k.flushErrs, 5), 30*time.Second))
			}
		}
		return
	}
	k.flushErrs = 0
	for _, e := range due {
		e.flushed = now
	}
	k.log.Info("released", "messages", len(due), "domains", len(domains), "took", time.Since(start).Round(time.Millisecond))
}

// takeDue takes what is to be flushed now.
func (k *Manager) takeDue(now time.Time) (domains, ids []string, due []*entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retry(now)
	for _, e := range k.entries {
		if e.want != nil && !e.flushAt.IsZero() && !e.flushAt.After(now) {
			due = append(due, e)
		}
	}
	slices.SortFunc(due, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.tries, b.tries), a.arrived.Compare(b.arrived), cmp.Compare(a.id, b.id))
	})
	domains, ids, due = k.plan(due)
	for _, e := range due {
		e.tries++
		if e.where == "" && e.tries < len(arrivalDelays) {
			e.flushAt = now.Add(arrivalDelays[e.tries])
		} else {
			e.flushAt = time.Time{}
		}
	}
	return domains, ids, due
}

// retry asks again for what failed in a pinned queue. The caller holds mu.
func (k *Manager) retry(now time.Time) {
	for _, e := range k.entries {
		if e.retryAt.IsZero() || e.retryAt.After(now) {
			continue
		}
		e.retryAt = time.Time{}
		for _, name := range e.queues() {
			if w := k.open[name]; w.pinned() && w.covers(e, now) && !e.held() {
				e.release(name, now)
			}
		}
	}
}

// plan chooses the domains that are flushed whole, and bounds the rest.
//
// A flush by domain moves every message that the MTA has noted under it, and
// it may have noted some that have long been delivered to that domain and wait
// for another one. So it is exact only when everything that the MTA has is to
// go, as when a site pushes all of its mail. In all other cases messages are
// flushed one by one. The caller holds mu.
func (k *Manager) plan(due []*entry) (domains, ids []string, chunk []*entry) {
	inListing := 0
	for _, e := range due {
		if e.where != "" {
			inListing++
		}
	}
	if inListing >= domainWorth && inListing == k.total {
		count := map[string]int{}
		for _, e := range due {
			if e.where != deferred || e.tries > 0 {
				continue // a flush by domain did not find it, or would not
			}
			seen := map[string]bool{}
			for _, r := range e.rcpts {
				if d := domainOf(r.address); !seen[d] {
					seen[d] = true
					count[d]++
				}
			}
		}
		for d, n := range count {
			if d != "" && n >= domainWorth {
				domains = append(domains, d)
			}
		}
		slices.Sort(domains)
	}
	for _, e := range due {
		switch {
		case e.tries == 0 && slices.ContainsFunc(e.rcpts, func(r recipient) bool { return slices.Contains(domains, domainOf(r.address)) }):
		case len(ids) < flushChunk:
			ids = append(ids, e.id)
		default:
			continue
		}
		chunk = append(chunk, e)
	}
	return domains, ids, chunk
}

// list compares the index with the MTA's queue.
func (k *Manager) list(ctx context.Context) {
	lctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	start := time.Now()
	k.mu.Lock()
	// Whoever asks for a listing while this one runs wants a newer one.
	k.listAt = start.Add(k.reconcile)
	k.mu.Unlock()
	msgs, err := k.mta.List(lctx)
	if ctx.Err() != nil {
		return
	}
	// Matching may ask the MTA, so it is done before the lock is taken.
	set := k.Queues()
	rcpts := sortIn(set, msgs)
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	k.listTook, k.listEnded = now.Sub(start), now
	if err != nil {
		if k.listErr == nil {
			k.log.Error("cannot list the MTA's queue", "error", err)
		}
		k.listErr = err
		k.listTook = 0 // says nothing about the next one
		k.due(now.Add(2 * time.Second))
		k.notify()
		return
	}
	if k.listErr != nil {
		k.log.Info("the MTA's queue can be listed again")
	}
	k.listErr = nil
	if set != k.set {
		k.listAt = time.Time{} // the queues have changed meanwhile: once more
		return
	}
	moved := k.apply(msgs, rcpts, start)
	k.total, k.inListing = len(msgs), len(k.entries)
	k.listed = start
	if moved {
		k.quiet = 0
	} else {
		k.quiet++
	}
	k.due(now.Add(k.cadence(now)))
	k.notify()
}

// notify tells waiters. The caller holds mu.
func (k *Manager) notify() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// pause bounds the share of time that goes into listing, however long the
// queue is: to a tenth at most, to a quarter while mail is under way, and to
// half of it when a listing is needed to complete the one before.
func (k *Manager) pause() time.Duration {
	times := 9
	switch {
	case k.doubt:
		times = 1
	case k.moving:
		times = 3
	}
	return min(time.Duration(times)*k.listTook, k.reconcile)
}

// cadence is how long until the next listing: short while something is
// expected to move.
func (k *Manager) cadence(now time.Time) time.Duration {
	d := k.reconcile
	if k.watchers > 0 {
		d = min(d, 500*time.Millisecond)
	}
	k.moving = false
	for name, w := range k.open {
		if !w.open(now) {
			delete(k.open, name)
			continue
		}
		if w.pinned() {
			d = min(d, 500*time.Millisecond)
		} else {
			d = min(d, time.Second)
		}
	}
	for _, e := range k.entries {
		k.moving = k.moving || e.want != nil
		switch {
		case e.missing:
			d = min(d, 200*time.Millisecond)
		case e.want != nil:
			// Slower the longer nothing has moved: a connection to a place
			// that has gone quiet takes minutes to time out.
			d = min(d, 500*time.Millisecond*time.Duration(1+min(k.quiet/4, 9)))
		case e.where == "":
			d = min(d, time.Second)
		}
	}
	return d
}

// unlisted is how long a message that the milter reported may be absent from
// listings before it is given up: the MTA may still be writing it.
const unlisted = 3 * time.Second

// sortIn finds the queues of all recipients of a listing.
func sortIn(set *queue.Set, msgs []mta.Message) [][]recipient {
	all := make([][]recipient, len(msgs))
	for i, m := range msgs {
		for _, r := range m.Recipients {
			name, _ := set.Match(r.Address)
			all[i] = append(all[i], recipient{address: r.Address, queue: name, reason: r.Reason})
		}
	}
	return all
}

// apply makes the index equal to a listing that began at start, with the
// recipients of each message sorted in. It reports whether anything changed.
// The caller holds mu.
func (k *Manager) apply(msgs []mta.Message, sorted [][]recipient, start time.Time) (moved bool) {
	now := time.Now()
	k.doubt = false
	listed := make(map[string]bool, len(msgs))
	for i, m := range msgs {
		rcpts := sorted[i]
		e := k.entries[m.ID]
		if e != nil && e.where != "" && !e.arrived.Equal(m.Arrived) {
			// The id was used again for another message.
			k.gone(e)
			delete(k.entries, m.ID)
			e = nil
		}
		if (e == nil || e.want == nil) && !slices.ContainsFunc(rcpts, func(r recipient) bool { return r.queue != "" }) {
			continue // no entry, or one whose recipients have all been served
		}
		listed[m.ID] = true
		isNew := e == nil
		if isNew {
			e = &entry{id: m.ID, seen: now}
			k.entries[m.ID] = e
		}
		if e.where != m.Queue || len(e.rcpts) != len(rcpts) {
			moved = true
		}
		if e.seen.IsZero() {
			e.seen = now
		}
		wasWanted := e.want != nil
		e.arrived, e.size, e.where, e.missing, e.reported = m.Arrived, m.Size, m.Queue, false, time.Time{}
		before, was := e.queues(), e.rcpts
		e.rcpts = rcpts
		if wasWanted {
			for _, name := range before {
				if !e.in(name) && !renamed(was, rcpts, name) {
					k.count(name, e)
				}
			}
		}
		e.judge(start)
		// Not only what is new: a message may come off hold, or get under an
		// open window by a reload.
		if isNew || e.want == nil && e.failed == "" {
			k.openFor(e, now)
		}
		if len(e.queues()) == 0 && e.want == nil {
			delete(k.entries, m.ID)
		}
	}
	for id, e := range k.entries {
		if listed[id] {
			continue
		}
		switch {
		case e.where == "" && start.Sub(e.reported) < unlisted && (start.Sub(e.reported) < time.Second || !start.After(e.flushed) || e.flushed.IsZero()):
			// Reported by the milter a moment ago. (One that was flushed, and
			// that a listing after that does not show, is gone.)
		case !e.missing && e.reported.IsZero() && e.where != "active":
			// The MTA moves messages from one directory to another while it
			// lists them, so one absence proves nothing. It does for one that
			// was active: showq(8) reads that directory before those to which
			// the message could have gone.
			e.missing, k.doubt = true, true
		default:
			k.gone(e)
			delete(k.entries, id)
			moved = true
		}
	}
	return moved
}

// renamed reports whether recipients that were in a queue are still there, in
// another queue: a reload has moved them.
func renamed(was, now []recipient, name string) bool {
	return slices.ContainsFunc(was, func(old recipient) bool {
		return old.queue == name && slices.ContainsFunc(now, func(r recipient) bool { return r.address == old.address })
	})
}

// gone counts a message that has left the MTA's queue.
func (k *Manager) gone(e *entry) {
	if e.want == nil || e.where == "" && e.flushed.IsZero() {
		return // not released, or never stored
	}
	for _, name := range e.queues() {
		k.count(name, e)
	}
}

func (k *Manager) count(name string, e *entry) {
	l := k.left[name]
	l.Messages++
	l.Bytes += e.size
	k.left[name] = l
}

func domainOf(addr string) string {
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i] == '@' {
			d, err := queue.Domain(addr[i+1:])
			if err != nil {
				return ""
			}
			return d
		}
	}
	return ""
}
