// Command etrnd holds mail for places that are not always connected, lets it
// go when they ask, and makes the calls of such a place.
package main

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

	"github.com/etrnd/etrnd/etrnd"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/listen"
)

var version = "unknown" // set by the linker

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("etrnd", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", config.DefaultPath, "configuration `file`")
	check := flags.Bool("check", false, "check the configuration and exit")
	show := flags.Bool("version", false, "print the version and exit")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return api.ExitOK
	case err != nil:
		return api.ExitUsage
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "etrnd: takes no arguments, but got %q\n", flags.Arg(0))
		return api.ExitUsage
	}
	if *show {
		fmt.Println("etrnd", version)
		return api.ExitOK
	}
	cfg, err := config.Load(*file)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return api.ExitConfig
	}
	for _, w := range cfg.Warnings {
		fmt.Fprintln(stderr, "warning:", w)
	}
	if *check {
		fmt.Fprintf(stderr, "%s: no errors\n", *file)
		return api.ExitOK
	}

	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	log := logger(stderr, cfg.LogFormat, level)
	sockets, err := listen.Activated()
	if err != nil {
		log.Error("sockets passed by systemd cannot be used", "error", err)
		return api.ExitConfig
	}
	d, err := etrnd.New(etrnd.Options{
		ConfigFile: *file, Config: cfg, Version: version, Logger: log, Level: level, Sockets: sockets,
		Ready: func() { notify(log, daemon.SdNotifyReady) },
	})
	if err != nil {
		log.Error("etrnd cannot start", "error", err)
		return api.ExitConfig
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	defer reloadOnHangup(ctx, d, log)()
	err = d.Run(ctx)
	notify(log, daemon.SdNotifyStopping)
	if err != nil {
		log.Error("etrnd ends", "error", err)
		return api.ExitTempFail
	}
	log.Info("etrnd ends")
	return api.ExitOK
}

func logger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// reloadOnHangup reloads at every SIGHUP until ctx ends or the function that
// it returns is called, which waits for the goroutine.
func reloadOnHangup(ctx context.Context, d *etrnd.Daemon, log *slog.Logger) (stop func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
				notify(log, daemon.SdNotifyReloading)
				// The daemon logs what came of it.
				_, _ = d.Reload(ctx)
				notify(log, daemon.SdNotifyReady)
			}
		}
	})
	return func() {
		signal.Stop(hup)
		cancel()
		wg.Wait()
	}
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot tell systemd", "state", state, "error", err)
	}
}
