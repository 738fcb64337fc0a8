//go:build !quick

package scenario

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// siteATRN is a site that asks by ATRN; more goes into the [[remote]].
func siteATRN(more ...string) string {
	return `hostname = "mail.acme.example"

[[link]]
name = "isp"
interfaces = ["ppp0"]
dial = ["pon", "isp"]
hang-up = ["poff", "isp"]

[[remote]]
name = "hub"
link = "isp"
host = "hub.example.net"
router-type = "pull-push"
request = ["acme.example"]
request-timeout = "2m"
wait = "2m"
push = ["*"]
` + strings.Join(more, "\n") + "\n"
}

const withUser = "user = \"acme\"\npassword-file = \"/etc/etrnd/password\""

// worldTurn is the hub that turns connections around, and a site that asks for
// that with its real programs.
func worldTurn(t *testing.T, o Options) (context.Context, *World) {
	t.Helper()
	text, err := usersFile()
	must(t, err)
	if o.HubConfig == "" {
		o.HubConfig = hubATRN
	}
	o.HubFiles = map[string]string{"/etc/etrnd/users": text}
	if o.SiteConfig == "" {
		o.SiteConfig = siteATRN(`protocol = "atrn"`, withUser)
	}
	o.SiteFiles = map[string]string{"/etc/etrnd/password": password + "\n"}
	return world(t, o)
}

// The line comes up, the mail crosses in both directions over connections that
// the site has opened, and the line is hung up: not because of a time, and in
// less time than the messages took. Nobody can reach the site.
func TestCallATRN(t *testing.T) {
	t.Parallel()
	ctx, w := worldTurn(t, Options{SiteConfig: patiently(siteATRN(`protocol = "atrn"`, withUser)), Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 1e6}})
	const n = 100
	in := send(ctx, t, w.Online, hubName+":25", Messages(n, 2000, "a@acme.example"))
	out := send(ctx, t, w.Office, "203.0.113.1:25", Messages(5, 1000, "c@online.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", n))
	must(t, w.Site.WaitQueue(ctx, "hub", 5))
	text, err := w.Site.Ctl(ctx, "call", "hub", "--wait")
	must(t, err)
	for _, want := range []string{"100 messages", "5 messages"} {
		if !strings.Contains(text, want) {
			t.Errorf("etrnctl call hub --wait does not say %q:\n%s", want, text)
		}
	}
	if duplicates := delivered(ctx, t, w.SiteHost, in); duplicates != 0 {
		t.Errorf("%d duplicates", duplicates)
	}
	delivered(ctx, t, w.Online, out)
	if w.Line.IsUp() {
		t.Error("the line is still up")
	}
	r := waitCalls(ctx, t, w, 1)[0]
	if r.Exit != 0 || r.In.Messages != n || r.In.Expected != n || r.In.Bytes < n*2000 || r.Duplicates != 0 || r.Out.Messages != 5 {
		t.Errorf("result of the call: %+v", r)
	}
	if len(r.Replies) != 1 || r.Replies[0].Code != 250 || r.Replies[0].Name != "acme.example" {
		t.Errorf("replies: %+v", r.Replies)
	}
	all, err := w.SiteHost.Delivered()
	must(t, err)
	last := all[len(all)-1]
	coming, after := last.Time.Sub(r.Start), r.End.Sub(last.Time)
	t.Logf("the messages came in %v, and the call ended %v after the last of them", coming, after)
	if after > coming {
		t.Errorf("the messages came in %v, and the call ended %v after the last of them", coming, after)
	}
	if from := strings.Join(last.Header["Received"], "\n"); !strings.Contains(from, "127.0.3.66") {
		t.Errorf("the mail did not come through etrnd:\n%s", from)
	}
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))

	// Nothing waits: 453, and no waiting for it, which would be for half an hour.
	text, err = w.Site.Ctl(ctx, "call", "hub", "--wait")
	must(t, err)
	r = waitCalls(ctx, t, w, 2)[0]
	if r.Exit != 0 || r.In.Messages != 0 || r.In.Expected != 0 || len(r.Replies) != 1 || r.Replies[0].Code != 453 {
		t.Errorf("result of the call with nothing to fetch: %+v\n%s", r, text)
	}
}

// provider listens on the hub and plays one provider for each connection.
func provider(t *testing.T, w *World, port int, talk func(net.Conn, *bufio.Reader)) {
	t.Helper()
	l, err := w.HubHost.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port))
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(hang.Deadline())
				talk(c, bufio.NewReader(c))
			}()
		}
	}()
}

// answers plays a provider that offers what ehlo says and answers commands by
// their verb. After a 250 to ATRN it goes on with turned.
func answers(ehlo, atrn, etrn string, turned func(net.Conn, *bufio.Reader)) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, in *bufio.Reader) {
		fmt.Fprint(c, "220 hub.example.net\r\n")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
			switch verb {
			case "EHLO":
				fmt.Fprintf(c, "250-hub.example.net\r\n%s250 HELP\r\n", ehlo)
			case "AUTH":
				fmt.Fprint(c, "334 PDEuMkBodWIuZXhhbXBsZS5uZXQ+\r\n")
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
				fmt.Fprint(c, "235 ok\r\n")
			case "ATRN":
				fmt.Fprintf(c, "%s\r\n", atrn)
				if strings.HasPrefix(atrn, "250") {
					turned(c, in)
					return
				}
			case "ETRN":
				fmt.Fprintf(c, "%s\r\n", etrn)
			case "QUIT":
				fmt.Fprint(c, "221 bye\r\n")
				return
			default:
				fmt.Fprint(c, "500 what?\r\n")
			}
		}
	}
}

// Every answer to ATRN has its exit code and a sentence that helps, and so has
// each way for the turned connection to end.
func TestATRNAnswers(t *testing.T) {
	t.Parallel()
	const (
		plain = "250-ATRN\r\n"
		login = "250-ATRN\r\n250-AUTH CRAM-MD5\r\n"
		etrn  = "250-ETRN\r\n250-AUTH CRAM-MD5\r\n"
		both  = "250-ETRN\r\n250-ATRN\r\n250-AUTH CRAM-MD5\r\n"
	)
	quit := func(c net.Conn, in *bufio.Reader) {
		in.ReadString('\n') // 220
		fmt.Fprint(c, "QUIT\r\n")
		in.ReadString('\n')
	}
	remotes := []struct {
		name, more string
		exit       int
		says       []string
		code       int // of the only reply
		talk       func(net.Conn, *bufio.Reader)
	}{
		{"empty", "", api.ExitOK, nil, 453, answers(plain, "453 You have no mail", "", nil)},
		{"quits", "", api.ExitOK, nil, 250, answers(plain, "250 OK now reversing the connection", "", quit)},
		{"forbids", "", api.ExitUnavailable, []string{"450", "request"}, 450, answers(plain, "450 ATRN request refused", "", nil)},
		{"not-now", "", api.ExitTempFail, []string{"451"}, 451, answers(plain, "451 Unable to process ATRN request now", "", nil)},
		{"without", "", api.ExitUnavailable, []string{"ATRN", "502", "auto"}, 502, answers("", "502 Command not implemented", "", nil)},
		{"auth-first", "", api.ExitUnavailable, []string{"530", "user and password-file"}, 530, answers(plain, "530 Authentication required", "", nil)},
		{"ahead", "", api.ExitUnavailable, []string{"ahead of our greeting"}, 250, answers(plain, "250 OK\r\nEHLO hub.example.net", "", func(c net.Conn, in *bufio.Reader) { in.ReadString('\n') })},
		// The provider says nothing after our greeting: wait bounds it.
		{"silent", "", api.ExitTempFail, []string{"gone quiet", "0 messages"}, 250, answers(plain, "250 OK", "", func(c net.Conn, in *bufio.Reader) { io.Copy(io.Discard, in) })},
		{"hangs-up", "", api.ExitTempFail, []string{"without QUIT"}, 250, answers(plain, "250 OK", "", func(c net.Conn, in *bufio.Reader) { in.ReadString('\n') })},
		{"babbles", "", api.ExitTempFail, []string{"does not behave"}, 250, answers(plain, "250 OK", "", func(c net.Conn, in *bufio.Reader) {
			in.ReadString('\n')
			fmt.Fprint(c, strings.Repeat("GET / HTTP/1.1\r\n", 200))
			io.Copy(io.Discard, in)
		})},
		// auto: ATRN where it is offered and there is a user.
		{"auto-turns", "protocol = \"auto\"\n" + withUser, api.ExitOK, nil, 453, answers(login, "453 no mail", "250 started", nil)},
		{"auto-etrn", "protocol = \"auto\"\n" + withUser, api.ExitOK, nil, 251, answers(etrn, "250 no", "251 OK, no messages waiting", nil)},
		{"auto-nobody", "protocol = \"auto\"", api.ExitOK, nil, 251, answers(both, "250 no", "251 OK, no messages waiting", nil)},
		// It lists ATRN and does not have it: ETRN on the same connection.
		{"auto-liar", "protocol = \"auto\"\n" + withUser, api.ExitOK, nil, 251, answers(both, "502 Command not implemented", "251 OK, no messages waiting", nil)},
		// A refusal is no reason to try ETRN.
		{"auto-forbids", "protocol = \"auto\"\n" + withUser, api.ExitUnavailable, []string{"450"}, 450, answers(both, "450 refused", "251 OK", nil)},
	}
	var config strings.Builder
	config.WriteString("hostname = \"mail.acme.example\"\n\n[[link]]\nname = \"isp\"\ninterfaces = [\"ppp0\"]\ndial = [\"pon\", \"isp\"]\nhang-up = [\"poff\", \"isp\"]\n")
	for i, r := range remotes {
		if r.more == "" {
			r.more = `protocol = "atrn"`
		}
		// The longer of the two is how long a provider may be silent.
		patience := "2m"
		if r.name == "silent" {
			patience = "2s"
		}
		fmt.Fprintf(&config, "\n[[remote]]\nname = %q\nlink = \"isp\"\nhost = \"hub.example.net:%d\"\nrouter-type = \"pull-only\"\nrequest = [\"acme.example\"]\nrequest-timeout = %q\nconnect-timeout = \"2m\"\nwait = %q\n%s\n", r.name, 2601+i, patience, patience, r.more)
	}
	ctx, w := worldTurn(t, Options{SiteConfig: config.String()})
	for i, r := range remotes {
		provider(t, w, 2601+i, r.talk)
	}
	must(t, w.Line.Connect(ctx))
	results := waitCalls(ctx, t, w, len(remotes))
	for _, r := range remotes {
		t.Run(r.name, func(t *testing.T) {
			for _, got := range results {
				if got.Remote != r.name {
					continue
				}
				t.Logf("exit %d: %s (%s)", got.Exit, got.Error, got.Hint)
				if got.Exit != r.exit {
					t.Errorf("exit %d, want %d: %+v", got.Exit, r.exit, got)
				}
				for _, want := range r.says {
					if !strings.Contains(got.Error+" "+got.Hint, want) {
						t.Errorf("%q, %q does not say %q", got.Error, got.Hint, want)
					}
				}
				if len(got.Replies) != 1 || got.Replies[0].Code != r.code {
					t.Errorf("replies %+v, want one with %d", got.Replies, r.code)
				}
				return
			}
			t.Error("no result")
		})
	}
	must(t, testbed.Until(ctx, "the line to be hung up", func() (bool, error) { return !w.Line.IsUp(), nil }))
}
