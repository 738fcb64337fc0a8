package receive

import (
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// refusal is a reply of our own that says no.
type refusal string

const (
	badSyntax    refusal = "501 5.5.4 Syntax error in parameters"
	badParameter refusal = "555 5.5.4 Parameter not supported"
	badSender    refusal = "553 5.1.7 Sender address not accepted"
	badRecipient refusal = "553 5.1.3 Recipient address not accepted: expected a plain local part and a domain"
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
	path, rest, ok := esmtp.CutPath(arg, "FROM:")
	if !ok {
		return "", "", badSyntax
	}
	if path != "" {
		if local, domain, ok := esmtp.CutMailbox(path); !ok || !esmtp.LocalPart(local) || !esmtp.DomainOrLiteral(domain) {
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
func (s *Server) recipient(arg string) (line, to string, no refusal) {
	path, rest, ok := esmtp.CutPath(arg, "TO:")
	if !ok {
		return "", "", badSyntax
	}
	local, domain, ok := esmtp.CutMailbox(path)
	if !ok || strings.HasSuffix(domain, ".") {
		return "", path, badRecipient
	}
	d, err := esmtp.Domain(domain)
	if err != nil || !s.domains[d] {
		return "", path, notAsked
	}
	// RFC 5321 gives local parts no meaning, but MTAs do: user%other.example
	// and other.example!user go on to the other host once the domain has been
	// found to be their own, and quotes do not keep them from it.
	if !esmtp.PlainLocalPart(local, "%!") {
		return "", path, badRecipient
	}
	params, no := checkParameters("RCPT", rest)
	if no != "" {
		return "", path, no
	}
	return "RCPT TO:<" + path + ">" + params, path, ""
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

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
