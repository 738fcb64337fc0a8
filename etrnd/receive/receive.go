// Package receive is the customer's end of a turned connection (RFC 2645, section
// 5.3): the provider has become the client, and its mail is handed to the SMTP
// listener of the local MTA.
//
// Whatever comes in over loopback has loopback's rights with an MTA, and the
// provider must gain none of them. So this is no pipe but a proxy that
// understands each command: EHLO, HELO, MAIL, RCPT, DATA, BDAT, RSET, NOOP and
// QUIT are known and all others refused; only parameters that are known to be
// harmless are passed on; a recipient has to be in a domain that was asked for,
// and its local part may not be one by which an MTA would send the message on
// elsewhere. Each command is written anew for the MTA, and the end of each
// message is such that no MTA can see it in another place.
//
// Several connections to the MTA are used for one turned connection, a
// transaction at a time on each: what the MTA does at the end of a message,
// filters and the wait for its disk, would otherwise be the slowest part of a
// fast link. The provider sees one server that answers in order.
//
// The package keeps no mail, and memory for one command and some buffers only.
// It does not authenticate: the connection comes from odmr.Client, which has.
package receive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/socket"
)

// How a turned connection ends, other than by QUIT and by its context.
var (
	ErrClosed = errors.New("the remote ended the connection without QUIT")
	ErrSilent = errors.New("the remote has gone quiet")
	ErrMTA    = errors.New("the local mail server failed")
	ErrAbuse  = errors.New("the remote does not behave like a mail server")
	ErrDoor   = errors.New("the local mail server takes nothing")
)

// Options of a Server.
type Options struct {
	// Hostname is our name in the greeting.
	Hostname string
	// Domains are what was asked for, in the form of esmtp.Domain.
	Domains []string
	// Dial connects to the SMTP listener of the local MTA; see Dialer.
	Dial func(ctx context.Context) (net.Conn, error)
	// Ahead says that the provider knows odmr.Ahead: the greeting then tells
	// what the MTA offers, and mail may come in one burst with EHLO.
	Ahead bool
	// Connections is how many connections to the MTA there may be. Default 4.
	Connections int
	// Silence is how long the provider may send nothing while no answer is
	// due to it, on a line whose round trip is nothing. Default 5 minutes (RFC 5321, section 4.5.3.2.7).
	Silence time.Duration
	// MTATimeout bounds every wait for the local MTA. Default 10 minutes
	// (RFC 5321, section 4.5.3.2.6).
	MTATimeout time.Duration
	// Changed, when set, is called after each change of Counts. It must not
	// block.
	Changed func()
	Logger  *slog.Logger
}

// Server takes mail over one turned connection.
type Server struct {
	o       Options
	domains map[string]bool

	mu   sync.Mutex // guards these
	c    Counts
	took map[string]bool
}

// Counts is how a turned connection stands.
type Counts struct {
	Messages int   // that the MTA has taken
	Bytes    int64 // of these
	Coming   int64 // bytes of messages that it has not answered for yet
	Refused  int   // messages that it has refused, with all of their recipients
	Rejected int   // recipients refused, by the MTA or here
	Why      Refusal
	Busy     int // transactions that are open or being answered
	Active   time.Time
	Last     string // the MTA's name of the last message that it has taken, if it told it
}

// maxTook bounds what Took remembers.
const maxTook = 10000

// New makes a Server for one connection.
func New(o Options) *Server {
	if o.Connections <= 0 {
		o.Connections = 4
	}
	if o.Silence <= 0 {
		o.Silence = 5 * time.Minute
	}
	if o.MTATimeout <= 0 {
		o.MTATimeout = 10 * time.Minute
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Hostname == "" {
		o.Hostname = "localhost"
	}
	s := &Server{o: o, domains: map[string]bool{}, took: map[string]bool{}, c: Counts{Active: time.Now()}}
	for _, d := range o.Domains {
		s.domains[d] = true
	}
	return s
}

// Counts tells how the connection stands.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

// Took reports whether the MTA has taken a message of this connection under
// that name, as far as it told: it can be found by it in what a milter reports.
func (s *Server) Took(queueID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.took[queueID]
}

func (s *Server) count(change func(*Counts)) {
	s.mu.Lock()
	change(&s.c)
	s.c.Active = time.Now()
	s.mu.Unlock()
	s.o.Changed()
}

// Serve sends the greeting and takes mail until the provider says QUIT, which
// is the one end without an error. It closes conn, and returns when everything
// that it started has ended.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	socket.Watch(conn, socket.Line)
	t := newTurn(ctx, s, conn)
	// The end of ctx is the end of every wait. What the MTA has in full it is
	// given a moment to answer for, so that it is counted.
	stop := context.AfterFunc(ctx, func() {
		socket.Raw(conn).Close()
		select {
		case <-t.done:
		case <-time.After(time.Second):
		}
		t.abort()
	})
	err := t.run()
	close(t.done)
	stop()
	s.count(func(c *Counts) { c.Busy, c.Coming = 0, 0 })
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("turned connection: %w", cause)
	}
	return err
}

// Source is where connections to an MTA on loopback come from. It is no address
// of an interface, so lists that trust 127.0.0.1 alone (mynetworks of a Postfix
// that was not set up by Debian, the internal hosts of a filter that signs
// mail) do not trust it, Postfix does not complete addresses in its mail, and
// the log tells what came this way.
var Source = netip.AddrFrom4([4]byte{127, 0, 3, 66})

// Dialer connects to the MTA at addr, "host:port", from Source where that is
// possible. On IPv6 it is not: loopback has one address there.
func Dialer(addr string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if to, ok := loopback4(ctx, addr); ok {
			from := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(Source, 0))}
			conn, err := from.DialContext(ctx, "tcp4", to)
			// A name may stand for an address of IPv6 too, and the MTA listen there.
			if err == nil || !errors.Is(err, unix.EADDRNOTAVAIL) && to == addr {
				return conn, err
			}
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

// loopback4 is addr with an address of IPv4 on loopback, if it has one.
func loopback4(ctx context.Context, addr string) (string, bool) {
	if to, err := netip.ParseAddrPort(addr); err == nil {
		return addr, to.Addr().Is4() && to.Addr().IsLoopback()
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", false
	}
	all, _ := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
	for _, a := range all {
		if a = a.Unmap(); a.IsLoopback() {
			return net.JoinHostPort(a.String(), port), true
		}
	}
	return "", false
}
