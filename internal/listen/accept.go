package listen

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
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

// busyTimeout bounds the sending of Options.Busy. It fits into an empty
// socket buffer, so it never waits on an honest client.
const busyTimeout = 100 * time.Millisecond

type listener struct {
	net.Listener
	max, maxPerClient int
	busy              string
	log               *slog.Logger

	done  chan struct{} // closed by Close; ends a back-off
	close func() error

	mu    sync.Mutex
	open  int
	perIP map[netip.Prefix]int
	spare *os.File // kept open, to be given up when there is no other
}

func wrap(ln net.Listener, o Options) net.Listener {
	l := &listener{Listener: ln, max: o.Max, maxPerClient: o.MaxPerClient, busy: o.Busy, log: o.Logger,
		done: make(chan struct{}), perIP: map[netip.Prefix]int{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
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

// Resilient wraps a listener so that its Accept outlives temporary errors.
// Listeners of Listen do that already.
func Resilient(ln net.Listener, log *slog.Logger) net.Listener {
	return wrap(ln, Options{Logger: log})
}

// Close closes the listener, also when Accept is waiting. Calling it again
// does nothing.
func (l *listener) Close() error { return l.close() }

// Accept waits for a connection within the limits. It returns an error only
// when the listener is closed or unusable.
func (l *listener) Accept() (net.Conn, error) {
	backoff := firstBackoff
	failed, shed := 0, 0
	var logged time.Time
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if !temporary(err) {
				return nil, err
			}
			if failed == 0 {
				logged, shed = time.Time{}, 0
			}
			failed++
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				shed += l.shed()
			}
			if now := time.Now(); now.Sub(logged) >= logEvery {
				logged = now
				l.log.Warn("accept fails, trying again", "listener", l.Addr().String(), "err", err, "failed", failed, "closed_unserved", shed)
			}
			t := time.NewTimer(backoff)
			select {
			case <-t.C:
			case <-l.done:
				t.Stop()
				return nil, net.ErrClosed
			}
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		if failed > 0 {
			l.log.Warn("accepting again", "listener", l.Addr().String(), "failed", failed, "closed_unserved", shed)
			failed, backoff = 0, firstBackoff
		}
		key := clientKey(c.RemoteAddr())
		if why := l.admit(key); why != "" {
			l.log.Warn("connection refused", "listener", l.Addr().String(), "client", c.RemoteAddr().String(), "reason", why)
			l.refuse(c)
			continue
		}
		lc := &conn{Conn: c}
		lc.release = sync.OnceFunc(func() { l.release(key) })
		return lc, nil
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
func (l *listener) shed() (closed int) {
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
		l.refuse(c)
	}
	l.refill()
	return closed
}

// refill opens the spare descriptor, if it can, and if the listener is open.
func (l *listener) refill() {
	select {
	case <-l.done:
	default:
		l.spare, _ = os.Open(os.DevNull)
	}
}

// refuse says that there is no room, and closes.
func (l *listener) refuse(c net.Conn) {
	if l.busy != "" {
		c.SetWriteDeadline(time.Now().Add(busyTimeout))
		io.WriteString(c, l.busy)
	}
	c.Close()
}

// admit counts a new connection in, or says why not.
func (l *listener) admit(key netip.Prefix) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.max > 0 && l.open >= l.max {
		return "too many connections"
	}
	if key.IsValid() && l.maxPerClient > 0 {
		if l.perIP[key] >= l.maxPerClient {
			return "too many connections from this client"
		}
		l.perIP[key]++
	}
	l.open++
	return ""
}

func (l *listener) release(key netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if key.IsValid() && l.maxPerClient > 0 {
		if l.perIP[key]--; l.perIP[key] <= 0 {
			delete(l.perIP, key)
		}
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

// conn is counted out when it is closed.
type conn struct {
	net.Conn
	release func()
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// CloseWrite shuts down the writing side, where the connection can.
func (c *conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the descriptor, for example for the
// credentials of the peer.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
