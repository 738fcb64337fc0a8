package queue

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
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
	var failures failing
	return func(domain string) bool {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		local, err := ask(ctx, domain)
		if err != nil {
			if n, ok := failures.worthALine(time.Now()); ok {
				log.Warn("cannot ask the MTA whether a domain is its own; taken not to be", "domain", foreign.Clip(domain, 255), "error", err, "before", n)
			}
			return false
		}
		return local
	}
}

// failureEvery is how often a question that fails has a line in the log: each
// recipient of a listing asks one.
const failureEvery = time.Minute

// failing counts the failures that have had no line.
type failing struct {
	mu   sync.Mutex
	last time.Time
	n    int
}

// worthALine reports whether a failure gets a line, and how many have got none.
func (f *failing) worthALine(now time.Time) (before int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.last.IsZero() && now.Sub(f.last) < failureEvery {
		f.n++
		return 0, false
	}
	before, f.n, f.last = f.n, 0, now
	return before, true
}
