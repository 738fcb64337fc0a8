package receive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// fakeMTA is an SMTP server as lenient as a careless one: LF ends a line, any
// number of CR before it is dropped, and so a message ends wherever a line is a
// single dot. What it understands is what a provider could make it do.
type fakeMTA struct {
	l  net.Listener
	wg sync.WaitGroup

	mu       sync.Mutex
	commands []string
	messages []string
	conns    int
	open     []net.Conn

	// rcpt, when set, answers RCPT; chunk BDAT before its text, when it says
	// anything; end answers the end of a message. After 421 it hangs up.
	rcpt  func(line string) string
	chunk func() string
	end   func() string
}

func newMTA(t testing.TB) *fakeMTA {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMTA{l: l}
	m.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.conns++
			m.open = append(m.open, conn)
			m.mu.Unlock()
			m.wg.Go(func() {
				defer conn.Close()
				m.serve(conn)
			})
		}
	})
	t.Cleanup(m.close)
	return m
}

// hangUp closes what is connected.
func (m *fakeMTA) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, conn := range m.open {
		conn.Close()
	}
}

func (m *fakeMTA) close() {
	m.l.Close()
	m.wg.Wait()
}

func (m *fakeMTA) note(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands = append(m.commands, line)
}

func (m *fakeMTA) took(text string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	reply := "250 2.0.0 Ok: queued as " + fmt.Sprintf("ID%05d", len(m.messages))
	if m.end != nil {
		reply = m.end()
	}
	if reply[0] == '2' {
		m.messages = append(m.messages, text)
	}
	return reply
}

func (m *fakeMTA) serve(conn net.Conn) {
	conn.SetDeadline(hang.Deadline())
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
	enough := false
	say := func(text string) { out.WriteString(text + "\r\n"); enough = strings.HasPrefix(text, "421") }
	say("220 mta.example ESMTP")
	mail, rcpts := false, 0
	var text strings.Builder
	line := func() (string, error) {
		if in.Buffered() == 0 {
			out.Flush()
		}
		s, err := in.ReadString('\n')
		return strings.TrimRight(s, "\r\n"), err
	}
	for {
		if enough {
			out.Flush()
			return
		}
		s, err := line()
		if err != nil {
			return
		}
		m.note(s)
		verb, arg, _ := strings.Cut(s, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			mail, rcpts = false, 0
			say("250-mta.example hello\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-VRFY\r\n250-ETRN\r\n250-XCLIENT NAME\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250-CHUNKING\r\n250 8BITMIME")
		case "HELO":
			mail, rcpts = false, 0
			say("250 mta.example")
		case "MAIL":
			if mail {
				say("503 nested")
				continue
			}
			mail, rcpts = true, 0
			text.Reset()
			say("250 2.1.0 Ok")
		case "RCPT":
			reply := "250 2.1.5 Ok"
			if m.rcpt != nil {
				reply = m.rcpt(s)
			}
			if !mail {
				reply = "503 need MAIL"
			}
			if reply[0] == '2' {
				rcpts++
			}
			say(reply)
		case "DATA":
			if !mail || rcpts == 0 {
				say("554 no valid recipients")
				continue
			}
			say("354 go on")
			var body strings.Builder
			for {
				s, err := line()
				if err != nil {
					return
				}
				if s == "." {
					break
				}
				body.WriteString(strings.TrimPrefix(s, ".") + "\n")
			}
			say(m.took(body.String()))
			mail, rcpts = false, 0
		case "BDAT":
			size, last, _ := strings.Cut(arg, " ")
			n, err := strconv.ParseInt(size, 10, 64)
			if err != nil || n < 0 {
				say("501 what?")
				out.Flush()
				return
			}
			if m.chunk != nil {
				if reply := m.chunk(); reply != "" {
					say(reply)
					continue
				}
			}
			out.Flush()
			if _, err := io.CopyN(&text, in, n); err != nil {
				return
			}
			switch {
			case !mail || rcpts == 0:
				say("554 no valid recipients")
			case last == "":
				say("250 2.0.0 Ok: chunk")
				continue
			default:
				say(m.took(text.String()))
			}
			if last != "" {
				mail, rcpts = false, 0
			}
		case "RSET":
			mail, rcpts = false, 0
			say("250 2.0.0 Ok")
		case "QUIT":
			say("221 bye")
			out.Flush()
			return
		default:
			say("250 careless")
		}
	}
}

func (m *fakeMTA) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", m.l.Addr().String())
}

// turned is a Server under test and the provider's side of it.
type turned struct {
	t    testing.TB
	g    *Server
	conn *net.TCPConn
	in   *bufio.Reader
	done chan error
}

func begin(t testing.TB, ctx context.Context, o Options) *turned {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	hub, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	site, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if o.Domains == nil {
		o.Domains = []string{"acme.example"}
	}
	o.Hostname = "mail.acme.example"
	h := &turned{t: t, g: New(o), conn: hub.(*net.TCPConn), in: bufio.NewReader(hub), done: make(chan error, 1)}
	go func() { h.done <- h.g.Serve(ctx, site) }()
	t.Cleanup(func() { hub.Close() })
	hub.SetDeadline(hang.Deadline())
	return h
}

func (h *turned) send(text string) {
	h.t.Helper()
	if _, err := h.conn.Write([]byte(text)); err != nil {
		h.t.Fatalf("send %.60q: %v", text, err)
	}
}

func (h *turned) reply() string {
	var all strings.Builder
	for {
		line, err := h.in.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			return all.String() + err.Error()
		}
		if len(line) > 3 && line[3] == ' ' {
			return all.String()
		}
	}
}

func (h *turned) expect(codes ...string) {
	h.t.Helper()
	for i, code := range codes {
		if got := h.reply(); !strings.HasPrefix(got, code) {
			h.t.Fatalf("reply %d: %q, want %s", i+1, got, code)
		}
	}
}

// end waits for the server, and wants an error of that kind.
func (h *turned) end(kind error) {
	h.t.Helper()
	select {
	case err := <-h.done:
		if !errors.Is(err, kind) {
			h.t.Errorf("the server ended with %v, want %v", err, kind)
		}
	case <-hang.After():
		h.t.Fatal("the server does not end")
	}
}

const hello = "EHLO hub.example.net\r\n"

// A session with messages by BDAT and DATA, refusals of both sides, and an
// orderly end.
func TestServe(t *testing.T) {
	m := newMTA(t)
	m.rcpt = func(line string) string {
		if strings.Contains(line, "nobody") {
			return "550 5.1.1 no such user"
		}
		return "250 2.1.5 Ok"
	}
	changes := make(chan struct{}, 1000)
	h := begin(t, t.Context(), Options{Dial: m.dial, Changed: func() { changes <- struct{}{} }})
	h.expect("220 mail.acme.example")
	h.send(hello)
	if got, want := h.reply(), "250-mta.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-CHUNKING\r\n250 8BITMIME\r\n"; got != want {
		t.Errorf("EHLO: %q, want %q", got, want)
	}
	h.send("MAIL FROM:<a@x.example> SIZE=5 BODY=8BITMIME\r\nRCPT TO:<b@acme.example>\r\nRCPT TO:<nobody@acme.example>\r\nRCPT TO:<b@other.example>\r\nBDAT 5 LAST\r\none\r\n" +
		"MAIL FROM:<>\r\nRCPT TO:<b@acme.example>\r\nDATA\r\n")
	h.expect("250", "250", "550", "450", "250", "250", "250", "354")
	h.send("two\r\n..\r\n.\r\nRSET\r\nNOOP\r\nMAIL FROM:<a@x.example>\r\nRSET\r\nQUIT\r\n")
	h.expect("250", "250", "250", "250", "250", "221")
	h.end(nil)
	c := h.g.Counts()
	if c.Messages != 2 || c.Bytes != 5+12 || c.Rejected != 2 || c.Refused != 0 || c.Busy != 0 {
		t.Errorf("counts: %+v", c)
	}
	if !h.g.Took("ID00000") || !h.g.Took("ID00001") || h.g.Took("ID00002") {
		t.Error("Took does not know the messages by their names")
	}
	if want := []string{"one\r\n", "two\n.\n"}; len(m.messages) != 2 || m.messages[0] != want[0] || m.messages[1] != want[1] {
		t.Errorf("messages: %q", m.messages)
	}
	if len(changes) == 0 {
		t.Error("Changed was not called")
	}
}

// Refusals in a row are spread over connections, so that the MTA's patience with
// one of them does not end.
func TestManyRefusals(t *testing.T) {
	m := newMTA(t)
	m.rcpt = func(string) string { return "550 5.1.1 no such user" }
	h := begin(t, t.Context(), Options{Dial: m.dial, Connections: 1})
	h.expect("220")
	h.send(hello)
	h.expect("250")
	for range 20 {
		h.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\nDATA\r\nRSET\r\n")
		h.expect("250", "550", "554", "250")
	}
	h.send("QUIT\r\n")
	h.expect("221")
	h.end(nil)
	if m.conns < 4 {
		t.Errorf("%d connections to the MTA for 40 refusals", m.conns)
	}
}

// While the MTA thinks about one message, the next is on its way to it, and the
// replies still come in order.
func TestParallel(t *testing.T) {
	m := newMTA(t)
	h := begin(t, t.Context(), Options{Dial: m.dial, Connections: 3})
	// The end of each message waits until three are at their end.
	var mu sync.Mutex
	waiting, gate := 0, make(chan struct{})
	m.end = func() string {
		m.mu.Unlock()
		defer m.mu.Lock()
		mu.Lock()
		if waiting++; waiting == 3 {
			close(gate)
		}
		mu.Unlock()
		select {
		case <-gate:
			return "250 2.0.0 Ok"
		case <-hang.After():
			return "451 alone"
		}
	}
	h.expect("220")
	h.send(hello)
	h.expect("250")
	for range 3 {
		h.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\nBDAT 3 LAST\r\nx\r\n")
	}
	for range 3 {
		h.expect("250", "250", "250")
	}
	h.send("QUIT\r\n")
	h.expect("221")
	h.end(nil)
}

// How a session ends badly, each with the error that the call is told and the
// last word to the provider.
func TestEnds(t *testing.T) {
	tests := []struct {
		name string
		want error
		play func(h *turned, m *fakeMTA)
	}{
		{"the provider leaves without a word", ErrClosed, func(h *turned, _ *fakeMTA) { h.conn.Close() }},
		{"in the middle of a chunk", ErrClosed, func(h *turned, _ *fakeMTA) {
			h.send("MAIL FROM:<>\r\nRCPT TO:<a@acme.example>\r\nBDAT 100 LAST\r\nx")
			h.expect("250", "250")
			h.conn.CloseWrite()
		}},
		{"in the middle of a command", ErrClosed, func(h *turned, _ *fakeMTA) { h.send("MAI"); h.conn.CloseWrite() }},
		{"silent", ErrSilent, func(h *turned, _ *fakeMTA) { h.expect("421 4.4.2") }},
		{"silent in a message", ErrSilent, func(h *turned, _ *fakeMTA) {
			h.send("MAIL FROM:<>\r\nRCPT TO:<a@acme.example>\r\nDATA\r\n")
			h.expect("250", "250", "354")
			h.send("x\r\n")
			h.expect("421 4.4.2")
		}},
		{"does not read", ErrSilent, func(h *turned, _ *fakeMTA) {
			h.conn.SetReadBuffer(4096)
			for range 1 << 20 {
				if _, err := h.conn.Write([]byte(strings.Repeat("NOOP\r\n", 1000))); err != nil {
					return
				}
			}
		}},
		{"babbles", ErrAbuse, func(h *turned, _ *fakeMTA) {
			h.send(strings.Repeat("what\r\n", 101))
			for range 100 {
				h.expect("502")
			}
			h.expect("421 4.7.0")
		}},
		{"a line without an end", ErrAbuse, func(h *turned, _ *fakeMTA) {
			h.send(strings.Repeat("x", 110<<10))
			h.expect("421 4.7.0")
		}},
		{"a chunk without a length", ErrAbuse, func(h *turned, _ *fakeMTA) {
			h.send("MAIL FROM:<>\r\nRCPT TO:<a@acme.example>\r\nBDAT\r\nQUIT\r\n")
			h.expect("250", "250", "501", "421 4.7.0")
		}},
		{"the MTA goes away in a message", ErrMTA, func(h *turned, m *fakeMTA) {
			h.send("MAIL FROM:<>\r\nRCPT TO:<a@acme.example>\r\nBDAT 10 LAST\r\nx")
			h.expect("250", "250")
			m.hangUp()
			h.expect("421 4.3.2")
		}},
		{"the MTA goes away between messages", ErrMTA, func(h *turned, m *fakeMTA) {
			m.l.Close()
			m.hangUp()
			h.send("MAIL FROM:<>\r\n")
			h.expect("421 4.3.2")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMTA(t)
			silence := hang.Limit
			if tt.want == ErrSilent {
				silence = 2 * time.Second
			}
			h := begin(t, t.Context(), Options{Dial: m.dial, Silence: silence})
			h.expect("220")
			h.send(hello)
			h.expect("250")
			tt.play(h, m)
			h.end(tt.want)
			if len(m.messages) != 0 {
				t.Errorf("the MTA has taken %q", m.messages)
			}
		})
	}
}

// FuzzBody: whatever comes, a careless MTA sees the end where the server does.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"", ".", ".\r\n", "x\r\n.\r\ny", "x\n.\ny\r\n.\r\n", "\r\n.\r\r\n.\r\n", "a\r.\r\n..\r\n.\r\n", ".\n.\r\n", "\r\r\n\n\r.\r\n", "..\r\n.\r.\r\n.\r\n"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		var b body
		rest, n, end := data, 0, false
		for len(rest) > 0 && !end {
			p := rest[:min(len(rest), int(step)+1)]
			var k int
			k, end = b.write(w, p)
			if !end && k != len(p) {
				t.Fatalf("%d of %d bytes were taken", k, len(p))
			}
			n += k
			rest = rest[k:]
		}
		w.Flush()
		got := out.Bytes()
		if end && !bytes.HasSuffix(data[:n], []byte(".\r\n")) {
			t.Fatalf("an end was seen behind %q", data[:n])
		}
		text := bytes.ReplaceAll(got, []byte("\r\n"), nil)
		if bytes.ContainsAny(text, "\r\n") {
			t.Fatalf("%q holds CR or LF alone", got)
		}
		// The first line that is a dot is the last.
		lines := bytes.SplitAfter(got, []byte("\r\n"))
		for i, line := range lines {
			if string(line) == ".\r\n" && !(end && i == len(lines)-2 && len(lines[i+1]) == 0) {
				t.Fatalf("%q ends a message before its end (from %q)", got, data)
			}
		}
		if end && (len(lines) < 2 || string(lines[len(lines)-2]) != ".\r\n") {
			t.Fatalf("%q has no end (from %q)", got, data)
		}
		// What is sound is left as it is.
		if end && !bytes.Contains(got, []byte(" ")) && bytes.Equal(bytes.ReplaceAll(data[:n], []byte("\r\n"), nil), text) && !bytes.Equal(got, data[:n]) {
			t.Fatalf("%q became %q", data[:n], got)
		}
	})
}

// FuzzGate: whatever a provider sends, an MTA that believes everything gets no
// command but those that are allowed, no recipient but those that were asked
// for, and as many messages as the server has counted.
func FuzzGate(f *testing.F) {
	for _, s := range []string{
		"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\nBDAT 5 LAST\r\none\r\nQUIT\r\n",
		"MAIL FROM:<>\r\nRCPT TO:<b@acme.example>\r\nDATA\r\none\n.\nRCPT TO:<c@other.example>\r\n.\r\nQUIT\r\n",
		"MAIL FROM:<>\r\nRCPT TO:<b@other.example>\r\nDATA\r\nVRFY x\r\n.\r\n",
		"MAIL FROM:<>\r\nRCPT TO:<\"b@other.example\"@acme.example>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\n",
		"RCPT TO:<@a,@b:c@acme.example>\r\nMAIL FROM:<a@[192.0.2.1]> AUTH=<>\r\nRSET\r\nHELO x\r\n",
		"BDAT 99999999999999999999 LAST\r\n", "BDAT 4\r\nQUITQUIT\r\n",
		"MAIL FROM:<>\nRCPT TO:<b@acme.example>\r\r\nDATA\r\n",
	} {
		f.Add([]byte(s))
	}
	m := newMTA(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m.mu.Lock()
		m.commands, m.messages = nil, nil
		m.mu.Unlock()
		h := begin(t, t.Context(), Options{Dial: m.dial, Silence: 5 * time.Second})
		go io.Copy(io.Discard, h.in)
		h.conn.Write([]byte(hello))
		h.conn.Write(data)
		h.conn.CloseWrite()
		select {
		case <-h.done:
		case <-hang.After():
			t.Fatal("the server does not end")
		}
		c := h.g.Counts()
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.messages) < c.Messages {
			t.Errorf("%d messages counted, the MTA has %q", c.Messages, m.messages)
		}
		for _, line := range m.commands {
			verb, arg, _ := strings.Cut(line, " ")
			switch verb {
			case "EHLO", "HELO", "MAIL", "DATA", "BDAT", "RSET", "QUIT":
			case "RCPT":
				path, _, _ := strings.Cut(strings.ToLower(arg), "> ")
				path = strings.TrimSuffix(path, ">")
				local, ok := strings.CutPrefix(path, "to:<")
				local, found := strings.CutSuffix(local, "@acme.example")
				if !ok || !found || strings.ContainsAny(local, "@%!:,<>()[];\\") {
					t.Errorf("the MTA was given %q", line)
				}
			default:
				t.Errorf("the MTA was given %q", line)
			}
		}
	})
}

func TestChunk(t *testing.T) {
	for arg, want := range map[string]struct {
		n    int64
		last bool
	}{
		"0": {0, false}, "0 LAST": {0, true}, "5 last": {5, true}, "0005 LAST": {5, true}, "68719476736": {1 << 36, false},
	} {
		if n, last, ok := chunk(arg); !ok || n != want.n || last != want.last {
			t.Errorf("chunk(%q): %d, %v, %v", arg, n, last, ok)
		}
	}
	for _, arg := range []string{
		"", "-1", "-1 LAST", "+5 LAST", "0x10", "1e3", "5 LAST LAST", "5 FIRST", "LAST", "5  LAST", "5\tLAST", " 5", "5 ", "5 LAST ",
		"18446744073709551626 LAST", "9223372036854775808", "4294967297000000 LAST", "99999999999", "68719476737", "५ LAST",
	} {
		if n, _, ok := chunk(arg); ok {
			t.Errorf("chunk(%q) is taken for %d", arg, n)
		}
	}
}
