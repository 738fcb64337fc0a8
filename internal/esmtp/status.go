package esmtp

import "strings"

// Status is an enhanced status code (RFC 3463): class, subject, detail. The zero
// value is none.
type Status [3]int

// CutStatus takes an enhanced status code off the text of a reply (RFC 2034,
// section 4). Without one, it returns the text as it is.
func CutStatus(text string) (Status, string) {
	word, rest, _ := strings.Cut(text, " ")
	var s Status
	for i := range s {
		part, more, dot := strings.Cut(word, ".")
		if dot != (i < 2) || part == "" || len(part) > 3 {
			return Status{}, text
		}
		for _, c := range []byte(part) {
			if !digit(c) {
				return Status{}, text
			}
			s[i] = s[i]*10 + int(c-'0')
		}
		word = more
	}
	if s[0] != 2 && s[0] != 4 && s[0] != 5 {
		return Status{}, text
	}
	return s, rest
}
