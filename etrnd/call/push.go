package call

import (
	"context"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/socket"
)

// pins keeps the push queues of a line open: what is held goes, and what
// arrives goes at once, until the line has nothing more to do. It knows the pace
// of the line, and lets no more go at a time than the line can carry: five
// connections of the MTA, each with its TLS handshake, are the end of all others
// on one of 2,400 bit/s, the dialogue in which mail is asked for above all.
type pins struct {
	hold Holder
	link *link
	// mu guards the rest, and is the one lock under which the Holder is asked: it
	// never waits, and what it is told has to come in order.
	mu     sync.Mutex
	open   map[string]*pin
	asking int         // calls that have not asked their remotes yet
	pace   socket.Pace // as this line has shown, or the one before
	known  bool        // this one has
	guess  bool        // pace is of what has gone, and of no dialogue
	seen   int         // calls under way, which see what goes
	first  int         // messages at a time while nothing is known; 0: one
	hushed int         // who wants nothing more to go
	lost   int         // messages that the MTA has on connections that are dead
}

// nothing is a limit.
const nothing = -1

// pin is a queue that is open.
type pin struct {
	states  func() []hold.State // of that queue, whatever it is called now
	stop    func()              // to follow it
	unpin   func()
	limit   int // 0: none; or nothing
	unlimit func()
}

// add opens queues, or releases them once more.
func (p *pins) add(queues []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range queues {
		if p.open[q] == nil {
			one := &pin{unpin: func() {}, unlimit: func() {}}
			one.states, one.stop = p.hold.Follow(q)
			p.open[q] = one
		}
	}
	p.limitLocked() // before anything goes
	for _, q := range queues {
		old := p.open[q].unpin
		p.open[q].unpin = p.hold.Pin(queue.Selection{Queue: p.open[q].name()})
		old()
	}
}

// limitLocked has as many messages go at a time as fit. Of a line of which nothing
// is known the first message shows what it is like, as long as somebody looks.
func (p *pins) limitLocked() {
	n := p.pace.Connections()
	switch {
	case p.asking > 0 && !p.known:
		n = 1
	case p.pace == (socket.Pace{}) && p.seen > 0:
		n = max(p.first, 1)
	}
	if n > 0 {
		n = max(n/max(len(p.open), 1), 1) + p.lost
	}
	if p.hushed > 0 {
		n = nothing
	}
	for _, pin := range p.open {
		if pin.limit == n {
			continue
		}
		old := pin.unlimit
		pin.limit, pin.unlimit = n, func() {}
		if n != 0 {
			pin.unlimit = p.hold.Limit(pin.name(), max(n, 0))
		}
		old()
	}
}

// asks notes that a call is going to ask its remote: until it has, others leave
// the line to it. The function that it returns ends that.
func (p *pins) asks() (asked func()) {
	// A line may stay up for weeks and become another one meanwhile: what is
	// measured while nothing else moves is worth more than what was.
	anew := !p.moving()
	change := func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.known = p.known && !(anew && p.asking == 0)
		p.asking += n
		p.limitLocked()
	}
	change(1)
	return sync.OnceFunc(func() { change(-1) })
}

// measured notes the pace that a dialogue has shown. One beside which mail moves
// sees only a part of it.
func (p *pins) measured(pace socket.Pace) {
	if pace == (socket.Pace{}) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if pace.RTT == 0 {
		pace.RTT = p.pace.RTT
	}
	if p.known {
		pace.Rate = max(pace.Rate, p.pace.Rate)
	}
	p.pace, p.known, p.guess = pace, true, false
	p.limitLocked()
	p.link.showPace(pace, false)
}

// lose notes how many messages the MTA has on connections that are dead, as those of
// an earlier line: they take nothing of this one.
func (p *pins) lose(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost != n {
		p.lost = n
		p.limitLocked()
	}
}

// hush lets nothing more go until the function that it returns is called: over a
// line that shows no life it would only come back.
func (p *pins) hush() (unhush func()) {
	change := func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.hushed += n
		p.limitLocked()
	}
	change(1)
	return sync.OnceFunc(func() { change(-1) })
}

// watch notes that a call is under way. The function that it returns ends that.
func (p *pins) watch() (unwatch func()) {
	change := func(n int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen += n
		p.limitLocked()
	}
	change(1)
	return sync.OnceFunc(func() { change(-1) })
}

const (
	// firstPatience is how long the first message over a line of which nothing is
	// known may take before another goes beside it: it may be its destination that
	// is slow. It doubles.
	firstPatience = 30 * time.Second
	// perMessage is what a message takes of a line beside its own bytes, when it
	// has a connection with a TLS handshake of its own.
	perMessage = 10_000
)

// carried notes what has gone over the line while something was under way for d:
// where it carries more than it had shown, more may go at a time.
func (p *pins) carried(sent hold.Left, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	unknown := p.pace == (socket.Pace{})
	bytes := sent.Bytes
	if unknown || p.guess {
		bytes += int64(sent.Messages) * perMessage
	}
	switch {
	case unknown && sent.Messages == 0:
		if first := 1 << min(d/firstPatience, 4); first > max(p.first, 1) {
			p.first = first
			p.limitLocked()
		}
		return
	case unknown:
		p.guess, d = true, max(d, time.Millisecond)
	case d < time.Second, p.pace.Connections() == 0:
		return
	}
	if rate := int(float64(bytes) / d.Seconds()); rate > p.pace.Rate {
		p.pace.Rate = rate
		p.limitLocked()
		p.link.showPace(p.pace, p.guess)
	}
}

// shown is the pace of the line, as far as it is known.
func (p *pins) shown() socket.Pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pace
}

// moving tells whether anything is under way in them.
func (p *pins) moving() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pin := range p.open {
		if pin.states()[0].UnderWay > 0 {
			return true
		}
	}
	return false
}

// name is what the queue is called now.
func (p *pin) name() string { return p.states()[0].Queue }

// shut closes them: what is still held stays held.
func (p *pins) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pin := range p.open {
		pin.unpin()
		pin.unlimit()
		pin.stop()
	}
	p.open = map[string]*pin{}
}

// begin notes how everything stands as the call begins.
func (cl *call) begin() {
	cl.states, cl.unfollow = cl.caller.hold.Follow(cl.remote.PushQueues...)
	for _, s := range cl.states() {
		cl.before.Messages += s.Left.Messages
		cl.before.Bytes += s.Left.Bytes
		if s.Gone {
			cl.gone = append(cl.gone, s.Queue)
		}
	}
	cl.show(func(s *shown) { s.began = time.Now() })
}

// push releases what is held for the remote. The queues stay open until the
// line has nothing more to do.
func (cl *call) push() {
	cl.pushing.Do(func() {
		cl.pushed = time.Now()
		if !cl.remote.RouterType.Pushes() {
			return
		}
		var queues []string
		for _, s := range cl.states() {
			if !s.Gone {
				queues = append(queues, s.Queue)
			}
		}
		cl.line.pins.add(queues)
	})
}

// pushMeanwhile pushes while the remote is still being asked, if that takes too
// long: a remote that hangs must not keep what is held for it, which most often
// goes to another host.
func (cl *call) pushMeanwhile(ctx context.Context) {
	began := time.Now()
	for {
		left := cl.line.pins.shown().Grace(cl.remote.ConnectTimeout+cl.remote.RequestTimeout) - time.Since(began)
		if left <= 0 {
			cl.push()
			return
		}
		select {
		case <-cl.dialogued:
			return
		case <-ctx.Done():
			return
		case <-time.After(left):
		}
	}
}

// lookAtPush observes the push queues, and returns what has left them since the
// call began.
func (cl *call) lookAtPush(o *observed) (sent hold.Left) {
	listed, _, err := cl.caller.hold.Listed()
	o.unlisted = time.Since(latest(cl.waiting, listed))
	o.push.listed = !listed.Before(cl.pushed)
	if err != nil {
		o.push.err = err.Error()
	}
	for _, s := range cl.states() {
		o.push.add(s)
		sent.Messages += s.Left.Messages
		sent.Bytes += s.Left.Bytes
	}
	// Less than none: what had been counted for another call was stored anew.
	sent.Messages = max(sent.Messages-cl.before.Messages, 0)
	sent.Bytes = max(sent.Bytes-cl.before.Bytes, 0)
	o.gone = cl.gone
	o.sent = sent.Messages
	cl.line.pins.carried(sent, cl.busy.until(time.Now(), o.push.underWay > 0, o.sent))
	o.still = cl.still.since(o.push, o.sent)
	o.unheard = cl.line.pulse.inVain()
	return sent
}

// busyTime is for how long messages have been going out. A line on which nothing was
// to go has not shown that it carries nothing.
type busyTime struct {
	sum  time.Duration
	at   time.Time // of the last look
	was  bool      // something was going then
	sent int       // and had gone
}

// until notes a look.
func (b *busyTime) until(now time.Time, going bool, sent int) time.Duration {
	if !b.at.IsZero() && (b.was || sent != b.sent) {
		b.sum += now.Sub(b.at)
	}
	b.at, b.was, b.sent = now, going, sent
	return b.sum
}

// add sums up one more queue.
func (p *pushSeen) add(s hold.State) {
	p.held += s.Messages - s.OnHold
	p.onHold += s.OnHold
	p.away += s.Away.Messages
	p.underWay += s.UnderWay
	p.failed += s.Failed
	p.retry += s.Retry
	p.open = p.open || s.Open
	if s.Reason != "" {
		p.reason = s.Reason
	}
}

// unsent is what has been tried and is back.
func (p *pushSeen) unsent() *api.Unsent {
	if p.failed == 0 {
		return nil
	}
	return &api.Unsent{Messages: p.failed, Reason: p.reason}
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
