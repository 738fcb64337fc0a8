//go:build !quick

package scenario

import (
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

// iridium is a line of 2,400 bit/s by satellite telephone.
var iridium = testbed.Shape{RTT: 1800 * time.Millisecond, Rate: 2400}

// A site that always has something to send gets its mail, on the thinnest line: it
// asks first, over TLS, and what goes out leaves room for what comes in.
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
}
