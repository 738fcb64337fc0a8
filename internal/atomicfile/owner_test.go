//go:build !quick

package atomicfile

import "testing"

// Only root can give a file away, and so only root has one of another's to
// replace.
func TestKeepsOwner(t *testing.T) { keeps(t, 12345, 54321) }
