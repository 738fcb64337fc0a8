package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/atomicfile"
)

// replaceFile puts a new text in a file's place in one step; a new one is
// readable for all, as main.cf is. The time of change is set before anybody can
// see the file.
func replaceFile(path, text string, changed time.Time) error {
	return atomicfile.Write(path, []byte(text), atomicfile.Options{Mode: 0o644, ModTime: changed})
}

// ownerOf a file, or of what a symbolic link leads to.
func ownerOf(path string) (uid, gid int, ok bool) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, 0, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(st.Uid), int(st.Gid), true
}

// removeFile removes a file, or what a symbolic link leads to. One that is not
// there is no error.
func removeFile(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
