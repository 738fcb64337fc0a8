// Package hold knows what the MTA holds for each queue, and lets it go.
//
// The MTA's queue is the only place where mail lives. The Manager's index is a
// cache of it: built from the MTA's listing, kept by what the milter reports,
// and compared with the listing again on a cadence and after every release. A
// release is a request to the MTA to try some messages now; the Manager follows
// each until the MTA has delivered it or has given a reason for not doing so. It
// bounds what the MTA has in hand of each queue, and of all of them (see flow).
//
// "Held" is mail that waits for its release. What an administrator has put
// into Postfix's hold queue is "on hold": it is counted, and left alone.
//
// The package decides who may ask for which queue (RFC 1985, section 6). It
// does not speak any protocol and delivers nothing.
//
// # Locking
//
// One mutex, Manager.mu, guards all that is known, and is held for moments:
// for as long as it takes to change the messages that a question is about, and
// by a listing for some hundred messages at a time, whatever is held. Methods
// whose names end in Locked are called with it. Under it the package calls
// only its own data and queue.Set.ByName, Queue.MayAsk and
// Selection.CoversDomain, which are pure; never the MTA, never the logger, and
// never what may ask the MTA, as matching a recipient does. So nobody may hold
// it and wait, and callers may hold locks of their own.
//
// Listings and flushes run in the goroutine of Run alone. One that hangs delays
// the others, and of questions only those that would be answered "nothing" (see
// sight): they wait for a listing, with no lock, and for so long only.
package hold

import (
	"context"
	"iter"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// Options for a Manager.
type Options struct {
	MTA    mta.MTA
	Queues *queue.Set
	// Reconcile is the longest time between two listings of the MTA's queue.
	Reconcile time.Duration
	// Routed, if set, tells whether the MTA holds mail for a domain on our
	// account, since others may make it wait, too; surely says that it does
	// whatever the mail waits for at the moment. It is asked for in each listing
	// that finds mail in no queue.
	Routed func() func(domain string) (ours, surely bool)
	Logger *slog.Logger
}

// Manager keeps the index. Its methods may be called from several goroutines;
// only Arrived, Ask and AskStripped may wait for the MTA, which they ask
// whether a domain is its own, and Ask, Look and Count for a listing.
type Manager struct {
	mta       mta.MTA
	reconcile time.Duration
	routed    func() func(domain string) (ours, surely bool)
	log       *slog.Logger
	poke      chan struct{} // wakes Run

	mu       sync.Mutex
	set      *queue.Set
	setAge   uint8 // changes with set
	index    index
	open     map[*queueIndex]struct{} // those with a window
	recent   memory                   // of requests
	changed  chan struct{}            // closed and replaced at every change
	watchers int                      // who wait for changes
	active   int                      // messages that the MTA has in hand at most; 0: not known

	listings  uint16                    // compared, in a circle; of the goroutine that lists
	went      []trace                   // what was counted as gone lately
	back      []trace                   // what was there before under another id, and is not accounted for
	putBy     struct{ before, now int } // messages that listings have shown to be put by; likewise
	sight     sight                     // what is known of listings to those who wait for one
	listAt    time.Time                 // when the next listing is due
	doubt     bool                      // a message was absent from the last listing, once
	moving    bool                      // a release was under way in the last listing
	total     int                       // messages in the last good listing, of any queue or none
	listed    time.Time                 // when the last good listing began; zero: never
	listTook  time.Duration
	listEnded time.Time
	listErr   error
	quiet     int // listings since anything moved

	nobody Nobody // in no queue, as of the last good listing; not to be changed
	sorted bool   // the last good listing was of the present queues

	flushErrs int  // flushes that failed since one succeeded
	noDomains bool // the MTA does not flush by domain, as it is set up now
}

// State is what is known of one queue.
type State struct {
	Queue    string
	Messages int   // with at least one recipient that has not got it
	Bytes    int64 // of those messages
	Oldest   time.Time
	Unlisted int       // of these, those that only the milter has told of
	UnderWay int       // released, and neither gone nor back
	InHand   int       // of these, those that the MTA tries; the others wait for their turn
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

	// Of a queue that is followed only:
	Gone bool // it is in the configuration no more
	Away Left // what is in it no more though it was not delivered: another's, or nobody's
}

// Left counts what has left the MTA's queue after a release: delivered, or
// returned to its sender.
type Left struct {
	Messages int
	Bytes    int64
}

func (l *Left) add(msg *message) {
	l.Messages++
	l.Bytes += msg.size
}

// New returns a Manager. Run does the work.
func New(o Options) *Manager {
	return &Manager{
		mta: o.MTA, reconcile: o.Reconcile, routed: o.Routed, log: o.Logger, set: o.Queues,
		poke: make(chan struct{}, 1), changed: make(chan struct{}),
		index: newIndex(), open: map[*queueIndex]struct{}{}, sight: newSight(),
	}
}

// SetQueues swaps the queues, as a reload does. What is held is sorted into the
// new ones by the next listing, which it asks for.
func (m *Manager) SetQueues(set *queue.Set) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.renameLocked(set)
	m.set = set
	m.setAge++
	m.sorted = false
	// A reload may go with new tables of the MTA.
	m.noDomains, m.active = false, 0
	for q := range m.open {
		if _, ok := set.ByName(q.name); !ok && !q.window.pinned() {
			m.shutLocked(q)
		}
	}
	m.listAt = time.Time{}
	m.touchedLocked()
}

// Queues returns the set in use.
func (m *Manager) Queues() *queue.Set {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.set
}

// Changed returns a channel that is closed at the next change of any state.
func (m *Manager) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// notifyLocked tells waiters that something changed.
func (m *Manager) notifyLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// touchedLocked tells waiters and Run.
func (m *Manager) touchedLocked() {
	m.notifyLocked()
	m.pokeLocked()
}

// State returns what is known of one queue.
func (m *Manager) State(name string) (State, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q, ok := m.set.ByName(name)
	if !ok {
		return State{}, false
	}
	return m.stateLocked(q.Name, time.Now()), true
}

// statesChunk is how many queues are looked at before others get at the index.
const statesChunk = 200

// States yields every queue with what is known of it, in the order of the
// configuration. It leaves no garbage: there may be ten thousand, and some
// program that asks for them again and again.
func (m *Manager) States() iter.Seq2[queue.Queue, State] {
	return func(yield func(queue.Queue, State) bool) {
		var states [statesChunk]State
		queues := m.Queues().Queues()
		for chunk := range slices.Chunk(queues, statesChunk) {
			m.statesOf(chunk, &states)
			for i, q := range chunk {
				if !yield(q, states[i]) {
					return
				}
			}
		}
	}
}

func (m *Manager) statesOf(queues []queue.Queue, states *[statesChunk]State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for i := range queues {
		states[i] = m.stateLocked(queues[i].Name, now)
	}
}

func (m *Manager) stateLocked(name string, now time.Time) State {
	q := m.index.queues[name]
	if q == nil {
		return State{Queue: name, Known: !m.listed.IsZero()}
	}
	return m.stateOfLocked(q, now)
}

func (m *Manager) stateOfLocked(q *queueIndex, now time.Time) State {
	s := State{Queue: q.name, Known: !m.listed.IsZero()}
	s.Messages, s.Bytes = len(q.messages), q.bytes
	if s.Messages > 0 {
		s.Oldest = time.UnixMicro(q.messages[0].message.arrived)
	}
	s.Unlisted, s.InHand = q.unlisted, q.flow.inHand
	s.UnderWay, s.OnHold, s.Failed = q.count[classUnderWay], q.count[classOnHold], len(q.failed)
	if s.Failed > 0 {
		s.Reason = q.failed[s.Failed-1].message.attempt.failed
	}
	if w := q.window; w.open(now) {
		s.Open, s.Pinned = true, w.pinned()
		if s.Pinned {
			s.Retry = q.count[classRetry]
		} else {
			s.Until = w.until()
		}
	}
	s.Released, s.Left = q.released, q.left
	return s
}

// Run lists and flushes until ctx ends. The MTA is asked by this goroutine
// alone, so that a listing is either older or newer than a flush.
func (m *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	m.looking(true)
	defer m.looking(false)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-m.poke:
		}
		timer.Reset(m.step(ctx))
	}
}

// step does what is due and returns how long until something is due again.
func (m *Manager) step(ctx context.Context) (wait time.Duration) {
	defer func() {
		if p := recover(); p != nil {
			m.log.Error("panic while looking after the MTA's queue", "panic", p, "stack", string(debug.Stack()))
			m.rebuild()
			wait = time.Second
		}
	}()
	m.flush(ctx)
	m.glance(ctx)
	if m.listingDue() && ctx.Err() == nil {
		m.list(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	next := m.listAt
	for _, at := range []time.Time{m.nextLocked(now), m.sight.glanceAt} {
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return max(next.Sub(now), 0)
}

// rebuild makes the sums anew from the messages: a panic may have left them
// half changed. The next listing does the rest. It must not cost the daemon
// its index for good, nor what is known of releases under way.
func (m *Manager) rebuild() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index = m.index.rebuilt(time.Now())
	m.open = map[*queueIndex]struct{}{}
	for _, q := range m.index.queues {
		if q.window != nil {
			m.open[q] = struct{}{}
		}
	}
	m.listAt = time.Time{}
}
