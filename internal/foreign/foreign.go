// Package foreign makes text that somebody else has chosen fit to be shown: what
// peers, files and other programs say may be long, may hold line ends and escape
// sequences, and need not be text at all.
//
// Which function depends on where the text goes:
//
//   - Clip, for an attribute of a log: the handler quotes by itself.
//   - Quote, for a value named in a message: "\"acme..example\" is not a domain".
//   - Escape, for a text of another program in a message or on a terminal.
//   - Printable, for the text of an SMTP reply, which is one line of ASCII.
//
// All of them cut what is too long, and mark the cut with "...". A limit is one of
// the result in bytes, and at least three.
package foreign

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxQuoted is how much of a value a message shows: enough for any that is
// right, and for seeing what is wrong with any that is not.
const maxQuoted = 80

const mark = "..."

// Clip cuts a text to that many bytes, and changes nothing else.
func Clip[T string | []byte](s T, most int) string {
	if len(s) <= most {
		return string(s)
	}
	return string(s[:boundary(s, most-len(mark))]) + mark
}

// boundary is the end of the last character that is whole within the first most
// bytes of a longer text.
func boundary[T string | []byte](s T, most int) int {
	// A character has four bytes at the most. Where there is no beginning of one,
	// it is no UTF-8, and may be cut anywhere.
	for i := most; i > 0 && i > most-utf8.UTFMax; i-- {
		if utf8.RuneStart(s[i]) {
			return i
		}
	}
	return most
}

// Quote puts a value into quotation marks, as in a Go string, with at most 80
// bytes of it.
func Quote[T string | []byte](s T) string {
	if len(s) <= maxQuoted {
		return strconv.Quote(string(s))
	}
	return strconv.Quote(string(s[:boundary(s, maxQuoted)])) + mark
}

// Escape cuts a text to that many bytes, and writes whatever cannot be printed in
// it, line ends included, as in a Go string: "\n", "\x1b", "\u202e".
func Escape(s string, most int) string {
	s = Clip(s, most)
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x`)
			b.WriteByte(hexDigits[s[0]>>4])
			b.WriteByte(hexDigits[s[0]&15])
		case unprintable(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

const hexDigits = "0123456789abcdef"

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// Printable makes a text one of that many bytes of printable ASCII: white space
// becomes a space, everything else a question mark.
func Printable[T string | []byte](s T, most int) string {
	if len(s) <= most && printable(s) {
		return string(s)
	}
	text := strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\r' || r == '\n':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, string(s))
	if len(text) > most {
		return text[:most-len(mark)] + mark
	}
	return text
}

func printable[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
