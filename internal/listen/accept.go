package listen

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
)

// Back-off after a failed accept. It begins short, since a descriptor may be
// free again at once, and stays short enough that nobody notices: also a
// connection that is only closed waits for it.
const (
	firstBackoff = 5 * time.Millisecond
	maxBackoff   = 250 * time.Millisecond
	// logEvery is how often it is said that accepts go on failing.
	logEvery = 10 * time.Second
)

// resilient is a listener whose Accept outlives temporary errors.
type resilient struct {
	net.Listener
	log *slog.Logger

	done  chan struct{} // closed by Close; ends a back-off
	close func() error

	mu    sync.Mutex
	spare *os.File // kept open, to be given up when there is no other
}

// Resilient wraps a listener so that its Accept outlives temporary errors, and
// returns one only when the listener is closed or unusable. Listeners of Listen
// are wrapped already; those are returned as they are.
func Resilient(ln net.Listener, log *slog.Logger) net.Listener {
	if l, ok := ln.(*resilient); ok {
		return l
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// Whoever may connect can use up the descriptors, again and again.
	l := &resilient{Listener: ln, log: foreign.Seldom(log), done: make(chan struct{})}
	l.close = sync.OnceValue(func() error {
		close(l.done)
		err := ln.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.spare != nil {
			l.spare.Close()
			l.spare = nil
		}
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refill()
	return l
}

// Close closes the listener, also when Accept is waiting. Calling it again
// does nothing.
func (l *resilient) Close() error { return l.close() }

// Accept waits for a connection.
func (l *resilient) Accept() (net.Conn, error) {
	backoff := firstBackoff
	failed, shed := 0, 0
	var logged time.Time
	for {
		c, err := l.Listener.Accept()
		if err == nil {
			if failed > 0 {
				l.log.Warn("accepting again", "listener", l.Addr().String(), "failed", failed, "closed_unserved", shed)
			}
			return c, nil
		}
		if !temporary(err) {
			return nil, err
		}
		failed++
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			shed += l.shed()
		}
		if now := time.Now(); now.Sub(logged) >= logEvery {
			logged = now
			l.log.Warn("accept fails, trying again", "listener", l.Addr().String(), "error", err, "failed", failed, "closed_unserved", shed)
		}
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-l.done:
			t.Stop()
			return nil, net.ErrClosed
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// Shedding: how long to look for a connection to close, and how many of them
// at once.
const (
	shedWait = 5 * time.Millisecond
	shedMost = 100
)

// shed closes the connections that wait to be accepted while there are no
// descriptors for them. Left in the backlog they would wait for an answer
// until they time out, Postfix for a milter with an SMTP client behind it;
// closed, they know at once. The spare descriptor makes room for it.
func (l *resilient) shed() (closed int) {
	d, ok := l.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare == nil {
		if l.refill(); l.spare == nil {
			return 0
		}
	}
	l.spare.Close()
	l.spare = nil
	// Accept fails for want of a descriptor before it looks whether anybody
	// waits, so perhaps nobody does.
	d.SetDeadline(time.Now().Add(shedWait))
	defer d.SetDeadline(time.Time{})
	for ; closed < shedMost; closed++ {
		c, err := l.Listener.Accept()
		if err != nil {
			break
		}
		c.Close()
	}
	l.refill()
	return closed
}

// refill opens the spare descriptor, if it can, and if the listener is open.
func (l *resilient) refill() {
	select {
	case <-l.done:
	default:
		l.spare, _ = os.Open(os.DevNull)
	}
}

// temporary reports whether a failed accept may go better next time: the
// process or the system is short of something, or the error belongs to the
// connection that was about to be accepted, not to the listener (accept(2)).
func temporary(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EAGAIN,
		syscall.EPERM, // a firewall rule forbade this one
		syscall.EPROTO, syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN,
		syscall.ENONET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
