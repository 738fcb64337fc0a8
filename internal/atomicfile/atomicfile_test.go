package atomicfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// only checks that nothing but these is in the directory: no file of ours is
// left behind.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("in the directory: %q, want %q", got, names)
	}
}

func TestNew(t *testing.T) {
	// The umask is not asked.
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		o    Options
		mode fs.FileMode
	}{
		"plain":    {Options{}, 0o600},
		"readable": {Options{Mode: 0o644}, 0o644},
		"dated":    {Options{Mode: 0o640, ModTime: at}, 0o640},
		"grouped":  {Options{Mode: 0o640, GID: os.Getgid()}, 0o640},
	} {
		path := filepath.Join(dir, name)
		if err := Write(path, []byte("text\n"), tt.o); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != tt.mode {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), tt.mode)
		}
		if !tt.o.ModTime.IsZero() && !info.ModTime().Equal(at) {
			t.Errorf("%s: changed at %v, want %v", name, info.ModTime(), at)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "text\n" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	only(t, dir, "dated", "grouped", "plain", "readable")
}

func TestKeeps(t *testing.T) { keeps(t, os.Getuid(), os.Getgid()) }

// keeps replaces a file of that owner by way of a link to it.
func keeps(t *testing.T, uid, gid int) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	// What a new file would be does not count.
	if err := Write(link, []byte("new"), Options{Mode: 0o666, GID: 7}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if u, g := owner(info); info.Mode() != 0o604 || u != uid || g != gid {
		t.Errorf("mode %v of %d:%d, want 0604 of %d:%d", info.Mode(), u, g, uid, gid)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link: %v, %v", info, err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
	only(t, dir, "file", "link")
}

// A write that fails changes nothing.
func TestFails(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	// A directory cannot be replaced by a file; the temporary file is there by
	// then.
	if err := Write(sub, []byte("x"), Options{}); !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.EISDIR) {
		t.Errorf("over a directory: %v", err)
	}
	if err := Write(filepath.Join(dir, "none", "file"), []byte("x"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	if err := Write(loop, []byte("x"), Options{}); err == nil {
		t.Error("a link to itself was written")
	}
	only(t, dir, "loop", "sub")
}

// Whoever reads meanwhile finds one text or the other.
func TestAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	texts := [][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<15)}
	if err := Write(path, texts[0], Options{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		for i := range 50 {
			if err := Write(path, texts[i%2], Options{}); err != nil {
				t.Error(err)
			}
		}
	})
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(b, texts[0]) && !bytes.Equal(b, texts[1]) {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
	wg.Wait()
}
