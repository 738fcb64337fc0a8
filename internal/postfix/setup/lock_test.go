package setup

import (
	"strings"
	"testing"
)

// Two set-ups of one Postfix do not get into each other's way: the second one
// says why not.
func TestOneSetupAtATime(t *testing.T) {
	dir := t.TempDir()
	one, other := &Plan{dir: dir}, &Plan{dir: dir}
	unlock, err := one.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.lock(); err == nil || !strings.Contains(err.Error(), "another set-up") {
		t.Errorf("a second one: %v", err)
	}
	unlock()
	if unlock, err = other.lock(); err != nil {
		t.Error(err)
	} else {
		unlock()
	}
}
