package setup

import (
	"context"
	"maps"
	"os"
	"slices"
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
	cfg  *config.Config // that last is for
	seen postfix.Files  // files that last came from; nil: last is not to be used
	host string         // the host's name, of which Postfix makes defaults
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
	if m.seen != nil && m.cfg == cfg && m.host == host && maps.Equal(m.seen, postfix.LookAt(m.last.from)) {
		return m.last.inSync, slices.Clone(m.last.files), nil
	}
	start := m.now()
	before := postfix.LookAt(m.last.from)
	a, err := m.plan(ctx, cfg)
	if err != nil {
		m.seen = nil
		return false, nil, err
	}
	m.last, m.cfg, m.host, m.seen = a, cfg, host, postfix.LookAt(a.from)
	for path, now := range m.seen {
		// What has changed while it was read, or so short a time before that
		// its next change could bear the same time, is read again next time.
		was, known := before[path]
		if known && was != now || now.Settling(start) {
			m.seen = nil
			break
		}
	}
	return a.inSync, slices.Clone(a.files), nil
}
