package odmr

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

const (
	maxReplyLines = 100 // an EHLO reply of today has about 15
	maxReplyText  = 1000
	maxReplyJunk  = 64 << 10
)

// reply is a reply of a server, its text made printable.
type reply struct {
	code  int
	lines []string
}

func (r reply) text() string { return printable(strings.Join(r.lines, " "), maxReplyText) }

// errSyntax is wrapped by the errors of readReply that are the server's fault.
var errSyntax = errors.New("not a reply of SMTP")

// readReply reads a reply of any number of lines (RFC 5321, section 4.2.1). It
// is lenient where that does no harm: LF alone ends a line, and a code may stand
// alone.
func readReply(r *bufio.Reader) (reply, error) {
	var rep reply
	for {
		line, err := readReplyLine(r)
		if err != nil {
			if err == io.EOF && len(rep.lines) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return reply{}, err
		}
		code, more, text, ok := parseReplyLine(line)
		switch {
		case !ok:
			return reply{}, fmt.Errorf("%w: \"%s\"", errSyntax, cut(line))
		case len(rep.lines) > 0 && code != rep.code:
			return reply{}, fmt.Errorf("%w: code %d in a reply that began with %d", errSyntax, code, rep.code)
		case len(rep.lines) == maxReplyLines:
			return reply{}, fmt.Errorf("%w: more than %d lines", errSyntax, maxReplyLines)
		}
		rep.code = code
		rep.lines = append(rep.lines, printable(text, maxReplyText))
		if !more {
			return rep, nil
		}
	}
}

func parseReplyLine(line []byte) (code int, more bool, text string, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, false, "", false
	}
	for _, c := range line[:3] {
		if c < '0' || c > '9' {
			return 0, false, "", false
		}
		code = 10*code + int(c-'0')
	}
	if len(line) == 3 {
		return code, false, "", true
	}
	if line[3] != ' ' && line[3] != '-' {
		return 0, false, "", false
	}
	return code, line[3] == '-', string(line[4:]), true
}

// readReplyLine reads a line and drops what is beyond the reader's buffer.
func readReplyLine(r *bufio.Reader) ([]byte, error) {
	b, err := r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		line := bytes.Clone(b)
		for junk := 0; err == bufio.ErrBufferFull; junk += len(b) {
			if junk > maxReplyJunk {
				return nil, fmt.Errorf("%w: a line without an end", errSyntax)
			}
			b, err = r.ReadSlice('\n')
		}
		if err != nil {
			return nil, err
		}
		return line, nil
	}
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return bytes.TrimSuffix(b[:len(b)-1], []byte("\r")), nil
}

// enhanced is an enhanced status code (RFC 3463) at the beginning of a text.
var enhanced = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}(?: |$)`)

// number is a number that stands alone: not a part of a name such as "mx2".
var number = regexp.MustCompile(`(?:^|[ ,:=(])(\d{1,18})(?:[ ,;:.)]|$)`)

// countOf finds how many messages a reply to ETRN announces: -1 when it does not
// tell.
func countOf(code int, text string) int {
	switch code {
	case 251:
		return 0
	case 253:
	default:
		return -1
	}
	text = text[len(enhanced.FindString(text)):]
	if m := number.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			return n
		}
	}
	return -1
}
