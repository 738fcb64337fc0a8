// Package daemon is what the daemons' mains have in common: flags, the first
// reading of the configuration, the log, signals, what systemd is told
// (sd_notify(3)), and exit codes. What a daemon does is its own.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/listen"
)

// Program is one of the daemons.
type Program struct {
	Name    string
	Version string
	// Load reads the configuration.
	Load func(file string) (*config.Config, error)
	// Quiet leaves it to another program to say at the start what in the
	// configuration is likely to surprise.
	Quiet bool
	// Start makes the daemon. It opens no socket. Its error is the
	// configuration's, which no second try mends.
	Start func(Env) (Service, error)
}

// Env is what a daemon is started with.
type Env struct {
	File    string
	Config  *config.Config // as loaded from File
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar  // of Log
	Sockets *listen.Sockets // passed by systemd
}

// Service is a daemon that can run.
type Service struct {
	// Run serves until ctx ends, which is no error. It calls ready once, when
	// every socket is open.
	Run func(ctx context.Context, ready func()) error
	// Reload reads the configuration again, and logs what became of that. It is
	// called while Run is serving, once at a time.
	Reload func(ctx context.Context)
}

// Main runs the program and returns its exit code.
func (p Program) Main(args []string, stdout, stderr io.Writer) int {
	o, exit, done := p.options(args, stdout, stderr)
	if done {
		return exit
	}
	// From here on a SIGHUP waits for its turn; before, it would be the end.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	cfg, err := p.Load(o.file)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return api.ExitConfig
	}
	if o.check || !p.Quiet {
		for _, w := range cfg.Warnings {
			fmt.Fprintln(stderr, "warning:", w)
		}
	}
	if o.check {
		fmt.Fprintf(stderr, "%s: no errors\n", o.file)
		return api.ExitOK
	}
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	log := newLog(stderr, cfg.LogFormat, level)
	sockets, err := listen.Activated()
	if err != nil {
		log.Error("sockets passed by systemd cannot be used", "error", err)
		return api.ExitConfig
	}
	s, err := p.Start(Env{File: o.file, Config: cfg, Version: p.Version, Log: log, Level: level, Sockets: sockets})
	if err != nil {
		log.Error("the daemon cannot start", "error", err)
		return api.ExitConfig
	}
	if err := serve(ctx, s, hup, sockets, log); err != nil {
		log.Error("the daemon ends", "error", err)
		return api.ExitTempFail
	}
	log.Info("the daemon ends")
	return api.ExitOK
}

type options struct {
	file  string
	check bool
}

// options reads the command line. Done is that nothing more is to be done.
func (p Program) options(args []string, stdout, stderr io.Writer) (o options, exit int, done bool) {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.file, "config", config.DefaultPath, "configuration `file`")
	flags.BoolVar(&o.check, "check", false, "check the configuration and exit")
	version := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return o, api.ExitOK, true
	case err != nil:
		return o, api.ExitUsage, true
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "%s: takes no arguments, but got %q\n", p.Name, flags.Arg(0))
		return o, api.ExitUsage, true
	case *version:
		fmt.Fprintln(stdout, p.Name, p.Version)
		return o, api.ExitOK, true
	}
	return o, api.ExitOK, false
}

// serve runs the service and tells systemd how it is. Reloads begin once the
// service is ready, and systemd hears that it stops before it drains.
func serve(ctx context.Context, s Service, hup <-chan os.Signal, sockets *listen.Sockets, log *slog.Logger) error {
	tell := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("cannot tell systemd", "state", state, "error", err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	return s.Run(ctx, func() {
		if names := sockets.Unused(); len(names) > 0 {
			log.Warn("systemd passed sockets that the configuration has no use for", "names", names)
		}
		tell(daemon.SdNotifyReady)
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					tell(daemon.SdNotifyStopping)
					return
				case <-hup:
					// The time is for units of Type=notify-reload.
					tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
					s.Reload(ctx)
					tell(daemon.SdNotifyReady)
				}
			}
		})
	})
}
