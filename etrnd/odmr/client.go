package odmr

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/users"
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
// is an *Error and of one of these kinds, or context.Canceled.
var (
	ErrConnect  = errors.New("no connection")                   // nobody answers at the address
	ErrTimeout  = errors.New("timed out")                       // no answer in time
	ErrClosed   = errors.New("connection closed by the remote") // in the middle of the dialogue
	ErrRefused  = errors.New("refused by the remote")           // a reply code that says no to the session
	ErrTLS      = errors.New("no trusted TLS")                  // mode asks for more than there is
	ErrAuth     = errors.New("authentication failed")
	ErrNoETRN   = errors.New("the remote does not offer ETRN")
	ErrNoATRN   = errors.New("the remote does not offer ATRN")
	ErrProtocol = errors.New("the remote does not speak SMTP") // replies that cannot be read
)

// Error is a failure of the dialogue.
type Error struct {
	Kind error  // one of the kinds above
	Op   string // what was being done: "connect", "greeting", "EHLO", "STARTTLS", "AUTH", "ETRN", "ATRN"
	Code int    // the reply code, 0 when there was none
	Text string // the reply text, cut and made printable
	Err  error  // the cause, may be nil
}

// Error says what was being done, what went wrong, and what the remote said.
func (e *Error) Error() string {
	text := e.Op + ": " + e.Kind.Error()
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Code != 0 {
		text += fmt.Sprintf(": it said %d %q", e.Code, e.Text)
	}
	return text
}

// Unwrap makes errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Temporary tells whether it is worth trying again without a change on either
// side (exit code 75 rather than 69).
func (e *Error) Temporary() bool {
	if e.Code != 0 {
		return e.Code/100 == 4
	}
	switch e.Kind {
	case ErrTLS, ErrAuth, ErrNoETRN, ErrNoATRN, ErrProtocol:
		return false
	}
	return true
}

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

// Client is the site's side of a session that is ready for ETRN or ATRN. It is not safe
// for concurrent use.
type Client struct {
	o   ClientOptions
	log *slog.Logger

	mu sync.Mutex // guards the deadline of the wire against being moved after ctx has ended
	wire

	turned   bool                                   // the connection has been given away
	oneByOne bool                                   // the remote does not take several ETRN at a time
	redial   func(context.Context) (*Client, error) // nil: the connection is not ours to make
}

// wire is a connection and what was learnt on it.
type wire struct {
	raw  net.Conn
	conn net.Conn // raw, or TLS over it
	in   *bufio.Reader

	greeting string
	host     string // what the remote calls itself in its EHLO reply
	esmtp    bool
	keywords []string          // EHLO lines
	offers   map[string]string // keyword to parameters
	tls      *tls.ConnectionState
	distrust error // why the certificate is not verified
}

// Dial connects to addr (host:port) and calls NewClient. The host is the name
// that the certificate has to have unless Config says another.
func Dial(ctx context.Context, addr string, o ClientOptions) (*Client, error) {
	conn, err := dial(ctx, addr, &o)
	if err != nil {
		return nil, err
	}
	c, err := NewClient(ctx, conn, o)
	if err != nil {
		return nil, err
	}
	c.redial = func(ctx context.Context) (*Client, error) { return Dial(ctx, addr, o) }
	return c, nil
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
		// A session that merely does not suit us is left in good order.
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
	return &Client{o: o, log: o.Logger, wire: wire{raw: conn, conn: conn, in: bufio.NewReaderSize(conn, 2048)}}
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
	if rep.code != 220 {
		return c.refused("greeting", rep)
	}
	c.greeting = rep.text()
	return nil
}

// hello sends EHLO, or HELO to a server that does not know it.
func (c *Client) hello(ctx context.Context) error {
	c.esmtp, c.keywords, c.offers = false, nil, nil
	rep, err := c.command(ctx, "EHLO", "EHLO "+c.o.Hostname)
	if err != nil {
		return err
	}
	if rep.code/100 == 5 {
		if rep, err = c.command(ctx, "HELO", "HELO "+c.o.Hostname); err != nil {
			return err
		}
		if rep.code != 250 {
			return c.refused("HELO", rep)
		}
		c.host, _, _ = strings.Cut(rep.lines[0], " ")
		return nil
	}
	if rep.code != 250 {
		return c.refused("EHLO", rep)
	}
	c.esmtp = true
	c.host, _, _ = strings.Cut(rep.lines[0], " ")
	c.keywords = rep.lines[1:]
	c.offers = make(map[string]string)
	for _, line := range c.keywords {
		// "AUTH=LOGIN" is how some servers before RFC 4954 put it.
		i := strings.IndexAny(line, " =")
		if i < 0 {
			i = len(line)
		}
		keyword := strings.ToUpper(line[:i])
		parameters := strings.TrimLeft(line[i:], " =")
		if was, ok := c.offers[keyword]; ok {
			parameters = strings.TrimSpace(was + " " + parameters)
		}
		c.offers[keyword] = parameters
	}
	return nil
}

func (c *Client) offered(keyword string) bool {
	_, ok := c.offers[keyword]
	return ok
}

// secure starts TLS as the mode wants.
func (c *Client) secure(ctx context.Context) error {
	mode := c.o.TLS
	switch mode {
	case TLSOff:
		return nil
	case TLSAuto, TLSRequire, TLSInsecure:
	default:
		return &Error{Kind: ErrTLS, Op: "STARTTLS", Err: fmt.Errorf("TLS mode %q is none of auto, require, insecure, off", mode)}
	}
	if !c.offered("STARTTLS") {
		if mode == TLSAuto {
			return nil
		}
		return &Error{Kind: ErrTLS, Op: "STARTTLS", Err: errors.New("the remote does not offer STARTTLS")}
	}
	c.o.Phase(PhaseTLS)
	rep, err := c.command(ctx, "STARTTLS", "STARTTLS")
	if err != nil {
		return err
	}
	if rep.code != 220 {
		if mode == TLSAuto && rep.code != 421 {
			c.log.Warn("remote offers STARTTLS but refuses it", "code", rep.code, "text", rep.text())
			return nil
		}
		e := c.refused("STARTTLS", rep)
		if rep.code != 421 {
			e.Kind = ErrTLS
		}
		return e
	}
	if err := c.handshake(ctx, mode == TLSRequire); err != nil {
		return err
	}
	if c.distrust != nil {
		c.log.Warn("certificate of the remote is not verified", "reason", c.distrust)
	}
	// All that was said without TLS may have been said by anybody.
	return c.hello(ctx)
}

// handshake starts TLS. The certificate is verified in any case, and the result
// kept; it ends the handshake only when verified is asked for.
func (c *Client) handshake(ctx context.Context, verified bool) error {
	if c.in.Buffered() > 0 {
		return &Error{Kind: ErrTLS, Op: "STARTTLS", Err: errors.New("the remote, or somebody between, sent replies ahead of TLS")}
	}
	config := c.o.Config.Clone()
	config.InsecureSkipVerify = true // VerifyConnection does it, and tells why
	before := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if before != nil {
			if err := before(state); err != nil {
				return err
			}
		}
		c.distrust = verify(state, config)
		if verified {
			return c.distrust
		}
		return nil
	}
	conn := tls.Client(c.raw, config)
	release, err := c.arm(ctx)
	if err == nil {
		err = conn.HandshakeContext(ctx)
		release()
	}
	if err != nil {
		e := c.failed(ctx, "TLS handshake", err)
		if !errors.Is(e, ErrTimeout) && !errors.Is(e, context.Canceled) && !isGone(err) {
			e.Kind = ErrTLS
		}
		// There is no telling what the remote would make of a QUIT.
		c.Close()
		return e
	}
	state := conn.ConnectionState()
	c.tls = &state
	c.conn = conn
	c.in.Reset(conn)
	c.log.Debug("TLS started", "version", tls.VersionName(state.Version), "cipher", tls.CipherSuiteName(state.CipherSuite))
	return nil
}

func verify(state tls.ConnectionState, config *tls.Config) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the remote has no certificate")
	}
	if config.ServerName == "" {
		return errors.New("there is no name to verify the certificate by")
	}
	o := x509.VerifyOptions{DNSName: config.ServerName, Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
	if config.Time != nil {
		o.CurrentTime = config.Time()
	}
	for _, certificate := range state.PeerCertificates[1:] {
		o.Intermediates.AddCert(certificate)
	}
	_, err := state.PeerCertificates[0].Verify(o)
	return err
}

// authenticate uses the best mechanism that both sides have and that does not
// show the password to strangers.
func (c *Client) authenticate(ctx context.Context) error {
	auth := c.o.Auth
	if auth == nil {
		return nil
	}
	c.o.Phase(PhaseAuth)
	mechanisms, err := c.mechanisms()
	if err != nil {
		return &Error{Kind: ErrAuth, Op: "AUTH", Err: err}
	}
	for i, mechanism := range mechanisms {
		rep, err := c.exchange(ctx, mechanism, auth)
		if err != nil {
			return err
		}
		switch {
		case rep.code == 235:
			c.log.Debug("authenticated", "mechanism", mechanism, "user", auth.User)
			return nil
		case rep.code == 504 && i < len(mechanisms)-1:
			c.log.Warn("remote lists a mechanism and refuses it", "mechanism", mechanism, "text", rep.text())
		case rep.code == 421:
			return c.refused("AUTH", rep)
		default:
			return &Error{Kind: ErrAuth, Op: "AUTH " + mechanism, Code: rep.code, Text: rep.text()}
		}
	}
	panic("unreachable: mechanisms is not empty")
}

// mechanisms that can be used, best first; the error says why there is none.
func (c *Client) mechanisms() ([]string, error) {
	offered := strings.Fields(strings.ToUpper(c.offers["AUTH"]))
	if len(offered) == 0 {
		hint := ""
		if c.tls == nil && c.offered("STARTTLS") {
			hint = " without TLS"
		}
		return nil, fmt.Errorf("the remote offers no AUTH%s", hint)
	}
	allowed := c.o.Auth.Mechanisms
	if allowed == nil {
		allowed = []string{users.ScramSHA256, users.Plain, users.Login}
	}
	// PLAIN under trusted TLS comes before CRAM-MD5, because it lets the hub
	// keep secrets that are of no use to a thief.
	var fit, held []string
	for _, mechanism := range []string{users.ScramSHA256, users.Plain, users.CramMD5, users.Login} {
		if !slices.Contains(offered, mechanism) || !slices.ContainsFunc(allowed, func(s string) bool { return strings.EqualFold(s, mechanism) }) {
			continue
		}
		if mechanism == users.Plain || mechanism == users.Login {
			if c.tls == nil || c.distrust != nil && c.o.TLS != TLSInsecure {
				held = append(held, mechanism)
				continue
			}
		}
		fit = append(fit, mechanism)
	}
	switch {
	case len(fit) > 0:
		return fit, nil
	case len(held) > 0 && c.tls == nil:
		return nil, fmt.Errorf("the remote offers only %s for us, and without TLS that would show the password", strings.Join(held, ", "))
	case len(held) > 0:
		return nil, fmt.Errorf("the remote offers only %s for us, and would see the password, but its certificate is not verified: %w", strings.Join(held, ", "), c.distrust)
	}
	return nil, fmt.Errorf("the remote offers %s, allowed are %s", strings.Join(offered, ", "), strings.Join(allowed, ", "))
}

// exchange runs one mechanism to its last reply.
func (c *Client) exchange(ctx context.Context, mechanism string, auth *Auth) (reply, error) {
	op := "AUTH " + mechanism
	client, err := users.NewClient(mechanism, auth.User, auth.Password)
	if err != nil {
		return reply{}, &Error{Kind: ErrAuth, Op: op, Err: err}
	}
	_, initial, err := client.Start()
	if err != nil {
		return reply{}, &Error{Kind: ErrAuth, Op: op, Err: err}
	}
	line := op
	switch {
	case initial == nil:
	case len(initial) == 0:
		line += " ="
	default:
		line += " " + base64.StdEncoding.EncodeToString(initial)
	}
	for range maxRounds {
		rep, err := c.command(ctx, op, line)
		if err != nil {
			return reply{}, err
		}
		if rep.code == 235 && !client.Complete() {
			// Whoever says so may not be the hub, and the session is not to be trusted.
			c.Close()
			return reply{}, &Error{Kind: ErrAuth, Op: op, Err: errors.New("the remote says success but has not proved that it knows the user")}
		}
		if rep.code != 334 {
			return rep, nil
		}
		challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rep.lines[0]))
		var response []byte
		if err == nil {
			response, err = client.Next(challenge)
		}
		if err != nil {
			if _, err := c.command(ctx, op, "*"); err != nil {
				return reply{}, err
			}
			return reply{}, &Error{Kind: ErrAuth, Op: op, Err: errors.New(printable(err.Error(), 200))}
		}
		line = base64.StdEncoding.EncodeToString(response)
	}
	c.Close()
	return reply{}, &Error{Kind: ErrAuth, Op: op, Err: errors.New("the remote does not come to an end")}
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

// maxBatch bounds what is sent before the replies are read, so that it fits in
// the buffers of the network and nobody waits for the other to read.
const maxBatch = 50

// Request asks for every name, in one round trip when the remote can. It returns
// the replies there were, also together with an error. A refusal that concerns
// one name (458, 459, 501, 55x) is a Reply and no error; after 421 nothing more
// is asked, and 500 or 502 to the first name is ErrNoETRN.
//
// A remote that does not list ETRN is asked all the same: after HELO there is no
// list, filters in front of servers cut keywords from it, and the answer to one
// command settles the matter. The first name is then asked alone, so that a
// remote without ETRN sees one unknown command and not many.
//
// RFC 2920, section 3.1, leaves it to an extension whether its command may be
// followed by others in a group, and RFC 1985 says nothing. Servers take it, but
// an Exim without TLS may answer 554 to the first and hang up, before it has
// done anything. Request then connects once more and asks one by one.
func (c *Client) Request(ctx context.Context, names []string) ([]Reply, error) {
	for _, name := range names {
		if name == "" || len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, &Error{Kind: ErrProtocol, Op: "ETRN", Err: fmt.Errorf("the name \"%s\" cannot be asked for: printable ASCII without spaces, at most 255 characters", cut(name))}
		}
	}
	c.o.Phase(PhaseRequest)
	replies, err := c.request(ctx, names)
	if c.redial == nil || c.oneByOne || len(replies) == 0 || !outOfSync(replies[0]) || ctx.Err() != nil {
		return replies, err
	}
	c.log.Info("remote does not take several ETRN at a time, connecting again", "text", replies[0].Text)
	c.Close()
	fresh, err := c.redial(ctx)
	if err != nil {
		return nil, err
	}
	c.wire = fresh.wire
	c.oneByOne = true
	c.o.Phase(PhaseRequest)
	return c.request(ctx, names)
}

// outOfSync recognises how Exim refuses a command that others follow.
func outOfSync(r Reply) bool {
	return r.Code == 554 && strings.Contains(r.Text, "synchronization error")
}

func (c *Client) request(ctx context.Context, names []string) ([]Reply, error) {
	var replies []Reply
	for len(names) > 0 {
		n := 1
		if c.pipelines() && (c.offered("ETRN") || len(replies) > 0) {
			n = min(len(names), maxBatch)
		}
		if err := c.send(ctx, "ETRN", "ETRN "+strings.Join(names[:n], "\r\nETRN ")); err != nil {
			return replies, err
		}
		var stop error
		for _, name := range names[:n] {
			rep, err := c.read(ctx, "ETRN "+name)
			if err != nil {
				if stop != nil {
					return replies, stop
				}
				return replies, err
			}
			replies = append(replies, Reply{Name: name, Code: rep.code, Text: rep.text(), Count: countOf(rep.code, rep.text())})
			if stop == nil {
				stop = c.judge(name, rep, len(replies) == 1)
			}
			if rep.code == 421 {
				break // it closes; what is unanswered stays so
			}
		}
		if stop != nil {
			return replies, stop
		}
		names = names[n:]
	}
	return replies, nil
}

// pipelines tells whether several ETRN may go out at a time. The greeting of an
// Exim spares it an attempt that it would log as an attack; one that lists
// PIPECONNECT, or has TLS, does not mind.
func (c *Client) pipelines() bool {
	if c.oneByOne || !c.offered("PIPELINING") {
		return false
	}
	strict := c.tls == nil && strings.Contains(c.greeting, "Exim") && !c.offered("PIPECONNECT")
	return !strict
}

// judge tells whether a reply ends the request.
func (c *Client) judge(name string, rep reply, first bool) error {
	op := "ETRN " + name
	switch rep.code {
	case 500, 502:
		// RFC 1985 has them for a server without ETRN. After a name that it
		// knew how to answer it can only mean this one.
		if first {
			return &Error{Kind: ErrNoETRN, Op: op, Code: rep.code, Text: rep.text()}
		}
	case 421, 503, 530, 538:
		return c.refused(op, rep)
	}
	if rep.code/100 == 3 {
		return &Error{Kind: ErrProtocol, Op: op, Code: rep.code, Text: rep.text()}
	}
	return nil
}

// Offers tells whether the EHLO reply lists a keyword, such as "ATRN".
func (c *Client) Offers(keyword string) bool { return c.offered(strings.ToUpper(keyword)) }

// turnWait is how long the reply to ATRN is waited for at least (RFC 2645):
// the provider may have to look for the mail first.
const turnWait = 10 * time.Minute

// maxCommand is the longest command line (RFC 5321, section 4.5.3.1.4), without
// CRLF.
const maxCommand = 510

// Turn sends ATRN for the domains, or for all of the user's if there are none
// (RFC 2645). After 250 the connection, with its TLS if there is any, belongs to
// the caller, who has to greet: the client is no longer of use, and Quit and
// Close do nothing. In all other cases conn is nil.
//
// 453 (no mail) is a Reply and no error. 500 and 502 are ErrNoATRN; the session
// can then go on with Request. Any other refusal is ErrRefused, with its code.
func (c *Client) Turn(ctx context.Context, domains []string) (conn net.Conn, r Reply, err error) {
	r.Name, r.Count = strings.Join(domains, ","), -1
	for _, domain := range domains {
		if err := checkDomain(domain, 2); err != nil {
			return nil, r, &Error{Kind: ErrProtocol, Op: "ATRN", Err: fmt.Errorf("\"%s\" cannot be asked for: %w", cut(domain), err)}
		}
	}
	line := strings.TrimSpace("ATRN " + r.Name)
	if len(line) > maxCommand {
		return nil, r, &Error{Kind: ErrProtocol, Op: "ATRN", Err: fmt.Errorf("%d domains do not fit into one command: %d bytes, allowed are %d", len(domains), len(line), maxCommand)}
	}
	c.o.Phase(PhaseRequest)
	if err := c.send(ctx, "ATRN", line); err != nil {
		return nil, r, err
	}
	wait := c.o.ReplyTimeout
	c.o.ReplyTimeout = max(wait, turnWait)
	rep, err := c.read(ctx, "ATRN")
	c.o.ReplyTimeout = wait
	if err != nil {
		return nil, r, err
	}
	r.Code, r.Text = rep.code, rep.text()
	switch rep.code {
	case 250:
	case 453:
		r.Count = 0
		return nil, r, nil
	case 500, 502:
		return nil, r, &Error{Kind: ErrNoATRN, Op: "ATRN", Code: rep.code, Text: rep.text()}
	default:
		return nil, r, c.refused("ATRN", rep)
	}
	if c.in.Buffered() > 0 {
		// The remote is the client now and has to wait for our greeting. What
		// was sent before may be anybody's.
		c.Close()
		return nil, r, &Error{Kind: ErrProtocol, Op: "ATRN", Err: errors.New("the remote sent something ahead of our greeting")}
	}
	// From here on ctx has no hold on the connection.
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, r, c.failed(ctx, "ATRN", err)
	}
	c.turned = true
	c.raw.SetDeadline(time.Time{})
	return c.conn, r, nil
}

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
func (c *Client) command(ctx context.Context, op, line string) (reply, error) {
	if err := c.send(ctx, op, line); err != nil {
		return reply{}, err
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
func (c *Client) lastWord(ctx context.Context) (reply, bool) {
	release, err := c.arm(ctx)
	if err != nil {
		return reply{}, false
	}
	defer release()
	c.raw.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	rep, err := readReply(c.in)
	return rep, err == nil && rep.code/100 >= 4
}

func (c *Client) read(ctx context.Context, op string) (reply, error) {
	release, err := c.arm(ctx)
	var rep reply
	if err == nil {
		rep, err = readReply(c.in)
		release()
	}
	if err != nil {
		return reply{}, c.failed(ctx, op, err)
	}
	c.log.Debug("reply of the remote", "to", op, "code", rep.code, "text", rep.text())
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
	c.raw.SetDeadline(time.Now().Add(c.o.ReplyTimeout))
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.turned {
			c.raw.SetDeadline(time.Unix(1, 0))
		}
	})
	return func() { stop() }, nil
}

// refused is the error for a reply that says no to the session.
func (c *Client) refused(op string, rep reply) *Error {
	kind := ErrRefused
	if rep.code/100 < 4 {
		kind = ErrProtocol
	}
	return &Error{Kind: kind, Op: op, Code: rep.code, Text: rep.text()}
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
		e.Err = fmt.Errorf("no answer for %v", c.o.ReplyTimeout)
	case errors.Is(err, errSyntax):
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
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ErrTimeout
	}
	return ctx.Err()
}

// isGone tells a lost connection from a failure of what was said on it.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}
