package foreign

import (
	"context"
	"log/slog"
	"sync/atomic"
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
