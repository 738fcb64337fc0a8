package odmr

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"
)

// TLSMode is what a client wants of STARTTLS.
type TLSMode string

const (
	// TLSAuto uses STARTTLS when it is offered. A certificate that cannot be
	// verified is no obstacle, but PLAIN and LOGIN are then not used.
	TLSAuto TLSMode = "auto"
	// TLSRequire fails without TLS and a valid certificate.
	TLSRequire TLSMode = "require"
	// TLSInsecure fails without TLS, and takes any certificate, for passwords too.
	TLSInsecure TLSMode = "insecure"
	// TLSOff never uses STARTTLS.
	TLSOff TLSMode = "off"
)

// Kinds of failure, to be told apart with errors.Is. Every error of the client
// is an *Error and of one of these kinds.
var (
	ErrConnect  = errors.New("no connection")                   // nobody answers at the address
	ErrTimeout  = errors.New("timed out")                       // no answer in time
	ErrClosed   = errors.New("connection closed by the remote") // in the middle of the dialogue
	ErrRefused  = errors.New("refused by the remote")           // a reply code that says no to the session
	ErrTLS      = errors.New("no trusted TLS")                  // mode asks for more than there is
	ErrAuth     = errors.New("authentication failed")
	ErrNoETRN   = errors.New("the remote does not offer ETRN")
	ErrProtocol = errors.New("the remote does not speak SMTP") // replies that cannot be read
)

// Error is a failure of the dialogue.
type Error struct {
	Kind error  // one of the kinds above
	Op   string // what was being done: "connect", "greeting", "EHLO", "STARTTLS", "AUTH", "ETRN"
	Code int    // the reply code, 0 when there was none
	Text string // the reply text, cut and made printable
	Err  error  // the cause, may be nil
}

// Error says what was being done, what went wrong, and what the remote said.
func (e *Error) Error() string { return "" }

// Unwrap makes errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error { return nil }

// Temporary tells whether it is worth trying again without a change on either
// side (exit code 75 rather than 69).
func (e *Error) Temporary() bool { return false }

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

// Auth is how a client authenticates.
type Auth struct {
	User     string
	Password string
	// Mechanisms that may be used. Default: SCRAM-SHA-256, PLAIN and LOGIN.
	// PLAIN and LOGIN are used under trusted TLS only; CRAM-MD5 has to be named.
	Mechanisms []string
}

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
	ReplyTimeout   time.Duration // for one reply, default 2 min; ctx bounds the whole
}

// Client is the site's side of a session that is ready for ETRN. It is not safe
// for concurrent use.
type Client struct{}

// Dial connects to addr (host:port) and calls NewClient. The host is the name
// that the certificate has to have unless Config says another.
func Dial(ctx context.Context, addr string, o ClientOptions) (*Client, error) {
	return nil, errors.ErrUnsupported
}

// NewClient does what comes before ETRN: greeting, EHLO, STARTTLS, AUTH. It owns
// conn from now on: conn is closed when it fails.
func NewClient(ctx context.Context, conn net.Conn, o ClientOptions) (*Client, error) {
	return nil, errors.ErrUnsupported
}

// Reply to the ETRN of one name.
type Reply struct {
	Name  string `json:"name"`
	Code  int    `json:"code"`
	Text  string `json:"text"`
	Count int    `json:"count"` // messages on their way: n with 253, 0 with 251, -1 when not told
}

// OK tells whether the remote releases, or has nothing to release (251).
func (r Reply) OK() bool { return r.Code >= 250 && r.Code <= 253 }

// Request asks for every name, in one round trip when the remote can. It returns
// the replies there were, also together with an error. A refusal that concerns
// one name (458, 459, 501, 55x) is a Reply and no error.
func (c *Client) Request(ctx context.Context, names []string) ([]Reply, error) {
	return nil, errors.ErrUnsupported
}

// Quit says QUIT, waits no more than a moment for the reply, and closes.
func (c *Client) Quit() error { return nil }

// Close closes the connection without a word.
func (c *Client) Close() error { return nil }
