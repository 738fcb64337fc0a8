package postfix

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// defaultActive is qmgr_message_active_limit as Postfix is built.
const defaultActive = 20000

// flow is what settings say of how messages go through the queue.
func flow(v map[string]string) (active int, dir string) {
	active, err := strconv.Atoi(v["qmgr_message_active_limit"])
	if err != nil || active < 1 {
		active = defaultActive
	}
	dir = v["queue_directory"]
	for _, name := range conffile.Words(v["hash_queue_names"]) {
		if slices.Contains(telling, name) {
			dir = "" // what happens is in subdirectories, which nobody else may enter
		}
	}
	return active, dir
}

// telling are the directories whose times tell what goes on. A message enters by
// incoming, and a directory's time changes when a file of it comes, goes or
// leaves for another: nobody needs a right to it to see that. What comes off
// hold changes that directory alone. All but these are hashed, as Postfix comes.
var telling = []string{"incoming", "hold", "active"}

// entering is how many of them, from the first, tell of new messages.
const entering = 2

// settled is how long ago the last change has to be for the next one to show,
// on a file system that notes no more than seconds.
const settled = 1200 * time.Millisecond

var stampSeed = maphash.MakeSeed()

// Stamp looks at the times of the queue's directories.
func (p *Instance) Stamp(ctx context.Context) (s mta.Stamp) {
	f, err := p.known(ctx)
	if err != nil || f.queueDir == "" {
		return mta.Stamp{}
	}
	now := time.Now()
	var entered, moved hash
	for i, name := range telling {
		info, err := os.Stat(filepath.Join(f.queueDir, name))
		if err != nil {
			return mta.Stamp{}
		}
		if i < entering {
			entered.add(info.ModTime())
		}
		moved.add(info.ModTime())
	}
	s.Entered, s.Settled.Entered = entered.sum(), now.Sub(entered.last) > settled
	s.Moved, s.Settled.Moved = moved.sum(), now.Sub(moved.last) > settled
	return s
}

// hash is of some times, and knows the last of them.
type hash struct {
	times []byte
	last  time.Time
}

func (h *hash) add(t time.Time) {
	h.times = binary.BigEndian.AppendUint64(h.times, uint64(t.UnixNano()))
	if t.After(h.last) {
		h.last = t
	}
}

// sum is never zero, which stands for what is not known.
func (h *hash) sum() uint64 { return maphash.Bytes(stampSeed, h.times) | 1 }

// ActiveLimit returns the setting qmgr_message_active_limit.
func (p *Instance) ActiveLimit(ctx context.Context) (int, error) {
	f, err := p.known(ctx)
	if err != nil {
		return 0, err
	}
	return f.active, nil
}
