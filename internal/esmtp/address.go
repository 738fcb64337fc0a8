package esmtp

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CutPath splits what stands behind MAIL or RCPT, "FROM:<path> parameters",
// where prefix is "FROM:" or "TO:". A quoted local part may hold ">". rest is
// empty or begins with a space.
func CutPath(arg, prefix string) (path, rest string, ok bool) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", "", false
	}
	// A space there is wrong and common.
	arg = strings.TrimLeft(arg[len(prefix):], " ")
	if arg == "" || arg[0] != '<' {
		return "", "", false
	}
	quoted := false
	for i := 1; i < len(arg); i++ {
		switch c := arg[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == '>' && !quoted:
			path, rest = arg[1:i], arg[i+1:]
			return path, rest, rest == "" || rest[0] == ' '
		case c == '<' && !quoted:
			return "", "", false
		}
	}
	return "", "", false
}

// maxPart is the longest local part or domain, in bytes. RFC 5321, section
// 4.5.3.1, has 64 and 255, and Postfix takes more.
const maxPart = 256

// CutMailbox splits a path at the "@" behind its local part. A source route (RFC
// 5321, appendix C) begins with "@" and so has none.
func CutMailbox(path string) (local, domain string, ok bool) {
	at := -1
	if strings.HasPrefix(path, `"`) {
		end := 1
		for ; end < len(path) && path[end] != '"'; end++ {
			if path[end] == '\\' {
				end++
			}
		}
		if end++; end < len(path) && path[end] == '@' {
			at = end
		}
	} else {
		at = strings.IndexByte(path, '@')
	}
	if at < 1 || at == len(path)-1 || at > maxPart || len(path)-at > maxPart {
		return "", "", false
	}
	return path[:at], path[at+1:], true
}

// atext is what a local part may hold without quotes besides letters and digits
// (RFC 5322, section 3.2.3).
const atext = "!#$%&'*+-/=?^_`{|}~"

// PlainLocalPart reports whether a local part is one that goes through every MTA
// with the same meaning: atoms with dots between them, or in quotes what needs
// none, dots anywhere and spaces. It must hold none of the characters in except.
func PlainLocalPart(s, except string) bool {
	more := "."
	if inner, ok := strings.CutPrefix(s, `"`); ok {
		inner, ok = strings.CutSuffix(inner, `"`)
		if !ok || inner == "" {
			return false
		}
		s, more = inner, ". "
	} else if strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
		return false
	}
	if s == "" || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 0x80:
			if !unicode.IsPrint(r) {
				return false
			}
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune(except, r):
			return false
		case strings.ContainsRune(atext, r), strings.ContainsRune(more, r):
		default:
			return false
		}
	}
	return true
}

// LocalPart takes more than PlainLocalPart: anything printable in quotes, except
// "<" and ">", since some MTAs end the path at the first ">" and would find
// parameters behind it. That quotes and backslashes come in pairs is known from
// CutMailbox.
func LocalPart(s string) bool {
	inner, quoted := strings.CutPrefix(s, `"`)
	if !quoted {
		return PlainLocalPart(s, "")
	}
	inner, ok := strings.CutSuffix(inner, `"`)
	return ok && inner != "" && utf8.ValidString(inner) && !strings.ContainsFunc(inner, func(r rune) bool {
		return r == '<' || r == '>' || !unicode.IsPrint(r)
	})
}

// Requote writes a local part in quotes with no more backslashes than it needs: the
// pair of one and a character means that character (RFC 5321, section 4.1.2). ok is
// false for one that is not in quotes, that MTAs are known to read in another way,
// or that holds a character of except: "<" and ">" may end a path, ":" begins what
// some take for a command to them, and so does a backslash at the beginning.
func Requote(s, except string) (quoted string, ok bool) {
	if !LocalPart(s) || !strings.HasPrefix(s, `"`) {
		return "", false
	}
	var b strings.Builder
	b.WriteByte('"')
	pair := false
	for i, r := range s[1 : len(s)-1] {
		switch {
		case r == '\\' && !pair:
			pair = true
			continue
		case r == '"' && !pair, r == '\\' && i == 1, r == ':', strings.ContainsRune(except, r):
			return "", false
		case r == '"', r == '\\':
			b.WriteByte('\\')
		}
		b.WriteRune(r)
		pair = false
	}
	b.WriteByte('"')
	return b.String(), !pair
}

// DomainOrLiteral reports whether what stands behind "@" is a domain name or an
// address in brackets (RFC 5321, section 4.1.3), which some hosts leave out.
func DomainOrLiteral(s string) bool {
	if strings.HasPrefix(s, "[") {
		return strings.HasSuffix(s, "]") && strings.Trim(s[1:len(s)-1], "0123456789abcdefABCDEFipvIPV.:") == ""
	}
	_, err := Domain(s)
	return err == nil || errors.Is(err, ErrAddress)
}
