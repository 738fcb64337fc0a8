package receive

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A message may take longer than the MTA has to answer, as long as it goes on.
func TestLongMessage(t *testing.T) {
	const pieces, wait = 30, 4 * time.Second // which a busy machine is not late by
	for name, tt := range map[string]struct {
		begin, end string
		codes      []string
	}{
		"DATA": {"DATA\r\n", ".\r\n", []string{"250", "250", "354"}},
		"BDAT": {fmt.Sprintf("BDAT %d LAST\r\n", 3*pieces), "", []string{"250", "250"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMTA(t)
			h := begin(t, t.Context(), Options{Dial: m.dial, MTATimeout: wait})
			h.expect("220")
			h.send(hello)
			h.expect("250")
			h.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\n" + tt.begin)
			h.expect(tt.codes...)
			// The slowness of the line, of which the test is.
			tick := time.NewTicker(2 * wait / pieces)
			defer tick.Stop()
			for range pieces {
				<-tick.C
				h.send("x\r\n")
			}
			h.send(tt.end + "QUIT\r\n")
			h.expect("250", "221")
			h.end(nil)
		})
	}
}

// When the provider has gone in the middle of a message, an MTA that hangs does
// not keep the line for long, however many replies are due.
func TestGoneAndHanging(t *testing.T) {
	t.Parallel()
	m := newMTA(t)
	hang, asked := make(chan struct{}), make(chan struct{}, 1)
	m.rcpt = func(string) string {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-hang
		return "250 2.1.5 Ok"
	}
	defer close(hang)
	// Ten times over, if each reply were waited for: the end would not come.
	h := begin(t, t.Context(), Options{Dial: m.dial, MTATimeout: time.Hour})
	h.expect("220")
	h.send(hello)
	h.expect("250")
	h.send("MAIL FROM:<a@x.example>\r\n" + strings.Repeat("RCPT TO:<b@acme.example>\r\n", 10))
	<-asked // the replier waits by now, or will with the same result
	h.conn.Close()
	h.end(ErrClosed)
}

// 421 ends one connection to the MTA. What was on it is to come again, and the
// session goes on, even with one connection at a time.
func TestLost(t *testing.T) {
	const (
		open = "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\n"
		good = open + "BDAT 3 LAST\r\nx\r\n"
	)
	once := func(reply string) func() string {
		var said atomic.Bool
		return func() string {
			if said.CompareAndSwap(false, true) {
				return reply
			}
			return ""
		}
	}
	big := strings.Repeat("x", 4<<20)
	tests := []struct {
		name  string
		set   func(m *fakeMTA)
		send  string
		codes []string // of send
	}{
		{"too many unknown recipients", func(m *fakeMTA) {
			var n atomic.Int32
			m.rcpt = func(line string) string {
				switch {
				case !strings.Contains(line, "nobody"):
					return "250 2.1.5 Ok"
				case n.Add(1) <= 20:
					return "550 5.1.1 no such user"
				}
				return "421 4.7.0 too many errors"
			}
		}, "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\n" + strings.Repeat("RCPT TO:<nobody@acme.example>\r\n", 25) + "BDAT 3 LAST\r\nx\r\n",
			[]string{"250", "250", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550", "550",
				"451", "451", "451", "451", "451", "451"}},
		{"in place of a chunk", func(m *fakeMTA) { m.chunk = once("421 4.3.0 no") },
			open + fmt.Sprintf("BDAT %d LAST\r\n%s", len(big), big), []string{"250", "250", "451"}},
		{"then more chunks", func(m *fakeMTA) { m.chunk = once("421 4.3.0 no") },
			open + fmt.Sprintf("BDAT %d\r\n%sBDAT 2\r\nx\nBDAT 0 LAST\r\n", len(big), big), []string{"250", "250", "451", "451", "451"}},
		{"at the end of a message", func(m *fakeMTA) {
			say := once("421 4.3.0 the filter says no")
			m.end = func() string {
				if no := say(); no != "" {
					return no
				}
				return "250 2.0.0 Ok"
			}
		}, good, []string{"250", "250", "451"}},
		// The provider clears up, and is told that all is clear.
		{"then RSET", func(m *fakeMTA) { m.rcpt = onceLine("421 4.3.0 no") }, open + "DATA\r\nRSET\r\n", []string{"250", "451", "451", "250"}},
		// It need not.
		{"then MAIL", func(m *fakeMTA) { m.rcpt = onceLine("421 4.3.0 no") }, open, []string{"250", "451"}},
		{"then EHLO", func(m *fakeMTA) { m.rcpt = onceLine("421 4.3.0 no") }, open + hello, []string{"250", "451", "250"}},
	}
	for _, tt := range tests {
		for _, connections := range []int{1, 4} {
			t.Run(fmt.Sprint(tt.name, connections), func(t *testing.T) {
				t.Parallel()
				m := newMTA(t)
				tt.set(m)
				h := begin(t, t.Context(), Options{Dial: m.dial, Connections: connections})
				h.expect("220")
				h.send(hello)
				h.expect("250")
				h.send(tt.send)
				h.expect(tt.codes...)
				// Twice: by one of them the lost connection would be used again.
				h.send(good + good + "QUIT\r\n")
				h.expect("250", "250", "250", "250", "250", "250", "221")
				h.end(nil)
				if c := h.srv.Counts(); c.Messages != 2 || len(m.messages) != 2 {
					t.Errorf("%d messages counted, and the MTA has %d, want 2", c.Messages, len(m.messages))
				}
			})
		}
	}
}

// onceLine answers the first line only with no.
func onceLine(no string) func(string) string {
	var said atomic.Bool
	return func(string) string {
		if said.CompareAndSwap(false, true) {
			return no
		}
		return "250 2.1.5 Ok"
	}
}

// An MTA that has had enough of an idle connection is asked on another one.
func TestStale(t *testing.T) {
	for name, end := range map[string]func(m *fakeMTA){
		"hung up": func(m *fakeMTA) { m.hangUp() },
		"said so": func(m *fakeMTA) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, conn := range m.open {
				conn.Write([]byte("421 4.4.2 timeout\r\n"))
			}
		},
	} {
		for _, first := range []string{"", "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\nBDAT 3 LAST\r\nx\r\n"} {
			t.Run(fmt.Sprint(name, first != ""), func(t *testing.T) {
				m := newMTA(t)
				h := begin(t, t.Context(), Options{Dial: m.dial})
				h.expect("220")
				h.send(hello)
				h.expect("250")
				if first != "" {
					h.send(first)
					h.expect("250", "250", "250")
				}
				end(m)
				h.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\nBDAT 3 LAST\r\nx\r\nQUIT\r\n")
				h.expect("250", "250", "250", "221")
				h.end(nil)
			})
		}
	}
}
