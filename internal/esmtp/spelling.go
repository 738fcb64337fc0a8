package esmtp

import (
	"slices"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// maxMixed bounds the labels of one domain whose spellings are combined.
const maxMixed = 3

// Spellings are all the ways in which a domain, in the form of Domain, may stand
// in mail as far as a server that compares bytes can tell: the form itself, and
// where that has A-labels (RFC 5890), the same with U-labels, composed and
// decomposed, and with only some of its labels as U-labels. They are folded as
// such a server folds what it looks up, Unicode's full case folding; upper and
// lower case need no spellings of their own.
//
// A U-label that folding makes into another domain is left out: "straße" folds to
// "strasse", which somebody else may have. So are those that hold characters that
// stand for others (a full-width letter, an ideographic full stop): few write
// them, and they are many.
func Spellings(domain string) []string {
	list := []string{domain}
	if !strings.Contains(domain, "xn--") {
		return list
	}
	labels := strings.Split(domain, ".")
	other := make([]string, len(labels)) // as a U-label, or empty
	mixed := 0
	for i, a := range labels {
		if !strings.HasPrefix(a, "xn--") {
			continue
		}
		if u, err := idna.Lookup.ToUnicode(a); err == nil && u != a {
			other[i] = u
			mixed++
		}
	}
	if mixed == 0 {
		return list
	}
	fold := cases.Fold()
	add := func(labels []string, form norm.Form) {
		s := fold.String(form.String(strings.Join(labels, ".")))
		if d, err := Domain(s); err == nil && d == domain && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	whole := slices.Clone(labels)
	for i, u := range other {
		if u != "" {
			whole[i] = u
		}
	}
	add(whole, norm.NFC)
	add(whole, norm.NFD)
	if mixed == 1 || mixed > maxMixed {
		return list
	}
	for choice := 1; choice < 1<<mixed-1; choice++ {
		some, bit := slices.Clone(labels), 0
		for i, u := range other {
			if u == "" {
				continue
			}
			if choice>>bit&1 == 1 {
				some[i] = u
			}
			bit++
		}
		add(some, norm.NFC)
	}
	return list
}
