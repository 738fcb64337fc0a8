package receive

import (
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// refusal is a reply of our own that says no.
type refusal string

// What the provider's own mail server has accepted is passed on or stays with the
// provider, who would take a 5xx for a reason to return it to its sender.
const (
	badSyntax    refusal = "501 5.5.4 Syntax error in parameters"
	badPath      refusal = "451 4.5.2 Syntax error in the address"
	badSender    refusal = "451 4.1.7 Sender address cannot be passed on"
	badRecipient refusal = "450 4.1.3 Recipient address cannot be passed on, since it may mean another one here"
	notAsked     refusal = "450 4.7.1 Mail for this domain was not asked for in this session"
	notBinary    refusal = "451 4.6.1 BINARYMIME is not offered here"
)

// maxMTALine is the longest command that an MTA is given, without CRLF: Postfix
// takes 2048 bytes, and cuts what is longer.
const maxMTALine = 2046

// mail checks what stands behind MAIL and writes it anew, for an MTA that offers
// what is in offered.
func mail(arg string, offered esmtp.Offers) (line, from string, no refusal) {
	path, rest, ok := esmtp.CutPath(arg, "FROM:")
	if !ok {
		return "", "", badPath
	}
	path = cutRoute(path)
	if path != "" {
		local, domain, ok := esmtp.CutMailbox(path)
		switch {
		case ok && (!esmtp.LocalPart(local) || !esmtp.DomainOrLiteral(domain)):
			return "", "", badSender
		case !ok && !esmtp.PlainLocalPart(path, ""): // else a host that does not complete names
			return "", "", badSender
		}
	}
	var words, texts []string
	for _, p := range esmtp.Parameters(rest) {
		value := strings.ToUpper(p.Value)
		switch {
		case p.Key == "SIZE" && offered.Has("SIZE") && digits(value) && len(value) <= 18,
			p.Key == "BODY" && offered.Has("8BITMIME") && (value == "7BIT" || value == "8BITMIME"),
			p.Key == "BODY" && offered.Has("BINARYMIME") && value == "BINARYMIME",
			p.Key == "RET" && offered.Has("DSN") && (value == "FULL" || value == "HDRS"),
			p.Key == "MT-PRIORITY" && offered.Has("MT-PRIORITY") && priority(value):
			words = append(words, p.Key+"="+value)
		case p.Key == "BODY" && value == "BINARYMIME":
			// Nobody may have offered that. It could not cross.
			return "", "", notBinary
		case p.Key == "SMTPUTF8" && offered.Has("SMTPUTF8") && !p.Has:
			words = append(words, p.Key)
		case p.Key == "ENVID" && offered.Has("DSN"):
			if v := esmtp.EnvelopeID(p.Value); v != "" {
				texts = append(texts, "ENVID="+v)
			}
		}
	}
	return command("MAIL FROM:<"+path+">", words, texts), path, ""
}

// recipient checks what stands behind RCPT and writes it anew. The domain is
// passed on in the form in which it was found to be one that was asked for: MTAs
// differ in what other spellings of it mean to them.
func (s *Server) recipient(arg string, offered esmtp.Offers, utf8 bool) (line, to string, no refusal) {
	path, rest, ok := esmtp.CutPath(arg, "TO:")
	if !ok {
		return "", "", badPath
	}
	path = cutRoute(path)
	local, domain, ok := esmtp.CutMailbox(path)
	if !ok || strings.HasSuffix(domain, ".") {
		return "", path, badRecipient
	}
	d, err := esmtp.Domain(domain)
	if err != nil || !s.domains[d] {
		return "", path, notAsked
	}
	if quoted := `"` + local + `"`; !strings.Contains(local, " ") && !esmtp.PlainLocalPart(local, "%!") && esmtp.PlainLocalPart(quoted, "%!") {
		local = quoted // dots in odd places, which quotes are for
	}
	// RFC 5321 gives local parts no meaning, but MTAs do: user%other.example
	// and other.example!user go on to the other host once the domain has been
	// found to be their own, and quotes do not keep them from it.
	// The same holds for "user@other.example" in quotes.
	if !esmtp.PlainLocalPart(local, "%!") {
		if local, ok = esmtp.Requote(local, "%!@"); !ok {
			return "", path, badRecipient
		}
	}
	path = local + "@" + d
	var words, texts []string
	for _, p := range esmtp.Parameters(rest) {
		switch {
		case !offered.Has("DSN"):
		case p.Key == "NOTIFY":
			if v := esmtp.Notify(p.Value); v != "" {
				words = append(words, "NOTIFY="+v)
			}
		case p.Key == "ORCPT":
			if v := esmtp.OriginalRecipient(p.Value, utf8); v != "" {
				texts = append(texts, "ORCPT="+v)
			}
		}
	}
	return command("RCPT TO:<"+path+">", words, texts), path, ""
}

// command puts a command together. Parameters that were not offered, and those
// whose values make no sense, have been left out: they are no reason to refuse
// mail. Of others, AUTH= would vouch for a sender, XVERP and the like are for those
// an MTA trusts. texts tell nothing but what a notice may say, and go first when
// the line gets too long.
func command(path string, words, texts []string) string {
	line := strings.Join(append(append([]string{path}, words...), texts...), " ")
	if len(line) > maxMTALine {
		line = strings.Join(append([]string{path}, words...), " ")
	}
	return line
}

// cutRoute takes a source route off, which means nothing any more (RFC 5321,
// appendix C): "@a.example,@b.example:joe@c.example".
func cutRoute(path string) string {
	if route, rest, ok := strings.Cut(path, ":"); ok && strings.HasPrefix(path, "@") && !strings.ContainsAny(route, `"\ `) {
		return rest
	}
	return path
}

// priority takes what RFC 6710, section 4.1, does.
func priority(s string) bool {
	n := strings.TrimPrefix(s, "-")
	return len(n) == 1 && n >= "0" && n <= "9" && s != "-0"
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
