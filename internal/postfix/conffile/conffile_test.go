package conffile

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
			f := File{c.in}
			f.Add(c.name, c.element, c.front)
			if f.Text != c.want {
				t.Fatalf("add:\n%s\nwant:\n%s", f.Text, c.want)
			}
			if !f.Remove(c.name, c.element) {
				t.Fatal("remove: not found")
			}
			if f.Text != c.in {
				t.Errorf("remove:\n%s\nwant what it was:\n%s", f.Text, c.in)
			}
		})
	}
}

func TestAddBefore(t *testing.T) {
	cases := map[string]struct {
		in   string
		i    int
		want string
	}{
		"commas":       {"l = a, b, c\n", 2, "l = a, b, check x:y, c\n"},
		"spaces":       {"l = a b\n", 1, "l = a check x:y b\n"},
		"lines":        {"l =\n    a,\n    b\n", 1, "l =\n    a,\n    check x:y,\n    b\n"},
		"comment":      {"l = a,\n# why b\n  b\n", 1, "l = a, check x:y,\n# why b\n  b\n"},
		"in front":     {"l = a, b\n", 0, "l = check x:y, a, b\n"},
		"at the end":   {"l = a, b\n", 2, "l = a, b, check x:y\n"},
		"not in there": {"m = a\n", 1, "m = a\nl = check x:y\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := File{c.in}
			f.AddBefore("l", "check x:y", c.i)
			if f.Text != c.want {
				t.Fatalf("got\n%s\nwant\n%s", f.Text, c.want)
			}
			if !f.Remove("l", "check x:y") || c.in[0] == 'l' && f.Text != c.in {
				t.Errorf("remove: got\n%s\nwant what it was:\n%s", f.Text, c.in)
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
			f := File{c.in}
			f.Remove("l", "x")
			if f.Text != c.want {
				t.Errorf("got\n%q, want\n%q", f.Text, c.want)
			}
		})
	}
}

// Many at once are taken as one after the other would be.
func TestRemoveAll(t *testing.T) {
	for _, text := range []string{
		"l = a, x, b, y, z, c\n", "l = x y z\n", "l =\n    x,\n    a,\n# why y\n    y,\n    z\nm = 1\n", "l = a\n# about x\n  x\n  y\n",
		"l = x,\n# about y\n  y,\n  b z", "l = a b\n", "m = x\n", "l = x, x, y, { y, z }, z\n", "l = permit_x, check y:z, x, reject\n",
	} {
		elements := []string{"x", "y", "z", "check y:z"}
		one := File{text}
		for _, e := range []string{"check y:z", "x", "y", "z"} {
			one.Remove("l", e)
		}
		all := File{text}
		all.RemoveAll("l", elements)
		if all.Text != one.Text {
			t.Errorf("%q became\n%q, want\n%q", text, all.Text, one.Text)
		}
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
		c := File{text}
		_, v, ok := c.param("l")
		if !ok || len(c.tokens(v)) == 0 || strings.Contains(text, "xyzzy") || !balanced(text[v.start:v.end]) {
			return // not a list that this is about
		}
		n := len(c.tokens(v))
		c.Add("l", "xyzzy", front)
		if got := len(c.List("l")); got != n+1 {
			t.Fatalf("%d elements became %d in %q", n, got, c.Text)
		}
		if !c.Remove("l", "xyzzy") {
			t.Fatalf("cannot be found in %q", c.Text)
		}
		if c.Text != text {
			t.Fatalf("%q became %q", text, c.Text)
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
	f := File{"#smtp inet n - y - - smtpd\nsmtp inet n - y - - smtpd\n  -o a=b,c\n# x\n\t-o d={ e f }\ntransient unix - - n - - smtp\n"}
	s, ok := f.Service("smtp", "inet")
	if !ok || s.Chroot != "y" || s.Command != "smtpd" || strings.Join(s.Args, "|") != "-o|a=b,c|-o|d={ e f }" {
		t.Errorf("got %+v", s)
	}
	if _, ok := f.Service("transient", "inet"); ok {
		t.Error("the type of a service counts, too")
	}
}
