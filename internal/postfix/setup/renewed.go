package setup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// noticing is how long trivial-rewrite(8) may take to notice that a table
	// has changed: it looks every ten seconds.
	noticing = 15 * time.Second
	// noticingStep is how often we look whether it has.
	noticingStep = 100 * time.Millisecond
)

// resolver is the program that answers for all of Postfix which way mail goes
// and whether it is taken at all.
const resolver = "trivial-rewrite"

// renewed waits until no process of Postfix's resolver has a table of before
// open. Where that cannot be seen, or takes too long, Postfix is reloaded, as it
// has been already for tables that are read as texts.
func (pl *Plan) renewed(ctx context.Context) error {
	if slices.ContainsFunc(pl.changes, func(c change) bool { return c.kind == textKind }) {
		return nil // read at the start, and closed
	}
	own := filepath.Join(pl.dir, ownDir)
	dir, err := filepath.EvalSymlinks(own)
	if errors.Is(err, fs.ErrNotExist) {
		// It is gone, and what somebody has open there is too.
		dir, err = filepath.EvalSymlinks(pl.dir)
		dir = filepath.Join(dir, ownDir)
	}
	if err != nil {
		return err
	}
	pl.tell("waiting until Postfix has noticed the new tables")
	for end := time.Now().Add(noticing); time.Now().Before(end); {
		stale, err := staleReaders("/proc", dir, "")
		if err == nil && stale == 0 {
			return nil
		}
		if err != nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(noticingStep):
		}
	}
	return pl.reload(ctx)
}

// staleReaders counts the processes of the resolver that have a file open which
// was in a directory, under a name that begins with prefix, and is no more.
func staleReaders(proc, dir, prefix string) (int, error) {
	names, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, name := range names {
		comm, err := os.ReadFile(filepath.Clean(name))
		if err != nil || strings.TrimSpace(string(comm)) != resolver {
			continue // it has ended, or is another
		}
		fds := filepath.Join(filepath.Dir(name), "fd")
		entries, err := os.ReadDir(fds)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			to, err := os.Readlink(filepath.Join(fds, e.Name()))
			return err == nil && strings.HasPrefix(to, dir+"/"+prefix) && strings.HasSuffix(to, " (deleted)")
		}) {
			n++
		}
	}
	return n, nil
}
