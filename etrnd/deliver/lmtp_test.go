package deliver

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// raw speaks LMTP to the socket of a queue by the letter, as no library would.
type raw struct {
	t    *testing.T
	conn net.Conn
	in   *esmtp.ReplyReader
}

func (b *bench) raw(t *testing.T, queue string) *raw {
	t.Helper()
	var conn net.Conn
	until(t, "the socket", func() (ok bool) {
		var err error
		conn, err = net.Dial("unix", b.socket(queue))
		return err == nil
	})
	t.Cleanup(func() { conn.Close() })
	r := &raw{t, conn, &esmtp.ReplyReader{Reader: bufio.NewReader(conn), UTF8: true}}
	if reply := r.reply(); reply.Code != 220 {
		t.Fatalf("greeting: %v", reply)
	}
	return r
}

func (r *raw) reply() esmtp.Reply {
	r.t.Helper()
	r.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	reply, err := r.in.ReadReply()
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

func (r *raw) ask(line string) esmtp.Reply {
	r.t.Helper()
	if _, err := io.WriteString(r.conn, line+"\r\n"); err != nil {
		r.t.Fatal(err)
	}
	return r.reply()
}

// keywords are what the MTA is offered.
func (r *raw) keywords() []string {
	r.t.Helper()
	reply := r.ask("LHLO hub.example.net")
	if !reply.OK() {
		r.t.Fatalf("LHLO: %v", reply)
	}
	lines := slices.Clone(reply.Lines[1:])
	slices.Sort(lines)
	return lines
}

// send delivers one message and returns the codes for its recipients.
func (r *raw) send(mail string, rcpts []string, content string) []int {
	r.t.Helper()
	codes := make([]int, len(rcpts))
	if reply := r.ask("MAIL FROM:" + mail); !reply.OK() {
		for i := range codes {
			codes[i] = reply.Code
		}
		return codes
	}
	var open []int
	for i, to := range rcpts {
		if reply := r.ask("RCPT TO:" + to); !reply.OK() {
			codes[i] = reply.Code
		} else {
			open = append(open, i)
		}
	}
	if len(open) == 0 {
		return codes
	}
	if reply := r.ask("DATA"); reply.Code != 354 {
		r.t.Fatalf("DATA: %v", reply)
	}
	if _, err := io.WriteString(r.conn, content+".\r\n"); err != nil {
		r.t.Fatal(err)
	}
	for _, i := range open {
		reply := r.reply()
		if path, _, _ := strings.Cut(rcpts[i], "> "); !strings.Contains(reply.Text(), strings.TrimSuffix(path, ">")+">") && len(path) < 200 {
			r.t.Errorf("the reply for %s is %v", path, reply)
		}
		codes[i] = reply.Code
	}
	return codes
}

// The MTA is offered what the site has, and nothing else: it knows how to convert
// and what to answer for.
func TestOffers(t *testing.T) {
	for name, c := range map[string]struct{ site, want []string }{
		"all":      {[]string{"PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME", "DSN", "SMTPUTF8", "SIZE 1000000"}, []string{"8BITMIME", "DSN", "ENHANCEDSTATUSCODES", "PIPELINING", "SIZE 1000000", "SMTPUTF8"}},
		"no 8-bit": {[]string{"PIPELINING", "DSN"}, []string{"DSN", "ENHANCEDSTATUSCODES", "PIPELINING", "SIZE"}},
		"nothing":  {[]string{}, []string{"ENHANCEDSTATUSCODES", "PIPELINING", "SIZE"}},
		// A filter may have been in between: the MTA need not give anything up.
		"HELO": {nil, []string{"ENHANCEDSTATUSCODES", "PIPELINING", "SIZE", "SMTPUTF8"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{})
			b.hold.add("acme", 2)
			s := &site{offers: c.site}
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			go s.serve(far)
			r := b.raw(t, "acme")
			if got := r.keywords(); !slices.Equal(got, c.want) {
				t.Errorf("offered are %q, want %q", got, c.want)
			}
			// An MTA that is told to "just send 8" does so, and the site decides.
			if codes := r.send("<s@x.example>", []string{"<a@acme.example>"}, "Subject: gr\xfc\xdfe\r\n\r\n\xe4\r\n"); codes[0] != 250 {
				t.Errorf("8-bit mail: %v", codes)
			}
			want := 250
			if name == "HELO" {
				want = 451
			}
			if slices.Contains(c.want, "SMTPUTF8") {
				if codes := r.send("<s@x.example> SMTPUTF8", []string{"<p\u00e9@acme.example>"}, "Subject: x\r\n\r\n"); codes[0] != want {
					t.Errorf("internationalised mail: %v, want %d", codes, want)
				}
			}
			r.ask("QUIT")
			b.hold.add("acme", -2)
			if err := <-end; err != nil {
				t.Error(err)
			}
		})
	}
}

// A site that does not take EHLO now is not asked with HELO for less.
func TestNotNow(t *testing.T) {
	b := newBench(t, Options{})
	b.hold.add("acme", 1)
	s := &site{offers: []string{"SMTPUTF8"}, reply: func(_ *site, c string) string {
		if strings.HasPrefix(c, "EHLO") {
			return "451 4.3.0 come again"
		}
		return ""
	}}
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "acme")
	go s.serve(far)
	if err := <-end; err == nil || !strings.Contains(err.Error(), "451") {
		t.Errorf("ended with %v", err)
	}
	if said := s.said(); slices.ContainsFunc(said, func(c string) bool { return strings.HasPrefix(c, "HELO") }) {
		t.Errorf("the site was asked %q", said)
	}
}

// What the MTA has accepted crosses, whatever its spelling, or stays where it is.
func TestSpellings(t *testing.T) {
	long := strings.Repeat("x", 1500)
	for _, c := range []struct {
		mail, rcpt string
		code       int
		from, to   string // as the site gets them; "": as they are
	}{
		{"<s@x.example> ENVID=<abc>", "<a@acme.example>", 250, "<s@x.example> ENVID=+3Cabc+3E", ""},
		{"<s@x.example>", `<"john doe"@acme.example> NOTIFY=FAILURE ORCPT=rfc822;+22john+20doe+22@old.example`, 250, "", ""},
		{"<s@x.example>", `<"john doe"@acme.example> NOTIFY=FAILURE ORCPT=rfc822;"john+20doe"@old.example`, 250, "", `<"john doe"@acme.example> NOTIFY=FAILURE ORCPT=rfc822;+22john+20doe+22@old.example`},
		{"<s@x.example>", "<a@acme.example> ORCPT=x400;/S+3Ddoe/C+3Dde/", 250, "", ""},
		{"<s@x.example>", "<a@acme.example> ORCPT=rfc822;a+09b@x.example", 250, "", "<a@acme.example>"},
		{"<s@x.example>", "<a@acme.example> ORCPT=rfc822;a\u00e9b@x.example", 250, "", `<a@acme.example> ORCPT=utf-8;a\x{E9}b@x.example`},
		{"<s@x.example>", "<a@acme.example> ORCPT=rfc822", 250, "", "<a@acme.example>"},
		{"<s@x.example> AUTH=<> SIZE=99 BODY=7BIT RET=HDRS BY=120;R", "<a@acme.example> RRVS=2014-04-03T23:01:00Z", 250, "<s@x.example> RET=HDRS", "<a@acme.example>"},
		{`<"a\"b>\\"@x.example>`, `<"q\"\\@,;:()<>"@acme.example>`, 250, "", ""},
		{"<@a.example,@b.example:s@x.example>", "<@acme.example:a@acme.example>", 250, "", ""},
		{"<joe>", "<a..b.@acme.example>", 250, "", ""},
		{"<s@[192.0.2.1]>", `<""@acme.example>`, 250, "", ""},
		{"<s@[IPv6:2001:db8::1]>", "<a%b@acme.example>", 250, "", ""},
		{"<" + long + "@x.example>", "<" + long + "@acme.example>", 250, "", ""},
		// What would be two commands for somebody is kept.
		{"<\"a\rb\"@x.example>", "<a@acme.example>", 451, "", ""},
		{"<s@x.example>", "<\"a\tb\"@acme.example>", 451, "", ""},
		{"<s@x.example>", "a@acme.example", 451, "", ""},
		{"<s@x.example>", "<" + strings.Repeat("x", maxMTALine) + "@acme.example>", 451, "", ""},
	} {
		t.Run("", func(t *testing.T) {
			b := newBench(t, Options{})
			b.hold.add("acme", 1)
			s := &site{offers: []string{"PIPELINING", "CHUNKING", "DSN"}}
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			go s.serve(far)
			r := b.raw(t, "acme")
			r.keywords()
			if codes := r.send(c.mail, []string{c.rcpt}, "Subject: x\r\n\r\n"); codes[0] != c.code {
				t.Errorf("%.100s to %.100s: %v, want %d", c.mail, c.rcpt, codes, c.code)
			}
			r.ask("QUIT")
			b.hold.add("acme", -1)
			if err := <-end; err != nil {
				t.Error(err)
			}
			if c.from == "" {
				c.from = c.mail
			}
			if c.to == "" {
				c.to = c.rcpt
			}
			got := s.got()
			if c.code == 250 && (len(got) != 1 || got[0].from != c.from || !slices.Equal(got[0].rcpts, []string{c.to})) {
				t.Errorf("the site got %.300q, want from %.100s to %.100s", got, c.from, c.to)
			}
		})
	}
}

// A site that refuses the parameters it offers to take gets the mail without them.
func TestRefusesParameters(t *testing.T) {
	for _, no := range []string{"555 5.5.4 unsupported option: ORCPT", "504 what?", "501 5.5.4 syntax"} {
		b := newBench(t, Options{})
		s := &site{offers: []string{"PIPELINING", "CHUNKING", "DSN"}, reply: func(_ *site, c string) string {
			if strings.HasPrefix(c, "RCPT") && strings.Contains(c, "ORCPT") {
				return no
			}
			return ""
		}}
		for _, want := range []int{451, 250} {
			b.hold.add("acme", 1)
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			go s.serve(far)
			r := b.raw(t, "acme")
			r.keywords()
			if codes := r.send("<s@x.example>", []string{"<a@acme.example> ORCPT=x400;x"}, "Subject: x\r\n\r\n"); codes[0] != want {
				t.Errorf("%s: %v, want %d", no, codes, want)
			}
			r.ask("QUIT")
			b.hold.add("acme", -1)
			if err := <-end; err != nil {
				t.Error(err)
			}
		}
	}
}

// A message crosses byte for byte where the site has CHUNKING: with CR and LF
// alone, and around the sizes of all buffers on the way. Where it has not, no
// server may find an end in it but the last.
func TestContent(t *testing.T) {
	var contents []string
	for _, tail := range []string{"\r\r\n", "\r\n", "\r\r\r\n", "\n.\r\n", "\r.\r\n", "\r\n..\r\n", "\r.\r\r\n", "\x00\r\n", "\n\r\n", "\r\n\r\r\n"} {
		for _, size := range []int{0, 1, 2047, 2048, 4094, 4095, 4096, 16<<10 - 3, 16<<10 - 1, 16 << 10, small - 2, small - 1, small, small + 1, 2*small - 1, 2 * small} {
			contents = append(contents, "Subject: x\r\n\r\n"+strings.Repeat("y", size)+tail)
		}
	}
	for name, offers := range map[string][]string{"chunks": {"PIPELINING", "CHUNKING"}, "data": {"PIPELINING"}, "lock-step": {}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{})
			b.hold.add("acme", 1)
			s := &site{offers: offers}
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			go s.serve(far)
			r := b.raw(t, "acme") // one connection for all: no end is missed, and nothing behind it taken
			r.keywords()
			for _, content := range contents {
				stuffed := strings.ReplaceAll("\r\n"+content, "\r\n.", "\r\n..")[2:]
				if codes := r.send("<s@x.example>", []string{"<a@acme.example>"}, stuffed); codes[0] != 250 {
					t.Fatalf("%.20q ... %q: %v", content, content[len(content)-8:], codes)
				}
			}
			r.ask("QUIT")
			b.hold.add("acme", -1)
			if err := <-end; err != nil {
				t.Error(err)
			}
			got := s.got()
			if len(got) != len(contents) {
				t.Fatalf("%d messages arrived, want %d", len(got), len(contents))
			}
			for i, content := range contents {
				if name != "chunks" {
					content = whole(content)
				}
				if got[i].body != content {
					t.Errorf("%d bytes that end in %q arrived as %d that end in %q", len(content), content[len(content)-8:], len(got[i].body), got[i].body[max(0, len(got[i].body)-8):])
				}
			}
		})
	}
}

// whole has CR and LF as pairs only.
func whole(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\r' && i+1 < len(s) && s[i+1] == '\n':
			b.WriteString("\r\n")
			i++
		case s[i] == '\r':
			b.WriteByte(' ')
		case s[i] == '\n':
			b.WriteString("\r\n")
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// The reader of content agrees with the letter of RFC 5321, in pieces of any size.
func FuzzDotReader(f *testing.F) {
	f.Add([]byte("a\r\r\n.\r\nNOOP\r\n"), 1)
	f.Add([]byte("..\r.\r\n..\r\r\n\n.\r\n.\r\n"), 3)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		size = 1 + (size&0xff)%40
		content, rest, ok := bytes.Cut(append([]byte("\r\n"), in...), []byte("\r\n.\r\n"))
		in = append(in, "!"...)
		d := &dotReader{r: bufio.NewReaderSize(&pieces{in, size}, 16)}
		var got []byte
		var err error
		for err == nil {
			b := make([]byte, size)
			var n int
			n, err = d.Read(b)
			got = append(got, b[:n]...)
		}
		if (err == io.EOF) != ok {
			t.Fatalf("%q: %v", in, err)
		}
		if !ok {
			return
		}
		want := bytes.ReplaceAll(append(content, "\r\n"...), []byte("\r\n."), []byte("\r\n"))[2:]
		if !bytes.Equal(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		if left, _ := io.ReadAll(d.r); string(left) != string(rest)+"!" {
			t.Errorf("%q: behind the end is %q, want %q", in, left, rest)
		}
	})
}

// pieces is read a few bytes at a time.
type pieces struct {
	b    []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.size, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

// What is written for DATA has CR and LF as pairs only, and no end in it.
func FuzzDots(f *testing.F) {
	f.Add([]byte("a\r\r\n.\r\nb\n.\nc\r"), 2)
	f.Fuzz(func(t *testing.T, in []byte, size int) {
		size = 1 + size&0xff
		var b bytes.Buffer
		d := dots{w: &b, bol: true}
		for rest := in; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			d.Write(rest[:min(size, len(rest))])
		}
		d.end()
		out := b.String()
		if left := strings.ReplaceAll(out, "\r\n", ""); strings.ContainsAny(left, "\r\n") {
			t.Fatalf("%q: %q", in, out)
		}
		if strings.Contains("\r\n"+out, "\r\n.\r\n") {
			t.Errorf("%q: an end in %q", in, out)
		}
		want := whole(string(in))
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		if got := strings.ReplaceAll("\r\n"+out, "\r\n.", "\r\n")[2:]; got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	})
}

// A reply too many is noticed before anybody is told what it would make of the
// others, wherever it comes.
func TestSurplus(t *testing.T) {
	type where struct {
		behind string // the command whose reply has another behind it
		extra  string
	}
	for name, offers := range map[string][]string{"chunks": {"PIPELINING", "CHUNKING"}, "data": {"PIPELINING"}, "lock-step chunks": {"CHUNKING"}, "lock-step": {}} {
		for _, w := range []where{
			{"EHLO", "250 site"}, {"MAIL", "250 ok"}, {"RCPT", "250 ok"}, {"RCPT", "250 2.1.5 ok"}, {"RCPT", "550 no"}, {"MAIL", "250 ok\r\n250 2.1.5 ok"}, {"END", "250 ok"}, {"END", "550 no"}, {"RSET", "250 ok"},
		} {
			for _, bad := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s %q/%v", name, w.behind, w.extra, bad), func(t *testing.T) {
					b := newBench(t, Options{})
					b.hold.add("acme", 3)
					once := false
					s := &site{offers: offers}
					s.reply = func(s *site, c string) string {
						if c == "END" && bad {
							s.extra(w.behind == "END" && !once, w.extra)
							once = once || w.behind == "END"
							return "550 5.7.1 a virus"
						}
						if strings.HasPrefix(c, w.behind) && !once {
							once = true
							s.extra(true, w.extra)
						}
						return ""
					}
					far, near := tcp(t)
					end := b.turn(t.Context(), near, "acme")
					go s.serve(far)
					for i := range 3 {
						if _, err := os.Stat(b.socket("acme")); err != nil && i > 0 {
							break
						}
						codes, err := deliverTo(b.socket("acme"), letter{from: "s@x.example", to: []string{fmt.Sprintf("r%d@acme.example", i)}, body: lines("x", 300)})
						if err != nil {
							break // the turn has ended meanwhile
						}
						arrived := slices.ContainsFunc(s.got(), func(m mail) bool { return slices.Contains(m.rcpts, fmt.Sprintf("<r%d@acme.example>", i)) })
						// Sent twice is unpleasant, lost is unforgivable.
						if codes[0]/100 == 2 && !arrived || codes[0]/100 == 5 && !bad {
							t.Errorf("message %d: the MTA was told %v, arrived: %v", i, codes, arrived)
						}
						b.hold.add("acme", -1)
					}
					far.Close()
					<-end
				})
			}
		}
	}
}
