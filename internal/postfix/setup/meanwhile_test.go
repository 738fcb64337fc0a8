package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the postmaster writes into main.cf while the tables before it are being
// made is neither lost nor taken back with the rest.
func TestEditedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	read := func(path string) string {
		text, err := os.ReadFile(filepath.Clean(path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const planned, edited = "a = 1\nours = 1\n", "a = 2\n"
	was, ours := "a = 1\n", planned
	of, to := "old\n", "new\n"
	mainCF, status := write("main.cf", edited), write("status", of)
	changes := []change{{path: status, before: &of, after: &to}, {path: mainCF, before: &was, after: &ours}}
	pl := &Plan{dir: dir, quiet: true}
	if err := pl.carryOut(t.Context(), dir, changes); err == nil || !strings.Contains(err.Error(), "main.cf has changed since") {
		t.Errorf("an edit before main.cf is written: %v", err)
	}
	if got := read(mainCF); got != edited {
		t.Errorf("main.cf is %q, not as it has been edited", got)
	}
	if got := read(status); got != of {
		t.Errorf("what was written before it is %q, not put back", got)
	}
	if err := pl.putBack(dir, changes); err == nil || !strings.Contains(err.Error(), "edited meanwhile") {
		t.Errorf("an edit after main.cf was written: %v", err)
	}
	if got := read(mainCF); got != edited {
		t.Errorf("put back, main.cf is %q, not as it has been edited", got)
	}
}
