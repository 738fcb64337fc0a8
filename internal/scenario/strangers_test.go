//go:build !quick

package scenario

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// ETRN from a stranger, from a wrong network, for another's queue, for @com:
// 459, and nothing moves. Junk, a NUL, pipelined garbage, a client that sends
// one byte a second, and one that only connects: the listener answers others
// meanwhile.
func TestStrangersAndGarbage(t *testing.T) {
	t.Parallel()
	// Whoever says nothing may stay longer than this test: an answer that waited
	// for the end of one of them would not come.
	ctx, w := world(t, Options{HubConfig: strings.Replace(HubConfig, "[odmr]\n", "[odmr]\ncommand-timeout = \"30m\"\nsession-timeout = \"1h\"\n", 1)})
	must(t, w.Line.Up(ctx))
	send(ctx, t, w.Online, hubName+":25", Messages(2, 0, "a@acme.example"))
	send(ctx, t, w.Online, hubName+":25", Messages(2, 0, "b@beta.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 2))
	must(t, w.Hub.WaitQueue(ctx, "beta", 2))
	settled(ctx, t, w, "acme", "a@acme.example")

	hubEth := "198.51.100.1:366"
	for _, c := range []struct {
		why        string
		from       *testbed.Host
		addr, name string
		code       string
	}{
		{"a stranger", w.Online, hubEth, "acme.example", "459"},
		{"a stranger, by queue name", w.Online, hubEth, "#acme", "459"},
		{"a wrong network", w.Online, hubEth, "beta.example", "459"},
		{"another's queue", w.SiteHost, hubLine + ":366", "beta.example", "459"},
		{"another's queue by name", w.SiteHost, hubLine + ":366", "#beta", "459"},
		{"a top-level domain", w.SiteHost, hubLine + ":366", "@com", "459"},
		{"the domain above", w.SiteHost, hubLine + ":366", "@example", "459"},
		{"nobody's domain", w.SiteHost, hubLine + ":366", "unknown.example", "459"},
		{"no name", w.SiteHost, hubLine + ":366", "", "500"},
		{"no domain", w.SiteHost, hubLine + ":366", "acme..example", "501"},
	} {
		out := dialogue(ctx, t, c.from, c.addr, "EHLO x.example", strings.TrimSpace("ETRN "+c.name))
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, c.code) {
			t.Errorf("%s: ETRN %s: %q, want %s", c.why, c.name, last, c.code)
		}
	}
	unmoved(ctx, t, w, 4)

	serial := 0
	ask := func() time.Duration {
		t.Helper()
		start := time.Now()
		serial++
		out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "NOOP", fmt.Sprintf("ETRN n%d.acme.example", serial), "QUIT")
		if !strings.Contains(out, "\n251 ") || !strings.Contains(out, "\n221 ") {
			t.Errorf("an answer: %s", out)
		}
		return time.Since(start)
	}
	var before time.Duration
	for range 5 {
		before = max(before, ask())
	}

	// Trouble makers, all at once, who stay connected as long as they may.
	for name, talk := range map[string]func(net.Conn){
		"junk":      func(c net.Conn) { c.Write([]byte(strings.Repeat("x", 9999))) },
		"nul":       func(c net.Conn) { c.Write([]byte("EHLO \x00\r\n\x00\x00ETRN acme.example\r\n")) },
		"pipelined": func(c net.Conn) { c.Write([]byte(strings.Repeat("ETRN acme.example\r\nGET / HTTP/1.0\r\n", 500))) },
		"slow": func(c net.Conn) {
			for _, b := range []byte("EHLO slow.example\r\n") {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second) // one byte a second is what this client is
			}
		},
		"half-closed": func(c net.Conn) { c.(*net.TCPConn).CloseWrite() },
		"silent":      func(net.Conn) {},
		"binary":      func(c net.Conn) { io.CopyN(c, zeroes{}, 1<<20) },
	} {
		for range 3 {
			c, err := w.Online.Dial(ctx, "tcp", hubEth)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			t.Cleanup(func() { c.Close() })
			c.SetDeadline(hang.Deadline())
			go talk(c)
		}
	}
	during := ask()
	for range 4 {
		during = min(during, ask())
	}
	if during > 10*before {
		t.Errorf("an answer took %v at best while others make trouble, and %v at worst before", during, before)
	}
	unmoved(ctx, t, w, 4)
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// unmoved checks that n messages are held at the hub and that none has been
// tried. One that is active at the moment has just arrived, or is being tried:
// what becomes of it tells.
func unmoved(ctx context.Context, t *testing.T, w *World, n int) {
	t.Helper()
	var q []testbed.Queued
	must(t, testbed.Until(ctx, "the hub's queue to come to rest", func() (ok bool, err error) {
		q, err = w.HubHost.Queue(ctx)
		return !slices.ContainsFunc(q, func(m testbed.Queued) bool { return m.Queue != "deferred" }), err
	}))
	if len(q) != n {
		t.Errorf("%d messages at the hub, want %d", len(q), n)
	}
	for _, m := range q {
		if m.Recipients[0].Reason != "deferred transport" {
			t.Errorf("moved: %+v", m)
		}
	}
}
