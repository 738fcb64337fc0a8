// Package etrnd puts the daemon together: what it serves, what it watches, and
// how a new configuration comes into force. The ideas themselves are in the
// packages below this one.
package etrnd

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/etrnd/etrnd/etrnd/call"
	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/clock"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/foreign"
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
}

// Daemon is etrnd.
type Daemon struct {
	o       Options
	log     *slog.Logger
	started time.Time

	mta     mta.MTA
	mtaUser *mtaUser
	setup   *setUp
	hold    *hold.Manager
	inbound *call.Inbound
	caller  *call.Caller
	users   *users.Store      // nil: none configured
	cert    *odmr.Certificate // nil: none configured
	control *control.Server

	running *config.Config // at the start: sockets and the MTA are as it says

	reload sync.Mutex // one reload at a time

	file fileState // of ConfigFile

	mu        sync.Mutex     // guards these
	cfg       *config.Config // in force
	loaded    time.Time
	rejected  time.Time // when a reload was last refused since loaded
	problems  []string  // why
	restart   []string  // keys of cfg that are not in force
	listeners []api.Listener
	milters   map[string]string // reporter -> digest of what it runs by
	digested  *config.Config    // that digest is of
	digest    string
}

// New makes a Daemon. It opens no socket.
func New(o Options) (*Daemon, error) {
	cfg := o.Config
	d := &Daemon{o: o, log: o.Logger, started: time.Now(), running: cfg, cfg: cfg, loaded: time.Now()}
	instance := postfix.Options{ConfigDir: cfg.MTA.ConfigDir, Logger: o.Logger}
	d.mta = postfix.New(instance)
	d.mtaUser = &mtaUser{ask: postfix.New(instance).Owner, log: foreign.Seldom(o.Logger)}
	monitor := setup.NewMonitor(func(cfg *config.Config) *postfix.Instance {
		return postfix.New(postfix.Options{ConfigDir: cfg.MTA.ConfigDir, Logger: o.Logger})
	})
	d.setup = newSetUp(monitor.InSync, o.Logger)
	router := setup.NewRouter(postfix.New(instance))
	d.hold = hold.New(hold.Options{MTA: d.mta, Queues: d.set(context.Background(), cfg), Reconcile: cfg.MTA.Reconcile, Routed: func() func(string) (bool, bool) { return routed(router, o.Logger) }, Logger: o.Logger})
	d.inbound = call.NewInbound()
	d.caller = call.New(call.Options{Config: cfg, Hold: d.hold, Inbound: d.inbound, Refuses: d.mta.Refuses, Logger: o.Logger})
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

// localTimeout bounds the question whether a domain is the MTA's own. The MTA
// remembers what it has found.
const localTimeout = 5 * time.Second

// set is the queues of a configuration as this MTA sees their patterns.
func (d *Daemon) set(ctx context.Context, cfg *config.Config) *queue.Set {
	env := queue.Env{Local: queue.LocalFrom(d.mta.IsLocal, localTimeout, d.log)}
	delimiters, err := d.mta.RecipientDelimiter(ctx)
	if err != nil {
		d.log.Warn("cannot ask the MTA for its recipient delimiter; address extensions are not recognised", "error", err)
	}
	env.Delimiters = delimiters
	return cfg.Set().With(env)
}

// config is the configuration in force.
func (d *Daemon) config() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// Run serves until ctx ends, and calls ready once every listener is open. When
// it returns nil, everything that it started has ended; the lines of links stay
// as they are.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	// Sockets first, work second: a process that cannot listen must not
	// start calls.
	services, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer services.close()
	defer d.setup.close()

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
	for _, s := range services {
		run(s.name, func(ctx context.Context) error { return s.serve(ctx, s.ln) })
	}
	if what := clock.Behind(time.Now(), append(clock.Own(), d.o.ConfigFile)...); what != "" {
		d.log.Warn("the clock of this machine is not set", "seen", what)
	}
	cfg := d.config()
	d.log.Info("etrnd is ready", "version", d.o.Version, "queues", len(cfg.Queues), "links", len(cfg.Links), "remotes", len(cfg.Remotes))
	ready()
	return group.Wait()
}

// report takes what the milter tells.
func (d *Daemon) report(ev report.Event) {
	d.noteMilter(ev)
	switch ev.Kind {
	case report.Message:
		d.hold.Arrived(ev)
	case report.Lost:
		d.log.Warn("the milter could not report messages; looking in the mail queue", "messages", ev.Count)
		d.hold.Relist()
	case report.Ready, report.Gone:
		// Whatever came in while nobody told of it is in the listing.
		d.hold.Relist()
	}
	d.inbound.Handle(ev)
}

// noteMilter notes by which configuration a milter runs.
func (d *Daemon) noteMilter(ev report.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch ev.Kind {
	case report.Hello:
		if d.milters == nil {
			d.milters = map[string]string{}
		}
		d.milters[ev.Reporter] = ev.Config
	case report.Gone:
		delete(d.milters, ev.Reporter)
	}
}

// milterDiffers reports whether some milter runs by another configuration.
func (d *Daemon) milterDiffers(cfg *config.Config) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.milters) == 0 {
		return false
	}
	if d.digested != cfg {
		// Of ten thousand queues it takes a while, and a configuration never changes.
		d.mu.Unlock()
		digest := cfg.MilterDigest()
		d.mu.Lock()
		d.digested, d.digest = cfg, digest
	}
	for _, digest := range d.milters {
		if digest != "" && digest != d.digest {
			return true
		}
	}
	return false
}
