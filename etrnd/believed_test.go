package etrnd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// The MTA's user is let in as soon as it is known, and nobody before; strangers
// who come again and again do not have it asked again and again.
func TestMTAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const postfix, stranger = 4711, 4712
		asked, fails := 0, true
		m := &mtaUser{log: slog.New(slog.DiscardHandler), ask: func(context.Context) (int, error) {
			asked++
			if fails {
				return 0, errors.New("Postfix is not installed yet")
			}
			return postfix, nil
		}}
		for range 5 {
			if m.is(postfix) || m.is(stranger) || m.is(0) && os.Geteuid() != 0 {
				t.Error("somebody is let in before the user is known")
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		fails = false
		time.Sleep(ownerRetry) // on the clock of the bubble
		for range 5 {
			if !m.is(postfix) || m.is(stranger) || !m.is(os.Geteuid()) {
				t.Error("known, and not told apart")
			}
		}
		if asked != 2 {
			t.Errorf("asked %d times, want 2", asked)
		}
	})
}
