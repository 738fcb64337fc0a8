package call

import (
	"context"
	"errors"
	"time"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/clock"
)

const (
	// clockWait is how long a call keeps the line for the clock to be set. A
	// machine without a battery often has the time from the line itself, some
	// seconds after it came up.
	clockWait = time.Minute
	// clockLook is the time between two looks at the clock.
	clockLook = time.Second
)

// timely has a dialogue with the remote, and once more when the first failed
// because the clock is wrong and it has been set since.
func (cl *call) timely(ctx context.Context, names []string) question {
	watch := clock.NewWatch(cl.caller.now)
	q := cl.dialogue(ctx, names)
	early, ok := errors.AsType[*odmr.NotYetValid](q.err)
	if !ok {
		return q
	}
	cl.log.Warn("the clock of this machine is wrong, so the remote cannot be trusted; waiting for it to be set", "clock", early.Now, "valid_from", early.From)
	cl.step(api.PhaseTLS, "the clock of this machine to be set")
	for end := time.Now().Add(clockWait); time.Now().Before(end); {
		if by, set := watch.Set(); set {
			cl.log.Info("the clock has been set, asking again", "by", by.Round(time.Second))
			return cl.dialogue(ctx, names)
		}
		select {
		case <-time.After(clockLook):
		case <-ctx.Done():
			return q
		}
	}
	return q
}

// clockHint is what to do about a clock that is wrong.
func clockHint(err error) (hint string, ok bool) {
	if _, ok = errors.AsType[*odmr.NotYetValid](err); ok {
		hint = "set the clock of this machine, or have it set before the call (see \"A clock that is not set\" in howto.md); the next call asks again"
	}
	return hint, ok
}
