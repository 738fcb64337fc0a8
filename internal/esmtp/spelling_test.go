package esmtp

import (
	"slices"
	"testing"
)

func TestSpellings(t *testing.T) {
	for domain, want := range map[string][]string{
		"acme.example":                    {"acme.example"},
		"xn--bcher-kva.example":           {"xn--bcher-kva.example", "bücher.example", "bu\u0308cher.example"},
		"mail.xn--bcher-kva.example":      {"mail.xn--bcher-kva.example", "mail.bücher.example", "mail.bu\u0308cher.example"},
		"xn--e1afmkfd.xn--p1ai":           {"xn--e1afmkfd.xn--p1ai", "пример.рф", "пример.xn--p1ai", "xn--e1afmkfd.рф"},
		"xn--fsqu00a.xn--0zwm56d":         {"xn--fsqu00a.xn--0zwm56d", "例子.测试", "例子.xn--0zwm56d", "xn--fsqu00a.测试"},
		"xn--strae-oqa.example":           {"xn--strae-oqa.example"}, // ß folds to ss, which is another domain
		"xn--hxajbheg2az3al.xn--jxalpdlp": {"xn--hxajbheg2az3al.xn--jxalpdlp", "παράδειγμα.δοκιμή"},
		// No IDN, though it begins like one: left alone.
		"xn--a.example":    {"xn--a.example"},
		"xn--zz--.example": {"xn--zz--.example"},
	} {
		got := Spellings(domain)
		if domain == "xn--hxajbheg2az3al.xn--jxalpdlp" {
			got = got[:min(len(got), 2)]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", domain, got, want)
		}
	}
}

// Whatever is a spelling of a domain is read as that domain, and whoever writes
// it another way has another one.
func FuzzSpellings(f *testing.F) {
	for _, s := range []string{"bücher.example", "straße.example", "ΣΊΣΥΦΟΣ.example", "İstanbul.example", "例子.测试", "xn--a.xn--b", "ａcme.example", "a。b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := Domain(s)
		if err != nil {
			return
		}
		for i, spelled := range Spellings(d) {
			if back, err := Domain(spelled); i > 0 && (err != nil || back != d) {
				t.Errorf("%q is %q, spelled %q, which is %q (%v)", s, d, spelled, back, err)
			}
		}
	})
}
