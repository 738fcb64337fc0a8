// Package programs builds etrnd, etrn-milter and etrnctl for those who run
// them: tests, the demo and the benchmarks. What is built lies in the checkout,
// in bin/test, and is built again only after a change: the go command compares.
// So that many test binaries at once do that work once, it is done under a
// lock, and each user gets copies, which no later build can change.
package programs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

const module = "github.com/etrnd/etrnd"

// Version is what the programs say of themselves.
const Version = "1.2.3"

// Set is one copy of the programs.
type Set struct{ dir string }

// Build builds the programs of the module that the working directory is in, as
// users get them, or the daemons with the race detector. etrnctl is left as it
// is: a program with the race detector sleeps for a second when it ends, and
// etrnctl, which has no goroutines to speak of, ends all the time.
func Build(ctx context.Context, race bool) (*Set, error) {
	s, err := build(ctx, race)
	if err != nil {
		return nil, fmt.Errorf("build the programs: %w", err)
	}
	return s, nil
}

func build(ctx context.Context, race bool) (*Set, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	plain := filepath.Join(root, "bin", "test")
	raced := filepath.Join(plain, "race")
	if err := os.MkdirAll(raced, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(plain, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	// Each kind as it is compiled elsewhere, so that this is only to link: for
	// users by make build, with the race detector by go test -race.
	daemons := plain
	if race {
		daemons = raced
		err = errors.Join(compile(ctx, plain, "0", "-trimpath", "etrnctl"), compile(ctx, raced, "1", "-race", "etrnd", "etrn-milter"))
	} else {
		err = compile(ctx, plain, "0", "-trimpath", "etrnd", "etrn-milter", "etrnctl")
	}
	if err != nil {
		return nil, err
	}
	s := &Set{}
	if s.dir, err = os.MkdirTemp("", "etrnd-programs-"); err != nil {
		return nil, err
	}
	if err := errors.Join(
		os.Chmod(s.dir, 0o755), // other users run them, too
		copyProgram(filepath.Join(daemons, "etrnd"), s.Path("etrnd")),
		copyProgram(filepath.Join(daemons, "etrn-milter"), s.Path("etrn-milter")),
		copyProgram(filepath.Join(plain, "etrnctl"), s.Path("etrnctl")),
	); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// compile builds programs into a directory, those that are not there as they
// should be.
func compile(ctx context.Context, dir, cgo, flag string, names ...string) error {
	// No symbol table: the programs go into every host of a test bed, and what
	// the race detector says does not need it.
	args := []string{"build", "-buildvcs=false", "-ldflags=-s -w -X main.version=" + Version, "-o", dir + "/", flag}
	for _, name := range names {
		args = append(args, module+"/cmd/"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// Path of one of the programs.
func (s *Set) Path(name string) string { return filepath.Join(s.dir, name) }

// Host is a machine of the test bed.
type Host interface {
	Install(machinePath, hostPath string, mode fs.FileMode) error
}

// Install puts the programs into a host.
func (s *Set) Install(h Host) error {
	for _, name := range []string{"etrnd", "etrn-milter", "etrnctl"} {
		if err := h.Install(s.Path(name), "/usr/local/sbin/"+name, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the programs.
func (s *Set) Close() error { return os.RemoveAll(s.dir) }

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// A program that is open for writing in a child that is forked meanwhile
	// cannot be run: ETXTBSY.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), os.Chmod(to, 0o755))
}

// Root is the directory of go.mod above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod in or above the working directory: run this inside a checkout")
		}
		dir = up
	}
}
