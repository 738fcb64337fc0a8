//go:build byhand

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// thin is one call, or several, on one line.
type thin struct {
	name    string
	shape   testbed.Shape
	atrn    bool
	in, out int                                               // messages of 3 kB, for each call
	calls   int                                               // one after the other; those of which one is to fail share the messages of the first
	toEach  int                                               // recipients of each message that comes in
	exit    []int                                             // of each call; default 0
	during  func(ctx context.Context, t *testing.T, w *World) // beside the first call
	pushed  bool                                              // nothing is asked for
	byHooks bool                                              // no etrnctl call: Connect
	two     bool                                              // a second remote, which is pushed to
	anew    bool                                              // each call has another address, and comes at once
}

// restart restarts the daemons of both sides at once.
func restart(ctx context.Context, t *testing.T, w *World) {
	must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 20000))
	var wg sync.WaitGroup
	for _, d := range []*Daemons{w.Site, w.Hub} {
		for _, milter := range []bool{false, true} {
			wg.Go(func() {
				if milter {
					d.Milter.Stop(ctx)
					must(t, d.StartMilter(ctx))
				} else {
					d.Etrnd.Stop(ctx)
					must(t, d.StartEtrnd(ctx))
				}
			})
		}
	}
	wg.Wait()
}

// The thinnest and most broken lines, over TLS: minutes of line each, so they are
// no part of the suite. To be run by hand after changes in how a call moves mail:
//
//	go test -tags byhand -timeout 40m -v ./internal/scenario -run 'TestByHand/iridium$'
//
// ETRND_KEEP names a directory in which the logs of both sides stay.
func TestByHand(t *testing.T) {
	iridium := testbed.Shape{RTT: 1800 * time.Millisecond, Rate: 2400}
	slow := testbed.Shape{RTT: 3 * time.Second, Rate: 1200}
	lossy := testbed.Shape{RTT: 1800 * time.Millisecond, Rate: 2400, Loss: 0.05}
	medium := testbed.Shape{RTT: 600 * time.Millisecond, Rate: 64e3}
	geo := testbed.Shape{RTT: 600 * time.Millisecond, Rate: 256e3}
	for _, c := range []thin{
		{name: "iridium", shape: iridium, in: 5, out: 5, calls: 2},
		{name: "slow", shape: slow, in: 5, out: 5, calls: 1},
		{name: "lossy", shape: lossy, in: 5, out: 5, calls: 1},
		{name: "iridium-atrn", shape: iridium, atrn: true, in: 5, out: 20, calls: 1},
		{name: "iridium-busy", shape: iridium, in: 5, out: 20, calls: 1},
		{name: "slow-atrn", shape: slow, atrn: true, in: 5, out: 5, calls: 1},
		{name: "lossy-atrn", shape: lossy, atrn: true, in: 5, out: 5, calls: 1},
		{name: "push-only", shape: iridium, out: 5, calls: 1, pushed: true},
		{name: "push-only-lan", shape: lan, out: 40, calls: 1, pushed: true},
		{name: "thousand", shape: geo, in: 1, toEach: 1000, calls: 1},
		{name: "thirty", shape: geo, in: 30, toEach: 60, calls: 1},
		{name: "drop", shape: iridium, in: 5, out: 5, calls: 2, byHooks: true, exit: []int{75, 0}, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 9000))
			must(t, w.Line.Disconnect(ctx))
			waitCalls(ctx, t, w, 1)
			must(t, w.Line.Connect(ctx))
		}},
		{name: "cut", shape: iridium, in: 5, out: 5, calls: 1, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 9000))
			w.Line.Cut()
			time.Sleep(60 * time.Second)
			w.Line.Restore()
		}},
		{name: "geo", shape: geo, in: 5, out: 5, calls: 2},
		{name: "iridium-many", shape: iridium, in: 30, out: 5, calls: 1},
		{name: "lan-both", shape: lan, in: 40, out: 40, calls: 2},
		{name: "two-remotes", shape: iridium, in: 3, out: 3, calls: 1, two: true},
		// With connections that are kept, and dead.
		{name: "anew-geo", shape: geo, in: 2, out: 2, calls: 2, anew: true},
		{name: "anew-lan", shape: lan, in: 2, out: 2, calls: 2, anew: true},
		{name: "cut-atrn", shape: iridium, atrn: true, in: 5, out: 5, calls: 1, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 9000))
			w.Line.Cut()
			time.Sleep(60 * time.Second)
			w.Line.Restore()
		}},
		{name: "drop-atrn", shape: iridium, atrn: true, in: 5, out: 5, calls: 2, byHooks: true, exit: []int{75, 0}, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 12000))
			must(t, w.Line.Disconnect(ctx))
			waitCalls(ctx, t, w, 1)
			must(t, w.Line.Connect(ctx))
		}},
		{name: "stopped", shape: medium, in: 20, out: 20, calls: 2, exit: []int{75, 0}, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 20000))
			_, err := w.SiteHost.Run(ctx, "postfix", "stop")
			must(t, err)
			waitCalls(ctx, t, w, 1)
			must(t, w.SiteMTA.Start(ctx))
		}},
		{name: "stopped-atrn", shape: medium, atrn: true, in: 20, out: 20, calls: 2, exit: []int{75, 0}, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 20000))
			_, err := w.SiteHost.Run(ctx, "postfix", "stop")
			must(t, err)
			waitCalls(ctx, t, w, 1)
			must(t, w.SiteMTA.Start(ctx))
		}},
		{name: "full", shape: medium, in: 20, out: 20, calls: 2, exit: []int{75, 0}, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 20000))
			setPostfix(ctx, t, w.SiteHost, "queue_minfree=900000000000000")
			waitCalls(ctx, t, w, 1)
			setPostfix(ctx, t, w.SiteHost, "queue_minfree=0")
		}},
		{name: "full-atrn", shape: medium, atrn: true, in: 20, out: 20, calls: 2, exit: []int{75, 0}, during: func(ctx context.Context, t *testing.T, w *World) {
			must(t, w.Line.WaitBytes(ctx, testbed.BtoA, 20000))
			setPostfix(ctx, t, w.SiteHost, "queue_minfree=900000000000000")
			waitCalls(ctx, t, w, 1)
			setPostfix(ctx, t, w.SiteHost, "queue_minfree=0")
		}},
		{name: "restarted", shape: medium, in: 20, out: 20, calls: 1, byHooks: true, exit: []int{0}, during: restart},
		{name: "restarted-atrn", shape: medium, atrn: true, in: 20, out: 20, calls: 1, byHooks: true, exit: []int{0}, during: restart},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
}

func (c thin) run(t *testing.T) {
	cert, key := certificate(t, hubName)
	hub := HubConfig
	o := Options{Shape: c.shape, SiteFiles: map[string]string{"/etc/etrnd/ca.pem": cert}}
	tls := "tls = \"require\"\ntls-ca = \"/etc/etrnd/ca.pem\"\n"
	o.HubFiles = map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key}
	switch {
	case c.atrn:
		users, err := usersFile()
		must(t, err)
		hub = hubATRN
		o.HubFiles["/etc/etrnd/users"] = users
		o.SiteFiles["/etc/etrnd/password"] = password + "\n"
		o.SiteConfig = strings.Replace(siteATRN(`protocol = "atrn"`, withUser, tls), "request-timeout = \"2m\"\nwait = \"2m\"\n", "", 1)
	case c.pushed:
		o.SiteConfig = siteConfig("push = [\"*\"]\n")
	default:
		o.SiteConfig = siteConfig("router-type = \"pull-push\"\nrequest = [\"acme.example\"]\npush = [\"*\"]\n" + tls)
	}
	if c.anew {
		hub = strings.Replace(hub, `clients = ["192.0.2.2"]`, `clients = ["192.0.2.0/24"]`, 1)
	}
	if c.two {
		o.SiteConfig += `
[[remote]]
name = "second"
link = "isp"
host = "hub.example.net:366"
push = ["beta.example"]
`
	}
	o.HubConfig = strings.Replace(hub, "[odmr]\n", "[odmr]\ntls-cert = \"/etc/etrnd/hub.pem\"\ntls-key = \"/etc/etrnd/hub.key\"\n", 1)
	ctx, w := world(t, o)
	ctx, cancel := context.WithTimeout(ctx, 40*time.Minute)
	defer cancel()
	for _, h := range []*testbed.Host{w.HubHost, w.SiteHost} {
		postfixTLS(ctx, t, h, cert, key)
	}
	defer c.keep(t, w)
	const size = 3000
	to := []string{"a@acme.example"}
	for i := range c.toEach {
		if i == 0 {
			to = nil
		}
		to = append(to, fmt.Sprintf("r%d@acme.example", i))
	}
	var allIn, allOut []string
	for n := range c.calls {
		var in, out []string
		if n == 0 || len(c.exit) == 0 {
			if c.in > 0 {
				in = send(ctx, t, w.Online, hubName+":25", Messages(c.in, size, to...))
				must(t, w.Hub.WaitQueue(ctx, "acme", c.in))
			}
			if c.out > 0 {
				out = send(ctx, t, w.Office, "203.0.113.1:25", Messages(c.out, size, "c@online.example"))
				must(t, w.Site.WaitQueue(ctx, "hub", c.out))
				if c.two {
					send(ctx, t, w.Office, "203.0.113.1:25", Messages(c.out, size, "b@beta.example"))
					must(t, w.Site.WaitQueue(ctx, "second", c.out))
				}
			}
		}
		if c.anew && n > 0 {
			must(t, w.Line.Renumber(fmt.Sprintf("192.0.2.%d", 10+n), ""))
		}
		var wg sync.WaitGroup
		stop := make(chan struct{})
		var still, used time.Duration
		var gaps []string
		wg.Go(func() { still, used, gaps = watchLine(w, c.shape, stop) })
		if n == 0 && c.during != nil {
			wg.Go(func() { c.during(ctx, t, w) })
		}
		began := time.Now()
		b0, b1 := w.Line.Counters(testbed.AtoB), w.Line.Counters(testbed.BtoA)
		var text string
		switch {
		case c.two:
			must(t, w.Line.Connect(ctx))
			waitCalls(ctx, t, w, 2)
			text, _ = w.Site.Ctl(ctx, "history")
		case !c.byHooks:
			text, _ = w.Site.Ctl(ctx, "call", "hub", "--wait")
		case n == 0:
			must(t, w.Line.Connect(ctx))
		}
		results := []api.CallResult{}
		must(t, testbed.Until(ctx, "call", func() (bool, error) {
			results = nil
			err := w.Site.CtlJSON(ctx, &results, "history")
			return err == nil && len(results) >= n+1, nil // it may be being restarted
		}))
		r := results[0]
		close(stop)
		wg.Wait()
		a0, a1 := w.Line.Counters(testbed.AtoB), w.Line.Counters(testbed.BtoA)
		want := api.ExitOK
		if len(c.exit) > n {
			want = c.exit[n]
		}
		t.Logf("%s call %d: exit %d, in %d, out %d, line %.1f s, all %.1f s; bytes out %d in %d lost %d; nothing moved in %.1f of %.1f s %v; error %q refused %+v\n%s", c.name, n+1, r.Exit, r.In.Messages, r.Out.Messages,
			time.Duration(r.Line).Seconds(), time.Since(began).Seconds(), a0.Bytes-b0.Bytes, a1.Bytes-b1.Bytes, a0.Lost+a1.Lost-b0.Lost-b1.Lost, still.Seconds(), used.Seconds(), gaps, r.Error, r.Refused, text)
		if r.Exit != want || want == 0 && len(c.exit) == 0 && (r.In.Messages != len(in) || r.Out.Messages != len(out)) {
			t.Errorf("call %d: %+v", n+1, r)
		}
		if n == c.calls-1 {
			if c.in > 0 {
				must(t, w.Hub.WaitQueue(ctx, "acme", 0))
			}
			must(t, w.SiteHost.WaitQueue(ctx, 0))
		}
		allIn, allOut = append(allIn, in...), append(allOut, out...)
	}
	t.Logf("a second time: in %d, out %d", delivered(ctx, t, w.SiteHost, allIn), delivered(ctx, t, w.Online, allOut))
}

// watchLine tells for how long nothing moved on the line while it was up.
func watchLine(w *World, shape testbed.Shape, stop chan struct{}) (still, up time.Duration, gaps []string) {
	const step = 100 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	var last int64
	var quiet time.Duration
	began := time.Now()
	for {
		select {
		case <-stop:
			return still, up, gaps
		case <-tick.C:
		}
		n := w.Line.Counters(testbed.AtoB).Bytes + w.Line.Counters(testbed.BtoA).Bytes
		isUp := w.Line.IsUp()
		if isUp && up == 0 {
			began = time.Now()
		}
		if isUp {
			up += step
		}
		if n == last && isUp {
			quiet += step
			continue
		}
		// A segment of 1,500 bytes and half a round trip are no pause.
		if normal := shape.RTT + time.Duration(1500*8*float64(time.Second)/float64(shape.Rate)); quiet > normal {
			still += quiet
			gaps = append(gaps, fmt.Sprintf("%.1f at %.1f", quiet.Seconds(), time.Since(began).Seconds()))
		}
		quiet, last = 0, n
	}
}

func (c thin) keep(t *testing.T, w *World) {
	dir := os.Getenv("ETRND_KEEP")
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, c.name)
	os.MkdirAll(dir, 0o755)
	for name, h := range map[string]*testbed.Host{"hub": w.HubHost, "site": w.SiteHost, "online": w.Online} {
		for _, log := range []string{"etrnd.log", "mail.log", "etrn-milter.log"} {
			if data, err := h.ReadFile("/var/log/" + log); err == nil {
				os.WriteFile(filepath.Join(dir, name+"-"+log), data, 0o644)
			}
		}
	}
}
