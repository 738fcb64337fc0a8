package mta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Wanted is what the configuration asks of Postfix.
type Wanted struct {
	Routes []Route
	// QueueNames are listed in fast_flush_domains, so that "ETRN #name" gets
	// past Postfix's own check on its own port.
	QueueNames []string
	// Policy and Milter are "unix:/path" or "host:port"; empty is none.
	Policy, Milter string
	// Split is a port of the loopback, "127.0.0.1:10366", on which Postfix
	// hands itself the messages that the milter has marked with SplitHeader,
	// once for each recipient; empty is none. See split.go.
	Split string
	// ClientCerts says that some queue is asked for with a TLS client
	// certificate, which Postfix must then request and fingerprint.
	ClientCerts bool
}

// Route is mail that is held.
type Route struct {
	// Pattern is "acme.example", ".acme.example" for all below it,
	// "user@acme.example" or "*" for all that has no destination here.
	Pattern string
	// Deliver is where it goes once released: "smtp:NEXTHOP" or
	// "lmtp:NEXTHOP", with NEXTHOP as in transport(5), or "turn:/path" with
	// the socket of a queue that is delivered over turned connections.
	Deliver string
	// Relay says that mail for it is accepted from anyone, as a hub does for
	// its sites. A site that pushes leaves it false: there it would make the
	// site relay for strangers.
	Relay bool
}

// Names of what the set-up keeps below the configuration directory.
const (
	setupDir  = "etrnd"
	tableName = "transport"
	splitName = "split"
	stateName = "state.json"
	stateVer  = 1
	// maxConf bounds main.cf, master.cf and the files of the set-up.
	maxConf = 16 << 20
)

// state is what an undo needs: the files as they were, what was put into
// which list, and what the files looked like afterwards.
type state struct {
	Version int `json:"version"`
	// Pending is set while the files are changed and Postfix may not know.
	Pending bool              `json:"pending,omitempty"`
	Before  map[string]string `json:"before"` // "main.cf", "master.cf"
	After   map[string]string `json:"after"`  // SHA-256 of those
	Lists   []stateList       `json:"lists,omitempty"`
	Values  []stateValue      `json:"values,omitempty"`
	Entries []string          `json:"entries,omitempty"` // of master.cf
}

type stateList struct {
	Name     string   `json:"name"`
	Elements []string `json:"elements"`
	// Default is the value that the setting had by default, if main.cf did
	// not have the setting at all.
	Default *string `json:"default,omitempty"`
}

type stateValue struct {
	Name  string  `json:"name"`
	Value string  `json:"value"`
	Old   *string `json:"old,omitempty"` // nil: main.cf did not have it
}

func (s *state) list(name string) *stateList {
	for i := range s.Lists {
		if s.Lists[i].Name == name {
			return &s.Lists[i]
		}
	}
	return nil
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// Plan is a set of changes to Postfix's files, or to take them back.
type Plan struct {
	// Warnings are what a postmaster should look at before the change is
	// made; none of them makes it impossible.
	Warnings []string

	p       *Postfix
	dir     string
	changes []change
	state   *state // nil: an undo
	pending bool   // a change made before has not been announced
}

// A change is one file. Nil is a file that is not there.
type change struct {
	path          string
	before, after *string
}

// Empty reports whether the files are as the plan wants them and Postfix has
// been told.
func (pl *Plan) Empty() bool { return len(pl.changes) == 0 && !pl.pending }

// Diff is a unified diff of every file that would change.
func (pl *Plan) Diff() string {
	var b strings.Builder
	for _, c := range pl.changes {
		if filepath.Base(c.path) == stateName {
			continue // a record, not a setting
		}
		b.WriteString(unified(c.path, c.before, c.after))
	}
	return b.String()
}

// Files names the files that would change.
func (pl *Plan) Files() []string {
	var names []string
	for _, c := range pl.changes {
		if filepath.Base(c.path) != stateName {
			names = append(names, c.path)
		}
	}
	return names
}

// conf is the set-up as it is on disk.
type conf struct {
	dir          string
	main, master confFile
	tables       map[string]*string // by name below setupDir; nil: not there
	stateText    *string
	state        *state
}

func (p *Postfix) load(ctx context.Context) (*conf, error) {
	dir, err := p.configDir(ctx)
	if err != nil {
		return nil, err
	}
	c := &conf{dir: dir, tables: map[string]*string{}}
	for name, to := range map[string]*string{"main.cf": &c.main.text, "master.cf": &c.master.text} {
		b, err := readBounded(filepath.Join(dir, name), maxConf)
		if err != nil {
			return nil, fmt.Errorf("read Postfix's configuration: %w", err)
		}
		*to = string(b)
	}
	for _, name := range []string{tableName, splitName, stateName} {
		text, err := readMaybe(filepath.Join(dir, setupDir, name))
		if err != nil {
			return nil, fmt.Errorf("read the set-up: %w", err)
		}
		c.tables[name] = text
	}
	c.stateText = c.tables[stateName]
	if c.stateText != nil {
		c.state = &state{}
		if err := json.Unmarshal([]byte(*c.stateText), c.state); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, setupDir, stateName), err)
		}
		if c.state.Version != stateVer {
			return nil, fmt.Errorf("%s: version %d is not known to this program, which knows %d", filepath.Join(dir, setupDir, stateName), c.state.Version, stateVer)
		}
	}
	return c, nil
}

// undone returns the files as they were before the set-up. What nobody has
// touched since is given back byte for byte; from what somebody has edited,
// only our own elements are taken.
func (c *conf) undone() (mainText, masterText string, warnings []string) {
	mainText, masterText = c.main.text, c.master.text
	st := c.state
	if st == nil {
		return mainText, masterText, nil
	}
	if sum(mainText) == st.After["main.cf"] {
		mainText = st.Before["main.cf"]
	} else {
		f := confFile{mainText}
		for _, l := range st.Lists {
			for _, e := range l.Elements {
				f.remove(l.Name, e)
			}
			f.unsetDefault(l)
		}
		for _, v := range st.Values {
			warnings = append(warnings, f.giveBack(v)...)
		}
		mainText = f.text
	}
	if sum(masterText) == st.After["master.cf"] {
		masterText = st.Before["master.cf"]
	} else {
		f := confFile{masterText}
		for _, e := range st.Entries {
			warnings = append(warnings, f.removeEntry(e)...)
		}
		masterText = f.text
	}
	return mainText, masterText, warnings
}

// unsetDefault drops a setting that we began and that says no more than
// Postfix would say without it.
func (f *confFile) unsetDefault(l stateList) {
	if l.Default == nil {
		return
	}
	if v, ok := f.value(l.Name); ok && fold(v) == fold(*l.Default) {
		f.unset(l.Name)
	}
}

func (f *confFile) giveBack(v stateValue) []string {
	switch now, ok := f.value(v.Name); {
	case !ok:
	case fold(now) != fold(v.Value):
		return []string{fmt.Sprintf("%s is now %q: it has been changed since it was set to %q, and stays", v.Name, now, v.Value)}
	case v.Old == nil:
		f.unset(v.Name)
	default:
		f.set(v.Name, *v.Old)
	}
	return nil
}

func (f *confFile) removeEntry(entry string) []string {
	e := confFile{entry}
	for _, ours := range e.services() {
		s, ok := f.service(ours.name, ours.kind)
		switch {
		case !ok:
		case fold(f.text[s.line.start:s.line.end]) != fold(entry):
			return []string{fmt.Sprintf("the entry %s/%s of master.cf has been edited since, and stays", ours.name, ours.kind)}
		default:
			f.text = f.text[:s.line.start] + f.text[s.line.end:]
		}
	}
	return nil
}

// Undo plans to take the set-up out again. Its Empty is true when there is
// none.
func (p *Postfix) Undo(ctx context.Context) (*Plan, error) {
	c, err := p.load(ctx)
	if err != nil {
		return nil, err
	}
	pl := &Plan{p: p, dir: c.dir}
	if c.state == nil {
		return pl, nil
	}
	mainText, masterText, warnings := c.undone()
	pl.Warnings = append(warnings, "mail that is held at this moment will be tried with Postfix's next queue run")
	if c.state.hasSplit() {
		pl.Warnings = append(pl.Warnings, splitEnds)
	}
	pl.change("main.cf", &c.main.text, &mainText)
	pl.change("master.cf", &c.master.text, &masterText)
	// The table goes after the setting that names it: Postfix's resolver does
	// not start while a table is missing.
	pl.change(filepath.Join(setupDir, tableName), c.tables[tableName], nil)
	pl.change(filepath.Join(setupDir, splitName), c.tables[splitName], nil)
	pl.change(filepath.Join(setupDir, stateName), c.stateText, nil)
	return pl, nil
}

func (pl *Plan) change(name string, before, after *string) {
	if before == nil && after == nil || before != nil && after != nil && *before == *after {
		return
	}
	pl.changes = append(pl.changes, change{filepath.Join(pl.dir, name), before, after})
}

// Plan computes what has to change so that Postfix holds and releases what is
// wanted. It changes nothing itself and needs no privilege but to read the
// configuration.
func (p *Postfix) Plan(ctx context.Context, w Wanted) (*Plan, error) {
	c, err := p.load(ctx)
	if err != nil {
		return nil, err
	}
	b := &builder{p: p, conf: c, main: c.main, master: c.master, tables: map[string]*string{}, st: &state{Version: stateVer, After: map[string]string{}}}
	if c.state == nil {
		b.old = &state{}
	} else {
		b.old = c.state
	}
	if err := b.build(ctx, w); err != nil {
		return nil, err
	}
	pl := &Plan{p: p, dir: c.dir, Warnings: b.warnings, state: b.st, pending: b.old.Pending}
	wasMain, wasMaster, _ := c.undone()
	b.st.Before = map[string]string{"main.cf": wasMain, "master.cf": wasMaster}
	b.st.After["main.cf"], b.st.After["master.cf"] = sum(b.main.text), sum(b.master.text)
	stateText := b.st.encode()
	pl.change(filepath.Join(setupDir, stateName), c.stateText, &stateText)
	// Postfix's resolver does not start while a table is missing, so the
	// table comes before the setting that names it, and goes after it.
	for _, name := range []string{tableName, splitName} {
		if b.tables[name] != nil {
			pl.change(filepath.Join(setupDir, name), c.tables[name], b.tables[name])
		}
	}
	pl.change("master.cf", &c.master.text, &b.master.text)
	pl.change("main.cf", &c.main.text, &b.main.text)
	for _, name := range []string{tableName, splitName} {
		if b.tables[name] == nil {
			pl.change(filepath.Join(setupDir, name), c.tables[name], nil)
		}
	}
	if len(pl.Files()) == 0 {
		// What the record knows is still enough: somebody may have edited
		// other lines since, and then an undo takes out single elements.
		pl.changes = nil
		if pl.pending {
			pl.change(filepath.Join(setupDir, stateName), c.stateText, &stateText)
		}
	}
	return pl, nil
}

func (s *state) encode() string {
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		// Strings and maps of strings: there is nothing that could fail.
		panic(err)
	}
	return string(out) + "\n"
}

// InSync reports whether Postfix is set up for what is wanted, and if not,
// which files differ.
func (p *Postfix) InSync(ctx context.Context, w Wanted) (bool, []string, error) {
	pl, err := p.Plan(ctx, w)
	if err != nil {
		return false, nil, err
	}
	return pl.Empty(), pl.Files(), nil
}

// Apply makes the changes: each file at once, with the mode and owner that it
// had, then "postfix check", then "postfix reload" if Postfix runs. When the
// check fails, the files are put back. A file that has changed since the plan
// was made is an error, so a plan can be applied once.
func (pl *Plan) Apply(ctx context.Context) (err error) {
	if pl.Empty() {
		return nil
	}
	for _, c := range pl.changes {
		now, err := readMaybe(c.path)
		if err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
		if (now == nil) != (c.before == nil) || now != nil && *now != *c.before {
			return fmt.Errorf("set up Postfix: %s has changed since the plan was made: look at a new one", c.path)
		}
	}
	sub := filepath.Join(pl.dir, setupDir)
	statePath := filepath.Join(sub, stateName)
	var changes []change
	if pl.state != nil {
		// Postfix's daemons read the table without privilege.
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
		pending := *pl.state
		pending.Pending = true
		text := pending.encode()
		old, err := readMaybe(statePath)
		if err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
		changes = append([]change{{statePath, old, &text}}, slices.DeleteFunc(slices.Clone(pl.changes), func(c change) bool { return c.path == statePath })...)
	} else {
		// The record of what to undo is the last to go.
		changes = slices.DeleteFunc(slices.Clone(pl.changes), func(c change) bool { return c.path == statePath })
	}
	for i, c := range changes {
		if err := pl.write(c); err != nil {
			return errors.Join(fmt.Errorf("set up Postfix: %w", err), pl.putBack(changes[:i]))
		}
	}
	if err := pl.p.postfixCommand(ctx, "check"); err != nil {
		return errors.Join(fmt.Errorf("the new set-up does not pass, so the old files are back: %w", err), pl.putBack(changes))
	}
	running, err := pl.p.Running(ctx)
	if err != nil {
		return err
	}
	if running {
		if err := pl.p.postfixCommand(ctx, "reload"); err != nil {
			return err
		}
	}
	pl.p.Refresh()
	if pl.state != nil {
		text := pl.state.encode()
		if err := pl.write(change{path: statePath, after: &text}); err != nil {
			return fmt.Errorf("set up Postfix: %w", err)
		}
	} else {
		if err := pl.write(change{path: statePath}); err != nil {
			return fmt.Errorf("undo the set-up: %w", err)
		}
		// What somebody else has put there keeps the directory.
		if err := os.Remove(sub); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("undo the set-up: %w", err)
		}
	}
	return nil
}

func (pl *Plan) putBack(changes []change) error {
	var errs []error
	for _, c := range slices.Backward(changes) {
		errs = append(errs, pl.write(change{path: c.path, after: c.before}))
	}
	if pl.state != nil {
		// Goes only if the set-up was the first and nothing is left of it.
		_ = os.Remove(filepath.Join(pl.dir, setupDir))
	}
	return errors.Join(errs...)
}

func readMaybe(path string) (*string, error) {
	b, err := readBounded(path, 4*maxConf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := string(b)
	return &s, nil
}

// write replaces a file at once, or removes it. A new file is readable for
// all, as main.cf is; a link is followed and stays one.
func (pl *Plan) write(c change) error {
	path := c.path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if c.after == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already if all went well
	mode := fs.FileMode(0o644)
	if fi, err := os.Stat(path); err == nil {
		mode = fi.Mode().Perm()
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			if err := tmp.Chown(int(st.Uid), int(st.Gid)); err != nil {
				return errors.Join(err, tmp.Close())
			}
		}
	}
	_, err = tmp.WriteString(*c.after)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", c.path, err)
	}
	if err := backdate(tmp.Name()); err != nil {
		return fmt.Errorf("write %s: %w", c.path, err)
	}
	return os.Rename(tmp.Name(), path)
}

// postfixCommand runs postfix(1), which tells what it has to say on standard
// error and on standard output.
func (p *Postfix) postfixCommand(ctx context.Context, what string) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	if err := p.run(ctx, nil, nil, "postfix", append(args, what)...); err != nil {
		return fmt.Errorf("postfix %s: %w", what, err)
	}
	return nil
}

// Running reports whether the mail system is up. It needs root.
func (p *Postfix) Running(ctx context.Context) (bool, error) {
	err := p.postfixCommand(ctx, "status")
	if err == nil {
		return true, nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return false, fmt.Errorf("postfix status: %w", cerr)
	}
	p.o.Logger.DebugContext(ctx, "postfix is not running", "status", err)
	return false, nil
}

// configDir is the directory with main.cf.
func (p *Postfix) configDir(ctx context.Context) (string, error) {
	if p.o.ConfigDir != "" {
		return p.o.ConfigDir, nil
	}
	out, err := p.output(ctx, nil, "postconf", "-d", "-h", "config_directory")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(out), nil
}

// scratch writes the two files where postconf can read them.
func scratch(mainText, masterText string) (dir string, err error) {
	dir, err = os.MkdirTemp("", "etrnd-postfix-")
	if err != nil {
		return "", err
	}
	for name, text := range map[string]string{"main.cf": mainText, "master.cf": masterText} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), backdate(path)); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// backdate dates a main.cf back by some seconds. Every program of Postfix that
// finds it younger waits up to 1.5 s, for fear of reading it while it is being
// written; ours appears complete.
func backdate(path string) error {
	t := time.Now().Add(-15 * time.Second)
	return os.Chtimes(path, t, t)
}
