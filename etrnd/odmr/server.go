package odmr

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/users"
)

// ServerOptions of a Server. Hostname and Asker are needed, the rest has
// defaults, which zero values stand for.
type ServerOptions struct {
	Hostname    string // in the greeting and in the EHLO reply
	Asker       Asker
	Turner      Turner       // nil: ATRN is not implemented
	Users       *users.Store // nil: no AUTH
	CramMD5     bool         // offer CRAM-MD5, which needs secrets that are as good as passwords
	Certificate *Certificate // nil: no STARTTLS, and so neither PLAIN nor LOGIN
	Logger      *slog.Logger // default: discard

	MaxConnections          int // default 1000
	MaxConnectionsPerClient int // default 20; a client is an IPv4 address or an IPv6 /64

	CommandTimeout time.Duration // from one command to the end of the next, default 5 min
	SessionTimeout time.Duration // whole session, default 30 min; a turned one has its own
	WriteTimeout   time.Duration // for a client to take a reply, default 30 s
	TLSTimeout     time.Duration // for the handshake, default 30 s
	AskTimeout     time.Duration // for the Asker, default 30 s
	AuthDelay      time.Duration // before a failed AUTH is answered, default 2 s; negative: none
	DrainTimeout   time.Duration // for sessions that are busy when Serve ends, default 10 s
}

// Limits of a dialogue that nobody needs to set.
const (
	maxErrors       = 10   // commands that are refused for their syntax or order
	maxAuthFailures = 3    // RFC 4954, section 4, suggests a limit
	maxCommands     = 1000 // of any kind; a site with more names than this connects again
	maxRounds       = 8    // challenges of one AUTH
)

// Server is the listener of the hub.
type Server struct {
	o   ServerOptions
	log *slog.Logger

	mu        sync.Mutex
	total     int
	perClient map[netip.Prefix]int
}

// NewServer checks the options.
func NewServer(o ServerOptions) (*Server, error) {
	if err := esmtp.CheckDomain(o.Hostname); err != nil {
		return nil, fmt.Errorf("hostname %q is not a domain: %w", o.Hostname, err)
	}
	if o.Asker == nil {
		return nil, errors.New("nobody to answer ETRN: Asker is nil")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	orInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	or := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	orInt(&o.MaxConnections, 1000)
	orInt(&o.MaxConnectionsPerClient, 20)
	or(&o.CommandTimeout, 5*time.Minute)
	or(&o.SessionTimeout, 30*time.Minute)
	or(&o.WriteTimeout, 30*time.Second)
	or(&o.TLSTimeout, 30*time.Second)
	or(&o.AskTimeout, 30*time.Second)
	or(&o.AuthDelay, 2*time.Second)
	or(&o.DrainTimeout, 10*time.Second)
	return &Server{o: o, log: o.Logger, perClient: make(map[netip.Prefix]int)}, nil
}

// Serve answers on l until ctx ends, then closes l, says 421 to dialogues that
// are idle, lets those that are busy finish within DrainTimeout, and returns nil
// when the last one is gone. It may be called for several listeners at once; the
// limits hold for all of them together.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// What dialogues do outlives ctx by DrainTimeout.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var (
		mu   sync.Mutex
		open = make(map[*dialogue]struct{})
		wg   sync.WaitGroup
	)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	err := s.accept(ctx, l, func(conn net.Conn, addr netip.Addr) {
		d := newDialogue(s, conn, addr, ctx.Done())
		mu.Lock()
		open[d] = struct{}{}
		mu.Unlock()
		wg.Go(func() {
			defer func() {
				mu.Lock()
				delete(open, d)
				mu.Unlock()
				s.release(addr)
			}()
			d.run(work)
		})
	})
	l.Close()

	// All dialogues are known by now, as accept has returned.
	mu.Lock()
	for d := range open {
		d.drain()
	}
	mu.Unlock()
	gone := make(chan struct{})
	go func() { wg.Wait(); close(gone) }()
	timer := time.NewTimer(s.o.DrainTimeout)
	defer timer.Stop()
	select {
	case <-gone:
	case <-timer.C:
		cancel()
		mu.Lock()
		for d := range open {
			d.raw.Close()
		}
		mu.Unlock()
		<-gone
	}
	return err
}

// accept hands out admitted connections until ctx ends (nil) or the listener is
// closed by somebody else.
func (s *Server) accept(ctx context.Context, l net.Listener, handle func(net.Conn, netip.Addr)) error {
	var pause time.Duration
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("listener %v: %w", l.Addr(), err)
			}
			// Out of descriptors or memory, or the client has gone: none of it
			// is a reason to stop listening.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Error("cannot accept a connection", "listener", l.Addr().String(), "error", err, "again-in", pause)
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			continue
		}
		pause = 0
		watch(conn)
		addr := remoteAddr(conn)
		if reason := s.admit(addr); reason != "" {
			s.log.Warn("connection refused", "client", conn.RemoteAddr().String(), "reason", reason)
			// A fresh connection has room for one line; the deadline is for
			// those that are no TCP.
			conn.SetWriteDeadline(time.Now().Add(time.Second))
			fmt.Fprintf(conn, "421 %s %s, try again later\r\n", s.o.Hostname, reason)
			conn.Close()
			continue
		}
		handle(conn, addr)
	}
}

// deadAfter is how long a peer may leave what was sent to it without an
// acknowledgement. The links of sites end without a word, and whatever waits
// for one that is gone keeps its next connection from its mail.
const deadAfter = 75 * time.Second

// watch makes the kernel notice a peer that is gone, whoever reads or writes.
func watch(conn net.Conn) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		s := int(fd)
		// None of these is worth a connection; a socket that is no TCP has none.
		unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
		unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30)
		unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15)
		unix.SetsockoptInt(s, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3)
	})
}

// admit counts a connection, or says why there are too many.
func (s *Server) admit(addr netip.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := clientKey(addr)
	switch {
	case s.total >= s.o.MaxConnections:
		return "too many connections"
	case s.perClient[key] >= s.o.MaxConnectionsPerClient:
		return "too many connections from your address"
	}
	s.total++
	s.perClient[key]++
	return ""
}

func (s *Server) release(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := clientKey(addr)
	s.total--
	if s.perClient[key]--; s.perClient[key] == 0 {
		delete(s.perClient, key)
	}
}

// clientKey is what counts as one client: with IPv6 a whole subnet belongs to
// whoever has an address in it. Peers without an address count as one.
func clientKey(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

func remoteAddr(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// sessionID is short, for people to search the log with, and not repeated within
// the life of a log.
func sessionID() string { return strings.ToLower(rand.Text()[:10]) }
