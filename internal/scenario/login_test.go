//go:build !quick

package scenario

import (
	"context"
	"crypto/tls"
	"net/smtp"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// editUsers runs "etrnctl user" on the hub, and leaves the file to etrnd's group as
// it was.
func editUsers(ctx context.Context, t *testing.T, w *World, stdin string, args ...string) {
	t.Helper()
	cmd := w.HubHost.Command(ctx, append([]string{"etrnctl", "user"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("etrnctl user %v: %v %s", args, err, out)
	}
	_, err := w.HubHost.Run(ctx, "chgrp", "etrnd", "/etc/etrnd/users")
	must(t, err)
	_, err = w.Hub.Ctl(ctx, "reload")
	must(t, err)
}

// session logs in on the hub's port for logins.
func session(ctx context.Context, t *testing.T, from *testbed.Host, pass string) *smtp.Client {
	t.Helper()
	conn, err := from.Dial(ctx, "tcp", "198.51.100.1:587")
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(hang.Deadline()))
	c, err := smtp.NewClient(conn, hubName)
	must(t, err)
	must(t, c.StartTLS(&tls.Config{InsecureSkipVerify: true}))
	must(t, c.Auth(smtp.PlainAuth("", "acme", pass, hubName)))
	return c
}

// A login on the port for logins is over in mid-session with the reload by which its
// user has another password, or is gone, and with a restart of etrnd; the sessions of
// those who have not changed go on.
func TestLoginRevoked(t *testing.T) {
	t.Parallel()
	ctx, w := loginWorld(t, siteLogin+"tls = \"insecure\"\n", Options{})
	relay := func(c *smtp.Client, when, want string) {
		t.Helper()
		must(t, c.Mail("a@acme.example"))
		got := "250"
		if err := c.Rcpt("c@online.example"); err != nil {
			got = err.Error()[:3]
		}
		if got != want {
			t.Errorf("%s: RCPT was answered %s, want %s", when, got, want)
		}
		must(t, c.Reset())
	}
	first := session(ctx, t, w.Online, password)
	relay(first, "logged in", "250")
	editUsers(ctx, t, w, "of another\n", "password", "nobody")
	relay(first, "another user has another password", "250")
	const other = "another password"
	editUsers(ctx, t, w, other+"\n", "password", "acme")
	relay(first, "another password", "454")
	second := session(ctx, t, w.Online, other)
	relay(second, "with the new one", "250")
	relay(first, "with the old one, while the new one is in use", "454")
	must(t, w.Hub.Etrnd.Kill())
	<-w.Hub.Etrnd.Exited()
	must(t, w.Hub.StartEtrnd(ctx))
	third := session(ctx, t, w.Online, other)
	relay(third, "after a restart", "250")
	relay(second, "logged in before the restart", "454")
	editUsers(ctx, t, w, "", "delete", "acme")
	relay(third, "the user is gone", "454")
	must(t, third.Quit())
}
