package listen

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
)

// Limits bounds the connections that are open at one time. The listeners that
// share one are counted together. It must not be copied once in use.
type Limits struct {
	// Max bounds all of them and PerClient those of one client; zero is no
	// limit. A client is an IPv4 address, an IPv6 /64, which is what a single
	// host is given, or the user at the other end of a unix socket. Peers of
	// which nothing is known count as one.
	Max, PerClient int
	// Busy is what a connection beyond the limits is told before it is closed,
	// given the reason; nil: nothing.
	Busy func(reason string) string
	// Logger is told about refused connections, though not about each of many;
	// nil is silence.
	Logger *slog.Logger

	seldom sync.Once
	log    *slog.Logger

	mu   sync.Mutex
	open int
	per  map[client]int
}

// client is what connections are counted by.
type client struct {
	prefix netip.Prefix
	uid    int
}

// busyTimeout bounds the sending of Limits.Busy. It fits into an empty socket
// buffer, so it never waits on an honest client.
const busyTimeout = 100 * time.Millisecond

// Listener puts a resilient listener under the limits. A connection is counted
// until it is closed.
func (l *Limits) Listener(ln net.Listener) net.Listener {
	return &limited{Listener: Resilient(ln, l.Logger), limits: l}
}

type limited struct {
	net.Listener
	limits *Limits
}

// Accept waits for a connection within the limits, and refuses those beyond.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := clientOf(c, l.limits.PerClient > 0)
		if reason := l.limits.admit(who); reason != "" {
			l.limits.refuse(c, l.Addr(), reason)
			continue
		}
		return &counted{Conn: c, release: sync.OnceFunc(func() { l.limits.release(who) })}, nil
	}
}

// clientOf tells whose connection it is. The user behind a unix socket costs a
// question to the kernel.
func clientOf(c net.Conn, users bool) client {
	t, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		if !users {
			return client{}
		}
		p, _ := PeerOf(c)
		return client{uid: p.UID}
	}
	// Unmap: as a dual-stack socket shows an IPv4 client.
	ip := t.AddrPort().Addr().Unmap()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return client{prefix: p, uid: -1}
}

// admit counts a new connection in, or says why not.
func (l *Limits) admit(who client) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.Max > 0 && l.open >= l.Max:
		return "too many connections"
	case l.PerClient > 0 && l.per[who] >= l.PerClient && who.prefix.IsValid():
		return "too many connections from your address"
	case l.PerClient > 0 && l.per[who] >= l.PerClient:
		return "too many connections of your user"
	}
	if l.per == nil {
		l.per = map[client]int{}
	}
	l.open++
	l.per[who]++
	return ""
}

func (l *Limits) release(who client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.per[who]--; l.per[who] == 0 {
		delete(l.per, who)
	}
}

// Open is how many connections are open.
func (l *Limits) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

func (l *Limits) refuse(c net.Conn, at net.Addr, reason string) {
	if l.Logger != nil {
		attrs := []any{"listener", at.String(), "reason", reason}
		if p, err := PeerOf(c); err == nil {
			attrs = append(attrs, "uid", p.UID, "pid", p.PID)
		} else {
			attrs = append(attrs, "client", c.RemoteAddr().String())
		}
		l.seldom.Do(func() { l.log = foreign.Seldom(l.Logger) })
		l.log.Warn("connection refused", attrs...)
	}
	if l.Busy != nil {
		c.SetWriteDeadline(time.Now().Add(busyTimeout))
		io.WriteString(c, l.Busy(reason))
	}
	c.Close()
}

// counted is a connection that is counted out when it is closed.
type counted struct {
	net.Conn
	release func()
}

func (c *counted) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}

// CloseWrite shuts down the writing side, where the connection can.
func (c *counted) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn gives access to the descriptor, for example for the
// credentials of the peer.
func (c *counted) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
