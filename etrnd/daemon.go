// Package etrnd puts the daemon together: what it serves, what it watches, and
// how a new configuration comes into force. The ideas themselves are in the
// packages below this one.
package etrnd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etrnd/etrnd/etrnd/call"
	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/etrnd/deliver"
	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/policy"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/setup"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
	"github.com/etrnd/etrnd/internal/users"
)

// Options of a Daemon.
type Options struct {
	ConfigFile string
	Config     *config.Config // as loaded from ConfigFile
	Version    string
	Logger     *slog.Logger
	Level      *slog.LevelVar  // of Logger; a reload sets it
	Sockets    *listen.Sockets // passed by systemd; may be nil
	// Ready is called once every listener is open.
	Ready func()
}

// Daemon is etrnd.
type Daemon struct {
	o       Options
	log     *slog.Logger
	started time.Time

	mta     mta.MTA
	setup   *setup.Monitor
	hold    *hold.Manager
	inbound *call.Inbound
	caller  *call.Caller
	users   *users.Store      // nil: none configured
	cert    *odmr.Certificate // nil: none configured
	control *control.Server

	reload sync.Mutex // one reload at a time

	running *config.Config // at the start: sockets and the MTA are as it says

	mu        sync.Mutex
	cfg       *config.Config
	loaded    time.Time
	rejected  time.Time // when a reload was last refused since loaded
	problems  []string  // why
	listeners []api.Listener
}

// New makes a Daemon. It opens no socket.
func New(o Options) (*Daemon, error) {
	cfg := o.Config
	d := &Daemon{o: o, log: o.Logger, started: time.Now(), running: cfg, cfg: cfg, loaded: time.Now()}
	instance := postfix.Options{ConfigDir: cfg.MTA.ConfigDir, Logger: o.Logger}
	d.mta = postfix.New(instance)
	d.setup = setup.NewMonitor(postfix.New(instance))
	d.hold = hold.New(hold.Options{MTA: d.mta, Queues: d.set(context.Background(), cfg), Reconcile: cfg.MTA.Reconcile, Logger: o.Logger})
	d.inbound = call.NewInbound()
	d.caller = call.New(call.Options{Config: cfg, Hold: d.hold, Inbound: d.inbound, Logger: o.Logger})
	d.control = control.NewServer(control.Options{Backend: backend{d}, Logger: o.Logger, Group: cfg.Control.Group})
	var err error
	if cfg.ODMR.Users != "" {
		if d.users, err = users.Open(cfg.ODMR.Users, users.Options{Logger: o.Logger}); err != nil {
			return nil, fmt.Errorf("odmr: users: %w", err)
		}
	}
	if cfg.ODMR.TLSCert != "" {
		if d.cert, err = odmr.LoadCertificate(cfg.ODMR.TLSCert, cfg.ODMR.TLSKey); err != nil {
			return nil, fmt.Errorf("odmr: tls-cert: %w", err)
		}
	}
	return d, nil
}

// set is the queues of a configuration as this MTA sees their patterns.
func (d *Daemon) set(ctx context.Context, cfg *config.Config) *queue.Set {
	env := queue.Env{Local: d.isLocal}
	delimiters, err := d.mta.RecipientDelimiter(ctx)
	if err != nil {
		d.log.Warn("cannot ask the MTA for its recipient delimiter; address extensions are not recognised", "error", err)
	}
	env.Delimiters = delimiters
	return cfg.Set().With(env)
}

// isLocal asks the MTA, which remembers what it has found.
func (d *Daemon) isLocal(domain string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	local, err := d.mta.IsLocal(ctx, domain)
	if err != nil {
		d.log.Warn("cannot ask the MTA whether a domain is its own", "domain", domain, "error", err)
	}
	return local
}

// service is something that serves on a listener until its context ends.
type service struct {
	name  string // in the status, and of a socket that systemd passes
	spec  string
	opts  listen.Options
	serve func(context.Context, net.Listener) error
}

func (d *Daemon) services(cfg *config.Config) ([]service, error) {
	list := []service{
		{"control", cfg.Control.Listen, listen.Options{Mode: 0o666}, d.control.Serve},
		{"report", cfg.Milter.Report, reportSocket(), report.NewServer(report.ServerOptions{Handle: d.report, UIDs: milterUIDs(), Logger: d.log}).Serve},
	}
	if cfg.Policy.Listen != "" {
		list = append(list, service{"policy", cfg.Policy.Listen, listen.Options{Mode: 0o666, Max: 1000}, (&policy.Server{Asker: d.hold, Logger: d.log}).Serve})
	}
	if len(cfg.ODMR.Listen) > 0 {
		server, err := odmr.NewServer(odmr.ServerOptions{
			Hostname: cfg.Hostname, Asker: d.hold, Turner: d.turner(cfg), Users: d.users, CramMD5: cfg.ODMR.CRAMMD5, Certificate: d.cert, Logger: d.log,
			MaxConnections: cfg.ODMR.MaxConns, MaxConnectionsPerClient: cfg.ODMR.MaxConnsPerClient,
			CommandTimeout: cfg.ODMR.CommandTimeout, SessionTimeout: cfg.ODMR.SessionTimeout,
		})
		if err != nil {
			return nil, fmt.Errorf("odmr: %w", err)
		}
		for _, spec := range cfg.ODMR.Listen {
			list = append(list, service{"odmr", spec, listen.Options{}, server.Serve})
		}
	}
	return list, nil
}

// turner serves ATRN. Without users nobody can ask, and the listener says that
// it has no ATRN.
func (d *Daemon) turner(cfg *config.Config) odmr.Turner {
	if d.users == nil {
		return nil
	}
	return deliver.New(deliver.Options{Hostname: cfg.Hostname, Hold: d.hold, Socket: cfg.TurnSocket, Logger: d.log})
}

// milterUser is the account of etrn-milter, and the name of its group, that the
// package creates.
const milterUser = "etrn-milter"

// reportSocket is open to the milter's group where there is one. Whoever else
// could write to it could make a call wait for mail that is not coming, but
// neither read nor lose any.
func reportSocket() listen.Options {
	o := listen.Options{Mode: 0o660, Max: 16}
	if g, err := user.LookupGroup(milterUser); err == nil {
		o.Group = g.Gid
	}
	return o
}

func milterUIDs() []uint32 {
	u, err := user.Lookup(milterUser)
	if err != nil {
		return nil
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil
	}
	return []uint32{uint32(uid)}
}

// Run serves until ctx ends. When it returns nil, everything that it started
// has ended; the lines of links stay as they are.
func (d *Daemon) Run(ctx context.Context) error {
	services, err := d.services(d.cfg)
	if err != nil {
		return err
	}
	var open []net.Listener
	closeAll := func() {
		for _, l := range open {
			l.Close()
		}
	}
	for i := range services {
		s := &services[i]
		s.opts.Name, s.opts.Sockets, s.opts.Logger = s.name, d.o.Sockets, d.log
		l, err := listen.Listen(ctx, s.spec, s.opts)
		if err != nil {
			closeAll()
			return fmt.Errorf("%s: listen on %s: %w", s.name, s.spec, err)
		}
		open = append(open, l)
		d.listeners = append(d.listeners, api.Listener{Name: s.name, Address: address(s.spec, l)})
	}

	// Sockets first, work second: a process that cannot listen must not
	// start calls.
	group, gctx := errgroup.WithContext(ctx)
	run := func(name string, f func(context.Context) error) {
		group.Go(func() error {
			if err := f(gctx); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	run("hold", d.hold.Run)
	run("call", d.caller.Run)
	<-d.caller.Ready() // before a hook can tell of a link
	for i, s := range services {
		l := open[i]
		run(s.name, func(ctx context.Context) error { return s.serve(ctx, l) })
	}
	d.log.Info("etrnd is ready", "version", d.o.Version, "queues", len(d.cfg.Queues), "links", len(d.cfg.Links), "remotes", len(d.cfg.Remotes))
	if d.o.Ready != nil {
		d.o.Ready()
	}
	err = group.Wait()
	closeAll()
	return err
}

func address(spec string, l net.Listener) string {
	if _, ok := l.Addr().(*net.UnixAddr); ok {
		return spec
	}
	return l.Addr().String()
}

// report takes what the milter tells.
func (d *Daemon) report(ev report.Event) {
	switch ev.Kind {
	case report.Message:
		d.hold.Arrived(ev)
	case report.Lost, report.Ready, report.Gone:
		// Whatever came in while nobody told of it is in the listing.
		d.hold.Relist()
	}
	d.inbound.Handle(ev)
}

// Reload reads the configuration again. A bad one changes nothing. It returns
// what the administrator should know of a good one.
func (d *Daemon) Reload(ctx context.Context) (warnings []string, err error) {
	d.reload.Lock()
	defer d.reload.Unlock()
	cfg, err := config.Load(d.o.ConfigFile)
	if err == nil && d.cert != nil {
		if cerr := d.cert.Reload(); cerr != nil {
			err = fmt.Errorf("odmr: tls-cert: %w", cerr)
		}
	}
	if err == nil && cfg.ODMR.Users != "" && d.users != nil {
		if uerr := d.users.Reload(); uerr != nil {
			err = fmt.Errorf("odmr: users: %w", uerr)
		}
	}
	if err != nil {
		d.mu.Lock()
		d.rejected, d.problems = time.Now(), problems(err)
		d.mu.Unlock()
		d.log.Error("the new configuration is bad, the old one stays in force", "file", d.o.ConfigFile, "error", err)
		return nil, err
	}
	for _, w := range cfg.Warnings {
		warnings = append(warnings, w.String())
	}
	for _, name := range needRestart(d.running, cfg) {
		warnings = append(warnings, name+" has changed: that takes a restart of etrnd")
	}
	d.mta.Refresh()
	if d.o.Level != nil {
		d.o.Level.Set(cfg.LogLevel)
	}
	d.hold.SetQueues(d.set(ctx, cfg))
	d.caller.SetConfig(cfg)
	d.control.SetGroup(cfg.Control.Group)
	d.mu.Lock()
	d.cfg, d.loaded, d.rejected, d.problems = cfg, time.Now(), time.Time{}, nil
	d.mu.Unlock()
	for _, w := range warnings {
		d.log.Warn("configuration", "warning", w)
	}
	d.log.Info("configuration reloaded", "file", d.o.ConfigFile, "queues", len(cfg.Queues), "links", len(cfg.Links), "remotes", len(cfg.Remotes))
	return warnings, nil
}

// problems is an error as one line for each of its parts.
func problems(err error) []string {
	var cerr *config.Error
	if errors.As(err, &cerr) {
		var list []string
		for _, p := range cerr.Problems {
			list = append(list, p.String())
		}
		return list
	}
	return []string{err.Error()}
}

// needRestart names what a reload does not bring into force: sockets are
// opened, and the MTA is chosen, at the start.
func needRestart(old, cfg *config.Config) (names []string) {
	for _, c := range []struct {
		name    string
		changed bool
	}{
		{"[mta]", old.MTA.Type != cfg.MTA.Type || old.MTA.ConfigDir != cfg.MTA.ConfigDir || old.MTA.Reconcile != cfg.MTA.Reconcile},
		{"milter: report", old.Milter.Report != cfg.Milter.Report},
		{"policy: listen", old.Policy.Listen != cfg.Policy.Listen},
		{"odmr: listen", !slices.Equal(old.ODMR.Listen, cfg.ODMR.Listen)},
		{"odmr: tls-cert, tls-key or users", old.ODMR.TLSCert != cfg.ODMR.TLSCert || old.ODMR.TLSKey != cfg.ODMR.TLSKey || old.ODMR.Users != cfg.ODMR.Users},
		{"odmr: limits", old.ODMR.CRAMMD5 != cfg.ODMR.CRAMMD5 || old.ODMR.MaxConns != cfg.ODMR.MaxConns || old.ODMR.MaxConnsPerClient != cfg.ODMR.MaxConnsPerClient || old.ODMR.CommandTimeout != cfg.ODMR.CommandTimeout || old.ODMR.SessionTimeout != cfg.ODMR.SessionTimeout},
		{"control: listen", old.Control.Listen != cfg.Control.Listen},
		{"hostname of the listener", old.Hostname != cfg.Hostname && len(cfg.ODMR.Listen) > 0},
	} {
		if c.changed {
			names = append(names, c.name)
		}
	}
	return names
}
