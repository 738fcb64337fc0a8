package etrnd

import (
	"os"
	"sync"
	"syscall"

	"github.com/etrnd/etrnd/internal/config"
)

// fileState remembers what was found of the file the last time that somebody
// asked, so that it is read again only after it was touched.
type fileState struct {
	mu      sync.Mutex
	cfg     *config.Config // that it was compared with
	seen    fileStamp
	changed bool
}

// fileStamp is by what a change of the file is known.
type fileStamp struct {
	dev, inode           uint64
	size, mtime, changed int64
}

func stamp(path string) (s fileStamp, ok bool) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return s, false
	}
	return fileStamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, true
}

// fileChanged reports whether the configuration's file says something else than
// what is in force, or cannot be used.
func (d *Daemon) fileChanged(cfg *config.Config) bool {
	f := &d.file
	f.mu.Lock()
	defer f.mu.Unlock()
	now, ok := stamp(d.o.ConfigFile)
	if ok && f.cfg == cfg && f.seen == now {
		return f.changed
	}
	f.cfg, f.seen, f.changed = cfg, now, true
	if new, err := config.Load(d.o.ConfigFile, config.WithoutFiles()); err == nil {
		f.changed = len(config.Changes(cfg, new)) > 0
	} else if _, err := os.Stat(d.o.ConfigFile); err != nil {
		f.cfg = nil
	}
	return f.changed
}
