// Package clock tells what can be known of whether this machine's clock is
// right, and whether it has been set. Boards without a battery begin in 1970,
// or where they were switched off, until somebody tells them the time; for a
// site that comes over the line.
//
// It sets no clock and asks nobody for the time.
package clock

import (
	"fmt"
	"os"
	"time"
)

// Behind returns how the clock can be seen to be wrong: it is earlier than the
// last change of one of the files, which cannot be. Empty: it may be right.
func Behind(now time.Time, files ...string) string {
	// A file that was written a moment ago on a server with a clock of its
	// own, or unpacked in another time zone, proves nothing.
	const leeway = 25 * time.Hour
	for _, path := range files {
		fi, err := os.Stat(path)
		if err == nil && fi.ModTime().After(now.Add(leeway)) {
			return fmt.Sprintf("the clock says %s, but %s was last changed at %s", text(now), path, text(fi.ModTime()))
		}
	}
	return ""
}

func text(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// Own are files that are no younger than the clock can say: the running program,
// and the time that systemd-timesyncd remembers.
func Own() []string {
	files := []string{"/var/lib/systemd/timesync/clock", "/var/lib/private/systemd/timesync/clock"}
	if program, err := os.Executable(); err == nil {
		files = append(files, program)
	}
	return files
}

// Watch sees whether the clock is set. Its zero value is not ready for use.
type Watch struct {
	wall  func() time.Time
	began time.Time // what the clock said then
	since time.Time // with the monotonic reading, which setting the clock does not change
}

// NewWatch begins to watch a clock; nil is the machine's.
func NewWatch(wall func() time.Time) *Watch {
	if wall == nil {
		wall = func() time.Time { return time.Now().Round(0) }
	}
	return &Watch{wall: wall, began: wall().Round(0), since: time.Now()}
}

// Step is the least change that counts as setting the clock: slewing and
// drifting stay far below.
const Step = time.Minute

// Set reports whether the clock has been set since the watch began, and by how
// much. A machine that has slept looks the same.
func (w *Watch) Set() (by time.Duration, ok bool) {
	by = w.wall().Round(0).Sub(w.began) - time.Since(w.since)
	return by, by.Abs() >= Step
}
