package setup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// edited is main.cf and master.cf as they are to be, with the record of what
// has been put into them.
type edited struct {
	main, master conffile.File
	record       *record
	warnings
}

// editor brings the two files to what is desired: takes out what was put in
// before and is desired no more, and puts in what is missing. What the
// postmaster has put there himself is neither ours nor touched.
type editor struct {
	edited
	pf   *postfix.Instance
	env  *environment
	want *desired
}

func edit(ctx context.Context, pf *postfix.Instance, env *environment, want *desired) (*edited, error) {
	e := &editor{pf: pf, env: env, want: want}
	e.main, e.master = env.main, env.master
	e.record = &record{Version: recordVersion, Passwords: want.passwords.files}
	for _, name := range lists {
		if err := e.list(ctx, name); err != nil {
			return nil, err
		}
	}
	e.settings()
	if err := e.services(); err != nil {
		return nil, err
	}
	wasMain, wasMaster, _ := env.old.undone(env.main, env.master)
	e.record.Before = textsOf(wasMain, wasMaster)
	e.record.After = textsOf(sum(e.main.Text), sum(e.master.Text))
	return &e.edited, nil
}

// list edits one list.
func (e *editor) list(ctx context.Context, name string) error {
	var want []element
	for _, w := range e.want.elements {
		if w.list == name && !slices.ContainsFunc(want, func(m element) bool { return same(m.text, w.text) }) {
			want = append(want, w)
		}
	}
	old := e.env.old.list(name)
	now := listRecord{Name: name, Default: old.Default}
	e.main.RemoveAll(name, slices.DeleteFunc(slices.Clone(old.Elements), func(o string) bool {
		return slices.ContainsFunc(want, func(w element) bool { return same(w.text, o) })
	}))
	// effective is what the list is for Postfix before anything is added to
	// it. That costs a command, and most often every element is simply there.
	var effective []string
	asked := false
	for _, w := range want {
		if words := e.main.List(name); conffile.Index(words, w.text) >= 0 {
			if slices.ContainsFunc(old.Elements, func(o string) bool { return same(o, w.text) }) {
				now.Elements = append(now.Elements, w.text)
				if w.last && words[len(words)-1] != conffile.Fold(w.text) {
					e.main.Remove(name, w.text)
					e.main.Add(name, w.text, false)
				}
			}
			continue
		}
		if !asked {
			var err error
			if effective, err = e.effective(ctx, name); err != nil {
				return err
			}
			asked = true
		}
		if by, ok := covered(name, w.text, effective, e.env.settings["queue_directory"]); ok {
			if slices.Contains(milterLists, name) && !strings.Contains(by, milterAccepts) {
				e.warn("%s already has the milter as %q: unless its default_action is accept, mail waits while the milter is away", name, by)
			}
			continue
		}
		if !e.main.Has(name) {
			value := e.env.defaults[name]
			if w.gate {
				value = strings.Join(effective, ", ") // one of several, by compatibility level
			}
			if strings.HasPrefix(value, "${{") && len(effective) == 0 {
				value = "" // a default by compatibility level, which is nothing here
			}
			now.Default = &value
			e.main.Set(name, value)
		}
		if w.gate {
			e.main.AddBefore(name, w.text, gateOf(name, e.main.List(name), true))
		} else {
			e.main.Add(name, w.text, w.front)
		}
		now.Elements = append(now.Elements, w.text)
	}
	if len(now.Elements) == 0 {
		dropDefault(&e.main, old)
		return nil
	}
	e.record.Lists = append(e.record.Lists, now)
	return nil
}

// effective is a list with what it refers to filled in, as the text stands
// now.
func (e *editor) effective(ctx context.Context, name string) (words []string, err error) {
	if e.main.Text == e.env.main.Text {
		return e.env.list(name), nil // as it is for Postfix already
	}
	err = try(e.pf, e.main, e.master, func(trial *postfix.Instance, _ string) error {
		v, err := trial.Settings(ctx, name)
		words = conffile.Words(v[name])
		return err
	})
	return words, err
}

func same(a, b string) bool { return conffile.Fold(a) == conffile.Fold(b) }

// covered reports whether a list has an element, if in other words: by way of a
// setting that it refers to, or spelled differently. It returns what it has.
func covered(name, element string, effective []string, queueDir string) (by string, ok bool) {
	if conffile.Index(effective, element) >= 0 {
		return element, true
	}
	matches := func(string) bool { return false }
	switch name {
	case "fast_flush_domains", "relay_domains":
		matches = func(e string) bool { return e == "static:all" }
	case "smtpd_milters", "non_smtpd_milters":
		matches = func(e string) bool { return milterAddress(e, queueDir) == milterAddress(element, queueDir) }
	case "milter_connect_macros", "milter_mail_macros", "milter_end_of_data_macros":
		// "{i}" and "i" are the same.
		matches = func(e string) bool { return strings.Trim(e, "{}") == strings.Trim(element, "{}") }
	}
	if i := slices.IndexFunc(effective, matches); i >= 0 {
		return effective[i], true
	}
	return "", false
}

// settings edits the settings that have one value.
func (e *editor) settings() {
	for _, v := range e.env.old.Values {
		if _, still := e.want.values[v.Name]; !still {
			e.warnings = append(e.warnings, giveBack(&e.main, v)...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.want.values)) {
		value := e.want.values[name]
		now, set := e.main.Value(name)
		old, ours := e.env.old.value(name)
		switch {
		case set && same(now, value):
			if ours {
				old.Value = value
				e.record.Values = append(e.record.Values, old)
			}
			continue
		case ours && set && same(now, old.Value):
			old.Value = value
			e.record.Values = append(e.record.Values, old)
		default:
			v := valueRecord{Name: name, Value: value}
			if set {
				v.Old = &now
				e.warn("%s is %q and becomes %q", name, now, value)
			}
			e.record.Values = append(e.record.Values, v)
		}
		e.main.Set(name, value)
	}
}

// services edits the entries of master.cf.
func (e *editor) services() error {
	for _, old := range e.env.old.Entries {
		if !slices.Contains(e.want.entries, old) {
			e.warnings = append(e.warnings, takeOut(&e.master, old)...)
		}
	}
	for _, text := range e.want.entries {
		ours, _ := conffile.ParseService(text)
		have, ok := e.master.Service(ours.Name, ours.Type)
		switch {
		case !ok:
			e.master.Append(text)
			e.record.Entries = append(e.record.Entries, text)
		case have.Command != ours.Command && !(have.Command == "relay" && ours.Command == "smtp"):
			return fmt.Errorf("master.cf has an entry %s/%s that runs %q: choose another name for the held transport ([mta] transport)", have.Name, have.Type, have.Command)
		case slices.Contains(e.env.old.Entries, text):
			e.record.Entries = append(e.record.Entries, text)
		}
	}
	return nil
}
