//go:build !quick

package setup

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// attempt is a line of the log in which a transport of ours has been at work.
var attempt = regexp.MustCompile(`postfix/(transient|held)[^ ]*/(smtp|lmtp)\[.*`)

// While a set-up is made, changed, renamed and undone, mail comes in without a
// break, and at every step the programs that say where it goes start anew and read
// what lies there: not one message is tried for a queue that nobody has asked for,
// and none is returned.
func TestNeverTriedMeanwhile(t *testing.T) {
	neverTried(t, postfix.Resolvers, func(string) bool { return true })
}

// The same with a queue manager that starts anew whenever a file has changed, and
// then knows of what is deferred by the files alone.
func TestNeverTriedByAnother(t *testing.T) {
	neverTried(t, postfix.QueueManagers, func(doing string) bool { return strings.Contains(doing, "the files") })
}

func neverTried(t *testing.T, programs []string, when func(doing string) bool) {
	const log = "/var/log/mail.log"
	opts := loops
	opts.Main = map[string]string{
		"mynetworks": "127.0.0.1/32", "relay_domains": "acme.example, beta.example", "transport_maps": "texthash:/etc/postfix/routes",
		"queue_run_delay": "1s", "minimal_backoff_time": "1s", "maximal_backoff_time": "2s",
		"maillog_file": log,
	}
	opts.Files = map[string]string{
		"/etc/hosts":          loops.Files["/etc/hosts"],
		"/etc/postfix/routes": "acme.example smtp:[127.0.0.1]:2525\nbeta.example smtp:[127.0.0.1]:2525\n",
	}
	postfixtest.Inside(t, opts, func(t *testing.T, ctx context.Context) {
		run(t, ctx, "postconf", "-F", "rewrite/unix/process_limit=1")
		run(t, ctx, "postfix", "reload")
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		sink := postfixtest.Listen(t, "127.0.0.1:2525")
		defer sink.Close()
		pf := postfix.New(postfix.Options{})
		sent := func(doing string) {
			ids := []string{postfixtest.Send(t, "x@acme.example"), postfixtest.Send(t, "x@beta.example")}
			if err := testbed.Until(ctx, "what is sent while "+doing, func() (bool, error) {
				text := postfixtest.Read(t, log)
				return !slices.ContainsFunc(ids, func(id string) bool { return !strings.Contains(text, " "+id+": to=<") }), nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		steps := 0
		step := func(doing string) {
			steps++
			// One that is ended before it has served is not started again for a
			// minute.
			sent(doing)
			if !when(doing) {
				return
			}
			list, err := pf.Processes(ctx, programs...)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list {
				_ = syscall.Kill(p.PID, syscall.SIGTERM) // it may have ended
			}
			sent(doing)
		}
		act := func(what string, pl *Plan, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			steps, pl.Tell = 0, step
			if err := pl.Apply(ctx); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			step("after it")
			text := postfixtest.Read(t, log)
			for _, line := range slices.Compact(append(attempt.FindAllString(text, 3), regexp.MustCompile(`.*status=bounced.*`).FindAllString(text, 3)...)) {
				t.Errorf("%s: %s", what, line)
			}
			if t.Failed() {
				t.FailNow()
			}
			if steps < 5 {
				t.Errorf("%s: only %d steps have been looked at", what, steps)
			}
		}
		step("nothing is held yet")
		req := Requirements{Routes: []Route{{Pattern: "acme.example", Deliver: "smtp:[192.0.2.25]", Relay: true}, {Pattern: "beta.example", Deliver: "smtp:[192.0.2.25]", Relay: true}}}
		make := func(what string) {
			t.Helper()
			pl, err := NewPlan(ctx, pf, req)
			act(what, pl, err)
		}
		make("first set-up")
		req.Routes[0].Deliver = "lmtp:inet:192.0.2.25:24"
		req.Routes[1].Deliver = "turn:/var/spool/postfix/etrnd/turn-beta.sock"
		make("other ways to deliver")
		req.Transport = "held"
		make("transport renamed")
		req.Routes = req.Routes[1:]
		make("a queue dropped")
		req.Routes = nil
		make("all dropped")
		if n := len(sink.Recipients()); n < 2 {
			t.Errorf("%d messages came before anything was held", n)
		}
		// What is held goes, and with it the rest of the set-up.
		run(t, ctx, "postsuper", "-d", "ALL")
		pl, err := NewUndo(ctx, pf, Requirements{Transport: "held"})
		if err == nil {
			err = pl.Apply(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		sameFiles(t, mainText, masterText)

		req = Requirements{Routes: []Route{{Pattern: "*", Deliver: "smtp:[192.0.2.25]"}, {Pattern: "beta.example", Deliver: "turn:/var/spool/postfix/etrnd/turn-beta.sock", Relay: true}}}
		postfixtest.Write(t, "/etc/postfix/routes", "")
		run(t, ctx, "postsuper", "-d", "ALL")
		postfixtest.Edit(t, mainCF, "relay_domains = acme.example, beta.example", "relay_domains =")
		apply(t, ctx, pf, req)
		pl, err = NewUndo(ctx, pf, Requirements{})
		act("undone", pl, err)
		if _, err := os.Stat("/etc/postfix/etrnd/transport"); err != nil {
			t.Errorf("nothing keeps what is held: %v", err)
		}
	})
}
