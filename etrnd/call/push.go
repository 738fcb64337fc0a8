package call

import (
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/queue"
)

// pins keeps the push queues of a line open: what is held goes, and what
// arrives goes at once, until the line has nothing more to do.
type pins struct {
	hold Holder
	mu   sync.Mutex // guards open
	open map[string]func()
}

// add opens queues, or releases them once more.
func (p *pins) add(queues []string) {
	for _, q := range queues {
		unpin := p.hold.Pin(queue.Selection{Queue: q})
		p.mu.Lock()
		old := p.open[q]
		p.open[q] = unpin
		p.mu.Unlock()
		if old != nil {
			old()
		}
	}
}

// moving tells whether anything is under way in them.
func (p *pins) moving() bool {
	for _, q := range p.names() {
		if st, ok := p.hold.State(q); ok && st.UnderWay > 0 {
			return true
		}
	}
	return false
}

func (p *pins) names() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for q := range p.open {
		list = append(list, q)
	}
	return list
}

// shut closes them: what is still held stays held.
func (p *pins) shut() {
	p.mu.Lock()
	open := p.open
	p.open = map[string]func(){}
	p.mu.Unlock()
	for _, unpin := range open {
		unpin()
	}
}

// push releases what is held for the remote. The queues stay open until the
// line has nothing more to do.
func (cl *call) push() {
	for _, s := range cl.pushQueues() {
		cl.before.Messages += s.Left.Messages
		cl.before.Bytes += s.Left.Bytes
	}
	cl.show(func(s *shown) { s.began = time.Now() })
	if cl.remote.RouterType.Pushes() {
		cl.line.pins.add(cl.remote.PushQueues)
	}
}

// lookAtPush observes the push queues, and returns what has left them since the
// call began.
func (cl *call) lookAtPush(o *observed) (sent hold.Left) {
	listed, _, err := cl.caller.hold.Listed()
	o.unlisted = time.Since(latest(cl.waiting, listed))
	o.push.listed = !listed.Before(cl.shown.began)
	if err != nil {
		o.push.err = err.Error()
	}
	for _, s := range cl.pushQueues() {
		o.push.add(s)
		sent.Messages += s.Left.Messages
		sent.Bytes += s.Left.Bytes
	}
	sent.Messages -= cl.before.Messages
	sent.Bytes -= cl.before.Bytes
	o.sent = sent.Messages
	o.still = cl.still.since(o.push, o.sent)
	return sent
}

// pushQueues is how the queues stand that go out in this call.
func (cl *call) pushQueues() (states []hold.State) {
	for _, name := range cl.remote.PushQueues {
		if s, ok := cl.caller.hold.State(name); ok {
			states = append(states, s)
		}
	}
	return states
}

// add sums up one more queue.
func (p *pushSeen) add(s hold.State) {
	p.held += s.Messages - s.OnHold
	p.underWay += s.UnderWay
	p.failed += s.Failed
	p.retry += s.Retry
	p.open = p.open || s.Open
	if s.Reason != "" {
		p.reason = s.Reason
	}
}

// stillness is how long the push queues have been as they are.
type stillness struct {
	push pushSeen
	sent int
	at   time.Time
}

func (s *stillness) since(push pushSeen, sent int) time.Duration {
	if s.at.IsZero() || s.push != push || s.sent != sent {
		*s = stillness{push, sent, time.Now()}
	}
	return time.Since(s.at)
}
