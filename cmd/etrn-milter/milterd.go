package main

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/daemon"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
	"github.com/etrnd/etrnd/milter"
)

// milterd is the running daemon.
type milterd struct {
	e      daemon.Env // Config is that of the start: sockets are as it says
	log    *slog.Logger
	milter *milter.Milter

	reporter *report.Reporter
	digest   atomic.Value // string: of what is in force
}

func newMilterd(e daemon.Env) *milterd {
	// go-milter has a logger of its own, which is package log's.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	slog.SetDefault(e.Log)
	return &milterd{e: e, log: e.Log}
}

// run serves until the context ends.
func (d *milterd) run(ctx context.Context, ready func()) error {
	cfg := d.e.Config
	d.digest.Store(cfg.MilterDigest())
	d.reporter = report.NewReporter(report.ReporterOptions{
		Dial:   func(ctx context.Context) (net.Conn, error) { return listen.Dial(ctx, cfg.Milter.Report) },
		Config: func() string { return d.digest.Load().(string) },
		Logger: d.log,
	})
	var err error
	d.milter, err = milter.New(milter.Options{Settings: d.settings(ctx, cfg), Report: d.reporter.Report, Logger: d.log})
	if err != nil {
		return err
	}
	// Whoever can reach the socket may connect; the directory decides who can.
	ln, err := listen.Listen(ctx, cfg.Milter.Listen, listen.Options{
		Name: "milter", Sockets: d.e.Sockets, Mode: 0o666, Logger: d.log,
	})
	if err != nil {
		return err
	}
	// The reporter outlives the milter, to tell of the last sessions.
	rctx, endReports := context.WithCancel(context.WithoutCancel(ctx))
	var reports sync.WaitGroup
	reports.Go(func() { _ = d.reporter.Run(rctx) }) // returns only the context's error
	defer reports.Wait()
	defer endReports()

	d.log.Info("etrn-milter serves", "version", d.e.Version, "listen", ln.Addr().String(), "queues", len(cfg.Queues))
	ready()
	return d.milter.Serve(ctx, ln)
}

// reloaded are the keys that a reload brings into force, and those that are
// none of this program's. A change of any other needs a restart.
var reloaded = []string{
	"log-level", "include", "queue", "milter: header", "mta: config-dir", "mta: transport", "mta: split",
	"hostname", "link", "remote", "policy", "odmr", "control", "mta: smtp", "mta: reconcile",
}

// reload reads the configuration again. A bad one changes nothing.
func (d *milterd) reload(ctx context.Context) {
	cfg, err := load(d.e.File)
	if err == nil {
		err = d.milter.Reload(d.settings(ctx, cfg))
	}
	if err != nil {
		d.log.Error("reload failed; the old configuration stays in force", "error", err)
		return
	}
	d.e.Level.Set(cfg.LogLevel)
	now := *cfg
	now.Milter.Listen, now.Milter.Report, now.LogFormat = d.e.Config.Milter.Listen, d.e.Config.Milter.Report, d.e.Config.LogFormat
	d.digest.Store(now.MilterDigest())
	d.reporter.Renew()
	for _, key := range config.Changes(d.e.Config, cfg, reloaded...) {
		d.log.Warn("a change of this key needs a restart", "key", key)
	}
	d.log.Info("configuration reloaded", "queues", len(cfg.Queues))
}

// Questions to Postfix are asked while it waits, or while a reload does.
const (
	localTimeout     = 2 * time.Second
	delimiterTimeout = 5 * time.Second
)

// settings makes the milter's settings. Postfix's configuration is asked only
// if a pattern needs it; a milter that serves plain domains runs no commands.
func (d *milterd) settings(ctx context.Context, cfg *config.Config) milter.Settings {
	s := milter.Settings{
		Header: cfg.Milter.Header, Queues: cfg.Set(), Transport: cfg.MTA.Transport,
		Split: cfg.MTA.Split != "", Mark: mta.SplitHeader,
		// Only a call wants to know at once who has begun to send.
		Late: len(cfg.Remotes) == 0,
	}
	pf := postfix.New(postfix.Options{ConfigDir: cfg.MTA.ConfigDir, Logger: d.log})
	var address, everything bool
	for _, q := range cfg.Queues {
		for _, p := range q.Domains {
			address = address || p.Address()
			everything = everything || p.Any()
		}
	}
	if address {
		ctx, cancel := context.WithTimeout(ctx, delimiterTimeout)
		defer cancel()
		var err error
		if s.Delimiters, err = pf.RecipientDelimiter(ctx); err != nil {
			d.log.Warn("recipient_delimiter is unknown; extended addresses belong to no queue of an address", "error", err)
		}
	}
	if everything {
		s.Local = queue.LocalFrom(pf.IsLocal, localTimeout, d.log)
	}
	return s
}
