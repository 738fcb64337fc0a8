package hold

import (
	"slices"
	"time"
)

// What an administrator has the MTA store anew (postsuper -r) gets another id. Mostly
// it is seen in maildrop first. When the MTA takes it in between two listings, as it
// does when it is reloaded at once, it looks like one that has gone and one that has
// come. It keeps its time of arrival, though: what a listing shows for the first time,
// and the one before should have shown, was there under another id.

// trace is what there is to know a message by that is not there any more, or about
// to be there no more, or that is there again.
type trace struct {
	id            string
	arrived, size int64
	to            int           // recipients
	queues        []*queueIndex // that it was counted to have left; nil: none
	at            time.Time
}

const (
	// tracedFor is how long a message is remembered for that: Postfix looks into
	// maildrop each minute. tracesMax is how many are; of more none is.
	tracedFor = 3 * time.Minute
	tracesMax = 1000
	// restored is by how much a message may grow: the MTA adds a field to its header.
	restored = 1000
	// surelyListed is how much older than a listing a message is that it has to show:
	// times of arrival are cut to seconds. (What takes longer to come in, the milter
	// has told of.)
	surelyListed = time.Second
)

// becomes reports whether next can be the same message, stored anew.
func (t trace) becomes(next trace) bool {
	return t.id != next.id && t.arrived == next.arrived && t.to == next.to && next.size > t.size && next.size < t.size+restored
}

func keepTrace(list []trace, t trace) []trace {
	list = slices.DeleteFunc(list, func(old trace) bool { return old.id == t.id || t.at.Sub(old.at) > tracedFor })
	if len(list) == tracesMax {
		return nil
	}
	return append(list, t)
}

func traceOf(msg *message, now time.Time) trace {
	return trace{id: msg.id, arrived: msg.arrived, size: msg.size, to: msg.recipients(), at: now}
}

// leavesLocked notes a message that is about to be stored anew.
func (m *Manager) leavesLocked(msg *message, now time.Time) {
	m.went = keepTrace(m.went, traceOf(msg, now))
}

// backLocked looks at a message that no listing has shown before. If it has been
// counted as gone, that is taken back.
func (m *Manager) backLocked(id string, arrived, size int64, groups []group, now time.Time) {
	if !m.sorted || !time.UnixMicro(arrived).Add(surelyListed).Before(m.listed) {
		return // it is new, or another configuration had it for nobody
	}
	back := trace{id: id, arrived: arrived, size: size, to: recipients(groups), at: now}
	i := slices.IndexFunc(m.went, func(t trace) bool { return t.queues == nil && t.becomes(back) })
	if i < 0 {
		i = slices.IndexFunc(m.went, func(t trace) bool { return t.becomes(back) })
	}
	if i < 0 {
		m.back = keepTrace(m.back, back) // the old id may be missed later
		return
	}
	for _, q := range m.went[i].queues {
		q.left.Messages--
		q.left.Bytes -= m.went[i].size
	}
	m.went = slices.Delete(m.went, i, i+1)
}

// isBackLocked reports whether a message that is not there any more was stored anew.
// If not, it is remembered for one that comes.
func (m *Manager) isBackLocked(msg *message, now time.Time) bool {
	t := traceOf(msg, now)
	if i := slices.IndexFunc(m.back, func(back trace) bool { return t.becomes(back) }); i >= 0 {
		m.back = slices.Delete(m.back, i, i+1)
		return true
	}
	t.queues = slices.Collect(msg.queues())
	m.went = keepTrace(m.went, t)
	return false
}
