package etrnd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/etrnd/etrnd/internal/config"
)

// Reload reads the configuration again. A bad one changes nothing. It returns
// what the administrator should know of a good one.
func (d *Daemon) Reload(ctx context.Context) (warnings []string, err error) {
	d.reload.Lock()
	defer d.reload.Unlock()
	cfg, use, err := d.read()
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
	restart := needRestart(d.running, cfg)
	for _, name := range restart {
		warnings = append(warnings, name+" has changed: that takes a restart of etrnd")
	}
	use()
	d.mta.Refresh()
	if d.o.Level != nil {
		d.o.Level.Set(cfg.LogLevel)
	}
	before := d.hold.Queues()
	d.hold.SetQueues(d.set(ctx, cfg))
	d.caller.SetConfig(cfg)
	d.control.SetGroup(cfg.Control.Group)
	d.mu.Lock()
	d.cfg, d.loaded, d.rejected, d.problems, d.restart = cfg, time.Now(), time.Time{}, nil, restart
	d.mu.Unlock()
	if gone := before.Gone(cfg.Set()); len(gone) > 0 || d.hold.Nobody(0).Messages > 0 {
		warnings = append(warnings, d.leftByReload(ctx, cfg, gone)...)
	}
	for _, w := range warnings {
		d.log.Warn("configuration", "warning", w)
	}
	d.log.Info("configuration reloaded", "file", d.o.ConfigFile, "queues", len(cfg.Queues), "links", len(cfg.Links), "remotes", len(cfg.Remotes))
	return warnings, nil
}

// read reads the configuration and the files that it names. Nothing changes until
// use is called.
func (d *Daemon) read() (cfg *config.Config, use func(), err error) {
	if cfg, err = config.Load(d.o.ConfigFile); err != nil {
		return nil, nil, err
	}
	useCert, useUsers := func() {}, func() {}
	if d.cert != nil {
		if useCert, err = d.cert.Read(); err != nil {
			return nil, nil, fmt.Errorf("odmr: tls-cert: %w", err)
		}
	}
	if d.users != nil && cfg.ODMR.Users != "" {
		if useUsers, err = d.users.Read(); err != nil {
			return nil, nil, fmt.Errorf("odmr: users: %w", err)
		}
	}
	return cfg, func() { useCert(); useUsers() }, nil
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

// reloaded are the keys that Reload brings into force. A change of any other
// needs a restart: sockets are opened, and the MTA is chosen, at the start.
var reloaded = []string{
	"log-level", "include", "queue", "link", "remote", "control: group", "mta: smtp",
	"mta: transport", "mta: split", // etrnd only looks whether the MTA is set up for them
	"milter: header", // is the milter's business
}

// needRestart names the keys that have changed and are not in force.
func needRestart(running, cfg *config.Config) []string {
	names := config.Changes(running, cfg, reloaded...)
	if len(cfg.ODMR.Listen) == 0 && len(running.ODMR.Listen) == 0 {
		// Calls use the new one at once; only the listener keeps its own.
		names = slices.DeleteFunc(names, func(n string) bool { return n == "hostname" })
	}
	return names
}
