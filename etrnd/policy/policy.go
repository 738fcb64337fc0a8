// Package policy answers Postfix's policy service requests for ETRN, so that
// ETRN on Postfix's own port obeys the same rules, and releases the same
// queues, as ETRN on the daemon's listener.
//
// Postfix asks once for every ETRN (smtpd_etrn_restrictions) and writes the
// answer to the client itself: a refusal has our code and text, a success is
// always "250 Queuing started". Postfix strips "@" and "#" before it asks.
// The protocol is described in Postfix's SMTPD_POLICY_README.
//
// On the port where sites log in (internal/postfix/setup) Postfix also asks for
// each recipient whether the client may send mail to anywhere; the answer is OK
// or DUNNO, behind which Postfix refuses. So a right that is taken away ends in the
// middle of a session, and so does a login whose user is gone or has another password
// (see Server.Login).
//
// Requests of any other protocol state are answered DUNNO: this is no general
// policy service.
package policy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/listen"
)

// Asker decides about an ETRN and starts what it allows.
type Asker interface {
	AskStripped(who etrn.Identity, name string) etrn.Answer
}

// Server answers policy requests.
type Server struct {
	Asker Asker
	// Relay reports whether somebody may send mail to anywhere; nil: nobody may.
	Relay func(who etrn.Identity) bool
	// Login reports whether the login of a session still holds, and whether it was
	// one that etrnd has proved at all; the process is Postfix's, 0 if it is not
	// known. nil: all logins are Postfix's own, and hold.
	Login  func(user string, client netip.Addr, pid int) (stands, known bool)
	Logger *slog.Logger

	seldom sync.Once
	quiet  *slog.Logger // of those who are refused
}

// refusals is the log of what anybody can cause who may speak to the MTA.
func (s *Server) refusals() *slog.Logger {
	s.seldom.Do(func() { s.quiet = foreign.Seldom(s.Logger) })
	return s.quiet
}

const (
	// maxConnections bounds the connections, of which each smtpd has one:
	// default_process_limit allows 100 of them.
	maxConnections = 1000
	// maxRequest bounds one request. Postfix sends about 800 bytes, most of
	// them names and certificate subjects that the client chose.
	maxRequest = 64 << 10
	maxLine    = 8 << 10
	// idle is longer than Postfix keeps a connection that it does not use
	// (smtpd_policy_service_max_idle, 300 s), so that Postfix closes first
	// and never finds a connection dead that it is about to use.
	idle = 10 * time.Minute
	// maxShown is how much of a name a reply and the log have, in bytes.
	maxShown = 80
	// slow bounds the time between the first and the last byte of a request.
	slow = 30 * time.Second
)

// Serve answers on l until ctx ends, then closes l and every connection, and
// waits for them.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	o := listen.ServeOptions{Limits: &listen.Limits{Max: maxConnections, Logger: s.Logger}, Logger: s.Logger}
	return listen.Serve(ctx, l, o, func(ctx, _ context.Context, conn net.Conn) {
		if err := s.serve(conn); err != nil && ctx.Err() == nil {
			s.refusals().Warn("policy connection ended", "error", err)
		}
	})
}

func (s *Server) serve(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, maxLine)
	p, _ := listen.PeerOf(conn) // on TCP nobody knows
	for {
		conn.SetReadDeadline(time.Now().Add(idle))
		if _, err := in.Peek(1); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("wait for a request: %w", err)
		}
		conn.SetDeadline(time.Now().Add(slow))
		attrs, err := readRequest(in)
		if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		if _, err := fmt.Fprintf(conn, "action=%s\n\n", s.answer(attrs, p.PID)); err != nil {
			return fmt.Errorf("answer a request: %w", err)
		}
	}
}

// readRequest reads name=value lines up to an empty one. Of a name that comes
// twice the first counts: what Postfix knows precedes what the client said.
func readRequest(in *bufio.Reader) (map[string]string, error) {
	attrs := map[string]string{}
	for total := 0; ; {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return nil, err // bufio.ErrBufferFull: a line over maxLine
		}
		if total += len(line); total > maxRequest {
			return nil, fmt.Errorf("longer than %d bytes", maxRequest)
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
		if text == "" {
			return attrs, nil
		}
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("%s is not name=value", foreign.Quote(text))
		}
		if _, ok := attrs[name]; !ok {
			attrs[name] = value
		}
	}
}

// answer is the action for one request of a process.
func (s *Server) answer(attrs map[string]string, pid int) (action string) {
	if attrs["request"] != "smtpd_access_policy" {
		return "DUNNO"
	}
	switch attrs["protocol_state"] {
	case "ETRN":
		return s.etrn(attrs, pid)
	case "RCPT":
		// A login of which nothing is known may be of before a restart, and the
		// user may be gone since.
		if s.Relay != nil && s.Relay(s.identity(attrs, pid, true)) {
			return "OK"
		}
	}
	return "DUNNO"
}

// identity is what the client of a session of Postfix's has proved of itself.
// A login counts for as long as it would be accepted again. Of one that etrnd knows
// nothing of it does unless proved says that etrnd must have proved it.
func (s *Server) identity(attrs map[string]string, pid int, proved bool) etrn.Identity {
	who := etrn.Identity{User: attrs["sasl_username"], Session: attrs["instance"]}
	who.Addr, _ = netip.ParseAddr(attrs["client_address"])
	if who.User != "" && s.Login != nil {
		if stands, known := s.Login(who.User, who.Addr, pid); !stands && (known || proved) {
			who.User = ""
		}
	}
	for _, key := range []string{"ccert_fingerprint", "ccert_pubkey_fingerprint"} {
		// Postfix says "AB:CD:..."; only SHA-256 is long enough to match.
		if fp := strings.ToLower(strings.ReplaceAll(attrs[key], ":", "")); len(fp) == 64 {
			who.Certificates = append(who.Certificates, fp)
		}
	}
	return who
}

// etrn is the action for an ETRN.
func (s *Server) etrn(attrs map[string]string, pid int) (action string) {
	name, shown := attrs["etrn_domain"], foreign.Printable(attrs["etrn_domain"], maxShown)
	about := []any{"client", foreign.Clip(attrs["client_address"], maxShown), "name", foreign.Clip(name, maxShown), "session", foreign.Clip(attrs["instance"], maxShown)}
	log, refused := s.Logger.With(about...), s.refusals().With(about...)
	defer func() {
		// An ETRN that nobody has judged must not pass: without restrictions
		// Postfix lets anyone in.
		if p := recover(); p != nil {
			log.Error("panic in an ETRN policy request", "panic", p, "stack", string(debug.Stack()))
			action = "451 Local error, try again later"
		}
	}()
	// Postfix may have logins of its own on other ports.
	who := s.identity(attrs, pid, false)
	user := foreign.Clip(who.User, maxShown)
	a := s.Asker.AskStripped(who, name)
	switch a.Code {
	case 458:
		refused.Info("ETRN put off", "code", a.Code, "user", user, "reason", a.Log)
		return fmt.Sprintf("458 Unable to queue messages for node %s: %s", shown, a.Text)
	case 459:
		refused.Warn("ETRN refused", "code", a.Code, "user", user, "reason", a.Log)
		return fmt.Sprintf("459 Node %s not allowed: %s", shown, a.Text)
	}
	log.Info("ETRN accepted", "code", a.Code, "user", user, "messages", a.Count)
	// OK rather than DUNNO: the decision is made. The restrictions that the
	// administrator has put first have had their say.
	return "OK"
}
