//go:build !quick

package account

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// nobody is a user who is in no group but his own and games.
func nobody(t *testing.T) User {
	t.Helper()
	u, err := Lookup("nobody", "games", "no-such-group")
	if err != nil {
		t.Fatal(err)
	}
	if len(u.Groups) != 1 {
		t.Fatalf("groups %v, want the one that exists", u.Groups)
	}
	return u
}

// scratch is a directory that everybody can enter.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etrnd-account-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What is done as a user is done with his rights, on whichever thread, and what is
// done beside it is not.
func TestDo(t *testing.T) {
	u := nobody(t)
	dir := scratch(t)
	secret, group := filepath.Join(dir, "secret"), filepath.Join(dir, "group")
	for path, mode := range map[string]fs.FileMode{secret: 0o600, group: 0o640} {
		if err := os.WriteFile(path, []byte("x"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(group, 0, u.Groups[0]); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if f, err := u.Open(secret); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("a file of root's opens: %v, %v", f, err)
			}
			f, err := u.Open(group)
			if err != nil {
				t.Errorf("a file of his group's: %v", err)
				return
			}
			defer f.Close()
			if b, err := io.ReadAll(f); err != nil || string(b) != "x" {
				t.Errorf("it holds %q, %v", b, err)
			}
		})
		wg.Go(func() {
			f, err := os.Open(secret)
			if err != nil {
				t.Errorf("root's own rights are gone: %v", err)
				return
			}
			f.Close()
		})
	}
	wg.Wait()
	if err := u.Writable(dir); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("he can make files in root's directory: %v", err)
	}
	if err := u.Writable("/tmp"); err != nil {
		t.Errorf("he cannot make files in /tmp: %v", err)
	}
	// A child, too.
	cmd := exec.Command("id", "-un")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.Credential()}
	if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != "nobody" {
		t.Errorf("a child is %q, %v", out, err)
	}
}

// What is said to mend it does, and opens the file to nobody else.
func TestMend(t *testing.T) {
	u := nobody(t)
	stranger, err := Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what     string
		uid, gid int
		mode     fs.FileMode
		dir      fs.FileMode
	}{
		{"root's", 0, 0, 0o600, 0o755},
		{"his, closed to himself", u.UID, u.GID, 0o200, 0o755},
		{"of his group, closed to it", 0, u.GID, 0o600, 0o755},
		{"a stranger's", stranger.UID, stranger.GID, 0o600, 0o755},
		{"in a directory that keeps him out", 0, u.GID, 0o640, 0o700},
		{"in a directory of his group that keeps it out", 0, u.GID, 0o640, fs.ModeSetgid | 0o701},
		{"both", 0, 0, 0o600, 0o700},
	} {
		dir := filepath.Join(scratch(t), "it's here")
		path := filepath.Join(dir, "f")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(path, nil, 0o600), os.Chown(path, c.uid, c.gid), os.Chmod(path, c.mode), os.Chmod(dir, c.dir)); err != nil {
			t.Fatal(err)
		}
		if c.dir&fs.ModeSetgid != 0 {
			if err := errors.Join(os.Chown(dir, 0, u.GID), os.Chmod(dir, c.dir)); err != nil {
				t.Fatal(err)
			}
		}
		var denied *Denied
		if _, err := u.Open(path); !errors.As(err, &denied) {
			t.Errorf("%s: %v, want a refusal", c.what, err)
			continue
		}
		if u.Reads(path) {
			t.Errorf("%s: its mode is said to let him", c.what)
		}
		mend := u.Mend(path)
		if !strings.HasSuffix(denied.Hint(), mend) || !strings.Contains(denied.Hint(), "nobody") {
			t.Errorf("%s: the hint is %q", c.what, denied.Hint())
		}
		if out, err := exec.Command("sh", "-c", mend).CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v\n%s", c.what, mend, err, out)
			continue
		}
		if f, err := u.Open(path); err != nil {
			t.Errorf("%s: after %s: %v", c.what, mend, err)
		} else {
			f.Close()
		}
		if !u.Reads(path) {
			t.Errorf("%s: after %s its mode is said to keep him out", c.what, mend)
		}
		if c.uid != stranger.UID && stranger.Reads(path) {
			t.Errorf("%s: %s lets others in", c.what, mend)
		}
	}
}
