//go:build !quick

// Package interop tests that mail moves between etrnd and software that nobody
// here wrote, all of it as Debian packages it: fetchmail as customer, in its
// ETRN and its ODMR mode; Sendmail's etrn(8); and Postfix, Exim and Sendmail as
// the MTA at either end. The peers are set up as their manuals say, and no more
// than that: where one of them has peculiar ways, that is what is tested.
//
// `make deps`, which `make test` runs, installs fetchmail and unpacks Exim and
// Sendmail beside Postfix (packaging/get-mtas). Without them the tests fail.
//
// ATRN with Exim, which has it from 4.99, is not tested: Debian 12 has 4.96 and
// Debian 13 has 4.98.
package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/scenario"
	"github.com/etrnd/etrnd/internal/testbed"
)

const (
	hubName  = "hub.example.net"
	siteName = "mail.acme.example"

	hubAddr, siteAddr = "198.51.100.1", "198.51.100.2"
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair is a hub and a site. Which software runs there is up to the test.
type pair struct {
	bed       *testbed.Bed
	hub, site *testbed.Host
	line      *testbed.Link // nil where a cable joins them
	began     time.Time     // when the first host was begun
}

// wired joins hub and site by a cable that is always there: for a site that
// does not run etrnd, when it calls is its own affair.
func wired(t *testing.T) (context.Context, *pair) {
	t.Helper()
	ctx, p := hosts(t)
	must(t, p.bed.Wire(ctx, testbed.End{Host: p.hub, Address: hubAddr + "/24"}, testbed.End{Host: p.site, Address: siteAddr + "/24"}))
	return ctx, p
}

// dialled joins them by a line that the site dials, and hangs up, by pon and
// poff.
func dialled(t *testing.T) (context.Context, *pair) {
	t.Helper()
	ctx, p := hosts(t)
	var err error
	p.line, err = p.bed.Link(ctx, testbed.LinkOptions{
		A: testbed.End{Host: p.site, Address: siteAddr}, B: testbed.End{Host: p.hub, Address: hubAddr},
		Shape: testbed.Shape{RTT: 20 * time.Millisecond, Rate: 100e6},
	})
	must(t, err)
	for name, do := range map[string]func(context.Context) error{"pon": p.line.Up, "poff": p.line.Down} {
		must(t, p.site.Provide(name, func(ctx context.Context, _ []string) (string, error) { return "", do(ctx) }))
	}
	return ctx, p
}

func hosts(t *testing.T) (context.Context, *pair) {
	t.Helper()
	ctx := t.Context() // each wait of the test bed has a limit of its own
	p := &pair{bed: testbed.Start(t)}
	p.began = time.Now()
	var err error
	p.hub, err = p.bed.Host(ctx, "hub", testbed.HostOptions{Hostname: hubName})
	must(t, err)
	p.site, err = p.bed.Host(ctx, "site", testbed.HostOptions{Hostname: siteName})
	must(t, err)
	return ctx, p
}

// hubConfig has queues for the site by address and by user, and one of another
// site's. Nothing goes out but what is asked for, as often as it is asked for.
const hubConfig = `hostname = "hub.example.net"

[odmr]
listen = ["0.0.0.0:366"]
users = "/etc/etrnd/users"
cram-md5 = true

[[queue]]
name = "acme"
domains = ["acme.example", ".acme.example"]
deliver = "smtp:[mail.acme.example]"
clients = ["198.51.100.2"]
min-interval = "0s"
window = "0s"

[[queue]]
name = "user"
domains = ["user.example"]
deliver = "smtp:[mail.acme.example]"
users = ["acme"]
min-interval = "0s"
window = "0s"

[[queue]]
name = "beta"
domains = ["beta.example"]
deliver = "smtp:[mail.acme.example]"
clients = ["192.0.2.77"]
`

// finalDomains are those of the queues, all of which the site would take: what
// it must not get is for the hub to keep.
var finalDomains = []string{"acme.example", "sub.acme.example", "user.example", "beta.example"}

const password = "between you and me"

// ourHub starts Postfix with both daemons on the hub. The users file has the
// user acme, with a secret for CRAM-MD5.
func ourHub(ctx context.Context, t *testing.T, h *testbed.Host, config string) *scenario.Daemons {
	t.Helper()
	_, err := h.Postfix(ctx, testbed.PostfixOptions{})
	must(t, err)
	must(t, built.Install(h))
	add := h.Command(ctx, "etrnctl", "user", "add", "acme", "--cram-md5", "--file", "/etc/etrnd/users")
	add.Stdin = strings.NewReader(password + "\n")
	_, err = add.Text()
	must(t, err)
	_, err = h.Run(ctx, "chown", "etrnd:", "/etc/etrnd/users")
	must(t, err)
	return daemons(ctx, t, h, config)
}

// ourSite starts Postfix with both daemons on the site, whose mail may go out
// by the hub.
func ourSite(ctx context.Context, t *testing.T, h *testbed.Host, config string) *scenario.Daemons {
	t.Helper()
	_, err := h.Postfix(ctx, testbed.PostfixOptions{Final: finalDomains})
	must(t, err)
	must(t, built.Install(h))
	return daemons(ctx, t, h, config)
}

// stockSite starts a site's Postfix that has never heard of etrnd.
func stockSite(ctx context.Context, t *testing.T, h *testbed.Host) {
	t.Helper()
	_, err := h.Postfix(ctx, testbed.PostfixOptions{Final: finalDomains})
	must(t, err)
}

func daemons(ctx context.Context, t *testing.T, h *testbed.Host, config string) *scenario.Daemons {
	t.Helper()
	must(t, h.WriteFile("/etc/etrnd/etrnd.toml", []byte(config), 0o644))
	_, err := h.Run(ctx, "sh", "-c", "install -d -o etrnd -g etrnd -m 755 /run/etrnd")
	must(t, err)
	_, err = h.Run(ctx, "etrnctl", "setup", "postfix", "--apply")
	must(t, err)
	d := &scenario.Daemons{Host: h}
	must(t, d.StartMilter(ctx))
	must(t, d.StartEtrnd(ctx))
	t.Cleanup(func() {
		if found, err := scenario.Races(h); err != nil || found != "" {
			t.Errorf("%s: %v%s", h.Name, err, found)
		}
	})
	return d
}

// send hands n messages to the MTA of a host itself, one recipient each.
func send(ctx context.Context, t *testing.T, h *testbed.Host, n, size int, to string) []string {
	t.Helper()
	ids, err := h.SendMany(ctx, "", scenario.Messages(n, size, to))
	must(t, err)
	return ids
}

// arrive waits until every message has come to a host, and fails for any that
// has come twice.
func arrive(ctx context.Context, t *testing.T, h *testbed.Host, ids []string) {
	t.Helper()
	duplicates, err := h.WaitDelivered(ctx, ids)
	must(t, err)
	if duplicates != 0 {
		t.Errorf("%d duplicates at %s", duplicates, h.Name)
	}
}

// untouched fails the test if one of the messages has come to a host.
func untouched(t *testing.T, h *testbed.Host, ids []string) {
	t.Helper()
	all, err := h.Delivered()
	must(t, err)
	for _, d := range all {
		for _, id := range ids {
			if d.MessageID == id {
				t.Errorf("%s has come to %s for %s", id, h.Name, d.Recipient)
			}
		}
	}
}

// asksForMail has mail wait at our hub, for the site and for another one, lets
// the site ask, and looks at what comes.
func asksForMail(ctx context.Context, t *testing.T, p *pair, hub *scenario.Daemons, ask func()) {
	t.Helper()
	ids := send(ctx, t, p.hub, 5, 2000, "a@acme.example")
	ids = append(ids, send(ctx, t, p.hub, 1, 500_000, "a@acme.example")...)
	others := send(ctx, t, p.hub, 2, 1000, "b@beta.example")
	must(t, hub.WaitQueue(ctx, "acme", len(ids)))
	ask()
	arrive(ctx, t, p.site, ids)
	must(t, hub.WaitQueue(ctx, "acme", 0))
	must(t, hub.WaitQueue(ctx, "beta", len(others)))
	untouched(t, p.site, others)
}

// lastCall is the latest call of a site.
func lastCall(ctx context.Context, t *testing.T, site *scenario.Daemons) api.CallResult {
	t.Helper()
	var results []api.CallResult
	must(t, site.CtlJSON(ctx, &results, "history"))
	if len(results) == 0 {
		t.Fatal("the site has made no call")
	}
	return results[0]
}

// callConfig is a site that calls a hub on port 25 for names. Such a hub does
// not say how much waits, so that only a pause ends the call: one of twice the
// time that it took to get this far, since two hosts and an MTA start more
// slowly on a busy machine by as much as mail moves more slowly.
func callConfig(p *pair, names string) string {
	return fmt.Sprintf(callText, names, max(2*time.Since(p.began), time.Second).Round(time.Millisecond))
}

const callText = `hostname = "mail.acme.example"

[[link]]
name = "isp"
interfaces = ["ppp0"]
dial = ["pon"]
hang-up = ["poff"]

[[remote]]
name = "hub"
link = "isp"
host = "hub.example.net:25"
router-type = "pull-push"
request = [%s]
wait = "30m"
idle = "%v"
push = ["*"]
`

// callsForMail has mail wait on both sides, calls, and looks at what came of
// it. waits waits until n messages are in the queue of the hub.
func callsForMail(ctx context.Context, t *testing.T, p *pair, site *scenario.Daemons, waits func(n int)) api.CallResult {
	t.Helper()
	in := send(ctx, t, p.hub, 5, 2000, "a@acme.example")
	in = append(in, send(ctx, t, p.hub, 1, 500_000, "a@acme.example")...)
	others := send(ctx, t, p.hub, 2, 1000, "b@beta.example")
	waits(len(in) + len(others))
	out := send(ctx, t, p.site, 4, 2000, "c@online.example")
	must(t, site.WaitQueue(ctx, "hub", len(out)))

	// The exit code is that of the call, and in the result, too.
	_, _ = site.Ctl(ctx, "call", "hub", "--wait")
	arrive(ctx, t, p.site, in)
	arrive(ctx, t, p.hub, out)
	r := lastCall(ctx, t, site)
	if r.In.Messages != len(in) || r.Out.Messages != len(out) || r.Duplicates != 0 {
		t.Errorf("result of the call: %+v", r)
	}
	if p.line.IsUp() {
		t.Error("the line is still up")
	}
	must(t, site.WaitQueue(ctx, "hub", 0))
	waits(len(others))
	untouched(t, p.site, others)
	return r
}

// mtas is where packaging/get-mtas has put what cannot be installed.
func mtas(t *testing.T) string {
	t.Helper()
	home, err := os.UserHomeDir()
	must(t, err)
	dir := filepath.Join(home, ".cache/etrnd/mtas")
	if _, err := os.Stat(filepath.Join(dir, "unpacked")); err != nil {
		t.Fatalf("Debian's Exim and Sendmail are not in %s: run make deps, with the network up: %v", dir, err)
	}
	return dir
}

// greets waits for the greeting of an SMTP server.
func greets(ctx context.Context, t *testing.T, h *testbed.Host, p *testbed.Process, addr string) {
	t.Helper()
	must(t, testbed.Until(ctx, "SMTP of "+h.Name+" to answer", func() (bool, error) {
		select {
		case <-p.Exited():
			log, _ := h.ReadFile(p.Log())
			return false, fmt.Errorf("the MTA of %s has ended: %s", h.Name, log)
		default:
		}
		c, err := h.Dial(ctx, "tcp", addr)
		if err != nil {
			return false, nil
		}
		defer c.Close()
		return strings.HasPrefix(dialogue(c, "QUIT"), "220"), nil
	}))
}

// dialogue sends lines, each after the reply to the one before, and returns
// all that was said by the server.
func dialogue(c net.Conn, lines ...string) string {
	_ = c.SetDeadline(hang.Deadline())
	var all strings.Builder
	buf := make([]byte, 4096)
	for i := 0; ; i++ {
		var reply string
		for {
			n, err := c.Read(buf)
			reply += string(buf[:n])
			last := reply[strings.LastIndex(strings.TrimSuffix(reply, "\r\n"), "\n")+1:]
			if strings.HasSuffix(reply, "\n") && len(last) > 3 && last[3] == ' ' {
				break
			}
			if err != nil {
				return all.String() + reply + err.Error()
			}
		}
		all.WriteString(reply)
		if i == len(lines) {
			return all.String()
		}
		if _, err := c.Write([]byte(lines[i] + "\r\n")); err != nil {
			return all.String() + err.Error()
		}
	}
}

// account adds a user and a group of that name to a host.
func account(t *testing.T, h *testbed.Host, name string, id int, home string) {
	t.Helper()
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::%s:/usr/sbin/nologin\n", name, id, id, home),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", name, id),
	} {
		old, err := h.ReadFile(file)
		must(t, err)
		if strings.Contains("\n"+string(old), "\n"+name+":") {
			continue
		}
		must(t, h.WriteFile(file, append(old, line...), 0o644))
	}
}
