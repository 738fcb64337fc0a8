package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Apply makes the changes: each file at once, with the mode and owner that it
// had, then "postfix check", then "postfix reload" if Postfix runs. When the
// check fails, the files are put back. A file that has changed since the plan
// was made is an error, so a plan can be applied once.
func (pl *Plan) Apply(ctx context.Context) error {
	if pl.Empty() {
		return nil
	}
	if err := pl.current(); err != nil {
		return err
	}
	changes, err := pl.begin()
	if err != nil {
		return fmt.Errorf("set up Postfix: %w", err)
	}
	for i, c := range changes {
		if err := c.write(); err != nil {
			return errors.Join(fmt.Errorf("set up Postfix: %w", err), pl.putBack(changes[:i]))
		}
	}
	if err := pl.pf.CheckConfig(ctx); err != nil {
		return errors.Join(fmt.Errorf("the new set-up does not pass, so the old files are back: %w", err), pl.putBack(changes))
	}
	running, err := pl.pf.Running(ctx)
	if err != nil {
		return err
	}
	if running {
		if err := pl.pf.Reload(ctx); err != nil {
			return err
		}
	}
	pl.pf.Refresh()
	return pl.finish()
}

// current reports a file that is not what it was when the plan was made.
func (pl *Plan) current() error {
	for _, c := range pl.changes {
		now, err := readIfThere(c.path, maxRecord)
		if err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
		if !sameText(now, c.before) {
			return fmt.Errorf("set up Postfix: %s has changed since the plan was made: look at a new one", c.path)
		}
	}
	return nil
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
	// Postfix's daemons read the tables without privilege.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	old, err := readIfThere(path, maxRecord)
	if err != nil {
		return nil, err
	}
	pending := *pl.record
	pending.Pending = true
	text := pending.encode()
	return slices.Insert(changes, 0, change{path, old, &text}), nil
}

// finish writes down that Postfix has been told.
func (pl *Plan) finish() error {
	record := change{path: ownPath(pl.dir, recordName)}
	if pl.record != nil {
		text := pl.record.encode()
		record.after = &text
		if err := record.write(); err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
		return nil
	}
	if err := record.write(); err != nil {
		return fmt.Errorf("undo the set-up: %w", err)
	}
	// What somebody else has put there keeps the directory.
	if err := os.Remove(filepath.Dir(record.path)); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("undo the set-up: %w", err)
	}
	return nil
}

// putBack takes changes back, the last one first.
func (pl *Plan) putBack(changes []change) error {
	var errs []error
	for _, c := range slices.Backward(changes) {
		errs = append(errs, change{path: c.path, after: c.before}.write())
	}
	if pl.record != nil {
		// Goes only if the set-up was the first and nothing is left of it.
		_ = os.Remove(filepath.Join(pl.dir, ownDir))
	}
	return errors.Join(errs...)
}

// write writes or removes the file.
func (c change) write() error {
	if c.after != nil {
		return replaceFile(c.path, *c.after, aged())
	}
	return removeFile(c.path)
}
