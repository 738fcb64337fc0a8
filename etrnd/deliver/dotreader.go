package deliver

import (
	"bufio"
	"io"
)

// dotReader reads the content of a message behind DATA up to CRLF "." CRLF, which
// it takes off, and takes off the dots that were put before others (RFC 5321,
// section 4.5.2). All else is content, byte for byte: a CR or LF alone as well,
// NUL, and lines of any length. The end is the io.EOF; that of the connection is
// io.ErrUnexpectedEOF.
type dotReader struct {
	r    *bufio.Reader
	at   int
	over bool
}

// What stands before the next byte.
const (
	atLine  = iota // CRLF, or nothing at all
	inLine         // part of a line
	atCR           // CR
	atDot          // the first dot of a line, which was taken off
	atDotCR        // that, and CR, which is not content yet
)

func (d *dotReader) Read(b []byte) (n int, err error) {
	for n < len(b) && !d.over {
		if n > 0 && d.r.Buffered() == 0 {
			return n, nil
		}
		c, err := d.r.ReadByte()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		switch {
		case d.at == atDotCR && c == '\n':
			d.over = true
			continue
		case d.at == atDotCR:
			// The CR was content after all.
			d.r.UnreadByte()
			c, d.at = '\r', atCR
		case d.at == atLine && c == '.':
			d.at = atDot
			continue
		case d.at == atDot && c == '\r':
			d.at = atDotCR
			continue
		case d.at == atCR && c == '\n':
			d.at = atLine
		case c == '\r':
			d.at = atCR
		default:
			d.at = inLine
		}
		b[n] = c
		n++
		if d.at == inLine {
			n += d.plain(b[n:])
		}
	}
	if d.over && n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// plain copies what is buffered of a line: there is nothing in it to be looked at
// byte by byte.
func (d *dotReader) plain(b []byte) int {
	have, _ := d.r.Peek(min(d.r.Buffered(), len(b)))
	n := 0
	for n < len(have) && have[n] != '\r' {
		n++
	}
	copy(b, have[:n])
	d.r.Discard(n)
	return n
}

// skip reads to the end.
func (d *dotReader) skip() error {
	_, err := io.Copy(io.Discard, d)
	return err
}
