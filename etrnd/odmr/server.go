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
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/socket"
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
	TLSTimeout     time.Duration // for the handshake, default 30 s; grows with the round trip
	AskTimeout     time.Duration // for the Asker, default 30 s
	AuthDelay      time.Duration // before a failed AUTH is answered, default 2 s; negative: none
	DrainTimeout   time.Duration // for sessions that are busy when Serve ends, default 10 s
}

// Limits of a dialogue that nobody needs to set.
const (
	maxErrors       = 10   // commands that are refused for their syntax or order
	maxDenied       = 100  // requests that are refused for who asks (459, 450)
	maxAuthFailures = 3    // RFC 4954, section 4, suggests a limit
	maxCommands     = 1000 // of any kind; a site with more names than this connects again
	maxRounds       = 8    // challenges of one AUTH
)

// Server is the listener of the hub.
type Server struct {
	o      ServerOptions
	log    *slog.Logger
	seldom *slog.Logger // of those who have not shown that they may do anything
	limits *listen.Limits
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
	limits := &listen.Limits{Max: o.MaxConnections, PerClient: o.MaxConnectionsPerClient, Logger: o.Logger,
		Busy: func(reason string) string { return fmt.Sprintf("421 %s %s, try again later\r\n", o.Hostname, reason) }}
	return &Server{o: o, log: o.Logger, seldom: foreign.Seldom(o.Logger), limits: limits}, nil
}

// Serve answers on l until ctx ends, then closes l, says 421 to dialogues that
// are idle, lets those that are busy finish within DrainTimeout, and returns nil
// when the last one is gone. It may be called for several listeners at once; the
// limits hold for all of them together.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	o := listen.ServeOptions{Limits: s.limits, Drain: s.o.DrainTimeout, Logger: s.log}
	return listen.Serve(ctx, l, o, func(ctx, stop context.Context, conn net.Conn) {
		socket.Watch(conn, socket.Line)
		d := newDialogue(s, conn, remoteAddr(conn), stop.Done())
		defer context.AfterFunc(stop, d.drain)()
		d.run(ctx)
	})
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
