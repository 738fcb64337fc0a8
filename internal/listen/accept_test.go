package listen

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// An Accept that backs off ends when the listener is closed.
func TestCloseEndsBackoff(t *testing.T) {
	ln := Resilient(&failing{errno: syscall.ENFILE}, nil)
	got := make(chan error, 1)
	go func() {
		_, err := ln.Accept()
		got <- err
	}()
	ln.Close()
	if err := receive(t, got); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v, want net.ErrClosed", err)
	}
	// An error that stays is not retried for ever.
	if _, err := Resilient(&failing{errno: syscall.EINVAL}, nil).Accept(); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Accept: %v, want EINVAL", err)
	}
}

// A minute without descriptors costs little: neither the processor nor the log
// is filled with it, and when it is over it is said.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		f := &failing{errno: syscall.EMFILE, until: time.Now().Add(time.Minute)}
		ln := Resilient(f, slog.New(slog.NewTextHandler(&log, nil)))
		began := time.Now()
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if late := time.Since(began) - time.Minute; late > maxBackoff {
			t.Errorf("accepted %v after it was possible again", late)
		}
		if f.asked > 300 {
			t.Errorf("tried %d times in a minute", f.asked)
		}
		if n := strings.Count(log.String(), "accept fails"); n < 5 || n > 7 {
			t.Errorf("said %d times that accepts fail, want once every 10 s", n)
		}
		if !strings.Contains(log.String(), "accepting again") || !strings.Contains(log.String(), "too many open files") {
			t.Errorf("log:\n%s", &log)
		}
	})
}

// A second wrapping would give a second back-off, and a second spare descriptor.
func TestResilientOnce(t *testing.T) {
	ln := Resilient(&failing{}, nil)
	defer ln.Close()
	if Resilient(ln, nil) != ln {
		t.Error("a resilient listener was wrapped again")
	}
}

// failing is a listener whose accept fails with one errno until a moment or for
// ever, as the kernel's does when the whole system is out of files: that cannot
// be brought about without harm to the machine.
type failing struct {
	errno syscall.Errno
	until time.Time
	asked int
}

func (f *failing) Accept() (net.Conn, error) {
	f.asked++
	if !f.until.IsZero() && !time.Now().Before(f.until) {
		c, _ := net.Pipe()
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", f.errno)}
}
func (*failing) Close() error   { return nil }
func (*failing) Addr() net.Addr { return &net.UnixAddr{Name: "x", Net: "unix"} }
