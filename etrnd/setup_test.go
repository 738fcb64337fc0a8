package etrnd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/config"
)

// A status does not wait for a look at the MTA's set-up that takes long: it says
// what was found last, and that this is not new.
func TestSetUpIsFoundBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ok bool
		var err error
		takes := 3 * time.Second
		looks := 0
		s := newSetUp(func(ctx context.Context, _ *config.Config) (bool, []string, error) {
			looks++
			select {
			case <-time.After(takes):
				return ok, []string{"/etc/postfix/main.cf"}, err
			case <-ctx.Done():
				return false, nil, ctx.Err()
			}
		}, slog.New(slog.DiscardHandler))
		cfg := &config.Config{}
		asks := func(what string, within time.Duration, want ...string) {
			t.Helper()
			time.Sleep(time.Millisecond) // a moment of its own
			began := time.Now()
			got := s.warning(t.Context(), cfg)
			synctest.Wait() // the look goes by what is set now
			if took := time.Since(began); took > within {
				t.Errorf("%s: waited %v", what, took)
			}
			if got == "" && len(want) > 0 {
				t.Errorf("%s: no warning", what)
			}
			if len(want) == 0 && got != "" {
				t.Errorf("%s: %q", what, got)
			}
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("%s: %q has no %q", what, got, w)
				}
			}
		}
		pass := func() {
			time.Sleep(takes)
			synctest.Wait()
		}
		const soon = 50 * time.Millisecond
		asks("nothing known", time.Second, "being looked at: ask again")
		asks("asked again", time.Second, "being looked at: ask again")
		if looks != 1 {
			t.Errorf("%d looks at a time", looks)
		}
		pass()
		asks("known, but it may have changed", soon, "is not set up", "main.cf", "being looked at again")
		pass()
		takes, ok = 0, true
		asks("a quick look", soon)
		takes, ok = 3*time.Second, false
		asks("something has changed", soon, "was set up", "being looked at again")
		pass()
		takes = 0
		asks("found", soon, "is not set up")
		err = errors.New("no postconf")
		asks("cannot be found", soon, "cannot tell", "no postconf")
		cfg, err, ok = &config.Config{}, nil, true
		takes = time.Hour
		asks("another configuration", time.Second, "being looked at: ask again")
		takes = 5 * time.Second
		cfg, ok = &config.Config{}, false
		began := time.Now()
		if got := s.reloaded(t.Context(), cfg); !strings.Contains(got, "being looked at: ask again") || time.Since(began) != setUpReload {
			t.Errorf("a reload, behind an hour: %q after %v", got, time.Since(began))
		}
		s.close() // and does not wait for the hour
		if n := looks; s.warning(t.Context(), cfg) == "" || looks != n {
			t.Error("looked after the end")
		}
	})
}

// A fault in the look costs its answer, and not the daemon.
func TestSetUpPanics(t *testing.T) {
	var log bytes.Buffer
	s := newSetUp(func(context.Context, *config.Config) (bool, []string, error) { panic("a fault") }, slog.New(slog.NewTextHandler(&log, nil)))
	defer s.close()
	if got := s.warning(t.Context(), &config.Config{}); !strings.Contains(got, "cannot tell") || !strings.Contains(log.String(), "a fault") {
		t.Errorf("%q; log: %s", got, log.String())
	}
}
