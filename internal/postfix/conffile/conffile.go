// Package conffile reads and edits main.cf and master.cf in place: what a
// postmaster has laid out stays as it is, and what is put in can be taken out
// again to the last byte. postconf -e would join values that span lines and
// move the comments that stand in them.
//
// It knows the syntax (postconf(5), master(5)) and no setting by name. It
// opens no file, and does not expand what a value refers to: that is
// postconf's to do.
package conffile

import (
	"slices"
	"strings"
)

// A File is the text of main.cf or master.cf.
type File struct{ Text string }

// span is text[start:end].
type span struct{ start, end int }

// logicalLines finds the logical lines: one begins with a line that starts
// with neither white space nor "#", and goes on over the lines that start with
// white space. Comments and empty lines may stand between (postconf(5)); those
// behind the last continuation are not part of it.
func (f *File) logicalLines() []span {
	var lines []span
	for at := 0; at < len(f.Text); {
		end := len(f.Text)
		if i := strings.IndexByte(f.Text[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		line := f.Text[at:end]
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

// tokens are the elements of a list: separated by white space or commas, with
// what stands in braces kept together. Comment lines are passed over.
func (f *File) tokens(v span) []span {
	var list []span
	at := v.start
	newline := false // the value itself begins in the middle of a line
	for at < v.end {
		c := f.Text[at]
		switch {
		case c == '\n':
			newline = true
			at++
		case c == ' ' || c == '\t' || c == '\r' || c == ',':
			at++
		case c == '#' && newline:
			for at < v.end && f.Text[at] != '\n' {
				at++
			}
		default:
			newline = false
			start, depth := at, 0
			for ; at < v.end; at++ {
				c := f.Text[at]
				if c == '{' {
					depth++
				} else if c == '}' && depth > 0 {
					depth--
				} else if depth == 0 && strings.IndexByte(" \t\r\n,", c) >= 0 {
					break
				}
			}
			// An unclosed brace must not swallow the end of the line.
			end := start + len(strings.TrimRight(f.Text[start:at], " \t\r\n"))
			list = append(list, span{start, end})
		}
	}
	return list
}

// Fold brings an element, or an entry, to the form in which such are compared:
// each run of white space is one space.
func Fold(s string) string { return strings.Join(strings.Fields(s), " ") }

// Words splits a value into its elements. An element may be more than one of
// them: "check_policy_service unix:x" has two.
func Words(value string) []string {
	f := File{value}
	var w []string
	for _, t := range f.tokens(span{0, len(value)}) {
		w = append(w, Fold(value[t.start:t.end]))
	}
	return w
}

// Index is the position of an element in a list of words, or -1.
func Index(words []string, element string) int {
	want := Words(element)
	if len(want) == 0 {
		return -1
	}
	for i := 0; i+len(want) <= len(words); i++ {
		if slices.Equal(words[i:i+len(want)], want) {
			return i
		}
	}
	return -1
}
