//go:build !quick

package users

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestEdit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users")
	text := "# the harbour\nacme:" + good + "\n\n  # by the lighthouse\nbeta:" + good // no newline at the end
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 12345, 54321); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("users", link); err != nil {
		t.Fatal(err)
	}

	fresh := secret(t, "x", true)
	err := Edit(link, func(f *File) error {
		return errors.Join(f.Add("gamma", fresh), f.Set("acme", fresh), f.Delete("beta"))
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key := string(got)[max(0, strings.LastIndex(string(got), "\n#"))+1:]
	if !strings.HasPrefix(key, decoyComment) {
		t.Errorf("the last line is %q", key)
	}
	want := "# the harbour\nacme:" + fresh.String() + "\n\n  # by the lighthouse\ngamma:" + fresh.String() + "\n" + key
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o600 || st.Uid != 12345 || st.Gid != 54321 {
		t.Errorf("mode %v, owner %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}

	for _, test := range []struct {
		name string
		edit func(*File) error
		want error
	}{
		{"add one that is there", func(f *File) error { return f.Add("acme", fresh) }, ErrExists},
		{"set one that is not", func(f *File) error { return f.Set("nobody", fresh) }, ErrNoUser},
		{"delete one that is not", func(f *File) error { return f.Delete("nobody") }, ErrNoUser},
	} {
		if err := Edit(path, test.edit); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	if err := Edit(path, func(f *File) error { return f.Add("bad name", fresh) }); err == nil {
		t.Error("a bad name was added")
	}
	if after, _ := os.ReadFile(path); string(after) != want {
		t.Errorf("a failed edit changed the file:\n%s", after)
	}

	// A file with problems is for a person to mend, not to be overwritten.
	os.WriteFile(path, []byte("acme:swordfish\n"), 0o600)
	if err := Edit(path, func(f *File) error { return f.Add("delta", fresh) }); err == nil || !strings.Contains(err.Error(), "users:1:") {
		t.Errorf("bad file: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestEditMakesTheFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, -1, 54321); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "users")
	if err := Edit(path, func(f *File) error { return f.Add("acme", secret(t, "x", false)) }); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o640 || info.Sys().(*syscall.Stat_t).Gid != 54321 {
		t.Errorf("mode %v, group %d; want 0640 and the group of the directory", info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
	}
}
