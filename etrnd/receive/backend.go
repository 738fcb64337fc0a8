package receive

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// backend is a connection to the local MTA. The reader has it for the length of
// a transaction, and then the replier until the last reply has come.
type backend struct {
	conn  net.Conn
	r     *esmtp.ReplyReader
	w     *bufio.Writer
	hello string // what it was greeted with
	used  time.Time

	errors int         // refusals since the last success
	dirty  bool        // there may be something to reset
	gone   atomic.Bool // closed by us: no replies are due any more

	// lost is closed by the replier when the MTA has said 421: nothing more is
	// read from it, and what is due from it is answered by us.
	lost chan struct{}

	mu    sync.Mutex // between a deadline and this
	brief bool       // the replier waits for a moment only
}

// bound sets how long what is under way with the MTA may take, the replier's
// wait included. Only for the reader.
func (b *backend) bound(wait time.Duration) {
	b.conn.SetWriteDeadline(time.Now().Add(wait))
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.brief { // else readReply will set it, and sees gone
		b.conn.SetReadDeadline(time.Now().Add(wait))
	}
}

// waitBriefly waits a little for a reply. An error comes back with the reply.
func (b *backend) waitBriefly(wait time.Duration) {
	b.mu.Lock()
	b.brief = true
	b.conn.SetReadDeadline(time.Now().Add(wait))
	b.mu.Unlock()
	b.r.Peek(1)
	b.mu.Lock()
	b.brief = false
	b.mu.Unlock()
}

func (b *backend) isLost() bool {
	select {
	case <-b.lost:
		return true
	default:
		return false
	}
}

// readReply reads one reply.
func (t *turn) readReply(b *backend) (esmtp.Reply, error) {
	b.conn.SetReadDeadline(time.Now().Add(t.o.MTATimeout))
	// In this order, so that the deadline of forget is not lengthened.
	if b.gone.Load() {
		b.conn.SetReadDeadline(time.Now().Add(min(t.o.MTATimeout, maxGone)))
	}
	r, err := b.r.ReadReply()
	switch {
	case errors.Is(err, esmtp.ErrReply):
		return r, fmt.Errorf("%w: %w", ErrMTA, err)
	case err != nil:
		return r, fmt.Errorf("%w: no reply: %w", ErrMTA, err)
	}
	return r, nil
}

// ask sends a command and reads the reply. Only for the reader, while nothing
// else is due from b.
func (t *turn) ask(b *backend, line string) (esmtp.Reply, error) {
	if err := t.send(b, line+"\r\n"); err != nil {
		return esmtp.Reply{}, err
	}
	if err := t.flush(b); err != nil {
		return esmtp.Reply{}, err
	}
	return t.readReply(b)
}

func (t *turn) send(b *backend, text string) error {
	b.conn.SetWriteDeadline(time.Now().Add(t.o.MTATimeout))
	if _, err := b.w.WriteString(text); err != nil {
		return fmt.Errorf("%w: %w", ErrMTA, err)
	}
	return nil
}

func (t *turn) flush(b *backend) error {
	b.conn.SetWriteDeadline(time.Now().Add(t.o.MTATimeout))
	if err := b.w.Flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrMTA, err)
	}
	return nil
}
