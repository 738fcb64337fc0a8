package hold

import (
	"context"
	"slices"
	"sync"
	"time"
)

// What is flushed is in the MTA's hand until it is gone or back: it takes a
// place among the messages that the MTA works on at one time, of which there
// are some ten thousand for all of its mail. A site that takes minutes for each
// message would fill them with its own, and everybody else's mail would wait for
// that site. So each queue has a window of places, which grows with what goes
// through it, and all queues together have half of what the MTA has. What finds
// no place stays held until its turn, and the queues take turns.

// flow is how much of a queue the MTA has in hand, and may have.
type flow struct {
	inHand int // messages
	lent   int // of these, those that were taken when another queue of theirs had a place
	window int // places; zero: as at the beginning
	done   int // what went since the last listing
	stale  int // listings in a row that saw nothing go
	line   int // places that the line carries by which it was asked for; zero: any number
	quick  int // listings in a row between which all of these went
	limits []*int
}

const (
	// firstWindow is the places of a queue of which nothing is known yet: what is
	// flushed until the first listing, and what fills a fast line with a long delay.
	firstWindow = 200
	// leastWindow is what a queue is left with that does not move: enough for
	// the connections that an MTA makes to one destination to see that it does.
	leastWindow = 10
	// shareOfActive is what part of the MTA's places all queues take.
	shareOfActive = 2
	// assumedActive is what is taken for the MTA's places while they are not
	// known: less than any Postfix has.
	assumedActive = 1000
	// flowQuantum is the messages of one queue before it is another's turn.
	flowQuantum = 8
	// feedback is how often a listing tells how a queue gets on, unless listings
	// take longer; then windows are larger in proportion.
	feedback = 500 * time.Millisecond
)

// charge makes a message take a place of these queues, and of no others.
func (ix *index) charge(msg *message, want queueList) {
	a := msg.attempt
	if a == nil || slices.Equal(a.charged, want) {
		return
	}
	if (len(a.charged) > 0) != (len(want) > 0) {
		if len(want) > 0 {
			ix.inHand++
		} else {
			ix.inHand--
		}
	}
	for _, q := range a.charged {
		q.flow.add(-1, a.by, q)
	}
	for _, q := range want {
		q.flow.add(1, a.by, q)
		ix.moving[q] = struct{}{}
	}
	a.charged = slices.Clone(want)
}

// add counts a message of queue q that was taken for another one's place, maybe.
func (f *flow) add(n int, by, q *queueIndex) {
	f.inHand += n
	if by != nil && by != q {
		f.lent += n
	}
}

// places are the queues of which a message takes a place of those in the MTA's
// hand: it goes for them, and there is somebody left to deliver to.
func (msg *message) places() queueList {
	if !msg.attempt.inHand {
		return nil
	}
	return msg.stillFor()
}

// through counts a message that has left a queue while the MTA had it in hand.
func (msg *message) through(q *queueIndex) {
	if msg.attempt != nil && msg.attempt.charged.has(q) {
		q.flow.done++
	}
}

// activeLocked is how many messages the MTA takes in hand at one time.
func (m *Manager) activeLocked() int {
	if m.active == 0 {
		return assumedActive
	}
	return m.active
}

// freeLocked is how many more messages the MTA may have in hand; less than none
// when places have been given beyond the share.
func (m *Manager) freeLocked() int { return max(m.activeLocked()/shareOfActive, 1) - m.index.inHand }

// firstWindowLocked is the window of a queue of which nothing is known yet: what
// a quick one takes until the next listing tells so.
func (m *Manager) firstWindowLocked() int {
	return firstWindow * int(1+4*m.listTook/feedback)
}

// placesLocked is how many more messages of a queue the MTA may have in hand. A
// queue has never more than half of what is left for all others together, and one
// that has none gets one even when all is taken: however many are stuck, the next
// one finds a place.
func (m *Manager) placesLocked(q *queueIndex) int {
	free := m.freeLocked()
	may := q.flow.window
	if may == 0 {
		may = m.firstWindowLocked()
	}
	for _, n := range q.flow.limits {
		if *n == 0 {
			return 0
		}
		may = min(may, *n)
	}
	if q.flow.line > 0 {
		may = min(may, q.flow.line)
	}
	places := min(may, free/2) - q.flow.inHand
	if places <= 0 && q.flow.inHand == 0 && free > -m.activeLocked()/(2*shareOfActive) {
		return 1
	}
	return places
}

// fullLocked is a queue of a message for whose sake it has to wait although another
// one has a place; nil: none. A queue that moves keeps none of the others waiting.
// But one that is stuck would take all places of the MTA by and by with what it
// shares with others, so of that it has no more than half of what is left for all.
func (m *Manager) fullLocked(msg *message, by *queueIndex) *queueIndex {
	if msg.more == nil {
		return nil
	}
	free := m.freeLocked()
	for q := range msg.queues() {
		if q != by && msg.wantedFor(q) && q.flow.lent > 0 && q.flow.lent >= free/2 && m.placesLocked(q) <= 0 {
			return q
		}
	}
	return nil
}

// adjustLocked fits the windows to what a listing has shown.
func (m *Manager) adjustLocked() {
	for q := range m.index.moving {
		f := &q.flow
		if f.inHand == 0 && q.ready.Len() == 0 {
			f.window, f.done, f.stale, f.quick = 0, 0, 0, 0 // the line stays what it is while the queue is open
			delete(m.index.moving, q)
			continue
		}
		if f.window == 0 {
			f.window = m.firstWindowLocked()
		}
		if f.line == 0 || f.done < f.line {
			f.quick = 0
		} else if f.quick++; f.quick == 2 {
			f.line, f.quick = 2*f.line, 0 // it is faster than it seemed
		}
		switch {
		case 4*f.done >= f.window:
			f.window, f.stale = 2*min(f.window, 1<<20), 0
		case f.done > 0:
			f.stale = 0
			// Some go: keep as many at hand as go in a while.
			if 16*f.done < f.window {
				f.window = max(f.window*3/4, leastWindow)
			}
		default:
			if f.stale++; f.stale >= 4 {
				f.window, f.stale = max(f.window/2, leastWindow), 0
			}
		}
		f.done = 0
	}
}

// Limit bounds how many messages of a queue the MTA has in hand at one time,
// for as long as the function that it returns has not been called: for a line
// that more than so many connections at once would choke, or, with 0, over which
// nothing gets through. The least of several limits of a queue holds. What the MTA
// has in hand already stays there.
func (m *Manager) Limit(queue string, inHand int) (undo func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.index.queue(queue)
	limit := new(int)
	*limit = max(inHand, 0)
	q.flow.limits = append(q.flow.limits, limit)
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		q.flow.limits = slices.DeleteFunc(q.flow.limits, func(l *int) bool { return l == limit })
		m.touchedLocked()
	})
}

// takeTurnsLocked takes messages that are ready from the queues in turn, until
// there are n or nothing more has a place.
func (m *Manager) takeTurnsLocked(n int, now time.Time) (taken []*message) {
	ix := &m.index
	looked := 0
	for idle := 0; len(taken) < n && looked < 2*n && len(ix.rounds) > idle; {
		ix.next %= len(ix.rounds)
		q := ix.rounds[ix.next]
		took := 0
		for took < flowQuantum && looked < 2*n && len(taken) < n && q.ready.Len() > 0 && m.placesLocked(q) > 0 {
			looked++
			msg := q.ready[0].message
			if full := m.fullLocked(msg, q); full != nil {
				ix.waitFor(msg, full)
				continue
			}
			ix.unfile(msg)
			if msg.place == unlisted && m.listsSoonLocked() {
				// The listing says whether there is such a message: only what
				// the MTA has stored is flushed, and counted as gone when it is.
				msg.attempt.due = now.Add(unlistedAgain)
				ix.settle(msg, now)
				m.listByLocked(now)
				continue
			}
			m.takeLocked(msg, q, now)
			taken = append(taken, msg)
			took++
		}
		if q.ready.Len() > 0 {
			ix.next++ // else another has taken its place in the rounds
		}
		if took > 0 {
			idle = 0
		} else {
			idle++
		}
	}
	return taken
}

// unlistedAgain is how long a listing is waited for before a message that only the
// milter has told of is looked at again.
const unlistedAgain = 300 * time.Millisecond

// cheapListing is what a listing may take for one to be made before new mail is
// flushed. Where it takes longer, mail is flushed as it is told of.
const cheapListing = 100 * time.Millisecond

func (m *Manager) listsSoonLocked() bool {
	return m.sight.running && m.listErr == nil && !m.listed.IsZero() && m.listTook <= cheapListing
}

// takeLocked puts a message into the MTA's hand, by a place of one queue, or of
// all of its queues. It is in no heap.
func (m *Manager) takeLocked(msg *message, by *queueIndex, now time.Time) {
	a := msg.attempt
	m.index.charge(msg, nil)
	a.by = by
	a.flushes++
	a.due, a.inHand, a.begun = time.Time{}, true, true
	if msg.place == unlisted && int(a.flushes) < len(arrivalDelays) {
		a.due = now.Add(arrivalDelays[a.flushes])
	}
	m.index.settle(msg, now)
}

// nextLocked is when something is to be flushed or tried again; zero: at no
// time, or only when a listing has shown that there is a place.
func (m *Manager) nextLocked(now time.Time) time.Time {
	for _, q := range m.index.rounds {
		if m.placesLocked(q) > 0 {
			return now
		}
	}
	if m.index.later.Len() > 0 {
		return m.index.later[0].attempt.filed
	}
	return time.Time{}
}

// askActive asks the MTA how many messages it takes in hand, once and after
// every reload.
func (m *Manager) askActive(ctx context.Context) {
	m.mu.Lock()
	known := m.active != 0 || m.index.ready == 0 && m.index.later.Len() == 0
	m.mu.Unlock()
	if known {
		return
	}
	n, err := m.mta.ActiveLimit(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.active = n
	}
}
