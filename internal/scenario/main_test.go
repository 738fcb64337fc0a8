//go:build !quick

package scenario

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/testbed"
)

var built *programs.Set

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if built, err = programs.Build(context.Background(), true); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer built.Close()
		return m.Run()
	}())
}

// lan is a line that is no bottleneck.
var lan = testbed.Shape{RTT: 20 * time.Millisecond, Rate: 100e6}

// world builds the world for one test, and at its end fails the test if the
// race detector has found something in a daemon.
func world(t *testing.T, o Options) (context.Context, *World) {
	t.Helper()
	ctx := t.Context() // each wait of the test bed has a limit of its own
	o.Programs = built
	if o.Shape == (testbed.Shape{}) {
		o.Shape = lan
	}
	w, err := New(ctx, testbed.Start(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, h := range []*testbed.Host{w.HubHost, w.SiteHost} {
			if found, err := Races(h); err != nil || found != "" {
				t.Errorf("%s: %v%s", h.Name, err, found)
			}
		}
	})
	return ctx, w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// send sends messages from a host and returns their Message-IDs.
func send(ctx context.Context, t *testing.T, h *testbed.Host, via string, messages []testbed.Message) []string {
	t.Helper()
	ids, err := h.SendMany(ctx, via, messages)
	if err != nil {
		t.Fatalf("send from %s: %v", h.Name, err)
	}
	return ids
}

// delivered waits until all ids have been delivered on h, and returns the
// number of deliveries beyond the first.
func delivered(ctx context.Context, t *testing.T, h *testbed.Host, ids []string) int {
	t.Helper()
	duplicates, err := h.WaitDelivered(ctx, ids)
	if err != nil {
		t.Fatal(err)
	}
	return duplicates
}

// waitCalls waits until n calls have ended at the site.
func waitCalls(ctx context.Context, t *testing.T, w *World, n int) []api.CallResult {
	t.Helper()
	var results []api.CallResult
	must(t, testbed.Until(ctx, fmt.Sprintf("%d calls of the site to end", n), func() (bool, error) {
		results = nil
		err := w.Site.CtlJSON(ctx, &results, "history")
		return len(results) >= n, err
	}))
	return results
}

// dialogue sends lines to an SMTP server, one after the reply to the last,
// and returns all replies.
func dialogue(ctx context.Context, t *testing.T, from *testbed.Host, addr string, lines ...string) string {
	t.Helper()
	conn, err := from.Dial(ctx, "tcp", addr)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(hang.Deadline()))
	var all strings.Builder
	buf := make([]byte, 4096)
	read := func() {
		var reply string
		for {
			n, err := conn.Read(buf)
			reply += string(buf[:n])
			lines := strings.Split(strings.TrimSuffix(reply, "\r\n"), "\r\n")
			last := lines[len(lines)-1]
			if err != nil || strings.HasSuffix(reply, "\n") && len(last) > 3 && last[3] == ' ' {
				all.WriteString(reply)
				return
			}
		}
	}
	read()
	for _, line := range lines {
		if _, err := conn.Write([]byte(line + "\r\n")); err != nil {
			return all.String()
		}
		read()
	}
	return all.String()
}

// settled waits until the hub has nothing that is just arriving or on its way,
// and its index of a queue has all that the MTA has for an address.
func settled(ctx context.Context, t *testing.T, w *World, queue, address string) {
	t.Helper()
	must(t, testbed.Until(ctx, "the hub's queue to come to rest and the index to have all of it", func() (bool, error) {
		list, err := w.HubHost.Queue(ctx)
		if err != nil {
			return false, err
		}
		n := 0
		for _, m := range list {
			if m.Queue != "deferred" {
				return false, nil
			}
			for _, r := range m.Recipients {
				if r.Address == address {
					n++
				}
			}
		}
		q, err := w.Hub.Queue(ctx, queue)
		return q.Messages == n && q.UnderWay == 0, err
	}))
}
