//go:build !quick

package listen

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/hang"
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

// Only root and those who are named get in, and the log says who did not. Whoever
// is turned away takes nobody's place.
func TestOnly(t *testing.T) {
	dir, err := os.MkdirTemp("", "etrnd-listen-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	var log bytes.Buffer
	ln := Only(open(t, "unix:"+path, Options{Mode: 0o666}), Users(4711), slog.New(slog.NewTextHandler(&log, nil)))
	served := (&Limits{Max: 3}).Listener(ln)
	conns := accepting(t, served)
	for range 5 {
		c := dialAs(t, path, 65534)
		c.SetDeadline(hang.Deadline())
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("a stranger: %d bytes, %v; want the end", n, err)
		}
	}
	for _, uid := range []int{0, 4711} {
		dialAs(t, path, uid)
		if p, err := PeerOf(receive(t, conns)); err != nil || p.UID != uid {
			t.Errorf("served is user %d, %v; want %d", p.UID, err, uid)
		}
	}
	served.Close()
	if text := log.String(); strings.Count(text, "may not speak here") != 1 || !strings.Contains(text, "uid=65534") {
		t.Errorf("the log says %q, want the stranger's user once", text)
	}
}

// dialAs connects as another user. The kernel goes by the thread that does it.
func dialAs(t *testing.T, path string, uid int) net.Conn {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		// Not unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			done <- result{-1, errno}
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	f := os.NewFile(uintptr(r.fd), path)
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
