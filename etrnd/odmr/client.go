package odmr

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/socket"
)

// Phase is a step of the dialogue, for those who show progress.
type Phase string

const (
	PhaseConnect Phase = "connecting"
	PhaseHello   Phase = "greeting"
	PhaseTLS     Phase = "starttls"
	PhaseAuth    Phase = "auth"
	PhaseRequest Phase = "request"
	PhaseQuit    Phase = "quit"
)

// ClientOptions of a Client.
type ClientOptions struct {
	Hostname string      // our name in EHLO
	TLS      TLSMode     // default TLSAuto
	Config   *tls.Config // roots, client certificate, ServerName; may be nil
	Auth     *Auth       // nil: do not authenticate
	Logger   *slog.Logger

	// Phase, when set, is called as the dialogue enters a step.
	Phase func(Phase)
	// DialContext makes the connection; default: a net.Dialer's.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	ConnectTimeout time.Duration // default 30 s
	// ReplyTimeout is for one reply, on a line whose round trip is nothing;
	// default 2 min. It grows with the round trip that the line shows. ctx
	// bounds the whole.
	ReplyTimeout time.Duration

	effort effort // how much of TLS is left to be tried; Dial's
	failed error  // why the one before came to nothing
}

// Client is the site's side of a dialogue that is ready for ETRN or ATRN. It is not
// safe for concurrent use.
type Client struct {
	o   ClientOptions
	log *slog.Logger

	mu sync.Mutex // guards the deadline of the wire against being moved after ctx has ended
	wire

	patience time.Duration // of the last step
	turned   bool          // the connection has been given away
}

// wire is a connection and what was learnt on it.
type wire struct {
	raw  net.Conn
	conn net.Conn // raw, or TLS over it
	in   *esmtp.ReplyReader

	greeting string
	host     string // what the remote calls itself in its EHLO reply
	esmtp    bool
	keywords []string // EHLO lines
	offers   esmtp.Offers
	tls      *tls.ConnectionState
	distrust error // why the certificate is not verified
}

// Dial connects to addr (host:port) and calls NewClient. The host is the name
// that the certificate has to have unless Config says another. With TLSAuto it
// connects again when TLS has failed, see effort.
func Dial(ctx context.Context, addr string, o ClientOptions) (*Client, error) {
	for {
		conn, err := dial(ctx, addr, &o)
		if err != nil {
			return nil, err
		}
		c, err := NewClient(ctx, conn, o)
		if err == nil || ctx.Err() != nil || !o.lower(err) {
			return c, err
		}
		o.Logger.Warn("TLS with the remote has failed, connecting again", "with", o.effort.String(), "error", err)
	}
}

func dial(ctx context.Context, addr string, o *ClientOptions) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &Error{Kind: ErrConnect, Op: "connect", Err: err}
	}
	o.setDefaults()
	if o.Config.ServerName == "" {
		o.Config.ServerName = host
	}
	o.Phase(PhaseConnect)
	bound, cancel := context.WithTimeout(ctx, o.ConnectTimeout)
	defer cancel()
	conn, err := o.DialContext(bound, "tcp", addr)
	if err != nil {
		e := &Error{Kind: ErrConnect, Op: "connect", Err: err}
		if ctx.Err() != nil {
			e.Kind = contextKind(ctx)
		}
		return nil, e
	}
	return conn, nil
}

// setDefaults also makes the configuration of TLS one that can be changed.
func (o *ClientOptions) setDefaults() {
	if o.TLS == "" {
		o.TLS = TLSAuto
	}
	if o.Config == nil {
		o.Config = &tls.Config{}
	} else {
		o.Config = o.Config.Clone()
	}
	if o.Config.MinVersion == 0 {
		o.Config.MinVersion = tls.VersionTLS12
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Phase == nil {
		o.Phase = func(Phase) {}
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{}).DialContext
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 30 * time.Second
	}
	if o.ReplyTimeout <= 0 {
		o.ReplyTimeout = 2 * time.Minute
	}
	if o.Hostname == "" {
		o.Hostname = "localhost"
	}
}

// NewClient does what comes before ETRN: greeting, EHLO, STARTTLS, AUTH. It owns
// conn from now on: conn is closed when it fails.
func NewClient(ctx context.Context, conn net.Conn, o ClientOptions) (*Client, error) {
	o.setDefaults()
	c := newClient(conn, o)
	err := c.begin(ctx)
	if err != nil {
		// A server that merely does not suit us is left in good order.
		if errors.Is(err, ErrTLS) || errors.Is(err, ErrAuth) {
			c.Quit()
		} else {
			c.Close()
		}
		return nil, err
	}
	return c, nil
}

func newClient(conn net.Conn, o ClientOptions) *Client {
	return &Client{o: o, log: o.Logger, wire: wire{raw: conn, conn: conn, in: &esmtp.ReplyReader{Reader: bufio.NewReaderSize(conn, 2048)}}}
}

func (c *Client) begin(ctx context.Context) error {
	c.o.Phase(PhaseHello)
	if err := c.greet(ctx); err != nil {
		return err
	}
	if err := c.hello(ctx); err != nil {
		return err
	}
	if err := c.secure(ctx); err != nil {
		return err
	}
	return c.authenticate(ctx)
}

func (c *Client) greet(ctx context.Context) error {
	rep, err := c.read(ctx, "greeting")
	if err != nil {
		return err
	}
	if rep.Code != 220 {
		return c.refused("greeting", rep)
	}
	c.greeting = rep.Text()
	return nil
}

// hello sends EHLO, or HELO to a server that does not know it.
func (c *Client) hello(ctx context.Context) error {
	c.esmtp, c.keywords, c.offers = false, nil, nil
	rep, err := c.command(ctx, "EHLO", "EHLO "+c.o.Hostname)
	if err != nil {
		return err
	}
	if rep.Code/100 == 5 {
		if rep, err = c.command(ctx, "HELO", "HELO "+c.o.Hostname); err != nil {
			return err
		}
		if rep.Code != 250 {
			return c.refused("HELO", rep)
		}
		c.host, _, _ = strings.Cut(rep.Lines[0], " ")
		return nil
	}
	if rep.Code != 250 {
		return c.refused("EHLO", rep)
	}
	c.esmtp = true
	c.host, _, _ = strings.Cut(rep.Lines[0], " ")
	c.keywords = rep.Lines[1:]
	c.offers = esmtp.ParseOffers(c.keywords)
	return nil
}

// Offers tells whether the EHLO reply lists a keyword, such as "ATRN".
func (c *Client) Offers(keyword string) bool { return c.offers.Has(keyword) }

// quitWait is how long the reply to QUIT is waited for. Nothing depends on it,
// and the line costs money.
const quitWait = time.Second

// Quit says QUIT, waits no more than a moment for the reply, and closes.
func (c *Client) Quit() error {
	if c.turned {
		return nil
	}
	c.o.Phase(PhaseQuit)
	ctx, cancel := context.WithTimeout(context.Background(), quitWait)
	defer cancel()
	_, err := c.command(ctx, "QUIT", "QUIT")
	c.Close()
	if errors.Is(err, ErrTimeout) {
		return nil
	}
	return err
}

// Leave says QUIT and closes, without waiting for the reply.
func (c *Client) Leave() error {
	if c.turned {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), quitWait)
	defer cancel()
	err := c.send(ctx, "QUIT", "QUIT")
	c.Close()
	return err
}

// Close closes the connection without a word.
func (c *Client) Close() error {
	if c.turned {
		return nil
	}
	return c.raw.Close()
}

// Greeting is the text of the greeting, made printable.
func (c *Client) Greeting() string { return c.greeting }

// TLS is the state of TLS, nil without; trusted tells whether the certificate
// was verified.
func (c *Client) TLS() (state *tls.ConnectionState, trusted bool) {
	return c.tls, c.tls != nil && c.distrust == nil
}

// command sends a line and reads the reply. op names it in errors.
func (c *Client) command(ctx context.Context, op, line string) (esmtp.Reply, error) {
	if err := c.send(ctx, op, line); err != nil {
		return esmtp.Reply{}, err
	}
	return c.read(ctx, op)
}

func (c *Client) send(ctx context.Context, op, lines string) error {
	release, err := c.arm(ctx)
	if err == nil {
		_, err = io.WriteString(c.conn, lines+"\r\n")
		release()
	}
	if err != nil {
		// A remote that refuses us and closes may have said why before.
		if rep, ok := c.lastWord(ctx); ok {
			return c.refused(op, rep)
		}
		return c.failed(ctx, op, err)
	}
	return nil
}

// lastWord reads a 421 that was sent before the connection broke.
func (c *Client) lastWord(ctx context.Context) (esmtp.Reply, bool) {
	release, err := c.arm(ctx)
	if err != nil {
		return esmtp.Reply{}, false
	}
	defer release()
	c.raw.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	rep, err := c.in.ReadReply()
	return rep, err == nil && rep.Code/100 >= 4
}

func (c *Client) read(ctx context.Context, op string) (esmtp.Reply, error) {
	release, err := c.arm(ctx)
	var rep esmtp.Reply
	if err == nil {
		rep, err = c.in.ReadReply()
		release()
	}
	if err != nil {
		return esmtp.Reply{}, c.failed(ctx, op, err)
	}
	c.log.Debug("reply of the remote", "to", op, "code", rep.Code, "text", rep.Text())
	return rep, nil
}

// arm sets the deadline of the next step, and sees to it that the end of ctx is
// the end of the step.
func (c *Client) arm(ctx context.Context) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// What one line answers in a second takes another half a minute.
	c.patience = socket.Grace(c.raw, c.o.ReplyTimeout)
	c.raw.SetDeadline(time.Now().Add(c.patience))
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.turned {
			c.raw.SetDeadline(time.Unix(1, 0))
		}
	})
	return func() { stop() }, nil
}

// refused is the error for a reply that says no to the whole dialogue.
func (c *Client) refused(op string, rep esmtp.Reply) *Error {
	kind := ErrRefused
	if rep.Code/100 < 4 {
		kind = ErrProtocol
	}
	return &Error{Kind: kind, Op: op, Code: rep.Code, Text: rep.Text()}
}

// failed is the error for a step that came to no reply.
func (c *Client) failed(ctx context.Context, op string, err error) *Error {
	e := &Error{Op: op, Err: err}
	switch {
	case ctx.Err() != nil:
		e.Kind = contextKind(ctx)
		e.Err = nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		e.Kind = ErrTimeout
		e.Err = fmt.Errorf("no answer for %v", c.patience.Round(time.Second))
	case errors.Is(err, esmtp.ErrReply):
		e.Kind = ErrProtocol
	case errors.Is(err, io.EOF):
		e.Kind = ErrClosed
		e.Err = nil
	default:
		e.Kind = ErrClosed
	}
	return e
}

func contextKind(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(context.Cause(ctx), ErrTimeout) {
		return ErrTimeout
	}
	return ctx.Err()
}
