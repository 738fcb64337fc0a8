//go:build !quick

package scenario

import (
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/api"
)

// Addresses that look odd and are legal (RFC 5321, section 4.1.2) cross over a turned
// connection as they are. What could mean another address to the site's mail server
// stays at the hub, and the call says that it is for its form.
func TestOddLocalParts(t *testing.T) {
	t.Parallel()
	ctx, w := worldTurn(t, Options{})
	odd := []string{`"a\"b"@acme.example`, `"a\\b"@acme.example`, `"a,b;(c)[d]"@acme.example`, `"odd name"@acme.example`}
	ids := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, odd...))
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	if text, r := callAndSay(ctx, t, w, 1); r.Exit != api.ExitOK || r.In.Messages != 1 {
		t.Errorf("exit %d, %d came: %s", r.Exit, r.In.Messages, text)
	}
	delivered(ctx, t, w.SiteHost, ids)
	all, err := w.SiteHost.Delivered()
	must(t, err)
	var to []string
	for _, d := range all {
		to = append(to, d.Recipient)
	}
	for _, address := range odd {
		if !slices.Contains(to, address) {
			t.Errorf("nothing was delivered to %s, but to %q", address, to)
		}
	}
	log, err := w.SiteHost.ReadFile("/var/log/mail.log")
	must(t, err)
	for _, address := range odd {
		if !strings.Contains(string(log), "to=<"+address+">") {
			t.Errorf("the site's Postfix had nothing for %s", address)
		}
	}

	send(ctx, t, w.Online, hubName+":25", Messages(1, 0, `":include:/x"@acme.example`))
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	if text, r := callAndSay(ctx, t, w, 2); r.Exit != api.ExitUnavailable || !strings.Contains(r.Error, "refused for the form of an address") || strings.Contains(text, "belongs into request") {
		t.Errorf("exit %d: %s", r.Exit, text)
	}
	keeps(ctx, t, w, 1)
}
