package foreign

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestFamily(t *testing.T) {
	long := strings.Repeat("x", 90)
	for _, c := range []struct {
		in                              string
		clip, quote, escape, printables string
	}{
		// Nothing to do.
		{"", "", `""`, "", ""},
		{"acme.example", "acme.example", `"acme.example"`, "acme.example", "acme.example"},
		// Quotation marks and backslashes are printable.
		{`a"b\c`, `a"b\c`, `"a\"b\\c"`, `a"b\c`, `a"b\c`},
		// A second line is none.
		{"a\r\nb\tc", "a\r\nb\tc", `"a\r\nb\tc"`, `a\r\nb\tc`, "a  b c"},
		// What a terminal would obey.
		{"\x1b[31m\x7f\u009b", "\x1b[31m\x7f\u009b", `"\x1b[31m\x7f\u009b"`, `\x1b[31m\x7f\u009b`, "?[31m??"},
		// Letters of other scripts can be read, except on the wire; what turns
		// the direction of writing cannot be seen.
		{"b\u00fccher \u202eelpmaxe", "b\u00fccher \u202eelpmaxe", "\"b\u00fccher \\u202eelpmaxe\"", `bücher \u202eelpmaxe`, "b?cher ?elpmaxe"},
		// No UTF-8.
		{"\xff\xc3", "\xff\xc3", `"\xff\xc3"`, `\xff\xc3`, "??"},
		// Too long: clip, escape and printables have 85 here, quote its own 80.
		{long, long[:82] + "...", `"` + long[:80] + `"...`, long[:82] + "...", long[:82] + "..."},
		// A character of two bytes is not cut through.
		{long[:79] + strings.Repeat("ü", 9), long[:79] + "ü...", `"` + long[:79] + `"...`, long[:79] + "ü...", long[:79] + "???..."},
		// Bytes that are no characters may be cut anywhere.
		{strings.Repeat("\xbf", 90), strings.Repeat("\xbf", 82) + "...", `"` + strings.Repeat(`\xbf`, 80) + `"...`, strings.Repeat(`\xbf`, 82) + "...", strings.Repeat("?", 82) + "..."},
	} {
		if got := Clip(c.in, 85); got != c.clip {
			t.Errorf("Clip(%q) = %q, want %q", c.in, got, c.clip)
		}
		if got := Quote(c.in); got != c.quote {
			t.Errorf("Quote(%q) = %s, want %s", c.in, got, c.quote)
		}
		if got := Escape(c.in, 85); got != c.escape {
			t.Errorf("Escape(%q) = %s, want %s", c.in, got, c.escape)
		}
		if got := Printable(c.in, 85); got != c.printables {
			t.Errorf("Printable(%q) = %q, want %q", c.in, got, c.printables)
		}
		if Clip([]byte(c.in), 85) != c.clip || Quote([]byte(c.in)) != c.quote || Printable([]byte(c.in), 85) != c.printables {
			t.Errorf("%q: bytes are treated unlike a string", c.in)
		}
	}
}

func FuzzFamily(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = min(max(most, 3), 1000)
		clip, quote, escape, text := Clip(s, most), Quote(s), Escape(s, most), Printable(s, most)
		if len(clip) > most || utf8.ValidString(s) && !utf8.ValidString(clip) || len(s) <= most && clip != s {
			t.Errorf("Clip(%q, %d) = %q", s, most, clip)
		}
		bad := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
		if len(quote) > 4*maxQuoted+5 || strings.ContainsFunc(quote, func(r rune) bool { return bad(r) && r != utf8.RuneError }) {
			t.Errorf("Quote(%q) = %q", s, quote)
		}
		if strings.ContainsFunc(escape, bad) {
			t.Errorf("Escape(%q, %d) = %q", s, most, escape)
		}
		if len(text) > most || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("Printable(%q, %d) = %q", s, most, text)
		}
	})
}
