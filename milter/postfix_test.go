package milter_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
	"github.com/etrnd/etrnd/internal/testbed"
	"github.com/etrnd/etrnd/milter"
)

const header = "X-ETRN-Queue"

// socket is where Postfix and the milter meet, inside a host.
const socket = "/var/spool/postfix/etrnd/milter.sock"

// hubMain holds mail for acme.example and beta.example and delivers that for
// online.example.
var hubMain = map[string]string{
	"defer_transports":      "transient",
	"relay_domains":         "acme.example beta.example",
	"transport_maps":        "inline:{acme.example=transient:[127.0.0.1]:9, beta.example=transient:[127.0.0.1]:9}",
	"smtpd_milters":         "unix:etrnd/milter.sock",
	"non_smtpd_milters":     "unix:etrnd/milter.sock",
	"milter_default_action": "accept",
	// XCLIENT gives a session another client, as a proxy in front does.
	"smtpd_authorized_xclient_hosts": "127.0.0.0/8",
}

var transientService = []string{"transient unix - - n - - smtp"}

func with(base map[string]string, more ...string) map[string]string {
	m := map[string]string{}
	for k, v := range base {
		m[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

func hub(t *testing.T, main map[string]string) (*testbed.Host, *testbed.Postfix) {
	t.Helper()
	bed := testbed.Start(t)
	h, err := bed.Host(t.Context(), "hub", testbed.HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile("/var/spool/postfix/etrnd/.keep", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pf, err := h.Postfix(t.Context(), testbed.PostfixOptions{Main: main, Master: transientService, Final: []string{"online.example"}})
	if err != nil {
		t.Fatal(err)
	}
	return h, pf
}

func queues(t *testing.T, defs ...string) *queue.Set {
	t.Helper()
	var qs []queue.Queue
	for _, d := range defs {
		name, patterns, _ := strings.Cut(d, "=")
		q := queue.Queue{Name: name}
		for p := range strings.SplitSeq(patterns, ",") {
			pat, err := queue.ParsePattern(p)
			if err != nil {
				t.Fatal(err)
			}
			q.Domains = append(q.Domains, pat)
		}
		qs = append(qs, q)
	}
	set, err := queue.NewSet(qs)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// recorder takes what the milter reports.
type recorder struct {
	mu     sync.Mutex
	events []report.Event
	panics func(report.Event) bool
}

func (r *recorder) report(e report.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.panics != nil && r.panics(e) {
		panic("made by the test")
	}
	r.events = append(r.events, e)
}

func (r *recorder) all() []report.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

func (r *recorder) wait(t *testing.T, what string, ok func([]report.Event) bool) []report.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := testbed.Until(ctx, what, func() (bool, error) { return ok(r.all()), nil })
	if err != nil {
		t.Fatalf("%v; events: %s", err, brief(r.all()))
	}
	return r.all()
}

func count(es []report.Event, k report.Kind) int {
	n := 0
	for _, e := range es {
		if e.Kind == k {
			n++
		}
	}
	return n
}

func brief(es []report.Event) string {
	var parts []string
	for _, e := range es {
		s := string(e.Kind)
		if len(e.Queues) > 0 {
			s += "(" + strings.Join(e.Queues, ",") + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

// serve runs a milter in this process, on a socket of the host.
func serve(t *testing.T, h *testbed.Host, o milter.Options) (m *milter.Milter, stop func()) {
	t.Helper()
	ln, err := listen.Listen(t.Context(), "unix:"+h.Path(socket), listen.Options{Mode: 0o666})
	if err != nil {
		t.Fatal(err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	m, err = milter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, ln) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return m, stop
}

// smtp is a dialogue with the host's Postfix.
type smtp struct {
	t *testing.T
	c *textproto.Conn
	n net.Conn
}

func dialSMTP(t *testing.T, h *testbed.Host) *smtp {
	t.Helper()
	c, err := h.Dial(t.Context(), "tcp", "127.0.0.1:25")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(60 * time.Second))
	s := &smtp{t: t, c: textproto.NewConn(c), n: c}
	s.expect(220)
	s.cmd(250, "EHLO client.example.org")
	return s
}

func (s *smtp) expect(code int) string {
	s.t.Helper()
	got, msg, err := s.c.ReadResponse(0)
	if err != nil && got == 0 {
		s.t.Fatalf("reading an answer: %v", err)
	}
	if got != code {
		s.t.Fatalf("Postfix says %d %s, want %d", got, msg, code)
	}
	return msg
}

func (s *smtp) cmd(code int, format string, args ...any) string {
	s.t.Helper()
	if err := s.c.PrintfLine(format, args...); err != nil {
		s.t.Fatal(err)
	}
	return s.expect(code)
}

// message sends one, and returns the queue id that Postfix gave it.
func (s *smtp) message(params string, rcpts []string, headers ...string) string {
	s.t.Helper()
	s.cmd(250, "MAIL FROM:<sender@example.org>%s", params)
	for _, r := range rcpts {
		s.cmd(250, "RCPT TO:<%s>", r)
	}
	msg := s.data(250, headers...)
	_, id, ok := strings.Cut(msg, "queued as ")
	if !ok {
		s.t.Fatalf("no queue id in %q", msg)
	}
	return id
}

func (s *smtp) data(code int, headers ...string) string {
	s.t.Helper()
	s.cmd(354, "DATA")
	for _, h := range headers {
		if err := s.c.PrintfLine("%s", h); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.cmd(code, "From: sender@example.org\r\nSubject: test\r\n\r\n%s: body\r\n.", header)
}

// tags are the tag headers of a message in the host's queue, and the rest of
// its header.
func tags(t *testing.T, h *testbed.Host, id string) (tags []string, rest string) {
	t.Helper()
	out, err := h.Run(t.Context(), "postcat", "-qh", id)
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(out) {
		name, value, _ := strings.Cut(l, ":")
		if strings.EqualFold(strings.TrimSpace(name), header) {
			if name != header {
				t.Errorf("a tag in other letters: %q", l)
			}
			tags = append(tags, strings.TrimSpace(value))
		} else {
			rest += l
		}
	}
	return tags, rest
}

func TestTags(t *testing.T) {
	h, _ := hub(t, hubMain)
	rec := &recorder{}
	serve(t, h, milter.Options{
		Settings: milter.Settings{Header: header, Queues: queues(t, "acme=acme.example", "beta=beta.example"), Transport: "transient"},
		Report:   rec.report,
	})
	s := dialSMTP(t, h)
	for _, tt := range []struct {
		name     string
		params   string
		rcpts    []string
		headers  []string
		want     []string
		count    int
		size     int64
		priority report.Priority
	}{
		{name: "one queue", rcpts: []string{"a@acme.example"}, want: []string{"acme"}, count: 1},
		{name: "a domain in capitals, two of one queue", rcpts: []string{"a@ACME.example", "b@acme.example"}, want: []string{"acme"}, count: 2},
		// Order of recipients, each queue once; who is online does not count.
		{name: "mixed", rcpts: []string{"b@beta.example", "x@online.example", "a@acme.example", "c@beta.example"}, want: []string{"beta", "acme"}, count: 3},
		{name: "no queue", rcpts: []string{"x@online.example"}},
		{name: "size and priority", params: " SIZE=1234 BODY=8BITMIME", rcpts: []string{"a@acme.example"}, headers: []string{"X-Priority: 1 (Highest)"}, want: []string{"acme"}, count: 1, size: 1234, priority: report.PriorityHigh},
		{name: "low", rcpts: []string{"a@acme.example"}, headers: []string{"Importance: low"}, want: []string{"acme"}, count: 1, priority: report.PriorityLow},
		{name: "forged, once", rcpts: []string{"a@acme.example"}, headers: []string{header + ": beta"}, want: []string{"acme"}, count: 1},
		// In mixed case, folded, empty, with space before the colon, apart
		// from each other.
		{name: "forged, many", rcpts: []string{"a@acme.example"},
			headers: []string{"x-etrn-queue: beta", "X-One: 1", "X-Etrn-Queue:\r\n folded\r\n\ttwice", "X-Two: 2", "X-ETRN-QUEUE:", "X-ETRN-Queue : acme", "X-Three: 3", "X-ETRN-Queue: beta"},
			want:    []string{"acme"}, count: 1},
		// Names that only begin like it are somebody else's.
		{name: "similar", rcpts: []string{"a@acme.example"}, headers: []string{"X-ETRN-Queue-Size: 9", "X-ETRN: y"}, want: []string{"acme"}, count: 1},
		{name: "forged, no queue", rcpts: []string{"x@online.example"}, headers: []string{header + ": acme", header + ": beta"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(rec.all())
			// A second held recipient of a domain that is in no queue of ours
			// keeps the message where it can be read.
			id := s.message(tt.params, append(tt.rcpts, "keep@beta.example")[:len(tt.rcpts)], tt.headers...)
			es := rec.wait(t, "message", func(es []report.Event) bool { return count(es[before:], report.Message) == 1 })
			m := es[len(es)-1]
			if m.QueueID != id || !slices.Equal(m.Queues, tt.want) || m.RecipientCount != tt.count || len(m.Recipients) != tt.count || m.Size != tt.size || m.Priority != tt.priority {
				t.Errorf("reported %+v", m)
			}
			if m.Client != netip.MustParseAddr("127.0.0.1") || m.Local != netip.MustParseAddrPort("127.0.0.1:25") {
				t.Errorf("reported client %v, local %v", m.Client, m.Local)
			}
			if tt.want == nil {
				return
			}
			got, rest := tags(t, h, id)
			if !slices.Equal(got, tt.want) {
				t.Errorf("tags %q, want %q", got, tt.want)
			}
			for _, l := range tt.headers {
				if strings.HasPrefix(l, "X-") && !strings.EqualFold(strings.TrimSpace(strings.SplitN(l, ":", 2)[0]), header) && !strings.Contains(rest, l+"\n") {
					t.Errorf("header %q is gone from:\n%s", l, rest)
				}
			}
			if strings.Contains(rest, "folded") || strings.Contains(rest, "twice") {
				t.Errorf("parts of a forged tag are left:\n%s", rest)
			}
		})
	}
	// Two messages went to online.example alone, one there and elsewhere.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []testbed.Delivered
	if err := testbed.Until(ctx, "three deliveries", func() (ok bool, err error) {
		got, err = h.Delivered()
		return len(got) == 3, err
	}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range got {
		n += len(d.Header[textproto.CanonicalMIMEHeaderKey(header)])
	}
	if n != 2 {
		t.Errorf("%d tags in what was delivered, want the 2 of the mixed message", n)
	}
	_ = io.EOF
	_ = fmt.Sprint
}
