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
	s, err := Stage(path, data, o)
	if err != nil {
		return err
	}
	if err := s.Commit(); err != nil {
		return errors.Join(err, s.Discard())
	}
	return nil
}

// Mark is in the names of files that Stage makes, ".NAME" + Mark + a number: by it
// those are known that a program left which did not come to its end.
const Mark = ".etrnd-"

// Staged is a file that lies beside another one, whole and written down, ready to
// take its place: for those who change several files, and want to know before the
// first of them that there is room for the last.
type Staged struct {
	// Path is the file that is replaced, or made, and Temp what takes its place,
	// on the same file system; empty once it has.
	Path, Temp string
}

// Stage does all of Write but for the last step.
func Stage(path string, data []byte, o Options) (*Staged, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	temp, err := stage(path, data, o)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return &Staged{Path: path, Temp: temp}, nil
}

func stage(path string, data []byte, o Options) (temp string, err error) {
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
		return "", err
	}
	// Nobody else can have made a file of this name, or can read it (0600).
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+Mark+"*")
	if err != nil {
		return "", err
	}
	if err = errors.Join(fill(tmp, data, mode, uid, gid, o.ModTime), tmp.Close()); err != nil {
		return "", errors.Join(err, os.Remove(tmp.Name()))
	}
	return tmp.Name(), nil
}

// Commit puts the file in its place. After an error it may be tried again.
func (s *Staged) Commit() error {
	if err := s.commit(); err != nil {
		return fmt.Errorf("write %s: %w", s.Path, err)
	}
	return nil
}

func (s *Staged) commit() error {
	dir, err := os.Open(filepath.Dir(s.Path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if s.Temp != "" {
		if err := os.Rename(s.Temp, s.Path); err != nil {
			if link := (*os.LinkError)(nil); errors.As(err, &link) {
				err = link.Err // whose names are of no interest
			}
			return err
		}
		s.Temp = ""
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("the new text is in place, but may be lost if the power fails: %w", err)
	}
	return nil
}

// Discard removes a file that has not taken its place.
func (s *Staged) Discard() error {
	if s.Temp == "" {
		return nil
	}
	if err := os.Remove(s.Temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.Temp = ""
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
