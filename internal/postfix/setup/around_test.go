//go:build !quick

package setup

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// rcpt is what port 25 answers to a recipient.
func rcpt(t *testing.T, from, to string) int {
	t.Helper()
	c, err := smtp.Dial("127.0.0.1:25")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Hello("client.example"), c.Mail(from)); err != nil {
		t.Fatal(err)
	}
	err = c.Rcpt(to)
	var te *textproto.Error
	if errors.As(err, &te) {
		return te.Code
	}
	if err != nil {
		t.Fatal(err)
	}
	return 250
}

// turned is LMTP at the socket of a queue whose site is connected.
type turned struct{ got chan string }

func (s *turned) NewSession(*gosmtp.Conn) (gosmtp.Session, error) { return turnedSession{s}, nil }

type turnedSession struct{ s *turned }

func (turnedSession) Mail(string, *gosmtp.MailOptions) error        { return nil }
func (s turnedSession) Rcpt(to string, _ *gosmtp.RcptOptions) error { s.s.got <- to; return nil }
func (turnedSession) Data(r io.Reader) error                        { _, err := io.Copy(io.Discard, r); return err }
func (turnedSession) Reset()                                        {}
func (turnedSession) Logout() error                                 { return nil }

// greets is a server that says the same to whatever it is told.
func greets(t *testing.T, addr, says string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, "220 host.example\r\n")
				for lines := bufio.NewScanner(c); lines.Scan(); {
					_, _ = io.WriteString(c, says+"\r\n")
				}
			}()
		}
	}()
}

// What the postmaster has set for other mail neither keeps held mail from being
// taken and let go, nor takes it elsewhere, nor makes a failure of what happens
// on the way. Each setting here broke one of these.
func TestAround(t *testing.T) {
	main := map[string]string{
		"smtpd_recipient_restrictions": "reject_unverified_sender, reject_unverified_recipient",
		"address_verify_map":           "",
		"address_verify_poll_count":    "30",
		"address_verify_poll_delay":    "1s",

		"smtp_fallback_relay":              "[127.0.0.1]:2599",
		"lmtp_fallback_relay":              "[127.0.0.1]:2599",
		"best_mx_transport":                "smtp:[127.0.0.1]:2599",
		"default_delivery_status_filter":   "regexp:/etc/postfix/final",
		"lmtp_tls_security_level":          "encrypt",
		"lmtp_sasl_auth_enable":            "yes",
		"lmtp_sasl_password_maps":          "static:user:password",
		"lmtp_sasl_security_options":       "",
		"lmtp_generic_maps":                "static:store@hub.example.net",
		"lmtp_discard_lhlo_keywords":       "8bitmime, size, enhancedstatuscodes",
		"default_destination_rate_delay":   "1000s",
		"enable_long_queue_ids":            "yes",
		"virtual_alias_maps":               "texthash:/etc/postfix/virtual",
		"content_filter":                   "scan:[127.0.0.1]:10025",
		"minimal_backoff_time":             "1000s",
		"smtp_destination_recipient_limit": "1",
	}
	files := map[string]string{
		"/etc/postfix/final":   "/^4(\\..*)/ 5$1\n",
		"/etc/postfix/virtual": "in@hub.example.net alias@acme.example\nout@acme.example root@hub.example.net\n",
	}
	// A content filter that lets everything pass, as amavis is set up.
	master := []string{
		"scan unix - - n - - smtp\n  -o smtp_destination_rate_delay=0s",
		"127.0.0.1:10025 inet n - n - - smtpd\n  -o content_filter=\n  -o smtpd_recipient_restrictions=permit_mynetworks,reject\n" +
			"  -o receive_override_options=no_header_body_checks,no_unknown_recipient_checks,no_address_mappings,no_milters",
	}
	main["scan_destination_rate_delay"] = "0s"
	main["local_destination_rate_delay"] = "0s"
	postfixtest.Inside(t, testbed.PostfixOptions{Main: main, Master: master, Files: files}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		const socket = "/var/spool/postfix/etrnd/turn-x.sock"
		if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
			t.Fatal(err)
		}
		pf := postfix.New(postfix.Options{})
		req := Requirements{Milter: twoQueues.Milter, Routes: append(slices.Clone(twoQueues.Routes),
			Route{Pattern: "gone.example", Deliver: "smtp:[gone.example.invalid]", Relay: true},
			Route{Pattern: "mx.example", Deliver: "smtp:gone.example.invalid", Relay: true},
			Route{Pattern: "store.example", Deliver: "lmtp:gone.example.invalid", Relay: true},
			Route{Pattern: "loop.example", Deliver: "smtp:[hub.example.net]", Relay: true},
			Route{Pattern: "away.example", Deliver: "smtp:[127.0.0.1]:2503", Relay: true},
			Route{Pattern: "rude.example", Deliver: "smtp:[127.0.0.1]:2504", Relay: true},
			Route{Pattern: "turn.example", Deliver: "turn:" + socket, Relay: true},
		)}
		pl := apply(t, ctx, pf, req)
		if len(pl.Warnings) > 0 {
			t.Errorf("what does no harm is warned of: %q", pl.Warnings)
		}
		elsewhere := postfixtest.Listen(t, "127.0.0.1:2599")
		greets(t, "127.0.0.1:2504", "554 5.7.1 not from you")

		// Is there such an address? Of a held one: yes.
		for to, want := range map[string]int{"a@acme.example": 250, "x@turn.example": 250, "no-such-user@hub.example.net": 450} {
			if got := rcpt(t, "a@beta.example", to); got != want {
				t.Errorf("RCPT %s: %d, want %d", to, got, want)
			}
		}

		sent := []string{"a@acme.example", "in@hub.example.net", "x@turn.example", "a@gone.example", "a@mx.example", "a@store.example", "a@loop.example", "a@away.example", "a@rude.example"}
		for _, to := range sent {
			send(t, "a@beta.example", to)
		}
		all := func(q postfixtest.Queue) bool {
			for _, m := range q {
				if !postfixtest.Held(m, 1) {
					return false
				}
			}
			return len(q) == len(sent)
		}
		postfixtest.Settled(t, ctx, pf, "all of it is held, behind the filter", all)

		// What is sent on from a held address is not held.
		send(t, "a@beta.example", "out@acme.example")
		postfixtest.Settled(t, ctx, pf, "the alias out of the queue is followed", all)

		// Nobody is there yet: all of it stays, and is nowhere else.
		ids := func(q postfixtest.Queue) (ids []string) {
			for id := range q {
				ids = append(ids, id)
			}
			return ids
		}
		q := postfixtest.Settled(t, ctx, pf, "held", all)
		tried := func(q postfixtest.Queue) bool {
			for _, m := range q {
				if !postfixtest.Failed(m, 1) {
					return false
				}
			}
			return true
		}
		q = postfixtest.Released(t, ctx, pf, nil, ids(q), "all of it is tried", tried)
		if len(q) != len(sent) {
			t.Errorf("%d of %d messages are left: %+v\n%s", len(q), len(sent), q, postfixtest.Read(t, "/var/log/mail.log"))
		}

		// The sites come.
		acme := postfixtest.Listen(t, "127.0.0.1:2501")
		l, err := net.Listen("unix", socket)
		if err == nil {
			err = os.Chmod(socket, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
		site := &turned{make(chan string, 10)}
		srv := gosmtp.NewServer(site)
		srv.LMTP, srv.Domain = true, "etrnd"
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }()
		defer func() { _ = srv.Close(); <-done }()
		postfixtest.Released(t, ctx, pf, []string{"acme.example", "turn.example"}, nil, "acme and the turned queue have theirs", func(q postfixtest.Queue) bool { return len(q) == len(sent)-3 })
		if got := acme.Recipients(); !slices.Equal(got, []string{"a@acme.example", "alias@acme.example"}) {
			t.Errorf("acme got %q", got)
		}
		select {
		case got := <-site.got:
			if got != "x@turn.example" {
				t.Errorf("the turned queue got %q", got)
			}
		default:
			t.Error("the turned queue got nothing")
		}
		if got := elsewhere.Recipients(); len(got) > 0 {
			t.Errorf("mail went elsewhere: %q", got)
		}
		run(t, ctx, "postsuper", "-d", "ALL") // what is held would keep a part of the set-up
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}

// send is postfixtest.Send with a sender of choice.
func send(t *testing.T, from, to string) {
	t.Helper()
	if err := smtp.SendMail("127.0.0.1:25", nil, from, []string{to}, []byte("Subject: test\r\n\r\ntext\r\n")); err != nil {
		t.Fatalf("%s: %v", to, err)
	}
}

// A site's own verdict on a recipient is one, and so is what its operator's
// filter makes of it.
func TestAroundVerdict(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Main: map[string]string{
		"default_delivery_status_filter": "regexp:/etc/postfix/patient",
	}, Files: map[string]string{"/etc/postfix/patient": "/^5(.* 5\\.7\\.9 .*)/ 4$1\n"}}, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		apply(t, ctx, pf, twoQueues)
		postfixtest.Send(t, "a@acme.example")
		later := postfixtest.Send(t, "b@beta.example")
		refuse(t, "127.0.0.1:2501", &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 1, 1}, Message: "no such user"})
		refuse(t, "127.0.0.1:2502", &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 7, 9}, Message: "not today"})
		postfixtest.Released(t, ctx, pf, []string{"acme.example", "beta.example"}, nil, "one refused, one put off", func(q postfixtest.Queue) bool {
			return postfixtest.Failed(q[later], 1) && !slices.ContainsFunc(slices.Collect(valuesOf(q)), func(to string) bool { return strings.HasSuffix(to, "@acme.example") })
		})
	})
}

func valuesOf(q postfixtest.Queue) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, m := range q {
			for _, r := range m.Recipients {
				if !yield(r.Address) {
					return
				}
			}
		}
	}
}

// refuse is a server that refuses every recipient.
func refuse(t *testing.T, addr string, with error) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return refusing{with}, nil }))
	srv.Domain = "site.example"
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
}

type refusing struct{ with error }

func (refusing) Mail(string, *gosmtp.MailOptions) error   { return nil }
func (r refusing) Rcpt(string, *gosmtp.RcptOptions) error { return r.with }
func (refusing) Data(io.Reader) error                     { return nil }
func (refusing) Reset()                                   {}
func (refusing) Logout() error                            { return nil }
