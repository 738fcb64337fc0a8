package config

import (
	"errors"
	"strings"
	"testing"
)

// Whatever is wrong with the syntax, the line is named that has to be mended, not
// the one on which the library noticed.
func TestLineOfSyntax(t *testing.T) {
	const before = "hostname = \"a.example\"\n[mta]\n" // two lines
	for text, line := range map[string]int{
		// Strings.
		"type = \"postfix\nconfig-dir = \"/x\"\n":       3,
		"type = 'postfix\nx = 1\n":                      3,
		"type = \"unfinished":                           3,
		"type = \"\"\"x\ny\nz\n":                        3,
		"a = \"\"\"x\"\"\"\ntype = '''x\ny\nz\n":        4,
		"\"type = 1\ny = 1\n":                           3,
		"domains = [\"a\",\n\"b\n]\n":                   4,
		"type = \"a\\q\"\nx = 1\n":                      3,
		"type = \"\\u12\"\nx = 1\n":                     3,
		"type = \"a\x01\"\nx = 1\n":                     3,
		"type = \xff\nx = 1\n":                          3,
		"type = \"a\"\nx = \"\"\"\"\"\"\"\"\"\ny = 1\n": 4,
		// Headers of tables.
		"[milter\nlisten = \"x\"\n": 3,
		"[milter # x\nlisten = 1\n": 3,
		"[[queue]\nname = \"x\"\n":  3,
		"[[queue\nname = 1\n":       3,
		"[]\nx = 1\n":               3,
		"[a.]\nx = 1\n":             3,
		"[a.\nx = 1\n":              3,
		"[milter":                   3,
		"[milter] x\ny = 1\n":       3,
		// Arrays and tables in a line.
		"domains = [\"a\", \"b\"\nx = 1\n":              3,
		"domains = [\"a\", \"b\" # c\n\n# d\n[queue]\n": 3,
		"domains = [\n\"a\"\n\"b\"\n]\n":                4,
		"domains = [\n\"a\", # a\n\"b\"\n\n[queue]\n":   5,
		"domains = [\"a\" \"b\"]\nx = 1\n":              3,
		"domains = [\"a\",, \"b\"]\nx = 1\n":            3,
		"domains = [\n\"a\",\n,\n\"b\"]\nx = 1\n":       5,
		"domains = [1, 2":                               3,
		"x = {a = 1,\n\n b = 2\ny = 1\n":                5,
		"type = \"a\"\n  ]\nx = 1\n":                    4,
		// Keys and values.
		"type =\nx = 1\n":            3,
		"type\nx = 1\n":              3,
		"type":                       3,
		"type = ":                    3,
		"type = postfix\nx = 1\n":    3,
		"type = \"a\" \"b\"\nx = 1":  3,
		"type = 1 2\nx = 1\n":        3,
		"= 1\nx = 1\n":               3,
		".a = 1\nx = 1\n":            3,
		"key with space = 1\nx = 1":  3,
		"type : 1\nx = 1\n":          3,
		"x = tru\ny = 1\n":           3,
		"x = +\ny = 1\n":             3,
		"x = .5\ny = 1\n":            3,
		"x = 1.\ny = 1\n":            3,
		"x = 01\ny = 1\n":            3,
		"x = 0xG\ny = 1\n":           3,
		"x = 2020-13-01\ny = 1\n":    3,
		"a = 1\na.b = 2\ny = 1\n":    4,
		"a = 1\n\na = 2\ny = 1\n":    5,
		"a = 1\n[mta]\ntype = 1\n":   4,
		"a = 1\n[[mta]]\ntype = 1\n": 4,
	} {
		for name, text := range map[string]string{"": before + text, "CRLF": strings.ReplaceAll(before+text, "\n", "\r\n"), "BOM": "\ufeff" + before + text} {
			_, err := Parse("f", []byte(text))
			var e *Error
			if !errors.As(err, &e) || len(e.Problems) != 1 || e.Problems[0].Line != line || !strings.HasPrefix(e.Problems[0].Msg, "not valid TOML") {
				t.Errorf("%s %q: %v, want line %d", name, text, err, line)
			}
			if err != nil && (strings.Contains(err.Error(), `'\n'`) || strings.Contains(err.Error(), `\x00`)) {
				t.Errorf("%s %q: %v", name, text, err)
			}
		}
	}
}
