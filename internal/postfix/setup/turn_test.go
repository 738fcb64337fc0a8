//go:build !quick

package setup

import (
	"context"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// Queues that are delivered over turned connections: each goes to a socket of
// its own, without a limit for all of them together.
func TestTurned(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		req := Requirements{Routes: []Route{
			{Pattern: "acme.example", Deliver: "turn:/var/spool/postfix/etrnd/turn-acme.sock", Relay: true},
			{Pattern: ".acme.example", Deliver: "turn:/var/spool/postfix/etrnd/turn-acme.sock", Relay: true},
			{Pattern: "gamma.example", Deliver: "turn:/var/spool/postfix/etrnd/turn-gamma.sock", Relay: true},
			{Pattern: "beta.example", Deliver: "smtp:[192.0.2.1]", Relay: true},
		}}
		apply(t, ctx, pf, req)
		table := postfixtest.Read(t, "/etc/postfix/etrnd/transport")
		for _, line := range []string{
			"acme.example                    transient-turn:unix:etrnd/turn-acme.sock\n",
			"\n.acme.example                   transient-turn:unix:etrnd/turn-acme.sock\n",
			"\ngamma.example                   transient-turn:unix:etrnd/turn-gamma.sock\n",
			"\nbeta.example                    transient:[192.0.2.1]\n",
		} {
			if !strings.Contains(table, line) {
				t.Errorf("the table lacks %q:\n%s", line, table)
			}
		}
		if got := setting(t, ctx, pf, "defer_transports"); !strings.Contains(got, "transient-turn") {
			t.Errorf("defer_transports is %q", got)
		}
		for name, want := range map[string]string{
			"_initial_destination_concurrency":             turnInitial,
			"_destination_concurrency_limit":               turnDeliveries,
			"_destination_recipient_limit":                 turnRecipients,
			"_destination_concurrency_failed_cohort_limit": "0",
			"_destination_concurrency_negative_feedback":   "0",
		} {
			if got := setting(t, ctx, pf, "transient-turn"+name); got != want {
				t.Errorf("transient-turn%s is %q, want %q", name, got, want)
			}
		}
		if master := postfixtest.Read(t, masterCF); !strings.Contains(master, "\ntransient-turn unix  -       -       n       -       0       lmtp\n") {
			t.Errorf("master.cf:\n%s", master)
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}
