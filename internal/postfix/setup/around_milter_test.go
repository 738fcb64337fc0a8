//go:build !quick

package setup

import (
	"context"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
	"github.com/etrnd/etrnd/internal/testbed"
	"github.com/etrnd/etrnd/milter"
)

// What filters and old settings make of the milter: seen twice, a message has its
// tag once; behind a filter before the queue it is the port on the way back that
// counts. However that is, the mail is held.
func TestAroundMilter(t *testing.T) {
	opts := testbed.PostfixOptions{
		Main: map[string]string{"milter_protocol": "2", "milter_default_action": "tempfail", "content_filter": "scan:[127.0.0.1]:10025"},
		Master: []string{
			"scan unix - - n - - smtp",
			"127.0.0.1:10025 inet n - n - - smtpd\n  -o content_filter=", // asks the milter once more
			"2526 inet n - n - - smtpd\n  -o smtpd_proxy_filter=127.0.0.1:10026\n  -o content_filter=",
			"127.0.0.1:10026 inet n - n - - smtpd\n  -o content_filter=\n  -o smtpd_milters=",
			"2527 inet n - n - - smtpd\n  -o smtpd_proxy_filter=127.0.0.1:10027\n  -o content_filter=",
			"127.0.0.1:10027 inet n - n - - smtpd\n  -o content_filter=",
		},
	}
	postfixtest.Inside(t, opts, func(t *testing.T, ctx context.Context) {
		const socket = "/var/spool/postfix/etrn-milter/milter.sock"
		if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", socket)
		if err == nil {
			err = os.Chmod(socket, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
		pattern, err := queue.ParsePattern("acme.example")
		if err != nil {
			t.Fatal(err)
		}
		set, err := queue.NewSet([]queue.Queue{{Name: "acme", Domains: []queue.Pattern{pattern}}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := milter.New(milter.Options{
			Settings: milter.Settings{Header: "X-ETRN-Queue", Queues: set},
			Report:   func(report.Event) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		serving, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- m.Serve(serving, l) }()
		defer func() { stop(); <-done }()

		pf := postfix.New(postfix.Options{})
		req := twoQueues
		req.Milter = "unix:" + socket
		apply(t, ctx, pf, req)
		for port, tags := range map[string]int{"25": 1, "2526": 0, "2527": 1} {
			if err := smtp.SendMail("127.0.0.1:"+port, nil, "s@client.example", []string{"a@acme.example"}, []byte("Subject: test\r\nX-ETRN-Queue: beta\r\n\r\ntext\r\n")); err != nil {
				t.Fatalf("port %s: %v", port, err)
			}
			q := postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool {
				for _, m := range q {
					if !postfixtest.Held(m, 1) {
						return false
					}
				}
				return len(q) == 1
			})
			for id := range q {
				if text := run(t, ctx, "postcat", "-qh", id); strings.Count(text, "X-ETRN-Queue: acme") != tags || tags > 0 && strings.Contains(text, "beta") {
					t.Errorf("port %s: want %d tags:\n%s", port, tags, text)
				}
				run(t, ctx, "postsuper", "-d", id)
			}
			postfixtest.Settled(t, ctx, pf, "gone", func(q postfixtest.Queue) bool { return len(q) == 0 })
		}
	})
}

// At a site, what is beyond the line is in order until the line is there, and
// what is sent goes to the hub and to no relay of before.
func TestAroundSite(t *testing.T) {
	main := map[string]string{
		"smtpd_recipient_restrictions":    "permit_mynetworks, reject_unauth_destination",
		"smtpd_sender_restrictions":       "reject_unverified_sender, reject_unverified_recipient",
		"address_verify_map":              "",
		"address_verify_poll_count":       "30",
		"address_verify_poll_delay":       "1s",
		"relayhost":                       "[127.0.0.1]:2599",
		"sender_dependent_relayhost_maps": "static:[127.0.0.1]:2599",
		"smtp_fallback_relay":             "[127.0.0.1]:2599",
		"minimal_backoff_time":            "1000s",
	}
	postfixtest.Inside(t, testbed.PostfixOptions{Main: main}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		apply(t, ctx, pf, Requirements{Routes: []Route{{Pattern: "*", Deliver: "smtp:[127.0.0.1]:2501"}}})
		elsewhere := postfixtest.Listen(t, "127.0.0.1:2599")
		if got := rcpt(t, "user@far.example", "a@farther.example"); got != 250 {
			t.Errorf("RCPT without a line: %d", got)
		}
		send(t, "user@far.example", "a@farther.example")
		q := postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool {
			for _, m := range q {
				return len(q) == 1 && postfixtest.Held(m, 1)
			}
			return false
		})
		var ids []string
		for id := range q {
			ids = append(ids, id)
		}
		postfixtest.Released(t, ctx, pf, nil, ids, "tried in vain", func(q postfixtest.Queue) bool { return postfixtest.Failed(q[ids[0]], 1) })
		hub := postfixtest.Listen(t, "127.0.0.1:2501")
		postfixtest.Released(t, ctx, pf, nil, ids, "sent", func(q postfixtest.Queue) bool { return len(q) == 0 })
		if len(hub.Recipients()) != 1 || len(elsewhere.Recipients()) != 0 {
			t.Errorf("the hub has %q, another relay %q", hub.Recipients(), elsewhere.Recipients())
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}
