package deliver

import (
	"container/heap"
	"errors"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
)

// submit takes a message that is complete, or begun and long, from the endpoint.
// m.done is called when it has been answered for.
func (t *turn) submit(m *message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight++
	t.serial++
	m.serial = t.serial
	// A long message is not sent on the chance that somebody wants it. The
	// question goes out early, and the message when the answer is here; others
	// may use the line meanwhile.
	m.asks = m.long() && t.offers.pipelining && t.offers.chunking
	if t.closing {
		t.resolve(m, temporary("the site's connection has ended"))
		return
	}
	heap.Push(&t.waiting, m)
	t.wake.Broadcast()
}

// resolve gives every recipient without a result this one, and lets the
// delivery go. The caller holds mu.
func (t *turn) resolve(m *message, e *smtp.SMTPError) {
	if m.settled {
		return
	}
	good := 0
	for i := range m.rcpts {
		r := &m.rcpts[i]
		if r.result == nil {
			r.result = e
		}
		switch r.result.Code / 100 {
		case 2:
			good++
		case 4:
			t.kept++
		}
	}
	if good > 0 {
		t.delivered++
		t.bytes += m.size
	} else {
		t.failed++
	}
	m.settled = true
	t.inFlight--
	t.doneAt = time.Now()
	m.done()
	t.changed()
}

// settle is resolve for whoever does not hold mu.
func (t *turn) settle(m *message, res *smtp.SMTPError) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resolve(m, res)
}

// keepWaiting answers 4xx for what has not been sent. The caller holds mu.
func (t *turn) keepWaiting(why string) {
	for len(t.waiting) > 0 {
		m := heap.Pop(&t.waiting).(*message)
		t.resolve(m, temporary(why))
	}
}

// abandon answers 4xx for whatever is left.
func (t *turn) abandon(err error) {
	why := "the site's connection has ended"
	if err != nil {
		why = "the site's connection was lost: " + err.Error()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
	t.keepWaiting(why)
	t.unproved = append(t.refused, t.unproved...)
	for _, m := range t.unproved {
		if errors.Is(err, errCount) {
			for i := range m.rcpts {
				m.rcpts[i].result = temporary(why)
			}
		}
		t.resolve(m, nil)
	}
	t.refused, t.unproved = nil, nil
	for _, e := range t.expect {
		if e.m != nil {
			t.resolve(e.m, temporary(why))
		}
	}
	t.expect = nil
	for _, m := range []*message{t.last, t.current} {
		if m != nil {
			t.resolve(m, temporary(why))
		}
	}
}

// maxAnswer is how much text the MTA is told, in bytes: a line of a reply has 512
// (RFC 5321, section 4.5.3.1.5).
const maxAnswer = 500

// result is what the MTA is told of one recipient. A failure that says nothing
// about the mail, but about the dialogue, is not passed on as permanent.
func result(r esmtp.Reply) *smtp.SMTPError {
	code, text := r.Code, foreign.Clip(r.Text(), maxAnswer)
	status, rest := esmtp.CutStatus(text)
	switch {
	case code/100 != 2 && code/100 != 4 && code/100 != 5,
		code == 500, code == 502, code == 503, code == 530, aboutParameters(r):
		return temporary("the site said " + r.String())
	case status[0] != code/100:
		status, rest = esmtp.Status{code / 100, 0, 0}, text
	}
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode(status), Message: rest}
}

// aboutParameters recognises the refusal of what stands behind an address, which
// may be ours to write and is not the mail.
func aboutParameters(r esmtp.Reply) bool {
	status, _ := esmtp.CutStatus(r.Text())
	return r.Code == 504 || r.Code == 555 || r.Code == 501 && status[0] == 5 && status[1] == 5
}

// temporary is the answer that makes the MTA keep the mail.
func temporary(text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: foreign.Clip(text, maxAnswer)}
}
