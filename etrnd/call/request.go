package call

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/users"
)

const (
	// mtaPause is the pause before the local MTA is tried again.
	mtaPause = 250 * time.Millisecond
	// mtaGreeting is how long one greeting is waited for.
	mtaGreeting = 5 * time.Second
	// dialPause is the pause before the remote is tried again; it doubles.
	dialPause = time.Second
	// lookupTime bounds the search for the remote's other addresses.
	lookupTime = 30 * time.Second
)

// pull waits for the local MTA and asks the remote for its mail.
func (cl *call) pull(ctx context.Context) {
	if !cl.remote.RouterType.Pulls() {
		return
	}
	if err := cl.waitForMTA(ctx); err != nil {
		cl.questions = append(cl.questions, question{err: listenerError{err}, cut: ctx.Err() != nil})
		return
	}
	cl.ask(ctx)
}

// waitForMTA waits until the local SMTP listener answers, so that the mail
// does not arrive before the door is open.
func (cl *call) waitForMTA(ctx context.Context) error {
	addr := cl.caller.config().MTA.SMTP
	ctx, cancel := context.WithTimeout(ctx, cl.remote.RequestTimeout)
	defer cancel()
	cl.step(api.PhaseMTA, "the local SMTP listener "+addr+" to answer")
	for {
		err := cl.greets(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the local SMTP listener %s does not answer: %w", addr, err)
		case <-time.After(mtaPause):
		}
	}
}

// greets reports whether an SMTP server says 220 at addr.
func (cl *call) greets(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, mtaGreeting)
	defer cancel()
	conn, err := cl.caller.network.DialContext(ctx, "tcp", addr)
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

// ask has the dialogue with the remote.
func (cl *call) ask(ctx context.Context) {
	q := cl.dialogue(ctx)
	q.cut = ctx.Err() != nil
	cl.questions = append(cl.questions, q)
}

func (cl *call) dialogue(ctx context.Context) question {
	r := &cl.remote
	options, err := cl.options()
	if err != nil {
		return question{err: settingsError{err}}
	}
	limit := func() (context.Context, context.CancelFunc) {
		return context.WithTimeoutCause(ctx, r.ConnectTimeout+r.RequestTimeout, odmr.ErrTimeout)
	}
	bound, cancel := limit()
	defer cancel()
	client, err := cl.connect(bound, options)
	if err != nil {
		return question{err: err}
	}
	defer client.Quit()
	cl.serving.Go(func() { cl.senders.resolve(ctx, cl.caller.network, r.Host) })
	cl.step(api.PhaseRequest, "the answer of "+r.Host+cl.clear(client))
	if r.Protocol.Turns() {
		// The answer to ATRN has a time of its own.
		if q, ok := cl.turn(ctx, client); ok {
			return q
		}
		bound, cancel = limit()
		defer cancel()
	}
	q := question{before: cl.tally.Counts().Messages}
	q.replies, q.err = client.Request(bound, r.Request)
	for _, reply := range q.replies {
		cl.log.Info("reply to ETRN", "name", reply.Name, "code", reply.Code, "text", reply.Text)
	}
	return q
}

// told is the replies that belong into the account of the call: those to a
// question that was only put again do not.
func (q *question) told(first bool) (list []api.Reply) {
	if !first && !q.atrn {
		return nil
	}
	for _, r := range q.replies {
		list = append(list, api.Reply{Name: r.Name, Code: r.Code, Text: r.Text, Count: r.Count})
	}
	return list
}

// connect connects to the remote. A connection that is refused is tried again
// for a moment: a route or a name server may need that after the link has come
// up.
func (cl *call) connect(ctx context.Context, o odmr.ClientOptions) (*odmr.Client, error) {
	addr, until := cl.remote.Addr(), time.Now().Add(cl.remote.ConnectTimeout)
	cl.step(api.PhaseConnecting, addr+" to answer")
	for delay := dialPause; ; delay *= 2 {
		client, err := odmr.Dial(ctx, addr, o)
		if err == nil || !errors.Is(err, odmr.ErrConnect) || time.Now().Add(delay).After(until) {
			return client, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(delay):
		}
	}
}

// options are how the remote wants to be spoken to.
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
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := cl.caller.network.DialContext(ctx, network, addr)
			if err == nil {
				cl.senders.connected(conn, cl.caller.modem.Interfaces(&cl.line.cfg))
			}
			return conn, err
		},
	}
	var err error
	if o.Config, err = cl.tlsConfig(); err != nil || r.User == "" {
		return o, err
	}
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
	return o, nil
}

// tlsConfig has the roots, the certificate and the name of the remote.
func (cl *call) tlsConfig() (*tls.Config, error) {
	r := &cl.remote
	c := &tls.Config{ServerName: r.TLSName, MinVersion: tls.VersionTLS12}
	if c.ServerName == "" {
		c.ServerName = r.Host
	}
	if r.TLSCA != "" {
		pem, err := os.ReadFile(r.TLSCA)
		if err != nil {
			return nil, fmt.Errorf("remote %s: tls-ca: %w", r.Name, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("remote %s: tls-ca: no certificate in %s", r.Name, r.TLSCA)
		}
	}
	if r.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(r.TLSCert, r.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("remote %s: tls-cert: %w", r.Name, err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}
