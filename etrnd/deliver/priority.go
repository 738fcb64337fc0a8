package deliver

import (
	"bytes"

	"github.com/etrnd/etrnd/internal/priority"
)

// headerPriority reads what the header of a message, which may be cut short, says
// about its priority.
func headerPriority(head []byte) (p priority.Stated) {
	for len(head) > 0 {
		line, rest, _ := bytes.Cut(head, []byte("\n"))
		head = rest
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 {
			break
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok {
			p.Field(string(bytes.TrimRight(name, " \t")), string(value))
		}
	}
	return p
}
