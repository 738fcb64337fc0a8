package deliver

import (
	"bufio"
	"io"
	"testing"

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

// The replies to one message, as read finds them when thousands of messages are
// pipelined.
func BenchmarkReplies(b *testing.B) {
	t := &turn{in: &esmtp.ReplyReader{Reader: bufio.NewReaderSize(&endless{text: "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.0.0 Ok: queued as 4XyZ1234567890\r\n"}, maxReplyLine)}}
	b.ReportAllocs()
	for b.Loop() {
		for range 3 {
			if r, err := t.in.ReadReply(); err != nil || !r.OK() {
				b.Fatal(r, err)
			}
		}
	}
}

var _ io.Reader = (*endless)(nil)
