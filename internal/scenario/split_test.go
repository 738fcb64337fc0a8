//go:build !quick

package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/etrnd/etrnd/internal/testbed"
)

// splitConfig is a hub that takes messages for several queues apart, and could
// reach beta at any time.
var splitConfig = strings.NewReplacer(
	"[odmr]", "[mta]\nsplit = \"127.0.0.1:10366\"\n\n[odmr]",
	"smtp:[mail.beta.example]", "smtp:["+onlineDomain+"]",
).Replace(HubConfig)

// mixed is a message for both queues and for a host that is online.
var mixed = []string{"a@acme.example", "b@beta.example", "c@online.example"}

// A message for two held queues and a host that is online becomes three: the
// online one has it at once, releasing acme moves acme's and does not so much
// as try beta's, and each part bears the tag of its own queue alone.
func TestSplit(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: splitConfig})
	must(t, w.Line.Up(ctx))
	if out, err := w.Hub.Ctl(ctx, "setup", "postfix"); err != nil || !strings.Contains(out, "nothing to do") || strings.Contains(out, "warning") {
		t.Errorf("set up again: %v\n%s", err, out)
	}

	// The tag and the mark of a stranger count for nothing, and disappear.
	ids := send(ctx, t, w.Online, hubName+":25", []testbed.Message{{To: mixed, Header: []string{"X-ETRN-Queue: acme", "X-ETRN-Split: no", "x-etrn-queue: beta"}}})
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	must(t, w.Hub.WaitQueue(ctx, "beta", 1))
	delivered(ctx, t, w.Online, ids)
	acme, beta := part(ctx, t, w, "a@acme.example"), part(ctx, t, w, "b@beta.example")
	for _, c := range []struct{ id, want string }{{acme.ID, "x-etrn-queue: acme"}, {beta.ID, "x-etrn-queue: beta"}} {
		if got := etrnHeaders(ctx, t, w, c.id); !slices.Equal(got, []string{c.want}) {
			t.Errorf("the part %s has %q, want %q", c.id, got, c.want)
		}
	}
	online, err := w.Online.Delivered()
	must(t, err)
	if len(online) != 1 || online[0].Recipient != "c@online.example" || online[0].Header.Get("X-Etrn-Queue") != "" || online[0].Header.Get("X-Etrn-Split") != "" {
		t.Errorf("delivered online: %+v", online)
	}

	_, err = w.Hub.Ctl(ctx, "release", "acme")
	must(t, err)
	delivered(ctx, t, w.SiteHost, ids)
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
	must(t, w.Hub.WaitQueue(ctx, "beta", 1))
	if now := part(ctx, t, w, "b@beta.example"); now.ID != beta.ID || now.Queue != "deferred" || now.Recipients[0].Reason != "deferred transport" {
		t.Errorf("beta's part was %+v and is %+v", beta, now)
	}
	untried(t, w, "b@beta.example")
	must(t, w.Hub.WaitQueue(ctx, "beta", 1))

	// Of one queue, and with a mark of the sender's: it stays one.
	send(ctx, t, w.Online, hubName+":25", []testbed.Message{{To: []string{"b@beta.example", "d@beta.example"}, Header: []string{"X-ETRN-Split: yes"}}})
	must(t, w.Hub.WaitQueue(ctx, "beta", 2))
	both := part(ctx, t, w, "d@beta.example")
	if got := etrnHeaders(ctx, t, w, both.ID); len(both.Recipients) != 2 || !slices.Equal(got, []string{"x-etrn-queue: beta"}) {
		t.Errorf("%+v with %q", both, got)
	}

	// From the host itself, by the command line.
	_, err = w.HubHost.Run(ctx, "sh", "-c", "printf 'Subject: x\\n\\nx\\n' | sendmail a@acme.example e@beta.example")
	must(t, err)
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	must(t, w.Hub.WaitQueue(ctx, "beta", 3))
	if q := part(ctx, t, w, "e@beta.example"); len(q.Recipients) != 1 {
		t.Errorf("from the command line: %+v", q)
	}

	// Too large to be copied: whole, held, and said so.
	send(ctx, t, w.Online, hubName+":25", []testbed.Message{{To: []string{"f@acme.example", "g@beta.example"}, Size: 65 << 20}})
	must(t, w.Hub.WaitQueue(ctx, "beta", 4))
	if q := part(ctx, t, w, "f@acme.example"); len(q.Recipients) != 2 {
		t.Errorf("the large one: %+v", q)
	}
}

// With the milter away nothing is marked: a message is held in one piece,
// counted once in each queue, and goes when it is released. When the port of
// the split does not answer, messages wait for it.
func TestSplitWithout(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: splitConfig})
	must(t, w.Line.Up(ctx))
	must(t, w.Hub.Milter.Kill())
	ids := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "a@acme.example", "b@beta.example"))
	must(t, w.Hub.StartMilter(ctx))
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	must(t, w.Hub.WaitQueue(ctx, "beta", 1))
	must(t, testbed.Until(ctx, "the message to be held in one piece", func() (bool, error) {
		q := part(ctx, t, w, "a@acme.example")
		return len(q.Recipients) == 2 && q.Recipients[0].Reason == "deferred transport" && q.Recipients[1].Reason == "deferred transport", nil
	}))
	_, err := w.Hub.Ctl(ctx, "release", "acme")
	must(t, err)
	delivered(ctx, t, w.SiteHost, ids)

	// The port is closed, as after a mistake in master.cf.
	_, err = w.HubHost.Run(ctx, "postconf", "-MX", "127.0.0.1:10366/inet")
	must(t, err)
	must(t, w.HubMTA.Reload(ctx))
	must(t, testbed.Until(ctx, "the port to close", func() (bool, error) {
		c, err := w.HubHost.Dial(ctx, "tcp", "127.0.0.1:10366")
		if err == nil {
			return false, c.Close()
		}
		return true, nil
	}))
	ids = send(ctx, t, w.Online, hubName+":25", Messages(1, 0, mixed...))
	must(t, testbed.Until(ctx, "the message to wait for the port", func() (bool, error) {
		list, err := w.HubHost.Queue(ctx)
		return slices.ContainsFunc(list, func(q testbed.Queued) bool {
			return len(q.Recipients) == 3 && strings.Contains(q.Recipients[0].Reason, "refused")
		}), err
	}))
	if out, err := w.Hub.Ctl(ctx, "setup", "postfix", "--apply"); err != nil {
		t.Fatalf("set up again: %v\n%s", err, out)
	}
	_, err = w.HubHost.Run(ctx, "postqueue", "-f")
	must(t, err)
	delivered(ctx, t, w.Online, ids)
}

// kill -9 of the milter and of Postfix while messages are being taken apart:
// what has been accepted arrives, at every recipient.
func TestSplitKill(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: splitConfig})
	must(t, w.Line.Up(ctx))
	// At a start after a crash postsuper may have to warn of half a queue file,
	// and without postlogd it writes the log by itself, as the user postfix.
	_, err := w.HubHost.Run(ctx, "chmod", "666", "/var/log/mail.log")
	must(t, err)
	var accepted []string
	for i, kill := range []func() error{
		func() error { return w.Hub.Milter.Kill() },
		func() error { return w.HubMTA.Kill(ctx) },
		func() error { return w.Hub.Milter.Kill() },
		func() error { return w.HubMTA.Kill(ctx) },
		func() error { return w.HubMTA.Kill(ctx) },
	} {
		// Four senders, so that some messages are at every stage.
		var mu sync.Mutex
		var senders sync.WaitGroup
		stop, cancel := context.WithCancel(ctx)
		round, enough := 0, make(chan struct{})
		var once sync.Once
		for range 4 {
			senders.Go(func() {
				for stop.Err() == nil {
					// What was cut off is neither sent nor unsent; only what
					// was accepted counts.
					ids, _ := w.Online.SendMany(ctx, hubName+":25", Messages(5, 2000, mixed...))
					mu.Lock()
					accepted = append(accepted, ids...)
					if round += len(ids); round >= 20 {
						once.Do(func() { close(enough) })
					}
					mu.Unlock()
				}
			})
		}
		select {
		case <-enough:
		case <-ctx.Done():
			t.Fatalf("round %d: %d messages accepted", i, round)
		}
		if err := kill(); err != nil {
			t.Error(err)
		}
		cancel()
		senders.Wait()
		if i%2 == 1 || i == 4 {
			must(t, w.HubMTA.Start(ctx))
		} else {
			must(t, w.Hub.StartMilter(ctx))
		}
	}
	// What the crashes left in between is taken apart in a while, and then the
	// index has each part once.
	//
	// Nothing has been released so far, so whatever was accepted has to be held
	// for both. A listing may miss what moves while it is made: two have to
	// agree.
	count := func() (held map[string]int, settled bool) {
		list, err := w.HubHost.Queue(ctx)
		must(t, err)
		held = map[string]int{}
		for _, q := range list {
			if len(q.Recipients) == 0 {
				return nil, false
			}
			for _, r := range q.Recipients {
				if r.Reason != "deferred transport" {
					return nil, false
				}
				held[r.Address]++
			}
		}
		return held, true
	}
	var last string
	must(t, testbed.Until(ctx, "everything to be held, and the index to say so", func() (bool, error) {
		held, settled := count()
		acme, aerr := w.Hub.Queue(ctx, "acme")
		beta, berr := w.Hub.Queue(ctx, "beta")
		now := fmt.Sprintf("%v, %v, index %d and %d, accepted %d", held, settled, acme.Messages, beta.Messages, len(accepted))
		ok := settled && held[mixed[0]] >= len(accepted) && held[mixed[1]] >= len(accepted) &&
			acme.Messages == held[mixed[0]] && beta.Messages == held[mixed[1]] && now == last
		if now != last {
			t.Log(now)
		}
		last = now
		return ok, errors.Join(aerr, berr)
	}))
	for _, name := range []string{"acme", "beta"} {
		_, err := w.Hub.Ctl(ctx, "release", name)
		must(t, err)
	}
	arrived := func(h *testbed.Host, rcpt string) (duplicates int) {
		have := map[string]int{}
		missing := accepted
		err := testbed.Until(ctx, fmt.Sprintf("%d messages to arrive for %s", len(accepted), rcpt), func() (bool, error) {
			list, err := h.Delivered()
			clear(have)
			for _, d := range list {
				if d.Recipient == rcpt {
					have[d.MessageID]++
				}
			}
			missing = slices.DeleteFunc(slices.Clone(accepted), func(id string) bool { return have[id] > 0 })
			return len(missing) == 0, err
		})
		if err != nil {
			queue, _ := w.HubHost.Queue(ctx)
			log, _ := w.HubHost.ReadFile("/var/log/mail.log")
			var trail strings.Builder
			for line := range strings.Lines(string(log)) {
				if strings.Contains(line, missing[0]) {
					trail.WriteString(line)
				}
			}
			t.Fatalf("%v: %d are missing, the first is %s\nthe hub's queue: %+v\nthe hub's log:\n%s", err, len(missing), missing[0], queue, trail.String())
		}
		for _, n := range have {
			duplicates += n - 1
		}
		return duplicates
	}
	t.Logf("%d messages; duplicates: acme %d, beta %d, online %d", len(accepted),
		arrived(w.SiteHost, mixed[0]), arrived(w.Online, mixed[1]), arrived(w.Online, mixed[2]))
}

// part is the message in the hub's queue that has this recipient.
func part(ctx context.Context, t *testing.T, w *World, rcpt string) testbed.Queued {
	t.Helper()
	list, err := w.HubHost.Queue(ctx)
	must(t, err)
	for _, q := range list {
		for _, r := range q.Recipients {
			if r.Address == rcpt {
				return q
			}
		}
	}
	t.Fatalf("nothing for %s in %+v", rcpt, list)
	return testbed.Queued{}
}

// etrnHeaders are the fields of a queued message that are ours, in lower case.
func etrnHeaders(ctx context.Context, t *testing.T, w *World, id string) (found []string) {
	t.Helper()
	out, err := w.HubHost.Run(ctx, "postcat", "-qh", id)
	must(t, err)
	for line := range strings.Lines(out) {
		if line = strings.ToLower(strings.TrimSpace(line)); strings.HasPrefix(line, "x-etrn-") {
			found = append(found, line)
		}
	}
	return found
}

// untried looks through the hub's log for an attempt to deliver to someone.
func untried(t *testing.T, w *World, rcpt string) {
	t.Helper()
	log, err := w.HubHost.ReadFile("/var/log/mail.log")
	must(t, err)
	held := 0
	for line := range strings.Lines(string(log)) {
		switch {
		case !strings.Contains(line, "to=<"+rcpt+">"):
		case strings.Contains(line, "deferred transport"):
			held++
		case !strings.Contains(line, "relay=127.0.0.1["): // the hand-over to the port of the split
			t.Errorf("tried: %s", line)
		}
	}
	if held == 0 {
		t.Errorf("the log does not say that mail for %s is held", rcpt)
	}
}
