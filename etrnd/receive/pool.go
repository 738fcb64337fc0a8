package receive

import (
	"bufio"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/esmtp"
)

const (
	// maxErrors is how many refusals in a row one connection to the MTA sees:
	// Postfix becomes slow after 10 and hangs up after 20, for which a
	// provider with mail for users who have left is not to be blamed.
	maxErrors = 8
	// maxIdle is how long a connection may have been idle to be used again.
	maxIdle = time.Minute

	// maxGone is how long the last replies of a connection that was given up
	// are waited for.
	maxGone = 5 * time.Second

	maxReplyLine = 4096 // a longer one is cut
)

// dial connects to the MTA and waits for its greeting.
func (t *turn) dial() (*backend, error) {
	conn, err := t.o.Dial(t.ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMTA, err)
	}
	b := &backend{conn: conn, r: &esmtp.ReplyReader{Reader: bufio.NewReaderSize(conn, maxReplyLine), UTF8: true}, w: bufio.NewWriterSize(conn, 32<<10), lost: make(chan struct{})}
	t.mu.Lock()
	t.backends[b] = true
	t.mu.Unlock()
	select {
	case <-t.dead: // abort may have been before
		t.drop(b)
		return nil, errDead
	default:
	}
	r, err := t.readReply(b)
	if err == nil && r.Code != 220 {
		err = fmt.Errorf("%w: it greets with %q", ErrMTA, r)
	}
	if err != nil {
		t.drop(b)
		return nil, err
	}
	return b, nil
}

func (t *turn) drop(b *backend) {
	b.gone.Store(true)
	b.conn.Close()
	t.mu.Lock()
	delete(t.backends, b)
	t.mu.Unlock()
	select {
	case t.room <- struct{}{}:
	default:
	}
}

// lose gives up a connection that the MTA ends. The others go on: what they have
// taken would come again if the whole turn ended. Only for the replier.
func (t *turn) lose(b *backend) {
	close(b.lost)
	t.drop(b)
}

// acquire gets a connection that is ready for a transaction: an idle one, a new
// one, or the next that becomes idle.
func (t *turn) acquire() (*backend, error) {
	for {
		b, err := t.next()
		if err != nil {
			return nil, err
		}
		if b.hello != t.hello {
			if r, err := t.ask(b, t.hello); err != nil || r.Code != 250 {
				t.drop(b)
				if b.tired(r, err) {
					continue
				}
				if err == nil {
					err = fmt.Errorf("%w: to %q it says %q", ErrMTA, t.hello, r)
				}
				return nil, err
			}
			b.hello, b.dirty = t.hello, false
		}
		if b.dirty {
			if r, err := t.ask(b, "RSET"); err != nil || r.Code != 250 {
				t.drop(b)
				continue
			}
		}
		b.dirty = true
		return b, nil
	}
}

// tired reports whether a reply only means that the MTA has had enough of this
// connection, which was idle: another may do.
func (b *backend) tired(r esmtp.Reply, err error) bool {
	return !b.used.IsZero() && (err != nil || r.Code == 421)
}

func (t *turn) next() (*backend, error) {
	for {
		var b *backend
		select {
		case b = <-t.free:
		default:
			t.mu.Lock()
			more := len(t.backends) < cap(t.free)
			t.mu.Unlock()
			if more {
				return t.dial()
			}
			select {
			case b = <-t.free:
			case <-t.room: // one was lost, or it is known already
				continue
			case <-t.dead:
				return nil, errDead
			}
		}
		if b.stale() {
			t.drop(b)
			continue
		}
		if b.errors < maxErrors && (b.used.IsZero() || time.Since(b.used) < maxIdle) {
			return b, nil
		}
		// Its reply to QUIT is of no interest.
		if t.send(b, "QUIT\r\n") == nil {
			t.flush(b)
		}
		t.drop(b)
	}
}

// release gives a connection back after its transaction.
func (t *turn) release(b *backend) {
	b.used = time.Now()
	t.free <- b // there is room: no more than its capacity exist
}

// surplus reports whether the MTA has said more than the last reply that was due.
// 421 may come at any time (RFC 5321, section 3.8).
func (b *backend) surplus() bool {
	more, _ := b.r.Peek(b.r.Buffered())
	return len(more) > 0 && !strings.HasPrefix("421", string(more[:min(3, len(more))]))
}

// stale reports whether the MTA has said something, or hung up, while nothing
// was due from it: 421, since it does not wait for ever.
func (b *backend) stale() bool {
	if b.r.Buffered() > 0 {
		return true
	}
	c, ok := b.conn.(syscall.Conn)
	if !ok {
		return false
	}
	sc, err := c.SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	err = sc.Control(func(fd uintptr) {
		for {
			_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			quiet = err == unix.EAGAIN
			return
		}
	})
	return err != nil || !quiet
}
