package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/etrnd/etrnd/internal/foreign"
)

// maxFile bounds one file of the configuration. A queue of a few keys takes 150
// to 300 bytes, so this is room for 50,000.
const maxFile = 16 << 20

// Option changes how a configuration is read.
type Option func(*reader)

// WithoutFiles leaves out the checks of what the configuration refers to on
// this machine: files, directories, commands, the group. It is for programs
// that use none of them and may lack the permission to look: etrn-milter,
// which must not be able to read etrnd's keys, and etrnctl when it only wants
// to know where the socket is.
func WithoutFiles() Option { return func(r *reader) { r.noFiles = true } }

// WithOpen has the files that the configuration refers to opened by somebody
// else: as the user who will read them, say. An error that has a Hint method is
// shown with that. One that is ErrUnseen says that the file is as it should be,
// as far as can be seen, but cannot be looked into.
func WithOpen(open func(path string) (*os.File, error)) Option {
	return func(r *reader) { r.open = open }
}

// ErrUnseen is what a function of WithOpen says of a file that the daemon can
// read, and this process cannot.
var ErrUnseen = errors.New("it was not looked into")

// Load reads and checks the configuration file at path. A bad file yields an
// *Error with every problem in it; one that cannot be read yields an *Error
// too, with that as its only problem.
func Load(path string, opts ...Option) (*Config, error) {
	data, err := readMain(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, opts...)
}

func readMain(path string) ([]byte, error) {
	data, err := readFile(path, maxFile)
	if err != nil {
		if st, serr := os.Stat(path); serr == nil && st.IsDir() {
			return nil, &Error{Problems: []Problem{{File: path, Msg: "is a directory", Hint: "name the file in it: --config " + filepath.Join(path, filepath.Base(DefaultPath))}}}
		}
		return nil, &Error{Problems: []Problem{unread(path, err, loadHint(err))}}
	}
	return data, nil
}

// unread is a file of the configuration that cannot be read.
func unread(path string, err error, hint string) Problem {
	msg := reason(err)
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		msg = pe.Err.Error() // the path stands before it
	}
	return Problem{File: path, Msg: msg, Hint: hint}
}

func loadHint(err error) string {
	switch {
	case os.IsNotExist(err):
		return "write it (see etrnd.toml(5)), or name another with --config"
	case os.IsPermission(err):
		return "the users etrnd and etrn-milter must be able to read it; it holds no secrets"
	}
	return ""
}

// ReadReferred reads a file that the configuration names, as readFile does.
func ReadReferred(path string) ([]byte, error) { return readFile(path, maxReferred) }

// readFile reads a regular file of at most max bytes. Anything else, a FIFO
// for example, could block the start of a daemon.
func readFile(path string, max int64) ([]byte, error) {
	return readFileBy(os.Open, path, max)
}

// readFileBy is readFile with another way to open it. What is opened has to pass
// checks: the name may stand for another file by then.
func readFileBy(open func(string) (*os.File, error), path string, max int64, checks ...func(fs.FileInfo) error) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		if f, err := open(path); err != nil {
			return nil, err // it may have more to say
		} else {
			f.Close()
		}
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", foreign.Quote(path))
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", foreign.Quote(path))
	}
	for _, check := range checks {
		if err := check(st); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s is longer than %d bytes", foreign.Quote(path), max)
	}
	return data, nil
}

// Parse checks a configuration. Its name stands in messages, and relative
// file names are taken from its directory.
func Parse(name string, data []byte, opts ...Option) (*Config, error) {
	r := newReader(name)
	for _, o := range opts {
		o(r)
	}
	cfg := r.read(data)
	if len(r.errs) > 0 {
		e := &Error{Problems: inOrder(name, r.errs)}
		if n := len(e.Problems); n > maxProblems {
			e.Problems, e.Omitted = e.Problems[:maxProblems], n-maxProblems
		}
		return nil, e
	}
	cfg.Warnings = inOrder(name, r.warnings)
	return cfg, nil
}
