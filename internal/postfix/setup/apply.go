package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/postfix"
)

// Apply makes the changes: each file at once, with the mode and owner that it
// had, in such an order that nothing which is held is ever tried (see course),
// with "postfix check" before Postfix, if it runs, is told by "postfix reload",
// each where the change needs it. An error is a *Halt, which tells how everything
// stands: until Postfix goes by the new files, the old ones are put back. A file
// that has changed since the plan was made is an error, so a plan can be applied
// once.
func (pl *Plan) Apply(ctx context.Context) error {
	if pl.Empty() {
		return nil
	}
	unlock, err := pl.lock()
	if err != nil {
		return pl.unchanged(err)
	}
	defer unlock()
	if err := pl.current(); err != nil {
		return pl.unchanged(err)
	}
	if pl.running, err = pl.pf.Running(ctx); err != nil {
		return pl.unchanged(err)
	}
	if len(pl.gone) > 0 || pl.putsOnHold() {
		return pl.applyInTwo(ctx)
	}
	if err := pl.apply(ctx); err != nil {
		return err
	}
	return pl.letGo(ctx)
}

// Reloaded reports whether Apply has reloaded Postfix, rather than left it to
// notice the changes by itself.
func (pl *Plan) Reloaded() bool { return pl.reloads > 0 }

// Running reports whether Postfix ran when Apply looked.
func (pl *Plan) Running() bool { return pl.running }

// tell says what is being done.
func (pl *Plan) tell(doing string) {
	if pl.Tell != nil {
		pl.Tell(doing)
	}
}

// apply makes the changes of one step.
func (pl *Plan) apply(ctx context.Context) error {
	if len(pl.changes) == 0 && !pl.pending {
		return nil
	}
	pl.tell("making the new files")
	s, err := newStaging(pl)
	if err != nil {
		return pl.unchanged(err)
	}
	w, err := pl.prepare(ctx, s)
	if err != nil {
		return pl.unchanged(errors.Join(err, s.close()))
	}
	err = w.carryOut(ctx)
	pl.pf.Refresh()
	// What is left below our directory is in nobody's way.
	_ = s.close()
	return err
}

// reload tells Postfix, if it runs, and waits until the programs that decide what
// becomes of mail are those that have read the files as they are now.
func (pl *Plan) reload(ctx context.Context) error {
	running, err := pl.pf.Running(ctx)
	if err != nil || !running {
		return err
	}
	deciding := slices.Concat(postfix.QueueManagers, postfix.Resolvers)
	old, err := pl.pf.Processes(ctx, deciding...)
	if err != nil {
		return err
	}
	pl.tell("reloading Postfix")
	pl.reloads++
	if err := pl.pf.Reload(ctx); err != nil {
		return err
	}
	pl.tell("waiting until Postfix goes by the new files")
	for end := time.Now().Add(retiring); ; {
		if !slices.ContainsFunc(old, postfix.Process.Alive) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%v after a reload of Postfix, processes of its queue manager or resolver still go by what was before", retiring)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retiringStep):
		}
	}
}

const (
	// retiring is how long programs of Postfix may take to end after a reload: as
	// long as one question to a slow table takes.
	retiring     = time.Minute
	retiringStep = 10 * time.Millisecond
)

// lock keeps a second set-up away until this one is done.
func (pl *Plan) lock() (unlock func(), err error) {
	dir, err := os.Open(pl.dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("another set-up of %s %w", pl.dir, errUnderWay)
		}
		return nil, errors.Join(err, dir.Close())
	}
	return func() { _ = dir.Close() }, nil // which unlocks it
}

// current reports a file that is not what it was when the plan was made.
func (pl *Plan) current() error {
	for _, c := range pl.changes {
		now, err := readIfThere(c.path, maxRecord)
		if err != nil {
			return err
		}
		if !sameText(now, c.before) {
			return overtakenBy(c.path)
		}
	}
	return nil
}
