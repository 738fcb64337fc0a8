//go:build !quick

package scenario

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// The line comes up, goes down a moment later, and comes up again: the first
// call ends, what is unsent stays held, the second call brings all of it, and
// the end of another interface of the link does not disturb it.
func TestLinkFlaps(t *testing.T) {
	t.Parallel()
	config := strings.Replace(SiteConfig, `["ppp0"]`, `["ppp0", "wwan*"]`, 1)
	ctx, w := world(t, Options{SiteConfig: config, Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 2e6}})
	in := send(ctx, t, w.Online, hubName+":25", Messages(50, 2000, "a@acme.example"))
	out := send(ctx, t, w.Office, "203.0.113.1:25", Messages(10, 2000, "c@online.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 50))
	must(t, w.Site.WaitQueue(ctx, "hub", 10))

	must(t, w.Line.Connect(ctx))
	must(t, w.Line.Connect(ctx)) // hooks fire twice, for IPv4 and IPv6
	must(t, w.Line.Disconnect(ctx))
	if r := waitCalls(ctx, t, w, 1)[0]; r.Exit != api.ExitTempFail {
		t.Errorf("the first call: %+v", r)
	}
	must(t, w.Line.Connect(ctx))
	_, err := w.Site.Ctl(ctx, "link", "down", "--interface", "wwan1")
	must(t, err)
	_, err = w.Site.Ctl(ctx, "link", "up", "--interface", "eth7") // of no link
	must(t, err)
	delivered(ctx, t, w.SiteHost, in)
	delivered(ctx, t, w.Online, out)
	must(t, testbed.Until(ctx, "the line to be hung up", func() (bool, error) { return !w.Line.IsUp(), nil }))
	results := waitCalls(ctx, t, w, 2)
	if len(results) != 2 {
		t.Errorf("%d calls, want 2: %+v", len(results), results)
	}
	if r := results[0]; r.Exit != api.ExitOK {
		t.Errorf("the second call: %+v", r)
	}
}

// etrnd dies in mid-call and starts again while the line is up: it takes the
// line over, and hangs it up when nothing is left to come or to go.
func TestRestartInMidCall(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 1e6}})
	in := send(ctx, t, w.Online, hubName+":25", Messages(60, 4000, "a@acme.example"))
	out := send(ctx, t, w.Office, "203.0.113.1:25", Messages(20, 4000, "c@online.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 60))
	must(t, w.Site.WaitQueue(ctx, "hub", 20))
	must(t, w.Line.Connect(ctx))
	must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 30000))
	must(t, w.Site.Etrnd.Kill())
	must(t, w.Site.StartEtrnd(ctx))
	must(t, testbed.Until(ctx, "the line to be hung up", func() (bool, error) { return !w.Line.IsUp(), nil }))
	r := waitCalls(ctx, t, w, 1)[0]
	t.Logf("the call after the restart: %+v", r)
	if n := pending(t, w, in); n != 0 {
		t.Errorf("the line was hung up with %d messages still to come", n)
	}
	delivered(ctx, t, w.Online, out)
}

// A command to hang up that fails is tried again while the line is up; one to
// dial that fails ends the call, and the line is hung up in case it comes up
// after all.
func TestCommandsFail(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	var dials, hangUps atomic.Int32
	must(t, w.SiteHost.Provide("poff", func(ctx context.Context, _ []string) (string, error) {
		if hangUps.Add(1) == 1 {
			return "", errors.New("the modem does not answer")
		}
		return "", w.Line.Disconnect(ctx)
	}))
	must(t, w.SiteHost.Provide("pon", func(ctx context.Context, _ []string) (string, error) {
		if dials.Add(1) == 1 {
			return "", errors.New("no carrier")
		}
		return "", w.Line.Connect(ctx)
	}))
	ids := send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 3))

	if _, err := w.Site.Ctl(ctx, "call", "hub", "--wait"); err == nil {
		t.Error("etrnctl call --wait: no error although dialling failed")
	}
	r := waitCalls(ctx, t, w, 1)[0]
	if r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "no carrier") {
		t.Errorf("dialling fails: %+v", r)
	}
	if hangUps.Load() == 0 {
		t.Error("a line that may come up late was not hung up")
	}
	unmoved(ctx, t, w, 3)

	hangUps.Store(0)
	_, err := w.Site.Ctl(ctx, "call", "hub", "--wait")
	must(t, err)
	delivered(ctx, t, w.SiteHost, ids)
	if w.Line.IsUp() || hangUps.Load() != 2 {
		t.Errorf("the line is up: %v, after %d tries to hang up", w.Line.IsUp(), hangUps.Load())
	}
}
