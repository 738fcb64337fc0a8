package docs

import (
	"flag"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the column of imports in ARCHITECTURE.md")

// rooms are the directories of the module that hold Go files, and what of the
// module they import, tests aside.
func rooms(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir("..", func(name string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".go") {
			return err
		}
		dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(name)), "../")
		imports := all[dir]
		if !strings.HasSuffix(name, "_test.go") {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, i := range f.Imports {
				p, _ := strconv.Unquote(i.Path.Value)
				if to, ours := strings.CutPrefix(p, module+"/"); ours && !slices.Contains(imports, to) {
					imports = append(imports, to)
				}
			}
		}
		slices.Sort(imports)
		all[dir] = imports
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDirection: imports run one way.
func TestDirection(t *testing.T) {
	within := func(dir, top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }
	all := rooms(t)
	if len(all["cmd/etrnd"]) == 0 || len(all["etrnd"]) == 0 {
		t.Fatal("no imports found")
	}
	for from, imports := range all {
		tool := slices.Contains(tools, from)
		for _, to := range imports {
			bad := ""
			switch {
			case within(to, "cmd"):
				bad = "programs are not imported"
			case slices.Contains(tools, to) && !tool:
				bad = "that is for tests, the demo and benchmarks"
			case within(from, "internal") && !tool && !within(to, "internal"):
				bad = "what is in internal knows neither daemon"
			case within(from, "milter") && within(to, "etrnd"), within(from, "etrnd") && within(to, "milter"):
				bad = "the two daemons share only what is in internal"
			case within(from, "etrnd") && to == "etrnd":
				bad = "the ideas do not know what they are put together to"
			}
			if bad != "" {
				t.Errorf("%s imports %s: %s", from, to, bad)
			}
		}
	}
}

// A row of the table of rooms: directory, what it is, what it imports.
var roomRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\| (.*?) ?\\|$")

// TestRooms holds the map of the house against the house. `go test ./docs
// -update` writes the imports.
func TestRooms(t *testing.T) {
	data, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	all := rooms(t)
	listed := map[string]bool{}
	page = roomRow.ReplaceAllStringFunc(page, func(row string) string {
		m := roomRow.FindStringSubmatch(row)
		dir, what, got := m[1], m[2], m[3]
		imports, there := all[dir]
		if !there {
			t.Errorf("ARCHITECTURE.md has a room %s, which is not there", dir)
			return row
		}
		if listed[dir] {
			t.Errorf("ARCHITECTURE.md has %s twice", dir)
		}
		listed[dir] = true
		var names []string
		for _, to := range imports {
			names = append(names, path.Base(to))
		}
		slices.Sort(names)
		want := strings.Join(names, ", ")
		if got == want {
			return row
		}
		if !*update {
			t.Errorf("%s imports %q, and ARCHITECTURE.md says %q (go test ./docs -update)", dir, want, got)
		}
		return "| `" + dir + "` | " + what + " | " + strings.TrimLeft(want+" ", " ") + "|"
	})
	for dir := range all {
		if !listed[dir] {
			t.Errorf("ARCHITECTURE.md says nothing of %s", dir)
		}
	}
	if *update {
		if err := os.WriteFile("../ARCHITECTURE.md", []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
