package clock

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestBehind(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, made, made); err != nil {
		t.Fatal(err)
	}
	if got := Behind(time.Unix(180, 0), "/nonexistent", file); got != "the clock says 1970-01-01 00:03 UTC, but "+file+" was last changed at 2026-03-01 12:00 UTC" {
		t.Errorf("in 1970: %q", got)
	}
	for _, now := range []time.Time{made.Add(-20 * time.Hour), made, made.AddDate(30, 0, 0)} {
		if got := Behind(now, "/nonexistent", file); got != "" {
			t.Errorf("at %v: %q", now, got)
		}
	}
	if got := Behind(time.Now(), Own()...); got != "" {
		t.Errorf("here: %q", got)
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		offset := -56 * 365 * 24 * time.Hour
		w := NewWatch(func() time.Time { return time.Now().Add(offset) })
		time.Sleep(time.Hour)
		offset += 30 * time.Second // slewed
		if by, ok := w.Set(); ok {
			t.Errorf("not set, but by %v", by)
		}
		offset = 0
		if by, ok := w.Set(); !ok || by != 56*365*24*time.Hour {
			t.Errorf("set by %v, %v", by, ok)
		}
	})
	if by, ok := NewWatch(nil).Set(); ok {
		t.Errorf("the machine's clock was set by %v", by)
	}
}
