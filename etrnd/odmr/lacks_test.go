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
	"net"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/users"
)

// handshaker is a server that speaks SMTP and, behind STARTTLS, whatever TLS it is
// told to. Where that fails it hangs up.
func handshaker(t *testing.T, shake func(net.Conn) (net.Conn, error)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.SetDeadline(hang.Deadline())
				in := bufio.NewReader(conn)
				io.WriteString(conn, "220 mail.example ESMTP\r\n")
				secure := false
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					verb, _, _ := strings.Cut(strings.TrimSpace(line), " ")
					switch strings.ToUpper(verb) {
					case "EHLO":
						starttls := "250-STARTTLS\r\n"
						if secure {
							starttls = ""
						}
						fmt.Fprintf(conn, "250-mail.example\r\n%s250-AUTH PLAIN SCRAM-SHA-256\r\n250 ETRN\r\n", starttls)
					case "STARTTLS":
						io.WriteString(conn, "220 go\r\n")
						if conn, err = shake(conn); err != nil {
							return
						}
						in.Reset(conn)
						secure = true
					case "ETRN":
						io.WriteString(conn, "250 OK\r\n")
					case "QUIT":
						io.WriteString(conn, "221 bye\r\n")
						return
					default:
						io.WriteString(conn, "500 what?\r\n")
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// Whose TLS is of no use is asked for mail all the same under auto, and never under
// require. What went wrong is named.
func TestTLSThatFails(t *testing.T) {
	server := func(change func(*tls.Config)) func(net.Conn) (net.Conn, error) {
		hub := pki().hub
		c := &tls.Config{Certificates: []tls.Certificate{hub}, MinVersion: tls.VersionTLS10}
		change(c)
		return func(conn net.Conn) (net.Conn, error) {
			s := tls.Server(conn, c)
			return s, s.Handshake()
		}
	}
	for name, c := range map[string]struct {
		shake    func(net.Conn) (net.Conn, error)
		version  uint16 // under auto; 0: in the clear
		problem  string // under require, as it is explained
		verified bool
	}{
		"good":    {server(func(*tls.Config) {}), tls.VersionTLS13, "", true},
		"TLS 1.0": {server(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS10 }), tls.VersionTLS10, "no version of TLS that is safe", false},
		"TLS 1.1": {server(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }), tls.VersionTLS11, "no version of TLS that is safe", false},
		"old ciphers": {server(func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}
		}), tls.VersionTLS12, "no cipher, no key exchange", false},
		"garbage": {func(conn net.Conn) (net.Conn, error) {
			io.ReadFull(conn, make([]byte, 64))
			io.WriteString(conn, "500 I know nothing of that\r\n")
			return nil, io.EOF
		}, 0, "no TLS", false},
		"an alert": {func(conn net.Conn) (net.Conn, error) {
			io.ReadFull(conn, make([]byte, 64))
			conn.Write([]byte{0x15, 3, 3, 0, 2, 2, 80}) // internal_error
			return nil, io.EOF
		}, 0, "broke TLS off", false},
		"hangs up": {func(conn net.Conn) (net.Conn, error) { return nil, io.EOF }, 0, "closed the connection", false},
	} {
		t.Run(name, func(t *testing.T) {
			addr := handshaker(t, c.shake)
			var l log
			o := ClientOptions{Hostname: "site.acme.example", Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname}, Logger: l.logger(), ReplyTimeout: patience}
			client, err := Dial(t.Context(), addr, o)
			if err != nil {
				t.Fatalf("auto: %v", err)
			}
			state, trusted := client.TLS()
			if got := version(state); got != c.version || trusted != c.verified {
				t.Errorf("auto: %s, trusted %v", tls.VersionName(got), trusted)
			}
			if why := client.InTheClear(); (why != nil) != (c.version == 0) {
				t.Errorf("auto: in the clear because of %v", why)
			} else if why != nil && !strings.Contains(l.String(), "not encrypted") {
				t.Error("the log does not say that nothing is encrypted")
			}
			if replies, err := client.Request(t.Context(), []string{"acme.example"}); err != nil || replies[0].Code != 250 {
				t.Errorf("auto: %v, %v", replies, err)
			}
			client.Quit()
			// A password is not shown for that.
			o.Auth = &Auth{User: "acme", Password: "secret", Mechanisms: []string{users.Plain, users.Login}}
			if client, err := Dial(t.Context(), addr, o); !c.verified && (!errors.Is(err, ErrAuth) || c.version == 0 && !strings.Contains(err.Error(), "TLS does not come about: TLS handshake")) {
				t.Errorf("auto with PLAIN: %v, %v", client, err)
			} else if client != nil {
				client.Close()
			}
			o.Auth, o.TLS = nil, TLSRequire
			client, err = Dial(t.Context(), addr, o)
			if (err == nil) != (c.problem == "") {
				t.Fatalf("require: %v", err)
			}
			if err == nil {
				client.Close()
			} else if what, hint := TLSProblem(err); !strings.Contains(what, c.problem) || hint == "" {
				t.Errorf("require: %v is explained as %q, %q; want %q", err, what, hint, c.problem)
			}
		})
	}
}

func version(state *tls.ConnectionState) uint16 {
	if state == nil {
		return 0
	}
	return state.Version
}

// Certificates that cannot be trusted, and what is said of each.
func TestTLSProblem(t *testing.T) {
	ca := pki().ca
	expired := identity(t, hostname, nil, time.Now().Add(-time.Hour))
	other := identity(t, "other.example.net", &ca, time.Now().Add(time.Hour))
	self := identity(t, hostname, nil, time.Now().Add(time.Hour))
	for name, c := range map[string]struct {
		cert tls.Certificate
		now  time.Duration // of the client's clock
		want string
	}{
		"expired":       {expired, 0, "has expired"},
		"another name":  {other, 0, "for another name"},
		"signed itself": {self, 0, "nobody known here"},
		"not yet valid": {pki().hub, -100 * time.Hour, "not valid yet"},
	} {
		addr := handshaker(t, func(conn net.Conn) (net.Conn, error) {
			s := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{c.cert}})
			return s, s.Handshake()
		})
		_, err := Dial(t.Context(), addr, ClientOptions{TLS: TLSRequire, Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname, Time: func() time.Time { return time.Now().Add(c.now) }}})
		if what, hint := TLSProblem(err); !strings.Contains(what, c.want) || hint == "" {
			t.Errorf("%s: %v is explained as %q, %q", name, err, what, hint)
		}
	}
	// crypto/x509 makes no such certificate.
	if what, hint := TLSProblem(fmt.Errorf("verify: %w", x509.InsecureAlgorithmError(x509.MD5WithRSA))); !strings.Contains(what, "signed with MD5-RSA") || !strings.Contains(hint, "needs a new certificate") {
		t.Errorf("MD5: %q, %q", what, hint)
	}
	if what, hint := TLSProblem(errors.New("x")); what != "" || hint != "" {
		t.Errorf("no error of TLS: %q, %q", what, hint)
	}
}

// Passwords do not get into the log, however a client that does not wait, or does
// not understand, sends them.
func TestLogHidesWhatIsSentAhead(t *testing.T) {
	secret, user := base64.StdEncoding.EncodeToString([]byte("hunter2")), base64.StdEncoding.EncodeToString([]byte("acme"))
	for _, said := range []string{
		"EHLO x\r\nAUTH LOGIN\r\n" + user + "\r\n" + secret + "\r\n",
		"EHLO x\r\nAUTH LOGIN\r\nNOOP\r\n" + user + "\r\nRSET\r\n" + secret + "\r\n" + secret + "\r\n",
		"EHLO x\r\nAUTH PLAIN\r\n" + secret + "\r\n",
		"EHLO x\r\nAUTH PLAIN\r\n" + strings.Repeat(secret, 200) + "\r\n" + secret + "\n",
		"EHLO x\r\n AUTH PLAIN " + secret + "\r\nauth\tplain " + secret + "\r\n",
		"AUTHENTICATE LOGIN " + secret + "\r\nUSER acme\r\nPASS " + secret + "\r\na1 LOGIN acme " + secret + "\r\n",
		"EHLO x\r\nAUTH NTLM\r\n" + secret + "\r\n*\r\n" + secret + "\r\n",
		"EHLO x\r\nAUTH SCRAM-SHA-256\r\n*\r\n" + secret + "\r\n" + secret + "\r\n",
	} {
		for _, o := range []ServerOptions{{}, {Users: userStore(t)}, {Users: userStore(t), Certificate: certificate(t)}} {
			server := serve(t, o)
			conn := connect(t, server.addr)
			io.WriteString(conn, said+"QUIT\r\n")
			io.Copy(io.Discard, conn)
			server.stop()
			if log := server.log.String(); strings.Contains(log, secret) || strings.Contains(log, "hunter2") {
				t.Errorf("after %q the log has the password:\n%s", said, log)
			}
		}
	}
}

// Who asks for all that he can think of is sent away, and fills no log by it.
func TestTooManyRefused(t *testing.T) {
	for _, c := range []struct{ command, code string }{{"ETRN other.example", "459"}, {"ETRN @com", "459"}, {"ATRN other.example", "450"}} {
		server := serve(t, ServerOptions{Users: userStore(t), Turner: denying{}})
		client, err := Dial(t.Context(), server.addr, ClientOptions{Auth: &Auth{User: "acme", Password: "secret"}})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for ; n <= maxDenied; n++ {
			rep, err := client.command(t.Context(), "x", c.command)
			if err != nil || rep.Code == 421 {
				break
			}
			if fmt.Sprint(rep.Code) != c.code {
				t.Fatalf("%s: %v", c.command, rep)
			}
		}
		client.Close()
		server.stop()
		if n != maxDenied {
			t.Errorf("%s: %d refusals before the end", c.command, n)
		}
	}
	// What is not refused, and what is for now, is no reason to send a site away.
	server := serve(t, ServerOptions{})
	client, err := Dial(t.Context(), server.addr, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for range 300 {
		names = append(names, "busy.example", "acme.example", "none.example")
	}
	if replies, err := client.Request(t.Context(), names); err != nil || len(replies) != len(names) {
		t.Errorf("%d replies of %d: %v", len(replies), len(names), err)
	}
	client.Quit()
	server.stop()
	text := server.log.String()
	lines := 0
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "level=DEBUG") {
			lines++
		}
	}
	if lines > maxLogged+1 || !strings.Contains(text, "more of this session is not logged") || !strings.Contains(text, "session closed") {
		t.Errorf("%d lines in the log", lines)
	}
}

type denying struct{}

func (denying) Turn(context.Context, etrn.Identity, []string) (etrn.Answer, func(context.Context, net.Conn) error) {
	return etrn.Answer{Code: 450, Text: "not permitted"}, nil
}

// A login ends with what it rests on: before the turn with the next command, after
// it at once.
func TestRevoked(t *testing.T) {
	for what, edit := range map[string]func(*users.File) error{
		"removal": func(f *users.File) error { return f.Delete("acme") },
		"another password": func(f *users.File) error {
			s, err := users.NewSecret("other", users.SecretOptions{Iterations: 4096})
			return errors.Join(err, f.Set("acme", s))
		},
	} {
		store, path := userFile(t)
		ended := make(chan error, 1)
		server := serve(t, ServerOptions{Users: store, Turner: waiting{ended}})
		o := ClientOptions{Auth: &Auth{User: "acme", Password: "secret"}}
		idle, err := Dial(t.Context(), server.addr, o)
		if err != nil {
			t.Fatal(err)
		}
		turned, err := Dial(t.Context(), server.addr, o)
		if err != nil {
			t.Fatal(err)
		}
		conn, _, err := turned.Turn(t.Context(), []string{"acme.example"})
		if err != nil {
			t.Fatal(err)
		}
		// Reading the same again changes nothing.
		if err := store.Reload(); err != nil {
			t.Fatal(err)
		}
		if rep, err := idle.command(t.Context(), "NOOP", "NOOP"); err != nil || rep.Code != 250 {
			t.Errorf("%s: after a reload without a change: %v, %v", what, rep, err)
		}
		if err := errors.Join(users.Edit(path, edit), store.Reload()); err != nil {
			t.Fatal(err)
		}
		if rep, err := idle.command(t.Context(), "ETRN", "ETRN whoami.example"); err != nil || rep.Code != 421 {
			t.Errorf("%s: the session that is not turned: %v, %v", what, rep, err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, errRevoked) {
				t.Errorf("%s: turned: %v", what, err)
			}
		case <-hang.After():
			t.Fatalf("%s: the turned connection goes on", what)
		}
		conn.Close()
		idle.Close()
		server.stop()
	}
}

// waiting turns, and waits for the end.
type waiting struct{ ended chan error }

func (w waiting) Turn(context.Context, etrn.Identity, []string) (etrn.Answer, func(context.Context, net.Conn) error) {
	return etrn.Answer{Code: 250}, func(ctx context.Context, _ net.Conn) error {
		<-ctx.Done()
		w.ended <- context.Cause(ctx)
		return nil
	}
}
