package deliver

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// write sends messages until the turn ends.
func (t *turn) write() error {
	for {
		m, err := t.next()
		if m == nil || err != nil {
			return err
		}
		if err := t.deliver(m); err != nil {
			return t.cause(err)
		}
	}
}

// next waits for a message. What is in the buffer goes out before it waits.
func (t *turn) next() (*message, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sending, t.current = false, nil
	if t.closing {
		t.changed()
	}
	var flushAt time.Time
	wakeIn := func(d time.Duration) *time.Timer {
		return time.AfterFunc(d, func() {
			t.mu.Lock()
			t.wake.Broadcast()
			t.mu.Unlock()
		})
	}
	for {
		switch {
		case t.err != nil:
			return nil, t.err
		case len(t.waiting) > 0:
			m := heap.Pop(&t.waiting).(*message)
			if m.settled || m.answered {
				continue
			}
			t.sending, t.current = true, m
			return m, nil
		case len(t.unproved) > 0 && t.marks == 0:
			// Refused at the envelope: no RSET went behind it.
			t.mu.Unlock()
			err := t.mark()
			t.mu.Lock()
			if err != nil {
				return nil, err
			}
			continue
		case t.out.Buffered() > 0 && flushAt.IsZero():
			d := corkTime(t.conn)
			flushAt = time.Now().Add(d)
			defer wakeIn(d).Stop()
		case t.out.Buffered() > 0 && time.Until(flushAt) <= 0:
			t.mu.Unlock()
			err := t.out.Flush()
			t.mu.Lock()
			if err != nil {
				return nil, err
			}
			continue
		case t.closing && t.out.Buffered() == 0:
			return nil, nil
		case len(t.refused) > 0 && len(t.expect) == 0 && t.out.Buffered() == 0:
			if left := t.silence() - time.Since(t.moved); left > 0 {
				defer wakeIn(left).Stop()
				break
			}
			for _, m := range t.refused {
				t.resolve(m, nil)
			}
			t.refused = nil
			continue
		}
		t.wake.Wait()
	}
}

// deliver puts a message on the line, or the question whether it may come. An
// error is one of the connection.
func (t *turn) deliver(m *message) error {
	fewer := t.recheck(m)
	if res := t.objection(m); res != nil {
		t.settle(m, res)
		return nil
	}
	if fewer && t.none(m) {
		return nil
	}
	ask := m.asks && !m.ready
	if ask && t.known(m) {
		// The site has taken all of its recipients before, so there is nothing
		// to ask: it goes by its size, like the others.
		t.mu.Lock()
		defer t.mu.Unlock()
		m.asks = false
		heap.Push(&t.waiting, m)
		return nil
	}
	if fewer || !(m.ready && t.last == m) {
		if err := t.envelope(m, ask); err != nil || ask {
			return err
		}
	}
	var err error
	switch {
	case t.over(m):
	case t.offers.chunking:
		err = t.chunks(m)
	default:
		err = t.data(m)
	}
	if err != nil {
		return err
	}
	return t.mark()
}

// over reports whether nothing more of a message need be sent.
func (t *turn) over(m *message) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return m.settled || m.answered
}

// none settles a message that nobody is left to have.
func (t *turn) none(m *message) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.pending() {
		return false
	}
	t.prove(m, nil)
	return true
}

// mark ends the transaction, which is the proof of the replies to it (see prove).
// When a message is refused, servers differ in what is left of its transaction,
// and the next one is on its way by then: its recipients could be added to the
// sender and the recipients of the first.
func (t *turn) mark() error {
	t.mu.Lock()
	t.last = nil
	t.marks++
	t.mu.Unlock()
	if err := t.command("RSET\r\n", expected{kind: isRset}); err != nil {
		return err
	}
	if !t.offers.pipelining {
		return t.sync()
	}
	return nil
}

// brokenOff answers for a message that cannot be read to its end.
func (t *turn) brokenOff(m *message, err error) {
	t.settle(m, temporary("the message ended early: "+err.Error()))
}

// objection is why a message cannot go to this site at all, or not now.
func (t *turn) objection(m *message) *smtp.SMTPError {
	o := t.offers
	switch {
	case m.gone():
		// The MTA does not wait any more, and will send it again.
		return temporary("the MTA gave the delivery up")
	case m.utf8 && o.helo:
		// Nobody knows what the site's own server takes.
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 6, 7}, Message: "the site answered to HELO only, and does not say whether it accepts internationalised mail (SMTPUTF8)"}
	case m.utf8 && !o.utf8:
		// RFC 6531, section 3.5. The MTA was told, and should have seen to it.
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 6, 7}, Message: "the site does not accept internationalised mail (SMTPUTF8)"}
	case o.maxSize > 0 && m.size > o.maxSize:
		return &smtp.SMTPError{Code: 552, EnhancedCode: smtp.EnhancedCode{5, 3, 4}, Message: fmt.Sprintf("the site accepts at most %d bytes, and this message has %d", o.maxSize, m.size)}
	}
	return nil
}

// known reports whether the site has taken all recipients before.
func (t *turn) known(m *message) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range m.rcpts {
		if !t.accepted[m.rcpts[i].addr] {
			return false
		}
	}
	return true
}

// envelope sends MAIL and RCPT. A transaction that was only to ask is ended first.
func (t *turn) envelope(m *message, ask bool) error {
	if t.last != nil {
		if err := t.mark(); err != nil {
			return err
		}
	}
	var lines []string
	var expect []expected
	lines, expect = append(lines, m.mail(t.offers)), append(expect, expected{m: m, kind: isMail})
	func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		open := 0
		for i := range m.rcpts {
			if m.rcpts[i].result == nil {
				lines, expect = append(lines, m.rcpt(i, t.offers)), append(expect, expected{m: m, kind: isRcpt, i: i})
				m.rcpts[i].accepted = false
				open++
			}
		}
		m.mailed, m.open, m.asking, m.goAhead = esmtp.Reply{}, open, ask, false
		t.last = m
	}()
	for i, line := range lines {
		if err := t.command(line, expect[i]); err != nil {
			return err
		}
		if t.offers.pipelining {
			continue
		}
		if err := t.sync(); err != nil {
			return err
		}
		if expect[i].kind == isMail && !m.mailed.OK() {
			t.mu.Lock()
			t.prove(m, result(m.mailed))
			t.mu.Unlock()
			return nil
		}
	}
	return nil
}

// command sends a line, and notes what its reply is for.
func (t *turn) command(line string, e expected) error {
	t.mu.Lock()
	first := len(t.expect) == 0
	e.at = t.sent + int64(t.out.Buffered()+len(line))
	t.expect = append(t.expect, e)
	if first {
		t.changed() // from now on wait has a reply to wait for
	}
	t.mu.Unlock()
	_, err := t.out.WriteString(line)
	return err
}

// sync waits until everything has been replied to.
func (t *turn) sync() error {
	if err := t.out.Flush(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.err == nil && len(t.expect) > 0 {
		t.wake.Wait()
	}
	return t.err
}

// chunks sends the message by BDAT (RFC 3030), without waiting for anything.
func (t *turn) chunks(m *message) error {
	now := m.head
	var next []byte
	if m.long() {
		next = make([]byte, small)
	}
	for {
		var n int
		if m.long() {
			var err error
			n, err = io.ReadFull(m.rest, next)
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.brokenOff(m, err) // what was sent is no message without the last chunk
				return nil
			}
		}
		last := n == 0
		if t.over(m) { // refused, or given up
			return nil
		}
		line, e := fmt.Sprintf("BDAT %d\r\n", len(now)), expected{m: m, kind: isChunk}
		if last {
			line, e.kind = fmt.Sprintf("BDAT %d LAST\r\n", len(now)), isEnd
		}
		if err := t.command(line, e); err != nil {
			return err
		}
		if _, err := t.out.Write(now); err != nil {
			return err
		}
		if !t.offers.pipelining {
			if err := t.sync(); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
		if cap(now) >= small {
			now, next = next[:n], now[:small]
		} else {
			now, next = next[:n], make([]byte, small)
		}
	}
}

// data sends the message by DATA. The go-ahead is waited for, and the next
// message may follow behind the end of this one (RFC 2920, section 3.1).
func (t *turn) data(m *message) error {
	if err := t.command("DATA\r\n", expected{m: m, kind: isData}); err != nil {
		return err
	}
	if err := t.sync(); err != nil {
		return err
	}
	t.mu.Lock()
	goAhead, over := m.goAhead, m.settled || m.answered
	t.mu.Unlock()
	if !goAhead {
		return nil
	}
	if !over { // else: 354 though nobody is left to get it; then nothing is sent
		d := dots{w: t.out, bol: true}
		_, err := d.Write(m.head)
		if err == nil && m.long() {
			in := source{r: m.rest}
			_, err = io.CopyBuffer(&d, &in, make([]byte, small/2))
			if in.err != nil {
				// There is no way to take back what has begun but to hang up.
				t.brokenOff(m, in.err)
			}
		}
		if err == nil {
			err = d.end()
		}
		if err != nil {
			return err
		}
	}
	if err := t.command(".\r\n", expected{m: m, kind: isEnd}); err != nil {
		return err
	}
	if !t.offers.pipelining {
		return t.sync()
	}
	return nil
}

// source remembers an error of reading, to tell it from one of writing.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
