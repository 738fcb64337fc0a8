package etrnd

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/etrnd/deliver"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// Wanted is what a configuration asks of the MTA: of etrnctl, which sets it
// up, and of the daemon, which looks whether that has been done.
func Wanted(cfg *config.Config) mta.Wanted {
	w := mta.Wanted{Policy: cfg.Policy.Listen, Milter: cfg.Milter.Listen, Split: cfg.MTA.Split}
	pushed := map[string]bool{}
	for _, r := range cfg.Remotes {
		for _, name := range r.PushQueues {
			pushed[name] = true
		}
	}
	for _, q := range cfg.Queues {
		w.QueueNames = append(w.QueueNames, q.Name)
		w.ClientCerts = w.ClientCerts || len(q.Certificates) > 0
		for _, p := range q.Domains {
			// What is held for a site comes from anywhere. What a site pushes
			// comes from its own hosts: to accept it from anyone would be to
			// relay for strangers.
			w.Routes = append(w.Routes, mta.Route{Pattern: p.String(), Deliver: nextHop(cfg, q), Relay: !pushed[q.Name] && !p.Any()})
		}
	}
	slices.Sort(w.QueueNames)
	return w
}

// nextHop is a queue's next hop as package mta takes it.
func nextHop(cfg *config.Config, q queue.Queue) string {
	if q.Deliver.Turn {
		return "turn:" + deliver.Socket(turnDir(cfg), q.Name)
	}
	return q.Deliver.String()
}

// turnDir is where the MTA and the daemon meet: the directory of the sockets
// below the MTA's own that the package makes.
func turnDir(cfg *config.Config) string {
	for _, spec := range []string{cfg.Policy.Listen, cfg.Milter.Listen} {
		if path, ok := strings.CutPrefix(spec, "unix:"); ok {
			return filepath.Dir(path)
		}
	}
	return "/var/spool/postfix/etrnd"
}
