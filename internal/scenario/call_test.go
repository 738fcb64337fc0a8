//go:build !quick

package scenario

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// patiently is a site's configuration in which time alone ends nothing before a
// test gives up (hang.Limit): that a call ends shows that it saw the reason.
func patiently(config string) string {
	return strings.Replace(config, "wait = \"2m\"", "wait = \"30m\"\nidle = \"30m\"", 1)
}

// 200 messages are held, the link comes up, all arrive, and the line is hung up
// because the number that the hub gave has come: not after a time, and in far
// less time than it took the messages to come.
func TestPullOnLinkUp(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{SiteConfig: patiently(SiteConfig), Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 1e6}})
	const n = 200
	ids := send(ctx, t, w.Online, hubName+":25", Messages(n, 2000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", n))

	must(t, w.Line.Connect(ctx)) // pppd: interface up, then ip-up.d
	if duplicates := delivered(ctx, t, w.SiteHost, ids); duplicates != 0 {
		t.Errorf("%d duplicates on a good line", duplicates)
	}
	var last time.Time
	all, err := w.SiteHost.Delivered()
	must(t, err)
	for _, d := range all {
		if d.Time.After(last) {
			last = d.Time
		}
	}
	must(t, testbed.Until(ctx, "the line to be hung up", func() (bool, error) { return !w.Line.IsUp(), nil }))
	r := waitCalls(ctx, t, w, 1)[0]
	coming, after := last.Sub(r.Start), r.End.Sub(last)
	t.Logf("the messages came in %v, and the call ended %v after the last of them", coming, after)
	if after > coming {
		t.Errorf("the messages came in %v, and the call ended %v after the last of them", coming, after)
	}
	if r.Exit != 0 || r.In.Messages != n || r.In.Expected != n || r.Duplicates != 0 {
		t.Errorf("result of the call: %+v", r)
	}
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
}

// A host on the site's network sends through the site while the link is down:
// held, and pushed when the link comes up. Nothing waits at the hub.
func TestOfficeRelay(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	ids := send(ctx, t, w.Office, "203.0.113.1:25", Messages(12, 3000, "c@online.example"))
	must(t, w.Site.WaitQueue(ctx, "hub", 12))
	// Local mail is not held.
	local := send(ctx, t, w.Office, "203.0.113.1:25", Messages(1, 0, "a@acme.example"))
	delivered(ctx, t, w.SiteHost, local)

	must(t, w.Line.Connect(ctx))
	delivered(ctx, t, w.Online, ids)
	r := waitCalls(ctx, t, w, 1)[0]
	if r.Exit != 0 || r.Out.Messages != 12 || r.Out.Bytes < 36000 || r.In.Messages != 0 {
		t.Errorf("result of the call: %+v", r)
	}
	must(t, w.Site.WaitQueue(ctx, "hub", 0))
	must(t, testbed.Until(ctx, "the line to be hung up", func() (bool, error) { return !w.Line.IsUp(), nil }))
}

// etrnctl call dials, the mail crosses in both directions, the line goes
// down, and --wait says what happened.
func TestCallDials(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{})
	in := send(ctx, t, w.Online, hubName+":25", Messages(5, 1000, "a@acme.example"))
	out := send(ctx, t, w.Office, "203.0.113.1:25", Messages(4, 1000, "c@online.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 5))
	must(t, w.Site.WaitQueue(ctx, "hub", 4))
	text, err := w.Site.Ctl(ctx, "call", "hub", "--wait")
	must(t, err)
	for _, want := range []string{"5 messages", "4 messages"} {
		if !strings.Contains(text, want) {
			t.Errorf("etrnctl call hub --wait does not say %q:\n%s", want, text)
		}
	}
	delivered(ctx, t, w.SiteHost, in)
	delivered(ctx, t, w.Online, out)
	if w.Line.IsUp() {
		t.Error("the line is still up")
	}
}

// The link is cut in the middle of a 2 MB message, twice, then stays up: every
// message id arrives, and duplicates are counted.
func TestCutInMidMessage(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{Shape: testbed.Shape{RTT: 50 * time.Millisecond, Rate: 8e6}})
	// What a line that is cut leaves behind is found out by time-outs. Those
	// of Postfix are minutes, which is right for a line and long for a test.
	timeouts := func(of string) {
		hub := map[string]string{}
		for _, what := range []string{"connect", "helo", "mail", "rcpt", "data_init", "data_xfer", "data_done"} {
			hub["smtp_"+what+"_timeout"] = of
		}
		must(t, w.HubMTA.Set(ctx, hub))
		must(t, w.HubMTA.Reload(ctx))
		must(t, w.SiteMTA.Set(ctx, map[string]string{"smtpd_timeout": of}))
		must(t, w.SiteMTA.Reload(ctx))
	}
	timeouts("5s")
	ids := send(ctx, t, w.Online, hubName+":25", Messages(1, 2<<20, "big@acme.example"))
	ids = append(ids, send(ctx, t, w.Online, hubName+":25", Messages(10, 1000, "a@acme.example"))...)
	must(t, w.Hub.WaitQueue(ctx, "acme", 11))

	for i := range 2 {
		cut := w.Line.CutAfter(testbed.BtoA, 1<<20)
		must(t, w.Line.Connect(ctx))
		select {
		case <-cut:
		case <-hang.After():
			t.Fatal("the line was not cut")
		}
		// The modem notices after a while: pppd takes the interface down and
		// runs its hooks.
		must(t, w.Line.Disconnect(ctx))
		r := waitCalls(ctx, t, w, i+1)[0]
		if r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "link went down") {
			t.Errorf("call %d: %+v", i+1, r)
		}
		must(t, w.Hub.WaitQueue(ctx, "acme", 1+pending(t, w, ids[1:])))
		w.Line.Restore()
	}
	timeouts("300s") // nothing is cut any more, and the machine may be slow
	must(t, w.Line.Connect(ctx))
	delivered(ctx, t, w.SiteHost, ids)
	results := waitCalls(ctx, t, w, 3)
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
	must(t, w.SiteHost.WaitQueue(ctx, 0))
	duplicates := delivered(ctx, t, w.SiteHost, ids)
	counted := 0
	for _, r := range results {
		counted += r.Duplicates
	}
	t.Logf("%d duplicates delivered, %d counted", duplicates, counted)
	if counted != duplicates {
		t.Errorf("%d duplicates were delivered, but the calls counted %d", duplicates, counted)
	}
}

// pending counts the ids that have not been delivered at the site.
func pending(t *testing.T, w *World, ids []string) int {
	t.Helper()
	all, err := w.SiteHost.Delivered()
	must(t, err)
	have := map[string]bool{}
	for _, d := range all {
		have[d.MessageID] = true
	}
	n := 0
	for _, id := range ids {
		if !have[id] {
			n++
		}
	}
	return n
}

// A remote without ETRN, one that says 458, one that refuses every name, one
// that hangs, one that closes at once, one where nobody answers: the call ends
// with the right exit code and a sentence that helps, and the line is hung up.
func TestBadRemotes(t *testing.T) {
	t.Parallel()
	var config strings.Builder
	config.WriteString(`hostname = "mail.acme.example"

[[link]]
name = "isp"
interfaces = ["ppp0"]
dial = ["pon", "isp"]
hang-up = ["poff", "isp"]
`)
	remotes := []struct {
		name string
		port int
		exit int
		says []string
		talk func(net.Conn, *bufio.Reader)
	}{
		{"without-etrn", 2501, api.ExitUnavailable, []string{"ETRN", "2501"}, smtpTalk(map[string]string{"EHLO": "250 hub.example.net", "ETRN": "502 5.5.1 Command not implemented"})},
		{"busy", 2502, api.ExitTempFail, []string{"took no request", "458"}, smtpTalk(map[string]string{"EHLO": "250-hub.example.net\r\n250 ETRN", "ETRN": "458 Unable to queue messages"})},
		{"refuses", 2503, api.ExitUnavailable, []string{"459", "list this host"}, smtpTalk(map[string]string{"EHLO": "250-hub.example.net\r\n250 ETRN", "ETRN": "459 Node not allowed: go away"})},
		{"hangs", 2504, api.ExitTempFail, []string{"quiet", "request-timeout"}, func(c net.Conn, in *bufio.Reader) { in.ReadString(0) }},
		{"closes", 2505, api.ExitTempFail, []string{"closed"}, func(net.Conn, *bufio.Reader) {}},
		{"nobody", 2506, api.ExitTempFail, []string{"refused", "probe"}, nil},
		{"not-now", 2507, api.ExitTempFail, []string{"421"}, func(c net.Conn, in *bufio.Reader) { fmt.Fprint(c, "421 too busy\r\n") }},
		{"garbage", 2508, api.ExitUnavailable, []string{"SMTP"}, func(c net.Conn, in *bufio.Reader) { fmt.Fprint(c, "\x00\x01\x02 hello\r\n") }},
	}
	for _, r := range remotes {
		// Short where the time-out is what is tested, and long where an answer
		// of a machine that is busy could miss it.
		request, connect := "2m", "2m"
		switch r.name {
		case "hangs":
			request = "1s"
		case "nobody":
			connect = "1s"
		}
		fmt.Fprintf(&config, "\n[[remote]]\nname = %q\nlink = \"isp\"\nhost = \"hub.example.net:%d\"\nrouter-type = \"pull-only\"\nrequest = [\"acme.example\"]\nrequest-timeout = %q\nconnect-timeout = %q\nwait = \"2s\"\n", r.name, r.port, request, connect)
	}
	ctx, w := world(t, Options{SiteConfig: config.String()})
	for _, r := range remotes {
		if r.talk == nil {
			continue
		}
		l, err := w.HubHost.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", r.port))
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					c.SetDeadline(hang.Deadline())
					r.talk(c, bufio.NewReader(c))
				}()
			}
		}()
	}
	// The hook starts all of them at once.
	must(t, w.Line.Connect(ctx))
	start := time.Now()
	results := waitCalls(ctx, t, w, len(remotes))
	t.Logf("all calls ended after %v", time.Since(start).Round(100*time.Millisecond))
	for _, r := range remotes {
		found := false
		for _, got := range results {
			if got.Remote != r.name {
				continue
			}
			found = true
			t.Logf("%s: exit %d: %s (%s)", r.name, got.Exit, got.Error, got.Hint)
			if got.Exit != r.exit {
				t.Errorf("%s: exit %d, want %d: %+v", r.name, got.Exit, r.exit, got)
			}
			for _, want := range r.says {
				if !strings.Contains(got.Error+" "+got.Hint, want) {
					t.Errorf("%s: %q, %q does not say %q", r.name, got.Error, got.Hint, want)
				}
			}
		}
		if !found {
			t.Errorf("%s: no result", r.name)
		}
	}
	must(t, testbed.Until(ctx, "the line to be hung up", func() (bool, error) { return !w.Line.IsUp(), nil }))
}

// smtpTalk answers commands by their verb.
func smtpTalk(replies map[string]string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, in *bufio.Reader) {
		fmt.Fprint(c, "220 hub.example.net\r\n")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
			reply, ok := replies[verb]
			switch {
			case verb == "QUIT":
				fmt.Fprint(c, "221 bye\r\n")
				return
			case !ok:
				reply = "500 what?"
			}
			fmt.Fprintf(c, "%s\r\n", reply)
		}
	}
}
