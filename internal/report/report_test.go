package report

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// daemon is a Server on a socket, and what it was handed.
type daemon struct {
	path string
	stop func()

	mu     sync.Mutex
	events []Event
	more   chan struct{}
}

func startDaemon(t *testing.T, path string, o ServerOptions) *daemon {
	t.Helper()
	d := &daemon{path: path, more: make(chan struct{}, 1)}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	handle := o.Handle
	o.Handle = func(e Event) {
		if handle != nil {
			handle(e)
		}
		d.mu.Lock()
		d.events = append(d.events, e)
		d.mu.Unlock()
		select {
		case d.more <- struct{}{}:
		default:
		}
	}
	o.Logger = testLog(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(o).Serve(ctx, ln) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(d.stop)
	return d
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// wait waits until the events seen so far satisfy a condition.
func (d *daemon) wait(t *testing.T, what string, ok func([]Event) bool) []Event {
	t.Helper()
	deadline := hang.After()
	for {
		d.mu.Lock()
		seen := append([]Event(nil), d.events...)
		d.mu.Unlock()
		if ok(seen) {
			return seen
		}
		select {
		case <-d.more:
		case <-deadline:
			t.Fatalf("waited 20 s for %s; events: %s", what, brief(seen))
		}
	}
}

func brief(es []Event) string {
	var b strings.Builder
	for _, e := range es {
		fmt.Fprintf(&b, "%s", e.Kind)
		if e.Session != "" {
			fmt.Fprintf(&b, ":%s", e.Session)
		}
		if e.QueueID != "" {
			fmt.Fprintf(&b, ":%s", e.QueueID)
		}
		if e.Transaction {
			b.WriteString(":tx")
		}
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String())
}

// atLeast is the condition that n events of a kind were seen.
func atLeast(k Kind, n int) func([]Event) bool {
	return func(es []Event) bool {
		seen := 0
		for _, e := range es {
			if e.Kind == k {
				seen++
			}
		}
		return seen >= n
	}
}

func startReporter(t *testing.T, path string, o ReporterOptions) (*Reporter, func()) {
	t.Helper()
	o.Dial = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	o.Logger = testLog(t)
	r := NewReporter(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return r, stop
}

func ev(k Kind, session string) Event {
	return Event{Kind: k, Time: time.Now(), Session: session, Client: netip.MustParseAddr("192.0.2.7"), Local: netip.MustParseAddrPort("198.51.100.1:25")}
}

func msg(session, id string) Event {
	e := ev(Message, session)
	e.QueueID, e.Recipients, e.Size, e.Priority, e.Digest = id, []string{"a@acme.example"}, 1234, PriorityHigh, "0a1b"
	return e
}

func TestStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := startDaemon(t, path, ServerOptions{})
	r, stop := startReporter(t, path, ReporterOptions{})
	d.wait(t, "ready", atLeast(Ready, 1))
	r.Report(ev(Open, "s1"))
	r.Report(ev(Mail, "s1"))
	want := msg("s1", "4F1")
	r.Report(want)
	r.Report(ev(Mail, "s1"))
	r.Report(ev(Abort, "s1"))
	r.Report(ev(Close, "s1"))
	es := d.wait(t, "close", atLeast(Close, 1))
	if got := brief(es); got != "hello ready open:s1 mail:s1 message:s1:4F1 mail:s1 abort:s1 close:s1" {
		t.Errorf("events: %s", got)
	}
	// Everything of an event crosses.
	got := es[4]
	if got.Reporter == "" {
		t.Error("no reporter is named")
	}
	got.Reporter = ""
	if !got.Time.Equal(want.Time) {
		t.Errorf("time %v, want %v", got.Time, want.Time)
	}
	got.Time = want.Time
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	stop()
	es = d.wait(t, "gone", atLeast(Gone, 1))
	if last := es[len(es)-1]; last.Kind != Gone || last.Reporter != es[0].Reporter {
		t.Errorf("last event: %+v", last)
	}
}

// While the daemon is away messages wait, and sessions are told as they are
// when it is back.
func TestDaemonAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	r, _ := startReporter(t, path, ReporterOptions{})
	r.Report(ev(Open, "over"))
	r.Report(msg("over", "A1"))
	r.Report(ev(Close, "over"))
	r.Report(ev(Open, "still"))
	r.Report(ev(Mail, "still"))
	d := startDaemon(t, path, ServerOptions{})
	es := d.wait(t, "ready", atLeast(Ready, 1))
	if got := brief(es); got != "hello message:over:A1 open:still:tx ready" {
		t.Errorf("events: %s", got)
	}
	d.stop()
	if got := d.wait(t, "gone", atLeast(Gone, 1)); got[len(got)-1].Kind != Gone {
		t.Errorf("events: %s", brief(got))
	}
	r.Report(msg("still", "A2"))
	d = startDaemon(t, path, ServerOptions{})
	es = d.wait(t, "ready", atLeast(Ready, 1))
	// A2 went into a dead connection or waited, according to when the
	// reporter noticed; one or the other must be told.
	a2, lost := atLeast(Message, 1)(es), atLeast(Lost, 1)(es)
	if !a2 && !lost {
		t.Errorf("neither the message nor a loss is told: %s", brief(es))
	}
	if last := es[len(es)-2]; last.Session != "still" || last.Transaction {
		t.Errorf("session in the picture: %+v, want still, outside a transaction", last)
	}
}

// What does not fit is dropped and said to be lost; Report never waits.
func TestOverflow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	r, _ := startReporter(t, path, ReporterOptions{MaxEvents: 100})
	r.Report(ev(Open, "s1"))
	const n = 1000
	for i := range n {
		r.Report(msg("s1", fmt.Sprintf("%03X", i)))
	}
	d := startDaemon(t, path, ServerOptions{})
	es := d.wait(t, "ready", atLeast(Ready, 1))
	lost, messages := 0, 0
	for _, e := range es {
		switch e.Kind {
		case Lost:
			lost = e.Count
		case Message:
			messages++
		}
	}
	if lost == 0 || lost+messages != n || messages > 100 {
		t.Errorf("%d messages and %d lost, want %d together and at most 100 messages", messages, lost, n)
	}
	// The newest are those kept.
	if e := es[len(es)-3]; e.QueueID != fmt.Sprintf("%03X", n-1) {
		t.Errorf("the last message is %q", e.QueueID)
	}
}

// A daemon that stops reading makes the reporter begin a new picture on the
// same connection; the bytes that wait are bounded.
func TestStuckDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	gate := make(chan struct{})
	first := true
	d := startDaemon(t, path, ServerOptions{Handle: func(e Event) {
		if first && e.Kind == Message {
			first = false
			<-gate
		}
	}})
	r, _ := startReporter(t, path, ReporterOptions{MaxBytes: 64 << 10})
	d.wait(t, "ready", atLeast(Ready, 1))
	r.Report(ev(Open, "s1"))
	sent := 0
	for deadline := hang.Deadline(); ; {
		r.Report(msg("s1", fmt.Sprintf("%06X", sent)))
		sent++
		r.mu.Lock()
		bytes, lost := r.bytes, r.lost
		r.mu.Unlock()
		if bytes > 64<<10 {
			t.Fatalf("%d bytes wait, at most %d may", bytes, 64<<10)
		}
		if lost > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was dropped")
		}
	}
	r.Report(ev(Close, "s1"))
	r.Report(ev(Open, "s2"))
	close(gate)
	// There can be several gaps, and so several pictures; the last one has s2.
	es := d.wait(t, "a picture with s2", func(es []Event) bool {
		return len(es) > 1 && es[len(es)-1].Kind == Ready && es[len(es)-2].Session == "s2"
	})
	messages, lost, hellos := 0, 0, 0
	for _, e := range es {
		switch e.Kind {
		case Message:
			messages++
		case Lost:
			lost += e.Count
		case Hello:
			hellos++
		case Gone:
			t.Error("the connection broke")
		}
	}
	if messages+lost != sent || hellos < 2 {
		t.Errorf("%d messages and %d lost of %d, %d hellos", messages, lost, sent, hellos)
	}
	if es[len(es)-2].Kind != Open || es[len(es)-3].Kind == Open {
		t.Errorf("the new picture ends with %s", brief(es[len(es)-2:]))
	}
}

func TestSeveralReporters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := startDaemon(t, path, ServerOptions{})
	a, stopA := startReporter(t, path, ReporterOptions{})
	b, _ := startReporter(t, path, ReporterOptions{})
	a.Report(ev(Open, "a"))
	b.Report(ev(Open, "b"))
	es := d.wait(t, "both", func(es []Event) bool { return atLeast(Open, 2)(es) && atLeast(Ready, 2)(es) })
	by := map[string]string{}
	for _, e := range es {
		if e.Kind == Open {
			by[e.Session] = e.Reporter
		}
	}
	if by["a"] == by["b"] {
		t.Errorf("both sessions are of reporter %q", by["a"])
	}
	stopA()
	es = d.wait(t, "gone", atLeast(Gone, 1))
	if e := es[len(es)-1]; e.Reporter != by["a"] {
		t.Errorf("gone is %q, want %q", e.Reporter, by["a"])
	}
}

// Lines that end a stream. Each is written after a good hello; the server
// must close the connection, tell its handler that the reporter is gone, and
// go on with others.
func TestBadLines(t *testing.T) {
	const hello = `{"kind":"hello","time":"2026-01-02T03:04:05Z","version":1}` + "\n"
	for _, tt := range []struct {
		name, in string
		begun    bool
	}{
		{"no JSON", hello + "EHLO\n", true},
		{"two values in a line", hello + `{"kind":"lost","time":"2026-01-02T03:04:05Z"} {}` + "\n", true},
		{"no kind", hello + "{}\n", true},
		{"made up gone", hello + `{"kind":"gone"}` + "\n", true},
		{"a session without a name", hello + `{"kind":"open"}` + "\n", true},
		{"a newline in a name", hello + `{"kind":"message","session":"a","queue_id":"x\ny"}` + "\n", true},
		{"a name too long", hello + `{"kind":"open","session":"` + strings.Repeat("x", 129) + `"}` + "\n", true},
		{"a negative size", hello + `{"kind":"message","session":"a","size":-1}` + "\n", true},
		{"too many recipients", hello + `{"kind":"message","session":"a","recipients":["a"` + strings.Repeat(`,"a"`, 100) + "]}\n", true},
		{"an endless line", hello + strings.Repeat("x", MaxLine+1), true},
		{"NUL", hello + "\x00\n", true},
		{"no hello", `{"kind":"open","session":"a"}` + "\n", false},
		{"another version", `{"kind":"hello","version":2}` + "\n", false},
		{"empty", "\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			d := startDaemon(t, path, ServerOptions{})
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(hang.Deadline())
			// The server may close before all of it is written.
			io.WriteString(c, tt.in)
			if b, err := io.ReadAll(c); len(b) > 0 || os.IsTimeout(err) {
				t.Fatalf("the server says %q, %v; want the end", b, err)
			}
			r, _ := startReporter(t, path, ReporterOptions{})
			r.Report(ev(Open, "good"))
			n := 1
			if tt.begun {
				n = 2
			}
			es := d.wait(t, "another reporter's hello", atLeast(Hello, n))
			if got := atLeast(Gone, 1)(es); got != tt.begun {
				t.Errorf("gone told: %v, want %v (%s)", got, tt.begun, brief(es))
			}
		})
	}
}

// A newer milter may say more than this daemon understands.
func TestUnknownIsIgnored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := startDaemon(t, path, ServerOptions{})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, `{"kind":"hello","version":1,"colour":"red"}`+"\n"+`{"kind":"weather"}`+"\n"+`{"kind":"ready"}`+"\n")
	if got := brief(d.wait(t, "ready", atLeast(Ready, 1))); got != "hello ready" {
		t.Errorf("events: %s", got)
	}
}

const childEnv = "ETRND_REPORT_TEST_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		c, err := net.Dial("unix", path)
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(2)
		}
		io.WriteString(c, `{"kind":"hello","version":1}`+"\n")
		c.SetReadDeadline(hang.Deadline())
		if _, err := io.ReadAll(c); os.IsTimeout(err) {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestFormatFits(t *testing.T) {
	long := strings.Repeat("x", 1000)
	many := make([]string, 5000)
	for i := range many {
		many[i] = fmt.Sprintf("u%d@acme.example", i)
	}
	hostile := make([]string, MaxRecipients)
	for i := range hostile {
		hostile[i] = strings.Repeat("<", MaxAddress)
	}
	for _, tt := range []struct {
		name string
		e    Event
		want func(Event) bool
	}{
		{"many recipients", Event{Kind: Message, Session: "s", Recipients: many},
			func(e Event) bool { return len(e.Recipients) == MaxRecipients }},
		{"an address that no server takes is left out", Event{Kind: Message, Session: "s", Recipients: []string{long, "a\nb@x", "a@acme.example"}},
			func(e Event) bool { return slices.Equal(e.Recipients, []string{"a@acme.example"}) }},
		{"a name too long is left out", Event{Kind: Message, Session: "s", QueueID: long, Digest: long},
			func(e Event) bool { return e.QueueID == "" && e.Digest == "" }},
		{"a line too long becomes a loss", Event{Kind: Message, Session: "s", Recipients: hostile},
			func(e Event) bool { return e.Kind == Lost && e.Count == 1 }},
	} {
		line := tt.e.format()
		if len(line) > MaxLine {
			t.Errorf("%s: a line of %d bytes", tt.name, len(line))
		}
		e, err := parse(line[:len(line)-1])
		if err != nil || !tt.want(e) {
			t.Errorf("%s: %v, %.300s", tt.name, err, line)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"kind":"hello","time":"2026-01-02T03:04:05Z","version":1}`))
	f.Add([]byte(`{"kind":"open","session":"a-1","client":"192.0.2.1","local":"[2001:db8::1]:25"}`))
	f.Add([]byte(`{"kind":"message","session":"a-1","queue_id":"4X","recipients":["a@acme.example"],"size":1}`))
	f.Add([]byte(`{"kind":"open","session":"a","client":"fe80::1%` + strings.Repeat("z", 300) + `"}`))
	f.Add([]byte(`[[[[[[`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parse(line)
		if err != nil {
			return
		}
		// What is taken can be written again, and is taken again.
		out := e.format()
		if strings.Count(string(out), "\n") != 1 || len(out) > MaxLine {
			t.Fatalf("%q was written as %q", line, out)
		}
		if _, err := parse(out[:len(out)-1]); err != nil {
			t.Fatalf("%q was written as %q: %v", line, out, err)
		}
	})
}
