//go:build !quick

package contrib

import (
	"context"
	"errors"
	"net/netip"
	"net/textproto"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// settings reads what a page in postfix/ tells to put into a file: the
// indented block behind the file's name.
func settings(t *testing.T, page, file string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?m)^`" + regexp.QuoteMeta(file) + "`[^:]*:\n\n((?:    [^\n]*\n|\n)+)").FindSubmatch(text)
	if block == nil {
		t.Fatalf("%s says nothing for %s", page, file)
	}
	return regexp.MustCompile("(?m)^    ").ReplaceAllString(string(block[1]), "")
}

// mainCf splits the text of a main.cf into its settings.
func mainCf(t *testing.T, text string) map[string]string {
	t.Helper()
	main := make(map[string]string)
	var last string
	for line := range strings.Lines(text) {
		switch {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case line[0] == ' ':
			main[last] += " " + strings.TrimSpace(line)
		default:
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				t.Fatalf("not a setting: %q", line)
			}
			last = strings.TrimSpace(k)
			main[last] = strings.TrimSpace(v)
		}
	}
	return main
}

// machine is a host whose Postfix is set up as a page says.
func machine(ctx context.Context, t *testing.T, bed *testbed.Bed, name, hostname, page string, o testbed.PostfixOptions) *testbed.Host {
	t.Helper()
	h, err := bed.Host(ctx, name, testbed.HostOptions{Hostname: hostname})
	if err != nil {
		t.Fatal(err)
	}
	if page != "" {
		main := mainCf(t, settings(t, page, "/etc/postfix/main.cf"))
		for k, v := range o.Main {
			main[k] = v
		}
		o.Main = main
		o.Master = []string{strings.TrimSpace(settings(t, page, "/etc/postfix/master.cf"))}
	}
	if _, err := h.Postfix(ctx, o); err != nil {
		t.Fatal(err)
	}
	return h
}

// held waits until the messages are held for the reason that shows that the
// transport did it.
func held(ctx context.Context, t *testing.T, h *testbed.Host, n int) {
	t.Helper()
	err := testbed.Until(ctx, "messages to be held", func() (bool, error) {
		list, err := h.Queue(ctx)
		have := 0
		for _, q := range list {
			for _, r := range q.Recipients {
				if q.Queue == "deferred" && r.Reason == "deferred transport" {
					have++
				}
			}
		}
		return have == n, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPostfixPages sets up a hub and a site by the pages for doing it by hand,
// with neither of the daemons there: Postfix alone must accept, hold and flush.
func TestPostfixPages(t *testing.T) {
	ctx := t.Context()
	bed := testbed.Start(t)
	hub := machine(ctx, t, bed, "hub", "hub.example.net", "postfix/hub.md", testbed.PostfixOptions{
		Final: []string{"world.example"},
		Files: map[string]string{
			"/etc/postfix/etrnd/transport": settings(t, "postfix/hub.md", "/etc/postfix/etrnd/transport"),
			"/etc/postfix/etrnd/clients":   settings(t, "postfix/hub.md", "/etc/postfix/etrnd/clients"),
		},
	})
	// One machine is both: the site that the page is about, and acme's server.
	site := machine(ctx, t, bed, "site", "mail.acme.example", "postfix/site.md", testbed.PostfixOptions{
		Final: []string{"acme.example", "sub.acme.example"},
		Files: map[string]string{"/etc/postfix/etrnd/replies": settings(t, "postfix/site.md", "/etc/postfix/etrnd/replies")},
	})
	if err := bed.Wire(ctx, testbed.End{Host: hub, Address: "192.0.2.1/24"}, testbed.End{Host: site, Address: "192.0.2.2/24"}); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*testbed.Host{hub, site} {
		for name, addr := range map[string]string{"hub.example.net": "192.0.2.1", "mail.acme.example": "192.0.2.2"} {
			if err := h.SetName(name, netip.MustParseAddr(addr)); err != nil {
				t.Fatal(err)
			}
		}
	}
	send := func(h *testbed.Host, to string) string {
		id, err := h.Send(ctx, "", testbed.Message{To: []string{to}})
		if err != nil {
			t.Fatalf("%s does not accept mail for %s: %v", h.Name, to, err)
		}
		return id
	}
	arrive := func(h *testbed.Host, id string) {
		t.Helper()
		if _, err := h.WaitDelivered(ctx, []string{id}); err != nil {
			t.Fatal(err)
		}
	}
	flush := func(h *testbed.Host, domain string) {
		t.Helper()
		if _, err := h.Run(ctx, "postqueue", "-s", domain); err != nil {
			t.Fatal(err)
		}
	}

	// The hub holds the domain and what is below it, and no other mail.
	domain, below, other := send(hub, "a@acme.example"), send(hub, "b@sub.acme.example"), send(hub, "c@world.example")
	arrive(hub, other)
	held(ctx, t, hub, 2)
	flush(hub, "acme.example")
	arrive(site, domain)
	held(ctx, t, hub, 1)
	flush(hub, "sub.acme.example")
	arrive(site, below)

	// The site holds all that is not final there.
	own, out := send(site, "d@acme.example"), send(site, "e@world.example")
	arrive(site, own)
	held(ctx, t, site, 1)
	flush(site, "world.example")
	arrive(hub, out)

	// Without etrnd nobody may ask, neither for a name that is held nor for one
	// that is not; on a site nobody ever may.
	for _, ask := range []struct {
		from, at *testbed.Host
		name     string
		want     int
	}{
		{site, hub, "acme.example", 451},
		{site, hub, "#acme", 451},
		{hub, site, "world.example", 554},
	} {
		conn, err := ask.from.Dial(ctx, "tcp", ask.at.Hostname+":25")
		if err != nil {
			t.Fatal(err)
		}
		c := textproto.NewConn(conn)
		conn.SetDeadline(hang.Deadline())
		if _, _, err := c.ReadResponse(220); err != nil {
			t.Fatal(err)
		}
		if err := c.PrintfLine("HELO %s", ask.from.Hostname); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadResponse(250); err != nil {
			t.Fatal(err)
		}
		if err := c.PrintfLine("ETRN %s", ask.name); err != nil {
			t.Fatal(err)
		}
		_, _, err = c.ReadResponse(ask.want)
		var reply *textproto.Error
		if errors.As(err, &reply) {
			t.Errorf("ETRN %s at %s: %v, want %d", ask.name, ask.at.Name, reply, ask.want)
		} else if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}
