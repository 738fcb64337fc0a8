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
// so hosts of a bed must not be starved by those of others; and a bed with one
// core to itself is at work most of the time. The number is that of one process,
// but as `go test` runs one for each package, they count together.
func slots() int { return runtime.GOMAXPROCS(0) }

// slot waits for one of n slots in dir and takes it, until release is called or
// this process ends, however it ends.
func slot(ctx context.Context, dir string, n int) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for {
		for i := range n {
			f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(i)), os.O_CREATE|os.O_RDWR, 0o644)
			if err != nil {
				return nil, err
			}
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			if err == nil {
				return func() { f.Close() }, nil
			}
			f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
				return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
			}
		}
		// There is no way to wait for any of several locks.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
