package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
)

// events of a call that goes well, and of one that is refused.
func callEvents() []api.CallEvent {
	in := func(n int, b int64, of int) api.Progress {
		return api.Progress{Messages: n, Bytes: b, Expected: of}
	}
	at := func(s int) api.Seconds { return api.Seconds(time.Duration(s) * time.Second) }
	none := api.Progress{Expected: -1}
	return []api.CallEvent{
		{CallRef: hub, Phase: api.PhaseDialling, Waiting: "pon isp to end", In: none, Out: none},
		{CallRef: hub, Phase: api.PhaseMTA, Waiting: "the local SMTP listener 127.0.0.1:25 to answer", In: none, Out: none, Line: at(1)},
		{CallRef: sat, Phase: api.PhaseConnecting, In: none, Out: none},
		{CallRef: hub, Phase: api.PhaseTLS, In: none, Out: none, Line: at(2)},
		{CallRef: hub, Phase: api.PhaseAuth, In: none, Out: none, Line: at(2)},
		{CallRef: hub, Phase: api.PhaseRequest, In: none, Out: none, Line: at(3)},
		{CallRef: sat, Phase: api.PhaseDone, In: none, Out: none, Result: &refused},
		{CallRef: hub, Phase: api.PhasePushing, Waiting: "3 messages to go", In: in(0, 0, 14), Out: in(0, 0, 3), Line: at(4)},
		{CallRef: hub, Phase: api.PhasePushing, Waiting: "1 message to go", In: in(3, 6000, 14), Out: in(2, 2000, 3), Line: at(5)},
		{CallRef: hub, Phase: api.PhaseReceiving, Waiting: "7 of 14 messages", In: in(7, 16000, 14), Out: in(3, 2100345, 3), Line: at(60)},
		{CallRef: hub, Phase: api.PhaseHangingUp, In: in(14, 32345, 14), Out: in(3, 2100345, 3), Line: at(72)},
		{CallRef: hub, Phase: api.PhaseDone, In: in(14, 32345, 14), Out: in(3, 2100345, 3), Line: at(72), Result: &good},
	}
}

func queued(evs []api.CallEvent) chan api.CallEvent {
	c := make(chan api.CallEvent, len(evs))
	for _, ev := range evs {
		c <- ev
	}
	return c
}

// Without a terminal there is a line for each phase, and at the end what
// came, what went, how long the line was used, and the worse exit code.
func TestWait(t *testing.T) {
	d := full()
	d.calls = []api.CallRef{hub, sat}
	d.events = queued(callEvents())
	out, errs, exit := etrnctl(t, "", "link", "up", "isp", "--wait", "--socket", d.start(t))
	if exit != api.ExitUnavailable {
		t.Errorf("exit %d, want 69", exit)
	}
	golden(t, "wait", out)
	golden(t, "wait-stderr", errs)
	narrow(t, out)
}

// With --json there are the results and nothing else.
func TestWaitJSON(t *testing.T) {
	d := full()
	d.events = queued([]api.CallEvent{{CallRef: hub, Phase: api.PhaseDone, Result: &good}})
	out, errs, exit := etrnctl(t, "", "call", "hub", "--wait", "--json", "--socket", d.start(t))
	if exit != 0 || errs != "" {
		t.Errorf("exit %d, stderr %q", exit, errs)
	}
	golden(t, "wait-json", out)
}

// The daemon goes away in the middle of a call.
func TestWaitDaemonGone(t *testing.T) {
	d := full()
	d.events = queued(callEvents()[:2])
	close(d.events)
	out, errs, exit := etrnctl(t, "", "call", "hub", "--wait", "--socket", d.start(t))
	if exit != api.ExitTempFail || !strings.Contains(errs, "went away before the call had ended") || !strings.Contains(out, "dialling") {
		t.Errorf("exit %d, stderr %q, stdout %q", exit, errs, out)
	}
}

// The exit code is the worst one of the calls, and the sentence goes with it.
func TestOutcome(t *testing.T) {
	r := func(remote string, exit int) api.CallResult {
		return api.CallResult{CallRef: api.CallRef{Remote: remote}, Exit: exit, Error: "e"}
	}
	for _, c := range []struct {
		results []api.CallResult
		exit    int
		says    string
	}{
		{nil, 0, ""},
		{[]api.CallResult{r("a", 0), r("b", 0)}, 0, ""},
		{[]api.CallResult{r("a", 75), r("b", 0), r("c", 69)}, 75, "a: e"},
		{[]api.CallResult{r("a", 75), r("b", 78)}, 78, "b: e"},
	} {
		err := outcome(c.results)
		if err == nil {
			if c.exit != 0 {
				t.Errorf("%v: no error", c.results)
			}
			continue
		}
		if e := err.(*api.Error); e.Exit != c.exit || e.Message != c.says {
			t.Errorf("%v: got %d %q, want %d %q", c.results, e.Exit, e.Message, c.exit, c.says)
		}
	}
}

// screen is as much of a terminal as the progress uses. It fails the test at
// anything else, and at a line that would be wrapped.
type screen struct {
	t     *testing.T
	width int
	lines []string
	row   int
}

func (s *screen) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		var n int
		switch {
		case bytes.HasPrefix(rest, []byte("\x1b[J")):
			s.lines = s.lines[:s.row]
			rest = rest[3:]
		case rest[0] == '\x1b':
			if k, err := fmt.Sscanf(string(rest), "\x1b[%dA", &n); k != 1 || err != nil {
				s.t.Fatalf("unknown escape %.10q", rest)
			}
			if s.row -= n; s.row < 0 {
				s.t.Fatal("above the top")
			}
			rest = rest[bytes.IndexByte(rest, 'A')+1:]
		case rest[0] == '\r':
			rest = rest[1:]
		default:
			line, more, ok := bytes.Cut(rest, []byte("\n"))
			if !ok {
				s.t.Fatalf("a line without end: %q", rest)
			}
			if len([]rune(string(line))) >= s.width {
				s.t.Errorf("a line of %d columns", len(line))
			}
			s.lines = append(s.lines[:s.row], string(line))
			s.row++
			rest = more
		}
	}
	return len(b), nil
}

// On a terminal two lines for each call are rewritten, and at the end nothing
// is left of them.
func TestLive(t *testing.T) {
	s := &screen{t: t, width: 60}
	now, rows := noon, 24
	l := &live{w: s, size: func() (int, int) { return s.width, rows }, now: func() time.Time { return now }, order: []api.CallRef{hub, sat}, last: map[string]seen{}, stop: make(chan struct{})}
	var shown strings.Builder
	for _, ev := range callEvents() {
		if err := l.event(ev); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		l.draw() // the clock runs on meanwhile, except before the line is up and after the end
		shown.WriteString(strings.Join(s.lines, "\n") + "\n\n")
	}
	golden(t, "live", shown.String())
	// Where there is no room for all, those that go on come first.
	rows = 4
	l.last[hub.Call] = seen{callEvents()[0], now}
	l.order = []api.CallRef{sat, hub}
	l.draw()
	if len(s.lines) != 2 || !strings.HasPrefix(s.lines[0], "hub: dialling") {
		t.Errorf("on four rows: %q", s.lines)
	}
	l.end()
	if len(s.lines) != 0 {
		t.Errorf("left on the screen: %q", s.lines)
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999499: "999 kB", 999500: "1.0 MB", 2100345: "2.1 MB", 1 << 40: "1.1 TB", 1<<63 - 1: "9223 PB",
	} {
		if got := size(n); got != want && n != 1<<63-1 {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	if got := size(1<<63 - 1); got != "9 EB" {
		t.Errorf("the largest: %q", got)
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct {
		d           time.Duration
		span, clock string
	}{
		{-time.Second, "0 s", "0:00"}, // clocks are set back
		{499 * time.Millisecond, "0 s", "0:00"},
		{59 * time.Second, "59 s", "0:59"},
		{61 * time.Second, "1 min 1 s", "1:01"},
		{time.Hour + 61*time.Second, "1 h 1 min", "1:01:01"},
		{49 * time.Hour, "2 d 1 h", "49:00:00"},
	} {
		if got := span(c.d); got != c.span {
			t.Errorf("span(%v) = %q, want %q", c.d, got, c.span)
		}
		if got := clock(c.d); got != c.clock {
			t.Errorf("clock(%v) = %q, want %q", c.d, got, c.clock)
		}
	}
}

// Nothing that a remote says reaches the terminal as a command to it.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ünïcode 日本":    "plain ünïcode 日本",
		"\x1b[2J":             `\x1b[2J`,
		"a\r\nb\tc":           `a\r\nb\tc`,
		"\x00\x7f":            `\x00\x7f`,
		"\u009b31m":           `\u009b31m`, // CSI in one byte of Latin-1
		"\xff\xfe":            `\xff\xfe`,
		"\u202egnp.exe":       `\u202egnp.exe`, // right to left
		"":                    "",
		"it's \"quoted\" \\n": "it's \"quoted\" \\n",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		items []string
		room  int
		want  string
	}{
		{nil, 10, ""},
		{[]string{"a.example"}, 3, "a.example"}, // one in any case
		{[]string{"aa", "bb", "cc"}, 8, "aa bb cc"},
		{[]string{"aa", "bb", "cc"}, 7, "aa +2"},
		{[]string{"aa", "bb", "cc"}, 2, "aa +2"},
	} {
		if got := fit(c.items, c.room); got != c.want {
			t.Errorf("fit(%q, %d) = %q, want %q", c.items, c.room, got, c.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[31m\u009b\xff\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range clean(s) {
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				t.Errorf("%q lets %U through", s, r)
			}
		}
	})
}
