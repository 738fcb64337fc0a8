//go:build !quick

package scenario

import (
	"strings"
	"testing"
)

// Whoever has taken over a site, with its password, gets the mail of that site and
// of no other, by whatever name he asks. (What a hub can do to a site is in
// atrn_receive_test.go.)
func TestTakenSite(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	send(ctx, t, w.Online, hubName+":25", Messages(2, 0, "g@gamma.example"))
	send(ctx, t, w.Online, hubName+":25", Messages(2, 0, "b@beta.example"))
	own := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "a@acme.example"))
	for queue, n := range map[string]int{"gamma": 2, "beta": 2, "acme": 1} {
		must(t, w.Hub.WaitQueue(ctx, queue, n))
	}
	for _, domains := range []string{"gamma.example", "acme.example,gamma.example", "sub.gamma.example", "beta.example", "unknown.example"} {
		conn, answer := atrn(ctx, t, w.SiteHost, "acme", domains)
		conn.Close()
		if !strings.HasPrefix(answer, "450 ") {
			t.Errorf("ATRN %s: %s", domains, answer)
		}
	}
	for _, name := range []string{"gamma.example", "#gamma", "@example", "beta.example", "#beta"} {
		if out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "ETRN "+name, "QUIT"); !strings.Contains(out, "\n459 ") {
			t.Errorf("ETRN %s: %s", name, out)
		}
	}
	// All that is his, and nothing else.
	conn, answer := atrn(ctx, t, w.SiteHost, "acme", "")
	if !strings.HasPrefix(answer, "250 ") {
		t.Fatalf("ATRN: %s", answer)
	}
	if err := pass(ctx, conn, w.SiteHost, "127.0.0.1:25"); err != nil {
		t.Error(err)
	}
	delivered(ctx, t, w.SiteHost, own)
	for queue, n := range map[string]int{"gamma": 2, "beta": 2, "acme": 0} {
		must(t, w.Hub.WaitQueue(ctx, queue, n))
	}
}
