package esmtp

import (
	"strings"
	"testing"
)

// What RFC 3461 allows comes out in a form that nobody can misread, what it does
// not allow is left out, and neither is a reason to refuse mail.
func TestEnvelopeID(t *testing.T) {
	for in, want := range map[string]string{
		"abc":                                   "abc",
		"<abc>":                                 "+3Cabc+3E",
		`"q"`:                                   "+22q+22",
		"+3Cabc+3e":                             "+3Cabc+3E",
		"a=b":                                   "a+3Db",
		"a+zz":                                  "a+2Bzz", // malformed, and clear enough
		"a+0D+0AX":                              "",
		"a+09":                                  "",
		"p\u00e9":                               "",
		"":                                      "",
		strings.Repeat("x", 500):                strings.Repeat("x", 500),
		strings.Repeat("x", maxDSNText+1):       "",
		strings.Repeat("+41", maxDSNText):       strings.Repeat("A", maxDSNText),
		strings.Repeat("+41", maxDSNText) + "x": "",
	} {
		if got := EnvelopeID(in); got != want {
			t.Errorf("%.40q: %.40q, want %.40q", in, got, want)
		}
	}
}

func TestOriginalRecipient(t *testing.T) {
	for in, want := range map[string][2]string{ // in ASCII, and with UTF-8
		"rfc822;a@acme.example":               {"rfc822;a@acme.example"},
		"RFC822;+22john+20doe+22@old.example": {"rfc822;+22john+20doe+22@old.example"},
		`rfc822;"john+20doe"@old.example`:     {"rfc822;+22john+20doe+22@old.example"},
		"x400;/S=doe/C=de/":                   {"x400;/S+3Ddoe/C+3Dde/"},
		"x-local.1;+3Ca+3E":                   {"x-local.1;+3Ca+3E"},
		"rfc822;a+09b@acme.example":           {""},
		"rfc822;p+C3+A9@acme.example":         {`utf-8;p\x{E9}@acme.example`, "utf-8;p\u00e9@acme.example"},
		"rfc822;p\u00e9+2B@acme.example":      {`utf-8;p\x{E9}\x{2B}@acme.example`, "utf-8;p\u00e9\\x{2B}@acme.example"},
		"rfc822;\xff+FE@acme.example":         {""}, // no UTF-8
		"x400;p+C3+A9":                        {""}, // has no such form
		`utf-8;p\x{E9}\x{3C}@acme.example`:    {`utf-8;p\x{E9}\x{3C}@acme.example`, "utf-8;p\u00e9\\x{3C}@acme.example"},
		`UTF-8;p` + "\u00e9<":                 {`utf-8;p\x{E9}\x{3C}`, "utf-8;p\u00e9\\x{3C}"},
		`utf-8;\x{D800}`:                      {""},
		`utf-8;\x{zz}`:                        {""},
		`utf-8;\x{41`:                         {""},
		"a@acme.example":                      {""},
		";a":                                  {""},
		"rfc822;":                             {""},
		"rf<c;a":                              {""},
		"rfc822;" + strings.Repeat("a", 501):  {""},
	} {
		if want[1] == "" {
			want[1] = want[0]
		}
		if ascii, raw := OriginalRecipient(in, false), OriginalRecipient(in, true); ascii != want[0] || raw != want[1] {
			t.Errorf("%.60q: %q and %q, want %q", in, ascii, raw, want)
		}
	}
}

func TestNotify(t *testing.T) {
	for in, want := range map[string]string{
		"never": "NEVER", "SUCCESS,delay": "SUCCESS,DELAY", "FAILURE": "FAILURE",
		"NEVER,FAILURE": "", "": "", "ALWAYS": "", "SUCCESS,": "",
	} {
		if got := Notify(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Whatever comes in, what goes out is one word, and stays as it is from there on.
func FuzzOriginalRecipient(f *testing.F) {
	f.Add("rfc822;+22john+20doe+22@old.example")
	f.Add(`utf-8;p\x{E9}`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, raw := range []bool{false, true} {
			once := OriginalRecipient(s, raw)
			if strings.ContainsAny(once, " \r\n\t\x00<>\"") || !raw && !ascii(once) {
				t.Errorf("%q: %q", s, once)
			}
			if twice := OriginalRecipient(once, raw); twice != once {
				t.Errorf("%q: %q, then %q", s, once, twice)
			}
		}
		if id := EnvelopeID(s); strings.ContainsAny(id, " \r\n\t\x00<>\"") || EnvelopeID(id) != id {
			t.Errorf("%q: %q", s, id)
		}
	})
}
