//go:build !quick

package setup

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// loops are hosts whose mail leads back to this one: without a route of its own
// it is returned to its senders at the next attempt.
var loops = testbed.PostfixOptions{Files: map[string]string{
	"/etc/hosts": "127.0.0.1 localhost acme.example sub.acme.example beta.example gamma.example x.example\n",
}, Main: map[string]string{"mynetworks": "127.0.0.1/32", "queue_run_delay": "1s", "minimal_backoff_time": "1s", "maximal_backoff_time": "2s"}}

var threeQueues = Requirements{Routes: []Route{
	{Pattern: "acme.example", Deliver: "smtp:[192.0.2.25]", Relay: true},
	{Pattern: ".acme.example", Deliver: "smtp:[192.0.2.25]", Relay: true},
	{Pattern: "beta.example", Deliver: "turn:/var/spool/postfix/etrnd/turn-beta.sock", Relay: true},
	{Pattern: "boss@gamma.example", Deliver: "smtp:[192.0.2.26]"},
}}

// without are the requirements less the routes of some patterns.
func without(req Requirements, patterns ...string) Requirements {
	req.Routes = slices.DeleteFunc(slices.Clone(req.Routes), func(r Route) bool { return slices.Contains(patterns, r.Pattern) })
	return req
}

// unmoved sees that these messages and no others are in the queue after
// Postfix has been told to try everything, and has: nothing was delivered and
// nothing returned.
func unmoved(t *testing.T, ctx context.Context, pf *postfix.Instance, when string, ids ...string) {
	t.Helper()
	slices.Sort(ids)
	tries := func(id string) int { return strings.Count(postfixtest.Read(t, "/var/log/mail.log"), " "+id+": to=<") }
	before := map[string]int{}
	for _, id := range ids {
		before[id] = tries(id)
	}
	run(t, ctx, "postqueue", "-f")
	q := postfixtest.Settled(t, ctx, pf, when+": all of it tried again", func(q postfixtest.Queue) bool {
		return !slices.ContainsFunc(ids, func(id string) bool {
			// A listing can miss one that is being moved at that moment.
			m, there := q[id]
			return !there || m.Queue != "hold" && tries(id) < before[id]+2
		})
	})
	if got := slices.Sorted(maps.Keys(q)); !slices.Equal(got, ids) {
		t.Fatalf("%s: the queue has %q, want %q; %+v\n%s", when, got, ids, q, run(t, ctx, "tail", "-30", "/var/log/mail.log"))
	}
}

func keptPatterns(pl *Plan) (list []string) {
	for _, k := range pl.Kept {
		list = append(list, k.Pattern)
	}
	return list
}

// A domain dropped, a queue dropped, all of it undone: what is held stays held
// through everything that Postfix may be told, until an operator lets it go.
func TestDroppedMailStaysHeld(t *testing.T) {
	postfixtest.Inside(t, loops, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		apply(t, ctx, pf, threeQueues)
		acme := postfixtest.Send(t, "a@acme.example", "b@acme.example")
		sub := postfixtest.Send(t, "a@sub.acme.example")
		beta := postfixtest.Send(t, "B@beta.example")
		boss := postfixtest.Send(t, "boss+x@gamma.example")
		postfixtest.Settled(t, ctx, pf, "all held", func(q postfixtest.Queue) bool {
			return postfixtest.Held(q[acme], 2) && postfixtest.Held(q[sub], 1) && postfixtest.Held(q[beta], 1) && postfixtest.Held(q[boss], 1)
		})
		run(t, ctx, "postsuper", "-h", sub) // on hold counts too

		// A turned queue under another name: another socket, and nothing more.
		renamed := threeQueues
		renamed.Routes = slices.Clone(threeQueues.Routes)
		renamed.Routes[2].Deliver = "turn:/var/spool/postfix/etrnd/turn-gamma.sock"
		if pl := apply(t, ctx, pf, renamed); len(pl.Kept) != 0 {
			t.Errorf("for another name of a queue %q is kept", keptPatterns(pl))
		}
		unmoved(t, ctx, pf, "renamed", acme, sub, beta, boss)

		// One pattern of a queue, and a turned queue.
		req := without(threeQueues, ".acme.example", "beta.example")
		pl, err := NewPlan(ctx, pf, req)
		if err != nil {
			t.Fatal(err)
		}
		if got := keptPatterns(pl); !slices.Equal(got, []string{"beta.example", "sub.acme.example"}) {
			t.Errorf("the plan keeps %q", got)
		}
		if w := strings.Join(pl.Warnings, "\n"); !strings.Contains(w, "2 messages: beta.example (1 message), sub.acme.example (1 message)") || !strings.Contains(w, "returns the oldest") || !strings.Contains(w, ".acme.example, beta.example") {
			t.Errorf("the plan says\n%s", w)
		}
		unmoved(t, ctx, pf, "before the set-up", acme, sub, beta, boss)
		if err := pl.Apply(ctx); err != nil {
			t.Fatal(err)
		}
		run(t, ctx, "postsuper", "-H", sub)
		unmoved(t, ctx, pf, "domains dropped", acme, sub, beta, boss)
		if code := strangersRcpt(t, "x@beta.example"); code/100 == 2 {
			t.Errorf("a stranger's mail for a dropped domain is answered %d", code)
		}
		// Of the same again there is nothing to do, and the daemon, which asks
		// without a look at the queue, agrees.
		apply(t, ctx, pf, req)
		unseen := req
		unseen.Unseen = true
		if pl, err := NewPlan(ctx, pf, unseen); err != nil || !pl.Empty() {
			t.Errorf("the daemon thinks otherwise: %v\n%s", err, pl.Diff())
		}
		run(t, ctx, "postfix", "stop")
		run(t, ctx, "postfix", "start")
		unmoved(t, ctx, pf, "Postfix restarted", acme, sub, beta, boss)

		// The transport gets another name, and the last queue goes.
		req.Transport = "held"
		apply(t, ctx, pf, req)
		unmoved(t, ctx, pf, "transport renamed", acme, sub, beta, boss)
		req.Routes = nil
		pl = apply(t, ctx, pf, req)
		if got := keptPatterns(pl); !slices.Equal(got, []string{"acme.example", "beta.example", "boss@gamma.example", "sub.acme.example"}) {
			t.Errorf("kept are %q", got)
		}
		unmoved(t, ctx, pf, "no queue left", acme, sub, beta, boss)

		// Everything undone.
		pl = undo(t, ctx, pf)
		if len(pl.Kept) != 4 {
			t.Errorf("the undo keeps %+v", pl.Kept)
		}
		unmoved(t, ctx, pf, "undone", acme, sub, beta, boss)
		for _, name := range []string{"smtpd_milters", "smtpd_etrn_restrictions", "relay_domains"} {
			if got := setting(t, ctx, pf, name); strings.Contains(got, "etrnd") {
				t.Errorf("after the undo %s = %s", name, got)
			}
		}
		if pl := undo(t, ctx, pf); len(pl.Kept) != 4 || !pl.Empty() {
			t.Errorf("a second undo does something: %+v", pl)
		}

		// A queue again: its mail is where it was.
		req = without(threeQueues, "beta.example", "boss@gamma.example")
		pl = apply(t, ctx, pf, req)
		if got := keptPatterns(pl); !slices.Equal(got, []string{"beta.example", "boss@gamma.example"}) {
			t.Errorf("kept are %q", got)
		}
		unmoved(t, ctx, pf, "a queue again", acme, sub, beta, boss)

		// Let go: Postfix decides, and here it knows no way.
		req.LetGo = []string{"Beta.example"}
		pl, err = NewPlan(ctx, pf, req)
		if err != nil {
			t.Fatal(err)
		}
		if said := pl.Returned(ctx); len(said) != 1 || !strings.Contains(said[0], "beta.example will be returned to its senders: its mail exchanger is this host") {
			t.Errorf("of what is let go it says %q", said)
		}
		if err := pl.Apply(ctx); err != nil {
			t.Fatal(err)
		}
		postfixtest.Settled(t, ctx, pf, "what was let go to be gone", func(q postfixtest.Queue) bool { _, there := q[beta]; return !there })
		if _, err := NewPlan(ctx, pf, req); !errors.Is(err, ErrNotKept) {
			t.Errorf("let go twice: %v", err)
		}
		req.LetGo = nil
		run(t, ctx, "postsuper", "-d", boss)
		pl, err = NewPlan(ctx, pf, req)
		if err != nil || pl.Empty() || !strings.Contains(strings.Join(pl.Warnings, "\n"), "nothing is held any more for boss@gamma.example") {
			t.Errorf("a route that has served: %v, %q", err, pl.Warnings)
		}
		apply(t, ctx, pf, req)

		// On hold, nothing of ours is needed.
		pl, err = NewUndo(ctx, pf, Requirements{Held: HeldOnHold})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(pl.Diff(), "-defer_transports") {
			t.Errorf("the plan leaves something:\n%s", pl.Diff())
		}
		if err := pl.Apply(ctx); err != nil || pl.Left() != "" {
			t.Fatalf("%v, left is %q", err, pl.Left())
		}
		q := postfixtest.Settled(t, ctx, pf, "on hold", func(q postfixtest.Queue) bool { return q[acme].Queue == "hold" && q[sub].Queue == "hold" })
		for id, m := range q {
			if m.Sender == "" {
				t.Logf("the one that was let go was returned, as %s", id)
			}
		}
		sameFiles(t, mainText, masterText)
		if _, err := os.Stat("/etc/postfix/etrnd"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the undo has left its directory: %v", err)
		}
	})
}

// Mail that is brought by a session which began before the change is not lost
// sight of, and neither is what waits in maildrop while Postfix is stopped.
func TestDroppedMailThatIsOnItsWay(t *testing.T) {
	postfixtest.Inside(t, loops, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		apply(t, ctx, pf, threeQueues)
		late := openSession(t, "late@beta.example") // up to DATA
		req := without(threeQueues, "beta.example", ".acme.example")
		pl, err := NewPlan(ctx, pf, req)
		if err != nil {
			t.Fatal(err)
		}
		if len(pl.Kept) != 0 {
			t.Errorf("kept are %+v", pl.Kept)
		}
		if err := pl.Apply(ctx); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(pl.Note, "began before the change") {
			t.Errorf("the note is %q", pl.Note)
		}
		id := late()
		unmoved(t, ctx, pf, "brought late", id)
		pl = apply(t, ctx, pf, req)
		if got := keptPatterns(pl); !slices.Equal(got, []string{"beta.example"}) || pl.Note != "" {
			t.Errorf("kept are %q, the note is %q", got, pl.Note)
		}
		table := postfixtest.Read(t, "/etc/postfix/etrnd/transport")
		if strings.Contains(table, "\n.acme.example") || !strings.Contains(table, "\nbeta.example") {
			t.Errorf("the table is\n%s", table)
		}

		run(t, ctx, "postfix", "stop")
		if out, err := exec.CommandContext(ctx, "sh", "-c", "echo text | sendmail -f s@client.example drop@acme.example").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		if files, _ := filepath.Glob("/var/spool/postfix/maildrop/*"); len(files) != 1 {
			t.Fatalf("maildrop has %q", files)
		}
		pl = undo(t, ctx, pf)
		if got := keptPatterns(pl); !slices.Equal(got, []string{"acme.example", "beta.example"}) {
			t.Errorf("with Postfix stopped kept are %q", got)
		}
		run(t, ctx, "postfix", "start")
		q := postfixtest.Settled(t, ctx, pf, "maildrop to be read", func(q postfixtest.Queue) bool {
			n := 0
			for _, m := range q {
				if postfixtest.Held(m, 1) {
					n++
				}
			}
			return n == 2
		})
		unmoved(t, ctx, pf, "started again", slices.Collect(maps.Keys(q))...)
	})
}

// The queue of "*" goes, and what it held stays where it is; what comes new
// goes as on any Postfix.
func TestDroppedRest(t *testing.T) {
	postfixtest.Inside(t, loops, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		rest := Requirements{Routes: []Route{{Pattern: "*", Deliver: "smtp:[192.0.2.25]"}}}
		apply(t, ctx, pf, rest)
		a, b := postfixtest.Send(t, "a@x.example"), postfixtest.Send(t, "b@[192.0.2.9]")
		postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool { return postfixtest.Held(q[a], 1) && postfixtest.Held(q[b], 1) })
		pl := undo(t, ctx, pf)
		if got := keptPatterns(pl); !slices.Equal(got, []string{"[192.0.2.9]", "x.example"}) {
			t.Errorf("kept are %q", got)
		}
		unmoved(t, ctx, pf, "undone", a, b)
		if got := setting(t, ctx, pf, "default_transport"); got != "smtp" {
			t.Errorf("default_transport = %s", got)
		}
		pl, err := NewUndo(ctx, pf, Requirements{Held: HeldDeliver})
		if err == nil {
			err = pl.Apply(ctx)
		}
		if err != nil || len(pl.Kept) != 0 {
			t.Fatalf("%v, %+v", err, pl.Kept)
		}
		postfixtest.Settled(t, ctx, pf, "the one to be returned, and the other tried", func(q postfixtest.Queue) bool { _, there := q[a]; return !there })
		sameFiles(t, mainText, masterText)
	})
}
