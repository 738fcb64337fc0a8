package foreign

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
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
