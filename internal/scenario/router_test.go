//go:build !quick

package scenario

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// siteConfig is SiteConfig with another remote.
func siteConfig(remote string) string {
	head, _, _ := strings.Cut(SiteConfig, "[[remote]]")
	return head + "[[remote]]\nname = \"hub\"\nlink = \"isp\"\nhost = \"hub.example.net:366\"\n" + remote
}

// What a call moves depends on the router type, and on nothing else.
func TestRouterTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, remote string
		in, out      bool
		ask          bool // the hub asks for what the site holds, once the line is up
	}{
		// The default, as in Domino: nothing is requested.
		{"default is push-only", `push = ["*"]`, false, true, false},
		{"pull-only", "router-type = \"pull-only\"\nrequest = [\"#acme\"]", true, false, false},
		{"pull-push", "router-type = \"pull-push\"\nrequest = [\"#acme\"]\npush = [\"*\"]", true, true, false},
		// Held until the other side asks.
		{"push-wait, asked", "router-type = \"push-wait\"\npush = [\"*\"]\nsenders = [\"192.0.2.1\"]", false, true, true},
		{"push-wait, not asked", "wait = \"2s\"\nrouter-type = \"push-wait\"\npush = [\"*\"]\nsenders = [\"192.0.2.1\"]", false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, w := world(t, Options{SiteConfig: siteConfig(c.remote)})
			in := send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "a@acme.example"))
			must(t, w.Hub.WaitQueue(ctx, "acme", 3))
			var out []string
			if strings.Contains(c.remote, "push") {
				out = send(ctx, t, w.Office, "203.0.113.1:25", Messages(3, 0, "c@online.example"))
				must(t, w.Site.WaitQueue(ctx, "hub", 3))
			}
			must(t, w.Line.Connect(ctx))
			if c.ask {
				reply := dialogue(ctx, t, w.HubHost, siteLine+":25", "EHLO hub.example.net", "ETRN #hub")
				if !strings.Contains(reply, "\n250 Queuing started") {
					t.Errorf("the hub's ETRN: %s", reply)
				}
			}
			must(t, testbed.Until(ctx, "the line to be hung up", func() (bool, error) { return !w.Line.IsUp(), nil }))
			r := waitCalls(ctx, t, w, 1)[0]
			if c.in != (r.In.Messages == len(in)) || !c.in && r.In.Messages != 0 {
				t.Errorf("in: %+v", r)
			}
			if c.out != (r.Out.Messages == 3) || !c.out && r.Out.Messages != 0 {
				t.Errorf("out: %+v", r)
			}
			wantExit := api.ExitOK
			if strings.Contains(c.name, "not asked") {
				wantExit = api.ExitTempFail
			}
			if r.Exit != wantExit {
				t.Errorf("exit %d, want %d: %s", r.Exit, wantExit, r.Error)
			}
			if c.in {
				delivered(ctx, t, w.SiteHost, in)
			} else {
				must(t, w.Hub.WaitQueue(ctx, "acme", 3))
			}
			switch {
			case c.out:
				delivered(ctx, t, w.Online, out)
			case out != nil:
				must(t, w.Site.WaitQueue(ctx, "hub", 3))
			}
		})
	}
}

// A site that the hub knows by user and password, over STARTTLS with a
// certificate that is verified. Without TLS, with a wrong password and with a
// certificate of another name, nothing is given away and nothing moves.
func TestAuthenticatedCall(t *testing.T) {
	t.Parallel()
	hub := strings.Replace(HubConfig, `clients = ["192.0.2.2"]`, `users = ["acme"]`, 1)
	hub = strings.Replace(hub, "[odmr]\n", "[odmr]\ntls-cert = \"/etc/etrnd/hub.pem\"\ntls-key = \"/etc/etrnd/hub.key\"\nusers = \"/etc/etrnd/users\"\n", 1)
	remote := "router-type = \"pull-only\"\nrequest = [\"#acme\"]\ntls = \"require\"\ntls-ca = \"/etc/etrnd/ca.pem\"\nuser = \"acme\"\npassword-file = \"/etc/etrnd/password\"\n"
	cert, key := certificate(t, hubName)
	files := map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key}
	ctx, w := world(t, Options{
		HubConfig: hub, HubFiles: files, HubUsers: map[string]string{"acme": "correct horse"},
		SiteConfig: siteConfig(remote), SiteFiles: map[string]string{"/etc/etrnd/ca.pem": cert, "/etc/etrnd/password": "correct horse\n"},
	})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 3))

	calls := 0
	call := func(why string, exit int, says string) {
		t.Helper()
		_, err := w.Site.Ctl(ctx, "call", "hub", "--wait")
		calls++
		r := waitCalls(ctx, t, w, calls)[0]
		if r.Exit != exit || (err == nil) != (exit == 0) || !strings.Contains(r.Error+r.Hint, says) {
			t.Errorf("%s: %v, %+v", why, err, r)
		}
	}
	write := func(path, text string) {
		t.Helper()
		must(t, w.SiteHost.WriteFile(path, []byte(text), 0o640))
		_, err := w.SiteHost.Run(ctx, "chgrp", "etrnd", path)
		must(t, err)
	}
	write("/etc/etrnd/password", "wrong\n")
	call("a wrong password", api.ExitUnavailable, "password")
	write("/etc/etrnd/password", "correct horse\n")
	other, _ := certificate(t, "other.example.net")
	write("/etc/etrnd/ca.pem", other)
	call("an unknown certificate", api.ExitUnavailable, "tls-ca")
	write("/etc/etrnd/ca.pem", cert)
	unmoved(ctx, t, w, 3)
	call("all in order", api.ExitOK, "")
	delivered(ctx, t, w.SiteHost, ids)

	// A stranger sees no PLAIN without TLS, and is refused without AUTH.
	must(t, w.Line.Up(ctx))
	out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "ETRN #acme", "AUTH PLAIN AGFjbWUAY29ycmVjdCBob3JzZQ==", "QUIT")
	if strings.Contains(out, "PLAIN") && strings.Contains(out, "250-AUTH PLAIN") || !strings.Contains(out, "\n459 ") || strings.Contains(out, "\n235 ") {
		t.Errorf("a stranger: %s", out)
	}
	if log, err := w.HubHost.ReadFile("/var/log/etrnd.log"); err != nil || strings.Contains(string(log), "correct horse") {
		t.Errorf("the log of the hub: %v, or it has the password", err)
	}
}

// certificate makes a self-signed certificate and its key.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(priv)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// A new configuration comes into force on SIGHUP and on etrnctl reload; a bad
// one changes nothing and is told, with every problem and its line.
func TestReload(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(2, 0, "a@acme.example"))
	_ = ids
	must(t, w.Hub.WaitQueue(ctx, "acme", 2))
	write := func(text string) { must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(text), 0o644)) }

	bad := HubConfig + "\n[[queue]]\nname = \"acme\"\ndomains = [\"acme..example\"]\ndeliver = \"carrier-pigeon\"\nclient = [\"192.0.2.9\"]\n"
	write(bad)
	c := w.HubHost.Command(ctx, "etrnctl", "reload")
	text, err := c.CombinedOutput()
	if err == nil || c.ProcessState.ExitCode() != api.ExitConfig {
		t.Errorf("etrnctl reload of a bad file: %v, exit %d", err, c.ProcessState.ExitCode())
	}
	for _, want := range []string{"etrnd.toml:", "acme..example", "carrier-pigeon", "client", "old one stays"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("etrnctl reload does not say %q:\n%s", want, text)
		}
	}
	for _, program := range []string{"etrnd", "etrn-milter"} {
		c := w.HubHost.Command(ctx, program, "-check")
		if out, err := c.CombinedOutput(); err == nil || c.ProcessState.ExitCode() != api.ExitConfig || !strings.Contains(string(out), "acme..example") {
			t.Errorf("%s -check: %v, exit %d: %s", program, err, c.ProcessState.ExitCode(), out)
		}
	}
	must(t, w.Hub.Etrnd.Signal(syscall.SIGHUP))
	must(t, w.Hub.Milter.Signal(syscall.SIGHUP))
	if q, err := w.Hub.Queue(ctx, "acme"); err != nil || q.Messages != 2 {
		t.Errorf("after a bad reload: %+v, %v", q, err)
	}
	var status api.Status
	must(t, w.Hub.CtlJSON(ctx, &status, "status"))
	if status.Config.Rejected == nil || len(status.Config.Problems) < 3 {
		t.Errorf("status after a bad reload: %+v", status.Config)
	}

	// A third queue takes mail that was nobody's before.
	good := HubConfig + "\n[[queue]]\nname = \"gamma\"\ndomains = [\"gamma.example\"]\ndeliver = \"smtp:[mail.gamma.example]\"\nusers = [\"gamma\"]\n"
	write(good)
	if _, err := w.Hub.Ctl(ctx, "setup", "postfix", "--apply"); err != nil {
		t.Fatal(err)
	}
	must(t, w.Hub.Etrnd.Signal(syscall.SIGHUP))
	must(t, w.Hub.Milter.Signal(syscall.SIGHUP))
	must(t, testbed.Until(ctx, "the new queue to be known", func() (bool, error) {
		_, err := w.Hub.Queue(ctx, "gamma")
		return err == nil, nil
	}))
	send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "g@gamma.example"))
	must(t, w.Hub.WaitQueue(ctx, "gamma", 1))
	must(t, w.Hub.WaitQueue(ctx, "acme", 2))
	// Set up twice changes nothing.
	out, err := w.Hub.Ctl(ctx, "setup", "postfix")
	must(t, err)
	if strings.Contains(out, "+++") {
		t.Errorf("a second set-up would change: %s", out)
	}
}
