package queue

import (
	"context"
	"log/slog"
	"time"
)

// LocalFrom makes an Env's Local of a question to the MTA, which may fail, and is
// given up after a while.
//
// What cannot be found out is taken not to be local. A domain of this host that
// passes for a foreign one costs a tag in mail that is not held, and counts a
// message too many until the MTA's queue is listed: somebody may wait for it in
// vain, and it is asked to be sent when it needs no asking. A foreign domain that
// passes for one of this host's would leave held mail uncounted and unreleased:
// a site hears that there is nothing for it, hangs up, and its mail stays.
func LocalFrom(ask func(ctx context.Context, domain string) (bool, error), timeout time.Duration, log *slog.Logger) func(domain string) bool {
	return func(domain string) bool {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		local, err := ask(ctx, domain)
		if err != nil {
			log.Warn("cannot ask the MTA whether a domain is its own; taken not to be", "domain", domain, "error", err)
			return false
		}
		return local
	}
}
