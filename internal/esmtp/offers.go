package esmtp

import (
	"slices"
	"strconv"
	"strings"
)

// Offers are the extensions that a server lists in its reply to EHLO: keywords,
// in upper case, and their parameters.
type Offers map[string]string

// ParseOffers reads the lines of a reply to EHLO behind the first, which has the
// name of the server. Of a keyword that is listed again the parameters are added.
func ParseOffers(lines []string) Offers {
	o := make(Offers, len(lines))
	for _, line := range lines {
		keyword, parameters := CutKeyword(line)
		if before := o[keyword]; before != "" {
			parameters = strings.TrimSpace(before + " " + parameters)
		}
		o[keyword] = parameters
	}
	return o
}

// CutKeyword splits a line of the reply to EHLO. "AUTH=LOGIN" is how some servers
// from before RFC 4954 put it.
func CutKeyword(line string) (keyword, parameters string) {
	i := strings.IndexAny(line, " =")
	if i < 0 {
		return strings.ToUpper(line), ""
	}
	return strings.ToUpper(line[:i]), strings.TrimSpace(strings.TrimLeft(line[i:], " ="))
}

// Has reports whether a keyword is listed.
func (o Offers) Has(keyword string) bool {
	_, ok := o[strings.ToUpper(keyword)]
	return ok
}

// Size is the longest message that the server takes, in bytes; 0 if it does not
// tell (RFC 1870, section 4).
func (o Offers) Size() int64 {
	first, _, _ := strings.Cut(o["SIZE"], " ")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Auth are the mechanisms of RFC 4954 that the server lists, in upper case, each
// once, in its order.
func (o Offers) Auth() []string {
	var mechanisms []string
	for word := range strings.FieldsSeq(strings.ToUpper(o["AUTH"])) {
		if !slices.Contains(mechanisms, word) {
			mechanisms = append(mechanisms, word)
		}
	}
	return mechanisms
}
