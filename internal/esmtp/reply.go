package esmtp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/etrnd/etrnd/internal/foreign"
)

const (
	// MaxReplyLines bounds a reply: one to EHLO has about 15 today.
	MaxReplyLines = 100
	// MaxReplyText is how much text of a line is kept, in bytes, and of a whole
	// reply by Text. RFC 5321, section 4.5.3.1.5, has 512 for a line.
	MaxReplyText = 1000
	// maxReplyBytes bounds what is read for one reply, the rest of lines that are
	// too long included.
	maxReplyBytes = 128 << 10
)

// ErrReply is wrapped by the errors of ReadReply that are the peer's: what it
// sent is no reply. The others are those of the connection.
var ErrReply = errors.New("not an SMTP reply")

// Reply is a reply (RFC 5321, section 4.2).
type Reply struct {
	Code  int
	Lines []string // the text of each line, without the code
}

// OK reports whether the reply says that all went well.
func (r Reply) OK() bool { return r.Code/100 == 2 }

// TakesAddress recognises a success with the status of an address (RFC 3463,
// section 3.2), which nobody gives a message, or RSET: it is the reply to another
// command.
func (r Reply) TakesAddress() bool {
	status, _ := CutStatus(r.Last())
	return r.OK() && status[0] == 2 && status[1] == 1
}

// Text is the text of all lines in one, at most MaxReplyText bytes of it.
func (r Reply) Text() string {
	if len(r.Lines) == 1 {
		return r.Lines[0] // as short as ReadReply makes it
	}
	return foreign.Clip(strings.Join(r.Lines, " "), MaxReplyText)
}

// Last is the text of the last line, the only one of most replies.
func (r Reply) Last() string {
	if len(r.Lines) == 0 {
		return ""
	}
	return r.Lines[len(r.Lines)-1]
}

// String is the code and the text: "550 5.1.1 no such user".
func (r Reply) String() string { return strconv.Itoa(r.Code) + " " + r.Text() }

// AppendTo appends the reply as it is sent. The lines must hold no line ends.
func (r Reply) AppendTo(b []byte) []byte {
	for i := 0; i == 0 || i < len(r.Lines); i++ {
		b = strconv.AppendInt(b, int64(r.Code), 10)
		if i < len(r.Lines)-1 {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if i < len(r.Lines) {
			b = append(b, r.Lines[i]...)
		}
		b = append(b, '\r', '\n')
	}
	return b
}

// ReplyReader reads the replies of a peer. Only what fits the buffer of the
// bufio.Reader in it is kept of a line, and no more than MaxReplyText.
type ReplyReader struct {
	*bufio.Reader
	// UTF8 keeps printable text beyond ASCII, which only a client that asked for
	// SMTPUTF8 gets (RFC 6531, section 3.7.4.2).
	UTF8 bool
}

// ReadReply reads a reply of any number of lines. It is lenient where that does
// no harm: LF alone ends a line, a code may stand alone, and a line may be too
// long. It is not where it would mean to guess: the code is the same on all
// lines. The text is made printable. The end of the connection is io.EOF between
// two replies, and io.ErrUnexpectedEOF within one.
func (r *ReplyReader) ReadReply() (Reply, error) {
	var reply Reply
	left := maxReplyBytes
	for {
		line, err := r.line(&left)
		if err != nil {
			if err == io.EOF && len(reply.Lines) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return Reply{}, err
		}
		code, ok := parseCode(line)
		switch {
		case !ok:
			return Reply{}, fmt.Errorf("%w: %s", ErrReply, foreign.Quote(line))
		case len(reply.Lines) > 0 && code != reply.Code:
			return Reply{}, fmt.Errorf("%w: code %d in a reply that began with %d", ErrReply, code, reply.Code)
		case len(reply.Lines) == MaxReplyLines:
			return Reply{}, fmt.Errorf("%w: more than %d lines", ErrReply, MaxReplyLines)
		}
		reply.Code = code
		reply.Lines = append(reply.Lines, r.printable(line[min(len(line), 4):]))
		if len(line) == 3 || line[3] == ' ' {
			return reply, nil
		}
	}
}

// line reads a line, takes its end off, and drops what the buffer cannot hold.
func (r *ReplyReader) line(left *int) ([]byte, error) {
	b, err := r.ReadSlice('\n')
	*left -= len(b)
	if err == bufio.ErrBufferFull {
		start := bytes.Clone(b[:min(len(b), 4+MaxReplyText+1)]) // one byte more than is kept, to be cut
		for err == bufio.ErrBufferFull {
			if *left < 0 {
				return nil, fmt.Errorf("%w: a line without an end", ErrReply)
			}
			b, err = r.ReadSlice('\n')
			*left -= len(b)
		}
		b = start
	}
	switch {
	case err == io.EOF && len(b) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	case *left < 0:
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrReply, maxReplyBytes)
	}
	return bytes.TrimRight(b, "\r\n"), nil
}

// parseCode takes three digits, of which the first is 2 to 5, and a space, a
// hyphen or nothing behind them.
func parseCode(line []byte) (code int, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) {
		return 0, false
	}
	if len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false
	}
	return int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0'), true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func (r *ReplyReader) printable(text []byte) string {
	if !r.UTF8 {
		return foreign.Printable(text, MaxReplyText)
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			text = bytes.Map(func(r rune) rune {
				switch {
				case r == '\t':
					return ' '
				case r == utf8.RuneError || !unicode.IsPrint(r):
					return '?'
				}
				return r
			}, text)
			break
		}
	}
	return foreign.Clip(text, MaxReplyText)
}
