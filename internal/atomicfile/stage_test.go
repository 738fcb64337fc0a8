package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

// What is staged changes nothing until it is put in place, and leaves nothing when
// it is not.
func TestStage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	read := func() string {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if err := Write(path, []byte("old"), Options{Mode: 0o640}); err != nil {
		t.Fatal(err)
	}
	one, err1 := Stage(path, []byte("one"), Options{})
	two, err2 := Stage(path, []byte("two"), Options{})
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if got := read(); got != "old" {
		t.Errorf("staged, the file is %q", got)
	}
	if err := two.Commit(); err != nil || read() != "two" || two.Temp != "" {
		t.Errorf("put in place: %v, %q", err, read())
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("its mode: %v, %v", fi, err)
	}
	if err := two.Commit(); err != nil || read() != "two" { // which only writes down
		t.Errorf("twice: %v, %q", err, read())
	}
	for range 2 {
		if err := one.Discard(); err != nil {
			t.Error(err)
		}
	}
	if err := two.Discard(); err != nil || read() != "two" {
		t.Errorf("discarded too late: %v, %q", err, read())
	}
	only(t, dir, "file")
}
