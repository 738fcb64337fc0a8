package hold

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
)

// flushChunk bounds the messages of one flush: a listing and new arrivals get
// their turn in between.
const flushChunk = 200

// domainWorth is the number of messages from which a flush by domain is worth
// its while: one by message costs some milliseconds each.
const domainWorth = 100

// flush asks the MTA to try what is due.
func (m *Manager) flush(ctx context.Context) {
	m.askActive(ctx)
	domains, ids, due := m.takeDue(time.Now())
	if len(due) == 0 {
		return
	}
	start := time.Now()
	rctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := m.mta.Release(rctx, domains, ids)
	before := m.flushed(due, err, time.Now())
	switch {
	case ctx.Err() != nil:
	case err == nil:
		if before > 0 {
			m.log.Info("the MTA takes releases again", "failed", before)
		}
		m.log.Info("released", "messages", len(due), "domains", len(domains), "took", time.Since(start).Round(time.Millisecond))
	case before == 0:
		m.log.Error("the MTA did not take a release, asking again", "messages", len(due), "error", err)
	}
}

// flushed notes how a flush went, and returns how many had failed before it.
func (m *Manager) flushed(due []*message, err error, now time.Time) (before int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.quiet = 0
	m.listByLocked(now.Add(300 * time.Millisecond))
	before = m.flushErrs
	m.flushErrs++
	again := now.Add(flushDelay(m.flushErrs))
	switch {
	case err == nil:
		m.flushErrs = 0
	case errors.Is(err, mta.ErrNotFlushable) && !m.noDomains:
		// The MTA has no list for a domain, and is well otherwise: messages
		// go one by one, now.
		m.noDomains, again = true, now
	}
	for _, msg := range due {
		a := msg.attempt
		if a == nil || !m.index.has(msg) {
			continue
		}
		switch {
		case err == nil:
			a.flushed = now
		case a.want != nil:
			// Some may have gone, and which ones is not known: all are asked
			// for again, which does no harm to those that went.
			a.flushes = max(a.flushes-1, 0)
			a.due, a.inHand = again, false
		}
		m.index.settle(msg, now)
	}
	return before
}

// flushDelay is how long the MTA is left alone after it has refused a flush
// so many times in a row.
func flushDelay(failures int) time.Duration {
	return min(time.Second<<min(failures, 5), 30*time.Second)
}

// takeDue takes what is to be flushed now.
func (m *Manager) takeDue(now time.Time) (domains, ids []string, due []*message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	again := m.retryLocked(now)
	domains, due = m.takeDomainsLocked(now)
	for _, msg := range append(again, m.takeTurnsLocked(flushChunk, now)...) {
		ids = append(ids, msg.id)
		due = append(due, msg)
	}
	return domains, ids, due
}

// retryLocked makes ready what is to be flushed by now, and asks again for
// what failed in a pinned queue. It returns what the MTA has in hand already, and
// is to be told of once more.
func (m *Manager) retryLocked(now time.Time) (again []*message) {
	for len(again) < flushChunk {
		msg := m.index.due(now)
		if msg == nil {
			break
		}
		switch a := msg.attempt; {
		case a.want == nil:
			a.due = time.Time{}
			for q := range msg.queues() {
				if q.window.pinned() && q.window.opens(msg, now) && msg.place != onHold {
					msg.release(q, now)
				}
			}
		case msg.putBy():
			a.due = time.Time{}
			a.nudges = min(a.nudges+1, 8)
			again = append(again, msg)
		}
		m.index.settle(msg, now)
	}
	return again
}

// takeDomainsLocked chooses domains that are flushed whole now, and takes what
// goes with them.
//
// A flush by domain moves every message that the MTA has noted under it, and
// it may have noted some that have long been delivered to that domain and wait
// for another one. So it is exact only when everything that the MTA has is to
// go, as when a site pushes all of its mail. It also moves all of it at once, so
// there has to be a place for all of it. In all other cases messages are flushed
// one by one.
func (m *Manager) takeDomainsLocked(now time.Time) (domains []string, due []*message) {
	if !m.allReadyLocked() {
		return nil, nil
	}
	type load struct {
		messages int
		limited  bool
	}
	loads := map[string]*load{}
	for msg := range m.index.allReady() {
		if msg.place != deferred || msg.attempt.flushes > 0 {
			continue // a flush by domain did not find it, or would not
		}
		for i := range msg.parts() {
			d := msg.parts()[i].domain
			l := loads[d.name]
			if l == nil {
				l = &load{}
				loads[d.name] = l
			}
			l.messages++
			l.limited = l.limited || len(d.queue.flow.limits) > 0 || d.queue.flow.line > 0
		}
	}
	free := m.freeLocked()
	for _, d := range slices.Sorted(maps.Keys(loads)) {
		if l := loads[d]; d != "" && l.messages >= domainWorth && l.messages <= free && !l.limited {
			domains = append(domains, d)
			free -= l.messages
		}
	}
	if domains == nil {
		return nil, nil
	}
	for _, msg := range slices.Collect(m.index.allReady()) {
		if msg.attempt.flushes > 0 {
			continue
		}
		for d := range msg.domains() {
			if _, ok := slices.BinarySearch(domains, d); ok {
				m.index.unfile(msg)
				m.takeLocked(msg, nil, now)
				due = append(due, msg)
				break
			}
		}
	}
	return domains, due
}

// allReadyLocked reports whether everything that the MTA has is to be flushed
// now, and is enough for domains to pay.
func (m *Manager) allReadyLocked() bool {
	if m.index.ready < domainWorth || m.index.ready < m.total || m.noDomains {
		return false
	}
	listed := 0
	for msg := range m.index.allReady() {
		if msg.place != unlisted {
			listed++
		}
	}
	return listed >= domainWorth && listed == m.total
}

// allReady yields what is to be flushed now, each once.
func (ix *index) allReady() iter.Seq[*message] {
	return func(yield func(*message) bool) {
		for _, q := range ix.rounds {
			for _, p := range q.ready {
				if p.message.firstReady() == p && !yield(p.message) {
					return
				}
			}
		}
	}
}

// firstReady is the first of its parts that wait for their turn.
func (msg *message) firstReady() *part {
	for i := range msg.parts() {
		if p := &msg.parts()[i]; p.inReady >= 0 {
			return p
		}
	}
	return nil
}
