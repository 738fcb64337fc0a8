package esmtp

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Parameter is one of those behind the path of MAIL and RCPT (RFC 5321, section
// 4.1.2).
type Parameter struct {
	Key   string // in upper case
	Value string
	Has   bool // there is a "=", maybe with nothing behind it
}

// Parameters splits what stands behind the path, and drops what is there twice.
func Parameters(rest string) []Parameter {
	var list []Parameter
	seen := map[string]bool{}
	for word := range strings.FieldsSeq(rest) {
		var p Parameter
		p.Key, p.Value, p.Has = strings.Cut(word, "=")
		p.Key = strings.ToUpper(p.Key)
		if !seen[p.Key] {
			seen[p.Key] = true
			list = append(list, p)
		}
	}
	return list
}

// maxDSNText is the longest envelope id or original recipient, in bytes and
// decoded: RFC 3461, sections 4.2 and 4.4, have 100 and 500 characters.
const maxDSNText = 500

// EnvelopeID brings the value of ENVID (RFC 3461, section 4.4) to the one form in
// which no server can find anything but a value in it. A value that says nothing
// to anybody comes back empty: malformed ones, and such as hold control
// characters, which some servers refuse together with the mail.
func EnvelopeID(value string) string {
	text := decodeXText(value)
	if !printable(text) || !ascii(text) {
		return ""
	}
	return XText(text)
}

// OriginalRecipient does the same with the value of ORCPT, of any type of address
// (section 4.2; RFC 6533, section 3). raw allows UTF-8 in it.
//
// Postfix writes an address that is not ASCII as rfc822, in which there is nothing
// but ASCII, and servers refuse that for good. It becomes what it should be.
func OriginalRecipient(value string, raw bool) string {
	kind, text, ok := strings.Cut(value, ";")
	kind = strings.ToLower(kind)
	if !ok || kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
		return ""
	}
	if kind == "utf-8" {
		text, ok = decodeUTF8Text(text)
	} else {
		text = decodeXText(text)
	}
	switch {
	case !ok || !printable(text):
		return ""
	case ascii(text) && kind != "utf-8":
		return kind + ";" + XText(text)
	case kind != "utf-8" && kind != "rfc822":
		return ""
	}
	return "utf-8;" + UTF8Text(text, raw)
}

// Notify checks the value of NOTIFY (RFC 3461, section 4.1).
func Notify(value string) string {
	value = strings.ToUpper(value)
	for word := range strings.SplitSeq(value, ",") {
		switch word {
		case "SUCCESS", "FAILURE", "DELAY":
		case "NEVER":
			if word != value {
				return ""
			}
		default:
			return ""
		}
	}
	return value
}

// decodeXText is lenient: a "+" without two hexadecimal digits is one.
func decodeXText(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(n))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// decodeUTF8Text reads both forms of RFC 6533, section 3.
func decodeUTF8Text(s string) (string, bool) {
	var b strings.Builder
	for s != "" {
		before, rest, ok := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !ok {
			break
		}
		digits, rest, ok := strings.Cut(rest, "}")
		n, err := strconv.ParseUint(digits, 16, 32)
		if !ok || err != nil || len(digits) > 6 || !utf8.ValidRune(rune(n)) {
			return "", false
		}
		b.WriteRune(rune(n))
		s = rest
	}
	return b.String(), true
}

// printable reports whether s is text of a length that makes sense.
func printable(s string) bool {
	return s != "" && len(s) <= maxDSNText && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError
	})
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// misread are characters that the forms below allow and that some servers take for
// the end of a path, or for quotation marks of their own.
const misread = `<>"\`

const hexDigits = "0123456789ABCDEF"

// XText encodes as RFC 3461, section 4, has it.
func XText(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > ' ' && c <= '~' && c != '+' && c != '=' && !strings.ContainsRune(misread, rune(c)) {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'+', hexDigits[c>>4], hexDigits[c&15]})
	}
	return b.String()
}

// UTF8Text encodes as RFC 6533, section 3, has it: raw where the transaction may
// hold UTF-8, else in ASCII.
func UTF8Text(s string, raw bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r > ' ' && r <= '~' && r != '+' && r != '=' && !strings.ContainsRune(misread, r), raw && r > '~' && r != 0x7f:
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\x{%02X}", r)
		}
	}
	return b.String()
}
