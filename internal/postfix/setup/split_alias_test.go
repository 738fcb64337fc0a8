//go:build !quick

package setup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// What is for one recipient as it comes in, and for two queues by the
// postmaster's own tables, is taken apart, with no milter running; no copy is
// rewritten once more, and a long list stays whole.
func TestSplitAliases(t *testing.T) {
	long := make([]string, maxAliasMembers+1)
	for i := range long {
		long[i] = fmt.Sprintf("m%d@acme.example", i)
	}
	long[0] = "m0@beta.example"
	files := map[string]string{
		"/etc/postfix/virtual": "list@hub.example.net a@acme.example, b@beta.example\n" +
			"one@hub.example.net c@acme.example\n" +
			"nested@hub.example.net one@hub.example.net, d@beta.example\n" +
			"long@hub.example.net " + strings.Join(long, ", ") + "\n" +
			"@lists.example e@acme.example, f@beta.example\n" +
			"f@beta.example f@beta.example, more@beta.example\n", // itself and another: twice if it were looked up twice
		"/etc/postfix/copies": "secret@acme.example copy@beta.example\n",
	}
	main := map[string]string{
		"virtual_alias_maps":           "texthash:/etc/postfix/virtual",
		"virtual_alias_domains":        "lists.example",
		"recipient_bcc_maps":           "texthash:/etc/postfix/copies",
		"smtpd_recipient_restrictions": "permit_mynetworks, reject",
		"minimal_backoff_time":         "1000s",
		"queue_run_delay":              "1000s",
	}
	postfixtest.Inside(t, testbed.PostfixOptions{Main: main, Files: files}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		req := twoQueues
		req.Milter, req.Split = "unix:/var/spool/postfix/etrnd/milter.sock", "127.0.0.1:10366"
		apply(t, ctx, pf, req)

		for _, to := range [][]string{{"list@hub.example.net"}, {"one@hub.example.net", "g@beta.example"}, {"nested@hub.example.net"}, {"x@lists.example"}, {"secret@acme.example"}} {
			postfixtest.Send(t, to...)
		}
		whole := postfixtest.Send(t, "long@hub.example.net")
		plain := postfixtest.Send(t, "plain@acme.example")
		acme := []string{"a@acme.example", "c@acme.example", "c@acme.example", "e@acme.example", "plain@acme.example", "secret@acme.example"}
		beta := []string{"b@beta.example", "copy@beta.example", "d@beta.example", "f@beta.example", "g@beta.example", "more@beta.example"}
		everybody := slices.Sorted(slices.Values(slices.Concat(acme, beta)))
		postfixtest.Settled(t, ctx, pf, "one file for each", func(q postfixtest.Queue) bool {
			var singles []string
			for id, m := range q {
				if id != whole {
					if !postfixtest.Held(m, 1) {
						return false
					}
					singles = append(singles, m.Recipients[0].Address)
				}
			}
			slices.Sort(singles)
			_, untouched := q[plain]
			return untouched && postfixtest.Held(q[whole], len(long)) && slices.Equal(singles, everybody)
		})

		// A release of one leaves the other's alone. The long list is tried for
		// both, which is why it is asked for last.
		a := postfixtest.Listen(t, "127.0.0.1:2501")
		var ids []string
		list, err := mta.All(ctx, pf)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if m.ID != whole && strings.HasSuffix(m.Recipients[0].Address, "@acme.example") {
				ids = append(ids, m.ID)
			}
		}
		q := postfixtest.Released(t, ctx, pf, nil, ids, "acme served", func(q postfixtest.Queue) bool { return len(q) == len(beta)+1 })
		for id, m := range q {
			if id != whole && !postfixtest.Held(m, 1) {
				t.Errorf("beta's is %+v", m)
			}
		}
		if got := a.Recipients(); !slices.Equal(got, acme) {
			t.Errorf("acme got %q, want %q", got, acme)
		}

		// The aliases go, and nobody has run the set-up since: mail is taken on.
		const with, without = "virtual_alias_maps = texthash:/etc/postfix/virtual", "virtual_alias_maps ="
		postfixtest.Edit(t, mainCF, with, without)
		mainText = strings.Replace(mainText, with, without, 1)
		run(t, ctx, "rm", "/etc/postfix/virtual")
		run(t, ctx, "postfix", "reload")
		postfixtest.Send(t, "list@acme.example")

		req.Split = ""
		apply(t, ctx, pf, req)
		run(t, ctx, "postsuper", "-d", "ALL") // what is held would keep a part of the set-up
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}
