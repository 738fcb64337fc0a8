package mta

import (
	"strings"
	"testing"
)

func TestAddAndRemove(t *testing.T) {
	cases := map[string]struct {
		in, name, element string
		front             bool
		want              string
	}{
		// The separator is that of the neighbours.
		"commas":           {"l = a, b\n", "l", "x", false, "l = a, b, x\n"},
		"spaces":           {"l = a b\n", "l", "x", false, "l = a b x\n"},
		"one":              {"l=a\n", "l", "x", false, "l=a, x\n"},
		"in front":         {"l = a b\n", "l", "x", true, "l = x a b\n"},
		"trailing comma":   {"l = a,\n", "l", "x", false, "l = a, x,\n"},
		"no newline":       {"l = a", "l", "x", false, "l = a, x"},
		"two words":        {"l = permit_x, reject\n", "l", "check y:z", true, "l = check y:z, permit_x, reject\n"},
		"dollar":           {"l = $m, a\n", "l", "x", false, "l = $m, a, x\n"},
		"braces":           {"l = { a, b=c }, d\n", "l", "{ x, y=z }", false, "l = { a, b=c }, d, { x, y=z }\n"},
		"one line each":    {"l =\n    a,\n    b\nm = 1\n", "l", "x", false, "l =\n    a,\n    b,\n    x\nm = 1\n"},
		"first on a line":  {"l =\n\ta\n\tb\n", "l", "x", true, "l =\n\tx\n\ta\n\tb\n"},
		"comment inside":   {"l = a,\n# why b\n  b\n\n# next\nm = 1\n", "l", "x", false, "l = a,\n# why b\n  b,\n  x\n\n# next\nm = 1\n"},
		"comment indented": {"l = a,\n  # why b\n  b\n", "l", "x", false, "l = a,\n  # why b\n  b,\n  x\n"},
		// Of two settings the last one counts.
		"twice": {"l = a\nl = b\n", "l", "x", false, "l = a\nl = b, x\n"},
		// A name that begins like another is another.
		"prefix": {"ll = a\nl = b\n#l = c\n", "l", "x", false, "ll = a\nl = b, x\n#l = c\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := confFile{c.in}
			f.add(c.name, c.element, c.front)
			if f.text != c.want {
				t.Fatalf("add:\n%s\nwant:\n%s", f.text, c.want)
			}
			if !f.remove(c.name, c.element) {
				t.Fatal("remove: not found")
			}
			if f.text != c.in {
				t.Errorf("remove:\n%s\nwant what it was:\n%s", f.text, c.in)
			}
		})
	}
}

func TestRemoveAmongEdits(t *testing.T) {
	cases := map[string]struct{ in, want string }{
		// What somebody has put around an element stays.
		"middle": {"l = a, x, b\n", "l = a, b\n"},
		"first":  {"l = x, b\n", "l = b\n"},
		"only":   {"l = x\n", "l = \n"},
		// A comment next to it is not ours to take.
		"comment before": {"l = a\n# about x\n  x\n", "l = a\n# about x\n  \n"},
		"comment after":  {"l = a,\n  x\n# about b\n  b\n", "l = a\n# about b\n  b\n"},
		"not there":      {"l = xx, a\n", "l = xx, a\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := confFile{c.in}
			f.remove("l", "x")
			if f.text != c.want {
				t.Errorf("got\n%q, want\n%q", f.text, c.want)
			}
		})
	}
}

// FuzzAddRemove: in any file that has the list, what is put in can be taken
// out again without a trace, and nothing else changes its value.
func FuzzAddRemove(f *testing.F) {
	for _, s := range []string{"l = a, b\n", "l =\n  a\n#c\n  b", "l={ a\n", "l = a}, {b\nm = 1\n", "\n l = a\nl = b\r\n", "l = #a\n #b\n c"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, text string, front bool) {
		c := confFile{text}
		_, v, ok := c.param("l")
		if !ok || len(c.tokens(v)) == 0 || strings.Contains(text, "xyzzy") || !balanced(text[v.start:v.end]) {
			return
		}
		n := len(c.tokens(v))
		c.add("l", "xyzzy", front)
		if got := len(c.list("l")); got != n+1 {
			t.Fatalf("%d elements became %d in %q", n, got, c.text)
		}
		if !c.remove("l", "xyzzy") {
			t.Fatalf("cannot be found in %q", c.text)
		}
		if c.text != text {
			t.Fatalf("%q became %q", text, c.text)
		}
	})
}

// balanced leaves out what Postfix refuses to read itself.
func balanced(s string) bool {
	depth := 0
	for _, c := range s {
		switch c {
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth < 0 {
			return false
		}
	}
	return depth == 0
}

func TestServices(t *testing.T) {
	f := confFile{"#smtp inet n - y - - smtpd\nsmtp inet n - y - - smtpd\n  -o a=b,c\n# x\n\t-o d={ e f }\ntransient unix - - n - - smtp\n"}
	s, ok := f.service("smtp", "inet")
	if !ok || s.chroot != "y" || s.command != "smtpd" || strings.Join(s.args, "|") != "-o|a=b,c|-o|d={ e f }" {
		t.Errorf("got %+v", s)
	}
	if _, ok := f.service("transient", "inet"); ok {
		t.Error("the kind of a service counts, too")
	}
}

func TestUnified(t *testing.T) {
	s := func(s string) *string { return &s }
	cases := map[string]struct {
		before, after *string
		want          string
	}{
		"new file":     {nil, s("a\n"), "--- /dev/null\n+++ f\n@@ -0,0 +1 @@\n+a\n"},
		"gone":         {s("a\nb\n"), nil, "--- f\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n"},
		"no newline":   {s("a"), s("a\n"), "--- f\n+++ f\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"},
		"middle":       {s("1\n2\n3\n4\n5\n6\n7\n8\n9\n"), s("1\n2\n3\n4\nx\n6\n7\n8\n9\n"), "--- f\n+++ f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"},
		"two hunks":    {s("a\n1\n2\n3\n4\n5\n6\n7\nb\n"), s("A\n1\n2\n3\n4\n5\n6\n7\nB\n"), "--- f\n+++ f\n@@ -1,4 +1,4 @@\n-a\n+A\n 1\n 2\n 3\n@@ -6,4 +6,4 @@\n 5\n 6\n 7\n-b\n+B\n"},
		"near changes": {s("a\n1\n2\n3\nb\n"), s("A\n1\n2\n3\nB\n"), "--- f\n+++ f\n@@ -1,5 +1,5 @@\n-a\n+A\n 1\n 2\n 3\n-b\n+B\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := unified("f", c.before, c.after); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}
