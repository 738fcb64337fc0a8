package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// slotDir has a file for each test bed that may be in use at a time.
const slotDir = "/run/lock/etrnd-testbed"

// slots is how many test beds of tests are in use at a time on the machine. A
// host starts dozens of processes and its programs have time-outs of their own,
// so the hosts of a bed must not be starved by those of others. One bed more than
// there are cores, since each waits for something now and then. `go test` runs a
// process for each package, at the same time: they count together.
func slots() int { return runtime.GOMAXPROCS(0) + 1 }

// slot waits for one of n slots in dir and takes it, until release is called or
// this process ends, however it ends. Who comes first is served first.
func slot(ctx context.Context, dir string, n int) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// There is no way to wait for any of several locks. One waits for a lock to
	// be given up by trying them all, and the others wait for that one.
	first, err := lock(filepath.Join(dir, "next"), 0)
	if err != nil {
		return nil, err
	}
	defer first.Close()
	for {
		for i := range n {
			f, err := lock(filepath.Join(dir, strconv.Itoa(i)), unix.LOCK_NB)
			if err == nil {
				return func() { f.Close() }, nil
			}
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lock opens and locks a file; to close it is to unlock it.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|how)
		switch err {
		case nil:
			return f, nil
		case unix.EINTR:
		default:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
