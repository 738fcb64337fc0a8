//go:build !quick

package milter_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
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
	err := testbed.Until(t.Context(), what, func() (bool, error) { return ok(r.all()), nil })
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
		if len(e.Recipients) > 0 {
			s += "(" + strings.Join(e.Recipients, ",") + ")"
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
	c.SetDeadline(hang.Deadline())
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
	for name, late := range map[string]bool{"at once": false, "late": true} {
		t.Run(name, func(t *testing.T) { testTags(t, late) })
	}
}

func testTags(t *testing.T, late bool) {
	h, _ := hub(t, hubMain)
	rec := &recorder{}
	serve(t, h, milter.Options{
		Settings: milter.Settings{Header: header, Queues: queues(t, "acme=acme.example", "beta=beta.example"), Transport: "transient", Late: late},
		Report:   rec.report,
	})
	s := dialSMTP(t, h)
	digests := map[string]bool{}
	many := make([]string, 150)
	for i := range many {
		many[i] = fmt.Sprintf("u%d@acme.example", i)
	}
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
		// Not all are listed in the report.
		{name: "many of one queue", rcpts: many, want: []string{"acme"}, count: 150},
		{name: "no queue", rcpts: []string{"x@online.example"}},
		{name: "size and priority", params: " SIZE=1234 BODY=8BITMIME", rcpts: []string{"a@acme.example"}, headers: []string{"X-Priority: 1 (Highest)"}, want: []string{"acme"}, count: 1, size: 1234, priority: report.PriorityHigh},
		{name: "with a Message-ID", rcpts: []string{"a@acme.example"}, headers: []string{"Message-ID: <1@example.org>"}, want: []string{"acme"}, count: 1},
		{name: "the same again", rcpts: []string{"a@acme.example"}, headers: []string{"Message-ID: <1@example.org>"}, want: []string{"acme"}, count: 1},
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
			id := s.message(tt.params, tt.rcpts, tt.headers...)
			es := rec.wait(t, "message", func(es []report.Event) bool { return count(es[before:], report.Message) == 1 })
			m := es[len(es)-1]
			if m.QueueID != id || len(m.Recipients) != min(tt.count, report.MaxRecipients) || m.Size != tt.size || m.Priority != tt.priority {
				t.Errorf("reported %+v", m)
			}
			if m.Client != netip.MustParseAddr("127.0.0.1") || m.Local != netip.MustParseAddrPort("127.0.0.1:25") {
				t.Errorf("reported client %v, local %v", m.Client, m.Local)
			}
			// Postfix gives each message of a local client a Message-ID that
			// has none, and shows it to milters.
			if again := digests[m.Digest]; m.Digest == "" || again != (tt.name == "the same again") {
				t.Errorf("digest %q, seen before: %v", m.Digest, again)
			}
			digests[m.Digest] = true
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
	var got []testbed.Delivered
	if err := testbed.Until(t.Context(), "three deliveries", func() (ok bool, err error) {
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
}

// Several messages and aborts in one session, each way that a transaction can
// end, and recipients that Postfix refuses.
func TestSessions(t *testing.T) {
	h, _ := hub(t, with(hubMain,
		"smtpd_delay_reject", "no",
		"smtpd_sender_restrictions", "check_sender_access inline:{refused@example.org=REJECT}",
		"smtpd_recipient_restrictions", "check_recipient_access inline:{refused@beta.example=REJECT}"))
	rec := &recorder{}
	serve(t, h, milter.Options{
		Settings: milter.Settings{Header: header, Queues: queues(t, "acme=acme.example", "beta=beta.example", "other=elsewhere.example"), Transport: "transient"},
		Report:   rec.report,
	})
	session := func(want string, f func(*smtp)) {
		t.Helper()
		before := len(rec.all())
		s := dialSMTP(t, h)
		f(s)
		s.n.Close()
		es := rec.wait(t, "close", func(es []report.Event) bool { return count(es[before:], report.Close) == 1 })[before:]
		if got := brief(es); got != want {
			t.Errorf("events: %s\nwant:   %s", got, want)
		}
		for _, e := range es {
			if e.Session == "" || e.Session != es[0].Session || !e.Client.IsValid() || !e.Local.IsValid() || e.Time.IsZero() {
				t.Errorf("not complete: %+v", e)
			}
		}
	}
	mail := func(s *smtp, rcpts ...string) {
		t.Helper()
		s.cmd(250, "MAIL FROM:<sender@example.org>")
		for _, r := range rcpts {
			s.cmd(250, "RCPT TO:<%s>", r)
		}
	}

	// Each event comes as it happens, not when Postfix next wants an answer.
	now := func(k report.Kind, n int) {
		t.Helper()
		rec.wait(t, string(k), func(es []report.Event) bool { return count(es, k) == n })
	}
	session("open mail abort mail message(a@acme.example) mail abort close", func(s *smtp) {
		now(report.Open, 1)
		s.cmd(250, "MAIL FROM:<sender@example.org>")
		now(report.Mail, 1)
		s.cmd(250, "RSET")
		// The exception: Postfix keeps an abort to itself until it next has
		// something to ask.
		mail(s, "a@acme.example")
		now(report.Abort, 1)
		now(report.Mail, 2)
		s.data(250)
		now(report.Message, 1)
		mail(s, "a@acme.example")
		now(report.Mail, 3)
	})
	session("open close", func(s *smtp) { s.cmd(221, "QUIT") })
	// The client just goes.
	session("open close", func(s *smtp) {})
	session("open mail message(a@acme.example) mail abort mail message(b@beta.example) mail message close", func(s *smtp) {
		s.message("", []string{"a@acme.example"})
		mail(s, "a@acme.example")
		s.cmd(250, "RSET")
		// What was for acme is forgotten.
		s.message("", []string{"b@beta.example"})
		s.message("", []string{"x@online.example"})
		s.cmd(250, "RSET")
		s.cmd(221, "QUIT")
	})
	// EHLO and QUIT end a transaction too, and so does a lost connection, in
	// the envelope and in the data.
	session("open mail abort mail abort close", func(s *smtp) {
		mail(s, "a@acme.example")
		s.cmd(250, "EHLO again.example.org")
		mail(s, "a@acme.example")
		s.cmd(221, "QUIT")
	})
	session("open mail abort close", func(s *smtp) { mail(s, "a@acme.example") })
	session("open mail abort close", func(s *smtp) {
		mail(s, "a@acme.example")
		s.cmd(354, "DATA")
		s.c.PrintfLine("Subject: half")
	})
	// A recipient that Postfix refuses is none, though its domain belongs to a
	// queue. A refused sender begins no transaction.
	session("open mail refused message(a@acme.example) close", func(s *smtp) {
		s.cmd(554, "MAIL FROM:<refused@example.org>")
		mail(s, "a@acme.example")
		s.cmd(554, "RCPT TO:<refused@beta.example>")
		s.data(250)
		s.cmd(221, "QUIT")
	})
	// Of a recipient that is refused there is word at once, and of a message that
	// goes on after a refusal, too.
	session("open mail refused refused abort mail refused mail message(a@acme.example) close", func(s *smtp) {
		mail(s)
		s.cmd(554, "RCPT TO:<refused@beta.example>")
		now(report.Refused, 2)
		s.cmd(554, "RCPT TO:<refused@beta.example>")
		now(report.Refused, 3)
		s.cmd(250, "RSET")
		mail(s)
		s.cmd(554, "RCPT TO:<refused@beta.example>")
		now(report.Refused, 4)
		mails := count(rec.all(), report.Mail)
		s.cmd(250, "RCPT TO:<a@acme.example>")
		now(report.Mail, mails+1)
		s.data(250)
		s.cmd(221, "QUIT")
	})
	var told []string
	for _, e := range rec.all() {
		if e.Kind == report.Refused {
			told = append(told, fmt.Sprintf("%d %s %s", e.To, e.Domain, e.Reply))
		}
	}
	const no = " beta.example 5.7.1 Recipient address rejected: Access denied"
	if want := []string{"1" + no, "0" + no, "0" + no, "0" + no}; !slices.Equal(told, want) {
		t.Errorf("told of refusals: %q", told)
	}
}

// "*" means what Postfix itself sends by the held transport; single addresses
// and extensions; mail from the command line.
func TestEverythingElse(t *testing.T) {
	h, pf := hub(t, with(hubMain,
		"default_transport", "transient:[127.0.0.1]:9",
		"transport_maps", "inline:{direct.example=smtp:[127.0.0.1]:9, boss@online.example=transient:[127.0.0.1]:9}",
		"relay_domains", "direct.example",
		"recipient_delimiter", "+"))
	rec := &recorder{}
	m, _ := serve(t, h, milter.Options{
		Settings: milter.Settings{Header: header, Queues: queues(t, "out=*", "boss=boss@online.example"), Transport: "transient", Delimiters: "+",
			Local: func(d string) bool { return d == "online.example" }},
		Report: rec.report,
	})
	check := func(name string, want ...string) {
		t.Helper()
		es := rec.all()
		m := es[len(es)-1]
		if m.Kind != report.Message || (len(m.Recipients) > 0) != (want != nil) {
			t.Errorf("%s: %s of %v, want queues %v", name, m.Kind, m.Recipients, want)
		}
		// What is not held may be on its way already, and has no tag to look for.
		if want != nil {
			if got, _ := tags(t, h, m.QueueID); !slices.Equal(got, want) {
				t.Errorf("%s: tags %v, want %v", name, got, want)
			}
		}
	}
	s := dialSMTP(t, h)
	for _, tt := range []struct {
		rcpt string
		want []string
	}{
		{"x@far.example", []string{"out"}},
		{"x@[192.0.2.9]", []string{"out"}},
		// Final here, and by another transport.
		{"x@online.example", nil},
		{"x@direct.example", nil},
		{"boss@online.example", []string{"boss"}},
		{"Boss+lists@online.example", []string{"boss"}},
		{"root", nil},
	} {
		s.message("", []string{tt.rcpt})
		check(tt.rcpt, tt.want...)
	}
	// sendmail(1) comes by way of cleanup, which plays the client.
	before := len(rec.all())
	if _, err := h.Run(t.Context(), "sh", "-c", "echo hello | sendmail -f root@hub.example.net y@far.example z@online.example"); err != nil {
		t.Fatal(err)
	}
	es := rec.wait(t, "close", func(es []report.Event) bool { return count(es[before:], report.Close) == 1 })[before:]
	if got := brief(es); got != "open mail message(y@far.example) close" {
		t.Errorf("events of sendmail: %s", got)
	}
	if e := es[2]; e.QueueID == "" || !e.Client.IsLoopback() || e.Local.IsValid() {
		t.Errorf("reported %+v", e)
	}

	// New settings count from the next message on; bad ones do not.
	if err := m.Reload(milter.Settings{Header: "X-New", Queues: queues(t, "all=*")}); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(milter.Settings{Header: "no header", Queues: queues(t, "x=*")}); err == nil {
		t.Error("a bad header name was taken")
	}
	id := s.message("", []string{"x@far.example"})
	if out, err := h.Run(t.Context(), "postcat", "-qh", id); err != nil || !strings.Contains(out, "X-New: all\n") {
		t.Errorf("after a reload: %v\n%s", err, out)
	}
	_ = pf
}

// A proxy says who the client is, in the middle of a session.
func TestXCLIENT(t *testing.T) {
	h, _ := hub(t, hubMain)
	rec := &recorder{}
	serve(t, h, milter.Options{
		Settings: milter.Settings{Header: header, Queues: queues(t, "acme=acme.example"), Transport: "transient"},
		Report:   rec.report,
	})
	s := dialSMTP(t, h)
	s.cmd(220, "XCLIENT NAME=site.acme.example ADDR=203.0.113.7 LOGIN=acme DESTADDR=192.0.2.1 DESTPORT=2525")
	s.cmd(250, "EHLO site.acme.example")
	s.message("", []string{"a@acme.example"})
	s.cmd(221, "QUIT")
	es := rec.wait(t, "the second close", func(es []report.Event) bool { return count(es, report.Close) == 2 })
	if got := brief(es); got != "open close open mail message(a@acme.example) close" {
		t.Fatalf("events: %s", got)
	}
	e := es[4]
	if e.Client != netip.MustParseAddr("203.0.113.7") || e.Local != netip.MustParseAddrPort("192.0.2.1:2525") || e.Session == es[0].Session {
		t.Errorf("reported %+v", e)
	}
}

// A message of nothing but tags would keep Postfix reading it for hours.
func TestTooManyForged(t *testing.T) {
	h, _ := hub(t, hubMain)
	rec := &recorder{}
	serve(t, h, milter.Options{
		Settings: milter.Settings{Header: header, Queues: queues(t, "acme=acme.example"), Transport: "transient"},
		Report:   rec.report,
	})
	s := dialSMTP(t, h)
	forged := slices.Repeat([]string{header + ": acme"}, 100)
	id := s.message("", []string{"a@acme.example"}, forged...)
	if got, _ := tags(t, h, id); !slices.Equal(got, []string{"acme"}) {
		t.Errorf("%d tags are left of 100 forged", len(got))
	}
	s.cmd(250, "MAIL FROM:<sender@example.org>")
	s.cmd(250, "RCPT TO:<a@acme.example>")
	if msg := s.data(554, append(forged, header+": acme")...); !strings.Contains(msg, header) {
		t.Errorf("refused without a reason: %q", msg)
	}
	s.message("", []string{"a@acme.example"})
	if got := brief(rec.all()); got != "open mail message(a@acme.example) mail abort mail message(a@acme.example)" {
		t.Errorf("events: %s", got)
	}
}

// A panic in any callback costs one temporary failure, and nothing else: not
// the next message of the session, nor other sessions.
func TestPanic(t *testing.T) {
	h, _ := hub(t, hubMain)
	for _, kind := range []report.Kind{report.Mail, report.Message} {
		rec := &recorder{}
		log := &lines{}
		_, stop := serve(t, h, milter.Options{
			Settings: milter.Settings{Header: header, Queues: queues(t, "acme=acme.example"), Transport: "transient"},
			Report:   rec.report,
			Logger:   slog.New(slog.NewTextHandler(log, nil)),
		})
		s, other := dialSMTP(t, h), dialSMTP(t, h)
		other.cmd(250, "MAIL FROM:<sender@example.org>")
		other.cmd(250, "RCPT TO:<a@acme.example>")
		once := true
		rec.mu.Lock()
		rec.panics = func(e report.Event) bool {
			hit := once && e.Kind == kind
			once = once && !hit
			return hit
		}
		rec.mu.Unlock()
		s.cmd(250, "MAIL FROM:<sender@example.org>")
		s.cmd(250, "RCPT TO:<a@acme.example>")
		s.data(451)
		id := s.message("", []string{"a@acme.example"})
		if got, _ := tags(t, h, id); !slices.Equal(got, []string{"acme"}) {
			t.Errorf("%s: the next message of the session has tags %q", kind, got)
		}
		other.data(250)
		es := rec.wait(t, "three ends", func(es []report.Event) bool {
			return count(es, report.Message) == 2 && count(es, report.Abort) == 1
		})
		if n := strings.Count(log.String(), "panic in the milter"); n != 1 {
			t.Errorf("%s: %d panics in the log; events: %s", kind, n, brief(es))
		}
		if !strings.Contains(log.String(), "session.go") {
			t.Errorf("%s: no stack in the log", kind)
		}
		stop()
	}
}

// lines is a log that tests look into.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// At the end, idle sessions are let go at once, a message that is under way
// is tagged still, and one that takes too long is not waited for. Postfix
// takes all of them, and further ones too.
func TestEnd(t *testing.T) {
	h, _ := hub(t, hubMain)
	rec := &recorder{}
	o := milter.Options{
		Settings:     milter.Settings{Header: header, Queues: queues(t, "acme=acme.example"), Transport: "transient"},
		Report:       rec.report,
		DrainTimeout: time.Minute,
	}
	_, stop := serve(t, h, o)
	idle, busy := dialSMTP(t, h), dialSMTP(t, h)
	busy.cmd(250, "MAIL FROM:<sender@example.org>")
	busy.cmd(250, "RCPT TO:<a@acme.example>")
	done := make(chan struct{})
	go func() { stop(); close(done) }()
	rec.wait(t, "the idle session's end", func(es []report.Event) bool { return count(es, report.Close) == 1 })
	id := strings.TrimPrefix(strings.SplitN(busy.data(250), "queued as ", 2)[1], "")
	if got, _ := tags(t, h, id); !slices.Equal(got, []string{"acme"}) {
		t.Errorf("the message that was under way has tags %q", got)
	}
	select {
	case <-done:
	case <-hang.After():
		t.Fatal("Serve goes on though nothing is under way")
	}
	for _, s := range []*smtp{idle, busy, dialSMTP(t, h)} {
		id := s.message("", []string{"a@acme.example"})
		if got, _ := tags(t, h, id); got != nil {
			t.Errorf("tags %q from nowhere", got)
		}
	}

	o.DrainTimeout = 100 * time.Millisecond
	_, stop = serve(t, h, o)
	slow := dialSMTP(t, h)
	slow.cmd(250, "MAIL FROM:<sender@example.org>")
	slow.cmd(250, "RCPT TO:<a@acme.example>")
	stop()
	slow.data(250)
	es := rec.all()
	if got := brief(es[len(es)-2:]); got != "mail close" { // close ends both
		t.Errorf("the slow session ends with %s", got)
	}
}

// A message for two queues becomes one for each recipient, each with the tag
// of its queue, so that a queue can be let go alone. Nobody else can have a
// message split.
func TestSplit(t *testing.T) {
	bed := testbed.Start(t)
	h, err := bed.Host(t.Context(), "hub", testbed.HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile("/var/spool/postfix/etrnd/.keep", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Postfix(t.Context(), testbed.PostfixOptions{
		Main:  with(hubMain, "milter_header_checks", "regexp:/etc/postfix/split", "part_destination_recipient_limit", "1"),
		Files: map[string]string{"/etc/postfix/split": "/^X-ETRN-Split:/ FILTER part:[127.0.0.1]:10366\n"},
		Master: append(transientService,
			"part unix - - n - - smtp",
			"127.0.0.1:10366 inet n - n - - smtpd\n  -o receive_override_options=no_address_mappings,no_header_body_checks\n  -o smtpd_milters=unix:/var/spool/postfix/etrnd/milter.sock"),
		Final: []string{"online.example"},
	}); err != nil {
		t.Fatal(err)
	}
	rec := &recorder{}
	serve(t, h, milter.Options{
		Settings: milter.Settings{Header: header, Queues: queues(t, "acme=acme.example", "beta=beta.example"), Transport: "transient", Split: true, Mark: "X-ETRN-Split"},
		Report:   rec.report,
	})
	s := dialSMTP(t, h)
	whole := s.message("", []string{"a@acme.example", "b@beta.example", "x@online.example"}, "X-Etrn-Split: no", header+": forged")
	es := rec.wait(t, "the message and its parts", func(es []report.Event) bool { return count(es, report.Message) == 4 })
	held := map[string]string{}
	for _, e := range es {
		if e.Kind != report.Message {
			continue
		}
		if e.QueueID == whole && e.Recipients != nil {
			t.Errorf("the whole message is reported as held: %+v", e)
		}
		if len(e.Recipients) > 0 {
			held[e.Recipients[0]] += e.QueueID + " " + strings.Join(e.Recipients, ",")
		}
	}
	if err := h.WaitQueue(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	for q, rcpt := range map[string]string{"acme": "a@acme.example", "beta": "b@beta.example"} {
		id, got, _ := strings.Cut(held[rcpt], " ")
		if got != rcpt {
			t.Errorf("reported of %s: %q, want %s", q, held[rcpt], rcpt)
			continue
		}
		tags, rest := tags(t, h, id)
		if !slices.Equal(tags, []string{q}) || strings.Contains(strings.ToLower(rest), "x-etrn-split") {
			t.Errorf("the part of %s has tags %q and the header\n%s", q, tags, rest)
		}
	}
	// The queue may have had two messages before the third part was there.
	var got []testbed.Delivered
	if err := testbed.Until(t.Context(), "the part for who is online to be delivered", func() (ok bool, err error) {
		got, err = h.Delivered()
		return len(got) > 0, err
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.WaitQueue(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Header.Get(header) != "" || got[0].Header.Get("X-ETRN-Split") != "" {
		t.Errorf("delivered: %+v", got)
	}

	// Of one queue, and with a forged mark: it stays one.
	before := len(rec.all())
	id := s.message("", []string{"a@acme.example", "c@acme.example"}, "X-ETRN-Split: yes")
	if q, err := h.Queue(t.Context()); err != nil || len(q) != 3 {
		t.Errorf("%d messages are held, want 3; %v", len(q), err)
	}
	if tags, rest := tags(t, h, id); !slices.Equal(tags, []string{"acme"}) || strings.Contains(rest, "X-ETRN-Split") {
		t.Errorf("tags %q, header\n%s", tags, rest)
	}
	if n := count(rec.all()[before:], report.Message); n != 1 {
		t.Errorf("%d messages are reported, want 1", n)
	}
}
