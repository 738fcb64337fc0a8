package esmtp

import (
	"errors"
	"strings"
	"testing"
)

func TestDomain(t *testing.T) {
	label := strings.Repeat("a", 63)
	long := label + "." + label + "." + label + "." + strings.Repeat("a", 61) // 253
	for _, c := range []struct {
		in    string
		check bool   // CheckDomain takes it
		want  string // of Domain; empty: refused
	}{
		{"acme.example", true, "acme.example"},
		{"ACME.Example", true, "acme.example"},
		{"localhost", true, "localhost"},
		{"xn--bcher-kva.example", true, "xn--bcher-kva.example"},
		{"_x-1.acme.example", true, "_x-1.acme.example"},
		{"a.1b", true, "a.1b"},
		{"1.acme", true, "1.acme"},
		{long, true, long},
		{long + "a", false, ""},
		{label + "a.example", false, ""},
		// No part of what a command may hold, but people write them.
		{"acme.example.", false, "acme.example"},
		{"b\u00fccher.example", false, "xn--bcher-kva.example"},
		{"B\u00dcCHER.example", false, "xn--bcher-kva.example"},
		{"", false, ""},
		{".", false, ""},
		{"acme.example..", false, ""},
		{".acme.example", false, ""},
		{"acme..example", false, ""},
		{"acme.-x.example", false, ""},
		{"acme.x-.example", false, ""},
		{"a b.example", false, ""},
		{"acme.example,beta.example", false, ""},
		{"a@acme.example", false, ""},
		{"acme.example\r\n", false, ""},
		{"\xff.example", false, ""},
		{"[192.0.2.1]", false, ""},
		{"2001:db8::1", false, ""},
		{"192.0.2.1", false, ""},
		// Not in the DNS, but perhaps in a network of one's own.
		{"plant.5", false, "plant.5"},
		{"192.0.2.300", false, "192.0.2.300"},
		{"12", false, "12"},
	} {
		if err := CheckDomain(c.in); (err == nil) != c.check {
			t.Errorf("CheckDomain(%q): %v", c.in, err)
		}
		if got, err := Domain(c.in); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("Domain(%q) = %q, %v", c.in, got, err)
		}
	}
	for in, want := range map[string]string{
		"":              `"" is not a domain: it is empty`,
		"acme..example": `"acme..example" is not a domain: empty label`,
		"192.0.2.1":     `"192.0.2.1" is not a domain: it ends in a number, as addresses do`,
		"a b.example":   `"a b.example" is not a domain: ' ' may not be in it`,
		long + "aaaa":   `"` + long[:80] + `"... is not a domain: longer than 253 bytes`,
	} {
		if _, err := Domain(in); err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	if err := CheckDomain("192.0.2.1"); !errors.Is(err, ErrAddress) {
		t.Errorf("an address: %v", err)
	}
}

// What Domain gives is in its form already, and CheckDomain takes it, but for a
// number at its end.
func FuzzDomain(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		d, err := Domain(s)
		if CheckDomain(s) == nil && err != nil {
			t.Fatalf("CheckDomain takes %q, and Domain does not: %v", s, err)
		}
		if err != nil {
			if d != "" || len(err.Error()) > 1000 {
				t.Fatalf("%q: %q, %v", s, d, err)
			}
			return
		}
		if err := CheckDomain(d); err != nil && (!errors.Is(err, ErrAddress) || isAddress(d)) {
			t.Fatalf("Domain(%q) = %q, of which CheckDomain says %v", s, d, err)
		}
		if again, err := Domain(d); err != nil || again != d {
			t.Fatalf("Domain(%q) = %q, and of that %q, %v", s, d, again, err)
		}
		if strings.ToLower(d) != d || len(d) > maxDomain {
			t.Fatalf("Domain(%q) = %q", s, d)
		}
	})
}
