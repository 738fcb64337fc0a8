package foreign

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// quota is a slog.Handler for so many lines: whoever speaks to us shall not fill
// the disk by it. Errors are ours and always there.
type quota struct {
	slog.Handler
	left *atomic.Int64
	note string
}

// Quota returns a logger that passes on so many lines of the levels info and
// warning, the last of them with a note that this is the last, and all of the
// others. What With makes of it shares the quota.
func Quota(log *slog.Logger, lines int, note string) *slog.Logger {
	left := new(atomic.Int64)
	left.Store(int64(lines))
	return slog.New(quota{log.Handler(), left, note})
}

func (q quota) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo || r.Level == slog.LevelWarn {
		switch left := q.left.Add(-1); {
		case left < 0:
			return nil
		case left == 0:
			r.AddAttrs(slog.String("note", q.note))
		}
	}
	return q.Handler.Handle(ctx, r)
}

func (q quota) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quota{q.Handler.WithAttrs(attrs), q.left, q.note}
}

func (q quota) WithGroup(name string) slog.Handler {
	return quota{q.Handler.WithGroup(name), q.left, q.note}
}

// Of what anybody can cause, the log has seldomBurst lines at once, and from then on
// one each seldomEvery.
const (
	seldomBurst = 100
	seldomEvery = 2 * time.Second
)

// seldom is a slog.Handler for what anybody can cause as often as he likes, without
// having any right: to connect and be refused, for example.
type seldom struct {
	slog.Handler
	pace  *pace
	known *atomic.Bool // nil: no
}

type pace struct {
	mu   sync.Mutex
	room float64 // lines that may go now
	at   time.Time
	left int // left out since the last line
}

// Seldom returns a logger that passes on only so many lines of the levels info and
// warning in a time, with the number of those that were left out before, and all of
// the others. What With makes of it shares the pace.
func Seldom(log *slog.Logger) *slog.Logger {
	return slog.New(seldom{log.Handler(), &pace{room: seldomBurst}, nil})
}

// Unless returns a logger of Seldom's that passes everything on once it is known that
// it is about somebody who has a right.
func Unless(log *slog.Logger, known *atomic.Bool) *slog.Logger {
	if s, ok := log.Handler().(seldom); ok {
		s.known = known
		return slog.New(s)
	}
	return log
}

// take reports whether a line may go, and how many did not before it.
func (p *pace) take(now time.Time) (left int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.at.IsZero() {
		p.room = min(p.room+max(now.Sub(p.at).Seconds(), 0)/seldomEvery.Seconds(), seldomBurst)
	}
	p.at = now
	if p.room < 1 {
		p.left++
		return 0, false
	}
	p.room--
	left, p.left = p.left, 0
	return left, true
}

func (s seldom) Handle(ctx context.Context, r slog.Record) error {
	if (r.Level == slog.LevelInfo || r.Level == slog.LevelWarn) && (s.known == nil || !s.known.Load()) {
		left, ok := s.pace.take(time.Now())
		if !ok {
			return nil
		}
		if left > 0 {
			r.AddAttrs(slog.Int("left_out", left))
		}
	}
	return s.Handler.Handle(ctx, r)
}

func (s seldom) WithAttrs(attrs []slog.Attr) slog.Handler {
	return seldom{s.Handler.WithAttrs(attrs), s.pace, s.known}
}

func (s seldom) WithGroup(name string) slog.Handler {
	return seldom{s.Handler.WithGroup(name), s.pace, s.known}
}
