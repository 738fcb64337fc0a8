package setup

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
		return pl.unchanged(err)
	}
	first.quiet = false // Postfix is told now, and does not find out in a while
	err = first.apply(ctx)
	pl.reloads = first.reloads
	if err != nil {
		return err
	}
	last, err := pl.goOn(ctx)
	if err != nil {
		return pl.nobodysYet(err)
	}
	err = last.letGo(ctx)
	pl.reloads += last.reloads
	return err
}

// goOn makes and applies the second plan.
func (pl *Plan) goOn(ctx context.Context) (last *Plan, err error) {
	switched := postfix.MomentNow()
	if pl.req.Held == HeldOnHold {
		pl.tell("putting mail on hold")
		if err := pl.pf.PutOnHold(ctx, idsOf(pl.Kept)); err != nil {
			return nil, err
		}
	}
	req := pl.req
	req.placed = true
	pl.tell("waiting for SMTP sessions that began before")
	if req.lingering, err = lingers(ctx, pl.pf, switched); err != nil {
		return nil, err
	}
	if last, err = pl.again(ctx, req); err != nil {
		return nil, err
	}
	if err := last.apply(ctx); err != nil {
		return nil, err
	}
	pl.Kept, pl.Let = last.Kept, last.Let
	if req.lingering {
		pl.Note = "some SMTP sessions began before the change and may still bring mail for what has gone, so its routes to nobody stay for now: do the same again in some minutes"
	}
	return last, nil
}

// again plans anew, by the files and the queue as they are.
func (pl *Plan) again(ctx context.Context, req Requirements) (*Plan, error) {
	pl.pf.Refresh()
	pl.tell("looking at the queue")
	plan := NewPlan
	if pl.undo {
		plan = NewUndo
	}
	next, err := plan(ctx, pl.pf, req)
	if err != nil {
		return nil, err
	}
	next.Tell, next.running = pl.Tell, pl.running
	return next, nil
}

// nobodysYet is a Halt between the two steps.
func (pl *Plan) nobodysYet(err error) error {
	h := &Halt{Err: fmt.Errorf("set up Postfix: %w", err), Do: pl.doAgain(err), Again: true}
	var inner *Halt
	if errors.As(err, &inner) {
		h.Err, h.Do, h.Again = inner.Err, inner.Do, inner.Again
		h.State = slices.DeleteFunc(slices.Clone(inner.State), func(s string) bool { return s == nothingChanged })
	}
	h.State = append([]string{"half of it is done: for what goes nothing more is taken, and what Postfix has for it is held for nobody"}, h.State...)
	return h
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
	err = pl.renewed(ctx)
	if err == nil {
		pl.tell("having what is let go tried")
		// A process each: of very many the next runs of Postfix's queue try the
		// rest.
		ids := idsOf(pl.Let)
		err = pl.pf.Release(ctx, nil, ids[:min(len(ids), triedAtOnce)])
	}
	if err != nil {
		return &Halt{Err: fmt.Errorf("have Postfix try what is let go: %w", err), Again: true,
			State: []string{"the set-up is done; what is let go is tried when Postfix next runs its queue, within an hour or so"}, Do: "see what becomes of it: mailq"}
	}
	return nil
}
