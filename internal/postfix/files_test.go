package postfix

import (
	"testing"
	"time"
)

// A clock that has been set back leaves files in the future: they are no
// reason to ask for ever.
func TestSettling(t *testing.T) {
	now := time.Now()
	for d, want := range map[time.Duration]bool{
		-time.Hour: false, -3 * time.Second: false, -time.Second: true, 0: true, time.Second: true, 24 * time.Hour: false,
	} {
		if got := (FileState{there: true, changed: now.Add(d).UnixNano()}).Settling(now); got != want {
			t.Errorf("changed %v after now: %v", d, got)
		}
	}
}
