package receive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

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
	mail  func() string // answers MAIL
	bare  bool          // no extension is offered
	ehlo  string        // answers EHLO, if it is not empty
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
			if m.ehlo != "" {
				say(m.ehlo)
				continue
			}
			if m.bare {
				say("250 mta.example hello")
				continue
			}
			say("250-mta.example hello\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-VRFY\r\n250-ETRN\r\n250-XCLIENT NAME\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250-CHUNKING\r\n250 8BITMIME")
		case "HELO":
			mail, rcpts = false, 0
			say("250 mta.example")
		case "MAIL":
			if mail {
				say("503 nested")
				continue
			}
			text.Reset()
			if m.mail != nil {
				say(m.mail())
				continue
			}
			mail, rcpts = true, 0
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
	srv  *Server
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
	h := &turned{t: t, srv: New(o), conn: hub.(*net.TCPConn), in: bufio.NewReader(hub), done: make(chan error, 1)}
	go func() { h.done <- h.srv.Serve(ctx, site) }()
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
