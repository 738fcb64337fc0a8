//go:build !quick

package scenario

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
	"github.com/etrnd/etrnd/internal/users"
)

// hubATRN is a hub that turns connections around for acme and for gamma, and
// holds mail for beta as before.
const hubATRN = `hostname = "hub.example.net"

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
name = "gamma"
domains = ["gamma.example"]
deliver = "turn"
users = ["gamma"]

[[queue]]
name = "beta"
domains = ["beta.example"]
deliver = "smtp:[mail.beta.example]"
clients = ["198.51.100.77"]
`

const password = "correct horse battery"

// usersFile has users whose password is password, for CRAM-MD5 too.
var usersFile = sync.OnceValues(func() (string, error) {
	var f users.File
	for _, name := range []string{"acme", "gamma"} {
		s, err := users.NewSecret(password, users.SecretOptions{CramMD5: true, Iterations: 4096})
		if err != nil {
			return "", err
		}
		if err := f.Add(name, s); err != nil {
			return "", err
		}
	}
	return string(f.Bytes()), nil
})

// worldATRN is the world with that hub. The line is up.
func worldATRN(t *testing.T, o Options) (context.Context, *World) {
	t.Helper()
	text, err := usersFile()
	must(t, err)
	if o.HubConfig == "" {
		o.HubConfig = hubATRN
	}
	if o.HubFiles == nil {
		o.HubFiles = map[string]string{"/etc/etrnd/users": text}
	}
	// The line is brought up by the tests: no call of the site's is wanted.
	o.SiteConfig = "hostname = \"mail.acme.example\"\n"
	ctx, w := world(t, o)
	must(t, w.Line.Up(ctx))
	return ctx, w
}

// atrn logs in to the hub as a site and sends ATRN. It returns the connection
// and the reply.
func atrn(ctx context.Context, t *testing.T, from *testbed.Host, user, domains string) (net.Conn, string) {
	t.Helper()
	return atrnAt(ctx, t, from, hubLine+":366", user, domains)
}

func atrnAt(ctx context.Context, t *testing.T, from *testbed.Host, hub, user, domains string) (net.Conn, string) {
	t.Helper()
	conn, err := from.Dial(ctx, "tcp", hub)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(hang.Deadline()))
	c, err := smtp.NewClient(conn, hubLine)
	must(t, err)
	must(t, c.Hello("mail.acme.example"))
	must(t, c.Auth(smtp.CRAMMD5Auth(user, password)))
	_, err = c.Text.Cmd("%s", strings.TrimSpace("ATRN "+domains))
	must(t, err)
	code, text, err := c.Text.ReadCodeLine(0)
	must(t, err)
	must(t, conn.SetDeadline(time.Time{}))
	return conn, fmt.Sprintf("%d %s", code, text)
}

// pass hands a turned connection to an SMTP server of the host, as a customer
// without any filter does, until one of the two closes.
func pass(ctx context.Context, conn net.Conn, to *testbed.Host, addr string) error {
	local, err := to.Dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer local.Close()
	ctx, cancel := context.WithTimeout(ctx, hang.Limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { local.Close(); conn.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(local, conn)
		local.Close()
	}()
	_, err = io.Copy(conn, local)
	conn.Close()
	<-done
	return err
}

// pull fetches the mail of acme for the site's Postfix, and returns how long
// the line was used.
func pull(ctx context.Context, t *testing.T, w *World, domains string) time.Duration {
	t.Helper()
	start := time.Now()
	conn, answer := atrn(ctx, t, w.SiteHost, "acme", domains)
	if !strings.HasPrefix(answer, "250 ") {
		t.Fatalf("ATRN %s: %s", domains, answer)
	}
	pass(ctx, conn, w.SiteHost, "127.0.0.1:25")
	return time.Since(start)
}

// Mail is held for a site, the site calls, and all of it comes over the
// connection that it opened. The hub says QUIT within a second of the last
// message.
func TestATRN(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	_, answer := atrn(ctx, t, w.SiteHost, "acme", "")
	if !strings.HasPrefix(answer, "453 ") {
		t.Errorf("ATRN with an empty queue: %s", answer)
	}
	const n = 100
	ids := send(ctx, t, w.Online, hubName+":25", Messages(n, 2000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", n))
	used := pull(ctx, t, w, "acme.example")
	if duplicates := delivered(ctx, t, w.SiteHost, ids); duplicates != 0 {
		t.Errorf("%d duplicates", duplicates)
	}
	all, err := w.SiteHost.Delivered()
	must(t, err)
	t.Logf("the line was used for %v, and %v after the last message", used, time.Since(all[len(all)-1].Time))
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
	must(t, w.HubHost.WaitQueue(ctx, 0))
}
