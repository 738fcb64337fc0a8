package deliver

import (
	"bytes"
	"strconv"
	"strings"
)

// headerPriority looks for what senders and mail programs say about the
// priority, in a range of -9 to 9 (RFC 6710). The registered headers go before
// those that programs made up, as in the milter's report.
func headerPriority(head []byte) (value int, stated bool) {
	rank := 0
	for len(head) > 0 {
		line, rest, _ := bytes.Cut(head, []byte("\n"))
		head = rest
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 {
			break
		}
		name, text, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) > len("X-MSMail-Priority") {
			continue
		}
		word := firstWord(string(text))
		state := func(r, v int, ok bool) {
			if ok && r > rank {
				rank, value = r, v
			}
		}
		switch strings.ToLower(string(bytes.TrimRight(name, " \t"))) {
		case "mt-priority":
			n, err := strconv.Atoi(word)
			state(5, n, err == nil && n >= -9 && n <= 9)
		case "importance":
			v, ok := priorityWord(word)
			state(4, v, ok)
		case "priority":
			v, ok := priorityWord(word)
			state(3, v, ok)
		case "x-priority":
			n, err := strconv.Atoi(word)
			state(2, (3-n)*2, err == nil && n >= 1 && n <= 5)
		case "x-msmail-priority":
			v, ok := priorityWord(word)
			state(1, v, ok)
		}
	}
	return value, rank == 5
}

func firstWord(s string) string {
	f := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '(' || r == ';' })
	if len(f) == 0 {
		return ""
	}
	return strings.ToLower(f[0])
}

func priorityWord(w string) (int, bool) {
	switch w {
	case "high", "urgent", "highest":
		return 4, true
	case "normal", "medium":
		return 0, true
	case "low", "non-urgent", "lowest":
		return -4, true
	}
	return 0, false
}
