//go:build !quick

package listen

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A socket can be given to another group.
func TestUnixSocketGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	open(t, "unix:"+path, Options{Mode: 0o660, Group: "mail"})
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := lookupGroup("mail")
	if err != nil {
		t.Fatal(err)
	}
	if got := int(fi.Sys().(*syscall.Stat_t).Gid); got != want {
		t.Errorf("group %d, want %d", got, want)
	}
}
