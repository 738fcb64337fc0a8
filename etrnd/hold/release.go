package hold

import (
	"iter"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/queue"
)

// window is the time in which new mail of a queue goes out at once. A nil one
// is shut.
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

// opens reports whether the window is open for a message.
func (w *window) opens(msg *message, now time.Time) bool {
	return w != nil && (slices.ContainsFunc(w.pins, func(sel *queue.Selection) bool { return msg.covered(*sel) }) ||
		slices.ContainsFunc(w.asked, func(a asked) bool { return now.Before(a.until) && msg.covered(a.sel) }))
}

// windowLocked is the window of a queue, which may not be open yet.
func (m *Manager) windowLocked(name string) *window {
	q := m.index.queue(name)
	if q.window == nil {
		q.window = &window{}
		m.open[q] = struct{}{}
	}
	return q.window
}

func (m *Manager) shutLocked(q *queueIndex) {
	q.window = nil
	delete(m.open, q)
}

// openLocked releases a message that has just arrived if its queue is open.
func (m *Manager) openLocked(msg *message, now time.Time) {
	if msg.place == onHold {
		return
	}
	for q := range msg.queues() {
		if q.window.opens(msg, now) && msg.release(q, now) && msg.place == unlisted {
			msg.attempt.due = now.Add(arrivalDelays[0])
		}
	}
}

// Started is what a release set going.
type Started struct {
	Messages int
	Bytes    int64
	UnderWay int // messages that were under way already, as a listing has shown
	Unlisted int // of Messages, those that only the milter has told of
	OnHold   int // messages that are left alone, since an administrator has put them on hold
}

// Release lets a selection go. It does not wait for the MTA.
func (m *Manager) Release(sel queue.Selection) Started {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.releaseLocked(sel, time.Now(), true)
	m.touchedLocked()
	return st
}

// releaseLocked lets a selection go. asked says that somebody asked for just
// this, so that it is not taken back when a call or a turn ends.
func (m *Manager) releaseLocked(sel queue.Selection, now time.Time, asked bool) (st Started) {
	q := m.index.queue(sel.Queue)
	q.released = now
	for msg := range m.eachLocked(sel) {
		if msg.place == onHold {
			st.OnHold++
			continue
		}
		fresh := msg.place == unlisted && !msg.wanted()
		started := msg.release(q, now)
		// Whoever asks anew has a new connection, and what failed on the last
		// one gets a second try again.
		a := msg.attempt
		a.failures, a.asked = 0, a.asked || asked
		if started {
			st.Messages++
			st.Bytes += msg.size
			if msg.place == unlisted {
				st.Unlisted++
			}
			if fresh {
				a.due = now.Add(arrivalDelays[0])
			}
		} else if msg.place != unlisted {
			st.UnderWay++
		}
		m.index.settle(msg, now)
	}
	return st
}

// eachChunk is how many messages of a selection are looked at before others get
// at the index.
const eachChunk = 1000

// eachLocked yields the messages of a selection, each once. Of one with very many
// it lets others get at the index in between: whoever has much mail must not keep
// those waiting who have little.
func (m *Manager) eachLocked(sel queue.Selection) iter.Seq[*message] {
	return func(yield func(*message) bool) {
		list := slices.Collect(m.index.covered(sel))
		for i, msg := range list {
			if i%eachChunk == eachChunk-1 {
				m.mu.Unlock()
				runtime.Gosched()
				m.mu.Lock()
			}
			if i >= eachChunk-1 && !(m.index.has(msg) && msg.covered(sel)) {
				continue
			}
			if !yield(msg) {
				return
			}
		}
	}
}

// Pin opens queues, or parts of them, for as long as a call or a turn lasts:
// what is held goes now, what arrives goes at once, and what fails is tried
// again after a while. The function that it returns ends that; what is still
// held then stays held.
func (m *Manager) Pin(sels ...queue.Selection) (unpin func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	pins := make([]*queue.Selection, len(sels))
	for i, sel := range sels {
		pins[i] = &sel
		w := m.windowLocked(sel.Queue)
		w.pins = append(w.pins, pins[i])
		m.releaseLocked(sel, now, false)
	}
	// Whoever waits for the queue to drain wants to know how it stands now.
	m.listByLocked(now)
	m.touchedLocked()
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, pin := range pins {
			m.unpinLocked(pin)
		}
		m.touchedLocked()
	})
}

// unpinLocked ends one pin. Nothing more of it is flushed; what the MTA is
// trying now ends by itself.
func (m *Manager) unpinLocked(pin *queue.Selection) {
	q := m.index.queue(pin.Queue)
	w := m.windowLocked(pin.Queue)
	w.pins = slices.DeleteFunc(w.pins, func(p *queue.Selection) bool { return p == pin })
	now := time.Now()
	for msg := range m.eachLocked(*pin) {
		if msg.attempt == nil || msg.attempt.asked || w.opens(msg, now) {
			continue
		}
		kept := false
		for other := range msg.queues() {
			kept = kept || other.window.opens(msg, now)
		}
		msg.drop(q, kept)
		m.index.settle(msg, now)
	}
}
