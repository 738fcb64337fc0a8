package setup

import (
	"context"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/internal/postfix"
)

// sessionsWait is how long a set-up waits for SMTP sessions that began before
// it, and go on by what was in force then.
const sessionsWait = 5 * time.Second

// applyInTwo applies a plan by which domains go. What arrives between a look at
// the queue and the change must not be lost sight of, so that all that goes is
// first kept for nobody, as Postfix ceases to take mail for it, and when
// nobody can bring any more, the queue is looked at again.
func (pl *Plan) applyInTwo(ctx context.Context) error {
	req := pl.req
	req.passing = true
	first, err := pl.again(ctx, req)
	if err != nil {
		return err
	}
	first.quiet = false // Postfix is told now, and does not find out in a while
	if err := first.apply(ctx); err != nil {
		return err
	}
	switched := postfix.MomentNow()
	if pl.req.Held == HeldOnHold {
		if err := pl.pf.PutOnHold(ctx, idsOf(pl.Kept)); err != nil {
			return fmt.Errorf("%w; it stays held for nobody", err)
		}
	}
	req = pl.req
	req.placed = true
	if req.lingering, err = lingers(ctx, pl.pf, switched); err != nil {
		return err
	}
	last, err := pl.again(ctx, req)
	if err != nil {
		return err
	}
	if err := last.apply(ctx); err != nil {
		return err
	}
	pl.Kept, pl.Let = last.Kept, last.Let
	if req.lingering {
		pl.Note = "some SMTP sessions began before the change and may still bring mail for what has gone, so its routes to nobody stay for now: do the same again in some minutes"
	}
	return last.letGo(ctx)
}

// again plans anew, by the files and the queue as they are.
func (pl *Plan) again(ctx context.Context, req Requirements) (*Plan, error) {
	pl.pf.Refresh()
	if pl.undo {
		return NewUndo(ctx, pl.pf, req)
	}
	return NewPlan(ctx, pl.pf, req)
}

// lingers waits until the sessions that began by a moment have ended, and
// reports whether one has not.
func lingers(ctx context.Context, pf *postfix.Instance, at postfix.Moment) (bool, error) {
	for end := time.Now().Add(sessionsWait); ; {
		n, err := pf.SessionsSince(ctx, at)
		if err != nil || n == 0 {
			return false, err
		}
		if time.Now().After(end) {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// triedAtOnce bounds the messages that are tried at once when they are let go.
const triedAtOnce = 500

// letGo has what may go tried now, by the routing as it is.
func (pl *Plan) letGo(ctx context.Context) error {
	running, err := pl.pf.Running(ctx)
	if err != nil || !running || len(pl.Let) == 0 {
		return err
	}
	// The resolver looks at its tables in intervals.
	if err := pl.pf.Reload(ctx); err != nil {
		return err
	}
	// A process each: of very many the next runs of Postfix's queue try the rest.
	ids := idsOf(pl.Let)
	return pl.pf.Release(ctx, nil, ids[:min(len(ids), triedAtOnce)])
}
