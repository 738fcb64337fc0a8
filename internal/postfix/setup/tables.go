package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/text/cases"

	"github.com/etrnd/etrnd/internal/atomicfile"
	"github.com/etrnd/etrnd/internal/postfix"
)

// What grows with the customers is not in main.cf, which Postfix's programs
// read whole at each start, but in lookup tables of our own below Postfix's
// configuration directory. main.cf names them, and stays as it is whoever comes
// or goes.
//
// A table is a text, for people and for the next set-up, and the index that
// Postfix reads. The index is made of a copy and put in place whole, before the
// text is: Postfix never sees none or half of it, and the next set-up after one
// that was cut off between the two finds a text that is not what it should be, and
// makes both again.
//
// Postfix's programs notice a new index by themselves, within ten seconds, but not
// all at once: while one process of trivial-rewrite(8) has the tables of before,
// and another one those of after, a domain that is new to both could be taken in
// by the word of the one and sent elsewhere by that of the other. So the table
// that routes mail comes first; the one that makes Postfix take it comes when no
// process has the old one open any more, and goes before it. A text that is read
// without an index (texthash) takes a reload.

// A table is a lookup table as it is to be.
type table struct {
	kind string // as main.cf names it: hash, texthash, regexp
	text string
}

// line is one of a table with keys.
type line struct{ key, value string }

// indexes are the types of tables that we make, each with what its index is
// called, the preferred ones first. The first is taken that Postfix has, unless
// default_database_type is another one of them: that one the distribution has
// promised to keep, and its tools know it. Types that cannot tell all that they
// have (cdb) are not among them: whether an index is right could not be seen.
var indexes = []struct{ kind, suffix string }{
	{"lmdb", ".lmdb"}, {"hash", ".db"}, {"btree", ".db"},
}

// textKind is the type of a table that needs no index.
const textKind = "texthash"

// keyedKind is the type of our tables with keys in a Postfix that has these
// types.
func keyedKind(types []string, preferred string) string {
	kind := textKind
	for _, x := range indexes {
		if slices.Contains(types, x.kind) {
			if x.kind == preferred {
				return preferred
			}
			if kind == textKind {
				kind = x.kind
			}
		}
	}
	return kind
}

// indexPath is the index of a table of a kind, or empty if it has none.
func indexPath(path, kind string) string {
	for _, x := range indexes {
		if x.kind == kind {
			return path + x.suffix
		}
	}
	return ""
}

// indexPaths are all that may be there.
func indexPaths(path string) []string {
	var paths []string
	for _, x := range indexes {
		if p := path + x.suffix; !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

// table adds a lookup table of our own and returns how main.cf names it; with
// the variable that holds for a copy of the directory too. Its name has to be in
// ownTables.
func (d *desired) table(kind, name, text string) string {
	d.tables[name] = table{kind, text}
	return tableElement(kind, name)
}

func tableElement(kind, name string) string {
	return kind + ":$config_directory/" + ownDir + "/" + name
}

// keyed adds a lookup table with keys and returns how main.cf names it. Of two
// lines with one key the first counts.
func (d *derivation) keyed(name, head string, lines []line) string {
	seen := make(map[string]bool, len(lines))
	var text strings.Builder
	text.WriteString(head)
	for _, l := range lines {
		if key := folded(l.key); !seen[key] {
			seen[key] = true
			fmt.Fprintf(&text, "%-31s %s\n", key, l.value)
		}
	}
	return d.table(d.env.kind, name, text.String())
}

// folded is a key as Postfix folds what it asks for: to lower case, and what is
// not ASCII by Unicode's full case folding, which is not the same.
func folded(key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return r >= 0x80 }) {
		return cases.Fold().String(key)
	}
	return strings.ToLower(key)
}

// linesOf are the lines of the text of a table with keys.
func linesOf(text string) []line {
	var lines []line
	for l := range strings.Lines(text) {
		if l = strings.TrimRight(l, "\r\n"); l == "" || l[0] == '#' || l[0] == ' ' || l[0] == '\t' {
			continue
		}
		if i := strings.IndexAny(l, " \t"); i > 0 {
			lines = append(lines, line{l[:i], strings.TrimSpace(l[i:])})
		}
	}
	return lines
}

func byKey(lines []line) map[string]string {
	m := make(map[string]string, len(lines))
	for _, l := range lines {
		m[l.key] = l.value
	}
	return m
}

// widened is the new text of a table with the lines that it loses: what routes
// mail goes only when nothing makes Postfix take that mail any more.
func widened(before *string, after string) string {
	if before == nil {
		return after
	}
	have := byKey(linesOf(after))
	var text strings.Builder
	text.WriteString(after)
	for _, l := range linesOf(*before) {
		if _, ok := have[l.key]; !ok {
			fmt.Fprintf(&text, "%-31s %s\n", l.key, l.value)
		}
	}
	return text.String()
}

// indexed reports whether the index of a table is there, and is of this text.
func indexed(ctx context.Context, pf *postfix.Instance, path string, t table) (bool, error) {
	index := indexPath(path, t.kind)
	if index == "" {
		return true, nil
	}
	if _, err := os.Stat(index); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	have, err := pf.Dump(ctx, t.kind+":"+path)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || ctx.Err() != nil {
			return false, err
		}
		return false, nil // cannot be read: it is made again
	}
	return maps.Equal(have, byKey(linesOf(t.text))), nil
}

// workPrefix begins the names of directories in which indexes are made.
const workPrefix = ".new-"

// settleIndex makes an index readable for Postfix's daemons, gives it the owner
// of the text that it is the index of, if that is there, and writes it down.
func settleIndex(index, text string) error {
	file, err := os.Open(filepath.Clean(index))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Chmod(0o644); err != nil {
		return err
	}
	if uid, gid, ok := ownerOf(text); ok && os.Geteuid() == 0 {
		if err := file.Chown(uid, gid); err != nil {
			return err
		}
	}
	return file.Sync()
}

// sweep removes what a set-up that was cut off has left.
func sweep(dir string) {
	for _, pattern := range []string{
		filepath.Join(dir, ownDir, workPrefix+"*"),
		filepath.Join(dir, ownDir, ".*"+atomicfile.Mark+"*"),
		filepath.Join(dir, ".main.cf"+atomicfile.Mark+"*"), filepath.Join(dir, ".master.cf"+atomicfile.Mark+"*"),
	} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			return // the pattern is well-formed, unless the directory's name is odd
		}
		for _, path := range left {
			_ = os.RemoveAll(path) // it is in nobody's way
		}
	}
}
