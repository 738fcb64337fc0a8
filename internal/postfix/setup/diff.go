package setup

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// Diff is a unified diff of every file that would change, for people and for
// patch(1).
func (pl *Plan) Diff() string {
	var b strings.Builder
	for _, c := range pl.shown() {
		b.WriteString(c.unified())
	}
	return b.String()
}

// maxShown bounds the lines of a table's difference that are shown: it grows
// with the customers, and what is wrong with a large one shows in its beginning
// and in its size.
const maxShown = 60

// unified is the difference of one file. That of a table may be cut, and says
// so; a file that is as it was and has to be made anew has none.
func (c change) unified() string {
	if c.secret {
		return fmt.Sprintf("# %s: logins of what is pushed, which are not shown\n", c.path)
	}
	text := c.difference()
	if c.kind == "" && c.was == "" {
		return text
	}
	switch {
	case text == "" && c.after == nil:
		return fmt.Sprintf("# %s: its index goes\n", c.path)
	case text == "":
		return fmt.Sprintf("# %s: its index is made anew\n", c.path)
	}
	at, lines := 0, 0
	for ; lines < maxShown && at < len(text); lines++ {
		at += strings.IndexByte(text[at:], '\n') + 1
	}
	rest := text[at:]
	if n := strings.Count(rest, "\n"); n > 1 {
		added, gone := strings.Count("\n"+rest, "\n+"), strings.Count("\n"+rest, "\n-")
		return text[:at] + fmt.Sprintf("# %s: %d more lines of difference, %d of them added and %d taken out\n", c.path, n, added, gone)
	}
	return text
}

func (c change) difference() string {
	from, to := c.path, c.path
	var before, after []byte
	if c.before == nil {
		from = "/dev/null"
	} else {
		before = []byte(*c.before)
	}
	if c.after == nil {
		to = "/dev/null"
	} else {
		after = []byte(*c.after)
	}
	// The first line is "diff FROM TO", which says nothing that the next two
	// do not say.
	_, text, _ := bytes.Cut(diff.Diff(from, before, to, after), []byte("\n"))
	return string(text)
}
