package deliver

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// What is said about a message on the wire: all that matters, and no byte more.
func TestEnvelope(t *testing.T) {
	all := parseOffers([]string{"SIZE", "8BITMIME", "SMTPUTF8", "DSN", "MT-PRIORITY"})
	dsn := smtp.RcptOptions{Notify: []smtp.DSNNotify{"FAILURE", "DELAY"}, OriginalRecipientType: "RFC822", OriginalRecipient: "a+b=c@x.example"}
	for _, c := range []struct {
		m          message
		o          offers
		mail, rcpt string
	}{
		{message{}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		{message{from: "s@x.example", size: 1000}, all, "MAIL FROM:<s@x.example>", "RCPT TO:<a@acme.example>"},
		{message{from: "s@x.example", size: small + 1}, all, "MAIL FROM:<s@x.example> SIZE=65537", "RCPT TO:<a@acme.example>"},
		{message{eightBit: true}, all, "MAIL FROM:<> BODY=8BITMIME", "RCPT TO:<a@acme.example>"},
		{message{opts: smtp.MailOptions{UTF8: true}}, all, "MAIL FROM:<> SMTPUTF8", "RCPT TO:<a@acme.example>"},
		{message{opts: smtp.MailOptions{Return: "HDRS", EnvelopeID: "id+1 =\x7f"}}, all, "MAIL FROM:<> RET=HDRS ENVID=id+2B1+20+3D+7F", "RCPT TO:<a@acme.example>"},
		// The sender's own words are passed on; what mail programs mean by X-Priority is not.
		{message{priority: 4, stated: true}, all, "MAIL FROM:<> MT-PRIORITY=4", "RCPT TO:<a@acme.example>"},
		{message{priority: 4}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		{message{rcpts: []recipient{{addr: "a@acme.example", opts: dsn}}}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+2Bb+3Dc@x.example"},
		// An original recipient that is the recipient is no news.
		{message{rcpts: []recipient{{addr: "a@acme.example", opts: smtp.RcptOptions{OriginalRecipientType: "RFC822", OriginalRecipient: "a@acme.example"}}}}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		{message{rcpts: []recipient{{addr: "a@acme.example", opts: smtp.RcptOptions{Notify: []smtp.DSNNotify{"NEVER"}, OriginalRecipientType: "UTF-8", OriginalRecipient: "p\u00e9@x.example"}}}}, all, "MAIL FROM:<>", "RCPT TO:<a@acme.example> NOTIFY=NEVER ORCPT=utf-8;p\\x{E9}@x.example"},
		{message{opts: smtp.MailOptions{UTF8: true}, rcpts: []recipient{{addr: "a@acme.example", opts: smtp.RcptOptions{Notify: []smtp.DSNNotify{"NEVER"}, OriginalRecipientType: "UTF-8", OriginalRecipient: "p\u00e9@x.example"}}}}, all, "MAIL FROM:<> SMTPUTF8", "RCPT TO:<a@acme.example> NOTIFY=NEVER ORCPT=utf-8;p\u00e9@x.example"},
		// A site that lists nothing gets nothing.
		{message{size: 1 << 20, eightBit: true, priority: 1, stated: true, opts: smtp.MailOptions{UTF8: true, Return: "FULL", EnvelopeID: "x"}, rcpts: []recipient{{addr: "a@acme.example", opts: dsn}}}, offers{}, "MAIL FROM:<>", "RCPT TO:<a@acme.example>"},
		// Local parts that need quotation marks.
		{message{from: "a b@x.example", rcpts: []recipient{{addr: `q"\@acme.example`}}}, all, `MAIL FROM:<"a b"@x.example>`, `RCPT TO:<"q\"\\"@acme.example>`},
		{message{from: ".a@x.example", rcpts: []recipient{{addr: "a@b@acme.example"}}}, all, `MAIL FROM:<".a"@x.example>`, `RCPT TO:<"a@b"@acme.example>`},
		{message{from: "a..b@x.example", rcpts: []recipient{{addr: "a.b+c=d/e@acme.example"}}}, all, `MAIL FROM:<"a..b"@x.example>`, `RCPT TO:<a.b+c=d/e@acme.example>`},
	} {
		if c.m.rcpts == nil {
			c.m.rcpts = []recipient{{addr: "a@acme.example"}}
		}
		if got := c.m.mail(c.o); got != c.mail+"\r\n" {
			t.Errorf("%q, want %q", got, c.mail)
		}
		if got := c.m.rcpt(0, c.o); got != c.rcpt+"\r\n" {
			t.Errorf("%q, want %q", got, c.rcpt)
		}
	}
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
		"a\n.b\r.c\r\n":          "a\n.b\r.c\r\n", // no beginnings of lines
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

func TestMend(t *testing.T) {
	for in, want := range map[string]string{
		"RCPT TO:<p\u00e9@acme.example> ORCPT=rfc822;p+C3+A9@acme.example\r\n":           "RCPT TO:<p\u00e9@acme.example> ORCPT=utf-8;p\\x{E9}@acme.example\r\n",
		"rcpt TO:<a@acme.example> ORCPT=rfc822;p\u00e9+2B@acme.example NOTIFY=NEVER\r\n": "rcpt TO:<a@acme.example> ORCPT=utf-8;p\\x{E9}\\x{2B}@acme.example NOTIFY=NEVER\r\n",
		"RCPT TO:<a@acme.example> ORCPT=rfc822;\xff+FE@acme.example NOTIFY=NEVER\r\n":    "RCPT TO:<a@acme.example> NOTIFY=NEVER\r\n", // no UTF-8
		"RCPT TO:<a@acme.example> ORCPT=rfc822;a+2Bb@acme.example\r\n":                   "RCPT TO:<a@acme.example> ORCPT=rfc822;a+2Bb@acme.example\r\n",
		"RCPT TO:<a@acme.example> ORCPT=rfc822;a+C\r\n":                                  "RCPT TO:<a@acme.example> ORCPT=rfc822;a+C\r\n",
		"RCPT TO:<a@acme.example> ORCPT=rfc822;+C3+A9":                                   "RCPT TO:<a@acme.example> ORCPT=rfc822;+C3+A9", // no end of line
		"MAIL FROM:<a@acme.example> ORCPT=rfc822;+C3+A9\r\n":                             "MAIL FROM:<a@acme.example> ORCPT=rfc822;+C3+A9\r\n",
		"DATA\r\n": "DATA\r\n",
		"":         "",
	} {
		if got := mend([]byte(in)); string(got) != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzMend(f *testing.F) {
	f.Add("RCPT TO:<p@acme.example> ORCPT=rfc822;p+C3+A9@acme.example\r\n")
	f.Fuzz(func(t *testing.T, line string) {
		got := string(mend([]byte(line)))
		if strings.Count(got, "\n") > strings.Count(line, "\n") {
			t.Errorf("%q became %q", line, got)
		}
	})
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
