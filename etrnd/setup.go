package etrnd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/config"
)

const (
	// setUpFirst is how long a status waits to hear whether the MTA is set up, while
	// nobody has found out yet, and setUpAgain how long when something is known.
	// With ten thousand queues it takes Postfix seconds, after each change.
	setUpFirst = time.Second
	setUpAgain = 50 * time.Millisecond
	// setUpReload is how long a reload waits.
	setUpReload = 10 * time.Second
)

// setUp remembers whether the MTA is set up for the configuration. It finds out
// beside those who ask, one look at a time.
type setUp struct {
	look   func(context.Context, *config.Config) (ok bool, differ []string, err error)
	log    *slog.Logger
	ctx    context.Context // of all looks
	cancel context.CancelFunc

	mu    sync.Mutex
	ended chan struct{} // closed at the end of the look under way; nil: there is none
	last  *setUpFound   // nil: nothing is known
}

// setUpFound is what one look has found.
type setUpFound struct {
	cfg    *config.Config
	ok     bool
	differ []string
	err    error
	at     time.Time // when the look began
}

func newSetUp(look func(context.Context, *config.Config) (bool, []string, error), log *slog.Logger) *setUp {
	ctx, cancel := context.WithCancel(context.Background())
	return &setUp{look: look, log: log, ctx: ctx, cancel: cancel}
}

// found is what is known of a configuration, nil if nothing is. It is current if it
// was found after the question; a look for that is made, and waited for a moment.
func (s *setUp) found(ctx context.Context, cfg *config.Config) (last *setUpFound, current bool) {
	asked := time.Now()
	var patience <-chan time.Time
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.last != nil && s.last.cfg == cfg {
			last = s.last
		}
		if last != nil && !last.at.Before(asked) {
			return last, true
		}
		if patience == nil {
			wait := setUpFirst
			if last != nil {
				wait = setUpAgain
			}
			patience = time.After(wait)
		}
		if s.ended == nil {
			if s.ctx.Err() != nil {
				return last, false
			}
			s.ended = make(chan struct{})
			go s.find(cfg, s.ended)
		}
		ended := s.ended
		s.mu.Unlock()
		over := false
		select {
		case <-ended:
		case <-patience:
			over = true
		case <-ctx.Done():
			over = true
		}
		s.mu.Lock()
		if over {
			return last, false
		}
	}
}

// find makes one look.
func (s *setUp) find(cfg *config.Config, ended chan struct{}) {
	f := &setUpFound{cfg: cfg, at: time.Now(), err: errors.New("etrnd failed at it; its log has the details")}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic while looking how the MTA is set up", "panic", p, "stack", string(debug.Stack()))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last, s.ended = f, nil
		close(ended)
	}()
	f.ok, f.differ, f.err = s.look(s.ctx, cfg)
}

// close ends the look that is under way, and waits for it. There is none after it.
func (s *setUp) close() {
	s.cancel()
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// warning is what a status says of it; empty if all is well.
func (s *setUp) warning(ctx context.Context, cfg *config.Config) string {
	return setUpWarning(s.found(ctx, cfg))
}

// reloaded is what the answer to a reload says of it: it waits longer, since whoever
// reloads has just changed something, and may have forgotten the MTA.
func (s *setUp) reloaded(ctx context.Context, cfg *config.Config) string {
	ctx, cancel := context.WithTimeout(ctx, setUpReload)
	defer cancel()
	for {
		f, current := s.found(ctx, cfg)
		if current || ctx.Err() != nil || s.ctx.Err() != nil {
			return setUpWarning(f, current)
		}
	}
}

// setUpWarning says it.
func setUpWarning(f *setUpFound, current bool) string {
	if f == nil {
		return "whether Postfix is set up for this configuration is being looked at: ask again in a moment"
	}
	text := ""
	switch {
	case f.err != nil:
		text = fmt.Sprintf("cannot tell whether Postfix is set up for this configuration: %v", f.err)
	case !f.ok:
		text = fmt.Sprintf("Postfix is not set up for this configuration (%s): etrnctl setup postfix shows what is missing, and does it with --apply", strings.Join(f.differ, ", "))
	case !current:
		text = "Postfix was set up for this configuration"
	}
	if !current {
		text += fmt.Sprintf("; that was at %s, and it is being looked at again since something has changed", f.at.UTC().Format("15:04:05 MST"))
	}
	return text
}
