package odmr

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/users"
)

// Ends of a session that no command asked for.
var (
	errDraining = errors.New("shutting down")
	errLimit    = errors.New("session limit")
)

// session is one connection. One goroutine runs it; only drain is called from
// elsewhere.
type session struct {
	srv  *Server
	log  *slog.Logger
	raw  net.Conn // the socket
	conn net.Conn // the socket, or TLS over it
	in   *bufio.Reader
	out  *bufio.Writer
	stop <-chan struct{} // closed when the server shuts down

	who      etrn.Identity
	secure   bool // TLS is on
	hello    bool // HELO or EHLO was sent
	ends     time.Time
	errors   int
	failures int // of AUTH
	commands int
	// An AUTH was refused: what comes next may be the secret of a client that
	// did not wait, and is kept out of the log.
	secret bool

	mu       sync.Mutex // guards draining against setting a deadline after drain has
	draining bool
	turned   context.CancelFunc // set once the connection is the Turner's
}

func newSession(s *Server, conn net.Conn, addr netip.Addr, stop <-chan struct{}) *session {
	id := sessionID()
	return &session{
		srv:  s,
		log:  s.log.With("session", id, "client", conn.RemoteAddr().String()),
		raw:  conn,
		conn: conn,
		in:   bufio.NewReaderSize(conn, maxLine),
		out:  bufio.NewWriterSize(conn, maxLine),
		stop: stop,
		who:  etrn.Identity{Addr: addr, Session: id},
	}
}

// drain ends the session at once if it waits for a command, and otherwise after
// the command it is busy with.
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	if s.turned != nil {
		s.turned() // the deadlines are the Turner's own
		return
	}
	s.raw.SetReadDeadline(time.Unix(1, 0))
}

// run owns the connection until it is closed.
func (s *session) run(ctx context.Context) {
	began := time.Now()
	s.ends = began.Add(s.srv.o.SessionTimeout)
	s.log.Debug("session opened")
	err := s.guarded(ctx)
	s.farewell(err)
	s.linger(err)
	s.conn.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	attrs := []any{"commands", s.commands, "refused", s.errors + s.failures, "seconds", time.Since(began).Round(time.Millisecond).Seconds()}
	if err != nil {
		attrs = append(attrs, "reason", err.Error())
	}
	s.log.Info("session closed", attrs...)
}

// guarded turns a panic into the end of this session alone.
func (s *session) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a session", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
	}()
	s.reply(220, "%s ESMTP on-demand mail relay, send EHLO", s.srv.o.Hostname)
	for {
		if err := s.command(ctx); err != nil {
			if err == errQuit {
				return nil
			}
			return err
		}
	}
}

// errQuit ends a session whose last reply is written.
var errQuit = errors.New("quit")

// farewell says 421 where there is somebody to hear it.
func (s *session) farewell(err error) {
	host := s.srv.o.Hostname
	switch {
	case err == nil:
	case errors.Is(err, errDraining):
		s.reply(421, "%s closes for now, try again later", host)
	case errors.Is(err, errLimit), errors.Is(err, errFlood), errors.Is(err, errHello):
		s.reply(421, "%s closes: %s", host, err.Error())
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.reply(421, "%s closes: you took too long", host)
	case err.Error() == "panic":
		s.reply(421, "%s closes: internal error, try again later", host)
	default:
		return // the peer has gone
	}
	s.flush()
}

// linger lets the last reply arrive. Closing a socket with unread bytes in it
// resets the connection, and takes away what was on its way to the peer.
func (s *session) linger(err error) {
	half, ok := s.raw.(interface{ CloseWrite() error })
	if !ok || !errors.Is(err, errLimit) && !errors.Is(err, errFlood) && !errors.Is(err, errHello) {
		return
	}
	if conn, ok := s.conn.(*tls.Conn); ok {
		s.raw.SetWriteDeadline(time.Now().Add(time.Second))
		conn.CloseWrite() // says that nothing was cut off
	}
	if half.CloseWrite() == nil && s.arm(time.Second) {
		io.CopyN(io.Discard, s.raw, 4*maxJunk)
	}
}

// command reads and answers one command. An error ends the session.
func (s *session) command(ctx context.Context) error {
	line, err := s.line()
	if err != nil && !isLineError(err) {
		if errors.Is(err, errFlood) || errors.Is(err, errHello) {
			s.log.Warn("session refused", "reason", err.Error(), "line", cut(line))
		}
		return err
	}
	if s.commands++; s.commands > maxCommands {
		return s.limit("too many commands")
	}
	if err != nil {
		return s.lineError(line, err)
	}
	verb, arg, _ := strings.Cut(string(line), " ")
	verb, arg = strings.ToUpper(verb), strings.Trim(arg, " ")
	defer func() { s.secret = verb == "AUTH" && s.who.User == "" }()
	switch verb {
	case "EHLO", "HELO":
		return s.ehlo(verb, arg)
	case "STARTTLS":
		return s.starttls(ctx, arg)
	case "AUTH":
		return s.auth(ctx, arg)
	case "ETRN":
		return s.etrn(ctx, arg)
	case "ATRN":
		return s.atrn(ctx, arg)
	case "NOOP":
		s.reply(250, "OK")
	case "RSET":
		// There is no transaction to reset.
		s.reply(250, "OK")
	case "HELP":
		lines := []string{
			"This port is for asking for mail that is held (RFC 1985)",
			"ETRN domain    mail for that domain",
			"ETRN @domain   mail for that domain and all below it",
			"ETRN #queue    mail of that queue",
		}
		if s.srv.o.Turner != nil {
			lines = append(lines, "ATRN [domain[,domain...]]   the same over this connection (RFC 2645)")
		}
		s.replyLines(214, append(lines, "Others: EHLO HELO STARTTLS AUTH NOOP RSET HELP QUIT")...)
	case "QUIT":
		s.reply(221, "%s closes", s.srv.o.Hostname)
		if err := s.flush(); err != nil {
			return err
		}
		return errQuit
	case "MAIL", "RCPT", "DATA", "BDAT", "SEND", "SOML", "SAML", "VRFY", "EXPN":
		return s.refuse(502, line, "this port takes ETRN and no mail; mail goes to port 25")
	case "TURN":
		// RFC 5321, appendix F.1: whoever says HELO with a name would get its mail.
		return s.refuse(502, line, "TURN proves nobody's identity and is not done; use ETRN")
	case "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE":
		// A browser, tricked into talking to this port.
		s.errors++
		s.log.Warn("session refused", "reason", "HTTP request", "line", cut(line))
		return s.limit("this is no web server")
	default:
		if s.secret {
			line = []byte("(not shown)")
		}
		return s.refuse(500, line, "command not known; HELP lists those that are")
	}
	return nil
}

func (s *session) ehlo(verb, arg string) error {
	if arg == "" {
		return s.refuse(501, []byte(verb), verb+" wants your host name")
	}
	s.hello = true
	s.log.Debug("hello", "verb", verb, "name", cut(arg))
	if verb == "HELO" {
		s.reply(250, "%s", s.srv.o.Hostname)
		return nil
	}
	lines := []string{s.srv.o.Hostname, "PIPELINING", "ETRN"}
	if s.srv.o.Turner != nil {
		lines = append(lines, "ATRN", Ahead) // ATRN also before AUTH: RFC 2645, section 4
	}
	if s.srv.o.Certificate != nil && !s.secure {
		lines = append(lines, "STARTTLS")
	}
	if mechanisms := s.mechanisms(); len(mechanisms) > 0 {
		lines = append(lines, "AUTH "+strings.Join(mechanisms, " "))
	}
	s.replyLines(250, append(lines, "HELP")...)
	return nil
}

// mechanisms that are allowed now, best first.
func (s *session) mechanisms() []string {
	if s.srv.o.Users == nil {
		return nil
	}
	all := []string{users.ScramSHA256}
	if s.secure {
		all = append(all, users.Plain, users.Login)
	}
	if s.srv.o.CramMD5 {
		all = append(all, users.CramMD5)
	}
	return all
}

func (s *session) starttls(ctx context.Context, arg string) error {
	switch {
	case s.srv.o.Certificate == nil:
		return s.refuse(502, []byte("STARTTLS"), "TLS is not set up here")
	case s.secure:
		return s.refuse(503, []byte("STARTTLS"), "TLS is on already")
	case arg != "":
		return s.refuse(501, []byte("STARTTLS "+arg), "STARTTLS has no parameter")
	}
	if n := s.in.Buffered(); n > 0 {
		// Whoever can write into the connection before TLS could place commands
		// that would be taken for the client's own behind it. No honest client
		// sends ahead here (RFC 3207, section 4), so nothing of it is answered.
		b, _ := s.in.Peek(n)
		s.errors++
		s.log.Warn("session refused", "reason", "commands sent ahead of TLS", "line", cut(b))
		s.in.Discard(n)
		return s.limit("nothing may be sent behind STARTTLS before its reply")
	}
	s.reply(220, "go ahead with TLS")
	if err := s.flush(); err != nil {
		return err
	}
	if !s.arm(s.srv.o.TLSTimeout) {
		return errDraining
	}
	s.raw.SetWriteDeadline(time.Now().Add(s.srv.o.TLSTimeout))
	conn := tls.Server(s.raw, s.srv.o.Certificate.serverConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		s.log.Warn("TLS handshake failed", "error", printable(err.Error(), 200))
		// Not wrapped: a 421 in the clear would be read as a TLS record.
		return fmt.Errorf("TLS handshake failed: %v", printable(err.Error(), 200))
	}
	state := conn.ConnectionState()
	s.conn = conn
	s.in.Reset(conn)
	s.out.Reset(conn)
	// What was learnt without TLS is forgotten (RFC 3207, section 4.2).
	s.hello = false
	s.who.User = ""
	s.secure = true
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		s.who.Certificates = []string{fingerprint(leaf), keyFingerprint(leaf)}
	}
	s.log.Debug("TLS started", "version", tls.VersionName(state.Version), "cipher", tls.CipherSuiteName(state.CipherSuite), "certificates", s.who.Certificates)
	return nil
}

func (s *session) auth(ctx context.Context, arg string) error {
	name, initial, hasInitial := strings.Cut(arg, " ")
	name = strings.ToUpper(name)
	switch known := []string{users.ScramSHA256, users.Plain, users.Login, users.CramMD5}; {
	case s.srv.o.Users == nil:
		return s.refuse(502, []byte("AUTH"), "there are no users here")
	case !s.hello:
		return s.refuse(503, []byte("AUTH"), "send EHLO first")
	case s.who.User != "":
		return s.refuse(503, []byte("AUTH"), "you are authenticated already")
	case name == "":
		return s.refuse(501, []byte("AUTH"), "AUTH wants a mechanism")
	case !slices.Contains(s.mechanisms(), name):
		if slices.Contains(known[1:3], name) {
			return s.refuse(538, []byte("AUTH "+name), name+" is for TLS only; send STARTTLS first")
		}
		return s.refuse(504, []byte("AUTH "+name), "no such mechanism here; EHLO lists those that are")
	}
	var response []byte
	if hasInitial {
		var err error
		if response, err = decodeAuth(initial); err != nil {
			return s.refuse(501, []byte("AUTH "+name), err.Error())
		}
	}
	exchange, err := s.srv.o.Users.Server(ctx, name, s.srv.o.Hostname)
	if err != nil {
		return s.authFailed(name, "", err)
	}
	for range maxRounds {
		challenge, done, err := exchange.Next(response)
		if err != nil {
			return s.authFailed(name, exchange.Claimed(), err)
		}
		if done {
			s.who.User = exchange.User()
			s.log = s.log.With("user", s.who.User)
			s.log.Info("authenticated", "mechanism", name, "tls", s.secure)
			s.reply(235, "authenticated")
			return nil
		}
		s.reply(334, "%s", base64.StdEncoding.EncodeToString(challenge))
		line, err := s.line()
		switch {
		case isLineError(err):
			return s.lineError([]byte("AUTH"), err) // the line may hold a password
		case err != nil:
			return err
		case string(line) == "*":
			return s.refuse(501, []byte("AUTH "+name), "authentication cancelled")
		}
		if len(line) == 0 {
			response = []byte{}
		} else if response, err = decodeBase64(string(line)); err != nil {
			return s.refuse(501, []byte("AUTH "+name), err.Error())
		}
	}
	return s.authFailed(name, exchange.Claimed(), fmt.Errorf("%w: too many messages", users.ErrMalformed))
}

// decodeAuth decodes an initial response; "=" is an empty one (RFC 4954, section 4).
func decodeAuth(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	return decodeBase64(text)
}

func decodeBase64(text string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("that is not base64")
	}
	return b, nil
}

// authFailed answers a failed AUTH. The log has the reason, the peer has not.
func (s *session) authFailed(mechanism, claimed string, cause error) error {
	s.log.Warn("authentication failed", "mechanism", mechanism, "claimed", cut(claimed), "error", cause)
	if errors.Is(cause, users.ErrBusy) || errors.Is(cause, context.Canceled) {
		s.reply(454, "too busy to check passwords, try again later")
		return nil
	}
	s.failures++
	if d := s.srv.o.AuthDelay; d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.stop:
		}
	}
	if errors.Is(cause, users.ErrMalformed) || errors.Is(cause, users.ErrMechanism) {
		s.reply(501, "that is no message of %s", mechanism)
	} else {
		s.reply(535, "user or secret is wrong")
	}
	if s.failures >= maxAuthFailures {
		return s.limit("too many failed authentications")
	}
	return nil
}

func (s *session) etrn(ctx context.Context, name string) error {
	line := []byte("ETRN " + name)
	switch {
	case !s.hello:
		// RFC 1985 has ETRN behind EHLO, which is where it is offered; Postfix
		// asks for it too.
		return s.refuse(503, line, "send EHLO first")
	case name == "":
		return s.refuse(500, line, "ETRN wants a name: domain, @domain or #queue") // erratum 4130
	case strings.ContainsAny(name, " \t"):
		return s.refuse(501, line, "one name for each ETRN")
	}
	if err := checkName(name); err != nil {
		return s.refuse(501, line, err.Error())
	}
	ask, cancel := context.WithTimeout(ctx, s.srv.o.AskTimeout)
	defer cancel()
	a := s.srv.o.Asker.Ask(ask, s.who, name)
	text := printable(a.Text, 400)
	switch {
	case a.Code == 253 && a.Count > 0:
		s.reply(253, "OK, %d pending messages for node %s started", a.Count, name)
	case a.Code == 251, a.Code == 253:
		a.Code = 251
		s.reply(251, "OK, no messages waiting for node %s", name)
	case a.Code == 250:
		s.reply(250, "OK, queuing for node %s started", name)
	case a.Code == 252:
		s.reply(252, "OK, pending messages for node %s started", name)
	case a.Code == 458:
		s.reply(458, "Unable to queue messages for node %s%s", name, reason(text))
	case a.Code == 459:
		s.reply(459, "Node %s not allowed%s", name, reason(text))
	default:
		if a.Code != 451 {
			s.log.Error("answer to ETRN is none of RFC 1985", "name", name, "code", a.Code)
			a.Code, text = 451, "internal error"
		}
		s.reply(451, "Unable to look after node %s now%s", name, reason(text))
	}
	level := slog.LevelInfo
	if a.Code >= 400 {
		level = slog.LevelWarn
	}
	s.log.Log(ctx, level, "etrn", "name", name, "code", a.Code, "messages", a.Count, "reason", cmp.Or(a.Log, text))
	return nil
}

func reason(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// atrn is the provider's side of RFC 2645 up to the turn.
func (s *session) atrn(ctx context.Context, arg string) error {
	line := []byte("ATRN " + arg)
	switch {
	case s.srv.o.Turner == nil:
		return s.refuse(502, line, "ATRN is not implemented; use ETRN")
	case !s.hello:
		return s.refuse(503, line, "send EHLO first")
	case s.who.User == "":
		return s.refuse(530, line, "authenticate first")
	}
	var domains []string
	if arg != "" {
		domains = strings.Split(arg, ",")
	}
	for _, domain := range domains {
		if err := checkDomain(domain, 2); err != nil {
			return s.refuse(501, line, err.Error())
		}
	}
	if n := s.in.Buffered(); n > 0 {
		// The next bytes of the peer are those of a server that greets. What
		// came before our answer was written without knowing it.
		s.errors++
		s.in.Discard(n)
		s.log.Warn("session refused", "reason", "data sent ahead of the turn", "bytes", n)
		return s.limit("nothing may be sent behind ATRN before its reply")
	}
	ask, cancelAsk := context.WithTimeout(ctx, s.srv.o.AskTimeout)
	a, turned := s.srv.o.Turner.Turn(ask, s.who, domains)
	cancelAsk()
	if a.Code != 250 || turned == nil {
		s.log.Info("atrn", "code", a.Code, "reason", a.Text)
		s.reply(a.Code, "%s", printable(a.Text, 400))
		return nil
	}
	s.reply(250, "OK, now reversing the connection")
	if err := s.flush(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	draining := s.draining
	s.turned = cancel
	s.conn.SetDeadline(time.Time{})
	s.mu.Unlock()
	if draining {
		cancel()
	}
	// From here on the peer is a server: there is no farewell to be said to it.
	if err := turned(ctx, s.conn); err != nil {
		return fmt.Errorf("turned: %v", err)
	}
	return errQuit
}

// line waits for a line. Replies go out before it has to wait.
func (s *session) line() ([]byte, error) {
	if !lineReady(s.in) {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	left := time.Until(s.ends)
	if left <= 0 {
		return nil, s.limit("the session has lasted too long")
	}
	// One deadline for the whole line: a byte now and then does not move it.
	if !s.arm(min(left, s.srv.o.CommandTimeout)) {
		return nil, errDraining
	}
	line, err := readLine(s.in)
	if err != nil && s.isDraining() {
		return nil, errDraining
	}
	return line, err
}

func (s *session) arm(d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.raw.SetReadDeadline(time.Now().Add(d))
	return true
}

func (s *session) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *session) lineError(line []byte, err error) error {
	if s.secret || len(line) >= 4 && strings.EqualFold(string(line[:4]), "AUTH") {
		line = []byte("(not shown)")
	}
	switch {
	case errors.Is(err, errLong):
		return s.refuse(500, line, "line too long")
	case errors.Is(err, errBareLF):
		return s.refuse(500, line, "lines end with CR and LF")
	default:
		return s.refuse(500, line, "only printable ASCII is allowed")
	}
}

// refuse answers a command that is wrong in syntax or order. After too many of
// them the session ends.
func (s *session) refuse(code int, line []byte, why string) error {
	s.errors++
	s.log.Info("command refused", "line", cut(line), "code", code, "reason", why)
	s.reply(code, "%s", why)
	if s.errors >= maxErrors {
		return s.limit("too many errors")
	}
	return nil
}

func (s *session) limit(why string) error { return fmt.Errorf("%w: %s", errLimit, why) }

func (s *session) reply(code int, format string, args ...any) {
	s.write(fmt.Sprintf("%d %s\r\n", code, fmt.Sprintf(format, args...)))
}

func (s *session) replyLines(code int, lines ...string) {
	for i, line := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		s.write(fmt.Sprintf("%d%s%s\r\n", code, sep, line))
	}
}

// write puts a line into the buffer. An error of the connection stays in the
// bufio.Writer and comes back from the next flush.
func (s *session) write(line string) {
	if s.out.Available() < len(line) {
		s.flush()
	}
	s.out.WriteString(line)
}

func (s *session) flush() error {
	if s.out.Buffered() == 0 {
		return nil
	}
	s.raw.SetWriteDeadline(time.Now().Add(s.srv.o.WriteTimeout))
	if err := s.out.Flush(); err != nil {
		// Not wrapped: farewell must not try to write again.
		return fmt.Errorf("cannot write: %v", err)
	}
	return nil
}
