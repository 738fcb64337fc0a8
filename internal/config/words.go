package config

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
)

// maxShown is how much is shown of a message of another package, in bytes: it
// may quote what we read.
const maxShown = 300

func clip(s string) string { return foreign.Escape(s, maxShown) }

// reason is an error of the operating system without the name of the call.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return foreign.Quote(pe.Path) + ": " + clip(pe.Err.Error())
	}
	return clip(err.Error())
}

// describe names a value for a message.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return "the string " + foreign.Quote(v)
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
	return "[" + strings.Join(quoted(words), ", ") + "]"
}

func quoted(words []string) []string {
	qs := make([]string, 0, len(words))
	for _, w := range words {
		qs = append(qs, foreign.Quote(w))
	}
	return qs
}

// enumerate lists words: a, b or c.
func enumerate(words []string, last string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " " + last + " " + words[n-1]
	}
	return strings.Join(words, "")
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
