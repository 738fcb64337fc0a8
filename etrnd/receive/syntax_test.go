package receive

import (
	"strings"
	"testing"
)

// Addresses that are taken on MAIL and not on RCPT, and parameters.
func TestAddresses(t *testing.T) {
	srv := New(Options{Domains: []string{"acme.example"}})
	for path, want := range map[string]bool{
		`"a,b"@x.example`:       true,
		`"a b;c:d(e)@f"@x.test`: true,
		`"a\"b\\"@x.example`:    true,
		`"a%b!c"@x.example`:     true,
		`a%b@x.example`:         true,
		// A host that does not know its name, whose mail is mail all the same.
		`a@192.0.2.1`:   true,
		`a@[192.0.2.1]`: true,
		// Some MTAs would see the end of the path here.
		`"a> SIZE=1"@x.example`: false,
		`"a<b"@x.example`:       false,
		`"a\"@x.example`:        false,
		`"a"b"@x.example`:       false,
		`a,b@x.example`:         false,
		`""@x.example`:          false,
		"\"a\u200eb\"@x.test":   false,
		`"a@x.example`:          false,
	} {
		if line, _, no := mail("FROM:<" + path + ">"); (no == "") != want || want && line != "MAIL FROM:<"+path+">" {
			t.Errorf("MAIL FROM:<%s>: %q, %q", path, line, no)
		}
	}
	for _, path := range []string{`"a,b"@acme.example`, `"a@b"@acme.example`, `a%b@acme.example`, `a!b@acme.example`} {
		if _, _, no := srv.recipient("TO:<" + path + ">"); no != badRecipient {
			t.Errorf("RCPT TO:<%s>: %q", path, no)
		}
	}
	for rest, want := range map[string]bool{
		`ORCPT=utf-8;x\x{2B}t@acme.example`: true,
		`orcpt=UTF-8;x\x{3D}t@acme.example`: true,
		`ORCPT=utf-8;x\x{2B}t>@acme.test`:   false,
		// Only there has "\" a meaning.
		`ORCPT=rfc822;x\x{2B}t@acme.example`: false,
		`NOTIFY=utf-8;\x{2B}`:                false,
	} {
		if line, _, no := srv.recipient("TO:<x@acme.example> " + rest); (no == "") != want || want && !strings.HasSuffix(line, rest[6:]) {
			t.Errorf("RCPT with %s: %q, %q", rest, line, no)
		}
	}
}

func TestChunk(t *testing.T) {
	for arg, want := range map[string]struct {
		n    int64
		last bool
	}{
		"0": {0, false}, "0 LAST": {0, true}, "5 last": {5, true}, "0005 LAST": {5, true}, "68719476736": {1 << 36, false},
	} {
		if n, last, ok := chunk(arg); !ok || n != want.n || last != want.last {
			t.Errorf("chunk(%q): %d, %v, %v", arg, n, last, ok)
		}
	}
	for _, arg := range []string{
		"", "-1", "-1 LAST", "+5 LAST", "0x10", "1e3", "5 LAST LAST", "5 FIRST", "LAST", "5  LAST", "5\tLAST", " 5", "5 ", "5 LAST ",
		"18446744073709551626 LAST", "9223372036854775808", "4294967297000000 LAST", "99999999999", "68719476737", "५ LAST",
	} {
		if n, _, ok := chunk(arg); ok {
			t.Errorf("chunk(%q) is taken for %d", arg, n)
		}
	}
}
