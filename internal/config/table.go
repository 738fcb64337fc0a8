package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
)

// maxString bounds every string of the file: the longest that makes sense is
// a path, and whatever is wrong with one ends up in a message.
const maxString = 1024

// table is one table of the file, on the way into the Config. Values are
// taken out of a map one by one rather than decoded into a struct, because
// decoding stops at the first wrong type, and takes keys that differ in case.
type table struct {
	r     *reader
	file  string
	name  string // as in key.table
	label string // what messages begin with: `queue "acme"`, "odmr"
	vals  map[string]any
	at    *place
}

// item is one string of a list, with its line.
type item struct {
	s    string
	line int
}

// where is the message prefix of a key of this table.
func (t *table) where(key string) string {
	switch {
	case t.label == "":
		return key
	case key == "":
		return t.label
	}
	return t.label + ": " + key
}

// line is the line of a key, or of the table when the key is not there.
func (t *table) line(key string) int {
	if k := t.at.kid(key); k != nil {
		return k.line
	}
	if t.at == nil {
		return 0
	}
	return t.at.line
}

func (t *table) pos(key string) position { return position{t.file, t.line(key)} }

func (t *table) fail(key, hint, format string, args ...any) {
	t.failAt(t.line(key), key, hint, format, args...)
}

func (t *table) failAt(line int, key, hint, format string, args ...any) {
	t.r.errs = append(t.r.errs, t.problem(line, key, hint, format, args...))
}

func (t *table) warn(key, hint, format string, args ...any) {
	t.warnAt(t.line(key), key, hint, format, args...)
}

func (t *table) warnAt(line int, key, hint, format string, args ...any) {
	t.r.warnings = append(t.r.warnings, t.problem(line, key, hint, format, args...))
}

func (t *table) problem(line int, key, hint, format string, args ...any) Problem {
	return Problem{File: t.file, Line: line, Key: t.where(key), Msg: fmt.Sprintf(format, args...), Hint: hint}
}

// has reports whether the file gives the key.
func (t *table) has(key string) bool {
	_, ok := t.vals[key]
	return ok
}

// checkKeys objects to keys that the table does not know, and misses those
// that it needs.
func (t *table) checkKeys() {
	known := tables[t.name]
	for _, name := range slices.Sorted(maps.Keys(t.vals)) {
		if known.byName[name] == nil && (t.name != "" || !isTable(name)) {
			t.r.errs = append(t.r.errs, Problem{
				File: t.file, Line: t.line(name), Key: t.label,
				Msg: "unknown key " + foreign.Quote(name), Hint: t.hintFor(name),
			})
		}
	}
	for _, k := range known.keys {
		if k.required != "" && !t.has(k.name) {
			t.fail("", "write "+k.required, "%s is missing", k.name)
		}
	}
}

// hintFor guesses what an unknown key was meant to be.
func (t *table) hintFor(name string) string {
	here := slices.Collect(maps.Keys(tables[t.name].byName))
	if t.name == "" {
		here = append(here, tableNames...)
	}
	if n := nearest(name, here); n != "" {
		if t.name == "" && isTable(n) {
			return "did you mean " + header(n) + "?"
		}
		return "did you mean " + foreign.Quote(n) + "?"
	}
	if name == "password" || name == "secret" {
		return "both daemons can read this file, so secrets do not belong in it: put the password in a file of its own, and name that in password-file"
	}
	// A key of another table is most often one that stands below the wrong
	// header: TOML has no way back to the top.
	var elsewhere []string
	for _, other := range append([]string{""}, tableNames...) {
		if tables[other].byName[name] != nil {
			elsewhere = append(elsewhere, home(other))
		}
	}
	if len(elsewhere) > 0 {
		return "this key belongs " + enumerate(elsewhere, "or")
	}
	return "see etrnd.toml(5) for the keys there are"
}

// value returns the value of a key, or its default, or nil.
func (t *table) value(key string) any {
	if v, ok := t.vals[key]; ok {
		return v
	}
	return tables[t.name].defaults[key]
}

// mistyped objects to a value of the wrong type.
func (t *table) mistyped(key string, want kind, v any) {
	expected, hint := "a "+string(want), ""
	switch want {
	case boolean:
		expected = "true or false"
		switch strings.ToLower(fmt.Sprint(v)) {
		case "yes", "true", "on", "1":
			hint = "write true"
		case "no", "false", "off", "0":
			hint = "write false"
		}
	case duration:
		expected = `a duration such as "30s", "5m" or "1h30m"`
		if n, ok := v.(int64); ok && n >= 0 {
			hint = fmt.Sprintf(`write "%ds" for seconds`, n)
		}
	case number:
		if s, ok := v.(string); ok {
			if n, err := strconv.Atoi(s); err == nil {
				hint = fmt.Sprintf("write %d", n)
			}
		}
	case list:
		if s, ok := v.(string); ok {
			words := []string{s}
			if key == "dial" || key == "hang-up" {
				words = strings.Fields(s)
			}
			hint = "write " + tomlList(words)
		}
	case str:
		if l, ok := v.([]any); ok && len(l) == 1 {
			if s, ok := l[0].(string); ok {
				hint = "write " + foreign.Quote(s)
			}
		}
	}
	t.fail(key, hint, "expected %s, got %s", expected, describe(v))
}

// text returns a string, and whether it is one to look at further: not when it
// has been objected to, nor when the file does not give it and there is no
// default.
func (t *table) text(key string) (s string, ok bool) {
	v := t.value(key)
	if v == nil {
		return "", false
	}
	if s, ok = v.(string); !ok {
		t.mistyped(key, str, v)
		return "", false
	}
	if !t.sound(t.line(key), key, s) {
		return "", false
	}
	values := tables[t.name].byName[key].values
	if values == nil || slices.Contains(values, s) {
		return s, true
	}
	hint := ""
	n := nearest(s, values)
	// What is cut short is meant, if only one word begins so: "warn".
	if begins := slices.DeleteFunc(slices.Clone(values), func(w string) bool { return !strings.HasPrefix(w, strings.ToLower(s)) }); len(begins) == 1 && len(s) >= 3 {
		n = begins[0]
	}
	if n != "" && len(values) > 1 {
		hint = "did you mean " + foreign.Quote(n) + "?"
	}
	t.fail(key, hint, "expected %s, got %s", enumerate(quoted(values), "or"), foreign.Quote(s))
	return "", false
}

// str is text for a key that needs no further look.
func (t *table) str(key string) string {
	s, _ := t.text(key)
	return s
}

// sound objects to strings that no key can take.
func (t *table) sound(line int, key, s string) bool {
	if len(s) > maxString {
		t.failAt(line, key, fmt.Sprintf("write at most %d bytes", maxString), "%s is too long", foreign.Quote(s))
		return false
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		t.failAt(line, key, "", "%s contains a control character", foreign.Quote(s))
		return false
	}
	return true
}

// strs returns a list of strings without those that are bad in themselves.
func (t *table) strs(key string) []item {
	v := t.value(key)
	if v == nil {
		return nil
	}
	l, ok := v.([]any)
	if !ok {
		t.mistyped(key, list, v)
		return nil
	}
	items := make([]item, 0, len(l))
	at := t.at.kid(key)
	for i, e := range l {
		line := t.line(key)
		if p := at.item(i); p != nil {
			line = p.line
		}
		s, ok := e.(string)
		switch {
		case !ok:
			t.failAt(line, key, "", "expected a list of strings, but element %d is %s", i+1, describe(e))
		case s == "":
			t.failAt(line, key, "", "element %d is empty", i+1)
		case t.sound(line, key, s):
			items = append(items, item{s, line})
		}
	}
	return items
}

// notEmpty objects to a list that is there and has nothing in it.
func (t *table) notEmpty(key, hint string) bool {
	if l, ok := t.vals[key].([]any); ok && len(l) == 0 {
		t.fail(key, hint, "is empty")
		return false
	}
	return true
}

func (t *table) boolean(key string) bool {
	v := t.value(key)
	b, ok := v.(bool)
	if !ok && v != nil {
		t.mistyped(key, boolean, v)
	}
	return b
}

func (t *table) number(key string) int {
	v := t.value(key)
	n, ok := v.(int64)
	if !ok {
		t.mistyped(key, number, v)
		return 0
	}
	k := tables[t.name].byName[key]
	if n < k.min || n > k.max {
		t.fail(key, "", "expected %d to %d, got %d", k.min, k.max, n)
		return 0
	}
	return int(n)
}

func (t *table) duration(key string) time.Duration {
	v := t.value(key)
	s, ok := v.(string)
	if !ok {
		t.mistyped(key, duration, v)
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		hint := `write a number with its unit, "ms", "s", "m" or "h": "30s", "1h30m"`
		if n, bad := strings.CutSuffix(s, "d"); bad {
			if days, err := strconv.Atoi(n); err == nil && days >= 0 && days < 1000 {
				hint = fmt.Sprintf("write %q", strconv.Itoa(days*24)+"h")
			}
		}
		t.fail(key, hint, "expected a duration, got %s", foreign.Quote(s))
		return 0
	}
	k := tables[t.name].byName[key]
	if int64(d) < k.min || int64(d) > k.max {
		t.fail(key, "", "expected %s to %s, got %s", short(k.min), short(k.max), foreign.Quote(s))
		return 0
	}
	return d
}
