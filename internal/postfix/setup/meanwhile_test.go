package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/atomicfile"
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
	s := &staging{dir: dir, work: filepath.Join(dir, "work"), planned: map[string]*string{}, known: map[string]*string{}}
	put := func(path string, before, after *string) error {
		p, err := s.text(path, before, after, atomicfile.Options{Mode: 0o644})
		if err != nil {
			t.Fatal(err)
		}
		return s.put(p)
	}
	if err := put(status, &of, &to); err != nil {
		t.Fatal(err)
	}
	if err := put(mainCF, &was, &ours); err == nil || !strings.Contains(err.Error(), "main.cf has changed since") {
		t.Errorf("an edit before main.cf is written: %v", err)
	}
	if err := s.putBack(0); err != nil {
		t.Error(err)
	}
	if got := read(mainCF); got != edited {
		t.Errorf("main.cf is %q, not as it has been edited", got)
	}
	if got := read(status); got != of {
		t.Errorf("what was written before it is %q, not put back", got)
	}
	write("main.cf", was)
	delete(s.planned, mainCF)
	if err := put(mainCF, &was, &ours); err != nil {
		t.Fatal(err)
	}
	write("main.cf", edited)
	if err := s.putBack(0); err == nil || !strings.Contains(err.Error(), "edited meanwhile") {
		t.Errorf("an edit after main.cf was written: %v", err)
	}
	if got := read(mainCF); got != edited {
		t.Errorf("put back, main.cf is %q, not as it has been edited", got)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
}
