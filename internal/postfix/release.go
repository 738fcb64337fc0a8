package postfix

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/mta"
)

// Release asks flush(8): postqueue -s for each domain, postqueue -i for each
// id. Facts about Postfix that a caller has to know, each but the last pinned by a test:
//
//   - The domain must be in fast_flush_domains, else mta.ErrNotFlushable. It is
//     the domain of the recipient, exactly: "acme.example" says nothing about
//     mail for "sub.acme.example".
//   - A domain stands for what was deferred since it was put into
//     fast_flush_domains, for whatever reason. Older mail must be named by id.
//   - An id does something only while the message is in the deferred (or
//     incoming) queue. When it is active, or unknown, or in the hold queue,
//     nothing happens and nothing is said. A new message is active for some
//     milliseconds after it has been accepted, on a busy machine for 100 or
//     200: ask after that, look at a listing, and ask again while the reason
//     is still mta.ReasonHeld.
//   - By the time that Release returns, the messages have left the deferred
//     queue (3,000 by domain: 0.07 s). By id it is a process each: 5,000 take
//     10 to 20 s on two cores.
//   - A domain's list keeps an id until the domain is asked for, so a message
//     whose recipients there were served by id is moved again by the domain.
//     Where that matters, name ids.
//   - "postqueue -f" of the postmaster releases everything. Postfix's own
//     refresh of the lists (fast_flush_refresh_time) does not.
//   - Released mail that cannot be delivered goes back to deferred and stays
//     there through every queue run, as before.
//   - Mail that arrives in the moment after a release by domain may be tried
//     too, whatever queue it is for: new mail comes the way that released mail
//     is sent. It has been seen on a busy machine only.
func (p *Instance) Release(ctx context.Context, domains, ids []string) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	type job struct{ flag, what, name string }
	jobs := make([]job, 0, len(domains)+len(ids))
	var errs []error
	for _, d := range domains {
		if err := checkDomain(d); err != nil {
			errs = append(errs, fmt.Errorf("release: %w", err))
			continue
		}
		jobs = append(jobs, job{"-s", "domain", d})
	}
	for _, id := range ids {
		if err := checkID(id); err != nil {
			errs = append(errs, fmt.Errorf("release: %w", err))
			continue
		}
		jobs = append(jobs, job{"-i", "message", id})
	}

	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(p.o.Parallel)
	// One failure that all others will share ends it: five thousand times
	// "the mail system is down" helps nobody.
	gctx, stop := context.WithCancel(ctx)
	defer stop()
	done, fatal := 0, false
	for _, j := range jobs {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := p.run(gctx, nil, nil, "postqueue", append(slices.Clone(args), j.flag, j.name)...)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case fatal:
				// Cut off by the failure that is already reported.
			case errors.Is(err, mta.ErrDown), errors.Is(err, mta.ErrPermission), gctx.Err() != nil:
				fatal = true
				stop()
				errs = append(errs, fmt.Errorf("release %s %q (%d of %d asked for before): %w", j.what, j.name, done, len(jobs), err))
			default:
				errs = append(errs, fmt.Errorf("release %s %q: %w", j.what, j.name, err))
			}
			return nil
		})
	}
	_ = g.Wait() // the jobs collect their own errors
	if err := ctx.Err(); err != nil && !fatal {
		errs = append(errs, fmt.Errorf("release: %d of %d asked for: %w", done, len(jobs), err))
	}
	return errors.Join(errs...)
}

// checkDomain takes the domains that postqueue -s takes; it must not look like
// an option.
func checkDomain(d string) error {
	if d == "" || len(d) > 255 || d[0] == '-' {
		return fmt.Errorf("%s is not a domain", foreign.Quote(d))
	}
	for _, c := range []byte(d) {
		if c <= ' ' || c >= 0x7f || c == '@' || c == '#' || c == '/' {
			return fmt.Errorf("%s is not a domain", foreign.Quote(d))
		}
	}
	return nil
}
