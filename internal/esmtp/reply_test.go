package esmtp

import (
	"bufio"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadReply(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	bad := func(text string) any { return errors.New(text) }
	for _, c := range []struct {
		name, in string
		want     []any // Reply, or an error: io's own, or a text that ErrReply's has to hold
	}{
		{"one line", "250 ok\r\n", []any{Reply{250, []string{"ok"}}, io.EOF}},
		{"several", "250-a\r\n250-b c\r\n250 d\r\n", []any{Reply{250, []string{"a", "b c", "d"}}, io.EOF}},
		{"two replies in one packet", "250 a\r\n550 b\r\n", []any{Reply{250, []string{"a"}}, Reply{550, []string{"b"}}, io.EOF}},
		{"no text", "250 \r\n", []any{Reply{250, []string{""}}, io.EOF}},
		// RFC 5321, section 4.2, wants clients to take it.
		{"the code alone", "250\r\n", []any{Reply{250, []string{""}}, io.EOF}},
		{"the code alone at the end", "250-a\r\n250\r\n", []any{Reply{250, []string{"a", ""}}, io.EOF}},
		{"LF alone", "250-a\n250 b\n", []any{Reply{250, []string{"a", "b"}}, io.EOF}},
		// What a server says that adds CRLF to lines that have it.
		{"more CR than one", "250 a\r\r\n", []any{Reply{250, []string{"a"}}, io.EOF}},
		{"TAB", "250 a\tb\r\n", []any{Reply{250, []string{"a b"}}, io.EOF}},
		{"CR within", "250 a\rb\r\n", []any{Reply{250, []string{"a b"}}, io.EOF}},
		{"escape sequences", "554 \x1b[31mred\x7f\x00\r\n", []any{Reply{554, []string{"?[31mred??"}}, io.EOF}},
		{"UTF-8", "250 \u00fc\r\n", []any{Reply{250, []string{"?"}}, io.EOF}},
		{"no UTF-8", "250 \xff\r\n", []any{Reply{250, []string{"?"}}, io.EOF}},
		{"the text is as long as is kept", "250 " + x(1000) + "\r\n", []any{Reply{250, []string{x(1000)}}, io.EOF}},
		{"longer by one", "250 " + x(1001) + "\r\n", []any{Reply{250, []string{x(997) + "..."}}, io.EOF}},
		{"longer than the buffer", "250-" + x(60000) + "\r\n250 b\r\n", []any{Reply{250, []string{x(997) + "...", "b"}}, io.EOF}},
		{"as many lines as are taken", strings.Repeat("250-a\r\n", 99) + "250 b\r\n", []any{Reply{250, append(strings.Split(strings.Repeat("a ", 99)[:197], " "), "b")}, io.EOF}},
		{"more by one", strings.Repeat("250-a\r\n", 100) + "250 b\r\n", []any{bad("more than 100 lines")}},
		{"lines without an end", strings.Repeat("250-"+x(4000)+"\r\n", 99) + "250 b\r\n", []any{bad("longer than")}},
		{"a line without an end", "250 " + x(200000), []any{bad("without an end")}},
		{"no code", "hello\r\n", []any{bad(`"hello"`)}},
		{"a short code", "25\r\n", []any{bad(`"25"`)}},
		{"a long code", "2500 x\r\n", []any{bad(`"2500 x"`)}},
		{"letters in the code", "2x0 y\r\n", []any{bad(`"2x0 y"`)}},
		{"beyond the code", "250_ok\r\n", []any{bad(`"250_ok"`)}},
		// Nothing but 2 to 5 has a meaning (section 4.2.1).
		{"a code of a kind that is none", "150 x\r\n", []any{bad(`"150 x"`)}},
		{"and another", "600 x\r\n", []any{bad(`"600 x"`)}},
		{"an empty line", "\r\n", []any{bad(`""`)}},
		{"what it said is quoted and cut", "\x1b" + x(2000) + "\r\n", []any{bad(`"\x1b` + x(79) + `"...`)}},
		// Which of the two would be the reply?
		{"two codes", "250-a\r\n550 b\r\n", []any{bad("code 550 in a reply that began with 250")}},
		{"two codes of a kind", "250-a\r\n251 b\r\n", []any{bad("code 251 in a reply that began with 250")}},
		{"the end", "", []any{io.EOF}},
		{"the end within a line", "250 o", []any{io.ErrUnexpectedEOF}},
		{"the end within a long line", "250 " + x(5000), []any{io.ErrUnexpectedEOF}},
		{"the end between lines", "250-a\r\n", []any{io.ErrUnexpectedEOF}},
	} {
		r := &ReplyReader{Reader: bufio.NewReaderSize(strings.NewReader(c.in), 2048)}
		for i, w := range c.want {
			got, err := r.ReadReply()
			ok := false
			switch w := w.(type) {
			case Reply:
				ok = err == nil && reflect.DeepEqual(got, w)
			case error:
				ok = err == w || errors.Is(err, ErrReply) && strings.Contains(err.Error(), w.Error()) && len(err.Error()) < 300
			}
			if !ok {
				t.Errorf("%s: reply %d is %.200q, %.200v; want %.200q", c.name, i, got, err, w)
			}
		}
	}
}

// A client that asked for SMTPUTF8 gets to see what it is told.
func TestReadReplyUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"550 <\u00fc@x.example>\r\n":       "<\u00fc@x.example>",
		"550 a\tb\x1b\xff\u202e\u009b\r\n": "a b????",
		"550 " + strings.Repeat("x", 990) + "\u00fc" + strings.Repeat("x", 10) + "\r\n": strings.Repeat("x", 990) + "\u00fcxxxxx...",
	} {
		r := &ReplyReader{Reader: bufio.NewReaderSize(strings.NewReader(in), 2048), UTF8: true}
		if got, err := r.ReadReply(); err != nil || got.Text() != want {
			t.Errorf("%q: %q, %v; want %q", in, got.Text(), err, want)
		}
	}
}

func TestReadReplyPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	for _, in := range []string{"", "250", "250-a\r\n", "250 " + strings.Repeat("x", 5000)} {
		r := &ReplyReader{Reader: bufio.NewReaderSize(io.MultiReader(strings.NewReader(in), iotest.ErrReader(broken)), 2048)}
		if _, err := r.ReadReply(); err != broken {
			t.Errorf("after %.10q: %v", in, err)
		}
	}
}

func TestReply(t *testing.T) {
	long := strings.Repeat("x", 600)
	for _, c := range []struct {
		r          Reply
		text, last string
		wire       string
		ok         bool
	}{
		{Reply{250, []string{"2.0.0 Ok"}}, "2.0.0 Ok", "2.0.0 Ok", "250 2.0.0 Ok\r\n", true},
		{Reply{550, []string{"a", "b"}}, "a b", "b", "550-a\r\n550 b\r\n", false},
		{Reply{Code: 354}, "", "", "354 \r\n", false},
		{Reply{421, []string{long, long}}, long + " " + long[:396] + "...", long, "421-" + long + "\r\n421 " + long + "\r\n", false},
	} {
		if c.r.Text() != c.text || c.r.Last() != c.last || c.r.OK() != c.ok {
			t.Errorf("%d: text %q, last %q, ok %v", c.r.Code, c.r.Text(), c.r.Last(), c.r.OK())
		}
		if got := string(c.r.AppendTo([]byte("-"))); got != "-"+c.wire {
			t.Errorf("%d: %q, want %q", c.r.Code, got, c.wire)
		}
		if want := c.wire[:3] + " " + c.text; c.r.String() != want {
			t.Errorf("%q, want %q", c.r, want)
		}
	}
}

// Whatever a peer says, it is one bounded reply of printable text or an error,
// whatever it arrives by, and it can be passed on as what it was taken for.
func FuzzReadReply(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, utf8 bool) {
		r := &ReplyReader{bufio.NewReaderSize(strings.NewReader(string(data)), 128), utf8}
		slow := &ReplyReader{bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(string(data))), 128), utf8}
		for {
			reply, err := r.ReadReply()
			again, err2 := slow.ReadReply()
			if (err == nil) != (err2 == nil) || !reflect.DeepEqual(reply, again) {
				t.Fatalf("%+v, %v or %+v, %v", reply, err, again, err2)
			}
			if err != nil {
				if len(err.Error()) > 500 || err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrReply) {
					t.Fatalf("%v", err)
				}
				return
			}
			if reply.Code < 200 || reply.Code > 599 || len(reply.Lines) == 0 || len(reply.Lines) > MaxReplyLines || len(reply.Text()) > MaxReplyText {
				t.Fatalf("%+v", reply)
			}
			if !utf8 && strings.ContainsFunc(reply.Text(), func(r rune) bool { return r < ' ' || r > '~' }) || strings.ContainsAny(reply.Text(), "\r\n\x00\x1b") {
				t.Fatalf("%q", reply.Text())
			}
			back := &ReplyReader{bufio.NewReaderSize(strings.NewReader(string(reply.AppendTo(nil))), 2048), utf8}
			if same, err := back.ReadReply(); err != nil || !reflect.DeepEqual(same, reply) {
				t.Fatalf("%+v is read back as %+v, %v", reply, same, err)
			}
			status, rest := CutStatus(reply.Text())
			if !strings.HasSuffix(reply.Text(), rest) || status == (Status{}) && rest != reply.Text() {
				t.Fatalf("%q has the status %v and %q", reply.Text(), status, rest)
			}
			if o := ParseOffers(reply.Lines[1:]); o.Size() < 0 || len(o) > len(reply.Lines) {
				t.Fatalf("%q offers %v", reply.Lines, o)
			}
		}
	})
}

func BenchmarkReadReply(b *testing.B) {
	for name, text := range map[string]string{
		"one": "250 2.1.0 Ok\r\n",
		"ten": strings.Repeat("250-PIPELINING\r\n", 9) + "250 CHUNKING\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			r := &ReplyReader{Reader: bufio.NewReaderSize(&endless{text: text}, 4096)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.ReadReply(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
