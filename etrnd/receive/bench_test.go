package receive

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// endless repeats a text for ever.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k := copy(p[n:], e.text[e.at:])
		n += k
		e.at = (e.at + k) % len(e.text)
	}
	return n, nil
}

type silent struct {
	net.Conn
}

func (silent) SetReadDeadline(time.Time) error  { return nil }
func (silent) SetWriteDeadline(time.Time) error { return nil }

// The commands of one message, as the reader finds and checks them when
// thousands of messages are pipelined.
func BenchmarkCommands(b *testing.B) {
	srv := New(Options{Domains: []string{"acme.example"}})
	t := newTurn(b.Context(), srv, silent{})
	t.in.Reader = bufio.NewReaderSize(&endless{text: "MAIL FROM:<sender@x.example> SIZE=2000 BODY=8BITMIME\r\nRCPT TO:<crew@acme.example> NOTIFY=NEVER\r\n"}, 32<<10)
	b.ReportAllocs()
	for b.Loop() {
		line, err := t.line()
		if err != nil {
			b.Fatal(err)
		}
		if _, _, no := mail(line[5:], everything); no != "" {
			b.Fatal(line, no)
		}
		if line, err = t.line(); err != nil {
			b.Fatal(err)
		}
		if _, _, no := srv.recipient(line[5:], everything, false); no != "" {
			b.Fatal(line, no)
		}
	}
}

// The MTA's replies to one message, from the MTA's connection to the provider's.
func BenchmarkReplies(b *testing.B) {
	srv := New(Options{Domains: []string{"acme.example"}})
	t := newTurn(b.Context(), srv, silent{})
	t.out = bufio.NewWriter(io.Discard)
	m := &backend{conn: silent{}, r: &esmtp.ReplyReader{Reader: bufio.NewReaderSize(&endless{text: "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.0.0 Ok: queued as 4XyZ1234567890\r\n"}, maxReplyLine), UTF8: true}, lost: make(chan struct{})}
	m.r.Peek(1)
	answers := []*answer{{b: m}, {b: m, rcpt: true}, {b: m}}
	b.ReportAllocs()
	for b.Loop() {
		for _, a := range answers {
			if err := t.bring(a); err != nil {
				b.Fatal(err)
			}
		}
	}
}
