package policy

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
)

type asker struct {
	answer etrn.Answer
	who    etrn.Identity
	name   string
	panics bool
}

func (a *asker) AskStripped(who etrn.Identity, name string) etrn.Answer {
	if a.panics {
		panic("on purpose")
	}
	a.who, a.name = who, name
	return a.answer
}

const request = "request=smtpd_access_policy\nprotocol_state=ETRN\nprotocol_name=ESMTP\nclient_address=192.0.2.7\netrn_domain=acme.example\nsasl_username=acme\nencryption_protocol=TLSv1.3\nccert_fingerprint=AA:BB\nccert_pubkey_fingerprint=" +
	"00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\n\n"

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		asker asker
		in    string
		want  string
	}{
		"accepted":      {asker{answer: etrn.Answer{Code: 253, Count: 3}}, request, "action=OK\n\n"},
		"nothing there": {asker{answer: etrn.Answer{Code: 251}}, request, "action=OK\n\n"},
		"refused":       {asker{answer: etrn.Answer{Code: 459, Text: "no queue of yours"}}, request, "action=459 Node acme.example not allowed: no queue of yours\n\n"},
		"put off":       {asker{answer: etrn.Answer{Code: 458, Text: "already under way"}}, request, "action=458 Unable to queue messages for node acme.example: already under way\n\n"},
		// What nobody has judged must not pass.
		"panic": {asker{panics: true}, request, "action=451 Local error, try again later\n\n"},
		// This is no general policy service.
		"other state": {asker{}, strings.Replace(request, "ETRN", "DATA", 1), "action=DUNNO\n\n"},
		// Who may send mail to anywhere; it is the Postfix port's to refuse.
		"relay":          {asker{}, strings.Replace(request, "ETRN", "RCPT", 1), "action=OK\n\n"},
		"relay, another": {asker{}, strings.Replace(strings.Replace(request, "ETRN", "RCPT", 1), "=acme\n", "=beta\n", 1), "action=DUNNO\n\n"},
		"relay, nobody":  {asker{}, strings.Replace(strings.Replace(request, "ETRN", "RCPT", 1), "=acme\n", "=\n", 1), "action=DUNNO\n\n"},
		"other request":  {asker{}, "request=junk\n\n", "action=DUNNO\n\n"},
		// One connection serves many requests.
		"two": {asker{answer: etrn.Answer{Code: 250}}, request + request, "action=OK\n\naction=OK\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			client, done := serve(t, &c.asker)
			go func() {
				io.WriteString(client, c.in)
				client.(*net.UnixConn).CloseWrite()
			}()
			got, err := io.ReadAll(client)
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if who := c.asker.who; c.asker.name != "" && (who.User != "acme" || who.Addr.String() != "192.0.2.7" || len(who.Certificates) != 1 || who.Certificates[0][:4] != "0011") {
				t.Errorf("identity %+v", who)
			}
		})
	}
}

func TestGarbage(t *testing.T) {
	for name, in := range map[string]string{
		"no equals":    "hello\n",
		"endless line": strings.Repeat("x", maxLine+1),
		"endless":      strings.Repeat("a=b\n", maxRequest/4+1),
		"half":         "request=smtpd_access_policy\nproto",
	} {
		t.Run(name, func(t *testing.T) {
			client, done := serve(t, &asker{})
			go func() {
				io.WriteString(client, in)
				client.(*net.UnixConn).CloseWrite()
			}()
			got, _ := io.ReadAll(client)
			if len(got) != 0 {
				t.Errorf("answered %q", got)
			}
			if err := <-done; err == nil {
				t.Error("no error")
			}
		})
	}
}

func serve(t *testing.T, a *asker) (net.Conn, chan error) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/p.sock")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	s := &Server{Asker: a, Relay: func(who etrn.Identity) bool { return who.User == "acme" }, Logger: slog.New(slog.DiscardHandler)}
	go func() {
		defer l.Close()
		conn, err := l.Accept()
		if err == nil {
			err = s.serve(conn)
			conn.Close()
		}
		done <- err
	}()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(hang.Deadline())
	t.Cleanup(func() { client.Close() })
	return client, done
}

// A login counts by what is known of it: for mail to anywhere etrnd must have proved
// it, for ETRN Postfix may have.
func TestLogins(t *testing.T) {
	for name, c := range map[string]struct {
		stands, known bool
		etrn, rcpt    string
	}{
		"stands":      {true, true, "acme", "OK"},
		"is over":     {false, true, "", "DUNNO"},
		"not etrnd's": {false, false, "acme", "DUNNO"},
	} {
		a := &asker{answer: etrn.Answer{Code: 251}}
		var asked []any
		s := &Server{Asker: a, Relay: func(who etrn.Identity) bool { return who.User == "acme" }, Logger: slog.New(slog.DiscardHandler),
			Login: func(user string, client netip.Addr, pid int) (bool, bool) {
				asked = append(asked, user, client.String(), pid)
				return c.stands, c.known
			}}
		attrs := func(state string) map[string]string {
			m, err := readRequest(bufio.NewReaderSize(strings.NewReader(strings.Replace(request, "=ETRN", "="+state, 1)), maxLine))
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		if got := s.answer(attrs("RCPT"), 17); got != c.rcpt {
			t.Errorf("%s: to RCPT %s", name, got)
		}
		if s.answer(attrs("ETRN"), 17); a.who.User != c.etrn {
			t.Errorf("%s: ETRN of %q", name, a.who.User)
		}
		if !slices.Equal(asked, []any{"acme", "192.0.2.7", 17, "acme", "192.0.2.7", 17}) {
			t.Errorf("%s: asked for %v", name, asked)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add(request)
	f.Add("a=b\r\n\r\n")
	f.Add("\n")
	f.Add("=\n\n")
	f.Fuzz(func(t *testing.T, in string) {
		attrs, err := readRequest(bufio.NewReaderSize(strings.NewReader(in), maxLine))
		if err == nil {
			(&Server{Asker: &asker{}, Logger: slog.New(slog.DiscardHandler)}).answer(attrs, 0)
		}
	})
}
