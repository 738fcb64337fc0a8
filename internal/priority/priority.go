// Package priority reads what a sender says of the priority of a message: the
// MT-PRIORITY parameter of MAIL (RFC 6710), the header field of that name (RFC
// 6758), and the fields that mail programs use instead.
//
// What follows from a priority is not its business.
package priority

import (
	"strconv"
	"strings"
)

// source is a place in which a priority can be stated, from the one that binds
// least to the one that binds most. Registered header fields go before those
// that mail programs made up.
type source uint8

const (
	none       source = iota
	msMail            // X-MSMail-Priority
	x                 // X-Priority: 1 (highest) to 5 (lowest)
	word              // Priority (RFC 4021, from X.400)
	importance        // Importance (RFC 4021)
	mt                // MT-Priority as a field (RFC 6758)
	parameter         // MT-PRIORITY of MAIL (RFC 6710)
)

// Stated is the priority that was stated in the place that binds most. The zero
// value is that of a message which states none.
type Stated struct {
	value int8
	from  source
}

// OK reports whether a priority was stated at all.
func (s Stated) OK() bool { return s.from != none }

// Exact reports whether it was stated as a number of RFC 6710, by which all
// mail can be compared.
func (s Stated) Exact() bool { return s.from >= mt }

// Value is the priority as RFC 6710 counts it: -9 (lowest) to 9. It is 0 where
// none was stated (section 5).
func (s Stated) Value() int { return int(s.value) }

func (s *Stated) state(from source, value int, ok bool) {
	if ok && from > s.from {
		s.from, s.value = from, int8(value)
	}
}

// Parameter takes the value of MT-PRIORITY in MAIL.
func (s *Stated) Parameter(value string) {
	n, ok := number(value, -9, 9)
	s.state(parameter, n, ok)
}

// longest is the longest name of a field that states a priority.
const longest = len("X-MSMail-Priority")

// Field takes note of a header field, whichever it is.
func (s *Stated) Field(name, value string) {
	// Every field of every message comes here.
	if len(name) > longest {
		return
	}
	switch strings.ToLower(name) {
	case "x-msmail-priority":
		n, ok := named(value)
		s.state(msMail, n, ok)
	case "x-priority":
		n, ok := number(value, 1, 5)
		s.state(x, (3-n)*2, ok)
	case "priority":
		n, ok := named(value)
		s.state(word, n, ok)
	case "importance":
		n, ok := named(value)
		s.state(importance, n, ok)
	case "mt-priority":
		n, ok := number(value, -9, 9)
		s.state(mt, n, ok)
	}
}

// first is the value without a comment behind it: "1 (Highest)".
func first(s string) string {
	f := strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" \t\r\n(;", r) })
	if len(f) == 0 {
		return ""
	}
	return strings.ToLower(f[0])
}

func number(s string, least, most int) (n int, ok bool) {
	n, err := strconv.Atoi(first(s))
	return n, err == nil && n >= least && n <= most
}

func named(s string) (n int, ok bool) {
	switch first(s) {
	case "high", "urgent", "highest":
		return 4, true
	case "normal", "medium":
		return 0, true
	case "low", "non-urgent", "lowest":
		return -4, true
	}
	return 0, false
}
