package receive

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/etrnd/etrnd/internal/queue"
)

// refusal is a reply of our own that says no.
type refusal string

const (
	badSyntax    refusal = "501 5.5.4 Syntax error in the parameters"
	badParameter refusal = "555 5.5.4 A parameter that is not taken here"
	badSender    refusal = "553 5.1.7 Not an address that is taken here"
	badRecipient refusal = "553 5.1.3 Not an address that is taken here: local part and domain, and no route"
	// 450, so that the mail stays with the provider: what is asked for may be
	// about to change.
	notAsked refusal = "450 4.7.1 Mail for this domain was not asked for in this session"
)

// parameters that are passed on, by command. AUTH= vouches for a sender, and
// XVERP and the like are for those an MTA trusts.
var parameters = map[string][]string{
	"MAIL": {"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "MT-PRIORITY"},
	"RCPT": {"NOTIFY", "ORCPT"},
}

// mail checks what stands behind MAIL and writes it anew.
func mail(arg string) (line, from string, no refusal) {
	path, rest, ok := cutPath(arg, "FROM:")
	if !ok {
		return "", "", badSyntax
	}
	if path != "" {
		if local, domain, ok := mailbox(path); !ok || !senderPart(local) || !sound(domain) {
			return "", "", badSender
		}
	}
	params, no := checkParameters("MAIL", rest)
	if no != "" {
		return "", "", no
	}
	return "MAIL FROM:<" + path + ">" + params, path, ""
}

// recipient checks what stands behind RCPT and writes it anew.
func (g *Server) recipient(arg string) (line, to string, no refusal) {
	path, rest, ok := cutPath(arg, "TO:")
	if !ok {
		return "", "", badSyntax
	}
	local, domain, ok := mailbox(path)
	if !ok || strings.HasSuffix(domain, ".") {
		return "", path, badRecipient
	}
	d, err := queue.Domain(domain)
	if err != nil || !g.domains[d] {
		return "", path, notAsked
	}
	// RFC 5321 gives local parts no meaning, but MTAs do: user%other.example
	// and other.example!user go on to the other host once the domain has been
	// found to be their own, and quotes do not keep them from it.
	if !localPart(local, "%!") {
		return "", path, badRecipient
	}
	params, no := checkParameters("RCPT", rest)
	if no != "" {
		return "", path, no
	}
	return "RCPT TO:<" + path + ">" + params, path, ""
}

// cutPath splits "FROM:<path> parameters". A quoted local part may hold ">".
func cutPath(arg, what string) (path, rest string, ok bool) {
	if len(arg) < len(what) || !strings.EqualFold(arg[:len(what)], what) {
		return "", "", false
	}
	arg = strings.TrimLeft(arg[len(what):], " ")
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

// mailbox splits an address at the "@" behind its local part. A source route
// (RFC 5321, appendix C) begins with "@" and so has none.
func mailbox(path string) (local, domain string, ok bool) {
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
	if at < 1 || at == len(path)-1 || at > 256 || len(path)-at > 256 {
		return "", "", false
	}
	return path[:at], path[at+1:], true
}

// localPart reports whether a local part is one that goes through every MTA
// with the same meaning, and holds none of the characters in except. Within
// quotes only space and dot are taken beyond what needs no quotes.
func localPart(s, except string) bool {
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
		case strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r), strings.ContainsRune(more, r):
		default:
			return false
		}
	}
	return true
}

// senderPart takes more than localPart: no MTA sends anything on by what stands
// within the quotes of a sender. "<" and ">" alone are not taken there, since
// some MTAs end the path at the first ">" and would find parameters behind it.
// That the quotes and backslashes come in pairs is known from mailbox.
func senderPart(s string) bool {
	inner, quoted := strings.CutPrefix(s, `"`)
	if !quoted {
		return localPart(s, "")
	}
	inner, ok := strings.CutSuffix(inner, `"`)
	return ok && inner != "" && utf8.ValidString(inner) && !strings.ContainsFunc(inner, func(r rune) bool {
		return r == '<' || r == '>' || !unicode.IsPrint(r)
	})
}

// sound takes the domain of a sender: a name or an address in brackets.
func sound(domain string) bool {
	if strings.HasPrefix(domain, "[") {
		return strings.HasSuffix(domain, "]") && strings.Trim(domain[1:len(domain)-1], "0123456789abcdefABCDEFipvIPV.:") == ""
	}
	_, err := queue.Domain(domain)
	return err == nil
}

// checkParameters writes "" or " KEY=VALUE ...".
func checkParameters(verb, rest string) (string, refusal) {
	var b strings.Builder
	seen := 0
	for word := range strings.FieldsSeq(rest) {
		key, value, has := strings.Cut(word, "=")
		key = strings.ToUpper(key)
		known := false
		for i, p := range parameters[verb] {
			if p == key && seen&(1<<i) == 0 {
				seen |= 1 << i
				known = true
			}
		}
		except := `<>"\`
		if key == "ORCPT" && len(value) >= 6 && strings.EqualFold(value[:6], "utf-8;") {
			except = `<>"` // RFC 6533, section 3, writes "+" as "\x{2B}"
		}
		if !known || has && value == "" || strings.ContainsAny(value, except) {
			return "", badParameter
		}
		if key == "SIZE" && (!digits(value) || len(value) > 18) {
			return "", badSyntax
		}
		b.WriteString(" " + key)
		if has {
			b.WriteString("=" + value)
		}
	}
	return b.String(), ""
}

// helloName takes a host name or an address in brackets (RFC 5321, section
// 4.1.1.1), and cannot be anything else.
func helloName(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:[]", r))
	})
}

// maxChunk bounds one chunk. No message is as long.
const maxChunk = 1 << 36

// chunk reads what stands behind BDAT (RFC 3030, section 2). Without a length
// there is no telling where the next command begins.
func chunk(arg string) (n int64, last, ok bool) {
	size, word, more := strings.Cut(arg, " ")
	if more && !strings.EqualFold(word, "LAST") || !digits(size) || len(size) > 12 {
		return 0, false, false
	}
	for _, c := range size {
		n = n*10 + int64(c-'0')
	}
	return n, more, n <= maxChunk
}
