// Package testbed puts any number of mail hosts on one machine: each has its
// own namespaces, its own files and its own Postfix, and they are joined by
// cables and by emulated links. Tests, the demo and the benchmarks stand on it.
//
// A host is a set of new mount, network, process, host name and IPC namespaces
// held by one shell that reads from a pipe of this process. Its /etc is a copy,
// its /var, /run, /tmp and /usr/local are fresh file systems in memory, and the
// rest of the machine is there read-only. So the paths that a real machine has
// (/etc/postfix, /var/spool/postfix, /etc/etrnd, /run/etrnd) are used as they
// are, no command needs -c, and nothing of the machine's own can be changed.
// When this process ends, however it ends, the pipe closes, the shell exits,
// and the kernel takes every process, mount and interface of the host with it.
//
// It needs root, Postfix, iproute2, util-linux, debianutils and bash. It does
// not resolve names by DNS (each host has its own /etc/hosts), does not run
// systemd, and does not emulate kernel PPP: a link is a pair of TUN devices
// that come and go as ppp0 does, and the hooks are run as pppd runs them.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// longest is the deadline of every wait whose context has none of its own. It
// is for what hangs, and no measure of how quick anything should be.
const longest = hang.Limit

// tools are the programs that the test bed itself runs.
var tools = []string{"bash", "cp", "ip", "mount", "mknod", "run-parts", "/usr/sbin/postfix", "/usr/sbin/postqueue"}

// Options of a test bed. The zero value is fine.
type Options struct {
	// Logger gets what the bed does, at level debug. Nil discards it.
	Logger *slog.Logger

	// Dir, if set, holds the /var of every host on the machine's disk, below
	// Dir/HOST, so that the cost of fsync is real; Close removes it again.
	// Empty keeps /var in memory, which leaves nothing behind even when this
	// process is killed.
	Dir string
}

// Bed is a set of hosts and what joins them. Its methods are safe for
// concurrent use.
type Bed struct {
	log *slog.Logger
	dir string

	making sync.WaitGroup // hosts that are being made

	mu     sync.Mutex // guards the rest
	names  map[string]bool
	hosts  []*Host
	links  []*Link
	closed bool
}

// New makes an empty test bed. It fails when this process is not root or a
// program is missing, and says which package has it.
func New(_ context.Context, opts Options) (*Bed, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("the test bed makes namespaces and interfaces, so it must run as root, not as user %d", os.Geteuid())
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is missing (Debian: apt-get install postfix iproute2 util-linux debianutils): %w", tool, err)
		}
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Bed{log: log, dir: opts.Dir, names: map[string]bool{}}, nil
}

// TB is what Start needs of a *testing.T or *testing.B.
type TB interface {
	Helper()
	Context() context.Context
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Start makes a test bed that lives as long as the test. It fails the test,
// and never skips it, where the bed cannot be had. When the test has failed,
// the tail of every log of every host goes to the test's log.
//
// There are only so many such beds on a machine at a time, and Start waits for
// its turn: a deadline that is to bound the test's own work begins after it. A
// test may not have two.
func Start(t TB) *Bed {
	t.Helper()
	release, err := slot(t.Context(), slotDir, slots())
	if err != nil {
		t.Fatalf("test bed: waiting for the end of others: %v", err)
		return nil
	}
	t.Cleanup(release)
	b, err := New(t.Context(), Options{})
	if err != nil {
		t.Fatalf("test bed: %v", err)
		return nil
	}
	t.Cleanup(func() {
		if t.Failed() {
			var w strings.Builder
			b.Dump(&w)
			t.Logf("%s", w.String())
		}
		if err := b.Close(); err != nil {
			t.Errorf("test bed: %v", err)
		}
	})
	return b
}

// Dump writes the tail of every log of every host to w.
func (b *Bed) Dump(w io.Writer) {
	b.mu.Lock()
	hosts := append([]*Host(nil), b.hosts...)
	b.mu.Unlock()
	for _, h := range hosts {
		h.dump(w)
	}
}

// Close takes everything down: links, hosts with all their processes, files.
// It returns when all of it is gone.
func (b *Bed) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.making.Wait()
	b.mu.Lock()
	hosts, links := b.hosts, b.links
	b.hosts, b.links = nil, nil
	b.mu.Unlock()

	// Links first: a TUN device that is still open keeps its network
	// namespace alive after the last process in it has gone.
	for _, l := range links {
		l.close()
	}
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { errs[i] = h.close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Until calls check until it says true, fails, or ctx ends; without a deadline
// in ctx it gives up after hang.Limit. The error names what was waited for.
func Until(ctx context.Context, what string, check func() (bool, error)) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	start := time.Now()
	pause := 2 * time.Millisecond
	for {
		ok, err := check()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s: %w", time.Since(start).Round(time.Millisecond), what, context.Cause(ctx))
		case <-time.After(pause):
		}
		pause = min(pause*3/2, 50*time.Millisecond)
	}
}

// bounded gives ctx a deadline where it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, longest)
}
