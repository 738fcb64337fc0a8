package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// newLog is the log of a daemon. What goes to the journal has the severity in
// front of each line (sd-daemon(3)), without which the journal takes everything
// for "info", and leaves the time to the journal; the facility is in the unit.
func newLog(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	return logTo(w, format, level, inJournal(w), time.Now)
}

func inJournal(w io.Writer) bool {
	if w != os.Stderr {
		return false
	}
	is, err := journal.StderrIsJournalStream()
	return err == nil && is
}

func logTo(w io.Writer, format string, level slog.Leveler, inJournal bool, now func() time.Time) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if inJournal && format != "json" {
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		}
	}
	out := &lines{w: w, severity: inJournal}
	var h slog.Handler
	if format == "json" {
		h = slog.NewJSONHandler(out, o)
	} else {
		h = slog.NewTextHandler(out, o)
	}
	return slog.New(&handler{Handler: h, out: out, again: &again{now: now, seen: map[string]*repeats{}}})
}

// lines writes each line with its severity, which is known under the lock.
type lines struct {
	mu       sync.Mutex
	w        io.Writer
	severity bool
	level    slog.Level
}

func (l *lines) Write(b []byte) (int, error) {
	if !l.severity {
		return l.w.Write(b)
	}
	// In one piece: another process may write to the same stream.
	if _, err := l.w.Write(append([]byte(severity(l.level)), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// severity is a level in the words of syslog(3).
func severity(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<3>"
	case level >= slog.LevelWarn:
		return "<4>"
	case level >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}

// handler leaves out what has just been said, and gives each line its severity.
type handler struct {
	slog.Handler
	out   *lines
	again *again
	with  string // what With has added, for telling lines apart
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		n, say := h.again.say(h.key(r))
		if !say {
			return nil
		}
		if n > 0 {
			r = r.Clone()
			r.AddAttrs(slog.Int("repeated", n))
		}
	}
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.level = r.Level
	return h.Handler.Handle(ctx, r)
}

func (h *handler) key(r slog.Record) string {
	var b strings.Builder
	b.WriteString(h.with)
	b.WriteByte(0)
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteByte(0)
		b.WriteString(a.String())
		return true
	})
	return b.String()
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := h.with
	for _, a := range attrs {
		with += "\x00" + a.String()
	}
	return &handler{h.Handler.WithAttrs(attrs), h.out, h.again, with}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.out, h.again, h.with + "\x00" + name}
}

// A warning or error that is word for word the one of a moment ago says nothing
// new: it is said again, with how often it came, after a pause that grows. One
// that differs in any word or value is always said.
const (
	firstSilence = time.Minute
	maxSilence   = time.Hour
	// maxRepeats bounds what is remembered: the words may be a stranger's.
	maxRepeats = 1000
)

type again struct {
	now  func() time.Time
	mu   sync.Mutex
	seen map[string]*repeats
}

type repeats struct {
	said   time.Time
	pause  time.Duration
	silent int // since then
}

// say reports whether a line is to be said, and how often it was left out since
// it last was.
func (a *again) say(key string) (left int, say bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	r := a.seen[key]
	switch {
	case r == nil || now.Sub(r.said) >= 2*r.pause && r.silent == 0 || now.Before(r.said):
		// New, or long ago.
		if len(a.seen) >= maxRepeats {
			for k, old := range a.seen {
				if now.Sub(old.said) >= old.pause {
					delete(a.seen, k)
				}
			}
		}
		if len(a.seen) < maxRepeats {
			a.seen[key] = &repeats{said: now, pause: firstSilence}
		}
		return 0, true
	case now.Sub(r.said) < r.pause:
		r.silent++
		return 0, false
	}
	left = r.silent
	r.said, r.silent, r.pause = now, 0, min(2*r.pause, maxSilence)
	return left, true
}
