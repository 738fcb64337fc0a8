//go:build !quick

package postfix_test

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
	"time"

	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/postfix/setup"
	"github.com/etrnd/etrnd/internal/testbed"
)

// twoQueues are the requirements of most tests here.
var twoQueues = setup.Requirements{Routes: []setup.Route{
	{Pattern: "acme.example", Deliver: "smtp:[127.0.0.1]:2501", Relay: true},
	{Pattern: "beta.example", Deliver: "smtp:[127.0.0.1]:2502", Relay: true},
}}

// held returns the host's Postfix, set up for twoQueues.
func held(t *testing.T, ctx context.Context) *postfix.Instance {
	t.Helper()
	pf := postfix.New(postfix.Options{})
	pl, err := setup.NewPlan(ctx, pf, twoQueues)
	if err != nil {
		t.Fatal(err)
	}
	if err := pl.Apply(ctx); err != nil {
		t.Fatal(err)
	}
	return pf
}

// run runs a command of the host.
func run(t *testing.T, ctx context.Context, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// seldom keeps Postfix from trying anything by itself while a test looks.
func seldom(more map[string]string) map[string]string {
	m := map[string]string{"minimal_backoff_time": "1s", "queue_run_delay": "1000s"}
	maps.Copy(m, more)
	return m
}

func TestIsLocal(t *testing.T) {
	opts := testbed.PostfixOptions{
		Main: map[string]string{
			"mydestination":           "$myhostname, !no.example, /etc/postfix/finals, texthash:/etc/postfix/table",
			"virtual_alias_maps":      "texthash:/etc/postfix/virtual",
			"virtual_mailbox_domains": "box.example",
			"relay_domains":           "relay.example",
			"inet_interfaces":         "127.0.0.1",
			"proxy_interfaces":        "192.0.2.5",
			"recipient_delimiter":     "+-",
		},
		Files: map[string]string{
			"/etc/postfix/finals":  "# names\nfile.example, no.example\n",
			"/etc/postfix/table":   "table.example x\n",
			"/etc/postfix/virtual": "virtual.example x\nx@virtual.example y\n",
		},
	}
	postfixtest.Inside(t, opts, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		for domain, want := range map[string]bool{
			"": true, "hub.example.net": true, "HUB.example.net.": true, "file.example": true, "table.example": true,
			"box.example": true, "virtual.example": true, "[127.0.0.1]": true, "[192.0.2.5]": true,
			// The first entry that matches decides.
			"no.example": false,
			// A relay domain's mail goes on, subdomains of a name are others.
			"relay.example": false, "sub.file.example": false, "[192.0.2.6]": false, "far.example": false, "-q": false, "[": false,
		} {
			if got, err := pf.IsLocal(ctx, domain); err != nil || got != want {
				t.Errorf("IsLocal(%q) = %v, %v, want %v", domain, got, err, want)
			}
		}
		if d, err := pf.RecipientDelimiter(ctx); err != nil || d != "+-" {
			t.Errorf("delimiter %q, %v", d, err)
		}
		for _, file := range []string{"/etc/postfix/finals", "/etc/postfix/table", "/etc/postfix/virtual"} {
			if !slices.Contains(pf.Sources(), file) {
				t.Errorf("%s is not among the sources %q", file, pf.Sources())
			}
		}
		postfixtest.Edit(t, postfixtest.MainCF, "virtual_mailbox_domains = box.example", "virtual_mailbox_domains = far.example")
		pf.Refresh()
		if got, err := pf.IsLocal(ctx, "far.example"); err != nil || !got {
			t.Errorf("after a refresh: %v, %v", got, err)
		}
	})
}

// The facts that Release and its callers stand on.
func TestRelease(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Main: seldom(nil)}, func(t *testing.T, ctx context.Context) {
		pf := held(t, ctx)
		start := time.Now().Truncate(time.Second)
		acme := postfixtest.Send(t, "a@acme.example")
		beta := postfixtest.Send(t, "b@beta.example")
		both := postfixtest.Send(t, "c@acme.example", "d@beta.example")
		q := postfixtest.Settled(t, ctx, pf, "all mail held", func(q postfixtest.Queue) bool {
			return postfixtest.Held(q[acme], 1) && postfixtest.Held(q[beta], 1) && postfixtest.Held(q[both], 2)
		})
		if m := q[both]; m.Sender != postfixtest.Sender || m.Size <= 0 || m.Arrived.Before(start) || m.Arrived.After(time.Now()) {
			t.Errorf("listed as %+v", m)
		}

		// What is gone or never was is no error, what is malformed is, and
		// does not stop the rest.
		if err := pf.Release(ctx, nil, []string{"0123456789A", "zzzz"}); err != nil {
			t.Errorf("unknown ids: %v", err)
		}
		err := pf.Release(ctx, []string{"far.example", "-f"}, []string{"../../x"})
		if !errors.Is(err, mta.ErrNotFlushable) || !strings.Contains(err.Error(), `"far.example"`) || !strings.Contains(err.Error(), `"../../x"`) || !strings.Contains(err.Error(), `"-f"`) {
			t.Errorf("a domain that is not listed: %v", err)
		}

		// An id releases that message and no other; the domain's mail stays.
		a := postfixtest.Listen(t, "127.0.0.1:2501")
		postfixtest.Released(t, ctx, pf, nil, []string{acme}, "one message delivered", func(q postfixtest.Queue) bool { return len(q) == 2 })
		if got := a.Recipients(); !slices.Equal(got, []string{"a@acme.example"}) {
			t.Errorf("delivered %q", got)
		}

		// The trap: a message for two queues is one file, and both are tried.
		q = postfixtest.Released(t, ctx, pf, []string{"acme.example"}, nil, "the part of acme delivered, that of beta tried", func(q postfixtest.Queue) bool { return postfixtest.Failed(q[both], 1) })
		if !postfixtest.Held(q[beta], 1) {
			t.Errorf("releasing acme moved the mail of beta: %+v", q[beta])
		}

		// A message on hold (postsuper -h) is the postmaster's, not ours.
		run(t, ctx, "postsuper", "-h", beta)
		b := postfixtest.Listen(t, "127.0.0.1:2502")
		q = postfixtest.Released(t, ctx, pf, []string{"beta.example"}, []string{beta}, "the rest delivered", func(q postfixtest.Queue) bool { return len(q) == 1 })
		if q[beta].Queue != "hold" {
			t.Errorf("on hold, and now %+v", q[beta])
		}
		if got := b.Recipients(); !slices.Equal(got, []string{"d@beta.example"}) {
			t.Errorf("delivered %q", got)
		}

		// Released while nobody listens: tried at once, deferred again, and
		// then held through queue runs as before. (It may be tried before, with
		// the last of the releases above.)
		a.Close()
		late := postfixtest.Send(t, "e@acme.example")
		postfixtest.Settled(t, ctx, pf, "deferred", func(q postfixtest.Queue) bool {
			return postfixtest.Held(q[late], 1) || postfixtest.Failed(q[late], 1)
		})
		postfixtest.Released(t, ctx, pf, nil, []string{late}, "a failed attempt", func(q postfixtest.Queue) bool { return postfixtest.Failed(q[late], 1) })
		postfixtest.Edit(t, postfixtest.MainCF, "queue_run_delay = 1000s", "queue_run_delay = 1s")
		run(t, ctx, "postfix", "reload")
		postfixtest.Settled(t, ctx, pf, "held again by a queue run", func(q postfixtest.Queue) bool { return postfixtest.Held(q[late], 1) })
	})
}

// Postfix notes deferred mail for a domain only from the moment that the
// domain is in fast_flush_domains: what is older is released by id alone.
func TestReleaseOlderThanSetup(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{
		Main:  seldom(map[string]string{"relay_domains": "acme.example", "fast_flush_domains": "", "transport_maps": "texthash:/etc/postfix/dead"}),
		Files: map[string]string{"/etc/postfix/dead": "acme.example smtp:[127.0.0.1]:2501\n"},
	}, func(t *testing.T, ctx context.Context) {
		old := postfixtest.Send(t, "a@acme.example")
		pf := postfix.New(postfix.Options{})
		postfixtest.Settled(t, ctx, pf, "an ordinary failure", func(q postfixtest.Queue) bool { return postfixtest.Failed(q[old], 1) })
		if err := pf.Release(ctx, []string{"acme.example"}, nil); !errors.Is(err, mta.ErrNotFlushable) {
			t.Errorf("released before the domain is listed: %v", err)
		}
		held(t, ctx)
		young := postfixtest.Send(t, "b@acme.example")
		postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool { return postfixtest.Held(q[young], 1) })
		s := postfixtest.Listen(t, "127.0.0.1:2501")
		postfixtest.Released(t, ctx, pf, []string{"acme.example"}, nil, "the younger one delivered", func(q postfixtest.Queue) bool { _, ok := q[young]; return !ok })
		postfixtest.Released(t, ctx, pf, nil, []string{old}, "the older one delivered", func(q postfixtest.Queue) bool { return len(q) == 0 })
		if got := s.Recipients(); !slices.Equal(got, []string{"a@acme.example", "b@acme.example"}) {
			t.Errorf("delivered %q", got)
		}
	})
}

// The flush service keeps an id in a domain's list until the domain is asked
// for. A message whose recipients in the domain were served by id is therefore
// moved once more by the domain: to release exactly, name ids.
func TestDomainRemembersServedMessages(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Main: seldom(nil)}, func(t *testing.T, ctx context.Context) {
		pf := held(t, ctx)
		both := postfixtest.Send(t, "a@acme.example", "b@beta.example")
		postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool { return postfixtest.Held(q[both], 2) })
		a := postfixtest.Listen(t, "127.0.0.1:2501")
		postfixtest.Released(t, ctx, pf, nil, []string{both}, "acme served, beta failed", func(q postfixtest.Queue) bool { return postfixtest.Failed(q[both], 1) })
		postfixtest.Listen(t, "127.0.0.1:2502")
		// Once: the list is empty after that.
		if err := pf.Release(ctx, []string{"acme.example"}, nil); err != nil {
			t.Fatal(err)
		}
		postfixtest.Settled(t, ctx, pf, "beta's part tried by a release of acme", func(q postfixtest.Queue) bool { return len(q) == 0 })
		if got := a.Recipients(); len(got) != 1 {
			t.Errorf("acme got %q", got)
		}
	})
}

func TestStopped(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		pf := held(t, ctx)
		id := postfixtest.Send(t, "a@acme.example")
		postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool { return postfixtest.Held(q[id], 1) })
		if running, err := pf.Running(ctx); err != nil || !running {
			t.Errorf("running: %v, %v", running, err)
		}
		run(t, ctx, "postfix", "stop")
		// Root reads the queue files; a release has nobody to go to, and is
		// given up after the first of many.
		if q, err := mta.All(ctx, pf); err != nil || len(q) != 1 || q[0].ID != id {
			t.Errorf("listing: %+v, %v", q, err)
		}
		ids := slices.Repeat([]string{id}, 5000)
		if err := pf.Release(ctx, []string{"acme.example"}, ids); !errors.Is(err, mta.ErrDown) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("release: %v", err)
		}
		if running, err := pf.Running(ctx); err != nil || running {
			t.Errorf("running: %v, %v", running, err)
		}
		// A set-up needs no running Postfix, and does not start it.
		pl, err := setup.NewUndo(ctx, pf, setup.Requirements{})
		if err != nil {
			t.Fatal(err)
		}
		if err := pl.Apply(ctx); err != nil {
			t.Errorf("undo while Postfix is stopped: %v", err)
		}
		held(t, ctx)
		if running, err := pf.Running(ctx); err != nil || running {
			t.Errorf("running after a set-up: %v, %v", running, err)
		}
	})
}

// A command that hangs is ended when its time is over.
func TestCommandHangs(t *testing.T) {
	dir := t.TempDir()
	// Stands in for a postqueue that hangs, which the real one does only when
	// a daemon of Postfix hangs.
	if err := os.WriteFile(filepath.Join(dir, "postqueue"), []byte("#!/bin/sh\nexec sleep 1000000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	pf := postfix.New(postfix.Options{CommandDir: dir, CommandTimeout: 50 * time.Millisecond, Parallel: 2})
	if err := pf.Release(t.Context(), []string{"a.example"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("release: %v", err)
	}
	if _, err := mta.All(t.Context(), pf); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("list: %v", err)
	}
}

// ordinaryEnv makes TestOrdinaryUser, run once more inside a host, the
// process of an ordinary user; its value says what that user may do.
const ordinaryEnv = "POSTFIX_TEST_USER"

// The daemon is no root and has no new privileges, so that postqueue's
// set-group-id has no effect: the group postdrop is what it needs.
func TestOrdinaryUser(t *testing.T) {
	pf, ctx := postfix.New(postfix.Options{}), t.Context()
	switch os.Getenv(ordinaryEnv) {
	case "allowed":
		if q, err := mta.All(ctx, pf); err != nil || len(q) != 1 {
			t.Errorf("list: %+v, %v", q, err)
		}
		if err := pf.Release(ctx, []string{"acme.example"}, []string{"0123456789A"}); err != nil {
			t.Errorf("release: %v", err)
		}
		said, _ := setup.Check(ctx, pf, twoQueues)
		for _, f := range said {
			// Hooks of Debian's may be on the machine, and are looked at by a
			// test of their own.
			if !f.OK && !strings.Contains(f.What, "network interface comes up") {
				t.Errorf("check: %+v", f)
			}
		}
		return
	case "refused":
		if _, err := mta.All(ctx, pf); !errors.Is(err, mta.ErrPermission) {
			t.Errorf("list: %v", err)
		}
		if err := pf.Release(ctx, []string{"acme.example"}, nil); !errors.Is(err, mta.ErrPermission) || errors.Is(err, mta.ErrDown) {
			t.Errorf("release: %v", err)
		}
		said, _ := setup.Check(ctx, pf, twoQueues)
		if !slices.ContainsFunc(said, func(f setup.Finding) bool { return !f.OK && strings.Contains(f.Hint, "postdrop") }) {
			t.Error("check has no hint at the group")
		}
		return
	case "down":
		if _, err := mta.All(ctx, pf); !errors.Is(err, mta.ErrDown) {
			t.Errorf("list: %v", err)
		}
		// From then on it is noticed without a command, which would put a fatal
		// error into the mail log each time.
		for range 3 {
			if _, err := mta.All(ctx, pf); !errors.Is(err, mta.ErrDown) || !strings.Contains(err.Error(), "nobody answers") {
				t.Errorf("list again: %v", err)
			}
		}
		return
	}
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		pf := held(t, ctx)
		id := postfixtest.Send(t, "a@acme.example")
		postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool { return postfixtest.Held(q[id], 1) })
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		as := func(what, groups string) {
			cmd := exec.CommandContext(ctx, "setpriv", "--no-new-privs", "--reuid=nobody", "--regid=nogroup", groups, self, "-test.run=^TestOrdinaryUser$", "-test.v")
			cmd.Env = append(os.Environ(), ordinaryEnv+"="+what)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
				t.Errorf("%s: %v\n%s", what, err, out)
			}
		}
		as("refused", "--clear-groups")
		as("allowed", "--groups=postdrop")
		run(t, ctx, "postfix", "stop")
		as("down", "--groups=postdrop")
		// Who saw it go sees it come back.
		nobody, err := account.Lookup("nobody", "postdrop")
		if err != nil {
			t.Fatal(err)
		}
		pf = pf.As(nobody.Credential())
		for range 2 {
			if _, err := mta.All(ctx, pf); !errors.Is(err, mta.ErrDown) {
				t.Errorf("list: %v", err)
			}
		}
		run(t, ctx, "postfix", "start")
		if q, err := mta.All(ctx, pf); err != nil || len(q) != 1 {
			t.Errorf("list: %+v, %v", q, err)
		}
	})
}

// The times of the queue's directories tell of what comes in, and of what moves;
// and nothing is told where they cannot.
func TestStamp(t *testing.T) {
	main := seldom(map[string]string{"qmgr_message_active_limit": "1234"})
	postfixtest.Inside(t, testbed.PostfixOptions{Main: main}, func(t *testing.T, ctx context.Context) {
		pf := held(t, ctx)
		if n, err := pf.ActiveLimit(ctx); err != nil || n != 1234 {
			t.Errorf("ActiveLimit: %d, %v", n, err)
		}
		settled := func() mta.Stamp {
			t.Helper()
			var s mta.Stamp
			if err := testbed.Until(ctx, "the stamp to settle", func() (bool, error) {
				s = pf.Stamp(ctx)
				return s.Settled.Entered && s.Settled.Moved, nil
			}); err != nil {
				t.Fatal(err)
			}
			return s
		}
		if err := pf.Up(ctx); err != nil {
			t.Errorf("Up: %v", err)
		}
		before := settled()
		if later := pf.Stamp(ctx); !before.NothingMoved(later) || !before.NothingEntered(later) {
			t.Errorf("nothing has happened: %+v, %+v", before, later)
		}
		id := postfixtest.Send(t, "a@acme.example")
		postfixtest.Settled(t, ctx, pf, "the message to be held", func(q postfixtest.Queue) bool { return postfixtest.Held(q[id], 1) })
		if later := pf.Stamp(ctx); before.NothingEntered(later) || before.Entered == later.Entered {
			t.Error("a message that came in does not show")
		}
		before = settled()
		run(t, ctx, "postsuper", "-h", id)
		if later := pf.Stamp(ctx); before.NothingEntered(later) {
			t.Error("that a message is on hold does not show")
		}
		before = settled()
		run(t, ctx, "postsuper", "-H", id)
		if later := pf.Stamp(ctx); before.NothingEntered(later) {
			t.Error("that a message is off hold does not show")
		}
		run(t, ctx, "postconf", "-e", "hash_queue_names = deferred, defer, incoming")
		pf.Refresh()
		if s := pf.Stamp(ctx); s != (mta.Stamp{}) {
			t.Errorf("with a directory that is hashed: %+v", s)
		}
		if log := postfixtest.Read(t, "/var/log/mail.log"); strings.Contains(log, "warning") {
			t.Errorf("Postfix minds being knocked at:\n%s", log)
		}
		run(t, ctx, "postfix", "stop")
		if err := pf.Up(ctx); !errors.Is(err, mta.ErrDown) {
			t.Errorf("Up when it is stopped: %v", err)
		}
	})
}
