package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with a configuration, or, among the warnings,
// one that is likely to surprise.
type Problem struct {
	File string
	Line int    // 0 when it is on no line of the file, such as a missing file
	Key  string // `queue "acme": domains`, `odmr: tls-cert`, or empty
	Msg  string
	Hint string // how to mend it; may be empty
}

// String is the problem on one line: file, line, key, what is wrong and how
// to mend it.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Msg)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return b.String()
}

// maxProblems bounds what one bad file can print. Past the first screen or
// two nobody reads on.
const maxProblems = 100

// Error is every problem of a configuration, in the order of its lines.
type Error struct {
	Problems []Problem
	Omitted  int // problems beyond the first hundred
}

// Error lists the problems, one a line, without a final newline.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	if e.Omitted > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", e.Omitted))
	}
	return strings.Join(lines, "\n")
}

// inOrder sorts problems by file, that of the name first before the others, and
// by line; those of one line stay in the order in which they were found.
func inOrder(first string, ps []Problem) []Problem {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.File != b.File && (a.File == first || b.File == first) {
			if a.File == first {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return ps
}

// position is where something stands. A default stands nowhere: its line is 0.
type position struct {
	file string
	line int
}

// from is the position in words, for a message about something in file.
func (p position) from(file string) string {
	switch {
	case p.line == 0:
		return "by default"
	case p.file != file:
		return fmt.Sprintf("on line %d of %s", p.line, p.file)
	}
	return fmt.Sprintf("on line %d", p.line)
}
