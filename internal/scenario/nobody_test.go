//go:build !quick

package scenario

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// A domain is taken out of the hub's configuration while mail is held for it:
// at every point in which the operator may be, whatever is told to Postfix, the
// mail stays, is counted and named; and it is in its queue again when the domain
// is, under another name of the queue.
func TestDroppedDomainIsHeldForNobody(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	// The site is known and not there, and by all other rules its mail leads back
	// to the hub, which would return it.
	must(t, w.HubHost.SetName("mail.beta.example", netip.MustParseAddr("192.0.2.77")))
	must(t, w.HubHost.SetName("beta.example", netip.MustParseAddr("127.0.0.1")))
	send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "b@beta.example"))
	must(t, w.Hub.WaitQueue(ctx, "beta", 3))
	settled(ctx, t, w, "beta", "b@beta.example")

	i := strings.Index(HubConfig, "[[queue]]\nname = \"beta\"")
	if i < 0 {
		t.Fatalf("the configuration has no queue beta:\n%s", HubConfig)
	}
	rest := HubConfig[i+1:]
	if j := strings.Index(rest, "\n["); j >= 0 {
		rest = rest[j+1:]
	} else {
		rest = ""
	}
	less := HubConfig[:i] + rest
	nobody := func(when string, n int) {
		t.Helper()
		_, err := w.HubHost.Run(ctx, "postqueue", "-f")
		must(t, err)
		must(t, testbed.Until(ctx, when+": mail to be held for nobody", func() (bool, error) {
			var list []api.NobodyDomain
			err := w.Hub.CtlJSON(ctx, &list, "queues", "--nobody")
			return err == nil && (n == 0 && len(list) == 0 || len(list) == 1 && list[0].Domain == "beta.example" && list[0].Messages == n && list[0].Expires != nil), err
		}))
		queued, err := w.HubHost.Queue(ctx)
		must(t, err)
		if len(queued) != 3 {
			t.Fatalf("%s: the queue has %+v", when, queued)
		}
	}
	must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(less), 0o644))
	out, err := w.Hub.Ctl(ctx, "reload")
	must(t, err)
	if !strings.Contains(out, "no queue is for beta.example any more") || !strings.Contains(out, "held for nobody, 3 messages") || !strings.Contains(out, "beta.example (3)") {
		t.Errorf("reload says %q", out)
	}
	nobody("reloaded", 3)
	out, err = w.Hub.Ctl(ctx, "check")
	must(t, err)
	if !strings.Contains(out, "3 messages: beta.example (3 messages)") {
		t.Errorf("check says %q", out)
	}
	out, err = w.Hub.Ctl(ctx, "setup", "postfix", "--apply")
	must(t, err)
	if !strings.Contains(out, "3 messages: beta.example (3 messages)") {
		t.Errorf("setup says %q", out)
	}
	nobody("applied", 3)
	out, err = w.Hub.Ctl(ctx, "queues")
	must(t, err)
	if !strings.Contains(out, "held for nobody") || !strings.Contains(out, "beta.example") {
		t.Errorf("queues says %q", out)
	}
	must(t, w.HubMTA.Stop(ctx))
	must(t, w.HubMTA.Start(ctx))
	nobody("Postfix restarted", 3)
	must(t, w.Hub.Etrnd.Kill())
	must(t, w.Hub.StartEtrnd(ctx))
	nobody("etrnd restarted", 3)

	// Back, first for Postfix and then for the daemon, under another name.
	must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(strings.Replace(HubConfig, `name = "beta"`, `name = "gamma"`, 1)), 0o644))
	_, err = w.Hub.Ctl(ctx, "setup", "postfix", "--apply")
	must(t, err)
	nobody("applied again", 3)
	_, err = w.Hub.Ctl(ctx, "reload")
	must(t, err)
	must(t, w.Hub.WaitQueue(ctx, "gamma", 3))
	nobody("back", 0)
}
