//go:build !quick

package scenario

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// push is a site that only sends.
var push = strings.NewReplacer("pull-push", "push-only", "request = [\"acme.example\", \"@acme.example\", \"#acme\"]\n", "").Replace(SiteConfig)

// The site's configuration is changed while its mail goes out. The account of the call
// agrees with what Postfix has sent and with what it still has, and says so when that
// is not all; nothing is lost, returned or sent twice.
func TestConfigChangedInCall(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 400_000}, SiteConfig: push})
	const none = "hostname = \"mail.acme.example\"\n"
	use := func(text string, apply bool) {
		t.Helper()
		must(t, w.SiteHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(text), 0o644))
		if apply {
			_, err := w.Site.Ctl(ctx, "setup", "postfix", "--apply")
			must(t, err)
		}
		_, err := w.Site.Ctl(ctx, "reload")
		must(t, err)
	}
	calls := 0
	dial := func() { _, _ = w.Site.Ctl(ctx, "call", "hub", "--wait") } // its result says how it went
	result := func() api.CallResult {
		t.Helper()
		calls++
		return waitCalls(ctx, t, w, calls)[0]
	}
	for _, c := range []struct {
		name, config string
		apply        bool
	}{
		{"the remote is gone", push[:strings.Index(push, "[[remote]]")], false},
		{"the remote is gone, and Postfix set up", push[:strings.Index(push, "[[remote]]")], true},
		{"the remote has another name", strings.Replace(push, `name = "hub"`, `name = "shore"`, 1), false},
		{"less is pushed", strings.Replace(push, `push = ["*"]`, `push = ["other.example"]`, 1), false},
		{"all is gone, and Postfix set up", none, true},
	} {
		const n = 5
		ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(n, 40_000, "c@"+onlineDomain))
		must(t, w.Site.WaitQueue(ctx, "hub", n))
		var dialling sync.WaitGroup
		dialling.Go(dial)
		must(t, testbed.Until(ctx, "mail to go out", func() (bool, error) {
			var s api.Status
			err := w.Site.CtlJSON(ctx, &s, "status")
			return len(s.Calls) > 0 && s.Queues.UnderWay > 0, err
		}))
		use(c.config, c.apply)
		dialling.Wait()
		r := result()
		left, err := w.SiteHost.Queue(ctx)
		must(t, err)
		t.Logf("%s: exit %d, %d of %d sent, %d left, %q", c.name, r.Exit, r.Out.Messages, r.Out.Expected, len(left), r.Error)
		if r.Out.Messages != n-len(left) || r.Out.Bytes < 0 || r.Out.Expected != n {
			t.Errorf("%s: %d of %d messages (%d bytes) sent of %d, and %d are left", c.name, r.Out.Messages, r.Out.Expected, r.Out.Bytes, n, len(left))
		}
		if done := len(left) == 0; done != (r.Exit == api.ExitOK) || !done && r.Exit != api.ExitTempFail {
			t.Errorf("%s: exit %d (%s), and %d are left", c.name, r.Exit, r.Error, len(left))
		}
		if w.Line.IsUp() {
			t.Errorf("%s: the line is still up", c.name)
			must(t, w.Line.Disconnect(ctx))
		}
		use(push, true)
		if len(left) > 0 {
			must(t, w.Site.WaitQueue(ctx, "hub", len(left)))
			dial()
			if r := result(); r.Exit != api.ExitOK || r.Out.Messages != len(left) {
				t.Errorf("%s: the next call sent %d of %d: exit %d, %s", c.name, r.Out.Messages, len(left), r.Exit, r.Error)
			}
		}
		if twice := delivered(ctx, t, w.Online, ids); twice != 0 {
			t.Errorf("%s: %d came twice", c.name, twice)
		}
	}

	// Postfix is set up for a configuration that etrnd has not read yet: each message is
	// tried once, as more would be of no use.
	ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(3, 0, "c@"+onlineDomain))
	must(t, w.Site.WaitQueue(ctx, "hub", len(ids)))
	must(t, w.SiteHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(push[:strings.Index(push, "[[remote]]")]), 0o644))
	_, err := w.Site.Ctl(ctx, "setup", "postfix", "--apply")
	must(t, err)
	before, err := w.SiteHost.ReadFile("/var/log/mail.log")
	must(t, err)
	dial()
	if r := result(); r.Exit != api.ExitTempFail || r.Out.Messages != 0 || r.Out.Expected != len(ids) || !strings.Contains(r.Error, "held for nobody") {
		t.Errorf("set up for nobody: exit %d, %d of %d sent: %s", r.Exit, r.Out.Messages, r.Out.Expected, r.Error)
	}
	log, err := w.SiteHost.ReadFile("/var/log/mail.log")
	must(t, err)
	if n := strings.Count(string(log[len(before):]), "status=deferred"); n != len(ids) {
		t.Errorf("%d messages were tried %d times", len(ids), n)
	}
	use(push, true)
	dial()
	if r := result(); r.Exit != api.ExitOK || r.Out.Messages != len(ids) {
		t.Errorf("set up again: exit %d, %d of %d sent: %s", r.Exit, r.Out.Messages, len(ids), r.Error)
	}
	delivered(ctx, t, w.Online, ids)
	log, err = w.SiteHost.ReadFile("/var/log/mail.log")
	must(t, err)
	if strings.Contains(string(log), "status=bounced") {
		t.Errorf("mail was returned:\n%s", log)
	}
}

// An administrator has Postfix store anew what is going out, and reloads it, so that it
// takes that in at once. What goes is counted once.
func TestRequeuedInCall(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 400_000}, SiteConfig: push})
	const n = 10
	ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(n, 40_000, "c@"+onlineDomain))
	must(t, w.Site.WaitQueue(ctx, "hub", n))
	var calling sync.WaitGroup
	calling.Go(func() { _, _ = w.Site.Ctl(ctx, "call", "hub", "--wait") })
	must(t, testbed.Until(ctx, "some mail to have gone", func() (bool, error) {
		var s api.Status
		err := w.Site.CtlJSON(ctx, &s, "status")
		return len(s.Calls) > 0 && s.Calls[0].Out.Messages > 0, err
	}))
	_, err := w.SiteHost.Run(ctx, "sh", "-c", "postsuper -r ALL && postfix reload")
	must(t, err)
	calling.Wait()
	r := waitCalls(ctx, t, w, 1)[0]
	delivered(ctx, t, w.Online, ids)
	left, err := w.SiteHost.Queue(ctx)
	must(t, err)
	if r.Exit != api.ExitOK || len(left) > 0 || r.Out.Messages != n {
		t.Errorf("exit %d (%s), %d of %d sent, %d left", r.Exit, r.Error, r.Out.Messages, n, len(left))
	}
}
