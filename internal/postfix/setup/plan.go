package setup

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// Plan is a set of changes to Postfix's files, or to take them back.
type Plan struct {
	// Warnings are what a postmaster should look at before the change is
	// made; none of them makes it impossible.
	Warnings []string

	// Kept is mail that is held and that no queue is for, and Let what may go.
	Kept, Let []Kept
	// Note is what to know after it has been applied; empty: nothing.
	Note string
	// Tell, if it is set, is told by Apply what is being done, again and again.
	Tell func(doing string)

	pf      *postfix.Instance
	req     Requirements
	undo    bool
	gone    []string // what Postfix takes mail for now, and is to go
	dir     string
	changes []change
	course  course   // of the two files that are Postfix's
	record  *record  // nil: an undo
	pending bool     // a change made before has not been announced
	quiet   bool     // Postfix notices the changes by itself
	watch   []string // further files that the plan comes from
	reloads int      // that Apply has made
	running bool     // Postfix, when Apply looked
}

// A change is one file. Nil is a file that is not there.
type change struct {
	path          string
	before, after *string

	// Of a lookup table: what it was and what it will be for Postfix, and its
	// text until Postfix takes no more mail for what it loses, if it loses
	// something.
	was, kind string
	meanwhile *string
	late      bool // comes when Postfix knows of all that comes before it
	secret    bool // for root alone, and for nobody's eyes
}

// NewPlan computes what has to change so that Postfix holds and releases as
// required. It changes nothing itself and needs no privilege but to read the
// configuration.
//
// What Postfix has in its queue for domains that go stays held, see retain; to
// find it the queue is listed, which takes the right to do so, if any domain
// goes.
func NewPlan(ctx context.Context, pf *postfix.Instance, req Requirements) (*Plan, error) {
	now, err := load(ctx, pf)
	if err != nil {
		return nil, err
	}
	env, err := look(ctx, pf, now)
	if err != nil {
		return nil, err
	}
	if req.Transport == "" {
		req.Transport = DefaultTransport
	}
	left, err := retain(ctx, pf, req, env)
	if err != nil {
		return nil, err
	}
	pl, err := newPlan(ctx, pf, req, now, env, left)
	if err != nil {
		return nil, err
	}
	pl.leaves(left)
	return pl, nil
}

// leaves notes what is left without a queue.
func (pl *Plan) leaves(l *leavings) {
	var said warnings
	l.warn(&said, pl.req)
	pl.Warnings = append(pl.Warnings, said...)
	pl.Kept, pl.Let, pl.gone = l.kept, l.let, l.gone
}

// newPlan is NewPlan when it is known what is left without a queue.
func newPlan(ctx context.Context, pf *postfix.Instance, req Requirements, now *files, env *environment, left *leavings) (*Plan, error) {
	asked := req
	req.Retained = slices.Concat(req.Retained, left.routes)
	want, err := derive(ctx, req, env)
	if err != nil {
		return nil, err
	}
	to, err := edit(ctx, pf, env, want)
	if err != nil {
		return nil, err
	}
	settings, err := verify(ctx, pf, env, want, to)
	if err != nil {
		return nil, err
	}
	found := conflicts(ctx, pf, req, env, want, settings)

	pl := &Plan{pf: pf, dir: now.dir, req: asked, record: to.record, pending: env.old.Pending}
	for _, w := range []warnings{want.warnings, to.warnings, found} {
		pl.Warnings = append(pl.Warnings, w...)
	}
	if n := len(pl.Warnings); n > maxWarned {
		// Thousands are one, seen thousands of times.
		pl.Warnings = append(pl.Warnings[:maxWarned], fmt.Sprintf("and %d more warnings like these", n-maxWarned))
	}
	pl.course = courseTo(standOf(now.main, now.master, env.old.contents), stand{to.main, to.master, to.record.contents}, env.defaults[heldList])
	recordText := to.record.encode()
	recordPath := ownPath(pl.dir, recordName)
	pl.change(recordPath, now.recordText, &recordText)
	// Postfix's resolver does not start while a table is missing, so a table
	// comes before the setting that names it, and goes after it.
	pl.quiet = true
	for _, name := range ownTables {
		if t, ok := want.tables[name]; ok {
			if err := pl.table(ctx, now, name, t); err != nil {
				return nil, err
			}
		}
	}
	if want.passwords.text != nil || want.passwords.unknown {
		pl.secrets(now, want.passwords)
	}
	pl.change(filepath.Join(pl.dir, "master.cf"), &now.master.Text, &to.master.Text)
	pl.change(filepath.Join(pl.dir, "main.cf"), &now.main.Text, &to.main.Text)
	if want.passwords.text == nil && !want.passwords.unknown {
		pl.secrets(now, want.passwords)
	}
	pl.watch = want.passwords.paths()
	pl.quiet = pl.quiet && !pl.pending && now.master.Text == to.master.Text && now.main.Text == to.main.Text
	for _, name := range ownTables {
		if _, ok := want.tables[name]; !ok {
			pl.drop(now, name)
		}
	}
	var readmeText *string
	if req.leaving && !req.passing {
		text := readme(pl.dir, to)
		readmeText = &text
	}
	pl.change(ownPath(pl.dir, readmeName), now.readme, readmeText)
	if len(pl.Files()) == 0 {
		// What the record knows is still enough: somebody may have edited
		// other lines since, and then an undo takes out single elements.
		pl.changes = nil
		if pl.pending || !maps.Equal(env.old.Passwords, to.record.Passwords) && !want.passwords.unknown && !now.hidden {
			pl.change(recordPath, now.recordText, &recordText)
		}
	}
	return pl, nil
}

// NewUndo plans to take the set-up out again. Its Empty is true when there is
// none. Mail that is held stays held by default: then the routes that keep it,
// and their transport, are what is left, until an undo finds no more of it. Of
// req only Held and LetGo matter, and Transport where the files do not tell it.
func NewUndo(ctx context.Context, pf *postfix.Instance, req Requirements) (*Plan, error) {
	now, err := load(ctx, pf)
	if err != nil {
		return nil, err
	}
	if now.record == nil {
		return &Plan{pf: pf, dir: now.dir, undo: true}, nil
	}
	env, err := look(ctx, pf, now)
	if err != nil {
		return nil, err
	}
	req = Requirements{
		Transport: cmp.Or(env.transport(), req.Transport, DefaultTransport),
		Held:      req.Held, LetGo: req.LetGo, passing: req.passing, lingering: req.lingering, placed: req.placed, leaving: true,
	}
	left, err := retain(ctx, pf, req, env)
	if err != nil {
		return nil, err
	}
	var pl *Plan
	if len(left.routes) > 0 {
		if pl, err = newPlan(ctx, pf, req, now, env, left); err != nil {
			return nil, err
		}
	} else {
		pl = allUndone(pf, req, now, env)
	}
	pl.undo = true
	pl.leaves(left)
	return pl, nil
}

// allUndone takes out all of it.
func allUndone(pf *postfix.Instance, req Requirements, now *files, env *environment) *Plan {
	pl := &Plan{pf: pf, dir: now.dir, req: req}
	mainText, masterText, warnings := now.record.undone(now.main, now.master)
	pl.Warnings = warnings
	was, none := standOf(now.main, now.master, now.record.contents), standOf(conffile.File{Text: mainText}, conffile.File{Text: masterText}, contents{})
	pl.course = courseTo(was, none, env.defaults[heldList])
	if now.record.hasSplit() {
		pl.Warnings = append(pl.Warnings, splitEnds)
	}
	pl.change(filepath.Join(pl.dir, "main.cf"), &now.main.Text, &mainText)
	pl.change(filepath.Join(pl.dir, "master.cf"), &now.master.Text, &masterText)
	for _, name := range ownTables { // after the settings that name them
		pl.drop(now, name)
	}
	pl.secrets(now, passwords{})
	pl.change(ownPath(pl.dir, readmeName), now.readme, nil)
	pl.change(ownPath(pl.dir, recordName), now.recordText, nil)
	return pl
}

func (pl *Plan) change(path string, before, after *string) {
	if !sameText(before, after) {
		pl.changes = append(pl.changes, change{path: path, before: before, after: after})
	}
}

// table plans a lookup table.
func (pl *Plan) table(ctx context.Context, now *files, name string, t table) error {
	c := change{path: ownPath(pl.dir, name), before: now.tables[name], after: &t.text, was: now.kind(name), kind: t.kind}
	if sameText(c.before, c.after) {
		if ok, err := indexed(ctx, pl.pf, c.path, t); ok || err != nil {
			return err
		}
	}
	if wide := widened(c.before, t.text); name == routeTable && wide != t.text {
		c.meanwhile = &wide
		if c.was == c.kind && maps.Equal(byKey(linesOf(wide)), byKey(linesOf(*c.before))) {
			c.meanwhile = c.before // as it is already
		}
	}
	if indexPath(c.path, t.kind) == "" {
		pl.quiet = false
	}
	// What nothing makes Postfix look at yet can be put in place at any time.
	c.late = name == relayTable && c.was != ""
	pl.changes = append(pl.changes, c)
	return nil
}

// loses reports whether a table loses keys.
func (c change) loses() bool {
	if c.before == nil {
		return false
	}
	have := map[string]string{}
	if c.after != nil {
		have = byKey(linesOf(*c.after))
	}
	return slices.ContainsFunc(linesOf(*c.before), func(l line) bool { _, ok := have[l.key]; return !ok })
}

// drop plans that a lookup table goes.
func (pl *Plan) drop(now *files, name string) {
	c := change{path: ownPath(pl.dir, name), before: now.tables[name], was: cmp.Or(now.kind(name), textKind)}
	there := c.before != nil
	for _, index := range indexPaths(c.path) {
		_, err := os.Lstat(index)
		there = there || err == nil
	}
	if there {
		pl.changes = append(pl.changes, c)
	}
}

// sameText compares two texts of a file that may not be there.
func sameText(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// Empty reports whether the files are as the plan wants them and Postfix has
// been told.
func (pl *Plan) Empty() bool { return len(pl.changes) == 0 && !pl.pending && !pl.putsOnHold() }

// putsOnHold reports whether there is mail to be put on hold.
func (pl *Plan) putsOnHold() bool { return pl.req.Held == HeldOnHold && len(pl.Kept) > 0 }

// shown are the changes without the record, which is no setting.
func (pl *Plan) shown() []change {
	var list []change
	for _, c := range pl.changes {
		if filepath.Base(c.path) != recordName {
			list = append(list, c)
		}
	}
	return list
}

// Files names the files that would change.
func (pl *Plan) Files() []string {
	var names []string
	for _, c := range pl.shown() {
		names = append(names, c.path)
	}
	return names
}

// maxWarned bounds the warnings of one plan.
const maxWarned = 100
