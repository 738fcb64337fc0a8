//go:build !quick

package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
)

// small puts Postfix's configuration on a file system of its own, and returns how
// it is filled up to so many blocks, and how it is closed to writers or opened.
func small(t *testing.T, ctx context.Context) (leave func(blocks int64), writable func(bool)) {
	t.Helper()
	run(t, ctx, "sh", "-c", "cp -a /etc/postfix /etc/postfix.was && mount -t tmpfs -o size=1m,mode=755 none /etc/postfix && cp -a /etc/postfix.was/. /etc/postfix")
	const ballast = "/etc/postfix/ballast"
	return func(blocks int64) {
			t.Helper()
			if err := os.Remove(ballast); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			var st syscall.Statfs_t
			if err := syscall.Statfs("/etc/postfix", &st); err != nil {
				t.Fatal(err)
			}
			if blocks < 0 || int64(st.Bavail) <= blocks {
				return
			}
			if err := os.WriteFile(ballast, make([]byte, (int64(st.Bavail)-blocks)*st.Bsize), 0o600); err != nil {
				t.Fatal(err)
			}
		}, func(yes bool) {
			// Of the mount alone: of a file system of which somebody has a file open
			// that has been removed, as Postfix has, it cannot be done.
			flags := uintptr(syscall.MS_REMOUNT | syscall.MS_BIND)
			if !yes {
				flags |= syscall.MS_RDONLY
			}
			if err := syscall.Mount("none", "/etc/postfix", "tmpfs", flags, ""); err != nil {
				t.Fatal(err)
			}
		}
}

// snapshot is what all files say.
func snapshot(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir("/etc/postfix", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "ballast" {
			return err
		}
		files[path] = postfixtest.Read(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func differing(a, b map[string]string) (names []string) {
	for name := range a {
		if other, ok := b[name]; !ok || other != a[name] {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// journey is a first set-up, a change of it, a queue that goes, and the undo.
func journey(ctx context.Context, pf *postfix.Instance) []func() (*Plan, error) {
	first := Requirements{Routes: threeQueues.Routes[:2], QueueNames: []string{"acme"}}
	return []func() (*Plan, error){
		func() (*Plan, error) { return NewPlan(ctx, pf, first) },
		func() (*Plan, error) { return NewPlan(ctx, pf, threeQueues) },
		func() (*Plan, error) { return NewPlan(ctx, pf, without(threeQueues, "acme.example", ".acme.example")) },
		func() (*Plan, error) { return NewUndo(ctx, pf, Requirements{}) },
	}
}

// A disk that is full at any write leaves everything as it was, says so, and when
// there is room the same set-up ends well.
func TestFullDisk(t *testing.T) {
	postfixtest.Inside(t, loops, func(t *testing.T, ctx context.Context) {
		leave, _ := small(t, ctx)
		pf := postfix.New(postfix.Options{})
		for i, plan := range journey(ctx, pf) {
			var files []string // that are to be changed, by the plan before
			for blocks := int64(0); ; blocks++ {
				pl, err := plan()
				if err != nil {
					t.Fatalf("step %d, %d blocks: %v", i, blocks, err)
				}
				if files != nil && !slices.Equal(pl.Files(), files) {
					t.Fatalf("step %d, %d blocks: to be changed are %q, and were %q", i, blocks, pl.Files(), files)
				}
				before := snapshot(t)
				leave(blocks)
				err = pl.Apply(ctx)
				leave(-1)
				if err == nil {
					if blocks < 3 {
						t.Errorf("step %d: there was room in %d blocks", i, blocks)
					}
					break
				}
				var h *Halt
				if !errors.As(err, &h) || !h.Again || !errors.Is(err, syscall.ENOSPC) || h.Do == "" {
					t.Fatalf("step %d, %d blocks: %v", i, blocks, err)
				}
				// Half of a drop may be done, and is said to be.
				if files = nil; strings.Contains(err.Error(), "half of it is done") {
					continue
				}
				files = pl.Files()
				if d := differing(before, snapshot(t)); len(d) > 0 || !strings.Contains(err.Error(), nothingChanged) {
					t.Fatalf("step %d, %d blocks: %v; differing are %q", i, blocks, err, d)
				}
			}
			if pl, err := plan(); err != nil || !pl.Empty() {
				t.Fatalf("step %d: not all of it is done: %v, %v", i, err, pl.Files())
			}
			run(t, ctx, "postfix", "check")
		}
	})
}

// A file system that must not be written to from some moment on: what cannot be put
// back is named, and the next set-up or undo goes on from there.
func TestReadOnlyInTheMiddle(t *testing.T) {
	postfixtest.Inside(t, loops, func(t *testing.T, ctx context.Context) {
		_, writable := small(t, ctx)
		pf := postfix.New(postfix.Options{})
		pristine := snapshot(t)
		all := journey(ctx, pf)
		for i, plan := range all {
			left, by := 0, 3
			if i == 0 {
				by = 1
			}
			for n := 1; ; n += by {
				pl, err := plan()
				if err != nil {
					t.Fatal(err)
				}
				before, step := snapshot(t), 0
				pl.Tell = func(string) {
					if step++; step == n {
						writable(false)
					}
				}
				err = pl.Apply(ctx)
				writable(true)
				if err == nil {
					if step >= n && n < step {
						t.Fatalf("step %d.%d: done, though nothing could be written", i, n)
					}
					break
				}
				what := fmt.Sprintf("step %d.%d: %v", i, n, err)
				var h *Halt
				if !errors.As(err, &h) || !h.Again || h.Do == "" {
					t.Fatal(what)
				}
				d := differing(before, snapshot(t))
				said := strings.Join(h.State, "; ")
				switch {
				case strings.Contains(said, nothingChanged):
					if d = slices.DeleteFunc(d, leftover); len(d) > 0 {
						t.Errorf("%s; and these have been changed: %q", what, d)
					}
				case strings.Contains(said, "could be put back"):
					for _, path := range slices.DeleteFunc(d, leftover) {
						if path != ownPath("/etc/postfix", recordName) && !strings.Contains(said, path) {
							t.Errorf("%s; it does not say that %s is new", what, path)
						}
					}
				case strings.Contains(said, "the old files are back"):
					if d = slices.DeleteFunc(d, func(path string) bool { return leftover(path) || path == ownPath("/etc/postfix", recordName) }); len(d) > 0 {
						t.Errorf("%s; and these are not: %q", what, d)
					}
				}
				run(t, ctx, "postfix", "check")
				// From there it goes on.
				next, err := plan()
				if err != nil {
					t.Fatalf("%s; then %v", what, err)
				}
				if next.Empty() && len(slices.DeleteFunc(d, leftover)) > 0 && !strings.Contains(said, "half of it") {
					t.Errorf("%s; and nothing is to be done", what)
				}
				if partial := strings.Contains(said, "could be put back") || strings.Contains(said, "but for the record"); partial || strings.Contains(said, "half of it") {
					if left++; left%3 != 1 {
						continue // it is begun again from there
					}
					err := next.Apply(ctx)
					if err == nil {
						var back *Plan
						if back, err = all[(i+len(all)-1)%len(all)](); err == nil {
							err = back.Apply(ctx)
						}
					}
					if err != nil {
						t.Fatalf("%s; then %v", what, err)
					}
				}
			}
			if pl, err := plan(); err != nil || !pl.Empty() {
				t.Fatalf("step %d: not all of it is done: %v, %v", i, err, pl.Files())
			}
		}
		if d := differing(pristine, snapshot(t)); len(d) > 0 {
			t.Errorf("after the undo these are not as they were: %q", d)
		}
	})
}

// leftover is a file that the next set-up sweeps.
func leftover(path string) bool {
	return strings.Contains(path, ".etrnd-") || strings.Contains(path, "/"+workPrefix) || filepath.Ext(path) == ".db" || filepath.Ext(path) == ".lmdb"
}
