package deliver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/etrnd/odmr"
)

const (
	maxReplyLines = 100 // an EHLO reply of today has about 15
	maxReplyText  = 500 // of which a log and a bounce show as much as they like
	maxReplyLine  = 4096
)

var errSyntax = errors.New("not a reply of SMTP")

// reply is a reply of the site, made printable.
type reply struct {
	code  int
	lines []string
}

func (r reply) ok() bool     { return r.code/100 == 2 }
func (r reply) text() string { return cut(strings.Join(r.lines, " ")) }

func (r reply) String() string { return strconv.Itoa(r.code) + " " + r.text() }

// readReply reads a reply of any number of lines (RFC 5321, section 4.2.1). The
// reader's buffer bounds a line.
func readReply(in *bufio.Reader) (reply, error) {
	var r reply
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return reply{}, fmt.Errorf("%w: a line without an end", errSyntax)
		case err == io.EOF && (len(line) > 0 || len(r.lines) > 0):
			return reply{}, io.ErrUnexpectedEOF
		case err != nil:
			return reply{}, err
		}
		line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
		if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			return reply{}, fmt.Errorf("%w: %q", errSyntax, line[:min(len(line), 80)])
		}
		code := int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
		switch {
		case len(r.lines) > 0 && code != r.code:
			return reply{}, fmt.Errorf("%w: code %d in a reply that began with %d", errSyntax, code, r.code)
		case len(r.lines) == maxReplyLines:
			return reply{}, fmt.Errorf("%w: more than %d lines", errSyntax, maxReplyLines)
		}
		r.code = code
		r.lines = append(r.lines, printable(line[min(len(line), 4):]))
		if len(line) == 3 || line[3] == ' ' {
			return r, nil
		}
	}
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, string(b))
}

func cut(s string) string {
	if len(s) > maxReplyText {
		return s[:maxReplyText-3] + "..."
	}
	return s
}

// result is what the MTA is told of one recipient. A failure that says nothing
// about the mail, but about the dialogue, is not passed on as permanent.
func (r reply) result() *smtp.SMTPError {
	code, text := r.code, r.text()
	enhanced, rest := enhancedCode(text)
	switch {
	case code/100 != 2 && code/100 != 4 && code/100 != 5,
		code == 500, code == 502, code == 503, code == 530:
		return temporary("the site said " + r.String())
	case enhanced[0] != code/100:
		enhanced, rest = smtp.EnhancedCode{code / 100, 0, 0}, text
	}
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: rest}
}

// temporary is the answer that makes the MTA keep the mail.
func temporary(text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 4, 2}, Message: cut(text)}
}

// enhancedCode takes an enhanced status code (RFC 2034) off a text.
func enhancedCode(text string) (smtp.EnhancedCode, string) {
	word, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(word, ".")
	var code smtp.EnhancedCode
	if len(parts) != 3 {
		return code, text
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 10)
		if err != nil || len(p) > 3 {
			return smtp.EnhancedCode{}, text
		}
		code[i] = int(n)
	}
	return code, rest
}

// offers are the extensions that a site lists in its reply to EHLO.
type offers struct {
	pipelining, chunking, eightBit, utf8, dsn, size, priority bool
	maxSize                                                   int64 // 0: not told
}

// ahead reads the offers from a greeting by which a site of ours takes mail in
// one burst with EHLO (odmr.Ahead).
func ahead(lines []string) (offers, bool) {
	if len(lines) < 2 || lines[1] != odmr.Ahead {
		return offers{}, false
	}
	o := parseOffers(lines[1:])
	return o, o.pipelining && o.chunking
}

func parseOffers(lines []string) (o offers) {
	for _, line := range lines[min(1, len(lines)):] {
		word, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(word) {
		case "PIPELINING":
			o.pipelining = true
		case "CHUNKING":
			o.chunking = true
		case "8BITMIME":
			o.eightBit = true
		case "SMTPUTF8":
			o.utf8 = true
		case "DSN":
			o.dsn = true
		case "MT-PRIORITY":
			o.priority = true
		case "SIZE":
			o.size = true
			if n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64); err == nil && n > 0 {
				o.maxSize = n
			}
		}
	}
	return o
}
