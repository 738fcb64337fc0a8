package deliver

import (
	"container/heap"
	"fmt"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/socket"
)

// expected is what waits for one reply.
type expected struct {
	m    *message
	kind kind
	i    int   // with isRcpt: which
	at   int64 // the bytes that the site has got when it has got the command
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
	case r.Code == 421:
		return fmt.Errorf("the site said %v", r)
	case len(t.expect) == 0:
		return fmt.Errorf("%w: the site said %v, but no reply was due", errCount, r)
	case t.expect[0].at > t.sent:
		return fmt.Errorf("%w: the site said %v before it was asked", errCount, r)
	case len(t.expect) == 1 && t.surplus():
		return fmt.Errorf("%w: the site said %v and then more, but no reply was due", errCount, r)
	}
	e := t.expect[0]
	// A reply that cannot belong to its command means that the two sides have
	// lost count of each other. To go on would be to take one message's reply
	// for another's.
	if (r.Code == 220 || r.Code == 221) && e.kind != isQuit || r.Code/100 == 3 && e.kind != isData && e.kind != isEnd {
		return fmt.Errorf("%w: the site said %v, which is no reply to what it was sent", errCount, r)
	}
	if r.TakesAddress() && (e.kind == isRset || e.kind == isChunk || e.kind == isEnd) {
		return fmt.Errorf("%w: the site said %v, which is no reply to what it was sent", errCount, r)
	}
	if e.kind == isQuit && r.Code != 221 && len(t.refused) > 0 {
		return fmt.Errorf("%w: the site said %v to QUIT", errCount, r)
	}
	t.expect = t.expect[1:]
	t.take(e, r)
	t.changed()
	return nil
}

// surplus reports whether the site has said more than the reply at hand. 421 may
// come at any time (RFC 5321, section 3.8).
func (t *turn) surplus() bool {
	more, _ := t.in.Peek(t.in.Buffered())
	return len(more) > 0 && !strings.HasPrefix("421", string(more[:min(3, len(more))]))
}

// prove gives every recipient without a result this one, and keeps the delivery
// waiting until the reply to the RSET behind it. A site, or something in front of
// it, that once says a word too much would have each reply taken for that of the
// command before: the refusal of a message for that of the next, and a success for
// what was refused. With what comes to RSET, which cannot be refused, the count is
// seen to be right. When the connection is lost before, the site is believed: to
// doubt it would be to send again what it has. The caller holds mu.
func (t *turn) prove(m *message, e *smtp.SMTPError) {
	if m.settled || m.answered {
		return
	}
	for i := range m.rcpts {
		if r := &m.rcpts[i]; r.result == nil {
			r.result = e
		}
	}
	m.answered = true
	t.unproved = append(t.unproved, m)
	t.changed()
}

// proved lets go what prove has kept. A refusal waits for more: where a 550 was the
// word too much, the success of the message itself is what has come to RSET, and
// what is due to RSET is still to come. So there has to be silence for a moment
// before anything is returned to its sender. The caller holds mu.
func (t *turn) proved() {
	for _, m := range t.unproved {
		if m.refused() {
			t.refused = append(t.refused, m)
		} else {
			t.resolve(m, nil)
		}
	}
	t.unproved = nil
}

// silence is how long nothing may be said behind the last reply that was due: what
// is too much is on its way with it.
func (t *turn) silence() time.Duration {
	line, _ := socket.InfoOf(t.conn)
	return min(max(line.RTT, 100*time.Millisecond), 3*time.Second)
}

// refused reports whether a recipient is refused for good.
func (m *message) refused() bool {
	for i := range m.rcpts {
		if r := m.rcpts[i].result; r != nil && r.Code/100 == 5 {
			return true
		}
	}
	return false
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
		t.noteParameters(r)
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
			t.noteParameters(r)
			delete(t.accepted, rc.addr)
		default:
			rc.result = result(m.mailed) // this reply only says that there was no MAIL
		}
		if m.open == 0 {
			t.asked(m)
		}
	case isRset:
		t.marks--
		if !r.OK() {
			// Without it the next message could get the envelope of this one.
			t.failLocked(fmt.Errorf("%w: the site said %v to RSET", errCount, r))
			return
		}
		t.proved()
	case isData:
		switch {
		case r.Code == 354:
			m.goAhead = true
		case r.Code/100 == 4 || r.Code/100 == 5:
			t.prove(m, result(r))
		default:
			t.prove(m, temporary("the site said "+r.String()+" to DATA"))
		}
	case isChunk:
		if !r.OK() {
			t.prove(m, result(r))
		}
	case isEnd:
		res := result(r)
		for i := range m.rcpts {
			if rc := &m.rcpts[i]; rc.result == nil && !rc.accepted {
				rc.result = temporary("no answer for this recipient")
			}
		}
		t.prove(m, res)
	}
}

// noteParameters takes note of a site that refuses what stands behind an address.
// The caller holds mu.
func (t *turn) noteParameters(r esmtp.Reply) {
	if t.offers.dsn && aboutParameters(r) && t.noDSN == "" {
		t.noDSN = r.String()
	}
}

// asked is called when the replies to all of a message's recipients are there.
// The caller holds mu.
func (t *turn) asked(m *message) {
	if m.settled || m.answered {
		return
	}
	if !m.pending() {
		t.prove(m, nil)
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
