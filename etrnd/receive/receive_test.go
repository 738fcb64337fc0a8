package receive

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// A connection with messages by BDAT and DATA, refusals of both sides, and an
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
	c := h.srv.Counts()
	if c.Messages != 2 || c.Bytes != 5+12 || c.Rejected != 2 || c.Refused != 0 || c.Busy != 0 {
		t.Errorf("counts: %+v", c)
	}
	if !h.srv.Took("ID00000") || !h.srv.Took("ID00001") || h.srv.Took("ID00002") {
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

// How a connection ends badly, each with the error that the call is told and the
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
		{"has nothing but mail for others", ErrAbuse, func(h *turned, _ *fakeMTA) {
			h.send("MAIL FROM:<>\r\n")
			h.expect("250")
			for range maxRejected / 100 {
				h.send(strings.Repeat("RCPT TO:<a@other.example>\r\n", 100))
				for range 100 {
					h.expect("450")
				}
			}
			h.send("RCPT TO:<a@other.example>\r\n")
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

// FuzzServe: whatever a provider sends, an MTA that believes everything gets no
// command but those that are allowed, no recipient but those that were asked
// for, and as many messages as the server has counted.
func FuzzServe(f *testing.F) {
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
		c := h.srv.Counts()
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
