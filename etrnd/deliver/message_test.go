package deliver

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// What is said about a message on the wire: all that matters, and no byte more.
func TestEnvelope(t *testing.T) {
	all := parseOffers([]string{"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "MT-PRIORITY"})
	for _, c := range []struct {
		in         []string // MAIL and RCPT, as the MTA has them; "" for a plain one
		m          message
		o          offers
		mail, rcpt string
	}{
		{nil, message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		{[]string{"FROM:<s@x.example> SIZE=1000"}, message{size: 1000}, all, "MAIL FROM:<s@x.example>", "RCPT TO:<a@acme.example>"},
		{[]string{"FROM:<s@x.example>"}, message{size: small + 1}, all, "MAIL FROM:<s@x.example> SIZE=65537", "RCPT TO:<a@acme.example>"},
		{[]string{"FROM:<> BODY=8BITMIME"}, message{eightBit: true}, all, "MAIL FROM:<> BODY=8BITMIME", "RCPT TO:<a@acme.example>"},
		{[]string{"FROM:<> SMTPUTF8"}, message{}, all, "MAIL FROM:<> SMTPUTF8", "RCPT TO:<a@acme.example>"},
		{[]string{"FROM:<> ret=hdrs ENVID=id+2B1+20+3D"}, message{}, all, "MAIL FROM:<> RET=HDRS ENVID=id+2B1+20+3D", "RCPT TO:<a@acme.example>"},
		// RFC 3461 allows these, and some servers read them as something else.
		{[]string{"FROM:<> ENVID=<abc>"}, message{}, all, "MAIL FROM:<> ENVID=+3Cabc+3E", "RCPT TO:<a@acme.example>"},
		// What is the business of the MTA and nobody else is not passed on.
		{[]string{"FROM:<> AUTH=<> RET=BOTH ENVID=+09 XVERP=+= SIZE=x"}, message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		// The sender's own words are passed on; what mail programs mean by X-Priority is not.
		{nil, message{priority: 4, stated: true}, all, "MAIL FROM:<> MT-PRIORITY=4", "RCPT TO:<a@acme.example>"},
		{nil, message{priority: 4}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		{[]string{"", "TO:<a@acme.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+2Bb+3Dc@x.example"}, message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+2Bb+3Dc@x.example"},
		// An original recipient that is the recipient is no news.
		{[]string{"", "TO:<a@acme.example> ORCPT=rfc822;a@acme.example"}, message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		{[]string{"", `TO:<"a b"@acme.example> ORCPT=rfc822;"a+20b"@acme.example`}, message{}, all, "MAIL FROM:<>", `RCPT TO:<"a b"@acme.example>`},
		{[]string{"", `TO:<a@acme.example> NOTIFY=NEVER ORCPT=utf-8;p\x{E9}@x.example`}, message{}, all, "MAIL FROM:<>", `RCPT TO:<a@acme.example> NOTIFY=NEVER ORCPT=utf-8;p\x{E9}@x.example`},
		{[]string{"FROM:<> SMTPUTF8", `TO:<a@acme.example> NOTIFY=NEVER ORCPT=utf-8;p\x{E9}@x.example`}, message{}, all, "MAIL FROM:<> SMTPUTF8", "RCPT TO:<a@acme.example> NOTIFY=NEVER ORCPT=utf-8;p\u00e9@x.example"},
		// Other types of addresses, and quotation marks.
		{[]string{"", "TO:<a@acme.example> ORCPT=x400;/S+3Ddoe/"}, message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example> ORCPT=x400;/S+3Ddoe/"},
		{[]string{"", `TO:<a@acme.example> ORCPT=rfc822;"john+20doe"@x.example`}, message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example> ORCPT=rfc822;+22john+20doe+22@x.example"},
		{[]string{"", "TO:<a@acme.example> ORCPT=rfc822;a+09b@x.example NOTIFY=NEVER,DELAY"}, message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		// A site that lists nothing gets nothing.
		{[]string{"FROM:<> SMTPUTF8 BODY=8BITMIME RET=FULL ENVID=x", "TO:<a@acme.example> NOTIFY=NEVER ORCPT=x400;x"}, message{size: 1 << 20, eightBit: true, priority: 1, stated: true}, offers{}, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		// Paths are passed on letter by letter.
		{[]string{`FROM:<"a b"@x.example>`, `TO:<"q\"\\>"@acme.example>`}, message{}, all, `MAIL FROM:<"a b"@x.example>`, `RCPT TO:<"q\"\\>"@acme.example>`},
		{[]string{"FROM: <@a.example,@b.example:.a..@x.example>", "to:<A@ACME.example>"}, message{}, all, "MAIL FROM:<@a.example,@b.example:.a..@x.example>", "RCPT TO:<A@ACME.example>"},
	} {
		from, to := "FROM:<>", "TO:<a@acme.example>"
		for i, line := range c.in {
			if line != "" {
				*[]*string{&from, &to}[i] = line
			}
		}
		first, second := parseCommand([]byte(" "+from+"\r\n"), "FROM:"), parseCommand([]byte(" "+to+"\r\n"), "TO:")
		if first.bad != nil || second.bad != nil {
			t.Errorf("%q, %q: %v, %v", from, to, first.bad, second.bad)
		}
		r := recipient{addr: second.path}
		for _, p := range second.parameters {
			r.option(p)
		}
		c.m.from, c.m.rcpts = first.path, []recipient{r}
		for _, p := range first.parameters {
			c.m.option(p)
		}
		if got := c.m.mail(c.o); got != c.mail+"\r\n" {
			t.Errorf("%q, want %q", got, c.mail)
		}
		if got := c.m.rcpt(0, c.o); got != c.rcpt+"\r\n" {
			t.Errorf("%q, want %q", got, c.rcpt)
		}
	}
}

// What cannot be passed on is told from what can.
func TestUnreadable(t *testing.T) {
	for _, arg := range []string{
		"", " FROM:", " FROM:x", " FROM:<x", " FROM:<x>y", " FROM:<a\rRCPT TO:<b>>", " FROM:<\"a\tb\"@x.example>", " FROM:<a@x.example> ENVID=\x00", " FROM:<\xff@x.example>",
	} {
		if c := parseCommand([]byte(arg+"\r\n"), "FROM:"); c.bad == nil {
			t.Errorf("%q: %+v", arg, c)
		}
	}
}

// No line of the MTA makes two of it, or reaches go-smtp as another command.
func FuzzTranslate(f *testing.F) {
	f.Add("RCPT TO:<p@acme.example> ORCPT=rfc822;p+C3+A9@acme.example\r\n")
	f.Add("BDAT 10 LAST\r\n")
	f.Fuzz(func(t *testing.T, line string) {
		line, _, _ = strings.Cut(line, "\n")
		c := &mtaConn{}
		got := string(c.translate([]byte(line + "\n")))
		if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
			t.Errorf("%q became %q", line, got)
		}
		for _, out := range []string{c.envelope.path, (&message{from: c.envelope.path}).mail(offers{})} {
			if strings.ContainsAny(strings.TrimSuffix(out, "\r\n"), "\r\n\x00\t") {
				t.Errorf("%q: %q", line, out)
			}
		}
	})
}

func TestHeaderPriority(t *testing.T) {
	for _, c := range []struct {
		head   string
		want   int
		stated bool
	}{
		{"Subject: x\r\n\r\nPriority: urgent\r\n", 0, false}, // in the body
		{"Priority: urgent\r\n\r\n", 4, false},
		{"X-Priority: 1 (Highest)\r\n\r\n", 4, false},
		{"X-Priority: 5\r\nImportance: high\r\n\r\n", 4, false}, // the registered one goes before
		{"importance: LOW\r\n\r\n", -4, false},
		{"MT-Priority: -9\r\nPriority: urgent\r\n\r\n", -9, true},
		{"MT-Priority: 12\r\n\r\n", 0, false},
		{"X-MSMail-Priority: High\r\n", 4, false},
		{"X-Priority: 0\r\nX-Priority: x\r\n\r\n", 0, false},
		{"", 0, false},
		{"no header at all", 0, false},
	} {
		if p := headerPriority([]byte(c.head)); p.Value() != c.want || p.Exact() != c.stated {
			t.Errorf("%q: %d, %v; want %d, %v", c.head, p.Value(), p.Exact(), c.want, c.stated)
		}
	}
}

func TestDots(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "\r\n", // a message has a line
		".\r\n":                  "..\r\n",
		"a\r\n.b\r\n..\r\nc\r\n": "a\r\n..b\r\n...\r\nc\r\n",
		"a":                      "a\r\n",
		"a\n.b\r.c\r\n":          "a\r\n..b .c\r\n", // some servers would see ends of lines there
		"a\r\r\n.\r\nb\n.\nc\r":  "a \r\n..\r\nb\r\n..\r\nc \r\n",
		"\r\n.":                  "\r\n..\r\n",
	} {
		for size := 1; size < 4; size++ {
			var b bytes.Buffer
			d := dots{w: &b, bol: true}
			for rest := []byte(in); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				d.Write(rest[:min(size, len(rest))])
			}
			if in == "" {
				d.bol = false
			}
			d.end()
			if b.String() != want {
				t.Errorf("%q in pieces of %d: %q, want %q", in, size, b.String(), want)
			}
		}
	}
}

// What the MTA is told of a reply.
func TestResult(t *testing.T) {
	for text, want := range map[string]string{
		"250 2.0.0 Ok: queued as X\r\n":      "250 [2 0 0] Ok: queued as X",
		"250 ok\r\n":                         "250 [2 0 0] ok",
		"550 5.1.1 nobody\r\n":               "550 [5 1 1] nobody",
		"550-5.1.1 no\r\n550 5.1.1 body\r\n": "550 [5 1 1] no 5.1.1 body",
		"450 4.2.0\r\n":                      "450 [4 2 0] ",
		"550 4.2.0 odd\r\n":                  "550 [5 0 0] 4.2.0 odd",
		"550 5.9999.1 odd\r\n":               "550 [5 0 0] 5.9999.1 odd",
		"550\r\n":                            "550 [5 0 0] ",
		"503 5.5.1 nested MAIL\r\n":          "451 [4 4 2] the site said 503 5.5.1 nested MAIL",
		"500 what\n":                         "451 [4 4 2] the site said 500 what",
		"354 go\r\n":                         "451 [4 4 2] the site said 354 go",
		"554 \x1b[31m\xff" + strings.Repeat("x", 600) + "\r\n": "554 [5 0 0] ?[31m?" + strings.Repeat("x", maxAnswer-9) + "...",
	} {
		r, err := (&esmtp.ReplyReader{Reader: bufio.NewReaderSize(strings.NewReader(text), maxReplyLine)}).ReadReply()
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		e := result(r)
		if got := fmt.Sprintf("%d %v %s", e.Code, e.EnhancedCode, e.Message); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Whatever the site says, the MTA is told what can be a reply, and no success but
// the site's own.
func FuzzResult(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		in := &esmtp.ReplyReader{Reader: bufio.NewReaderSize(strings.NewReader(s), maxReplyLine)}
		for {
			r, err := in.ReadReply()
			if err != nil {
				return
			}
			e := result(r)
			if strings.ContainsAny(e.Message, "\r\n") || len(e.Message) > maxAnswer || e.Code/100 == 2 && !r.OK() || e.EnhancedCode[0] != e.Code/100 {
				t.Errorf("%q: %+v", s, e)
			}
			if o := parseOffers(r.Lines[1:]); o.maxSize < 0 || o.maxSize > 0 && !o.size {
				t.Errorf("%q: %+v", s, o)
			}
		}
	})
}
