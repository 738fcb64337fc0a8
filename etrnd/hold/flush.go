package hold

import (
	"container/heap"
	"context"
	"errors"
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
			a.due = again
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
	m.retryLocked(now)
	domains, ids, due = m.planLocked()
	for _, msg := range due {
		a := msg.attempt
		a.flushes++
		a.due = time.Time{}
		if msg.place == unlisted && int(a.flushes) < len(arrivalDelays) {
			a.due = now.Add(arrivalDelays[a.flushes])
		}
		m.index.settle(msg, now)
	}
	return domains, ids, due
}

// retryLocked makes ready what is to be flushed by now, and asks again for
// what failed in a pinned queue.
func (m *Manager) retryLocked(now time.Time) {
	for msg := m.index.due(now); msg != nil; msg = m.index.due(now) {
		if a := msg.attempt; a.want == nil {
			a.due = time.Time{}
			for q := range msg.queues() {
				if q.window.pinned() && q.window.opens(msg, now) && msg.place != onHold {
					msg.release(q, now)
				}
			}
		}
		m.index.settle(msg, now)
	}
}

// planLocked chooses what of the messages that are ready is flushed now, and
// which of their domains are flushed whole.
//
// A flush by domain moves every message that the MTA has noted under it, and
// it may have noted some that have long been delivered to that domain and wait
// for another one. So it is exact only when everything that the MTA has is to
// go, as when a site pushes all of its mail. In all other cases messages are
// flushed one by one.
func (m *Manager) planLocked() (domains, ids []string, chunk []*message) {
	ready := m.index.ready.filed
	if m.allReadyLocked() {
		count := map[string]int{}
		for _, msg := range ready {
			if msg.place != deferred || msg.attempt.flushes > 0 {
				continue // a flush by domain did not find it, or would not
			}
			for d := range msg.domains() {
				count[d]++
			}
		}
		for d, n := range count {
			if d != "" && n >= domainWorth {
				domains = append(domains, d)
			}
		}
		slices.Sort(domains)
	}
	if domains != nil {
		for _, msg := range slices.Clone(ready) {
			if msg.attempt.flushes > 0 {
				continue
			}
			for d := range msg.domains() {
				if _, ok := slices.BinarySearch(domains, d); ok {
					m.index.unfile(msg)
					chunk = append(chunk, msg)
					break
				}
			}
		}
	}
	for len(ids) < flushChunk && m.index.ready.Len() > 0 {
		msg := heap.Pop(&m.index.ready).(*message)
		msg.attempt.filed = time.Time{}
		ids = append(ids, msg.id)
		chunk = append(chunk, msg)
	}
	return domains, ids, chunk
}

// allReadyLocked reports whether everything that the MTA has is to be flushed
// now, and is enough for domains to pay.
func (m *Manager) allReadyLocked() bool {
	ready := m.index.ready.filed
	if len(ready) < domainWorth || len(ready) < m.total || m.noDomains {
		return false
	}
	listed := 0
	for _, msg := range ready {
		if msg.place != unlisted {
			listed++
		}
	}
	return listed >= domainWorth && listed == m.total
}
