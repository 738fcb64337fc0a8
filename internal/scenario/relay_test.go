//go:build !quick

package scenario

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/etrnd/login"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/testbed"
	"github.com/etrnd/etrnd/internal/users"
)

// own is a hub's Postfix that relays for nobody but itself.
var own = map[string]string{"mynetworks": "127.0.0.0/8"}

// relaySpellings are ways to ask a hub to send to victim@online.example, and to
// say who is asking.
var relaySpellings = []struct{ from, to string }{
	{"a@acme.example", "victim@online.example"},
	{"", "victim@online.example"},
	{"postmaster@hub.example.net", "victim@online.example"},
	{"a@beta.example", "victim@online.example"},
	{"x@y.example", "victim%online.example@hub.example.net"},
	{"x@y.example", "victim%online.example@acme.example"},
	{"x@y.example", `"victim@online.example"@hub.example.net`},
	{"x@y.example", `"victim@online.example"`},
	{"x@y.example", `"victim%online.example"@hub.example.net`},
	{"x@y.example", "@hub.example.net:victim@online.example"},
	{"x@y.example", "@acme.example,@hub.example.net:victim@online.example"},
	{"x@y.example", "online.example!victim"},
	{"x@y.example", "online.example!victim@hub.example.net"},
	{"x@y.example", "victim@online.example@hub.example.net"},
	{"x@y.example", "victim@[198.51.100.2]"},
}

// relays reports which spellings a port takes from a host, or would try.
func relays(ctx context.Context, t *testing.T, from *testbed.Host, port string) {
	t.Helper()
	for _, s := range relaySpellings {
		out := dialogue(ctx, t, from, port, "EHLO x.example", "MAIL FROM:<"+s.from+">", "RCPT TO:<"+s.to+">", "QUIT")
		lines := strings.Split(strings.TrimSpace(out), "\r\n")
		if len(lines) < 3 {
			t.Fatalf("%s: %q", port, out)
		}
		if rcpt := lines[len(lines)-2]; !strings.HasPrefix(rcpt, "4") && !strings.HasPrefix(rcpt, "5") {
			// What is for the hub's own users is no relaying.
			if !strings.Contains(s.to, `"@hub.example.net`) {
				t.Errorf("%s takes mail to %s from %q: %s", port, s.to, s.from, rcpt)
			}
		}
	}
}

// pushed sends from the site's network, has the site call, and waits for the
// mail to arrive in the world.
func pushed(ctx context.Context, t *testing.T, w *World) {
	t.Helper()
	ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(3, 2000, "c@online.example"))
	must(t, w.Site.WaitQueue(ctx, "hub", 3))
	_, err := w.Site.Ctl(ctx, "call", "hub", "--wait")
	if err != nil {
		log, _ := w.SiteHost.ReadFile("/var/log/mail.log")
		hub, _ := w.HubHost.ReadFile("/var/log/mail.log")
		t.Fatalf("%v\n%s\n%s", err, log[max(0, len(log)-4000):], hub[max(0, len(hub)-4000):])
	}
	delivered(ctx, t, w.Online, ids)
}

// submit sends one message the way a mail program does: TLS, then a login if
// there is a user, with the certificate if there is one.
func submit(ctx context.Context, t *testing.T, from *testbed.Host, port, user, pass string, cert *tls.Certificate, sender, to string) error {
	t.Helper()
	conn, err := from.Dial(ctx, "tcp", port)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(hang.Deadline()))
	c, err := smtp.NewClient(conn, hubName)
	if err != nil {
		return err
	}
	must(t, c.Hello("x.example"))
	cfg := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	if err := c.StartTLS(cfg); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	if user != "" {
		if err := c.Auth(smtp.PlainAuth("", user, pass, hubName)); err != nil {
			return fmt.Errorf("AUTH: %w", err)
		}
	}
	if err := c.Mail(sender); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return fmt.Errorf("RCPT: %w", err)
	}
	return c.Quit()
}

// documented returns the blocks of TOML that stand in a page behind a heading.
func documented(t *testing.T, page, heading string) []string {
	t.Helper()
	root, err := programs.Root()
	must(t, err)
	text, err := os.ReadFile(filepath.Join(root, page))
	must(t, err)
	_, rest, ok := strings.Cut(string(text), heading+"\n")
	if !ok {
		t.Fatalf("%s has no %q", page, heading)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^ *```toml\\n(.*?)^ *```").FindAllStringSubmatch(rest, 2) {
		blocks = append(blocks, regexp.MustCompile("(?m)^   ").ReplaceAllString(m[1], ""))
	}
	if len(blocks) != 2 {
		t.Fatalf("%s: %d blocks behind %q", page, len(blocks), heading)
	}
	return blocks
}

// What the README says, to the letter.
func TestFirstMailOutByREADME(t *testing.T) {
	t.Parallel()
	toml := documented(t, "README.md", "## Install it beside Postfix")
	ctx, w := world(t, Options{HubMain: own, HubConfig: toml[0], SiteConfig: toml[1]})
	must(t, w.Line.Up(ctx))
	pushed(ctx, t, w)
}

// What the howto says of a site on a changing address, to the letter but for the
// authority of the certificate.
func TestFirstMailOutByHowto(t *testing.T) {
	t.Parallel()
	toml := documented(t, "docs/howto.md", "### A site with a changing address")
	cert, key := certificate(t, hubName)
	ctx, w := world(t, Options{
		HubMain: own, HubConfig: toml[0], HubUsers: map[string]string{"acme": password},
		HubFiles:   map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key},
		SiteConfig: toml[1] + "tls-ca = \"/etc/etrnd/ca.pem\"\n",
		SiteFiles:  map[string]string{"/etc/etrnd/ca.pem": cert, "/etc/etrnd/hub.password": password + "\n"},
	})
	must(t, w.Line.Up(ctx))
	pushed(ctx, t, w)
	relays(ctx, t, w.Online, "198.51.100.1:25")
	relays(ctx, t, w.Online, "198.51.100.1:587")
}

// As the README has it: a hub that lets a network ask, a site that pushes. The
// first mail gets out, and nobody else's does.
func TestFirstMailOut(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubMain: own})
	pushed(ctx, t, w)
	must(t, w.Line.Up(ctx))
	relays(ctx, t, w.Online, "198.51.100.1:25")

	// What else there is in the way of strangers stays in the way of sites.
	must(t, w.HubMTA.Set(ctx, map[string]string{"smtpd_recipient_restrictions": "check_recipient_access inline:{{no@online.example=REJECT not him}}"}))
	must(t, w.HubMTA.Reload(ctx))
	for to, code := range map[string]string{"no@online.example": "554", "yes@online.example": "250"} {
		out := dialogue(ctx, t, w.SiteHost, hubLine+":25", "EHLO x.example", "MAIL FROM:<a@acme.example>", "RCPT TO:<"+to+">")
		lines := strings.Split(strings.TrimSpace(out), "\r\n")
		if got := lines[len(lines)-1]; !strings.HasPrefix(got, code) {
			t.Errorf("%s: %s", to, got)
		}
	}

	// A customer who is one no more.
	must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(strings.Replace(HubConfig, "192.0.2.2", "192.0.2.77", 1)), 0o644))
	_, err := w.Hub.Ctl(ctx, "setup", "postfix", "--apply")
	must(t, err)
	must(t, testbed.Until(ctx, "the hub to let the site send no more", func() (bool, error) {
		return strings.Contains(dialogue(ctx, t, w.SiteHost, hubLine+":25", "EHLO x.example", "MAIL FROM:<a@acme.example>", "RCPT TO:<c@online.example>"), "\n454 "), nil
	}))
	_, err = w.Hub.Ctl(ctx, "setup", "postfix", "--undo")
	must(t, err)
	if main, err := w.HubHost.ReadFile("/etc/postfix/main.cf"); err != nil || strings.Contains(string(main), "etrnd/") {
		t.Errorf("left behind: %v\n%s", err, main)
	}
}

// A hub that relays for the site no more, and says so for good: the mail stays held,
// and goes when that is mended.
func TestRelayRefusedForGood(t *testing.T) {
	t.Parallel()
	main := maps.Clone(own)
	main["smtpd_relay_restrictions"] = "permit_mynetworks, reject_unauth_destination"
	hub := strings.Replace(HubConfig, `"192.0.2.2"]`, `"192.0.2.2"]`+"\nrelay = false", 1)
	ctx, w := world(t, Options{HubMain: main, HubConfig: hub})
	ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(2, 0, "c@online.example"))
	must(t, w.Site.WaitQueue(ctx, "hub", 2))
	must(t, w.Line.Up(ctx))
	_, err := w.Site.Ctl(ctx, "release", "hub")
	must(t, err)
	must(t, testbed.Until(ctx, "the hub to have refused it", func() (bool, error) {
		list, err := w.SiteHost.Queue(ctx)
		n := 0
		for _, m := range list {
			for _, r := range m.Recipients {
				if strings.Contains(r.Reason, "Relay access denied") {
					n++
				}
			}
		}
		return n == 2 && len(list) == 2, err
	}))
	must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(HubConfig), 0o644))
	_, err = w.Hub.Ctl(ctx, "setup", "postfix", "--apply")
	must(t, err)
	must(t, testbed.Until(ctx, "the mail to get out", func() (bool, error) {
		if _, err := w.Site.Ctl(ctx, "release", "hub"); err != nil {
			return false, err
		}
		list, err := w.SiteHost.Queue(ctx)
		return len(list) == 0, err
	}))
	delivered(ctx, t, w.Online, ids)
}

// A queue that everybody may ask for makes no open relay.
func TestNoOpenRelay(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubMain: own, HubConfig: strings.Replace(HubConfig, `"192.0.2.2"`, `"0.0.0.0/0", "::/0"`, 1)})
	must(t, w.Line.Up(ctx))
	relays(ctx, t, w.Online, "198.51.100.1:25")
	relays(ctx, t, w.SiteHost, hubLine+":25")
	out, err := w.Hub.Ctl(ctx, "check")
	if !strings.Contains(out+fmt.Sprint(err), "too large to be let send mail through this host") {
		t.Errorf("check does not say that nobody is let: %v\n%s", err, out)
	}
}

// Where the postmaster has his rules about relaying in other places.
func TestRelayRestrictions(t *testing.T) {
	t.Parallel()
	for name, main := range map[string]map[string]string{
		"before 2.10": {"smtpd_relay_restrictions": "", "smtpd_recipient_restrictions": "permit_mynetworks, reject_unauth_destination, reject_unknown_helo_hostname"},
		"both":        {"smtpd_relay_restrictions": "permit_mynetworks, reject", "smtpd_recipient_restrictions": "permit_mynetworks reject_unauth_destination"},
		"by a name":   {"ours": "permit_mynetworks, reject_unauth_destination", "smtpd_relay_restrictions": "$ours"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			main := maps.Clone(main)
			maps.Copy(main, own)
			ctx, w := world(t, Options{HubMain: main})
			pushed(ctx, t, w)
			must(t, w.Line.Up(ctx))
			relays(ctx, t, w.Online, "198.51.100.1:25")
		})
	}
}

const (
	hubLogin  = "users = [\"acme\"]"
	siteLogin = "deliver = \"smtp:[hub.example.net]:587\"\nuser = \"acme\"\npassword-file = \"/etc/etrnd/password\"\n"
)

// loginWorld is a hub that knows its site by a password, as for a site on an
// address that changes, and nobody by address.
func loginWorld(t *testing.T, remote string, o Options) (context.Context, *World) {
	t.Helper()
	cert, key := certificate(t, hubName)
	hub := strings.Replace(HubConfig, `clients = ["192.0.2.2"]`, hubLogin, 1)
	o.HubConfig = strings.Replace(hub, "[odmr]\n", "[odmr]\ntls-cert = \"/etc/etrnd/hub.pem\"\ntls-key = \"/etc/etrnd/hub.key\"\nusers = \"/etc/etrnd/users\"\n", 1)
	if o.HubMain == nil {
		o.HubMain = own
	}
	o.HubFiles = map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key}
	o.HubUsers = map[string]string{"acme": password, "nobody": password}
	o.SiteConfig = SiteConfig + remote
	o.SiteFiles = map[string]string{"/etc/etrnd/ca.pem": cert, "/etc/etrnd/password": password + "\n"}
	return world(t, o)
}

// A site that the hub knows by its password alone: the mail goes out on the port
// for logins, for it and for nobody else, and no longer once the user is gone.
func TestFirstMailOutByLogin(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{`tls = "require"` + "\ntls-ca = \"/etc/etrnd/ca.pem\"\n", "tls = \"insecure\"\n", ""} {
		t.Run(strings.Trim(strings.Fields(mode + "- - auto")[2], `"`), func(t *testing.T) {
			t.Parallel()
			ctx, w := loginWorld(t, siteLogin+mode, Options{})
			pushed(ctx, t, w)
		})
	}
}

func TestLoginIsNarrow(t *testing.T) {
	t.Parallel()
	// Postfix gives a program that has failed a minute before it tries it again.
	main := maps.Clone(own)
	main["service_throttle_time"] = "1s"
	ctx, w := loginWorld(t, siteLogin+"tls = \"insecure\"\n", Options{HubMain: main})
	must(t, w.Line.Up(ctx))
	const port = "198.51.100.1:587"
	relays(ctx, t, w.Online, "198.51.100.1:25")
	relays(ctx, t, w.Online, port)
	for _, c := range []struct{ why, user, pass, to, want string }{
		{"a user of a queue", "acme", password, "c@online.example", ""},
		{"a wrong password", "acme", "wrong", "c@online.example", "AUTH: 535"},
		{"a user in no queue", "nobody", password, "c@online.example", "AUTH: 535"},
		{"no such user", "stranger", password, "c@online.example", "AUTH: 535"},
		{"no login", "", "", "c@online.example", "RCPT: 454"},
		// Nor is it a second port 25, without what guards that one.
		{"no login, held mail", "", "", "a@acme.example", "RCPT: 450"},
	} {
		err := submit(ctx, t, w.Online, port, c.user, c.pass, nil, "a@acme.example", c.to)
		if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.HasPrefix(got, c.want) || c.want == "RCPT: 454" && !strings.Contains(got, "Relay access denied") {
			t.Errorf("%s: %s, want %s", c.why, got, c.want)
		}
	}
	if out := dialogue(ctx, t, w.Online, port, "EHLO x.example", "AUTH PLAIN AGFjbWUAeA=="); strings.Contains(out, "AUTH") || !strings.Contains(out, "\n530 ") && !strings.Contains(out, "\n503 ") && !strings.Contains(out, "\n538 ") {
		t.Errorf("without TLS: %s", out)
	}
	if out := dialogue(ctx, t, w.Online, "198.51.100.1:25", "EHLO x.example"); strings.Contains(out, "AUTH") {
		t.Errorf("port 25 has logins: %s", out)
	}

	// The right ends in the middle of a session, with the reload.
	conn, err := w.Online.Dial(ctx, "tcp", port)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(hang.Deadline()))
	c, err := smtp.NewClient(conn, hubName)
	must(t, err)
	must(t, c.StartTLS(&tls.Config{InsecureSkipVerify: true}))
	must(t, c.Auth(smtp.PlainAuth("", "acme", password, hubName)))
	must(t, c.Mail("a@acme.example"))
	must(t, c.Rcpt("c@online.example"))
	must(t, c.Reset())
	hub, err := w.HubHost.ReadFile("/etc/etrnd/etrnd.toml")
	must(t, err)
	must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(strings.Replace(string(hub), hubLogin, `clients = ["192.0.2.2"]`, 1)), 0o644))
	_, err = w.Hub.Ctl(ctx, "reload")
	must(t, err)
	must(t, c.Mail("a@acme.example"))
	if err := c.Rcpt("c@online.example"); err == nil || !strings.HasPrefix(err.Error(), "454") {
		t.Errorf("a user who is in no queue any more: %v", err)
	}
	must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", hub, 0o644))
	_, err = w.Hub.Ctl(ctx, "reload")
	must(t, err)

	// Port 25 does not depend on etrnd; the port for logins refuses for a while,
	// and what the site has for it stays held.
	must(t, w.Hub.Etrnd.Kill())
	<-w.Hub.Etrnd.Exited()
	for range 3 {
		if err := submit(ctx, t, w.Online, port, "acme", password, nil, "a@acme.example", "c@online.example"); err == nil || strings.Contains(err.Error(), ": 5") {
			t.Errorf("with etrnd gone: %v", err)
		}
	}
	send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "a@acme.example"))
	must(t, w.Hub.StartEtrnd(ctx))
	must(t, testbed.Until(ctx, "the port for logins to answer again", func() (bool, error) {
		return submit(ctx, t, w.Online, port, "acme", password, nil, "a@acme.example", "c@online.example") == nil, nil
	}))
}

// What goes wrong with a login costs no mail: it stays held, and goes when it is
// mended.
func TestLoginMended(t *testing.T) {
	t.Parallel()
	ctx, w := loginWorld(t, siteLogin+"tls = \"require\"\ntls-ca = \"/etc/etrnd/ca.pem\"\n", Options{})
	must(t, w.SiteHost.WriteFile("/etc/etrnd/password", []byte("wrong one\n"), 0o640))
	_, err := w.SiteHost.Run(ctx, "chgrp", "etrnd", "/etc/etrnd/password")
	must(t, err)
	// Postfix has a copy: who may not read it sees by the time that it is old.
	for _, user := range []string{"root", "etrnd"} {
		out, _ := w.SiteHost.Command(ctx, "setpriv", "--reuid="+user, "--regid="+user, "--clear-groups", "etrnctl", "check").CombinedOutput()
		if text := string(out); !strings.Contains(text, "Postfix is not set up") && !strings.Contains(text, "a password has changed since") {
			t.Errorf("check as %s: %s", user, text)
		}
	}
	apply := func() {
		t.Helper()
		out, err := w.Site.Ctl(ctx, "setup", "postfix", "--apply")
		must(t, err)
		if strings.Contains(out, "wrong one") || strings.Contains(out, password) {
			t.Errorf("the password is shown: %s", out)
		}
	}
	apply()
	if fi, err := os.Stat(w.SiteHost.Path("/etc/postfix/etrnd/passwords")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(2, 0, "c@online.example"))
	must(t, w.Site.WaitQueue(ctx, "hub", 2))
	must(t, w.Line.Up(ctx))
	_, err = w.Site.Ctl(ctx, "release", "hub")
	must(t, err)
	must(t, testbed.Until(ctx, "Postfix to have tried the wrong password", func() (bool, error) {
		list, err := w.SiteHost.Queue(ctx)
		n := 0
		for _, m := range list {
			for _, r := range m.Recipients {
				if strings.Contains(r.Reason, "authentication failed") {
					n++
				}
			}
		}
		return n == 2, err
	}))
	must(t, w.SiteHost.WriteFile("/etc/etrnd/password", []byte(password+"\n"), 0o640))
	_, err = w.SiteHost.Run(ctx, "chgrp", "etrnd", "/etc/etrnd/password")
	must(t, err)
	apply()
	_, err = w.Site.Ctl(ctx, "call", "hub", "--wait")
	must(t, err)
	delivered(ctx, t, w.Online, ids)
	_, err = w.Site.Ctl(ctx, "setup", "postfix", "--undo")
	must(t, err)
	if _, err := os.Stat(w.SiteHost.Path("/etc/postfix/etrnd")); !os.IsNotExist(err) {
		t.Errorf("the password is left behind: %v", err)
	}
}

// A site that shows a certificate, on port 25.
func TestFirstMailOutByCertificate(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, hubName)
	mine, mineKey := certificate(t, siteName)
	block, _ := pem.Decode([]byte(mine))
	sum := sha256.Sum256(block.Bytes)
	other, otherKey := certificate(t, siteName)
	hub := strings.Replace(HubConfig, `clients = ["192.0.2.2"]`, `certificates = ["`+hex.EncodeToString(sum[:])+`"]`, 1)
	hub = strings.Replace(hub, "[odmr]\n", "[odmr]\ntls-cert = \"/etc/etrnd/hub.pem\"\ntls-key = \"/etc/etrnd/hub.key\"\n", 1)
	main := maps.Clone(own)
	maps.Copy(main, map[string]string{"smtpd_tls_security_level": "may", "smtpd_tls_cert_file": "/etc/etrnd/hub.pem", "smtpd_tls_key_file": "/etc/etrnd/hub.key"})
	ctx, w := world(t, Options{
		HubConfig: hub, HubMain: main, HubFiles: map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key},
		SiteConfig: SiteConfig + "tls = \"require\"\ntls-ca = \"/etc/etrnd/ca.pem\"\ntls-cert = \"/etc/etrnd/site.pem\"\ntls-key = \"/etc/etrnd/site.key\"\n",
		SiteFiles:  map[string]string{"/etc/etrnd/ca.pem": cert, "/etc/etrnd/site.pem": mine, "/etc/etrnd/site.key": mineKey},
	})
	pushed(ctx, t, w)
	relays(ctx, t, w.Online, "198.51.100.1:25")
	for _, c := range []struct {
		cert, key string
		ok        bool
	}{{mine, mineKey, true}, {other, otherKey, false}} {
		pair, err := tls.X509KeyPair([]byte(c.cert), []byte(c.key))
		must(t, err)
		err = submit(ctx, t, w.Online, "198.51.100.1:25", "", "", &pair, "a@acme.example", "c@online.example")
		if (err == nil) != c.ok || !c.ok && !strings.Contains(err.Error(), "Relay access denied") {
			t.Errorf("a certificate that is the site's: %v, and the answer %v", c.ok, err)
		}
	}
}

// A hub whose Postfix has logins already: those count, only for the users whom
// the queues name, and no port is opened.
func TestRelayByPostfixLogins(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, hubName)
	main := map[string]string{
		"mynetworks": "127.0.0.0/8", "smtpd_relay_restrictions": "permit_mynetworks, defer_unauth_destination",
		"smtpd_sasl_auth_enable": "yes", "smtpd_sasl_type": "dovecot", "smtpd_sasl_path": "private/theirs", "smtpd_tls_auth_only": "yes",
		"smtpd_tls_security_level": "may", "smtpd_tls_cert_file": "/etc/etrnd/hub.pem", "smtpd_tls_key_file": "/etc/etrnd/hub.key",
	}
	hub := strings.Replace(HubConfig, `clients = ["192.0.2.2"]`, hubLogin, 1)
	hub = strings.Replace(hub, "[odmr]\n", "[odmr]\ntls-cert = \"/etc/etrnd/hub.pem\"\ntls-key = \"/etc/etrnd/hub.key\"\n", 1)
	ctx, w := world(t, Options{
		HubConfig: hub, HubMain: main, HubFiles: map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key},
		SiteConfig: SiteConfig + "push-login = true\nuser = \"acme\"\npassword-file = \"/etc/etrnd/password\"\ntls = \"require\"\ntls-ca = \"/etc/etrnd/ca.pem\"\n",
		SiteFiles:  map[string]string{"/etc/etrnd/ca.pem": cert, "/etc/etrnd/password": password + "\n"},
	})
	// The logins that the postmaster has.
	var f users.File
	for _, name := range []string{"acme", "else"} {
		s, err := users.NewSecret(password, users.SecretOptions{Iterations: 4096})
		must(t, err)
		must(t, f.Add(name, s))
	}
	path := filepath.Join(t.TempDir(), "theirs")
	must(t, os.WriteFile(path, f.Bytes(), 0o600))
	store, err := users.Open(path, users.Options{})
	must(t, err)
	l, err := w.HubHost.Listen("unix", "/var/spool/postfix/private/theirs")
	must(t, err)
	must(t, os.Chmod(w.HubHost.Path("/var/spool/postfix/private/theirs"), 0o666))
	go (&login.Server{Hostname: hubName, Users: store, May: func(string) bool { return true }, Logger: slog.New(slog.DiscardHandler)}).Serve(ctx, l)

	must(t, w.Line.Up(ctx))
	for user, want := range map[string]string{"acme": "<nil>", "else": "RCPT: 454"} {
		if got := fmt.Sprint(submit(ctx, t, w.Online, "198.51.100.1:25", user, password, nil, "a@acme.example", "c@online.example")); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", user, got, want)
		}
	}
	relays(ctx, t, w.Online, "198.51.100.1:25")
	if c, err := w.Online.Dial(ctx, "tcp", "198.51.100.1:587"); err == nil {
		c.Close()
		t.Error("there is a port for logins beside those of Postfix")
	}
	ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(2, 0, "c@online.example"))
	must(t, w.Site.WaitQueue(ctx, "hub", 2))
	_, err = w.Site.Ctl(ctx, "release", "hub")
	must(t, err)
	delivered(ctx, t, w.Online, ids)
}
