package esmtp

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// reading is how the two servers read: a buffer for one command in one, and one
// for messages too in the other.
var reading = []struct{ buffer, max int }{{1024, 1024}, {32 << 10, 1024}}

func TestReadCommand(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name, in string
		ascii    []any // lines and errors, in a dialogue without UTF-8
		utf8     []any // the same with UTF-8; nil: likewise
	}{
		{"a line", "NOOP\r\n", []any{"NOOP", io.EOF}, nil},
		{"two in one packet", "NOOP\r\nQUIT\r\n", []any{"NOOP", "QUIT", io.EOF}, nil},
		{"an empty line", "\r\n", []any{"", io.EOF}, nil},
		{"spaces stay", " NOOP  \r\n", []any{" NOOP  ", io.EOF}, nil},
		{"nothing", "", []any{io.EOF}, nil},
		{"the end within a line", "QUI", []any{io.ErrUnexpectedEOF}, nil},
		{"the end behind CR", "QUIT\r", []any{io.ErrUnexpectedEOF}, nil},
		{"LF alone", "NOOP\nQUIT\r\n", []any{ErrBareLF, "QUIT", io.EOF}, nil},
		{"LF and nothing", "\n", []any{ErrBareLF, io.EOF}, nil},
		// A message could end here for one server and not for the next.
		{"CR within", "EHLO a\rb\r\n", []any{ErrASCII, io.EOF}, []any{ErrControl, io.EOF}},
		{"two CR", "NOOP\r\r\n", []any{ErrASCII, io.EOF}, []any{ErrControl, io.EOF}},
		{"NUL", "EHLO\x00site\r\nQUIT\r\n", []any{ErrASCII, "QUIT", io.EOF}, []any{ErrControl, "QUIT", io.EOF}},
		{"TAB", "EHLO\tsite\r\n", []any{ErrASCII, io.EOF}, []any{ErrControl, io.EOF}},
		{"DEL", "EHLO \x7f\r\n", []any{ErrASCII, io.EOF}, []any{ErrControl, io.EOF}},
		{"UTF-8", "MAIL FROM:<\u00fc@x.example>\r\n", []any{ErrASCII, io.EOF}, []any{"MAIL FROM:<\u00fc@x.example>", io.EOF}},
		{"no UTF-8", "MAIL FROM:<\xfc@x.example>\r\n", []any{ErrASCII, io.EOF}, []any{ErrControl, io.EOF}},
		{"as long as allowed", x(1022) + "\r\nQUIT\r\n", []any{x(1022), "QUIT", io.EOF}, nil},
		{"longer by one", x(1023) + "\r\nQUIT\r\n", []any{ErrLong, "QUIT", io.EOF}, nil},
		{"much too long", x(60000) + "\r\nQUIT\r\n", []any{ErrLong, "QUIT", io.EOF}, nil},
		// LF is enough to find the next line by.
		{"much too long, LF alone", x(60000) + "\nQUIT\r\n", []any{ErrLong, "QUIT", io.EOF}, nil},
		{"no end", x(200000), []any{ErrFlood}, nil},
		{"the end within a line that is too long", x(50000), []any{io.ErrUnexpectedEOF}, nil},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", []any{ErrTLSHello}, nil},
		{"TLS behind a line", "NOOP\r\n\x16\x03\x01", []any{"NOOP", ErrTLSHello}, nil},
		{"its first byte elsewhere", "NOOP\x16\r\n", []any{ErrASCII, io.EOF}, []any{ErrControl, io.EOF}},
	} {
		for _, utf8 := range []bool{false, true} {
			want := c.ascii
			if utf8 && c.utf8 != nil {
				want = c.utf8
			}
			for _, size := range reading {
				r := &CommandReader{bufio.NewReaderSize(strings.NewReader(c.in), size.buffer), size.max, utf8}
				for i, w := range want {
					line, err := r.ReadCommand()
					if s, ok := w.(string); ok && (err != nil || string(line) != s) || !ok && err != w {
						t.Errorf("%s (%+v, UTF-8 %v): line %d is %.50q, %v; want %.50q", c.name, size, utf8, i, line, err, w)
						break
					}
				}
			}
		}
	}
}

// With an error there is something for the log to show.
func TestReadCommandShowsTheLine(t *testing.T) {
	for _, in := range []string{"EHLO a\n", "EHLO a\x00\r\n", "EHLO a" + strings.Repeat("x", 2000) + "\r\n", "EHLO a" + strings.Repeat("x", 100000), "EHLO a"} {
		r := &CommandReader{Reader: bufio.NewReaderSize(strings.NewReader(in), 1024), Max: 1024}
		if line, err := r.ReadCommand(); err == nil || !strings.HasPrefix(string(line), "EHLO a") {
			t.Errorf("%.30q: %q, %v", in, line, err)
		}
	}
}

// An error of the connection is not taken for one of the line.
func TestReadCommandPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	for _, in := range []string{"", "EHLO", strings.Repeat("x", 5000)} {
		r := &CommandReader{Reader: bufio.NewReaderSize(io.MultiReader(strings.NewReader(in), iotest.ErrReader(broken)), 1024), Max: 1024}
		if _, err := r.ReadCommand(); err != broken {
			t.Errorf("after %d bytes: %v", len(in), err)
		}
	}
}

func TestReady(t *testing.T) {
	for in, want := range map[string]bool{
		"NOOP\r\n":                     true,
		"NOOP\n":                       true,
		"NOOP":                         false,
		"NOOP\r\nQU":                   true,
		"":                             false,
		strings.Repeat("x", 100):       false, // the buffer is full, the line is not at its end
		"\n" + strings.Repeat("x", 99): true,
	} {
		r := &CommandReader{Reader: bufio.NewReaderSize(strings.NewReader(in), 100), Max: 100}
		r.Peek(1)
		if got := r.Ready(); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// Whatever comes, a command is one line of printable characters, every error is
// one of those that are told apart, and the same bytes make the same commands
// however they arrive and however large the buffer is.
func FuzzReadCommand(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, utf8 bool) {
		var first []string
		for i, in := range []io.Reader{
			strings.NewReader(string(data)),
			iotest.OneByteReader(strings.NewReader(string(data))),
			iotest.DataErrReader(strings.NewReader(string(data))),
		} {
			r := &CommandReader{bufio.NewReaderSize(in, 64<<i), 64, utf8}
			var seen []string
			for {
				line, err := r.ReadCommand()
				var bad LineError
				if err == nil || errors.As(err, &bad) {
					if err == nil && (len(line) > 62 || strings.ContainsAny(string(line), "\r\n\t\x00\x7f") || !utf8 && strings.ContainsFunc(string(line), func(r rune) bool { return r > '~' })) {
						t.Fatalf("%q is taken for a command", line)
					}
					if err != nil {
						line = []byte(err.Error())
					}
					seen = append(seen, string(line))
					continue
				}
				if err != io.EOF && err != io.ErrUnexpectedEOF && err != ErrFlood && err != ErrTLSHello {
					t.Fatalf("%v", err)
				}
				break
			}
			if i == 0 {
				first = seen
			} else if strings.Join(seen, "|") != strings.Join(first, "|") {
				t.Fatalf("%q becomes %q or %q", data, first, seen)
			}
		}
	})
}

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

func BenchmarkReadCommand(b *testing.B) {
	const text = "MAIL FROM:<sender@x.example> SIZE=2000 BODY=8BITMIME\r\nRCPT TO:<crew@acme.example> NOTIFY=NEVER\r\n"
	r := &CommandReader{bufio.NewReaderSize(&endless{text: text}, 32<<10), 2048, true}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.ReadCommand(); err != nil {
			b.Fatal(err)
		}
	}
}
