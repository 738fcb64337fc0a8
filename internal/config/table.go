package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// maxString bounds every string of the file: the longest that makes sense is
// a path, and whatever is wrong with one ends up in a message.
const maxString = 1024

// table is one table of the file, on the way into the Config. Values are
// taken out of a map one by one rather than decoded into a struct, because
// decoding stops at the first wrong type, and takes keys that differ in case.
type table struct {
	r     *reader
	name  string // as in Key.Table
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

func (t *table) fail(key, hint, format string, args ...any) {
	t.failAt(t.line(key), key, hint, format, args...)
}

func (t *table) failAt(line int, key, hint, format string, args ...any) {
	t.r.errs = append(t.r.errs, t.problem(line, key, hint, format, args...))
}

func (t *table) warn(key, hint, format string, args ...any) {
	t.r.warnings = append(t.r.warnings, t.problem(t.line(key), key, hint, format, args...))
}

func (t *table) problem(line int, key, hint, format string, args ...any) Problem {
	return Problem{File: t.r.file, Line: line, Key: t.where(key), Msg: fmt.Sprintf(format, args...), Hint: hint}
}

// has reports whether the file gives the key.
func (t *table) has(key string) bool {
	_, ok := t.vals[key]
	return ok
}

// checkKeys objects to keys that the table does not know, and misses those
// that it needs.
func (t *table) checkKeys() {
	known := t.r.keys[t.name]
	for _, name := range slices.Sorted(maps.Keys(t.vals)) {
		if _, ok := known[name]; ok {
			continue
		}
		if t.name == "" && t.r.isTable(name) {
			continue
		}
		t.r.errs = append(t.r.errs, Problem{
			File: t.r.file, Line: t.line(name), Key: t.label,
			Msg: "unknown key " + quote(name), Hint: t.hintFor(name),
		})
	}
	for _, k := range t.r.inTable(t.name) {
		if k.Required && !t.has(k.Name) {
			t.r.errs = append(t.r.errs, Problem{
				File: t.r.file, Line: t.line(""), Key: t.label,
				Msg: k.Name + " is missing", Hint: requiredHint(k),
			})
		}
	}
}

func requiredHint(k Key) string {
	example := map[string]string{
		"queue name": `name = "acme"`, "queue domains": `domains = ["acme.example"]`, "queue deliver": `deliver = "smtp:[mail.acme.example]"`,
		"link name": `name = "isp"`, "remote name": `name = "hub"`, "remote link": `link = "isp", the name of a [[link]]`, "remote host": `host = "hub.example.net"`,
	}[k.Table+" "+k.Name]
	return "write " + example
}

// hintFor guesses what an unknown key was meant to be.
func (t *table) hintFor(name string) string {
	var here []string
	for n := range t.r.keys[t.name] {
		here = append(here, n)
	}
	if t.name == "" {
		here = append(here, t.r.tables()...)
	}
	if n := nearest(name, here); n != "" {
		if t.name == "" && t.r.isTable(n) {
			return "did you mean " + header(n) + "?"
		}
		return "did you mean " + quote(n) + "?"
	}
	if name == "password" || name == "secret" {
		return "secrets do not belong here, where both daemons can read them: write the password into a file and name that in password-file"
	}
	// A key of another table is most often one that stands below the wrong
	// header: TOML has no way back to the top.
	var elsewhere []string
	for _, tab := range append([]string{""}, t.r.tables()...) {
		if _, ok := t.r.keys[tab][name]; ok {
			elsewhere = append(elsewhere, home(tab))
		}
	}
	if len(elsewhere) > 0 {
		return "it belongs " + list(elsewhere, "or")
	}
	return "see etrnd.toml(5) for the keys there are"
}

// header is how a table is written.
func header(table string) string {
	if repeated(table) {
		return "[[" + table + "]]"
	}
	return "[" + table + "]"
}

// home is where the keys of a table stand.
func home(table string) string {
	if table == "" {
		return "at the top of the file, before the first table"
	}
	return "in " + header(table)
}

// raw returns the value of a key, or its default, or nil.
func (t *table) raw(key string) any {
	if v, ok := t.vals[key]; ok {
		return v
	}
	return t.r.defaults[t.name+" "+key]
}

// mistyped objects to a value of the wrong type.
func (t *table) mistyped(key string, want Type, v any) {
	msg, hint := "must be a "+string(want), ""
	switch want {
	case Boolean:
		msg = "must be true or false"
		switch strings.ToLower(fmt.Sprint(v)) {
		case "yes", "true", "on", "1":
			hint = "write true"
		case "no", "false", "off", "0":
			hint = "write false"
		}
	case Duration:
		msg = `must be a duration such as "30s", "5m" or "1h30m"`
		if n, ok := v.(int64); ok && n >= 0 {
			hint = fmt.Sprintf(`write "%ds" for seconds`, n)
		}
	case Number:
		if s, ok := v.(string); ok {
			if n, err := strconv.Atoi(s); err == nil {
				hint = fmt.Sprintf("write %d", n)
			}
		}
	case Strings:
		if s, ok := v.(string); ok {
			words := []string{s}
			if key == "dial" || key == "hang-up" {
				words = strings.Fields(s)
			}
			hint = "write " + tomlList(words)
		}
	case String:
		if l, ok := v.([]any); ok && len(l) == 1 {
			if s, ok := l[0].(string); ok {
				hint = "write " + quote(s)
			}
		}
	}
	t.fail(key, hint, "%s, not %s", msg, describe(v))
}

// describe names a value for a message.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return "the string " + quote(v)
	case bool:
		return strconv.FormatBool(v)
	case int64, float64:
		return fmt.Sprintf("the number %v", v)
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	}
	return "something else"
}

func tomlList(words []string) string {
	quoted := make([]string, 0, len(words))
	for _, w := range words {
		quoted = append(quoted, quote(w))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// str returns a string, or "" when there is none or a bad one.
func (t *table) str(key string) string {
	v := t.raw(key)
	if v == nil {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		t.mistyped(key, String, v)
		return ""
	}
	if !t.sound(t.line(key), key, s) {
		return ""
	}
	values := t.r.keys[t.name][key].values
	if values == nil || slices.Contains(values, s) {
		return s
	}
	hint := "write " + oneOf(values)
	if n := nearest(s, values); n != "" && len(values) > 1 {
		hint = "did you mean " + quote(n) + "? allowed: " + oneOf(values)
	}
	t.fail(key, hint, "%s is not allowed", quote(s))
	return ""
}

// sound objects to strings that no key can take.
func (t *table) sound(line int, key, s string) bool {
	if len(s) > maxString {
		t.failAt(line, key, fmt.Sprintf("write at most %d bytes", maxString), "%s is too long", quote(s))
		return false
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		t.failAt(line, key, "", "%s holds a control character", quote(s))
		return false
	}
	return true
}

// strs returns a list of strings without those that are bad in themselves.
func (t *table) strs(key string) []item {
	v := t.raw(key)
	if v == nil {
		return nil
	}
	l, ok := v.([]any)
	if !ok {
		t.mistyped(key, Strings, v)
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
			t.failAt(line, key, "", "must be a list of strings, but element %d is %s", i+1, describe(e))
		case s == "":
			t.failAt(line, key, "", "element %d is empty", i+1)
		case t.sound(line, key, s):
			items = append(items, item{s, line})
		}
	}
	return items
}

func (t *table) boolean(key string) bool {
	v := t.raw(key)
	b, ok := v.(bool)
	if !ok && v != nil {
		t.mistyped(key, Boolean, v)
	}
	return b
}

func (t *table) number(key string) int {
	v := t.raw(key)
	n, ok := v.(int64)
	if !ok {
		t.mistyped(key, Number, v)
		return 0
	}
	k := t.r.keys[t.name][key]
	if n < k.min || n > k.max {
		t.fail(key, "", "%d is out of range: allowed is %d to %d", n, k.min, k.max)
		return 0
	}
	return int(n)
}

func (t *table) duration(key string) time.Duration {
	v := t.raw(key)
	s, ok := v.(string)
	if !ok {
		t.mistyped(key, Duration, v)
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
		t.fail(key, hint, "%s is not a duration", quote(s))
		return 0
	}
	k := t.r.keys[t.name][key]
	switch {
	case d < 0:
		t.fail(key, "", "%s is negative", quote(s))
		return 0
	case int64(d) < k.min || int64(d) > k.max:
		t.fail(key, "", "%s is out of range: allowed is %s to %s", quote(s), short(k.min), short(k.max))
		return 0
	}
	return d
}

// short writes a duration without the units that are zero.
func short(n int64) string {
	s := time.Duration(n).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// oneOf lists words that are allowed.
func oneOf(words []string) string {
	quoted := make([]string, 0, len(words))
	for _, w := range words {
		quoted = append(quoted, quote(w))
	}
	return list(quoted, "or")
}

func list(words []string, last string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " " + last + " " + words[n-1]
	}
	return strings.Join(words, "")
}

// nearest finds the word that was probably meant: at most two slips away, and
// fewer than half of its letters.
func nearest(word string, words []string) string {
	if len(word) > 64 {
		return ""
	}
	norm := strings.ReplaceAll(strings.ToLower(word), "_", "-")
	best, most := "", 3
	for _, w := range slices.Sorted(slices.Values(words)) {
		if d := distance(norm, strings.ToLower(w)); d < most && 2*d < len(w) {
			best, most = w, d
		}
	}
	return best
}

// distance counts the letters to insert, drop or replace, and neighbours to
// swap, that lead from a to b.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// decode parses TOML into a map. A bug of the library on odd input is a
// problem of the file like any other: a reload must not end the daemon.
func decode(data []byte) (vals map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the TOML library gave up on it: %s", quote(fmt.Sprint(p)))
		}
	}()
	_, err = toml.Decode(string(data), &vals)
	return vals, err
}
