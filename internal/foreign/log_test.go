package foreign

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// So many lines of what others can make us write, the last one with a note, and
// all that is our own.
func TestQuota(t *testing.T) {
	var out bytes.Buffer
	log := Quota(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), 3, "no more")
	client := log.With("client", "a").WithGroup("g")
	for range 5 {
		log.Info("one", "n", 1)
		client.Warn("another", "n", 2)
	}
	log.Error("ours")
	log.Debug("for whoever asks for it")
	text := out.String()
	if n := strings.Count(text, "\n"); n != 5 || strings.Count(text, "no more") != 1 ||
		!strings.Contains(strings.Split(text, "\n")[2], "no more") || !strings.Contains(text, "ours") {
		t.Errorf("%d lines:\n%s", n, text)
	}
}

// What anybody can cause fills no disk: some lines at once, then one now and then,
// with the number of those left out, and all that is our own.
func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := Seldom(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
		client := log.With("client", "a")
		lines := func() []string {
			defer out.Reset()
			return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		}
		for range 10_000 {
			log.Info("one")
			client.Warn("another")
		}
		if got := lines(); len(got) != seldomBurst || strings.Contains(strings.Join(got, ""), "left_out") {
			t.Errorf("at once: %d lines, the last %q", len(got), got[len(got)-1])
		}
		log.Error("ours")
		log.Debug("for whoever asks for it")
		if got := lines(); len(got) != 2 {
			t.Errorf("%q", got)
		}
		for range 1000 {
			time.Sleep(seldomEvery / 10)
			client.Warn("another")
		}
		if got := lines(); len(got) < 99 || len(got) > 101 || !strings.Contains(got[0], "left_out=199") || !strings.Contains(got[50], "left_out=9") {
			t.Errorf("on and on: %d lines, %q", len(got), got[:2])
		}
		time.Sleep(time.Hour)
		for range 2 * seldomBurst {
			log.Info("one")
		}
		if got := lines(); len(got) != seldomBurst {
			t.Errorf("after an hour: %d lines", len(got))
		}
	})
}
