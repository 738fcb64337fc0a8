//go:build !quick

package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

// A message for two held queues and a host that is online: the online one has
// it, the others are counted once in each queue. A second
// message is for acme only, a third for beta only: releasing acme delivers
// what is acme's and leaves the third where it is.
func TestReleaseMovesOneQueueOnly(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	must(t, w.Line.Up(ctx))
	mixed := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "a@acme.example", "b@beta.example", "c@online.example"))
	acme := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "a@sub.acme.example"))
	beta := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "b@beta.example"))

	delivered(ctx, t, w.Online, mixed)
	must(t, w.Hub.WaitQueue(ctx, "acme", 2))
	must(t, w.Hub.WaitQueue(ctx, "beta", 2))

	before, err := w.HubHost.Queue(ctx)
	must(t, err)
	out, err := w.Hub.Ctl(ctx, "release", "acme")
	must(t, err)
	if !strings.Contains(out, "2 messages") {
		t.Errorf("etrnctl release acme said %q", out)
	}
	// sub.acme.example is not final at the site, which refuses it: that is
	// not what is tested here, so only the first is looked for.
	delivered(ctx, t, w.SiteHost, mixed)
	must(t, w.Hub.WaitQueue(ctx, "beta", 2))

	// The third has not moved: it was never tried, and its file is the one
	// that it was.
	after, err := w.HubHost.Queue(ctx)
	must(t, err)
	find := func(list []testbed.Queued, rcpt string, n int) *testbed.Queued {
		for _, q := range list {
			if len(q.Recipients) == n && q.Recipients[0].Address == rcpt {
				return &q
			}
		}
		return nil
	}
	old := find(before, "b@beta.example", 1)
	if old == nil {
		t.Fatalf("no message of beta alone in %+v", before)
	}
	found := false
	for _, q := range after {
		if q.ID == old.ID {
			found = true
			if q.Queue != "deferred" || q.Recipients[0].Reason != "deferred transport" {
				t.Errorf("the message of beta alone was touched: %+v", q)
			}
		}
	}
	if !found {
		t.Errorf("the message of beta alone is gone from %+v", after)
	}
	log, err := w.HubHost.ReadFile("/var/log/mail.log")
	must(t, err)
	for line := range strings.SplitSeq(string(log), "\n") {
		if strings.Contains(line, old.ID) && strings.Contains(line, "postfix/") && strings.Contains(line, "to=<b@beta.example>") && !strings.Contains(line, "deferred transport") {
			t.Errorf("the message of beta alone was tried: %s", line)
		}
	}
	_, _ = acme, beta
}

// unlooked is a hub's configuration in which nothing happens because etrnd looks
// at the queue now and then: it does so after the test has given up.
func unlooked(config string) string {
	return strings.Replace(config, "[odmr]", "[mta]\nreconcile = \"30m\"\n\n[odmr]", 1)
}

// New mail for a queue that was asked for a moment ago goes out because it has
// come, and not with the next run or the next look at the queue.
func TestOpenWindow(t *testing.T) {
	t.Parallel()
	config := strings.Replace(unlooked(HubConfig), "[[queue]]", "[[queue]]\nwindow = \"2h\"", 1)
	ctx, w := world(t, Options{HubConfig: config})
	must(t, w.HubMTA.Set(ctx, map[string]string{"queue_run_delay": "1h"}))
	must(t, w.HubMTA.Reload(ctx))
	must(t, w.Line.Up(ctx))
	if out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "ETRN acme.example", "QUIT"); !strings.Contains(out, "\n251 ") {
		t.Fatalf("ETRN for an empty queue: %s", out)
	}
	for range 5 {
		ids := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "a@acme.example"))
		delivered(ctx, t, w.SiteHost, ids)
	}
	// It is open for the domain that was asked for, and not for others.
	send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "a@other.acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	unmoved(ctx, t, w, 1)
}

// ETRN on Postfix's own port goes by the same rules, with "#name" too.
func TestETRNOnPostfixPort(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	must(t, w.Line.Up(ctx))
	ids := send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 3))
	settled(ctx, t, w, "acme", "a@acme.example")
	for _, c := range []struct {
		from *testbed.Host
		addr string
		name string
		want string
	}{
		{w.Online, "198.51.100.1:25", "acme.example", "459 "},    // a stranger
		{w.Online, "198.51.100.1:25", "#acme", "459 "},           //
		{w.SiteHost, hubLine + ":25", "beta.example", "459 "},    // another's
		{w.SiteHost, hubLine + ":25", "#beta", "459 "},           //
		{w.SiteHost, hubLine + ":25", "unknown.example", "459 "}, // nobody's: Postfix says so itself
		{w.SiteHost, hubLine + ":25", "@com", "459 "},            //
		{w.SiteHost, hubLine + ":25", "#acme", "250 "},           // ours
	} {
		out := dialogue(ctx, t, c.from, c.addr, "EHLO x.example", "ETRN "+c.name)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, c.want) {
			t.Errorf("ETRN %s from %s: %q, want %q", c.name, c.from.Name, last, c.want)
		}
		if c.want != "250 " {
			q, err := w.HubHost.Queue(ctx)
			must(t, err)
			for _, m := range q {
				if m.Recipients[0].Reason != "deferred transport" {
					t.Errorf("after ETRN %s from %s something moved: %+v", c.name, c.from.Name, m)
				}
			}
		}
	}
	delivered(ctx, t, w.SiteHost, ids)
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
}

// The index is right for mail that the milter never saw, as soon as there is a
// milter again, and after postsuper -d and a reload: not only at the next look.
func TestIndexFollowsTheQueue(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: unlooked(HubConfig)})
	start := time.Now().Truncate(time.Second) // Postfix counts in seconds
	must(t, w.Hub.Milter.Kill())
	send(ctx, t, w.Online, hubName+":25", Messages(10, 5000, "a@acme.example"))
	must(t, w.Hub.StartMilter(ctx))
	must(t, w.Hub.WaitQueue(ctx, "acme", 10))
	q, err := w.Hub.Queue(ctx, "acme")
	must(t, err)
	if q.Bytes < 50000 || q.Bytes > 70000 || q.Oldest == nil || q.Oldest.Before(start) || q.Oldest.After(time.Now()) {
		t.Errorf("queue: %+v", q)
	}
	queued, err := w.HubHost.Queue(ctx)
	must(t, err)
	for _, m := range queued[:4] {
		_, err := w.HubHost.Run(ctx, "postsuper", "-d", m.ID)
		must(t, err)
	}
	_, err = w.Hub.Ctl(ctx, "reload")
	must(t, err)
	must(t, w.Hub.WaitQueue(ctx, "acme", 6))
}

// While Postfix is stopped, the numbers are those of before, and that is said.
func TestQueuesWhileStopped(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	send(ctx, t, w.Online, hubName+":25", Messages(2, 0, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 2))
	unknown := func(want bool) {
		t.Helper()
		must(t, testbed.Until(ctx, fmt.Sprint("etrnd to know how the queue is: ", !want), func() (bool, error) {
			q, err := w.Hub.Queue(ctx, "acme")
			return (q.UnknownSince != nil) == want && q.Messages == 2, err
		}))
		for _, command := range []string{"queues", "status"} {
			text, err := w.Hub.Ctl(ctx, command)
			must(t, err)
			if says := strings.Contains(strings.ToLower(text), "that was so"); says != want {
				t.Errorf("%s: %s", command, text)
			}
		}
	}
	unknown(false)
	_, err := w.HubHost.Run(ctx, "postfix", "stop")
	must(t, err)
	unknown(true)
	_, err = w.HubHost.Run(ctx, "postfix", "start")
	must(t, err)
	unknown(false)
}
