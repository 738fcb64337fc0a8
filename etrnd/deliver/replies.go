package deliver

import (
	"container/heap"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// expected is what waits for one reply.
type expected struct {
	m    *message
	kind kind
	i    int // with isRcpt: which
}

type kind int

const (
	isHello kind = iota
	isRset
	isMail  // to MAIL
	isRcpt  // to RCPT
	isData  // to DATA
	isChunk // to BDAT
	isEnd   // to BDAT LAST, or to the end of DATA
	isQuit
)

// maxAccepted bounds the recipients that are remembered: a site has that many
// addresses at most, or is asked again.
const maxAccepted = 10000

// read matches replies with what waits for them until the connection ends.
func (t *turn) read() error {
	for {
		r, err := t.in.ReadReply()
		if err != nil {
			return t.cause(err)
		}
		if err := t.match(r); err != nil {
			return err
		}
	}
}

// match gives a reply to what waits for it.
func (t *turn) match(r esmtp.Reply) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = time.Now()
	switch {
	case t.err != nil:
		return t.err
	case len(t.expect) == 0:
		return fmt.Errorf("the site said %v, but no reply was due", r)
	case r.Code == 421:
		return fmt.Errorf("the site said %v", r)
	}
	e := t.expect[0]
	// A reply that cannot belong to its command means that the two sides have
	// lost count of each other. To go on would be to take one message's reply
	// for another's.
	if (r.Code == 220 || r.Code == 221) && e.kind != isQuit || r.Code/100 == 3 && e.kind != isData && e.kind != isEnd {
		return fmt.Errorf("the site said %v, which is no reply to what it was sent", r)
	}
	t.expect = t.expect[1:]
	t.take(e, r)
	t.changed()
	return nil
}

// take does what a reply means for its message. The caller holds mu.
func (t *turn) take(e expected, r esmtp.Reply) {
	m := e.m
	switch e.kind {
	case isHello:
		if !r.OK() {
			t.failLocked(fmt.Errorf("EHLO: refused with %v", r))
		}
	case isMail:
		m.mailed = r
	case isRcpt:
		rc := &m.rcpts[e.i]
		m.open--
		switch {
		case r.OK():
			rc.accepted = true
			if len(t.accepted) < maxAccepted {
				t.accepted[rc.addr] = true
			}
		case m.mailed.OK():
			rc.result = result(r)
			delete(t.accepted, rc.addr)
		default:
			rc.result = result(m.mailed) // this reply only says that there was no MAIL
		}
		if m.open == 0 {
			t.asked(m)
		}
	case isRset:
		if !r.OK() {
			// Without it the next message could get the envelope of this one.
			t.failLocked(fmt.Errorf("the site said %v to RSET", r))
		}
	case isData:
		switch {
		case r.Code == 354:
			m.goAhead = true
		case r.Code/100 == 4 || r.Code/100 == 5:
			t.resolve(m, result(r))
		default:
			t.resolve(m, temporary("the site said "+r.String()+" to DATA"))
		}
	case isChunk:
		if !r.OK() {
			t.resolve(m, result(r))
		}
	case isEnd:
		if r.OK() {
			m.closed = true
		}
		res := result(r)
		for i := range m.rcpts {
			if rc := &m.rcpts[i]; rc.result == nil && !rc.accepted {
				rc.result = temporary("no answer for this recipient")
			}
		}
		t.resolve(m, res)
	}
}

// asked is called when the replies to all of a message's recipients are there.
// The caller holds mu.
func (t *turn) asked(m *message) {
	if m.settled {
		return
	}
	if !m.pending() {
		t.resolve(m, nil)
		return
	}
	if m.asking && t.closing {
		t.resolve(m, temporary("the site's connection has ended"))
		return
	}
	if m.asking {
		m.asking, m.ready = false, true
		heap.Push(&t.waiting, m) // goes on when it is its turn
	}
}
