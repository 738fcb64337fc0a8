package odmr

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

const (
	// maxLine is the longest line, with CRLF. RFC 5321, section 4.5.3.1.4, has
	// 512 for commands; the longest thing that makes sense here is an AUTH with
	// a password of 255 bytes. RFC 4954 lets a server bound its lines by the
	// mechanisms it has. Every idle session keeps a buffer of this size.
	maxLine = 1024
	// maxJunk is how much of a line that is too long is read to find its end.
	maxJunk = 64 << 10
)

// Errors of one line, after which the next one can be read.
var (
	errLong    = errors.New("line too long")
	errBareLF  = errors.New("line ends with LF alone")
	errControl = errors.New("control or non-ASCII character")
)

// Errors after which there is no line to be found.
var (
	errFlood = errors.New("no end of line in sight")
	errHello = errors.New("TLS handshake instead of a command")
)

// isLineError tells whether the dialogue can go on behind the line.
func isLineError(err error) bool {
	return errors.Is(err, errLong) || errors.Is(err, errBareLF) || errors.Is(err, errControl)
}

// readLine reads one line and takes CRLF off. The slice is valid until the next
// read, and with a line error it holds the beginning of the line, for the log.
func readLine(r *bufio.Reader) ([]byte, error) {
	first, err := r.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] == 0x16 {
		// A TLS record has no end of line: without this the client would wait
		// for the command timeout before it learns anything.
		return nil, errHello
	}
	b, err := r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		start := bytes.Clone(b[:min(len(b), 200)])
		for junk := len(b); err == bufio.ErrBufferFull; junk += len(b) {
			if junk > maxJunk {
				return start, errFlood
			}
			b, err = r.ReadSlice('\n')
		}
		if err != nil {
			return start, err
		}
		return start, errLong
	}
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	b = b[:len(b)-1]
	// Only CRLF ends a line (RFC 5321, section 2.3.8). Being lenient here is
	// what lets two servers see different commands in the same bytes.
	if len(b) == 0 || b[len(b)-1] != '\r' {
		return b, errBareLF
	}
	b = b[:len(b)-1]
	for _, c := range b {
		if c < ' ' && c != '\t' || c > '~' {
			return b, errControl
		}
	}
	return b, nil
}

// lineReady tells whether readLine would return without waiting.
func lineReady(r *bufio.Reader) bool {
	b, _ := r.Peek(r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0 || len(b) == r.Size()
}

// cut makes foreign bytes fit for the log: escaped, and not many. It leaves the
// quotation marks to the log.
func cut[T string | []byte](s T) string {
	const most = 80
	text := string(s[:min(len(s), most)])
	quoted := strconv.QuoteToASCII(text)
	if len(s) > most {
		return quoted[1:len(quoted)-1] + "..."
	}
	return quoted[1 : len(quoted)-1]
}

// printable makes text fit for one line of a reply, a log or a terminal.
func printable(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\r' || r == '\n':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, text)
	if len(text) > most {
		text = text[:most-3] + "..."
	}
	return text
}
