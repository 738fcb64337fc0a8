package receive

import (
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/socket"
)

// reply brings the replies to the provider until no more are due. A provider
// that has gone does not end it: what the MTA has taken is to be counted.
func (t *turn) reply() error {
	for {
		a, ok := t.due()
		if !ok {
			return nil
		}
		if a.b == nil {
			t.write([]byte(a.text))
		} else if err := t.bring(a); err != nil {
			return err
		}
		if !a.silent {
			t.provider.owe(-1)
		}
	}
}

// write sends to the provider, when it will be flushed. Once that fails nothing
// more can be read either.
func (t *turn) write(text []byte) {
	if _, err := t.out.Write(text); err != nil {
		t.failed(gone(err))
		t.provider.stop()
	}
}

func (t *turn) push() {
	if err := t.out.Flush(); err != nil {
		t.failed(gone(err))
		t.provider.stop()
	}
}

func gone(err error) error {
	if err == io.EOF {
		return ErrClosed
	}
	if errors.Is(err, ErrSilent) {
		return fmt.Errorf("%w: it does not read its replies", err)
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}

// due is the next reply. What has been written is sent off when there is none
// soon: replies travel together as long as that costs next to no time.
func (t *turn) due() (*answer, bool) {
	select {
	case a, ok := <-t.answers:
		if !ok {
			t.push()
		}
		return a, ok
	default:
	}
	if t.gather > 0 && t.out.Buffered() > 0 {
		timer := time.NewTimer(t.gather)
		defer timer.Stop()
		select {
		case a, ok := <-t.answers:
			if !ok {
				t.push()
			}
			return a, ok
		case <-timer.C:
		}
	}
	t.push()
	a, ok := <-t.answers
	return a, ok
}

// gatherTime is how long a reply waits for others to travel with, on this
// connection: nothing next to its round trip. A packet costs 52 bytes each way,
// as its acknowledgement often goes alone, and the reply to MAIL has 14.
func gatherTime(conn net.Conn) time.Duration {
	line, _ := socket.InfoOf(conn)
	return min(line.RTT/30, 20*time.Millisecond)
}

// bring reads a reply of the MTA and passes it on.
func (t *turn) bring(a *answer) error {
	r, err := t.told(a)
	if err != nil {
		if a.b.gone.Load() {
			a.b.conn.Close() // the next reply is not waited for
			return nil
		}
		t.write([]byte(t.noMTA() + "\r\n"))
		t.push()
		return err
	}
	r = t.weigh(a, r)
	if !a.silent {
		t.scratch = r.AppendTo(t.scratch[:0])
		t.write(t.scratch)
	}
	t.note(a, r)
	if a.code != nil {
		// The reader waits, and so does the provider.
		t.push()
		a.code <- r.Code
	}
	if a.final && r.OK() {
		t.inVain = 0
	}
	if t.inVain >= MaxInVain {
		t.write([]byte("421 4.3.2 " + t.o.Hostname + " the mail server takes nothing now, try again later\r\n"))
		t.push()
		return fmt.Errorf("%w: %s", ErrDoor, t.Counts().Why.Reply)
	}
	if a.free && !a.b.isLost() {
		t.release(a.b)
	}
	return nil
}

// told is what the MTA replies. 421 is about one connection only, and from
// there on every answer but that to RSET is a temporary no.
func (t *turn) told(a *answer) (esmtp.Reply, error) {
	if !a.b.isLost() {
		if a.b.r.Buffered() == 0 {
			if t.gather > 0 && t.out.Buffered() > 0 {
				a.b.waitBriefly(t.gather)
			}
			if a.b.r.Buffered() == 0 {
				t.push()
			}
		}
		r, err := t.readReply(a.b)
		switch {
		case err != nil:
			return r, err
		case r.Code == 421:
			t.log.Warn("the local mail server ends a connection", "reply", foreign.Clip(r.String(), maxShown))
		case a.free && a.b.surplus(), a.code != nil && r.OK(), a.code == nil && r.Code/100 == 3, a.free && r.TakesAddress():
			// One of the replies before was not what it was taken for.
			t.log.Warn("the replies of the local mail server do not match the commands", "reply", foreign.Clip(r.String(), maxShown))
		default:
			return r, nil
		}
		t.lose(a.b)
	}
	if a.free && !a.final {
		return esmtp.Reply{Code: 250, Lines: []string{"2.0.0 Ok"}}, nil
	}
	return esmtp.Reply{Code: 451, Lines: []string{"4.3.2 The mail server has failed in this connection, try again later"}}, nil
}

// queued is how Postfix, Exim and Sendmail name what they have taken.
var queued = regexp.MustCompile(`(?i)(?:queued as |id=|^2\.0\.0 )([A-Za-z0-9.-]{5,60})`)

// note keeps the counts.
func (t *turn) note(a *answer, r esmtp.Reply) {
	b := a.b
	switch {
	case r.Code/100 >= 4:
		b.errors++
	case a.final:
		b.errors, b.dirty = 0, false
	case a.free: // RSET
		b.dirty = false
	}
	switch {
	case a.final && r.Code/100 == 2:
		id := ""
		if m := queued.FindStringSubmatch(r.Last()); m != nil {
			id = m[1]
		}
		t.log.Info("message taken", "from", foreign.Clip(a.tx.from, maxShown), "recipients", a.tx.to, "bytes", a.tx.bytes.Load(), "queue_id", id)
		t.count(func(c *Counts) {
			c.Messages++
			c.Bytes += a.tx.bytes.Load()
			a.tx.ends(c)
			c.Last = id
			if id != "" && len(t.took) < maxTook {
				t.took[id] = true
			}
		})
	case a.final, a.free:
		t.count(a.tx.ends)
	}
}

// ends takes a transaction out of what is under way.
func (tx *transaction) ends(c *Counts) {
	c.Coming -= tx.coming
	c.Busy--
	tx.coming, tx.over = 0, true
}
