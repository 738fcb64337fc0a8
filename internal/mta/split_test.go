//go:build !quick

package mta

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/testbed"
)

// The port of the split has to be free: by a port that it cannot have,
// Postfix's master is ended, and all mail with it.
func TestSplitPort(t *testing.T) {
	inside(t, testbed.PostfixOptions{Master: []string{"127.0.0.1:10367 inet n - n - - smtpd"}}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		w := heldWanted()
		w.Milter = "unix:/var/spool/postfix/etrnd/milter.sock"
		listen(t, "127.0.0.1:10366")
		for split, want := range map[string]string{
			"127.0.0.1:10366": "is in use",
			"127.0.0.1:10367": "an entry 127.0.0.1:10367/inet of its own", // the user's, without our milter
			"192.0.2.1:10368": "no port of the loopback",
			"localhost:10368": "no port of the loopback",
			"127.0.0.1:0":     "no port of the loopback",
		} {
			w.Split = split
			if _, err := p.Plan(ctx, w); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", split, err, want)
			}
		}
		// Once it is Postfix's own it is no obstacle, and can be changed.
		for _, split := range []string{"127.0.0.1:10368", "127.0.0.1:10368", "127.0.0.1:10369", ""} {
			w.Split = split
			pl := apply(t, ctx, p, w)
			if warned := slices.Contains(pl.Warnings, splitEnds); warned != (split == "") {
				t.Errorf("%q: warnings %q", split, pl.Warnings)
			}
		}
	})
}
