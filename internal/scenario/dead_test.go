//go:build !quick

package scenario

import (
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// The line ends without a word, and its interface stays up, as by satellite and on
// short wave every day. Whatever goes over it then, the call ends when nothing has
// been heard for as long as of a dead line, and the line is hung up; what has not
// gone stays held.
func TestDeadLine(t *testing.T) {
	t.Parallel()
	push := siteConfig("router-type = \"push-only\"\npush = [\"*\"]\n")
	for _, c := range []struct {
		name    string
		atrn    bool
		config  string // of the site; empty: the usual one
		in, out int
		cut     testbed.Direction
		after   int64 // bytes that way
	}{
		{"dialogue", false, "", 1, 1, testbed.BtoA, 150},
		{"push", false, push, 0, 6, testbed.AtoB, 50_000},
		{"pull by ETRN", false, "", 8, 0, testbed.BtoA, 50_000},
		{"turned, and push", true, "", 8, 6, testbed.BtoA, 50_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := Options{Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 400_000}, SiteConfig: c.config}
			make := world
			if c.atrn {
				make, o.SiteConfig = worldTurn, siteATRN(`protocol = "atrn"`, withUser)
			}
			ctx, w := make(t, o)
			send(ctx, t, w.Online, hubName+":25", Messages(c.in, 60_000, "a@acme.example"))
			send(ctx, t, w.Office, "203.0.113.1:25", Messages(c.out, 60_000, "c@online.example"))
			must(t, w.Hub.WaitQueue(ctx, "acme", c.in))
			must(t, w.Site.WaitQueue(ctx, "hub", c.out))
			cut := w.Line.CutAfter(c.cut, c.after)
			if _, err := w.Site.Ctl(ctx, "call", "hub"); err != nil {
				t.Fatal(err)
			}
			select {
			case <-cut:
			case <-hang.After():
				t.Fatal("the line was not cut")
			}
			r := waitCalls(ctx, t, w, 1)[0]
			// 75 s and 20 round trips, and a look every two seconds.
			if r.Exit != api.ExitTempFail || !strings.HasPrefix(r.Error, "the line is dead: nothing came over it for 1m") {
				log, _ := w.SiteHost.ReadFile("/var/log/etrnd.log")
				t.Fatalf("%+v\n%s", r, log)
			}
			if w.Line.IsUp() {
				t.Error("the line was not hung up")
			}
			must(t, w.Site.WaitQueue(ctx, "hub", c.out-r.Out.Messages))
		})
	}
}
