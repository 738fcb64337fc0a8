package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/etrnd/etrnd/internal/atomicfile"
	"github.com/etrnd/etrnd/internal/postfix"
)

// staging has every file of a change lie ready, beside what it takes the place
// of, before the first of them is put there, and a copy of what was there: so a
// disk that is full or must not be written to is noticed while nothing has been
// changed, and to put everything back takes no room.
type staging struct {
	pf      *postfix.Instance
	dir     string // Postfix's configuration
	work    string // a directory below ours, in which indexes are made
	indexes int

	planned map[string]*string // what files will be when all that is ready is in place
	known   map[string]*string // what main.cf and master.cf are by our own doing
	made    []*atomicfile.Staged
	done    []piece
}

// piece is a file that is ready to be put in place, or goes.
type piece struct {
	path string
	file *atomicfile.Staged // nil: it goes
	text *string            // what it is then, if it is a text
	back *atomicfile.Staged // what was there; nil: nothing
	was  *string
}

// errOvertaken says that somebody else has changed a file.
var errOvertaken = errors.New("has changed since the plan was made")

func overtakenBy(path string) error { return fmt.Errorf("%s %w", path, errOvertaken) }

// newStaging makes the directories that there have to be.
func newStaging(pl *Plan) (*staging, error) {
	own := filepath.Join(pl.dir, ownDir)
	// Postfix's commands read the tables without privilege, and so does etrnd.
	switch err := os.Mkdir(own, 0o755); {
	case err == nil:
		if err := os.Chmod(own, 0o755); err != nil { // whatever the umask
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	sweep(pl.dir)
	work, err := os.MkdirTemp(own, workPrefix)
	if err != nil {
		_ = os.Remove(own) // if it is empty
		return nil, err
	}
	return &staging{pf: pl.pf, dir: pl.dir, work: work, planned: map[string]*string{}, known: map[string]*string{}}, nil
}

// close removes what has not been put in place, and our directory if it is empty,
// as after a first set-up that has been taken back.
func (s *staging) close() error {
	var errs []error
	for _, f := range s.made {
		errs = append(errs, f.Discard())
	}
	errs = append(errs, os.RemoveAll(s.work))
	_ = os.Remove(filepath.Dir(s.work)) // most often there is something in it
	return errors.Join(errs...)
}

// text makes a file ready. It was before, if nothing that is ready already says
// otherwise; nil is one that is not there.
func (s *staging) text(path string, before, after *string, o atomicfile.Options) (piece, error) {
	if have, ok := s.planned[path]; ok {
		before = have
	}
	p := piece{path: path, text: after, was: before}
	stage := func(text *string) (*atomicfile.Staged, error) {
		if text == nil {
			return nil, nil
		}
		f, err := atomicfile.Stage(path, []byte(*text), o)
		if err == nil {
			s.made = append(s.made, f)
		}
		return f, err
	}
	o.ModTime = aged()
	var err error
	if p.back, err = stage(before); err != nil {
		return p, err
	}
	if p.file, err = stage(after); err != nil {
		return p, err
	}
	s.planned[path] = after
	if _, ok := s.known[path]; !ok && shared(path) {
		s.known[path] = before
	}
	return p, nil
}

// table makes a table ready: its index if it has one, and then its text, which
// looks older than the index: that is what postmap(1) and every reader of the
// index take for right.
func (s *staging) table(ctx context.Context, path string, before *string, t table) ([]piece, error) {
	var pieces []piece
	if index := indexPath(path, t.kind); index != "" {
		s.indexes++
		made := filepath.Join(s.work, fmt.Sprint(s.indexes), filepath.Base(path))
		if err := os.Mkdir(filepath.Dir(made), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(made, []byte(t.text), 0o644); err != nil {
			return nil, err
		}
		if err := s.pf.MakeIndex(ctx, t.kind+":"+made); err != nil {
			return nil, err
		}
		fresh := indexPath(made, t.kind)
		if err := settleIndex(fresh, path); err != nil {
			return nil, err
		}
		if err := os.Remove(made); err != nil {
			return nil, err
		}
		p, err := s.binary(index)
		if err != nil {
			return nil, err
		}
		p.file = &atomicfile.Staged{Path: index, Temp: fresh}
		pieces = append(pieces, p)
	}
	p, err := s.text(path, before, &t.text, atomicfile.Options{Mode: 0o644})
	if err != nil {
		return nil, err
	}
	return append(pieces, p), nil
}

// binary is an index that goes, or is replaced: with a copy of it as it is, since
// Postfix knows by the count of links that an index is no longer the one in force.
func (s *staging) binary(path string) (piece, error) {
	p := piece{path: path}
	text, err := os.ReadFile(filepath.Clean(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p, nil
	case err != nil:
		return p, err
	}
	if p.back, err = atomicfile.Stage(path, text, atomicfile.Options{Mode: 0o644}); err != nil {
		return p, err
	}
	s.made = append(s.made, p.back)
	return p, nil
}

// put puts a piece in its place.
func (s *staging) put(p piece) error {
	if shared(p.path) {
		// Making the tables has taken its time.
		now, err := readIfThere(p.path, maxConf)
		if err != nil {
			return err
		}
		if !sameText(now, s.known[p.path]) {
			return overtakenBy(p.path)
		}
	}
	moved, err := move(p.path, p.file)
	if moved {
		s.done = append(s.done, p)
		if shared(p.path) {
			s.known[p.path] = p.text
		}
	}
	return err
}

// move puts a file in place, or removes what is there. After an error it may have
// done so: then it is not certain that it is written down.
func move(path string, file *atomicfile.Staged) (moved bool, err error) {
	if file == nil {
		err := removeFile(path)
		return err == nil, err
	}
	err = file.Commit()
	return file.Temp == "", err
}

// putBack takes back what has been put in place since there were n, the last one
// first, and stops where that fails: main.cf must not name a table that is gone.
func (s *staging) putBack(n int) error {
	for len(s.done) > n {
		p := s.done[len(s.done)-1]
		if shared(p.path) {
			now, err := readIfThere(p.path, maxConf)
			if err != nil {
				return err
			}
			if !sameText(now, p.text) && !sameText(now, p.was) {
				return fmt.Errorf("%s has been edited meanwhile, and stays as it is now", p.path)
			}
		}
		moved, err := move(p.path, p.back)
		if moved {
			s.done = s.done[:len(s.done)-1]
			if shared(p.path) {
				s.known[p.path] = p.was
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// standing names the files that are not as they were, each once.
func (s *staging) standing() (paths []string) {
	seen := map[string]bool{ownPath(s.dir, recordName): true} // which is no setting
	for _, p := range s.done {
		if !seen[p.path] {
			seen[p.path] = true
			paths = append(paths, p.path)
		}
	}
	return paths
}

// shared reports whether a file is the postmaster's too, who may edit it at any
// moment.
func shared(path string) bool {
	name := filepath.Base(path)
	return name == "main.cf" || name == "master.cf"
}
