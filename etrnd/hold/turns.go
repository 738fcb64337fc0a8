package hold

import (
	"cmp"
	"container/heap"
	"time"
)

// refile puts a message where its time will find it. One that goes for several
// queues is in the turn of each of them: it goes by the first that has a place,
// however long the others wait for one.
func (ix *index) refile(msg *message, now time.Time) {
	a := msg.attempt
	if a == nil {
		return
	}
	ready := a.want != nil && !a.due.IsZero() && !a.due.After(now) && !msg.putBy()
	if a.ready && ready && a.turn == a.flushes {
		a.filed = a.due
		ix.takeTurns(msg)
		return
	}
	if a.filed.Equal(a.due) && a.turn == a.flushes && a.ready == ready {
		return
	}
	ix.unfile(msg)
	if a.due.IsZero() {
		return
	}
	a.filed, a.turn = a.due, a.flushes
	if !ready {
		heap.Push(&ix.later, msg)
		return
	}
	a.ready = true
	ix.ready++
	ix.takeTurns(msg)
}

// takeTurns puts a message that is ready into the turn of each queue for which it
// goes, and into no other.
func (ix *index) takeTurns(msg *message) {
	for i := range msg.parts() {
		p := &msg.parts()[i]
		switch goes := p.first() && p.class == classUnderWay; {
		case goes && p.inReady < 0:
			ix.await(p)
		case !goes && p.inReady >= 0:
			ix.leave(p)
		}
	}
}

// await puts a message into the turn of one queue.
func (ix *index) await(p *part) {
	q := p.domain.queue
	heap.Push(&q.ready, p)
	if q.ready.Len() == 1 {
		q.inRound = len(ix.rounds)
		ix.rounds = append(ix.rounds, q)
	}
}

// leave takes it out of that.
func (ix *index) leave(p *part) {
	q := p.domain.queue
	heap.Remove(&q.ready, int(p.inReady))
	if q.ready.Len() == 0 {
		last := ix.rounds[len(ix.rounds)-1]
		ix.rounds[q.inRound], last.inRound = last, q.inRound
		ix.rounds = cut(ix.rounds)
	}
}

func (ix *index) unfile(msg *message) {
	a := msg.attempt
	if a == nil || a.filed.IsZero() {
		return
	}
	a.filed = time.Time{}
	if !a.ready {
		heap.Remove(&ix.later, int(a.at))
		return
	}
	a.ready = false
	ix.ready--
	for i := range msg.parts() {
		if p := &msg.parts()[i]; p.inReady >= 0 {
			ix.leave(p)
		}
	}
}

// waitFor has a message that is ready wait in the turn of one of its queues
// alone, until it is settled the next time.
func (ix *index) waitFor(msg *message, q *queueIndex) {
	for i := range msg.parts() {
		p := &msg.parts()[i]
		switch here := p.domain.queue == q; {
		case p.inReady >= 0 && !here:
			ix.leave(p)
		case p.inReady < 0 && here && p.first():
			ix.await(p)
		}
	}
}

// due takes the next message out of later if its time has come.
func (ix *index) due(now time.Time) *message {
	if ix.later.Len() == 0 || ix.later[0].attempt.filed.After(now) {
		return nil
	}
	msg := ix.later[0]
	ix.unfile(msg)
	return msg
}

// byDue is a heap of messages, the next in time first.
type byDue []*message

func (h byDue) Len() int           { return len(h) }
func (h byDue) Less(i, j int) bool { return h[i].attempt.filed.Before(h[j].attempt.filed) }
func (h byDue) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].attempt.at, h[j].attempt.at = int32(i), int32(j)
}
func (h *byDue) Push(x any) {
	msg := x.(*message)
	msg.attempt.at = int32(len(*h))
	*h = append(*h, msg)
}
func (h *byDue) Pop() any {
	msg := (*h)[len(*h)-1]
	*h = cut(*h)
	return msg
}

// byTurn is a heap of parts, in the order in which their messages are flushed.
type byTurn []*part

func (h byTurn) Len() int           { return len(h) }
func (h byTurn) Less(i, j int) bool { return beforeInTurn(h[i].message, h[j].message) < 0 }
func (h byTurn) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].inReady, h[j].inReady = int32(i), int32(j)
}
func (h *byTurn) Push(x any) {
	p := x.(*part)
	p.inReady = int32(len(*h))
	*h = append(*h, p)
}
func (h *byTurn) Pop() any {
	p := (*h)[len(*h)-1]
	*h = cut(*h)
	p.inReady = -1
	return p
}

// beforeInTurn compares by the flushes a message has had, so that one that is
// not found does not hold up the rest, and then by priority and age.
func beforeInTurn(a, b *message) int {
	return cmp.Or(cmp.Compare(a.attempt.turn, b.attempt.turn), cmp.Compare(b.urgent, a.urgent), cmp.Compare(a.arrived, b.arrived), cmp.Compare(a.id, b.id))
}
