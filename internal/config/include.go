package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/etrnd/etrnd/internal/foreign"
)

const (
	// maxIncluded bounds the files that are read beside the main one.
	maxIncluded = 100_000
	// maxTotal bounds all files together.
	maxTotal = 64 << 20
	// maxLinks bounds the symbolic links on the way to a file, as the kernel does.
	maxLinks = 40
)

// included reads the files that the key include names, each into its top table:
// those of a directory whose names end in ".toml", or those that a pattern
// matches, in the order of their names. What is wrong with one is said with the
// others: a customer whose file is broken is no reason to leave out the rest of
// the messages.
func (r *reader) included(root *table, c *Config, size int) []*table {
	pattern, ok := root.text("include")
	if !ok {
		return nil
	}
	const hint = `name a directory, such as "queues.d", or a pattern, such as "queues.d/*.toml"`
	if pattern == "" {
		root.fail("include", hint+", or leave the key out", "is empty")
		return nil
	}
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(r.dir, pattern)
	}
	c.Include = filepath.Clean(pattern)
	paths, err := r.includedPaths(root, c.Include)
	if err != nil {
		why := hint
		switch {
		case errors.Is(err, fs.ErrNotExist):
			why = "make the directory, or name the one that is meant"
		case errors.Is(err, fs.ErrPermission):
			why = "the users etrnd and etrn-milter must be able to read it; it holds no secrets"
		}
		root.fail("include", why, "%s", reason(err))
		return nil
	}
	if len(paths) > maxIncluded {
		root.fail("include", "", "there are %d files, and at most %d are read", len(paths), maxIncluded)
		return nil
	}
	if !r.safelyKept(root, c.Include, paths) {
		return nil
	}
	var tops []*table
	if st, err := os.Stat(c.Include); err == nil && st.IsDir() {
		c.included = append(c.included, c.Include)
	}
	c.included = append(c.included, paths...)
	for _, path := range paths {
		object := func(hint, format string, args ...any) {
			r.errs = append(r.errs, Problem{File: path, Msg: fmt.Sprintf(format, args...), Hint: hint})
		}
		data, err := readFileBy(os.Open, path, maxFile, r.trusted)
		if err != nil {
			hint := ""
			if d := (*distrust)(nil); errors.As(err, &d) {
				hint = d.mend + " " + path
			} else if errors.Is(err, fs.ErrPermission) {
				hint = loadHint(err)
			}
			r.errs = append(r.errs, unread(path, err, hint))
			continue
		}
		if size += len(data); size > maxTotal {
			object("", "with this file the configuration is longer than %d bytes", maxTotal)
			break
		}
		if top := r.parse(path, data); top != nil {
			top.onlyTables(r.file)
			tops = append(tops, top)
		}
	}
	return tops
}

// includedPaths finds the files.
func (r *reader) includedPaths(root *table, pattern string) ([]string, error) {
	if st, err := os.Stat(pattern); err == nil && !st.IsDir() {
		return []string{pattern}, nil
	} else if err != nil && strings.ContainsAny(pattern, `*?[\`) {
		dir := filepath.Dir(pattern)
		if !strings.ContainsAny(dir, `*?[\`) {
			if _, err := os.ReadDir(dir); err != nil {
				return nil, err
			}
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("%s is not a valid pattern", foreign.Quote(pattern))
		}
		paths := slices.DeleteFunc(found, func(path string) bool {
			st, err := os.Stat(path)
			return leftover(filepath.Base(path)) || err == nil && st.IsDir()
		})
		if len(paths) == 0 {
			root.warn("include", "", "no file matches %s", foreign.Quote(pattern))
		}
		return paths, nil
	} else if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(pattern) // sorted
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		path := filepath.Join(pattern, e.Name())
		switch {
		case leftover(e.Name()) || e.IsDir():
		case strings.HasSuffix(e.Name(), ".toml"):
			paths = append(paths, path)
		default:
			r.warnings = append(r.warnings, Problem{File: path, Msg: "is not read", Hint: "only files whose names end in .toml are"})
		}
	}
	return paths, nil
}

// leftover reports whether a file is one that editors and package managers leave
// beside what they work on, or that explains a directory to people.
func leftover(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "#") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "README") {
		return true
	}
	if _, rest, ok := strings.Cut(name, ".dpkg-"); ok && !strings.Contains(rest, ".") {
		return true
	}
	return slices.Contains([]string{".bak", ".orig", ".rej", ".old", ".save", ".swp", ".swo", ".tmp", ".rpmnew", ".rpmsave", ".rpmorig", ".ucf-dist", ".ucf-old", ".ucf-new"}, filepath.Ext(name))
}

// distrust is why a file or directory cannot be part of the configuration.
type distrust struct{ why, mend string }

func (d *distrust) Error() string { return d.why }

// trusted reports whether a file or directory can be part of the configuration:
// whoever can write there decides who gets whose mail, and, with a [[link]],
// which commands are run. That is root, the owner of the main file, and whom
// these let in by the group. In a directory with the sticky bit, too, everybody
// could put a file that ends every reload.
func (r *reader) trusted(st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if st.Mode().Perm()&0o002 != 0 {
		return &distrust{"can be written by everyone on this machine", "run chmod o-w"}
	}
	if uid := sys.Uid; uid != 0 && int64(uid) != r.ownerID() && int(uid) != os.Geteuid() {
		return &distrust{fmt.Sprintf("belongs to the user with the id %d, who could then change the configuration", uid), "run chown root"}
	}
	return nil
}

// safelyKept looks at the directories from which files are included, and at those of
// the links among these: what is read is looked at once more when it is open, but
// which file that is is chosen in them.
func (r *reader) safelyKept(root *table, pattern string, paths []string) bool {
	dirs := map[string]bool{}
	look := func(dir string) { dirs[dir] = true }
	if dir := filepath.Dir(pattern); !strings.ContainsAny(dir, `*?[\`) && strings.ContainsAny(pattern, `*?[\`) {
		look(dir) // in which nothing may match yet
	}
	if st, err := os.Stat(pattern); err == nil && st.IsDir() {
		look(pattern)
	}
	for _, path := range paths {
		for range maxLinks {
			look(filepath.Dir(path))
			to, err := os.Readlink(path)
			if err != nil {
				break
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(path), to)
			}
			path = to
		}
	}
	ok := true
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		st, err := os.Stat(dir)
		if err != nil {
			continue // said when the file is opened
		}
		if d := (*distrust)(nil); errors.As(r.trusted(st), &d) {
			root.fail("include", d.mend+" "+dir, "the directory %s %s", foreign.Quote(dir), d.why)
			ok = false
		}
	}
	return ok
}

// ownerID is the owner of the main file, or -1.
func (r *reader) ownerID() int64 {
	if r.owner == nil {
		id := int64(-1)
		if st, err := os.Stat(r.file); err == nil {
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				id = int64(sys.Uid)
			}
		}
		r.owner = &id
	}
	return *r.owner
}

// onlyTables objects to what an included file cannot have: what there is once
// stands in the main file.
func (t *table) onlyTables(mainFile string) {
	for _, name := range slices.SortedFunc(maps.Keys(t.vals), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.line(a), t.line(b)), cmp.Compare(a, b))
	}) {
		if repeated(name) {
			continue
		}
		known := tables[""].byName[name] != nil || isTable(name)
		switch {
		case known && isTable(name):
			t.fail(name, "write it in "+mainFile, "an included file has only [[queue]], [[link]] and [[remote]]")
		case known:
			t.fail(name, "write it in "+mainFile+", before the first table", "an included file has only [[queue]], [[link]] and [[remote]]")
		default:
			t.r.errs = append(t.r.errs, Problem{File: t.file, Line: t.line(name), Msg: "unknown key " + foreign.Quote(name), Hint: t.hintFor(name)})
		}
	}
}
