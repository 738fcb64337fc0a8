package receive

import (
	"bufio"
	"bytes"
)

// body brings the text behind DATA over to the MTA (RFC 5321, section 4.5.2).
// It ends at CRLF "." CRLF and nowhere else. MTAs differ about the rest: Postfix
// before 3.9 also ends a message at LF "." CRLF, and drops any number of CR
// before LF. So that both sides of the proxy see the same end, what the MTA gets
// has CR and LF only as pairs: LF alone becomes a pair, and a "." that would
// begin a line by it is doubled; CR alone becomes a space. That is what Postfix
// does to such mail by default since 3.9.
type body struct {
	at int // what has been seen
}

// The states: what stands before the next byte.
const (
	bol    = iota // CRLF, or the beginning
	lf            // LF alone
	middle        // a part of a line
	cr            // CR, not written yet
	dot           // CRLF ".", not written yet
	dotCR         // CRLF "." CR, not written yet
)

// write passes on the text up to its end, and tells how much of p that was.
func (b *body) write(w *bufio.Writer, p []byte) (n int, end bool) {
	for n < len(p) {
		c := p[n]
		n++
		switch b.at {
		case dot:
			switch c {
			case '\r':
				b.at = dotCR
				continue
			case '\n':
				w.WriteString("..\r\n")
				b.at = lf
				continue
			}
			w.WriteByte('.')
			w.WriteByte(c)
			b.at = middle
			continue
		case dotCR:
			if c == '\n' {
				w.WriteString(".\r\n")
				return n, true
			}
			w.WriteString(".. ")
		case cr:
			if c == '\n' {
				w.WriteString("\r\n")
				b.at = bol
				continue
			}
			w.WriteByte(' ')
		}
		switch {
		case c == '\r':
			b.at = cr
		case c == '\n': // CRLF was seen to above
			w.WriteString("\r\n")
			b.at = lf
		case c == '.' && b.at == bol:
			b.at = dot
		case c == '.' && b.at == lf:
			w.WriteString("..")
			b.at = middle
		default:
			// The rest of the line needs no look at each byte.
			m := bytes.IndexAny(p[n:], "\r\n")
			if m < 0 {
				m = len(p) - n
			}
			w.Write(p[n-1 : n+m])
			n += m
			b.at = middle
		}
	}
	return n, false
}
