//go:build !quick

package scenario

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

// iridium is a line of 2,400 bit/s by satellite telephone.
var iridium = testbed.Shape{RTT: 1800 * time.Millisecond, Rate: 2400}

// A site that always has something to send gets its mail, on the thinnest line: it
// asks first, over TLS, and what goes out leaves room for what comes in. Its messages,
// one at a time, share one connection and its handshake.
func TestThinLine(t *testing.T) {
	t.Parallel()
	thinLine(t, iridium, 5, 1000)
}

// thinLine sends messages both ways in one call.
func thinLine(t *testing.T, shape testbed.Shape, n, size int) {
	cert, key := certificate(t, hubName)
	hub := strings.Replace(HubConfig, "[odmr]\n", "[odmr]\ntls-cert = \"/etc/etrnd/hub.pem\"\ntls-key = \"/etc/etrnd/hub.key\"\n", 1)
	ctx, w := world(t, Options{
		Shape: shape, HubConfig: hub, HubFiles: map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key},
		SiteConfig: siteConfig("router-type = \"pull-push\"\nrequest = [\"acme.example\"]\npush = [\"*\"]\ntls = \"require\"\ntls-ca = \"/etc/etrnd/ca.pem\"\n"),
		SiteFiles:  map[string]string{"/etc/etrnd/ca.pem": cert},
	})
	for _, h := range []*testbed.Host{w.HubHost, w.SiteHost} {
		postfixTLS(ctx, t, h, cert, key)
	}
	in := send(ctx, t, w.Online, hubName+":25", Messages(1, size, "a@acme.example"))
	out := send(ctx, t, w.Office, "203.0.113.1:25", Messages(n, size, "c@online.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	must(t, w.Site.WaitQueue(ctx, "hub", n))
	text, r := callAndSay(ctx, t, w, 1)
	t.Log(text)
	if r.Exit != 0 || r.In.Messages != 1 || r.Out.Messages != n {
		log, _ := w.SiteHost.ReadFile("/var/log/etrnd.log")
		t.Fatalf("result %+v\n%s", r, log)
	}
	delivered(ctx, t, w.SiteHost, in)
	delivered(ctx, t, w.Online, out)
	log, err := w.HubHost.ReadFile("/var/log/mail.log")
	must(t, err)
	// The connection is kept for longer than it takes to let the next message go, but
	// on a machine that stands still.
	if got := regexp.MustCompile(`smtpd\[\d+\]: Anonymous TLS connection established from mail\.acme`).FindAll(log, -1); len(got) == 0 || len(got) > 2 {
		t.Errorf("%d handshakes for %d messages", len(got), n)
	}
}

// postfixTLS makes a host's Postfix offer TLS and use it where it is offered.
func postfixTLS(ctx context.Context, t *testing.T, h *testbed.Host, cert, key string) {
	t.Helper()
	must(t, h.WriteFile("/etc/postfix/own.pem", []byte(key+cert), 0o600))
	setPostfix(ctx, t, h, "smtpd_tls_chain_files=/etc/postfix/own.pem", "smtpd_tls_security_level=may", "smtp_tls_security_level=may", "smtp_tls_loglevel=1", "smtpd_tls_loglevel=1")
}
