package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expected messages in testdata")

// copied returns testdata in a directory of the test's own, with modes that a
// checkout cannot be relied on to give.
func copied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		switch filepath.Base(path) {
		case "password", "users", "hub.key":
			return os.Chmod(path, 0o600)
		}
		return os.Chmod(path, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// withHost stands in for what the machine knows.
func withHost(name string, groups ...string) Option {
	return func(r *reader) {
		r.hostname = func() (string, error) { return name, nil }
		r.groupExists = func(g string) bool {
			for _, have := range groups {
				if g == have {
					return true
				}
			}
			return false
		}
	}
}

// TestBad reads one directory for each way to get it wrong. The same
// directories are meant for the real binaries, so nothing here depends on
// options that they do not have.
func TestBad(t *testing.T) {
	root := copied(t)
	dirs, err := os.ReadDir("testdata/bad")
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) < 40 {
		t.Fatalf("only %d bad configurations found", len(dirs))
	}
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			dir := filepath.Join(root, "bad", d.Name())
			_, err := Load(filepath.Join(dir, "etrnd.toml"))
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("Load: %v, want an *Error", err)
			}
			got := strings.ReplaceAll(err.Error(), dir+"/", "") + "\n"
			got = strings.ReplaceAll(got, filepath.Dir(dir)+"/", "../")
			got = strings.ReplaceAll(got, root+"/", "../../")
			wantFile := filepath.Join("testdata/bad", d.Name(), "want")
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}
