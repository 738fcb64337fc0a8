// Package login lets sites log in on a port of the MTA's with the users that
// they have on port 366, so that the MTA relays their mail. Postfix asks for a
// login by Dovecot's protocol for authentication clients (version 1), over a
// unix socket: lines of fields between TABs, described in Dovecot's
// documentation and in Postfix's SASL_README.
//
// A login here is the right to send mail through the MTA, so only those get in
// who may: nobody else is told more than that it did not work.
//
// The package decides neither who may relay nor who is at the other end of the
// socket: both are its caller's. It has no other of Dovecot's services: no
// lookups of users, no caching of results, no master.
package login

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/users"
)

// Server answers the MTA's questions for logins.
type Server struct {
	Hostname string // in the challenge of CRAM-MD5
	Users    *users.Store
	// May reports whether a user may send mail through the MTA. It is asked when
	// he has proved who he is.
	May     func(user string) bool
	CramMD5 bool // offer CRAM-MD5
	Logger  *slog.Logger
	// Delay is the time before a failed login is answered; zero is defaultDelay,
	// negative none.
	Delay time.Duration

	standing standing
	seldom   sync.Once
	quiet    *slog.Logger // of logins that fail
}

// failures is the log of what anybody can cause who may speak to the MTA.
func (s *Server) failures() *slog.Logger {
	s.seldom.Do(func() { s.quiet = foreign.Seldom(s.Logger) })
	return s.quiet
}

const (
	// maxConnections bounds the connections, of which each smtpd has one:
	// default_process_limit allows 100 of them.
	maxConnections = 1000
	// maxLine bounds a line. Postfix takes 12,288 bytes of a client
	// (smtpd_sasl_response_limit) and adds addresses.
	maxLine = 16 << 10
	// maxOpen bounds the logins that have begun on one connection and are not
	// over. An smtpd has one at a time, and leaves it when its client goes away.
	maxOpen = 4
	// maxRounds is how many messages a client has for one login.
	maxRounds = 8
	// patience bounds the check of a password and the delay behind it: Postfix
	// gives up on us after 10 s.
	patience = 5 * time.Second
	// defaultDelay is what a guess costs.
	defaultDelay = 2 * time.Second
	// slow bounds the time that the other end takes to read an answer.
	slow = 10 * time.Second
	// maxShown is how much of a name the log has, in bytes.
	maxShown = 80
)

// Serve answers on l until ctx ends, then closes l and every connection, and
// waits for them.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	o := listen.ServeOptions{Limits: &listen.Limits{Max: maxConnections, Logger: s.Logger}, Logger: s.Logger}
	return listen.Serve(ctx, l, o, func(ctx, _ context.Context, conn net.Conn) {
		if err := s.serve(ctx, conn); err != nil && ctx.Err() == nil {
			s.failures().Warn("login connection ended", "error", err)
		}
	})
}

// session is one connection of the MTA's.
type session struct {
	srv   *Server
	out   *bufio.Writer
	open  []*attempt // the oldest first
	hello bool       // VERSION has been said
	pid   int        // of the process at the other end; 0: not known

	granted granted // guarded by srv.standing
}

// attempt is one login. The MTA numbers them.
type attempt struct {
	id        uint32
	mechanism string
	client    netip.Addr // invalid: not told
	exchange  *users.Exchange
	rounds    int
	shown     string // the client, for the log
	// cancel ends the wait for a processor to check the password.
	cancel context.CancelFunc
}

func (s *Server) serve(ctx context.Context, conn net.Conn) error {
	c := &session{srv: s, out: bufio.NewWriter(conn)}
	if p, err := listen.PeerOf(conn); err == nil {
		c.pid = p.PID
	}
	s.standing.add(c)
	defer s.standing.remove(c)
	defer func() {
		for len(c.open) > 0 {
			c.drop(c.open[0].id)
		}
	}()
	conn.SetWriteDeadline(time.Now().Add(slow))
	if err := c.greet(); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	in := bufio.NewReaderSize(conn, maxLine)
	for {
		// No deadline: Postfix keeps the connection for as long as the process
		// that has it lives, and does not look whether it is still open.
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("a line of more than %d bytes", maxLine)
		case err != nil:
			return fmt.Errorf("read a line: %w", err)
		}
		// The line may hold a password: nothing of it may get into an error.
		if err := c.line(ctx, strings.TrimSuffix(string(line), "\n")); err != nil {
			return err
		}
		conn.SetWriteDeadline(time.Now().Add(slow))
		if err := c.out.Flush(); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// mechanisms are what is offered, with the properties by which Postfix chooses
// (smtpd_sasl_security_options).
func (s *Server) mechanisms() []string {
	list := []string{users.ScramSHA256 + "\tmutual-auth", users.Plain + "\tplaintext", users.Login + "\tplaintext"}
	if s.CramMD5 {
		list = append(list, users.CramMD5+"\tdictionary\tactive")
	}
	return list
}

func (s *Server) offers(mechanism string) bool {
	for _, m := range s.mechanisms() {
		if name, _, _ := strings.Cut(m, "\t"); name == mechanism {
			return true
		}
	}
	return false
}

// greet says all that Postfix waits for, which may but need not have spoken
// first.
func (c *session) greet() error {
	fmt.Fprint(c.out, "VERSION\t1\t1\n")
	for _, m := range c.srv.mechanisms() {
		fmt.Fprintf(c.out, "MECH\t%s\n", m)
	}
	var cookie [16]byte
	rand.Read(cookie[:])
	fmt.Fprintf(c.out, "SPID\t%d\nCUID\t1\nCOOKIE\t%s\nDONE\n", os.Getpid(), hex.EncodeToString(cookie[:]))
	return c.out.Flush()
}

// line answers one line. An error ends the connection.
func (c *session) line(ctx context.Context, text string) error {
	command, rest, _ := strings.Cut(text, "\t")
	switch command {
	case "VERSION":
		if major, _, _ := strings.Cut(rest, "\t"); major != "1" {
			return fmt.Errorf("the other end speaks version %s of the protocol, not 1", foreign.Quote(major))
		}
		c.hello = true
		return nil
	case "AUTH", "CONT", "CANCEL":
	default:
		return nil // CPID, and whatever a later version may say
	}
	if !c.hello {
		return errors.New("a login before the version of the protocol")
	}
	number, rest, _ := strings.Cut(rest, "\t")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 {
		return fmt.Errorf("%s without the number of a login", command)
	}
	id := uint32(n)
	switch command {
	case "AUTH":
		return c.begin(ctx, id, rest)
	case "CONT":
		return c.goOn(ctx, id, rest)
	}
	c.drop(id)
	return nil
}

// begin is AUTH: a mechanism, and parameters in any order.
func (c *session) begin(ctx context.Context, id uint32, rest string) error {
	if c.find(id) != nil {
		return errors.New("the number of a login that is under way is used for another one")
	}
	mechanism, rest, _ := strings.Cut(rest, "\t")
	mechanism = strings.ToUpper(mechanism)
	known := c.srv.offers(mechanism)
	if !known {
		mechanism = "unknown" // a client that is out of step may have sent its password there
	}
	var response []byte
	secured, client := false, ""
	for rest != "" {
		var p string
		p, rest, _ = strings.Cut(rest, "\t")
		name, value, _ := strings.Cut(p, "=")
		switch name {
		case "secured":
			secured = true
		case "rip":
			client = value
		case "resp":
			// The last one, since it may hold anything: what is behind it is not
			// the MTA's.
			b, err := base64.StdEncoding.Strict().DecodeString(value)
			if err != nil {
				return c.fail(ctx, &attempt{id: id, mechanism: mechanism, shown: foreign.Clip(client, maxShown)}, fmt.Errorf("%w: the initial response is not base64", users.ErrMalformed))
			}
			response, rest = b, ""
		}
	}
	a := &attempt{id: id, mechanism: mechanism, shown: foreign.Clip(client, maxShown)}
	a.client, _ = netip.ParseAddr(client)
	switch {
	case !known:
		return c.fail(ctx, a, users.ErrMechanism)
	case !secured && (mechanism == users.Plain || mechanism == users.Login):
		// Postfix does not offer them without TLS; a client may try all the same.
		return c.fail(ctx, a, fmt.Errorf("%w: %s without TLS", users.ErrDenied, mechanism))
	}
	if len(c.open) == maxOpen {
		c.drop(c.open[0].id)
	}
	c.open = append(c.open, a)
	return c.step(ctx, a, response)
}

// goOn is CONT: the client's next message. One for a login that is not under way
// gets no answer but that it has failed.
func (c *session) goOn(ctx context.Context, id uint32, text string) error {
	a := c.find(id)
	if a == nil {
		fmt.Fprintf(c.out, "FAIL\t%d\n", id)
		return nil
	}
	response, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return c.fail(ctx, a, fmt.Errorf("%w: not base64", users.ErrMalformed))
	}
	return c.step(ctx, a, response)
}

// step hands the client's message to the mechanism. A nil response is that of a
// client that sent none.
func (c *session) step(ctx context.Context, a *attempt, response []byte) error {
	if a.exchange == nil {
		// The exchange lives as long as the attempt, one step of it much less.
		whole, cancel := context.WithCancel(ctx)
		a.cancel = cancel
		var err error
		if a.exchange, err = c.srv.Users.Server(whole, a.mechanism, c.srv.Hostname); err != nil {
			return c.fail(ctx, a, err)
		}
	}
	defer time.AfterFunc(patience, a.cancel).Stop()
	if a.rounds++; a.rounds > maxRounds {
		return c.fail(ctx, a, fmt.Errorf("%w: too many messages", users.ErrMalformed))
	}
	challenge, done, err := a.exchange.Next(response)
	switch {
	case err != nil:
		return c.fail(ctx, a, err)
	case !done:
		fmt.Fprintf(c.out, "CONT\t%d\t%s\n", a.id, base64.StdEncoding.EncodeToString(challenge))
		return nil
	}
	user := a.exchange.User()
	if !c.srv.May(user) {
		return c.fail(ctx, a, fmt.Errorf("%w: no queue lets the user %s relay", users.ErrDenied, foreign.Quote(user)))
	}
	c.drop(a.id)
	c.srv.standing.grant(c, granted{user, a.client, a.exchange.Grant()})
	c.srv.Logger.Info("logged in on the MTA's port", "client", a.shown, "mechanism", a.mechanism, "user", user)
	// The users file allows no character in a name that would end the field.
	fmt.Fprintf(c.out, "OK\t%d\tuser=%s\n", a.id, user)
	return nil
}

// fail answers a failed login, all in the same way and as late. The log has the
// reason.
func (c *session) fail(ctx context.Context, a *attempt, cause error) error {
	c.drop(a.id)
	claimed := ""
	if a.exchange != nil {
		claimed = a.exchange.Claimed()
	}
	c.srv.failures().Warn("login on the MTA's port failed", "client", a.shown, "mechanism", a.mechanism, "claimed", foreign.Clip(claimed, maxShown), "error", cause)
	if errors.Is(cause, users.ErrBusy) || errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		fmt.Fprintf(c.out, "FAIL\t%d\ttemp\treason=too busy to check passwords, try again later\n", a.id)
		return nil
	}
	delay := c.srv.Delay
	if delay == 0 {
		delay = defaultDelay
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	fmt.Fprintf(c.out, "FAIL\t%d\n", a.id)
	return nil
}

func (c *session) find(id uint32) *attempt {
	for _, a := range c.open {
		if a.id == id {
			return a
		}
	}
	return nil
}

func (c *session) drop(id uint32) {
	for i, a := range c.open {
		if a.id == id {
			if a.cancel != nil {
				a.cancel()
			}
			c.open = append(c.open[:i], c.open[i+1:]...)
			return
		}
	}
}
