// Package atomicfile replaces configuration files at once: whoever opens one
// finds the old text or the new one, whole, also after the power has failed.
//
// Libraries for this keep the mode of a file, not its owner and group, and leave
// the directory to be written whenever the system likes. It takes no lock: two
// writers do not harm the file, but the last one wins.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Options of Write.
type Options struct {
	// Mode and GID are those of a new file; the umask does not count. A file
	// that is replaced keeps its own. A zero Mode stands for 0600, a zero GID
	// for the group of the process.
	Mode fs.FileMode
	GID  int
	// ModTime is the time of the last change that the file shows; zero: now.
	ModTime time.Time
}

// Write replaces the file at path, or makes it. Owner, group and mode of a file
// that is there are kept; where they cannot be, nothing is changed. A symbolic
// link stays one: what it points to is replaced.
func Write(path string, data []byte, o Options) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := replace(path, data, o); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func replace(path string, data []byte, o Options) error {
	mode, uid, gid := o.Mode.Perm(), -1, -1
	if mode == 0 {
		mode = 0o600
	}
	if o.GID != 0 {
		gid = o.GID
	}
	switch info, err := os.Stat(path); {
	case err == nil:
		mode = info.Mode().Perm()
		uid, gid = owner(info)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	// Nobody else can have made a file of this name, or can read it (0600).
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = errors.Join(fill(tmp, data, mode, uid, gid, o.ModTime), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("the new text is in place, but may be lost if the power fails: %w", err)
	}
	return nil
}

// fill makes the temporary file what the file is to be.
func fill(tmp *os.File, data []byte, mode fs.FileMode, uid, gid int, at time.Time) error {
	info, err := tmp.Stat()
	if err != nil {
		return err
	}
	// Not where it is right already: a user may not give files away, not even to
	// himself on some file systems.
	if u, g := owner(info); uid >= 0 && uid != u || gid >= 0 && gid != g {
		if err := tmp.Chown(uid, gid); err != nil {
			return fmt.Errorf("keep owner and group: %w", err)
		}
	}
	if err := tmp.Chmod(mode); err != nil {
		return fmt.Errorf("keep the mode: %w", err)
	}
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if !at.IsZero() {
		if err := os.Chtimes(tmp.Name(), at, at); err != nil {
			return err
		}
	}
	return tmp.Sync()
}

func owner(info fs.FileInfo) (uid, gid int) {
	st := info.Sys().(*syscall.Stat_t)
	return int(st.Uid), int(st.Gid)
}
