package setup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// Apply makes the changes: each file at once, with the mode and owner that it
// had, then "postfix check", then "postfix reload" if Postfix runs, each where
// the change needs it. When the check fails, the files are put back. A file that
// has changed since the plan was made is an error, so a plan can be applied
// once.
func (pl *Plan) Apply(ctx context.Context) error {
	if pl.Empty() {
		return nil
	}
	unlock, err := pl.lock()
	if err != nil {
		return fmt.Errorf("set up Postfix: %w", err)
	}
	defer unlock()
	if err := pl.current(); err != nil {
		return err
	}
	if len(pl.gone) > 0 || pl.putsOnHold() {
		return pl.applyInTwo(ctx)
	}
	if err := pl.apply(ctx); err != nil {
		return err
	}
	return pl.letGo(ctx)
}

// apply makes the changes of one step.
func (pl *Plan) apply(ctx context.Context) error {
	if len(pl.changes) == 0 && !pl.pending {
		return nil
	}
	changes, err := pl.begin()
	if err != nil {
		return fmt.Errorf("set up Postfix: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Join(pl.dir, ownDir), workPrefix)
	if err != nil {
		return fmt.Errorf("set up Postfix: %w", err)
	}
	err = pl.carryOut(ctx, work, changes)
	if cerr := os.RemoveAll(work); err != nil || cerr != nil {
		if err != nil && pl.record != nil {
			// Goes only if the set-up was the first and nothing is left of it.
			_ = os.Remove(filepath.Join(pl.dir, ownDir))
		}
		return errors.Join(err, cerr)
	}
	pl.pf.Refresh()
	return pl.finish()
}

func (pl *Plan) carryOut(ctx context.Context, work string, changes []change) error {
	var done, late []change
	for _, c := range changes {
		if c.late {
			late = append(late, c)
			continue
		}
		// Making the tables before it has taken its time.
		if c.shared() {
			if err := c.overtaken(); err != nil {
				return errors.Join(fmt.Errorf("the old files are back: %w", err), pl.putBack(work, done))
			}
		}
		done = append(done, c)
		if err := pl.write(ctx, work, c); err != nil {
			// The last one may be half done, with its index in place.
			return errors.Join(fmt.Errorf("the new set-up cannot be put in place, so the old files are back: %w", err), pl.putBack(work, done))
		}
		// A program that starts now reads the new main.cf, and must find the
		// services that it names: without that of flush(8), say, it cannot defer
		// mail, which then lies until the next scan of the queue.
		if filepath.Base(c.path) == "master.cf" && pl.record != nil && newServices(c.before, c.after) {
			err := pl.pf.CheckConfig(ctx)
			if err == nil {
				err = pl.reload(ctx)
			}
			if err != nil {
				return errors.Join(fmt.Errorf("the new set-up does not pass, so the old files are back: %w", err), pl.putBack(work, done))
			}
		}
	}
	if !pl.quiet {
		if err := pl.pf.CheckConfig(ctx); err != nil {
			return errors.Join(fmt.Errorf("the new set-up does not pass, so the old files are back: %w", err), pl.putBack(work, done))
		}
		if err := pl.reload(ctx); err != nil {
			return err
		}
	}
	// From here on Postfix goes by the new files. What fails now is left as it
	// is, which takes in too little and routes too much, and the next set-up
	// finishes it.
	if err := pl.finishTables(ctx, work, changes, late); err != nil {
		return fmt.Errorf("set up Postfix: half of it is done, run it again: %w", err)
	}
	return nil
}

// finishTables puts in place what comes late, and takes out what goes last.
func (pl *Plan) finishTables(ctx context.Context, work string, changes, late []change) error {
	if len(late) > 0 {
		if err := pl.renewed(ctx, changes); err != nil {
			return err
		}
	}
	for _, c := range late {
		if err := pl.write(ctx, work, c); err != nil {
			return err
		}
	}
	// What Postfix is to take no more it must have ceased to take when this ends.
	switch ceases := slices.ContainsFunc(late, change.loses); {
	case len(late) > 0 && !pl.quiet:
		if err := pl.reload(ctx); err != nil {
			return err
		}
		fallthrough
	case ceases:
		if err := pl.renewed(ctx, changes); err != nil {
			return err
		}
	}
	return pl.narrow(ctx, work, changes)
}

// newServices reports whether a text of master.cf has services that another one
// has not.
func newServices(before, after *string) bool {
	services := func(text *string) map[string]bool {
		names := map[string]bool{}
		if text != nil {
			master := conffile.File{Text: *text}
			for _, s := range master.Services() {
				names[s.Name+"/"+s.Type] = true
			}
		}
		return names
	}
	had := services(before)
	for name := range services(after) {
		if !had[name] {
			return true
		}
	}
	return false
}

// reload tells Postfix, if it runs.
func (pl *Plan) reload(ctx context.Context) error {
	running, err := pl.pf.Running(ctx)
	if err != nil || !running {
		return err
	}
	return pl.pf.Reload(ctx)
}

// lock keeps a second set-up away until this one is done.
func (pl *Plan) lock() (unlock func(), err error) {
	dir, err := os.Open(pl.dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("another set-up of %s is under way: look at a new plan when it is done", pl.dir)
		}
		return nil, errors.Join(err, dir.Close())
	}
	return func() { _ = dir.Close() }, nil // which unlocks it
}

// narrow takes out of the tables what has been kept in them meanwhile, and
// removes indexes that nothing names any more.
func (pl *Plan) narrow(ctx context.Context, work string, changes []change) error {
	textOnly := slices.ContainsFunc(changes, func(c change) bool { return c.kind == textKind })
	narrowed := slices.DeleteFunc(slices.Clone(changes), func(c change) bool { return c.meanwhile == nil })
	for _, c := range narrowed {
		c.meanwhile = nil
		if err := pl.write(ctx, work, c); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if c.kind == "" {
			continue
		}
		for _, old := range indexPaths(c.path) {
			if old != indexPath(c.path, c.kind) {
				if err := removeFile(old); err != nil {
					return err
				}
			}
		}
	}
	if textOnly && len(narrowed) > 0 {
		return pl.reload(ctx)
	}
	return nil
}

// current reports a file that is not what it was when the plan was made.
func (pl *Plan) current() error {
	for _, c := range pl.changes {
		if err := c.overtaken(); err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
	}
	return nil
}

// overtaken reports a file that somebody has changed since the plan was made.
func (c change) overtaken() error {
	now, err := readIfThere(c.path, maxRecord)
	if err != nil {
		return err
	}
	if !sameText(now, c.before) {
		return fmt.Errorf("%s has changed since the plan was made: look at a new one", c.path)
	}
	return nil
}

// shared reports whether a file is the postmaster's too, who may edit it at any
// moment.
func (c change) shared() bool {
	name := filepath.Base(c.path)
	return name == "main.cf" || name == "master.cf"
}

// begin returns the changes with the record in its place among them: first in
// a set-up, and marked as pending, so that one that is cut off can be finished
// or undone; not at all in an undo, which needs it to the end.
func (pl *Plan) begin() ([]change, error) {
	path := ownPath(pl.dir, recordName)
	changes := slices.DeleteFunc(slices.Clone(pl.changes), func(c change) bool { return c.path == path })
	if pl.record == nil {
		return changes, nil
	}
	// Postfix's commands read the tables without privilege, and so does etrnd.
	switch err := os.Mkdir(filepath.Dir(path), 0o755); {
	case err == nil:
		if err := os.Chmod(filepath.Dir(path), 0o755); err != nil { // whatever the umask
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	sweep(pl.dir)
	old, err := readIfThere(path, maxRecord)
	if err != nil {
		return nil, err
	}
	pending := *pl.record
	pending.Pending = true
	text := pending.encode()
	return slices.Insert(changes, 0, change{path: path, before: old, after: &text}), nil
}

// finish writes down that Postfix has been told.
func (pl *Plan) finish() error {
	record := change{path: ownPath(pl.dir, recordName)}
	if pl.record != nil {
		text := pl.record.encode()
		record.after = &text
		if err := record.put(); err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
		return nil
	}
	if err := record.put(); err != nil {
		return fmt.Errorf("undo the set-up: %w", err)
	}
	// What somebody else has put there keeps the directory.
	if err := os.Remove(filepath.Dir(record.path)); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("undo the set-up: %w", err)
	}
	return nil
}

// putBack takes changes back, the last one first.
func (pl *Plan) putBack(work string, changes []change) error {
	var errs []error
	for _, c := range slices.Backward(changes) {
		if c.was != "" || c.kind != "" {
			errs = append(errs, restoreTable(work, c))
			continue
		}
		if c.shared() {
			now, err := readIfThere(c.path, maxConf)
			if err != nil || !sameText(now, c.after) && !sameText(now, c.before) {
				errs = append(errs, cmp.Or(err, fmt.Errorf("%s has been edited meanwhile, and stays as it is now: look with \"etrnctl setup postfix\"", c.path)))
				continue
			}
		}
		errs = append(errs, change{path: c.path, after: c.before, secret: c.secret}.put())
	}
	return errors.Join(errs...)
}

// write writes or removes the file, and the index of a table before it.
func (pl *Plan) write(ctx context.Context, work string, c change) error {
	text := c.after
	if c.meanwhile != nil {
		text = c.meanwhile
	}
	switch {
	case c.meanwhile != nil && c.meanwhile == c.before:
		return nil
	case text == nil && c.was != "":
		if err := keepIndex(work, indexPath(c.path, c.was)); err != nil {
			return err
		}
		return removeTable(c.path)
	case text != nil && c.kind != "":
		return writeTable(ctx, pl.pf, work, c.path, table{c.kind, *text})
	}
	return c.put()
}

// put writes or removes the file alone.
func (c change) put() error {
	if c.secret && c.after != nil {
		return putSecret(c.path, *c.after)
	}
	if c.after != nil {
		return replaceFile(c.path, *c.after, aged())
	}
	return removeFile(c.path)
}
