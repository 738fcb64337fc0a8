package postfix

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// defaultActive is qmgr_message_active_limit as Postfix is built.
const defaultActive = 20000

// flow is what settings say of how messages go through the queue.
func flow(v map[string]string) (active int, dir string, hashed bool) {
	active, err := strconv.Atoi(v["qmgr_message_active_limit"])
	if err != nil || active < 1 {
		active = defaultActive
	}
	for _, name := range conffile.Words(v["hash_queue_names"]) {
		// What happens there is in subdirectories, which nobody else may enter.
		hashed = hashed || slices.Contains(telling, name)
	}
	return active, v["queue_directory"], hashed
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
	if err != nil || f.queueDir == "" || f.hashed {
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

// upTimeout bounds the wait for a queue manager that does not accept.
const upTimeout = 2 * time.Second

// Up knocks at the queue manager's door, which is open as long as Postfix runs:
// it is woken by whoever has put something into the queue, with a word for what
// there is to do. Who says nothing wants nothing.
func (p *Instance) Up(ctx context.Context) error {
	f, err := p.known(ctx)
	if err != nil || f.queueDir == "" {
		return nil
	}
	d := net.Dialer{Timeout: upTimeout}
	conn, err := d.DialContext(ctx, "unix", filepath.Join(f.queueDir, "public", "qmgr"))
	if err == nil {
		_ = conn.Close()
	}
	// Whatever else it is (no right to enter, a pipe in place of the socket) says
	// nothing of Postfix.
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w: nobody answers on public/qmgr of its queue directory", mta.ErrDown)
	}
	return nil
}

// ActiveLimit returns the setting qmgr_message_active_limit.
func (p *Instance) ActiveLimit(ctx context.Context) (int, error) {
	f, err := p.known(ctx)
	if err != nil {
		return 0, err
	}
	return f.active, nil
}
