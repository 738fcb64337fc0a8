// Package scenario is the smallest world in which everything that etrnd does
// happens: a hub that holds mail, a site behind a line that comes and goes, a
// host on the site's own network, and a host that is always online. The tests
// of the main job and the demo play in it, with the real programs.
package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/testbed"
)

// Names and addresses. The line has addresses of its own on both sides, as a
// PPP line has.
const (
	hubName    = "hub.example.net"
	siteName   = "mail.acme.example"
	onlineName = "mx.online.example"
	officeName = "office.acme.example"

	onlineDomain = "online.example"

	hubLine, siteLine = "192.0.2.1", "192.0.2.2"
)

// Daemons are etrnd and etrn-milter of one host, run as their own users with
// the groups that the units give them.
type Daemons struct {
	Host   *testbed.Host
	mu     sync.Mutex
	Etrnd  *testbed.Process
	Milter *testbed.Process
}

// installDaemons writes the configuration, sets Postfix up, and starts both daemons.
func (w *World) installDaemons(ctx context.Context, h *testbed.Host, config string, files, users map[string]string) (*Daemons, error) {
	if err := w.programs.Install(h); err != nil {
		return nil, err
	}
	if err := h.WriteFile("/etc/etrnd/etrnd.toml", []byte(config), 0o644); err != nil {
		return nil, err
	}
	for path, text := range files {
		if err := h.WriteFile(path, []byte(text), 0o640); err != nil {
			return nil, err
		}
		if _, err := h.Run(ctx, "chgrp", "etrnd", path); err != nil {
			return nil, err
		}
	}
	for name, password := range users {
		c := h.Command(ctx, "etrnctl", "user", "add", name)
		c.Stdin = strings.NewReader(password + "\n")
		if out, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("etrnctl user add %s: %w: %s", name, err, out)
		}
		if _, err := h.Run(ctx, "chgrp", "etrnd", "/etc/etrnd/users"); err != nil {
			return nil, err
		}
	}
	if _, err := h.Run(ctx, "etrnctl", "setup", "postfix", "--apply"); err != nil {
		return nil, err
	}
	d := &Daemons{Host: h}
	if err := d.StartMilter(ctx); err != nil {
		return nil, err
	}
	return d, d.StartEtrnd(ctx)
}

// StartEtrnd starts etrnd and waits until it answers etrnctl.
func (d *Daemons) StartEtrnd(ctx context.Context) error {
	p, err := d.Host.Start(ctx, testbed.StartOptions{Args: []string{"/usr/local/sbin/etrnd"}, User: "etrnd", Groups: []string{"postdrop", "etrn-milter", "etrnd-sockets"}, Capabilities: []uintptr{unix.CAP_NET_BIND_SERVICE}, Env: []string{"GORACE=halt_on_error=0"}})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.Etrnd = p
	d.mu.Unlock()
	return testbed.Until(ctx, "etrnd on "+d.Host.Name+" to answer", func() (bool, error) {
		select {
		case <-p.Exited():
			return false, fmt.Errorf("etrnd has ended: see %s", p.Log())
		default:
		}
		_, err := d.Ctl(ctx, "queues", "--json")
		return err == nil, nil
	})
}

// StartMilter starts etrn-milter and waits until its socket is there.
func (d *Daemons) StartMilter(ctx context.Context) error {
	p, err := d.Host.Start(ctx, testbed.StartOptions{Args: []string{"/usr/local/sbin/etrn-milter"}, User: "etrn-milter", Env: []string{"GORACE=halt_on_error=0"}})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.Milter = p
	d.mu.Unlock()
	return testbed.Until(ctx, "etrn-milter on "+d.Host.Name+" to listen", func() (bool, error) {
		select {
		case <-p.Exited():
			return false, fmt.Errorf("etrn-milter has ended: see %s", p.Log())
		default:
		}
		c, err := d.Host.Dial(ctx, "unix", "/var/spool/postfix/etrnd/milter.sock")
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
}

// Ctl runs etrnctl on the host.
func (d *Daemons) Ctl(ctx context.Context, args ...string) (string, error) {
	return d.Host.Run(ctx, append([]string{"etrnctl"}, args...)...)
}

// CtlJSON runs etrnctl --json on the host and reads what it prints.
func (d *Daemons) CtlJSON(ctx context.Context, v any, args ...string) error {
	out, err := d.Ctl(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("etrnctl %s: %w in %q", strings.Join(args, " "), err, out)
	}
	return nil
}

// Queue asks etrnd for one queue.
func (d *Daemons) Queue(ctx context.Context, name string) (api.Queue, error) {
	var list []api.Queue
	if err := d.CtlJSON(ctx, &list, "queues"); err != nil {
		return api.Queue{}, err
	}
	for _, q := range list {
		if q.Name == name {
			return q, nil
		}
	}
	return api.Queue{}, fmt.Errorf("etrnd on %s has no queue %q", d.Host.Name, name)
}

// WaitQueue waits until etrnd's index has n messages in a queue.
func (d *Daemons) WaitQueue(ctx context.Context, name string, n int) error {
	var last api.Queue
	err := testbed.Until(ctx, fmt.Sprintf("queue %s on %s to have %d messages", name, d.Host.Name, n), func() (bool, error) {
		q, err := d.Queue(ctx, name)
		if err != nil {
			return false, err
		}
		last = q
		return q.Messages == n, nil
	})
	if err != nil {
		return fmt.Errorf("%w (it has %+v)", err, last)
	}
	return nil
}

// Options of a World.
type Options struct {
	Programs *programs.Set
	Shape    testbed.Shape // of the line
	// HubConfig and SiteConfig replace the default configurations.
	HubConfig, SiteConfig string
	// HubFiles and SiteFiles are further files, by path, that etrnd can read
	// and others cannot.
	HubFiles, SiteFiles map[string]string
	// HubUsers are users of the hub and their passwords, made by etrnctl.
	HubUsers map[string]string
	// HubMain and SiteMain are further settings of their Postfix.
	HubMain, SiteMain map[string]string
}

// World is the hub, the site, the line between them, the host on the site's
// network, and the host that is always online.
type World struct {
	Bed      *testbed.Bed
	programs *programs.Set

	HubHost, SiteHost, Office, Online *testbed.Host
	Hub, Site                         *Daemons
	HubMTA, SiteMTA                   *testbed.Postfix
	Line                              *testbed.Link
}

// HubConfig is the hub's configuration: two held queues.
const HubConfig = `hostname = "hub.example.net"

[odmr]
listen = ["0.0.0.0:366"]

[[queue]]
name = "acme"
domains = ["acme.example", ".acme.example"]
deliver = "smtp:[mail.acme.example]"
clients = ["192.0.2.2"]

[[queue]]
name = "beta"
domains = ["beta.example"]
deliver = "smtp:[mail.beta.example]"
clients = ["198.51.100.77"]
`

// SiteConfig is the site's configuration: one link, one remote.
const SiteConfig = `hostname = "mail.acme.example"

[[link]]
name = "isp"
interfaces = ["ppp0"]
dial = ["pon", "isp"]
hang-up = ["poff", "isp"]

[[remote]]
name = "hub"
link = "isp"
host = "hub.example.net:366"
router-type = "pull-push"
request = ["acme.example", "@acme.example", "#acme"]
request-timeout = "2m"
wait = "2m"
push = ["*"]
`

// New builds the world. The line is down.
func New(ctx context.Context, bed *testbed.Bed, o Options) (*World, error) {
	w := &World{Bed: bed, programs: o.Programs}
	if o.HubConfig == "" {
		o.HubConfig = HubConfig
	}
	if o.SiteConfig == "" {
		o.SiteConfig = SiteConfig
	}
	if err := w.wire(ctx, o.Shape); err != nil {
		return nil, err
	}
	// Each host on its own goroutine: they have nothing to do with each other.
	var hubErr, siteErr, onlineErr error
	var wg sync.WaitGroup
	wg.Go(func() { hubErr = w.startHub(ctx, o) })
	wg.Go(func() { siteErr = w.startSite(ctx, o) })
	wg.Go(func() {
		// It could take beta's mail, for a hub that is told to send it there.
		_, onlineErr = w.Online.Postfix(ctx, testbed.PostfixOptions{Final: []string{onlineDomain, "beta.example"}})
	})
	wg.Wait()
	for _, err := range []error{hubErr, siteErr, onlineErr} {
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *World) wire(ctx context.Context, shape testbed.Shape) (err error) {
	host := func(short, name string) (h *testbed.Host) {
		if err == nil {
			h, err = w.Bed.Host(ctx, short, testbed.HostOptions{Hostname: name})
		}
		return h
	}
	w.HubHost, w.SiteHost = host("hub", hubName), host("site", siteName)
	w.Office, w.Online = host("office", officeName), host("online", onlineName)
	if err != nil {
		return err
	}
	if err := w.Bed.Wire(ctx, testbed.End{Host: w.HubHost, Address: "198.51.100.1/24"}, testbed.End{Host: w.Online, Address: "198.51.100.2/24"}); err != nil {
		return err
	}
	if err := w.Bed.Wire(ctx, testbed.End{Host: w.SiteHost, Address: "203.0.113.1/24"}, testbed.End{Host: w.Office, Address: "203.0.113.2/24"}); err != nil {
		return err
	}
	// The bed has no DNS, so a domain is reached by its address.
	if err := w.HubHost.SetName(onlineDomain, netip.MustParseAddr("198.51.100.2")); err != nil {
		return err
	}
	// Nobody answers there: what is tried for beta fails, and stays.
	if err := w.HubHost.SetName("mail.beta.example", netip.MustParseAddr("198.51.100.99")); err != nil {
		return err
	}
	w.Line, err = w.Bed.Link(ctx, testbed.LinkOptions{
		A: testbed.End{Host: w.SiteHost, Address: siteLine, Routes: []string{"0.0.0.0/0"}}, B: testbed.End{Host: w.HubHost, Address: hubLine},
		Shape: shape,
	})
	return err
}

func (w *World) startHub(ctx context.Context, o Options) (err error) {
	main := map[string]string{"mynetworks": "127.0.0.0/8, 198.51.100.0/24, " + siteLine}
	maps.Copy(main, o.HubMain)
	w.HubMTA, err = w.HubHost.Postfix(ctx, testbed.PostfixOptions{Main: main})
	if err != nil {
		return err
	}
	w.Hub, err = w.installDaemons(ctx, w.HubHost, o.HubConfig, o.HubFiles, o.HubUsers)
	return err
}

func (w *World) startSite(ctx context.Context, o Options) (err error) {
	main := map[string]string{"mynetworks": "127.0.0.0/8, 203.0.113.0/24"}
	maps.Copy(main, o.SiteMain)
	w.SiteMTA, err = w.SiteHost.Postfix(ctx, testbed.PostfixOptions{
		Main:  main,
		Final: []string{"acme.example"},
	})
	if err != nil {
		return err
	}
	for name, do := range map[string]func(context.Context) error{"pon": w.Line.Connect, "poff": w.Line.Disconnect} {
		if err := w.SiteHost.Provide(name, func(ctx context.Context, args []string) (string, error) { return "", do(ctx) }); err != nil {
			return err
		}
	}
	// As "etrnctl check" advises: Debian's hook flushes the whole queue, and
	// would hide whether ours works.
	if _, err := w.SiteHost.Run(ctx, "rm", "-f", "/etc/ppp/ip-up.d/postfix"); err != nil {
		return err
	}
	for _, dir := range []string{"ip-up.d", "ip-down.d"} {
		if err := installHook(w.SiteHost, dir); err != nil {
			return err
		}
	}
	w.Site, err = w.installDaemons(ctx, w.SiteHost, o.SiteConfig, o.SiteFiles, nil)
	return err
}

// installHook puts the hook of contrib into a host, where an administrator
// would put it.
func installHook(h *testbed.Host, dir string) error {
	root, err := programs.Root()
	if err != nil {
		return err
	}
	return h.Install(filepath.Join(root, "contrib/ppp", dir, "etrnd"), "/etc/ppp/"+dir+"/etrnd", 0o755)
}

// Messages makes n messages for the same recipients.
func Messages(n, size int, to ...string) []testbed.Message {
	list := make([]testbed.Message, n)
	for i := range list {
		list[i] = testbed.Message{To: to, Size: size}
	}
	return list
}

// Races returns what the race detector has found in the daemons of a host.
func Races(h *testbed.Host) (string, error) {
	var found strings.Builder
	for _, name := range []string{"etrnd", "etrn-milter"} {
		log, err := h.ReadFile("/var/log/" + name + ".log")
		if err != nil {
			continue
		}
		if i := strings.Index(string(log), "WARNING: DATA RACE"); i >= 0 {
			fmt.Fprintf(&found, "%s:\n%s\n", name, log[i:min(len(log), i+4000)])
		}
		if i := strings.Index(string(log), "panic"); i >= 0 {
			fmt.Fprintf(&found, "%s:\n%s\n", name, log[i:min(len(log), i+4000)])
		}
	}
	return found.String(), nil
}
