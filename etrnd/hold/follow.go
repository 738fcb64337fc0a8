package hold

import (
	"slices"
	"sync"
	"time"
)

// A call goes on as it began when the configuration is changed meanwhile, and has to
// say what became of the mail that it was to send. So it follows its queues, and not
// their names: one that is renamed stays the same, and of one that is taken out, or
// loses a domain, it is known which messages were its own and are not any more.

// Follow follows queues from their names as they are now until stop is called. states
// has them as they are, under the names that they have by then, in the same order.
func (m *Manager) Follow(names ...string) (states func() []State, stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var queues []*queueIndex
	for _, name := range names {
		q := m.index.queue(name)
		q.followers++
		queues = append(queues, q)
	}
	states = func() []State {
		m.mu.Lock()
		defer m.mu.Unlock()
		list, now := make([]State, len(queues)), time.Now()
		for i, q := range queues {
			list[i] = m.stateOfLocked(q, now)
			_, ok := m.set.ByName(q.name)
			list[i].Gone = !ok
			for _, size := range q.away {
				list[i].Away.Messages++
				list[i].Away.Bytes += size
			}
		}
		return list
	}
	return states, sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, q := range queues {
			if q.followers--; q.followers == 0 {
				q.away = nil
			}
		}
	})
}

// goesAway notes a message that is none of the queue's any more though it has not
// been delivered. That it is another's now whom somebody follows is no loss.
func (ix *index) goesAway(msg *message, q *queueIndex, groups []group) {
	if q.followers == 0 || slices.ContainsFunc(groups, func(g group) bool { return ix.queues[g.queue] != nil && ix.queues[g.queue].followers > 0 }) {
		return
	}
	if q.away == nil {
		q.away = map[string]int64{}
	}
	q.away[msg.id] = msg.size
}

// resortLocked has a message, of which a listing that began at listed shows where it
// is and for whom, sorted into the queues of a new configuration. What the MTA has in
// hand for a queue stays that queue's until it is gone or back; stays says so. All
// else leaves it now.
func (m *Manager) resortLocked(msg *message, where place, groups []group, listed time.Time) (stays bool) {
	a := msg.attempt
	inHand := a != nil && len(a.want) == 1 && !a.flushed.IsZero() && (where == incoming || where == active || listed.Before(a.flushed))
	for _, q := range slices.Collect(msg.queues()) {
		if slices.ContainsFunc(groups, func(g group) bool { return g.queue == q.name }) {
			continue
		}
		left := func(g group) bool {
			return slices.ContainsFunc(msg.parts(), func(p part) bool { return p.domain.queue == q && p.domain.name == g.domain })
		}
		switch {
		case !slices.ContainsFunc(groups, left): // delivered meanwhile
		case inHand && a.want.has(q):
			for i := range groups {
				if left(groups[i]) {
					groups[i].queue = q.name
				}
			}
			stays = true
		default:
			if a != nil {
				if a.again = false; a.want == nil {
					a.due = time.Time{} // not tried again
				}
				a.unwant(q)
			}
			m.index.goesAway(msg, q, groups)
		}
	}
	return stays
}
