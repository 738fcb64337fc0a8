package receive

import (
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// everything is what an MTA may offer.
var everything = offered([]string{"PIPELINING", "SIZE 1000000", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN", "MT-PRIORITY", "AUTH PLAIN", "XVERP"})

// Senders that are taken, and the others, which stay with the provider.
func TestSenders(t *testing.T) {
	for path, want := range map[string]string{
		`a@x.example`:           `a@x.example`,
		``:                      ``,
		`"a,b"@x.example`:       `"a,b"@x.example`,
		`"a b;c:d(e)@f"@x.test`: `"a b;c:d(e)@f"@x.test`,
		`"a\"b\\"@x.example`:    `"a\"b\\"@x.example`,
		`"a%b!c"@x.example`:     `"a%b!c"@x.example`,
		`a%b@x.example`:         `a%b@x.example`,
		// A host that does not know its name, whose mail is mail all the same.
		`a@192.0.2.1`:              `a@192.0.2.1`,
		`a@[192.0.2.1]`:            `a@[192.0.2.1]`,
		`a@[IPv6:2001:db8::1]`:     `a@[IPv6:2001:db8::1]`,
		`joe`:                      `joe`,
		`@a.test,@b.test:c@d.test`: `c@d.test`,
		// Some MTAs would see the end of the path here.
		`"a> SIZE=1"@x.example`:                 "no",
		`"a<b"@x.example`:                       "no",
		`"a\"@x.example`:                        "no",
		`"a"b"@x.example`:                       "no",
		`a,b@x.example`:                         "no",
		`""@x.example`:                          "no",
		"\"a\u200eb\"@x.test":                   "no",
		`"a@x.example`:                          "no",
		`joe:x`:                                 "no",
		strings.Repeat("a", 300) + "@x.example": "no",
	} {
		line, from, no := mail("FROM:<"+path+">", everything)
		if want == "no" {
			if no == "" || no[0] != '4' {
				t.Errorf("MAIL FROM:<%s>: %q, %q", path, line, no)
			}
		} else if no != "" || line != "MAIL FROM:<"+want+">" || from != want {
			t.Errorf("MAIL FROM:<%s>: %q, %q", path, line, no)
		}
	}
}

// What is checked is what is passed on. What is not passed on stays with the
// provider: none of it is refused for good.
func TestRecipients(t *testing.T) {
	srv := New(Options{Domains: []string{"acme.example", "xn--bcher-kva.example"}})
	for path, want := range map[string]string{
		"a@acme.example":                       "a@acme.example",
		"A.b@ACME.Example":                     "A.b@acme.example",
		`"john doe"@acme.example`:              `"john doe"@acme.example`,
		"a..b@acme.example":                    `"a..b"@acme.example`,
		".a.@acme.example":                     `".a."@acme.example`,
		`"a\"b"@acme.example`:                  `"a\"b"@acme.example`,
		`"a\\b"@acme.example`:                  `"a\\b"@acme.example`,
		`"a\ b"@acme.example`:                  `"a b"@acme.example`,
		`"a,b"@acme.example`:                   `"a,b"@acme.example`,
		"@x.test,@acme.example:a@acme.example": "a@acme.example",
		// Spellings of the domain: MTAs differ in what they make of them.
		"a@\uff41cme.example":     "a@acme.example",
		"a@acme\u3002example":     "a@acme.example",
		"a@ac\u00adme.example":    "a@acme.example",
		"a@b\u00fccher.example":   "a@xn--bcher-kva.example",
		"a@B\u00dcCHER.example":   "a@xn--bcher-kva.example",
		"a@bu\u0308cher.example":  "a@xn--bcher-kva.example",
		"a@XN--BCHER-KVA.example": "a@xn--bcher-kva.example",
		"p\u00e9@acme.example":    "p\u00e9@acme.example",
		// And what may mean something else to somebody.
		`"a@b"@acme.example`:                       "",
		`"a@other.example"@acme.example`:           "",
		`"\\a"@acme.example`:                       "",
		`":a"@acme.example`:                        "",
		"a%other.example@acme.example":             "",
		"other.example!a@acme.example":             "",
		`"a%b"@acme.example`:                       "",
		"a b@acme.example":                         "",
		"a@other.example":                          "",
		"a@acme.example.":                          "",
		"a@acme.example@other.example":             "",
		"a@other.example@acme.example":             "",
		"@acme.example":                            "",
		"@acme.example:a@other.example":            "",
		`@"acme.example:a@acme.example`:            "",
		"postmaster":                               "",
		"a@[127.0.0.1]":                            "",
		"":                                         "",
		strings.Repeat("a", 300) + "@acme.example": "",
	} {
		line, to, no := srv.recipient("TO:<"+path+">", everything, true)
		if want == "" {
			if no == "" || no[0] != '4' {
				t.Errorf("RCPT TO:<%s>: %q, %q", path, line, no)
			}
		} else if no != "" || line != "RCPT TO:<"+want+">" || to != want {
			t.Errorf("RCPT TO:<%s>: %q, %q", path, line, no)
		}
	}
}

// Parameters are passed on where the MTA offers them, in a form that it cannot
// misread, and are no reason to refuse mail.
func TestParameters(t *testing.T) {
	srv := New(Options{Domains: []string{"acme.example"}})
	for _, c := range []struct{ in, want, bare string }{ // want of an MTA with everything, bare of one with nothing
		{"SIZE=5 BODY=8BITMIME", "SIZE=5 BODY=8BITMIME", ""},
		{"size=5 body=7bit ret=full", "SIZE=5 BODY=7BIT RET=FULL", ""},
		{"SIZE=x BODY=9BIT RET=SOME ENVID= MT-PRIORITY=12 SMTPUTF8=yes", "", ""},
		{"ENVID=<abc>", "ENVID=+3Cabc+3E", ""},
		{`ENVID="a"`, "ENVID=+22a+22", ""},
		{"ENVID=+0D+0AQUIT", "", ""},
		{"MT-PRIORITY=-9 SMTPUTF8", "MT-PRIORITY=-9 SMTPUTF8", ""},
		// Of no business here, or not offered to anybody.
		{"AUTH=<> AUTH=joe XVERP XVERP=+= REQUIRETLS BY=120;R HOLDFOR=9 MTRK=x X-Y=z TRANSID=<x> SOLICIT=a", "", ""},
		{"SIZE=5 SIZE=6", "SIZE=5", ""},
		{"ENVID=" + strings.Repeat("<", 400) + " RET=HDRS", "RET=HDRS ENVID=" + strings.Repeat("+3C", 400), ""},
	} {
		for i, want := range []string{c.want, c.bare} {
			o := []esmtp.Offers{everything, nil}[i]
			if want != "" {
				want = " " + want
			}
			if line, _, no := mail("FROM:<a@x.example> "+c.in, o); no != "" || line != "MAIL FROM:<a@x.example>"+want {
				t.Errorf("MAIL with %.80s: %q, %q", c.in, line, no)
			}
		}
	}
	if _, _, no := mail("FROM:<> BODY=BINARYMIME", everything); no != "" {
		t.Errorf("BINARYMIME: %q", no)
	}
	if _, _, no := mail("FROM:<> BODY=BINARYMIME", nil); no == "" || no[0] != '4' {
		t.Errorf("BINARYMIME where it cannot cross: %q", no)
	}
	for in, want := range map[string]string{
		"ORCPT=rfc822;+22john+20doe+22@old.example":                   "ORCPT=rfc822;+22john+20doe+22@old.example",
		`NOTIFY=never ORCPT=rfc822;"john+20doe"@x.test`:               "NOTIFY=NEVER ORCPT=rfc822;+22john+20doe+22@x.test",
		"ORCPT=x400;/S+3Ddoe/":                                        "ORCPT=x400;/S+3Ddoe/",
		`ORCPT=utf-8;x\x{2B}t@acme.example`:                           `ORCPT=utf-8;x\x{2B}t@acme.example`,
		`orcpt=UTF-8;x\x{3D}t>@acme.example`:                          `ORCPT=utf-8;x\x{3D}t\x{3E}@acme.example`,
		`ORCPT=rfc822;x\x{2B}t@acme.example`:                          `ORCPT=rfc822;x+5Cx{2B}t@acme.example`,
		"ORCPT=rfc822;a+09b@acme.example":                             "",
		"NOTIFY=NEVER,DELAY":                                          "",
		"NOTIFY=SUCCESS,FAILURE RRVS=2014-04-03T23:01:00Z X=y CONNEG": "NOTIFY=SUCCESS,FAILURE",
	} {
		if want != "" {
			want = " " + want
		}
		if line, _, no := srv.recipient("TO:<x@acme.example> "+in, everything, false); no != "" || line != "RCPT TO:<x@acme.example>"+want {
			t.Errorf("RCPT with %s: %q, %q", in, line, no)
		}
		if line, _, no := srv.recipient("TO:<x@acme.example> "+in, nil, false); no != "" || line != "RCPT TO:<x@acme.example>" {
			t.Errorf("RCPT with %s for an MTA that offers nothing: %q, %q", in, line, no)
		}
	}
	// Nothing is longer than the MTA reads.
	long := "ORCPT=rfc822;" + strings.Repeat("<", 500) + "@acme.example"
	if line, _, _ := srv.recipient("TO:<"+strings.Repeat("\u00e9", 120)+"@acme.example> NOTIFY=NEVER "+long+" "+long, everything, false); len(line) > maxMTALine || !strings.Contains(line, "NOTIFY=NEVER") {
		t.Errorf("%d bytes: %q", len(line), line)
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
