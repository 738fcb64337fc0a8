package setup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

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
	After   map[string]string `json:"after"`  // SHA-256 of those
	Lists   []listRecord      `json:"lists,omitempty"`
	Values  []valueRecord     `json:"values,omitempty"`
	Entries []string          `json:"entries,omitempty"` // of master.cf
	// Passwords are the files that passwords of ours are copies of, with when
	// they were last changed: who may not read them can see by it whether the
	// copies are still good.
	Passwords map[string]string `json:"passwords,omitempty"`
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
