package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// The journal hears how severe a line is, and writes the time itself.
func TestLogInJournal(t *testing.T) {
	for _, c := range []struct {
		format  string
		journal bool
		want    string
	}{
		{"text", true, "<7>msg=a x=1\n<6>msg=b x=1\n<4>msg=c x=1\n<3>msg=d x=1\n"},
		{"text", false, "level=DEBUG msg=a x=1\nlevel=INFO msg=b x=1\nlevel=WARN msg=c x=1\nlevel=ERROR msg=d x=1\n"},
		{"json", true, `<7>{"level":"DEBUG","msg":"a","x":1}` + "\n" + `<6>{"level":"INFO","msg":"b","x":1}` + "\n" + `<4>{"level":"WARN","msg":"c","x":1}` + "\n" + `<3>{"level":"ERROR","msg":"d","x":1}` + "\n"},
	} {
		var out bytes.Buffer
		log := logTo(&out, c.format, slog.LevelDebug, c.journal, time.Now).With("x", 1)
		log.Debug("a")
		log.Info("b")
		log.Warn("c")
		log.Error("d")
		var got strings.Builder
		for line := range strings.Lines(out.String()) {
			// The time, where there is one, is not ours to test.
			if i := strings.Index(line, "level="); c.format == "text" && i > 0 {
				line = line[i:]
			}
			if i := strings.Index(line, `"time":"`); i >= 0 {
				line = line[:i] + line[i+strings.Index(line[i:], `",`)+2:]
			}
			got.WriteString(line)
		}
		if got.String() != c.want {
			t.Errorf("%s, in the journal %v: got\n%s\nwant\n%s", c.format, c.journal, got.String(), c.want)
		}
	}
}

// What goes on is said at once, then now and then with how often it came; what
// differs is always said, and so is what is no trouble.
func TestLogRepeats(t *testing.T) {
	var out bytes.Buffer
	at := time.Unix(1e9, 0)
	log := logTo(&out, "text", slog.LevelInfo, true, func() time.Time { return at })
	down := func(n int) {
		for range n {
			log.With("call", "c1").Error("cannot list the queue", "error", errors.New("Postfix is down"))
			at = at.Add(5 * time.Second)
		}
	}
	down(72)
	log.With("call", "c2").Error("cannot list the queue", "error", errors.New("Postfix is down"))
	log.Error("cannot list the queue", "error", errors.New("permission denied"))
	log.Info("going on")
	log.Info("going on")
	at = at.Add(24 * time.Hour)
	down(1)
	want := `<3>msg="cannot list the queue" call=c1 error="Postfix is down"
<3>msg="cannot list the queue" call=c1 error="Postfix is down" repeated=11
<3>msg="cannot list the queue" call=c1 error="Postfix is down" repeated=23
<3>msg="cannot list the queue" call=c2 error="Postfix is down"
<3>msg="cannot list the queue" error="permission denied"
<6>msg="going on"
<6>msg="going on"
<3>msg="cannot list the queue" call=c1 error="Postfix is down" repeated=35
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	// Strangers cannot fill the memory with words of their own.
	for i := range 3 * maxRepeats {
		log.Warn("refused", "client", i)
	}
	if n := len(log.Handler().(*handler).again.seen); n > maxRepeats {
		t.Errorf("%d lines are remembered, want at most %d", n, maxRepeats)
	}
}
