package etrnd

import (
	"encoding/binary"
	"hash/maphash"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/etrnd/etrnd/internal/config"
)

// fileState remembers what was found of the files the last time that somebody
// asked, so that they are read again only after one was touched.
type fileState struct {
	mu      sync.Mutex
	cfg     *config.Config // that it was compared with
	seen    fileStamp
	changed bool
}

// fileStamp is by what a change of the files is known: the times and places of
// all.
type fileStamp uint64

var stampSeed = maphash.MakeSeed()

// stamp looks at the main file, at all that it included when it was read, and at
// the directory that further files would be in. A file that is gone has a stamp,
// too.
func stamp(path string, cfg *config.Config) (fileStamp, bool) {
	var all maphash.Hash
	all.SetSeed(stampSeed)
	var one [5 * 8]byte
	var st syscall.Stat_t
	look := func(path string) error {
		st = syscall.Stat_t{}
		err := syscall.Stat(path, &st)
		for i, n := range [...]uint64{uint64(st.Dev), st.Ino, uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano())} {
			binary.BigEndian.PutUint64(one[8*i:], n)
		}
		_, _ = all.Write(one[:])
		return err
	}
	err := look(path)
	if cfg.Include != "" {
		_ = look(filepath.Dir(cfg.Include)) // where it is a pattern
	}
	for _, included := range cfg.Included() {
		_ = look(included)
	}
	return fileStamp(all.Sum64()), err == nil
}

// fileChanged reports whether the configuration's files say something else than
// what is in force, or cannot be used.
func (d *Daemon) fileChanged(cfg *config.Config) bool {
	f := &d.file
	f.mu.Lock()
	defer f.mu.Unlock()
	now, ok := stamp(d.o.ConfigFile, cfg)
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
