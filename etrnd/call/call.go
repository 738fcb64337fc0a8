package call

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/users"
)

// call is one session with a remote. The caller's mu guards what changes.
type call struct {
	caller  *Caller
	session *session
	ref     api.CallRef
	remote  config.Remote
	log     *slog.Logger

	made       time.Time // the call was asked for
	began      time.Time // the link was up; zero: never
	phase      api.Phase
	waiting    string
	replies    []api.Reply
	tally      *Tally
	senders    *senders
	leftBefore hold.Left // of the push queues, when the call began

	turned *turned
	moved  chan struct{} // has an element when a turned connection has moved

	expectIn int // messages that the remote has announced; -1: unknown
	in       Counts
	out      api.Progress

	exit      int
	err, hint string
}

// newCall makes a call. The caller holds mu.
func newCall(c *Caller, s *session, r config.Remote) *call {
	id := c.newID()
	return &call{
		caller: c, session: s, remote: r, senders: newSenders(&r), made: time.Now(), phase: api.PhaseDialling, expectIn: -1, moved: make(chan struct{}, 1),
		ref: api.CallRef{Call: id, Remote: r.Name, Link: r.Link},
		log: c.log.With("call", id, "remote", r.Name),
	}
}

// event is how the call stands. The caller holds mu.
func (cl *call) event() api.CallEvent {
	ev := api.CallEvent{
		CallRef: cl.ref, Time: time.Now(), Phase: cl.phase, Waiting: cl.waiting,
		In:  api.Progress{Messages: cl.in.Messages, Bytes: cl.in.Bytes, Expected: cl.expectIn},
		Out: cl.out,
	}
	if !cl.began.IsZero() {
		ev.Line = api.Seconds(time.Since(cl.began))
	}
	return ev
}

// finish is the result of a call that has ended. The caller holds mu.
func (cl *call) finish() api.CallResult {
	ev := cl.event()
	start := cl.began
	if start.IsZero() {
		start = cl.made
	}
	return api.CallResult{
		CallRef: cl.ref, RouterType: string(cl.remote.RouterType), Start: start, End: ev.Time, Line: ev.Line,
		In: ev.In, Out: ev.Out, Duplicates: cl.in.Duplicates, Replies: append([]api.Reply{}, cl.replies...),
		Error: cl.err, Hint: cl.hint, Exit: cl.exit,
	}
}

// fail notes why a call did not do all that it should. The first reason
// stands: what comes later mostly follows from it. The caller holds mu.
func (cl *call) fail(exit int, err, hint string) {
	if cl.exit == 0 {
		cl.exit, cl.err, cl.hint = exit, err, hint
	}
}

// set changes the call's state and tells watchers.
func (cl *call) set(change func()) {
	cl.caller.mu.Lock()
	defer cl.caller.mu.Unlock()
	change()
	cl.caller.notify()
}

func (cl *call) step(phase api.Phase, waiting string) {
	cl.set(func() { cl.phase, cl.waiting = phase, waiting })
}

// run is the whole call, from the link's being up until nothing is left to
// come or to go.
func (cl *call) run(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, cl.remote.Limit, fmt.Errorf("the limit of %v for one call was reached", cl.remote.Limit))
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			cl.log.Error("panic in a call", "panic", p, "stack", string(debug.Stack()))
			cl.set(func() {
				cl.fail(api.ExitTempFail, "internal error in the call", "this is a bug: the log has the details")
			})
		}
	}()
	// Behind the deferred cancel: what a turned connection does ends with ctx.
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	defer cl.caller.hold.Watch()()
	tally := cl.caller.inbound.Tally(cl.senders.match)
	defer tally.Close()
	cl.set(func() { cl.tally = tally })

	var asked request
	if cl.remote.RouterType.Pulls() {
		asked = cl.pull(ctx, &serving)
	}
	cl.wait(ctx, asked, &serving)
	if ctx.Err() != nil {
		why := context.Cause(ctx)
		hint := "what has not gone stays held and goes with the next call"
		cl.set(func() {
			cl.measure()
			cl.fail(api.ExitTempFail, why.Error(), hint)
		})
	}
}

// request is what came of asking the remote.
type request struct {
	made     bool // at least one name was accepted, so mail may come
	counted  bool // all that was accepted was counted (251, 253)
	announce int  // messages announced by 253
	before   int  // messages that had come when the question was put
}

// pull waits for the local MTA and asks the remote for its mail.
func (cl *call) pull(ctx context.Context, serving *sync.WaitGroup) request {
	if err := cl.waitForMTA(ctx); err != nil {
		if ctx.Err() == nil {
			cl.set(func() {
				cl.fail(api.ExitTempFail, err.Error(), "is the local mail server running? nothing was requested, since its mail would have found the door closed")
			})
		}
		return request{}
	}
	return cl.ask(ctx, serving, false)
}

// waitForMTA waits until the local SMTP listener answers, so that the mail
// does not arrive before the door is open.
func (cl *call) waitForMTA(ctx context.Context) error {
	addr := cl.caller.config().MTA.SMTP
	ctx, cancel := context.WithTimeout(ctx, cl.remote.RequestTimeout)
	defer cancel()
	cl.step(api.PhaseMTA, "the local SMTP listener "+addr+" to answer")
	for {
		err := greets(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the local SMTP listener %s does not answer: %w", addr, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// greets reports whether an SMTP server says 220 at addr.
func greets(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	var buf [512]byte
	n, err := conn.Read(buf[:])
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(buf[:n]), "220") {
		return fmt.Errorf("it said %.60q", buf[:n])
	}
	conn.Write([]byte("QUIT\r\n"))
	return nil
}

// ask has the dialogue with the remote. A connection that is refused is tried
// again for a moment: a route or a name server may need that after the link
// has come up.
func (cl *call) ask(ctx context.Context, serving *sync.WaitGroup, again bool) request {
	r := &cl.remote
	dialogue := func() (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(ctx, r.ConnectTimeout+r.RequestTimeout, odmr.ErrTimeout)
	}
	dctx, cancel := dialogue()
	defer cancel()
	options, err := cl.options()
	if err != nil {
		cl.set(func() { cl.fail(api.ExitConfig, err.Error(), "") })
		return request{}
	}
	cl.step(api.PhaseConnecting, r.Addr()+" to answer")
	var client *odmr.Client
	for delay, until := time.Second, time.Now().Add(r.ConnectTimeout); ; delay *= 2 {
		client, err = odmr.Dial(dctx, r.Addr(), options)
		if err == nil || !errors.Is(err, odmr.ErrConnect) || time.Now().Add(delay).After(until) {
			break
		}
		select {
		case <-dctx.Done():
		case <-time.After(delay):
		}
		if dctx.Err() != nil {
			break
		}
	}
	if err != nil {
		cl.refused(dctx, err)
		return request{}
	}
	defer client.Quit()
	serving.Go(func() { cl.senders.resolve(ctx, r.Host) })
	before := cl.tally.Counts().Messages
	cl.step(api.PhaseRequest, "the answer of "+r.Host)
	if r.Protocol.Turns() {
		// The answer to ATRN has a time of its own.
		if asked, ok := cl.turn(ctx, client, serving); ok {
			return asked
		}
		dctx, cancel = dialogue()
		defer cancel()
	}
	replies, err := client.Request(dctx, r.Request)
	asked := cl.judge(dctx, replies, err, again)
	asked.before = before
	return asked
}

func (cl *call) options() (odmr.ClientOptions, error) {
	r := &cl.remote
	o := odmr.ClientOptions{
		Hostname: cl.caller.config().Hostname, TLS: odmr.TLSMode(r.TLS), Logger: cl.log,
		ConnectTimeout: r.ConnectTimeout, ReplyTimeout: r.RequestTimeout,
		Phase: func(p odmr.Phase) {
			switch p {
			case odmr.PhaseTLS:
				cl.step(api.PhaseTLS, "TLS with "+r.Host)
			case odmr.PhaseAuth:
				cl.step(api.PhaseAuth, r.Host+" to accept user "+r.User)
			}
		},
	}
	o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil {
			cl.senders.connected(conn, &cl.session.link)
		}
		return conn, err
	}
	o.Config = &tls.Config{ServerName: r.TLSName, MinVersion: tls.VersionTLS12}
	if o.Config.ServerName == "" {
		o.Config.ServerName = r.Host
	}
	if r.TLSCA != "" {
		pem, err := os.ReadFile(r.TLSCA)
		if err != nil {
			return o, fmt.Errorf("remote %s: tls-ca: %w", r.Name, err)
		}
		o.Config.RootCAs = x509.NewCertPool()
		if !o.Config.RootCAs.AppendCertsFromPEM(pem) {
			return o, fmt.Errorf("remote %s: tls-ca: no certificate in %s", r.Name, r.TLSCA)
		}
	}
	if r.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(r.TLSCert, r.TLSKey)
		if err != nil {
			return o, fmt.Errorf("remote %s: tls-cert: %w", r.Name, err)
		}
		o.Config.Certificates = []tls.Certificate{cert}
	}
	if r.User != "" {
		secret, err := os.ReadFile(r.PasswordFile)
		if err != nil {
			return o, fmt.Errorf("remote %s: password-file: %w", r.Name, err)
		}
		line, _, _ := strings.Cut(string(secret), "\n")
		o.Auth = &odmr.Auth{User: r.User, Password: strings.TrimSuffix(line, "\r")}
		if r.Protocol.Turns() {
			// The one mechanism that every provider has (RFC 2645, section 5.1.1).
			o.Auth.Mechanisms = []string{users.ScramSHA256, users.Plain, users.Login, users.CramMD5}
		}
	}
	return o, nil
}

// refused notes why there was no dialogue. The end of the call's own context
// is told elsewhere.
func (cl *call) refused(ctx context.Context, err error) {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, odmr.ErrTimeout) {
		return
	}
	r := &cl.remote
	exit, hint := api.ExitUnavailable, ""
	var e *odmr.Error
	if errors.As(err, &e) && e.Temporary() {
		exit = api.ExitTempFail
	}
	code := 0
	if e != nil && e.Op == "ATRN" {
		code = e.Code
	}
	switch {
	case errors.Is(err, odmr.ErrNoATRN):
		hint = fmt.Sprintf("write protocol = \"etrn\" or \"auto\" if %s is to connect to this host instead, or ask its postmaster which port takes ATRN (etrnctl probe shows what it offers)", r.Host)
	case code == 450:
		// "Try again" would be of no use: nothing changes until somebody
		// changes it.
		exit, hint = api.ExitUnavailable, fmt.Sprintf("%s sends nothing when a single domain of request is not user %q's there (take it out, or have the other side add it), nor while another connection of that user is open", r.Host, r.User)
	case code == 451:
		hint = r.Host + " cannot tell now what it has; the next call asks again"
	case code == 530:
		hint = "set user and password-file: ATRN is for users who have authenticated"
	case errors.Is(err, odmr.ErrNoETRN):
		hint = fmt.Sprintf("%s cannot be asked for mail on port %d: ask its postmaster which port takes ETRN (etrnctl probe shows what it offers)", r.Host, r.Port)
	case errors.Is(err, odmr.ErrConnect):
		exit, hint = api.ExitTempFail, "is the link up and the remote's name and port right? etrnctl probe "+r.Addr()
	case errors.Is(err, odmr.ErrTimeout):
		exit, hint = api.ExitTempFail, fmt.Sprintf("%s has gone quiet; request-timeout is %v", r.Host, r.RequestTimeout)
	case errors.Is(err, odmr.ErrClosed):
		exit, hint = api.ExitTempFail, r.Host+" may be overloaded or may not know this address: its log tells why"
	case errors.Is(err, odmr.ErrTLS):
		hint = "check tls-ca and tls-name; etrnctl probe shows the certificate"
	case errors.Is(err, odmr.ErrAuth):
		hint = "check user and password-file"
	case errors.Is(err, odmr.ErrRefused):
		hint = r.Host + " does not want to speak to this host now: its log tells why"
	}
	cl.set(func() { cl.fail(exit, "request to "+r.Name+": "+err.Error(), hint) })
}

// judge draws the conclusions from the replies.
func (cl *call) judge(ctx context.Context, replies []odmr.Reply, err error, again bool) request {
	got := request{counted: true}
	refusals, busy := 0, 0
	var why string
	for _, reply := range replies {
		cl.log.Info("reply to ETRN", "name", reply.Name, "code", reply.Code, "text", reply.Text)
		switch reply.Code {
		case 250, 252:
			got.made, got.counted = true, false
		case 251:
			got.made = true
		case 253:
			got.made = true
			if reply.Count < 0 {
				got.counted = false
			} else {
				got.announce += reply.Count
			}
		case 458:
			// The release is under way: mail may come, how much is not said.
			busy++
			why = fmt.Sprintf("%s: %d %s", reply.Name, reply.Code, reply.Text)
		default:
			refusals++
			why = fmt.Sprintf("%s: %d %s", reply.Name, reply.Code, reply.Text)
		}
	}
	if busy > 0 {
		// A name that is under way is most often another name of what has
		// just been released and counted. Only where nothing was counted
		// does it say that mail of an unknown number is coming.
		if got.announce == 0 {
			got.counted = false
		}
		got.made = true
	}
	cl.set(func() {
		if again {
			return
		}
		for _, r := range replies {
			cl.replies = append(cl.replies, api.Reply{Name: r.Name, Code: r.Code, Text: r.Text, Count: r.Count})
		}
		switch {
		case err != nil:
		case refusals > 0 && refusals == len(replies):
			cl.fail(api.ExitUnavailable, fmt.Sprintf("%s refused every name: %s", cl.remote.Name, why), "the other side has to list this host (its network, its user or its certificate) for the queue")
		case refusals > 0:
			cl.fail(api.ExitUnavailable, fmt.Sprintf("%s refused %d of %d names: %s", cl.remote.Name, refusals, len(replies), why), "take the name out of request, or have the other side allow it")
		}
	})
	if err != nil {
		cl.refused(ctx, err)
	}
	return got
}

// outCounts sums up what has left the push queues.
func (cl *call) outCounts() (left hold.Left) {
	for _, name := range cl.remote.PushQueues {
		if s, ok := cl.caller.hold.State(name); ok {
			left.Messages += s.Left.Messages
			left.Bytes += s.Left.Bytes
		}
	}
	return left
}

// measure brings the counts up to date. The caller holds mu.
func (cl *call) measure() {
	switch {
	case cl.turned != nil:
		cl.in = cl.turned.counts(cl.tally)
	case cl.tally != nil:
		cl.in = cl.tally.Counts()
	}
	now := cl.outCounts()
	cl.out.Messages, cl.out.Bytes = now.Messages-cl.leftBefore.Messages, now.Bytes-cl.leftBefore.Bytes
}

// config is the configuration in force.
func (c *Caller) config() *config.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg
}
