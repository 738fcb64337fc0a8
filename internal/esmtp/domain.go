package esmtp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"

	"github.com/etrnd/etrnd/internal/foreign"
)

// ErrAddress is the error of CheckDomain for what looks like an IPv4 address: a
// name whose last label is a number. No top-level domain is one (RFC 1123,
// section 2.1).
var ErrAddress = errors.New("it ends in a number, as addresses do")

// Limits of RFC 1035, section 2.3.4, in bytes.
const (
	maxDomain = 253 // as text, which has neither length bytes nor the root
	maxLabel  = 63
)

// CheckDomain checks a domain name as it stands in a command: host names and,
// since they exist, underscores. The error completes "is not a domain:".
func CheckDomain(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case len(name) > maxDomain:
		return fmt.Errorf("longer than %d bytes", maxDomain)
	}
	number := false
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return errors.New("empty label")
		case len(label) > maxLabel:
			return fmt.Errorf("a label is longer than %d bytes", maxLabel)
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New(`a label begins or ends with "-"`)
		}
		number = true
		for _, c := range label {
			switch {
			case c >= '0' && c <= '9':
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
				number = false
			default:
				return fmt.Errorf("%q may not be in it", c)
			}
		}
	}
	if number {
		return ErrAddress
	}
	return nil
}

// Domain brings a domain name to the form in which names are compared: lower
// case, without a final dot, labels that are not ASCII as A-labels (RFC 5890).
// What CheckDomain takes it takes too, and names that end in a number as well, as
// long as they are no IPv4 address: such a name cannot be looked up in the DNS, but
// a network of one's own may have it, and mail may be held for it.
func Domain(s string) (string, error) {
	d := strings.ToLower(strings.TrimSuffix(s, "."))
	if strings.ContainsFunc(d, func(r rune) bool { return r >= 0x80 }) {
		a, err := idna.Lookup.ToASCII(d)
		if err != nil {
			return "", fmt.Errorf("%s is not a domain: %w", foreign.Quote(s), err)
		}
		d = a
	}
	if err := CheckDomain(d); err != nil && (!errors.Is(err, ErrAddress) || isAddress(d)) {
		return "", fmt.Errorf("%s is not a domain: %w", foreign.Quote(s), err)
	}
	return d, nil
}

// ASCII is a name that is written into a command, looked up in the DNS or compared
// with one in a certificate: the labels that are not ASCII become A-labels, and
// what is ASCII, or no domain, stays as it is.
func ASCII(name string) string {
	if !strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) {
		return name
	}
	if d, err := Domain(name); err == nil {
		return d
	}
	return name
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}
