// Package hang is what tests need to end when something hangs, and never for
// any other reason: a machine may have half a core that others use too. A
// number of seconds is nothing to assert: what a test says about time it says
// on a virtual clock (testing/synctest), or as a ratio to a time that it has
// measured itself.
//
// It is for tests only: what the programs wait for is in their configuration.
package hang

import (
	"context"
	"time"
)

// Limit is how long a test waits for one thing that has to happen. It is
// counted from where the waiting begins, so that neither the building of a
// program nor another test's turn uses it up.
const Limit = 5 * time.Minute

// After fires when Limit has passed.
func After() <-chan time.Time { return time.After(Limit) }

// Deadline is when Limit will have passed.
func Deadline() time.Time { return time.Now().Add(Limit) }

// TB is what Context needs of a *testing.T.
type TB interface {
	Context() context.Context
	Cleanup(func())
}

// Context is the context of the test, ended after Limit, which begins now.
func Context(t TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	t.Cleanup(cancel)
	return ctx
}
