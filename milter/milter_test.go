package milter

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

func TestPriority(t *testing.T) {
	for _, tt := range []struct {
		args    string
		headers []string // "Name: value"
		want    report.Priority
	}{
		{want: report.PriorityUnstated},
		{headers: []string{"X-Priority: 1"}, want: report.PriorityHigh},
		{headers: []string{"X-Priority: 2 (High)"}, want: report.PriorityHigh},
		{headers: []string{"X-Priority: 3"}, want: report.PriorityNormal},
		{headers: []string{"X-Priority: 5(Lowest)"}, want: report.PriorityLow},
		{headers: []string{"X-Priority: 0"}, want: report.PriorityUnstated},
		{headers: []string{"X-Priority: high"}, want: report.PriorityUnstated},
		{headers: []string{"Importance: High"}, want: report.PriorityHigh},
		{headers: []string{"IMPORTANCE: low"}, want: report.PriorityLow},
		{headers: []string{"Priority: urgent"}, want: report.PriorityHigh},
		{headers: []string{"Priority: non-urgent"}, want: report.PriorityLow},
		{headers: []string{"Priority: whenever"}, want: report.PriorityUnstated},
		{headers: []string{"MT-Priority: -3"}, want: report.PriorityLow},
		{headers: []string{"MT-Priority: 0"}, want: report.PriorityNormal},
		{headers: []string{"MT-Priority: 10"}, want: report.PriorityUnstated},
		{args: "SIZE=1 mt-priority=4", want: report.PriorityHigh},
		// What binds more wins, in whatever order they come.
		{headers: []string{"X-Priority: 1", "Importance: low"}, want: report.PriorityLow},
		{headers: []string{"Importance: low", "X-Priority: 1"}, want: report.PriorityLow},
		{headers: []string{"X-MSMail-Priority: Low", "X-Priority: 1"}, want: report.PriorityHigh},
		{args: "MT-PRIORITY=-9", headers: []string{"MT-Priority: 9", "Priority: urgent"}, want: report.PriorityLow},
		// The first of two that bind alike, so that nothing appended changes it.
		{headers: []string{"Importance: low", "Importance: high"}, want: report.PriorityLow},
		// What says nothing leaves the word to others.
		{headers: []string{"Importance:", "X-Priority: 1"}, want: report.PriorityHigh},
	} {
		tx := &transaction{}
		tx.arguments(tt.args)
		for _, h := range tt.headers {
			name, value, _ := strings.Cut(h, ":")
			tx.priority.Field(name, value)
		}
		if got := class(tx.priority); got != tt.want {
			t.Errorf("%q %q: %q, want %q", tt.args, tt.headers, got, tt.want)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, tt := range []struct {
		args string
		want int64
	}{
		{"", 0},
		{"SIZE=1234 BODY=8BITMIME", 1234},
		{"body=7bit size=5", 5},
		{"SIZE=-1", 0},
		{"SIZE=99999999999999999999", 0},
		{"SIZE", 0},
	} {
		tx := &transaction{}
		if tx.arguments(tt.args); tx.size != tt.want {
			t.Errorf("%q: size %d, want %d", tt.args, tx.size, tt.want)
		}
	}
}

func TestDigest(t *testing.T) {
	of := func(id string, rcpts ...string) string {
		tx := &transaction{settings: &Settings{Queues: acme(t)}, messageID: id}
		for _, r := range rcpts {
			tx.recipient(r, "")
		}
		return tx.digest()
	}
	base := of("<1@example.org>", "a@acme.example", "b@example.net")
	if base == "" || len(base) > 64 {
		t.Errorf("digest %q", base)
	}
	if got := of("<1@example.org>", "B@example.net", "a@acme.example"); got != base {
		t.Error("the order of recipients, or the case of a domain, makes another digest")
	}
	for _, other := range []string{
		of("<2@example.org>", "a@acme.example", "b@example.net"),
		of("<1@example.org>", "a@acme.example"),
		of("<1@example.org>", "a@acme.example", "b@example.net", "c@example.net"),
		// The same recipient twice must not count as none.
		of("<1@example.org>", "a@acme.example", "b@example.net", "c@example.net", "c@example.net"),
	} {
		if other == base {
			t.Error("another message has the same digest")
		}
	}
	if got := of("", "a@acme.example"); got != "" {
		t.Errorf("digest %q without a Message-ID", got)
	}
}

func TestSplits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		queues int
		all    int
		size   int64
		seen   int64
		off    bool
		want   bool
		large  bool
	}{
		{name: "two queues", queues: 2, all: 2, want: true},
		{name: "one queue and somebody else", queues: 1, all: 2},
		{name: "not wanted", queues: 2, all: 2, off: true},
		{name: "as many as may be", queues: 2, all: 1000, size: 2000, want: true},
		{name: "more", queues: 2, all: 1001, size: 2000, large: true},
		{name: "as large as may be", queues: 2, all: 2, size: 32 << 20, want: true},
		{name: "larger", queues: 2, all: 2, size: 32<<20 + 1, large: true},
		{name: "larger than a number holds", queues: 2, all: 3, size: math.MaxInt64, large: true},
		{name: "no size declared", queues: 2, all: 64, want: true},
		{name: "no size declared, and many", queues: 2, all: 65, large: true},
		{name: "no size declared, and a body seen", queues: 2, all: 1000, seen: 2000, want: true},
		{name: "more seen than declared", queues: 2, all: 1000, size: 10, seen: 1 << 20, large: true},
		{name: "large, of one queue", queues: 1, all: 1001, size: 32 << 20},
	} {
		tx := &transaction{settings: &Settings{Split: !tt.off}, queues: make([]string, tt.queues), all: tt.all, size: tt.size, seen: tt.seen, body: tt.seen > 0}
		if got, large := tx.split(); got != tt.want || large != tt.large {
			t.Errorf("%s: %v, %v, want %v, %v", tt.name, got, large, tt.want, tt.large)
		}
	}
}

// A circular to a whole fleet: split, it has the mark and no tag, since each
// copy gets its own; whole, it has no more tags than the next milter lets pass.
func TestManyQueues(t *testing.T) {
	var qs []queue.Queue
	for i := range 2 * maxForged {
		p, err := queue.ParsePattern(fmt.Sprintf("ship%d.example", i))
		if err != nil {
			t.Fatal(err)
		}
		qs = append(qs, queue.Queue{Name: fmt.Sprintf("ship%d", i), Domains: []queue.Pattern{p}})
	}
	set, err := queue.NewSet(qs)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		split       bool
		size        string
		tags, marks int
		reported    int
		log         string
		chunks      int // of the body, 65,000 bytes each
		taken       int // of these, before the milter has had enough
	}{
		{name: "split", split: true, size: "SIZE=2000", marks: 1, chunks: 3, taken: 3},
		{name: "not to be split", size: "SIZE=2000", tags: maxTags, reported: len(qs), log: "more queues than it gets tags", chunks: 3, taken: 3}, // a body that is not sent
		{name: "too large to be split", split: true, size: "SIZE=1000000", tags: maxTags, reported: len(qs), log: "stays whole", chunks: 3},
		{name: "larger than was said", split: true, size: "SIZE=1", tags: maxTags, reported: len(qs), log: "stays whole", chunks: 20, taken: 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, Options{Settings: Settings{Header: "X-ETRN-Queue", Queues: set, Split: tt.split, Mark: "X-ETRN-Split"}})
			c := gomilter.NewClient("unix", s.path)
			cs, err := c.Session(nil)
			if err != nil {
				t.Fatal(err)
			}
			defer cs.Close()
			step := func(a *gomilter.Action, err error) {
				t.Helper()
				if err != nil || a.Type != gomilter.ActionContinue {
					t.Fatalf("%v, %v", a, err)
				}
			}
			step(cs.Conn("client.example.org", gomilter.FamilyInet, 25, "192.0.2.7"))
			step(cs.Helo("client.example.org"))
			step(cs.Mail("sender@example.org", tt.size))
			for i := range qs {
				step(cs.Rcpt(fmt.Sprintf("a@ship%d.example", i), ""))
			}
			step(cs.DataStart())
			step(cs.HeaderField("X-Etrn-SPLIT", "forged", nil))
			step(cs.HeaderEnd())
			chunks := 0
			for range tt.chunks {
				if step(cs.BodyChunk(bytes.Repeat([]byte("x"), 65000))); cs.Skip() {
					break
				}
				chunks++
			}
			mods, a, err := cs.End()
			if err != nil || a.Type != gomilter.ActionAccept {
				t.Fatalf("%v, %v", a, err)
			}
			var tags, marks, removed int
			for _, m := range mods {
				switch {
				case m.Type == gomilter.ActionAddHeader && m.HeaderName == "X-ETRN-Queue":
					tags++
				case m.Type == gomilter.ActionAddHeader && m.HeaderName == "X-ETRN-Split":
					marks++
				case m.Type == gomilter.ActionChangeHeader && m.HeaderName == "X-ETRN-Split" && m.HeaderValue == "":
					removed++
				default:
					t.Errorf("change: %+v", m)
				}
			}
			if chunks != tt.taken {
				t.Errorf("%d pieces of the body were taken, want %d", chunks, tt.taken)
			}
			if tags != tt.tags || marks != tt.marks || removed != 1 {
				t.Errorf("%d tags, %d marks, %d marks removed", tags, marks, removed)
			}
			if !strings.Contains(s.logged(), tt.log) {
				t.Errorf("log: %s", s.logged())
			}
			_ = cs.Close()
			s.stop()
			for _, e := range s.events {
				if e.Kind == report.Message && len(e.Recipients) != min(tt.reported, report.MaxRecipients) {
					t.Errorf("%d recipients are reported, want %d", len(e.Recipients), tt.reported)
				}
			}
			if s.count(report.Message) != 1 {
				t.Errorf("events: %+v", s.events)
			}
		})
	}
}

func acme(t testing.TB) *queue.Set {
	p, err := queue.ParsePattern("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	set, err := queue.NewSet([]queue.Queue{{Name: "acme", Domains: []queue.Pattern{p}}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// server is a Milter on a socket, and what it reported and logged.
type server struct {
	path string
	stop func()

	mu     sync.Mutex
	events []report.Event
	log    strings.Builder
}

func (s *server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *server) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func (s *server) count(k report.Kind) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Kind == k {
			n++
		}
	}
	return n
}

func start(t testing.TB, o Options) *server {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := startOn(t, ln, o)
	s.path = path
	return s
}

// pipes is a listener for a synctest bubble. As any, it may be closed twice.
type pipes struct {
	conns chan net.Conn
	close func()
}

func newPipes() pipes {
	p := pipes{conns: make(chan net.Conn)}
	p.close = sync.OnceFunc(func() { close(p.conns) })
	return p
}

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (p pipes) Close() error   { p.close(); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func startOn(t testing.TB, ln net.Listener, o Options) *server {
	t.Helper()
	s := &server{}
	if o.Settings.Header == "" {
		o.Settings = Settings{Header: "X-ETRN-Queue", Queues: acme(t)}
	}
	o.Logger = slog.New(slog.NewTextHandler(s, nil))
	o.Report = func(e report.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(s.events, e)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, ln) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("unix", s.path, hang.Limit)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(hang.Deadline())
	t.Cleanup(func() { c.Close() })
	return c
}

// packet is one of the milter protocol.
func packet(code byte, data string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))) + string(code) + data
}

// negotiation as an MTA of version 6 begins, offering everything.
var negotiation = packet('O', "\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")

var connect = packet('C', "client.example.org\x004\x00\x19192.0.2.7\x00")

// passes sends a message through the milter by go-milter's client.
func (s *server) passes(t testing.TB) {
	t.Helper()
	c := gomilter.NewClient("unix", s.path)
	cs, err := c.Session(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer cs.Close()
	step := func(a *gomilter.Action, err error) {
		t.Helper()
		if err != nil || a.Type != gomilter.ActionContinue {
			t.Fatalf("%v, %v", a, err)
		}
	}
	step(cs.Conn("client.example.org", gomilter.FamilyInet, 25, "192.0.2.7"))
	step(cs.Helo("client.example.org"))
	step(cs.Mail("sender@example.org", ""))
	step(cs.Rcpt("a@acme.example", ""))
	step(cs.DataStart())
	step(cs.HeaderField("X-Etrn-Queue", "forged", nil))
	step(cs.HeaderEnd())
	step(cs.BodyChunk([]byte("body")))
	mods, a, err := cs.End()
	if err != nil || a.Type != gomilter.ActionAccept {
		t.Fatalf("%v, %v", a, err)
	}
	if len(mods) != 2 || mods[0].Type != gomilter.ActionChangeHeader || mods[0].HeaderIndex != 1 || mods[0].HeaderValue != "" ||
		mods[1].Type != gomilter.ActionAddHeader || mods[1].HeaderValue != "acme" {
		t.Fatalf("changes: %+v", mods)
	}
}

// What no MTA says ends that connection, and no other.
func TestGarbage(t *testing.T) {
	patient, hasty := start(t, Options{}), start(t, Options{PacketTimeout: 50 * time.Millisecond})
	patient.passes(t)
	for _, tt := range []struct {
		name, in string
		log      string // why, in the log; empty: a plain end
	}{
		{"an SMTP client", "EHLO client.example.org\r\n", "a packet of"},
		{"an empty packet", "\x00\x00\x00\x00", "a packet of 0 bytes"},
		{"an empty packet, later", negotiation + "\x00\x00\x00\x00", "a packet of 0 bytes"},
		{"a packet of 512 MB", negotiation + "\x20\x00\x00\x00", "a packet of 536870912 bytes"},
		{"no negotiation", connect, "not a negotiation"},
		{"a short negotiation", packet('O', "\x00\x00\x00\x06"), ""},
		{"version 1", packet('O', "\x00\x00\x00\x01\x00\x00\x01\xff\x00\x1f\xff\xff"), ""},
		{"no changes allowed", packet('O', "\x00\x00\x00\x06\x00\x00\x00\x00\x00\x1f\xff\xff"), ""},
		{"two negotiations", negotiation + negotiation, ""},
		{"no NUL after the host", negotiation + packet('C', "client"), "malformed"},
		{"nothing after the host", negotiation + packet('C', "client\x00"), "malformed"},
		{"no NUL after the sender", negotiation + connect + packet('M', "<a@example.org>"), "malformed"},
		{"no NUL after the recipient", negotiation + connect + packet('R', "<a@example.org>"), "malformed"},
		{"an address that is none", negotiation + packet('C', "client\x004\x00\x19192.0.2.700\x00"), ""},
		{"a command that is none", negotiation + packet('Z', ""), ""},
		// It stops, and holds the connection open.
		{"half a packet", negotiation + packet('M', "<a@example.org>\x00")[:9], "in the middle of a packet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := patient
			if tt.name == "half a packet" {
				s = hasty
			}
			before := len(s.logged())
			c := s.dial(t)
			io.WriteString(c, tt.in) // may be cut off
			if _, err := io.ReadAll(c); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Fatal("the connection stays open")
			}
			if log := s.logged()[before:]; !strings.Contains(log, tt.log) {
				t.Errorf("%q is not in the log: %s", tt.log, log)
			}
		})
	}
	patient.passes(t)
	for _, s := range []*server{patient, hasty} {
		s.stop() // returns after every session has ended
		if s.count(report.Open) != s.count(report.Close) {
			t.Errorf("%d sessions opened, %d closed", s.count(report.Open), s.count(report.Close))
		}
		if strings.Contains(s.logged(), "panic") {
			t.Errorf("panics in the log: %s", s.logged())
		}
	}
}

// A connection that goes away, in each state, closes its session.
func TestHalfClosed(t *testing.T) {
	s := start(t, Options{})
	for i, in := range []string{
		negotiation + connect,
		negotiation + connect + packet('M', "<a@example.org>\x00"),
		negotiation + connect + packet('M', "<a@example.org>\x00") + packet('R', "<a@acme.example>\x00"),
		negotiation + connect + packet('M', "<a@example.org>\x00") + packet('L', "Subject\x00x\x00"),
		negotiation + connect + packet('M', "<a@example.org>\x00") + packet('E', ""),
		// Without a word about the client.
		negotiation + packet('M', "<a@example.org>\x00"),
	} {
		c := s.dial(t)
		if _, err := io.WriteString(c, in); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("case %d: %v", i, err)
		}
		// The connection is closed after the session.
		if o, cl := s.count(report.Open), s.count(report.Close); o != i+1 || cl != i+1 {
			t.Errorf("case %d: %d sessions opened, %d closed", i, o, cl)
		}
	}
}

// A slow sender is none: the MTA may be silent for as long as its client is,
// up to a limit.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		s := startOn(t, ln, Options{PacketTimeout: time.Second, IdleTimeout: time.Hour})
		dial := func() (c net.Conn, ended chan time.Duration) {
			c, far := net.Pipe()
			ln.conns <- far
			began := time.Now()
			ended = make(chan time.Duration, 1)
			go func() {
				io.Copy(io.Discard, c)
				ended <- time.Since(began)
			}()
			return c, ended
		}
		c, ended := dial()
		in := negotiation + connect + packet('M', "<a@example.org>\x00") + packet('R', "<a@acme.example>\x00") + packet('E', "") + packet('Q', "")
		// Packets apart from each other by far more than a packet may take.
		for len(in) > 0 {
			n := 4 + int(binary.BigEndian.Uint32([]byte(in)))
			if _, err := io.WriteString(c, in[:n]); err != nil {
				t.Fatal(err)
			}
			in = in[n:]
			time.Sleep(50 * time.Minute)
		}
		<-ended
		if s.count(report.Message) != 1 {
			t.Errorf("the message is not reported; log: %s", s.logged())
		}

		// There is an end to it all the same.
		c, ended = dial()
		io.WriteString(c, negotiation)
		if took := <-ended; took != time.Hour || !strings.Contains(s.logged(), "silent for 1h") {
			t.Errorf("the silent connection ended after %v; log: %s", took, s.logged())
		}
	})
}

// An MTA that can do less is served too: version 2 knows no stages without
// answers and no requests for macros.
func TestOldMTA(t *testing.T) {
	s := start(t, Options{})
	c := s.dial(t)
	ask := func(p string, want byte) string {
		t.Helper()
		if _, err := io.WriteString(c, p); err != nil {
			t.Fatal(err)
		}
		var head [5]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			t.Fatalf("answer to %q: %v", p, err)
		}
		data := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(c, data); err != nil {
			t.Fatal(err)
		}
		if head[4] != want {
			t.Fatalf("answer to %q is %q, want %q", p, head[4], want)
		}
		return string(data)
	}
	if got := ask(packet('O', "\x00\x00\x00\x02\x00\x00\x00\x3f\x00\x00\x00\x7f"), 'O'); got != "\x00\x00\x00\x02\x00\x00\x00\x11\x00\x00\x00\x52" {
		t.Errorf("negotiated %x", got)
	}
	ask(connect, 'c')
	ask(packet('M', "<a@example.org>\x00"), 'c')
	ask(packet('R', "<a@acme.example>\x00"), 'c')
	ask(packet('L', "x-etrn-queue\x00forged\x00"), 'c')
	if got := ask(packet('E', ""), 'm'); got != "\x00\x00\x00\x01X-ETRN-Queue\x00\x00" {
		t.Errorf("the forged tag: %q", got)
	}
	if got := ask("", 'h'); got != "X-ETRN-Queue\x00acme\x00" {
		t.Errorf("the tag: %q", got)
	}
	ask("", 'a')
}

// An MTA may use one connection for several clients (SMFIC_QUIT_NC).
func TestReusedConnection(t *testing.T) {
	s := start(t, Options{})
	c := s.dial(t)
	io.WriteString(c, negotiation+connect+packet('M', "<a@example.org>\x00")+packet('K', "")+connect+packet('M', "<b@example.org>\x00")+packet('Q', ""))
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []string
	names := map[string]bool{}
	for _, e := range s.events {
		got = append(got, string(e.Kind))
		names[e.Session] = true
	}
	if fmt.Sprint(got) != "[open mail close open mail close]" || len(names) != 2 {
		t.Errorf("%v in %d sessions", got, len(names))
	}
}

func TestSettings(t *testing.T) {
	ok := Settings{Header: "X-ETRN-Queue", Queues: acme(t)}
	for _, bad := range []Settings{
		{Header: "", Queues: ok.Queues},
		{Header: "X ETRN", Queues: ok.Queues},
		{Header: "X-ETRN:", Queues: ok.Queues},
		{Header: strings.Repeat("x", 61), Queues: ok.Queues},
		{Header: "X-\r\nBcc", Queues: ok.Queues},
		{Header: "X-ETRN-Queue"},
		{Header: "X-ETRN-Queue", Queues: ok.Queues, Mark: "x-etrn-queue"},
		{Header: "X-ETRN-Queue", Queues: ok.Queues, Mark: "two words"},
		{Header: "X-ETRN-Queue", Queues: ok.Queues, Split: true},
	} {
		if _, err := New(Options{Settings: bad, Report: func(report.Event) {}}); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if _, err := New(Options{Settings: ok}); err == nil {
		t.Error("taken without Report")
	}
}

// Whatever comes, the milter ends the connection in an orderly way and every
// session that opened is closed. A panic outside of a callback would end the
// fuzzer itself.
func FuzzConnection(f *testing.F) {
	mail := packet('M', "<a@example.org>\x00SIZE=10\x00")
	rcpt := packet('R', "<a@acme.example>\x00")
	for _, s := range []string{
		"", "\x00\x00\x00\x00", "EHLO x\r\n",
		negotiation + connect + mail + rcpt + packet('L', "X-ETRN-Queue\x00x\x00") + packet('E', "") + packet('Q', ""),
		negotiation + packet('D', "M{auth_authen}\x00a\x00odd") + mail + packet('A', "") + packet('A', "") + mail,
		negotiation + packet('D', "") + packet('C', "\x00U") + packet('C', "x\x006\x00\x19IPv6:::1\x00") + packet('H', "\x00") + packet('K', ""),
		negotiation + rcpt + packet('L', "\x00\x00") + packet('L', "x") + packet('N', "") + packet('B', "body") + packet('T', "") + packet('U', "XYZ\x00"),
		negotiation + packet('M', "\x00") + packet('R', "\x00") + packet('E', "rest"),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := start(t, Options{PacketTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond})
		c := s.dial(t)
		go io.Copy(io.Discard, c) // ends with the connection
		c.Write(in)
		c.(*net.UnixConn).CloseWrite()
		s.stop()
		if o, cl := s.count(report.Open), s.count(report.Close); o != cl {
			t.Errorf("%d sessions opened, %d closed", o, cl)
		}
		if log := s.logged(); strings.Contains(log, "panic") {
			t.Errorf("panic: %s", log)
		}
	})
}

// Mail that goes by any of the transports for held mail is held.
func TestHeldTransports(t *testing.T) {
	s := &Settings{Transport: "transient"}
	for transport, want := range map[string]bool{
		"transient": true, "transient-turn": true, "transient-lmtp": true,
		"smtp": false, "transient-split": false, "transient2": false, "": false, "local": false,
	} {
		if got := s.holds(transport); got != want {
			t.Errorf("%q: %v", transport, got)
		}
	}
}
