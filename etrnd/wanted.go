package etrnd

import (
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/mta"
)

// Wanted is what a configuration asks of the MTA.
func Wanted(cfg *config.Config) mta.Wanted {
	w := mta.Wanted{Policy: cfg.Policy.Listen, Milter: cfg.Milter.Listen}
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
			// What a site pushes comes from its own hosts. To accept it from
			// anyone would be to relay for strangers.
			w.Routes = append(w.Routes, mta.Route{Pattern: p.String(), Deliver: q.Deliver.String(), Relay: !pushed[q.Name] && !p.Any()})
		}
	}
	return w
}
