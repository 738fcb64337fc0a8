// Package setup changes Postfix's files so that it holds and releases what
// the configuration says, and takes that out again.
//
// The way is: Requirements are what a configuration asks of Postfix; desired
// is what its files have to say for that, beside what the postmaster has
// written there; a Plan is the difference to the files as they are, which can
// be shown, applied and undone. A Monitor tells the daemon whether there is a
// difference, at no cost while nothing changes, and Check looks at all that
// holding and releasing depend on.
//
// What the package does not do: it runs no command by itself (internal/postfix
// does), edits no text by itself (conffile does), and starts neither Postfix
// nor anything else. Nothing of the postmaster's is taken away: what cannot go
// together with his settings is a warning or an error.
package setup

import (
	"slices"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// Requirements are what a configuration asks of Postfix.
type Requirements struct {
	// Transport is the name of the transport whose mail is held; those for
	// LMTP, turned mail and so on begin with it. Empty is DefaultTransport.
	Transport string
	Routes    []Route
	// Retained are routes of mail that Postfix has already and that no queue
	// is for: they are in the transport table, as far as no route of a queue
	// goes before, and nothing makes Postfix take mail for them.
	Retained []Route
	// Held is what becomes of mail that Postfix has for what is in no queue any
	// more; empty is HeldKeep. LetGo are keys of such mail that may go to where
	// Postfix's other settings send it, whatever Held says.
	Held  Held
	LetGo []string
	// Unseen leaves routes of such mail as they are without a look at
	// Postfix's queue.
	Unseen bool
	// passing keeps a route for all that goes, until Postfix takes no more mail
	// for it; lingering keeps those that passing has made.
	// placed says that what is to be on hold has been put there.
	passing, lingering, placed bool
	// leaving says that all of this is what an undo has to leave.
	leaving bool
	// listed is what Postfix's queue has, where that is known already.
	listed func() []mta.Message

	// QueueNames are listed in fast_flush_domains, so that "ETRN #name" gets
	// past Postfix's own check on its own port.
	QueueNames []string
	// Policy and Milter are "unix:/path" or "host:port"; empty is none.
	Policy, Milter string
	// Split is an address and port of the loopback, "127.0.0.1:10366", on
	// which Postfix hands itself the messages that the milter has marked with
	// mta.SplitHeader, once for each recipient; empty is none. See split.go.
	Split string
	// ClientCerts says that some queue is asked for with a TLS client
	// certificate, which Postfix must then request and fingerprint.
	ClientCerts bool
	// Relay are those from whom mail for anywhere is taken.
	Relay Relay
	// Pushes says that some of the mail is pushed to a server that has to relay
	// for this one.
	Pushes bool
	// Logins are how mail is pushed to next hops that want to know who we are.
	Logins []Login
}

// DefaultTransport is the name of the transport that holds mail.
const DefaultTransport = "transient"

// Route is mail that is held.
type Route struct {
	// Pattern is "acme.example", ".acme.example" for all below it,
	// "user@acme.example" or "*" for all that has no destination here.
	Pattern string
	// Deliver is where it goes once released: "smtp:NEXTHOP" or
	// "lmtp:NEXTHOP", with NEXTHOP as in transport(5), or "turn:/path" with
	// the socket of a queue that is delivered over turned connections.
	Deliver string
	// Relay says that mail for it is accepted from anyone, as a hub does for
	// its sites. A site that pushes leaves it false: there it would make the
	// site relay for strangers.
	Relay bool
}

// RequirementsOf a configuration.
func RequirementsOf(cfg *config.Config) Requirements {
	req := Requirements{Transport: cfg.MTA.Transport, Policy: cfg.Policy.Listen, Milter: cfg.Milter.Listen, Split: cfg.MTA.Split}
	pushed := map[string]bool{}
	for _, r := range cfg.Remotes {
		for _, name := range r.PushQueues {
			pushed[name], req.Pushes = true, true
		}
	}
	for _, q := range cfg.Queues {
		req.QueueNames = append(req.QueueNames, q.Name)
		req.ClientCerts = req.ClientCerts || len(q.Certificates) > 0
		for _, p := range q.Domains {
			// What is held for a site comes from anywhere. What a site pushes
			// comes from its own hosts: to accept it from anyone would be to
			// relay for strangers.
			req.Routes = append(req.Routes, Route{Pattern: p.String(), Deliver: nextHop(cfg, q), Relay: !pushed[q.Name] && !p.Any()})
		}
	}
	slices.Sort(req.QueueNames)
	req.Relay, req.Logins = relayOf(cfg), loginsOf(cfg)
	return req
}

// nextHop is a queue's next hop as Route.Deliver has it.
func nextHop(cfg *config.Config, q queue.Queue) string {
	if q.Deliver.Turn {
		return "turn:" + cfg.TurnSocket(q.Name)
	}
	return q.Deliver.String()
}
