//go:build !quick

package interop

import (
	"testing"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// Our site calls a Postfix that holds mail as its ETRN_README says, without
// anything of ours. It has never more to say than that it has begun.
func TestPostfixHub(t *testing.T) {
	t.Parallel()
	ctx, p := dialled(t)
	_, err := p.hub.Postfix(ctx, testbed.PostfixOptions{
		Main: map[string]string{
			"mynetworks":         "127.0.0.0/8, " + siteAddr,
			"relay_domains":      "acme.example, beta.example",
			"transport_maps":     "inline:{{acme.example = etrn-only:[mail.acme.example]}, {beta.example = etrn-only:[mail.acme.example]}}",
			"defer_transports":   "etrn-only",
			"fast_flush_domains": "$relay_domains",
		},
		Master: []string{"etrn-only unix - - n - - smtp"},
		Final:  []string{"online.example"},
	})
	must(t, err)
	site := ourSite(ctx, t, p.site, callConfig(p, `"acme.example"`))
	r := callsForMail(ctx, t, p, site, func(n int) { must(t, p.hub.WaitQueue(ctx, n)) })
	if r.Exit != api.ExitOK {
		t.Errorf("result of the call: %+v", r)
	}
}
