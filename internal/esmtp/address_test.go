package esmtp

import (
	"strings"
	"testing"
)

func TestCutPath(t *testing.T) {
	for _, c := range []struct {
		arg        string
		path, rest string
		ok         bool
	}{
		{"FROM:<a@x.example>", "a@x.example", "", true},
		{"from:<>", "", "", true},
		{"FROM: <a@x.example>", "a@x.example", "", true}, // wrong, and common
		{"FROM:<a@x.example> SIZE=1  BODY=7BIT", "a@x.example", " SIZE=1  BODY=7BIT", true},
		{`FROM:<"a>b"@x.example> SIZE=1`, `"a>b"@x.example`, " SIZE=1", true},
		{`FROM:<"a\">b"@x.example>`, `"a\">b"@x.example`, "", true},
		// A backslash has a meaning in quotes only.
		{`FROM:<a\>b@x.example>`, "", "", false},
		{"FROM:<a@x.example>SIZE=1", "", "", false},
		{"FROM:<a@<x.example>", "", "", false},
		{"FROM:<a@x.example", "", "", false},
		{`FROM:<"a@x.example>`, "", "", false},
		{`FROM:<"a\`, "", "", false},
		{"FROM:a@x.example", "", "", false},
		{"TO:<a@x.example>", "", "", false},
		{"FROM:", "", "", false},
		{"", "", "", false},
	} {
		path, rest, ok := CutPath(c.arg, "FROM:")
		if ok != c.ok || ok && (path != c.path || rest != c.rest) {
			t.Errorf("%q: %q, %q, %v", c.arg, path, rest, ok)
		}
	}
}

func TestRequote(t *testing.T) {
	for in, want := range map[string]string{
		`"a\"b"`:      `"a\"b"`,
		`"a\\b"`:      `"a\\b"`,
		`"\a\ \b"`:    `"a b"`,
		`"a,b;(c)"`:   `"a,b;(c)"`,
		`"[x]"`:       `"[x]"`,
		"\"\u00fc,\"": "\"\u00fc,\"",
		`"\""`:        `"\""`,
		// And what means something else to somebody.
		`a"b`:          "",
		`"a"b"`:        "",
		`"a\"`:         "",
		`""`:           "",
		`"`:            "",
		`"\\a"`:        "",
		`":include:a"`: "",
		`"a@b"`:        "",
		`"a\@b"`:       "",
		`"a\%b"`:       "",
		`"a<b"`:        "",
		"\"a\tb\"":     "",
		"\"a\\\r\"":    "",
		"\"\xff\"":     "",
	} {
		if got, ok := Requote(in, "%!@"); got != want && ok || ok != (want != "") {
			t.Errorf("%s: %s, %v, want %s", in, got, ok, want)
		}
	}
}

func TestMailboxes(t *testing.T) {
	for _, c := range []struct {
		path          string
		local, domain string // empty: no mailbox
		plain, sound  bool   // the local part, for PlainLocalPart and LocalPart
	}{
		{"a@x.example", "a", "x.example", true, true},
		{"a.b+c=d/e@x.example", "a.b+c=d/e", "x.example", true, true},
		{"\u00fc@x.example", "\u00fc", "x.example", true, true},
		{"a\u202eb@x.example", "a\u202eb", "x.example", false, false}, // cannot be seen
		{"\xff@x.example", "\xff", "x.example", false, false},
		{`"a b"@x.example`, `"a b"`, "x.example", true, true},
		{`"a..b."@x.example`, `"a..b."`, "x.example", true, true},
		{`"a,b"@x.example`, `"a,b"`, "x.example", false, true},
		{`"a@b"@x.example`, `"a@b"`, "x.example", false, true},
		{`"a\"b"@x.example`, `"a\"b"`, "x.example", false, true},
		{`"a<b"@x.example`, `"a<b"`, "x.example", false, false}, // where does the path end?
		{`""@x.example`, `""`, "x.example", false, false},
		{".a@x.example", ".a", "x.example", false, false},
		{"a.@x.example", "a.", "x.example", false, false},
		{"a..b@x.example", "a..b", "x.example", false, false},
		{"a b@x.example", "a b", "x.example", false, false},
		{"a,b@x.example", "a,b", "x.example", false, false},
		{"a@b@x.example", "a", "b@x.example", true, true}, // the domain is none
		// Source routes, which nobody has to take.
		{"@a.example:b@x.example", "", "", false, false},
		{"a", "", "", false, false},
		{"a@", "", "", false, false},
		{"@x.example", "", "", false, false},
		{`"a@x.example`, "", "", false, false},
		{`"a"b@x.example`, "", "", false, false},
		{`"a\`, "", "", false, false},
		{"", "", "", false, false},
		{strings.Repeat("a", 257) + "@x.example", "", "", false, false},
		{"a@" + strings.Repeat("x", 256), "", "", false, false},
	} {
		local, domain, ok := CutMailbox(c.path)
		if local != c.local || domain != c.domain || ok != (c.local != "") {
			t.Errorf("%q: %q, %q, %v", c.path, local, domain, ok)
		}
		if ok && (PlainLocalPart(local, "") != c.plain || LocalPart(local) != c.sound) {
			t.Errorf("%q: plain %v, sound %v", c.path, PlainLocalPart(local, ""), LocalPart(local))
		}
	}
	if PlainLocalPart("a%b", "%!") || PlainLocalPart(`"a!b"`, "%!") || !PlainLocalPart("a!b%c", "") {
		t.Error("what is in except is not what is refused")
	}
	for domain, want := range map[string]bool{"x.example": true, "[192.0.2.1]": true, "[IPv6:2001:db8::1]": true, "192.0.2.1": true, "[": false, "[x]": false, "[192.0.2.1": false, "a b": false, "": false, "b@x.example": false} {
		if DomainOrLiteral(domain) != want {
			t.Errorf("DomainOrLiteral(%q) is not %v", domain, want)
		}
	}
}

func TestEncodings(t *testing.T) {
	for in, want := range map[string]struct{ xtext, ascii, raw string }{
		"a@x.example":     {"a@x.example", "a@x.example", "a@x.example"},
		"a+b=c d\x7f\\<>": {"a+2Bb+3Dc+20d+7F+5C+3C+3E", `a\x{2B}b\x{3D}c\x{20}d\x{7F}\x{5C}\x{3C}\x{3E}`, `a\x{2B}b\x{3D}c\x{20}d\x{7F}\x{5C}\x{3C}\x{3E}`},
		"\u00e9":          {"+C3+A9", `\x{E9}`, "\u00e9"},
		"":                {"", "", ""},
	} {
		if got := XText(in); got != want.xtext {
			t.Errorf("XText(%q) = %q", in, got)
		}
		if ascii, raw := UTF8Text(in, false), UTF8Text(in, true); ascii != want.ascii || raw != want.raw {
			t.Errorf("UTF8Text(%q) = %q and %q", in, ascii, raw)
		}
	}
}

// A path that is taken is the one that every server finds, and parts of it put
// together again are the path.
func FuzzPath(f *testing.F) {
	f.Fuzz(func(t *testing.T, arg string) {
		path, rest, ok := CutPath(arg, "TO:")
		if !ok {
			return
		}
		if again, _, ok := CutPath("TO:<"+path+">"+rest, "TO:"); !ok || again != path {
			t.Fatalf("%q is the path %q, and then %q", arg, path, again)
		}
		local, domain, ok := CutMailbox(path)
		if !ok {
			return
		}
		if local+"@"+domain != path {
			t.Fatalf("%q is split into %q and %q", path, local, domain)
		}
		if !LocalPart(local) || !DomainOrLiteral(domain) {
			if PlainLocalPart(local, "") && !LocalPart(local) {
				t.Fatalf("%q is plain and no local part", local)
			}
			return
		}
		// A server that knows no quotes ends the path at the first ">".
		if strings.ContainsAny(path, "<>\r\n\x00") {
			t.Fatalf("%q was taken", path)
		}
	})
}
