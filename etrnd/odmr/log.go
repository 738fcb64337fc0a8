package odmr

import (
	"context"
	"log/slog"
)

// quota is a handler that stops after so many lines of one session: whoever speaks
// to us shall not fill the disk by it. Errors are ours and always there.
type quota struct {
	slog.Handler
	left *int
}

// quotaFor makes a logger with a quota. Only one goroutine uses it.
func quotaFor(log *slog.Logger, lines int) *slog.Logger {
	return slog.New(quota{log.Handler(), &lines})
}

func (q quota) Handle(ctx context.Context, r slog.Record) error {
	if r.Level == slog.LevelInfo || r.Level == slog.LevelWarn {
		switch *q.left--; {
		case *q.left < 0:
			return nil
		case *q.left == 0:
			r.AddAttrs(slog.String("note", "more of this session is not logged"))
		}
	}
	return q.Handler.Handle(ctx, r)
}

func (q quota) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quota{q.Handler.WithAttrs(attrs), q.left}
}

func (q quota) WithGroup(name string) slog.Handler {
	return quota{q.Handler.WithGroup(name), q.left}
}
