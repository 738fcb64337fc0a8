package setup

import (
	"context"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/postfix"
)

// Monitor answers again and again whether Postfix is set up for a
// configuration. It asks Postfix once, and from then on looks whether one of
// the files that the answer came from has changed. It is safe for concurrent
// use.
type Monitor struct {
	plan func(context.Context, *config.Config) (answer, error)
	now  func() time.Time
	turn chan struct{} // holds a token: who has it may look, and ask

	last answer
	cfg  *config.Config    // that last is for
	seen map[string]status // files that last came from; nil: last is not to be used
	host string            // the host's name, of which Postfix makes defaults
}

type answer struct {
	inSync bool
	files  []string // that would change
	from   []string // files that the answer came from
}

// NewMonitor returns a Monitor of the Postfix of a configuration. It asks for a
// new one whenever the files are looked at anew, which remembers nothing.
func NewMonitor(of func(*config.Config) *postfix.Instance) *Monitor {
	return newMonitor(func(ctx context.Context, cfg *config.Config) (answer, error) {
		pf := of(cfg)
		req := RequirementsOf(cfg)
		req.Unseen = true // the answer is to come from files alone
		pl, err := NewPlan(ctx, pf, req)
		if err != nil {
			return answer{}, err
		}
		return answer{pl.Empty(), pl.Files(), slices.Concat(paths(pl.dir), pl.watch, pf.Sources())}, nil
	})
}

func newMonitor(plan func(context.Context, *config.Config) (answer, error)) *Monitor {
	return &Monitor{plan: plan, now: time.Now, turn: make(chan struct{}, 1)}
}

// InSync reports whether Postfix is set up for a configuration, and if not,
// which files differ. A configuration is known by its pointer, since none is
// ever changed. An error is not remembered: its cause may be in no file.
func (m *Monitor) InSync(ctx context.Context, cfg *config.Config) (ok bool, differ []string, err error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return false, nil, ctx.Err()
	}
	host, err := os.Hostname()
	if err != nil {
		return false, nil, err
	}
	if m.seen != nil && m.cfg == cfg && m.host == host && maps.Equal(m.seen, stat(m.last.from)) {
		return m.last.inSync, slices.Clone(m.last.files), nil
	}
	start := m.now()
	before := stat(m.last.from)
	a, err := m.plan(ctx, cfg)
	if err != nil {
		m.seen = nil
		return false, nil, err
	}
	m.last, m.cfg, m.host, m.seen = a, cfg, host, stat(a.from)
	for path, now := range m.seen {
		// What has changed while it was read, or so short a time before that
		// its next change could bear the same time, is read again next time.
		was, known := before[path]
		if known && was != now || now.settling(start) {
			m.seen = nil
			break
		}
	}
	return a.inSync, slices.Clone(a.files), nil
}

// status is by what a change of a file is known. The inode tells of one that
// was put in its place, and nobody can set the time of the last change of
// the inode back.
type status struct {
	there                bool
	dev, inode           uint64
	size, mtime, changed int64 // times in nanoseconds
}

// stat looks at files, through links. One that cannot be looked at is not
// there.
func stat(files []string) map[string]status {
	seen := make(map[string]status, len(files))
	for _, path := range files {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			seen[path] = status{}
			continue
		}
		seen[path] = status{true, uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
	}
	return seen
}

// settle is more than the resolution of a file system's times.
const settle = 2 * time.Second

// settling reports whether the file has changed at about t or later. A time far
// in the future is of a clock that has been set back, and no reason never to
// trust the file.
func (s status) settling(t time.Time) bool {
	d := time.Duration(s.changed - t.UnixNano())
	return s.there && d > -settle && d < time.Minute
}
