package testbed

import (
	"context"
	"errors"
	"testing"
	"time"
)

// As many as there are slots get one at once; the next waits until one of them
// is given back, and no longer.
func TestSlots(t *testing.T) {
	dir := t.TempDir()
	take := func() func() {
		t.Helper()
		release, err := slot(t.Context(), dir, 2)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	first, second := take(), take()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := slot(ctx, dir, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third at once: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, first)
	third := take()
	second()
	third()
}
