package setup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/etrnd/etrnd/internal/atomicfile"
)

// work is one step of a plan, with every file ready, in the order in which they
// are put in place.
type work struct {
	*staging
	pl *Plan

	begun  []piece // the record, which says that a set-up is under way, and what nothing names yet
	wide   []piece // what is to come is there, and deferred
	both   []piece // tables, and what names them
	late   []piece // what Postfix takes mail by: when all of it knows where that goes
	narrow []piece // routes without those that served until nothing was taken for them
	last   []piece // nothing routes to what goes, so it need not be deferred
	gone   []piece // what nothing names any more
	ended  []piece // the record, of what is now

	ceases bool // late takes something away
	texts  bool // some of late or narrow is read as a text, so that Postfix has to be told
	tell   bool // Postfix does not notice the rest by itself
}

// prepare makes all files ready. Nothing is changed by it.
func (pl *Plan) prepare(ctx context.Context, s *staging) (*work, error) {
	w := &work{staging: s, pl: pl, tell: !pl.quiet}
	c := pl.course
	recordPath := ownPath(pl.dir, recordName)
	before, err := readIfThere(recordPath, maxRecord)
	if err != nil {
		return nil, err
	}
	add := func(to *[]piece, p []piece, err error) error { *to = append(*to, p...); return err }
	text := func(to *[]piece, path string, before, after *string, mode os.FileMode) error {
		if sameText(before, after) {
			return nil
		}
		p, err := s.text(path, before, after, atomicfile.Options{Mode: mode})
		return add(to, []piece{p}, err)
	}
	stand := func(to *[]piece, was, is stand, masterFirst bool) error {
		master := func() error {
			return text(to, filepath.Join(pl.dir, "master.cf"), &was.master.Text, &is.master.Text, 0o644)
		}
		main := func() error {
			return text(to, filepath.Join(pl.dir, "main.cf"), &was.main.Text, &is.main.Text, 0o644)
		}
		if masterFirst {
			return errors.Join(master(), main())
		}
		return errors.Join(main(), master())
	}

	if len(pl.changes) > 0 {
		during := pl.during().encode()
		if err := text(&w.begun, recordPath, before, &during, 0o644); err != nil {
			return nil, err
		}
		before = &during
	}
	if err := stand(&w.wide, c.now, c.wide, true); err != nil {
		return nil, err
	}
	var readme *change
	for _, c := range pl.changes {
		switch {
		case shared(c.path) || c.path == recordPath:
		case filepath.Base(c.path) == readmeName:
			readme = &c
		case c.secret:
			if err = closeSecret(c.path); err != nil {
				break
			}
			to := &w.both
			if c.after == nil {
				to = &w.gone
			}
			err = text(to, c.path, c.before, c.after, 0o600)
		case c.after == nil:
			err = text(&w.gone, c.path, c.before, nil, 0o644)
			for _, index := range indexPaths(c.path) {
				w.indexGoes(index, &err)
			}
		default:
			err = w.table(ctx, c)
		}
		if err != nil {
			return nil, err
		}
	}
	// A program that starts now reads the new main.cf, and must find the services
	// and the tables that it names.
	if err := stand(&w.both, c.wide, c.both, true); err != nil {
		return nil, err
	}
	if readme != nil {
		if err := text(&w.both, readme.path, readme.before, readme.after, 0o644); err != nil {
			return nil, err
		}
	}
	if err := stand(&w.last, c.both, c.final, false); err != nil {
		return nil, err
	}
	var after *string
	if pl.record != nil {
		text := pl.record.encode()
		after = &text
	}
	return w, text(&w.ended, recordPath, before, after, 0o644)
}

// during is the record while the set-up is under way.
func (pl *Plan) during() *record {
	c := pl.course
	r := record{Version: recordVersion, contents: c.final.contents, Before: textsOf(c.final.main.Text, c.final.master.Text)}
	if pl.record != nil {
		r = *pl.record
	}
	r.Pending = true
	r.Stages = []contents{c.now.contents, c.wide.contents, c.both.contents}
	return &r
}

// table makes one table ready.
func (w *work) table(ctx context.Context, c change) error {
	put := func(to *[]piece, text string) error {
		p, err := w.staging.table(ctx, c.path, c.before, table{c.kind, text})
		*to = append(*to, p...)
		return err
	}
	is, text := &w.both, *c.after
	switch {
	case c.late:
		is, w.ceases = &w.late, w.ceases || c.loses()
	case c.was == "":
		is = &w.begun // nothing names it yet
	}
	if c.meanwhile != nil {
		text = *c.meanwhile
	}
	w.texts = w.texts || c.kind == textKind && (c.late || c.meanwhile != nil)
	var err error
	if c.meanwhile == nil || c.meanwhile != c.before {
		err = put(is, text)
	}
	if c.meanwhile != nil && err == nil {
		err = put(&w.narrow, *c.after)
	}
	for _, old := range indexPaths(c.path) {
		if old != indexPath(c.path, c.kind) {
			w.indexGoes(old, &err)
		}
	}
	return err
}

// indexGoes makes ready that an index goes, if it is there.
func (w *work) indexGoes(path string, err *error) {
	if *err != nil {
		return
	}
	var p piece
	if p, *err = w.binary(path); *err == nil && p.back != nil {
		w.gone = append(w.gone, p)
	}
}

// carryOut puts everything in place.
func (w *work) carryOut(ctx context.Context) error {
	told, err := w.arrive(ctx)
	if err != nil {
		return w.takeBack(err, told)
	}
	// From here on Postfix goes by the new files. What fails now is left as it
	// is, which takes in too little and routes too much, and the next set-up
	// finishes it.
	if err := w.finish(ctx); err != nil {
		return w.halfDone(err)
	}
	return nil
}

// check has Postfix look at the files as they are.
func (w *work) check(ctx context.Context) error {
	w.pl.tell("having Postfix check the files")
	if err := w.pl.pf.CheckConfig(ctx); err != nil && ctx.Err() == nil {
		return &notPassed{err}
	}
	return ctx.Err()
}

// notPassed is what Postfix has against the new files.
type notPassed struct{ error }

func (e *notPassed) Unwrap() error { return e.error }

func (w *work) putAll(ctx context.Context, pieces []piece) error {
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return err
		}
		w.pl.tell("putting the files in place")
		if err := w.put(p); err != nil {
			return err
		}
	}
	return nil
}

// arrive brings Postfix to where nothing of the old files is in force, except for
// what has to be deferred as long as something may be routed there. told is how
// many files were in place when Postfix was told the first time, or 0.
func (w *work) arrive(ctx context.Context) (told int, err error) {
	if err := w.putAll(ctx, w.begun); err != nil {
		return 0, err
	}
	// One that was cut off may not have told the queue manager.
	if len(w.wide) > 0 || w.pl.pending && len(w.both)+len(w.late)+len(w.narrow) > 0 {
		if err := w.putAll(ctx, w.wide); err != nil {
			return 0, err
		}
		if err := w.check(ctx); err != nil {
			return 0, err
		}
		told = len(w.done)
		if err := w.pl.reload(ctx); err != nil {
			return told, err
		}
	}
	if err := w.putAll(ctx, w.both); err != nil {
		return told, err
	}
	if !w.tell {
		return told, nil
	}
	if err := w.check(ctx); err != nil {
		return told, err
	}
	if told == 0 {
		told = len(w.done)
	}
	return told, w.pl.reload(ctx)
}

// finish puts in place what comes late, and takes out what goes last.
func (w *work) finish(ctx context.Context) error {
	if len(w.late) > 0 {
		if err := w.pl.renewed(ctx); err != nil {
			return err
		}
		if err := w.putAll(ctx, w.late); err != nil {
			return err
		}
		if w.texts {
			if err := w.pl.reload(ctx); err != nil {
				return err
			}
		}
		// What Postfix is to take no more it must have ceased to take when this
		// ends.
		if w.ceases {
			if err := w.pl.renewed(ctx); err != nil {
				return err
			}
		}
	}
	if err := w.putAll(ctx, w.narrow); err != nil {
		return err
	}
	if len(w.narrow) > 0 && w.texts {
		if err := w.pl.reload(ctx); err != nil {
			return err
		}
	}
	if len(w.last) > 0 && len(w.narrow) > 0 {
		if err := w.pl.renewed(ctx); err != nil {
			return err
		}
	}
	// That more is deferred than need be does no harm, so Postfix is not told.
	return w.putAll(ctx, slices.Concat(w.last, w.gone, w.ended))
}
