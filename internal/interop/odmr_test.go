//go:build !quick

package interop

import (
	"bytes"
	"context"
	"fmt"
	"net/smtp"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// turnConfig has queues that are delivered over connections which the sites
// have opened.
const turnConfig = `hostname = "hub.example.net"

[odmr]
listen = ["0.0.0.0:366"]
users = "/etc/etrnd/users"
cram-md5 = true

[[queue]]
name = "acme"
domains = ["acme.example", ".acme.example"]
deliver = "turn"
users = ["acme"]

[[queue]]
name = "user"
domains = ["user.example"]
deliver = "turn"
users = ["acme"]

[[queue]]
name = "beta"
domains = ["beta.example"]
deliver = "turn"
users = ["beta"]
`

// fetchmail in ODMR mode is the customer of our hub: it knows CRAM-MD5 and no
// STARTTLS, and passes what comes on to the MTA of the site, byte by byte. That
// MTA is Postfix, Exim or Sendmail, so that etrnd delivers to each of
// them. None of them listens anywhere but on the loopback interface: there is
// no way in but the connection that is turned.
func TestFetchmailODMR(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		start func(context.Context, *testing.T, *testbed.Host)
	}{
		{"Postfix", func(ctx context.Context, t *testing.T, h *testbed.Host) {
			_, err := h.Postfix(ctx, testbed.PostfixOptions{Final: finalDomains, Main: map[string]string{"inet_interfaces": "loopback-only"}})
			must(t, err)
		}},
		// Exim has 8BITMIME, PIPELINING and CHUNKING, and hangs up on whoever
		// sends ahead where that is not allowed.
		{"Exim", func(ctx context.Context, t *testing.T, h *testbed.Host) {
			exim(ctx, t, h, strings.Join(finalDomains, " : "), "", "local_interfaces = 127.0.0.1")
		}},
		// Sendmail has no CHUNKING.
		{"Sendmail", func(ctx context.Context, t *testing.T, h *testbed.Host) {
			sendmail(ctx, t, h, finalDomains, nil, "DAEMON_OPTIONS(`Name=MTA, Addr=127.0.0.1')dnl")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, p := wired(t)
			hub := ourHub(ctx, t, p.hub, turnConfig)
			c.start(ctx, t, p.site)

			// Nothing waits.
			odmr(ctx, t, p.site, password, "acme.example", fetchOK, "453 ")

			ids := send(ctx, t, p.hub, 20, 2000, "a@acme.example")
			ids = append(ids, send(ctx, t, p.hub, 1, 3_000_000, "a@acme.example")...)
			odd := awkward(ctx, t, p.hub, "a@acme.example")
			ids = append(ids, odd)
			more := append(send(ctx, t, p.hub, 3, 2000, "a@user.example"), send(ctx, t, p.hub, 2, 2000, "a@sub.acme.example")...)
			others := send(ctx, t, p.hub, 2, 2000, "b@beta.example")
			must(t, hub.WaitQueue(ctx, "acme", len(ids)+2))
			must(t, hub.WaitQueue(ctx, "user", 3))
			must(t, hub.WaitQueue(ctx, "beta", len(others)))

			// A stranger, and one domain too many: nothing moves.
			odmr(ctx, t, p.site, "guessed", "acme.example", fetchFails, "535 ")
			odmr(ctx, t, p.site, password, "acme.example,beta.example", fetchFails, "450 ")
			untouched(t, p.site, ids)

			// One of the user's domains, to the last byte.
			odmr(ctx, t, p.site, password, "acme.example", fetchOK, "250 ")
			arrive(ctx, t, p.site, ids)
			must(t, hub.WaitQueue(ctx, "acme", 2))
			unharmed(t, p.site, odd)
			untouched(t, p.site, more)

			// And two more, of different queues.
			odmr(ctx, t, p.site, password, "user.example,sub.acme.example", fetchOK, "250 ")
			arrive(ctx, t, p.site, more)
			must(t, hub.WaitQueue(ctx, "acme", 0))
			must(t, hub.WaitQueue(ctx, "user", 0))
			must(t, hub.WaitQueue(ctx, "beta", len(others)))
			untouched(t, p.site, others)
		})
	}
}

// odmr runs fetchmail in ODMR mode, and looks at its exit code and at the
// answer of the hub. It has to be told the port: Debian's /etc/services has no
// odmr.
func odmr(ctx context.Context, t *testing.T, h *testbed.Host, password, domains string, exit int, answer string) {
	t.Helper()
	code, out := fetchmail(ctx, t, h, fmt.Sprintf("poll %s protocol ODMR port 366 timeout 300 user acme password %q fetchdomains %s\n", hubName, password, domains))
	if code != exit && (exit != fetchFails || code == fetchOK) || !strings.Contains(out, "< "+answer) {
		t.Fatalf("domains %s: exit %d, want %d and the answer %q:\n%s", domains, code, exit, answer, out)
	}
}

// awkwardBody is all that a relay might stumble over.
const awkwardBody = ".\r\n..\r\n.QUIT\r\nQUIT\r\nRSET\r\nMAIL FROM:<x@example.net>\r\n\r\n" +
	"250 OK\r\nBDAT 3 LAST\r\nFrom here\r\n gr\xfc\xdfe \xc3\xa4 \x01\x7f\ttab \r\n"

// awkward sends a message with awkwardBody and a line of full length, and
// returns its id.
func awkward(ctx context.Context, t *testing.T, h *testbed.Host, to string) string {
	t.Helper()
	conn, err := h.Dial(ctx, "tcp", "127.0.0.1:25")
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(hang.Deadline()))
	c, err := smtp.NewClient(conn, hubName)
	must(t, err)
	must(t, c.Hello(hubName))
	must(t, c.Mail("odd@hub.example.net")) // with BODY=8BITMIME
	must(t, c.Rcpt(to))
	w, err := c.Data()
	must(t, err)
	const id = "awkward@hub.example.net"
	_, err = fmt.Fprintf(w, "From: <odd@hub.example.net>\r\nTo: <%s>\r\nDate: %s\r\nMessage-ID: <%s>\r\n\r\n%s%s\r\n",
		to, time.Now().Format(time.RFC1123Z), id, awkwardBody, strings.Repeat("x", 990))
	must(t, err)
	must(t, w.Close())
	must(t, c.Quit())
	return id
}

// unharmed fails the test unless the message of awkward is as it was sent.
func unharmed(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	all, err := h.Delivered()
	must(t, err)
	for _, d := range all {
		if d.MessageID != id {
			continue
		}
		data, err := h.ReadFile(d.Path)
		must(t, err)
		_, body, _ := bytes.Cut(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
		want := strings.ReplaceAll(awkwardBody, "\r\n", "\n") + strings.Repeat("x", 990) + "\n"
		if string(body) != want {
			t.Errorf("the message came as %q, want %q", body, want)
		}
		return
	}
	t.Errorf("no %s at %s", id, h.Name)
}
