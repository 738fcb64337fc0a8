package setup

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// recordVersion is that of the format; a record of another one is not
// understood.
const recordVersion = 1

// record is what an undo needs: the files as they were, what was put into
// which list, and what the files looked like afterwards. It is kept below
// Postfix's configuration directory.
type record struct {
	Version int `json:"version"`
	// Pending is set while the files are changed and Postfix may not know.
	Pending bool              `json:"pending,omitempty"`
	Before  map[string]string `json:"before"` // "main.cf", "master.cf"
	contents
	// Passwords are the files that passwords of ours are copies of, with when
	// they were last changed: who may not read them can see by it whether the
	// copies are still good.
	Passwords map[string]string `json:"passwords,omitempty"`
	// Stages are what the two files may be while Pending is set, beside what
	// they are to be in the end: a set-up can be cut off at any moment.
	Stages []contents `json:"stages,omitempty"`
}

// contents are what of the two files is ours.
type contents struct {
	After  map[string]string `json:"after"` // SHA-256 of the two with it
	Lists  []listRecord      `json:"lists,omitempty"`
	Values []valueRecord     `json:"values,omitempty"`
	// Entries of master.cf.
	Entries []string `json:"entries,omitempty"`
}

type listRecord struct {
	Name     string   `json:"name"`
	Elements []string `json:"elements"`
	// Default is the value that the setting had by default, if main.cf did
	// not have the setting at all.
	Default *string `json:"default,omitempty"`
}

type valueRecord struct {
	Name  string  `json:"name"`
	Value string  `json:"value"`
	Old   *string `json:"old,omitempty"` // nil: main.cf did not have it
}

func decodeRecord(text string) (*record, error) {
	r := &record{}
	if err := json.Unmarshal([]byte(text), r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("this program reads version %d of the file, not version %d", recordVersion, r.Version)
	}
	return r, nil
}

// settle makes the record of a set-up that was cut off one of the files as they
// are: by what they would be after each of its steps, or, if somebody has edited
// them since, by all that may be in them.
func (r *record) settle(main, master conffile.File) {
	if len(r.Stages) == 0 {
		return
	}
	stages := append([]contents{r.contents}, r.Stages...)
	r.Stages = nil
	now := contents{After: maps.Clone(r.After)}
	at := func(name, text string) int {
		return slices.IndexFunc(stages, func(c contents) bool { return c.After[name] == sum(text) })
	}
	if i := at("main.cf", main.Text); i >= 0 {
		now.Lists, now.Values, now.After["main.cf"] = stages[i].Lists, stages[i].Values, stages[i].After["main.cf"]
	} else {
		for _, s := range stages {
			now.Lists = joinLists(now.Lists, s.Lists)
			now.Values = joinValues(now.Values, s.Values, &main)
		}
	}
	if i := at("master.cf", master.Text); i >= 0 {
		now.Entries, now.After["master.cf"] = stages[i].Entries, stages[i].After["master.cf"]
	} else {
		for _, s := range stages {
			now.Entries = union(now.Entries, s.Entries)
		}
	}
	r.contents = now
}

// union is a list, and behind it what of another one it lacks.
func union(list, more []string) []string {
	list = slices.Clone(list)
	for _, m := range more {
		if !slices.ContainsFunc(list, func(have string) bool { return same(have, m) }) {
			list = append(list, m)
		}
	}
	return list
}

func joinLists(lists, more []listRecord) []listRecord {
	lists = slices.Clone(lists)
	for _, m := range more {
		i := slices.IndexFunc(lists, func(l listRecord) bool { return l.Name == m.Name })
		if i < 0 {
			lists = append(lists, m)
			continue
		}
		lists[i].Elements = union(lists[i].Elements, m.Elements)
		lists[i].Default = cmp.Or(lists[i].Default, m.Default)
	}
	return lists
}

// joinValues prefers, of two records of one setting, that of what it is now.
func joinValues(values, more []valueRecord, main *conffile.File) []valueRecord {
	values = slices.Clone(values)
	for _, m := range more {
		i := slices.IndexFunc(values, func(v valueRecord) bool { return v.Name == m.Name })
		if i < 0 {
			values = append(values, m)
		} else if now, set := main.Value(m.Name); set && same(now, m.Value) {
			values[i] = m
		}
	}
	return values
}

func (r *record) encode() string {
	out, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		// Strings and maps of strings: there is nothing that could fail.
		panic(err)
	}
	return string(out) + "\n"
}

// list is what has been put into a list.
func (r *record) list(name string) listRecord {
	for _, l := range r.Lists {
		if l.Name == name {
			return l
		}
	}
	return listRecord{Name: name}
}

// value is a setting that has been given a value.
func (r *record) value(name string) (v valueRecord, ok bool) {
	for _, v := range r.Values {
		if v.Name == name {
			return v, true
		}
	}
	return valueRecord{}, false
}

// hasSplit tells whether messages for several queues are taken apart.
func (r *record) hasSplit() bool { return len(r.list("milter_header_checks").Elements) > 0 }

// undone returns the files as they were before the set-up. What nobody has
// touched since is given back byte for byte; from what somebody has edited,
// only our own elements are taken.
func (r *record) undone(main, master conffile.File) (wasMain, wasMaster string, warnings []string) {
	if sum(main.Text) == r.After["main.cf"] {
		main.Text = r.Before["main.cf"]
	} else {
		for _, l := range r.Lists {
			main.RemoveAll(l.Name, l.Elements)
			dropDefault(&main, l)
		}
		for _, v := range r.Values {
			warnings = append(warnings, giveBack(&main, v)...)
		}
	}
	if sum(master.Text) == r.After["master.cf"] {
		master.Text = r.Before["master.cf"]
	} else {
		for _, e := range r.Entries {
			warnings = append(warnings, takeOut(&master, e)...)
		}
	}
	return main.Text, master.Text, warnings
}

// textsOf are the two files by their names.
func textsOf(main, master string) map[string]string {
	return map[string]string{"main.cf": main, "master.cf": master}
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// dropDefault drops a list that we began and that says no more than Postfix
// would say without it.
func dropDefault(main *conffile.File, l listRecord) {
	if l.Default == nil {
		return
	}
	if v, ok := main.Value(l.Name); ok && conffile.Fold(v) == conffile.Fold(*l.Default) {
		main.Unset(l.Name)
	}
}

// giveBack gives a setting the value that it had before ours.
func giveBack(main *conffile.File, v valueRecord) (warnings []string) {
	switch now, ok := main.Value(v.Name); {
	case !ok:
	case conffile.Fold(now) != conffile.Fold(v.Value):
		return []string{fmt.Sprintf("%s is now %q: it has been changed since it was set to %q, and stays", v.Name, now, v.Value)}
	case v.Old == nil:
		main.Unset(v.Name)
	default:
		main.Set(v.Name, *v.Old)
	}
	return nil
}

// takeOut takes an entry out of master.cf.
func takeOut(master *conffile.File, entry string) (warnings []string) {
	if found, removed := master.RemoveService(entry); found && !removed {
		s, _ := conffile.ParseService(entry)
		return []string{fmt.Sprintf("the entry %s/%s of master.cf has been edited since, and stays", s.Name, s.Type)}
	}
	return nil
}
