package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// What the set-up keeps below Postfix's configuration directory.
const (
	ownDir     = "etrnd"
	recordName = "state.json"
)

// ownTables are the lookup tables there, in the order in which they are put in
// place: what routes mail comes before what makes Postfix take it.
var ownTables = []string{routeTable, statusTable, splitTable, aliasTable, catchAllTable, flushTable, relayTable, clientTable, networkTable, certificateTable, userTable, replyTable}

const (
	// maxConf bounds main.cf, master.cf and our tables.
	maxConf = 16 << 20
	// maxRecord is more: the record has copies of the two.
	maxRecord = 4 * maxConf
)

// files are Postfix's files as they are, with ours among them.
type files struct {
	dir          string
	main, master conffile.File
	tables       map[string]*string // by name; nil is one that is not there
	passwords    *string            // of the pushes; nil is none
	hidden       bool               // passwords are there, and not for this user to read
	record       *record            // nil: there is no set-up
	recordText   *string
	readme       *string
}

func ownPath(dir, name string) string { return filepath.Join(dir, ownDir, name) }

// paths are all files that a plan reads and writes.
func paths(dir string) []string {
	list := []string{filepath.Join(dir, "main.cf"), filepath.Join(dir, "master.cf"), ownPath(dir, recordName), ownPath(dir, passwordTable)}
	for _, name := range ownTables {
		list = append(list, ownPath(dir, name))
		list = append(list, indexPaths(ownPath(dir, name))...)
	}
	return list
}

func load(ctx context.Context, pf *postfix.Instance) (*files, error) {
	dir, err := pf.ConfigDir(ctx)
	if err != nil {
		return nil, err
	}
	f := &files{dir: dir, tables: map[string]*string{}}
	for name, to := range map[string]*conffile.File{"main.cf": &f.main, "master.cf": &f.master} {
		if to.Text, err = postfix.ReadFile(filepath.Join(dir, name), maxConf); err != nil {
			return nil, fmt.Errorf("read Postfix's configuration: %w", err)
		}
	}
	for _, name := range ownTables {
		if f.tables[name], err = readIfThere(ownPath(dir, name), maxConf); err != nil {
			return nil, fmt.Errorf("read the set-up: %w", err)
		}
	}
	if f.passwords, err = readIfThere(ownPath(dir, passwordTable), maxConf); errors.Is(err, fs.ErrPermission) {
		f.hidden = true // it is root's
	} else if err != nil {
		return nil, fmt.Errorf("read the set-up: %w", err)
	}
	if f.readme, err = readIfThere(ownPath(dir, readmeName), maxConf); err != nil {
		return nil, fmt.Errorf("read the set-up: %w", err)
	}
	if f.recordText, err = readIfThere(ownPath(dir, recordName), maxRecord); err != nil {
		return nil, fmt.Errorf("read the set-up: %w", err)
	}
	if f.recordText != nil {
		if f.record, err = decodeRecord(*f.recordText); err != nil {
			return nil, fmt.Errorf("%s: %w", ownPath(dir, recordName), err)
		}
		f.record.settle(f.main, f.master)
	}
	return f, nil
}

// kind is what a table of ours is for Postfix by the record, or empty.
func (f *files) kind(name string) string {
	if f.record == nil {
		return ""
	}
	for _, l := range f.record.Lists {
		for _, e := range l.Elements {
			if kind, ok := strings.CutSuffix(e, tableElement("", name)); ok {
				return kind[strings.LastIndexByte(kind, ' ')+1:] // behind the name of a restriction
			}
		}
	}
	return ""
}

// readIfThere returns nil for a file that is not there.
func readIfThere(path string, limit int64) (*string, error) {
	text, err := postfix.ReadFile(path, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &text, nil
}
