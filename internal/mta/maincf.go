package mta

import (
	"slices"
	"strings"
)

// A confFile is the text of main.cf or master.cf, edited in place. postconf -e
// could do that, but it joins values that span lines and moves the comments
// that stand in them; what a postmaster has laid out is to stay as it is, and
// an undo is to give back every byte. What is written is read back with
// postconf before it is used.
type confFile struct{ text string }

// span is text[start:end].
type span struct{ start, end int }

// logicalLines finds the logical lines: one begins with a line that starts
// with neither white space nor "#", and goes on over the lines that start with
// white space. Comments and empty lines may stand between (postconf(5)); those
// behind the last continuation are not part of it.
func (f *confFile) logicalLines() []span {
	var lines []span
	for at := 0; at < len(f.text); {
		end := len(f.text)
		if i := strings.IndexByte(f.text[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		line := f.text[at:end]
		switch trimmed := strings.TrimLeft(line, " \t\r\n"); {
		case trimmed == "" || trimmed[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if len(lines) > 0 {
				lines[len(lines)-1].end = end
			}
		default:
			lines = append(lines, span{at, end})
		}
		at = end
	}
	return lines
}

// param finds a setting of main.cf: its logical line, and its value from
// behind the "=" to the end of that line. Of several the last one counts, as
// it does for Postfix.
func (f *confFile) param(name string) (line, value span, ok bool) {
	for _, l := range f.logicalLines() {
		key, _, found := strings.Cut(f.text[l.start:l.end], "=")
		if found && strings.TrimSpace(key) == name {
			line, value, ok = l, span{l.start + len(key) + 1, l.end}, true
		}
	}
	return line, value, ok
}

// tokens are the elements of a list: separated by white space or commas, with
// what stands in braces kept together. Comment lines are passed over.
func (f *confFile) tokens(v span) []span {
	var list []span
	at := v.start
	newline := false // the value itself begins in the middle of a line
	for at < v.end {
		c := f.text[at]
		switch {
		case c == '\n':
			newline = true
			at++
		case c == ' ' || c == '\t' || c == '\r' || c == ',':
			at++
		case c == '#' && newline:
			for at < v.end && f.text[at] != '\n' {
				at++
			}
		default:
			newline = false
			start, depth := at, 0
			for ; at < v.end; at++ {
				c := f.text[at]
				if c == '{' {
					depth++
				} else if c == '}' && depth > 0 {
					depth--
				} else if depth == 0 && strings.IndexByte(" \t\r\n,", c) >= 0 {
					break
				}
			}
			// An unclosed brace must not swallow the end of the line.
			end := start + len(strings.TrimRight(f.text[start:at], " \t\r\n"))
			list = append(list, span{start, end})
		}
	}
	return list
}

// fold brings an element to the form in which elements are compared.
func fold(s string) string { return strings.Join(strings.Fields(s), " ") }

// words splits an element into its tokens: "check_policy_service unix:x" has
// two.
func words(element string) []string {
	f := confFile{element}
	var w []string
	for _, t := range f.tokens(span{0, len(element)}) {
		w = append(w, fold(element[t.start:t.end]))
	}
	return w
}

// find returns the position of an element among tokens, or -1.
func (f *confFile) find(tokens []span, element string) (first, n int) {
	want := words(element)
	if len(want) == 0 {
		return -1, 0
	}
	for i := 0; i+len(want) <= len(tokens); i++ {
		if slices.EqualFunc(tokens[i:i+len(want)], want, func(t span, w string) bool { return fold(f.text[t.start:t.end]) == w }) {
			return i, len(want)
		}
	}
	return -1, 0
}

// list returns the elements of a setting, one token each.
func (f *confFile) list(name string) []string {
	_, v, ok := f.param(name)
	if !ok {
		return nil
	}
	var l []string
	for _, t := range f.tokens(v) {
		l = append(l, fold(f.text[t.start:t.end]))
	}
	return l
}

// value returns a setting with its lines joined.
func (f *confFile) value(name string) (string, bool) {
	_, v, ok := f.param(name)
	if !ok {
		return "", false
	}
	var parts []string
	for i, l := range strings.Split(f.text[v.start:v.end], "\n") {
		if l = strings.TrimSpace(l); l != "" && (i == 0 || l[0] != '#') {
			parts = append(parts, l)
		}
	}
	return strings.Join(parts, " "), true
}

// set gives a setting one value, in its place or at the end of the file.
func (f *confFile) set(name, value string) {
	line, _, ok := f.param(name)
	text := name + " = " + value + "\n"
	if value == "" {
		text = name + " =\n"
	}
	if ok {
		f.text = f.text[:line.start] + text + f.text[line.end:]
		return
	}
	f.append(text)
}

// append puts a line at the end of the file.
func (f *confFile) append(text string) {
	if f.text != "" && !strings.HasSuffix(f.text, "\n") {
		f.text += "\n"
	}
	f.text += text
}

// unset takes a setting out of the file.
func (f *confFile) unset(name string) {
	if line, _, ok := f.param(name); ok {
		f.text = f.text[:line.start] + f.text[line.end:]
	}
}

// add puts an element into a list that the file has, in front or at the end,
// laid out as its neighbours are.
func (f *confFile) add(name, element string, front bool) {
	_, v, ok := f.param(name)
	if !ok {
		f.set(name, element)
		return
	}
	tokens := f.tokens(v)
	if len(tokens) == 0 {
		f.set(name, element)
		return
	}
	sep := ", "
	between := ""
	for i := 1; i < len(tokens); i++ {
		between += f.text[tokens[i-1].end:tokens[i].start]
	}
	if len(tokens) > 1 && !strings.Contains(between, ",") {
		sep = " "
	}
	edge := tokens[len(tokens)-1]
	if front {
		edge = tokens[0]
	}
	// A neighbour that stands on a continuation line of its own is given
	// another such line.
	start := strings.LastIndexByte(f.text[:edge.start], '\n') + 1
	if indent := f.text[start:edge.start]; start > v.start && strings.Trim(indent, " \t") == "" {
		sep = strings.TrimSuffix(sep, " ") + "\n" + indent
	}
	if front {
		f.text = f.text[:edge.start] + element + sep + f.text[edge.start:]
		return
	}
	f.text = f.text[:edge.end] + sep + element + f.text[edge.end:]
}

// remove takes an element out of a list and reports whether it was there. It
// is the inverse of add.
func (f *confFile) remove(name, element string) bool {
	_, v, ok := f.param(name)
	if !ok {
		return false
	}
	tokens := f.tokens(v)
	i, n := f.find(tokens, element)
	if i < 0 {
		return false
	}
	cut := span{tokens[i].start, tokens[i+n-1].end}
	switch last := i+n == len(tokens); {
	case i > 0 && !f.comment(tokens[i-1].end, cut.start):
		cut.start = tokens[i-1].end
	case !last && !f.comment(cut.end, tokens[i+n].start):
		cut.end = tokens[i+n].start
	}
	f.text = f.text[:cut.start] + f.text[cut.end:]
	return true
}

// comment reports whether a comment stands in text[from:to], between tokens.
func (f *confFile) comment(from, to int) bool { return strings.Contains(f.text[from:to], "#") }

// A service is an entry of master.cf.
type service struct {
	line    span
	name    string // first column
	kind    string // inet, unix, pass ...
	chroot  string // y, n or -
	command string
	args    []string
}

// services are the entries of master.cf.
func (f *confFile) services() []service {
	var list []service
	for _, l := range f.logicalLines() {
		var w []string
		for _, t := range f.tokensPlain(l) {
			w = append(w, f.text[t.start:t.end])
		}
		if len(w) < 8 {
			continue
		}
		list = append(list, service{line: l, name: w[0], kind: w[1], chroot: w[4], command: w[7], args: w[8:]})
	}
	return list
}

// tokensPlain are tokens of master.cf, where a comma is no separator.
func (f *confFile) tokensPlain(v span) []span {
	masked := confFile{strings.ReplaceAll(f.text, ",", "\x01")}
	return masked.tokens(v)
}

// service finds an entry of master.cf.
func (f *confFile) service(name, kind string) (service, bool) {
	for _, s := range f.services() {
		if s.name == name && s.kind == kind {
			return s, true
		}
	}
	return service{}, false
}
