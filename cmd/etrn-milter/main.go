// Command etrn-milter tags the mail that Postfix holds for etrnd, and reports
// to it what passes. See etrn-milter(8).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/report"
	"github.com/etrnd/etrnd/milter"
)

// Exit codes, as in sysexits.h.
const (
	exitOK       = 0
	exitUsage    = 64
	exitTempFail = 75 // systemd tries again
	exitConfig   = 78 // systemd does not
)

// maxConnections bounds the milter connections. There is one for each smtpd
// and cleanup process of Postfix, of which default_process_limit allows 100
// each. Beyond it Postfix goes on without tags.
const maxConnections = 4000

var version = "unknown" // set by the linker

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("etrn-milter", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", config.DefaultPath, "configuration `file`")
	check := flags.Bool("check", false, "check the configuration and exit")
	show := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "etrn-milter: takes no arguments, but got %q\n", flags.Arg(0))
		return exitUsage
	}
	if *show {
		fmt.Fprintln(stdout, "etrn-milter", version)
		return exitOK
	}
	// From here on a SIGHUP waits for its turn; before, it would be the end.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	cfg, err := load(*file)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfig
	}
	if *check {
		for _, w := range cfg.Warnings {
			fmt.Fprintln(stderr, "warning:", w)
		}
		fmt.Fprintf(stderr, "%s: no errors\n", *file)
		return exitOK
	}
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	log := logger(stderr, cfg.LogFormat, level)
	// go-milter has a logger of its own, which is package log's.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	slog.SetDefault(log)

	d := &milterd{file: *file, cfg: cfg, level: level, log: log}
	if err := d.serve(ctx, hup); err != nil {
		log.Error("etrn-milter ends", "err", err)
		return exitTempFail
	}
	log.Info("etrn-milter ends")
	return exitOK
}

// load leaves out the checks of files: this program opens none of them, and
// must not be able to.
func load(file string) (*config.Config, error) {
	return config.Load(file, config.WithoutFiles())
}

func logger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// milterd is the running daemon.
type milterd struct {
	file   string
	cfg    *config.Config // the one in force
	level  *slog.LevelVar
	log    *slog.Logger
	milter *milter.Milter
}

// serve runs until the context ends.
func (d *milterd) serve(ctx context.Context, hup <-chan os.Signal) error {
	cfg := d.cfg
	sockets, err := listen.Activated()
	if err != nil {
		return fmt.Errorf("sockets passed by systemd: %w", err)
	}
	reporter := report.NewReporter(report.ReporterOptions{
		Dial:   func(ctx context.Context) (net.Conn, error) { return listen.Dial(ctx, cfg.Milter.Report) },
		Logger: d.log,
	})
	d.milter, err = milter.New(milter.Options{Settings: d.settings(ctx, cfg), Report: reporter.Report, Logger: d.log})
	if err != nil {
		return err
	}
	// Whoever can reach the socket may connect; the directory decides who can.
	ln, err := listen.Listen(ctx, cfg.Milter.Listen, listen.Options{
		Name: "milter", Sockets: sockets, Mode: 0o666, Max: maxConnections, Logger: d.log,
	})
	if err != nil {
		return err
	}
	if names := sockets.Unused(); len(names) > 0 {
		d.log.Warn("systemd passed sockets that the configuration has no use for", "names", names)
	}

	// The reporter outlives the milter, to tell of the last sessions.
	rctx, endReports := context.WithCancel(context.WithoutCancel(ctx))
	var reports, reloads sync.WaitGroup
	reports.Go(func() { _ = reporter.Run(rctx) }) // returns only the context's error
	defer reports.Wait()
	defer endReports()
	lctx, endReloads := context.WithCancel(ctx)
	reloads.Go(func() { d.reloads(lctx, hup) })
	defer reloads.Wait()
	defer endReloads()

	d.log.Info("etrn-milter serves", "version", version, "listen", ln.Addr().String(), "queues", len(cfg.Queues))
	d.notify(daemon.SdNotifyReady)
	return d.milter.Serve(ctx, ln)
}

// reloads reads the configuration again at every SIGHUP until the context
// ends, and tells systemd of both.
func (d *milterd) reloads(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			d.notify(daemon.SdNotifyStopping)
			return
		case <-hup:
			d.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
			if err := d.reload(ctx); err != nil {
				d.log.Error("reload failed; the old configuration stays in force", "err", err)
			}
			d.notify(daemon.SdNotifyReady)
		}
	}
}

func (d *milterd) reload(ctx context.Context) error {
	cfg, err := load(d.file)
	if err != nil {
		return err
	}
	if err := d.milter.Reload(d.settings(ctx, cfg)); err != nil {
		return err
	}
	d.level.Set(cfg.LogLevel)
	for _, c := range []struct{ key, old, new string }{
		{"milter: listen", d.cfg.Milter.Listen, cfg.Milter.Listen},
		{"milter: report", d.cfg.Milter.Report, cfg.Milter.Report},
		{"log-format", d.cfg.LogFormat, cfg.LogFormat},
	} {
		if c.old != c.new {
			d.log.Warn("a change of this key needs a restart", "key", c.key, "in_force", c.old, "configured", c.new)
		}
	}
	// What needs a restart stays as it is, so that the warning is repeated.
	cfg.Milter.Listen, cfg.Milter.Report, cfg.LogFormat = d.cfg.Milter.Listen, d.cfg.Milter.Report, d.cfg.LogFormat
	d.cfg = cfg
	d.log.Info("configuration reloaded", "queues", len(cfg.Queues))
	return nil
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
			d.log.Warn("recipient_delimiter is unknown; extended addresses belong to no queue of an address", "err", err)
		}
	}
	if everything {
		s.Local = func(domain string) bool {
			ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
			defer cancel()
			local, err := pf.IsLocal(ctx, domain)
			if err != nil {
				// Untagged mail of a queue is found by etrnd in Postfix's listing;
				// a tag on mail that is not held would stay wrong.
				d.log.Warn("cannot tell whether a domain is local; taken to be", "domain", domain, "err", err)
				return true
			}
			return local
		}
	}
	return s
}

func (d *milterd) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Warn("cannot tell systemd", "state", state, "err", err)
	}
}
