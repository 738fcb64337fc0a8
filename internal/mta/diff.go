package mta

import (
	"fmt"
	"strings"
)

// context is how many unchanged lines a diff shows around a change.
const diffContext = 3

// maxDiffCells bounds the table that finds the longest common lines; beyond
// it the differing part is shown as replaced as a whole.
const maxDiffCells = 4 << 20

type diffLine struct {
	op   byte // ' ', '-', '+'
	text string
}

// unified is a unified diff of one file; nil is a file that is not there.
func unified(path string, before, after *string) string {
	from, to := path, path
	var a, b []string
	if before == nil {
		from = "/dev/null"
	} else {
		a = splitLines(*before)
	}
	if after == nil {
		to = "/dev/null"
	} else {
		b = splitLines(*after)
	}
	lines := compare(a, b)
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", from, to)
	for i := 0; i < len(lines); {
		if lines[i].op == ' ' {
			i++
			continue
		}
		// A hunk goes on while the next change is near.
		start, end := max(0, i-diffContext), i
		for j := i; j < len(lines) && j <= end+2*diffContext; j++ {
			if lines[j].op != ' ' {
				end = j
			}
		}
		stop := min(len(lines), end+1+diffContext)
		writeHunk(&out, lines, start, stop)
		i = stop
	}
	return out.String()
}

func writeHunk(out *strings.Builder, lines []diffLine, start, stop int) {
	count := func(ls []diffLine, op byte) (n int) {
		for _, l := range ls {
			if l.op == ' ' || l.op == op {
				n++
			}
		}
		return n
	}
	where := func(op byte) string {
		n := count(lines[start:stop], op)
		first := count(lines[:start], op)
		if n > 0 {
			first++
		}
		if n == 1 {
			return fmt.Sprint(first)
		}
		return fmt.Sprintf("%d,%d", first, n)
	}
	fmt.Fprintf(out, "@@ -%s +%s @@\n", where('-'), where('+'))
	for _, l := range lines[start:stop] {
		out.WriteByte(l.op)
		out.WriteString(l.text)
		if !strings.HasSuffix(l.text, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	lines := strings.SplitAfter(s, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// compare finds a shortest edit from a to b by the longest common
// subsequence of lines.
func compare(a, b []string) []diffLine {
	var out []diffLine
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		out = append(out, diffLine{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	var tail []string
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail = append(tail, a[len(a)-1])
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a)*len(b) > maxDiffCells {
		for _, l := range a {
			out = append(out, diffLine{'-', l})
		}
		for _, l := range b {
			out = append(out, diffLine{'+', l})
		}
	} else {
		out = append(out, middle(a, b)...)
	}
	for i := len(tail) - 1; i >= 0; i-- {
		out = append(out, diffLine{' ', tail[i]})
	}
	return out
}

func middle(a, b []string) []diffLine {
	width := len(b) + 1
	common := make([]int32, (len(a)+1)*width)
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			switch down, right := common[(i+1)*width+j], common[i*width+j+1]; {
			case a[i] == b[j]:
				common[i*width+j] = common[(i+1)*width+j+1] + 1
			default:
				common[i*width+j] = max(down, right)
			}
		}
	}
	var out []diffLine
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, diffLine{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[(i+1)*width+j] >= common[i*width+j+1]:
			out = append(out, diffLine{'-', a[i]})
			i++
		default:
			out = append(out, diffLine{'+', b[j]})
			j++
		}
	}
	return out
}
