package receive

import (
	"slices"
	"strings"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/esmtp"
)

// keywords of EHLO that are passed on. What an MTA offers to loopback may go
// far: XCLIENT lets a client say where it comes from, XVERP changes senders.
var keywords = []string{
	"PIPELINING", "SIZE", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN",
	"ENHANCEDSTATUSCODES", "MT-PRIORITY", "LIMITS",
}

// greeting is what the provider hears first.
func (t *turn) greeting(b *backend) (string, error) {
	r := esmtp.Reply{Code: 220, Lines: []string{t.o.Hostname + " ESMTP"}}
	if t.o.Ahead {
		hello := "EHLO " + t.o.Hostname
		told, err := t.ask(b, hello)
		if err != nil {
			t.drop(b)
			return "", err
		}
		if told.Code == 250 {
			b.hello = hello
			t.offered = offered(told.Lines[1:])
			// In place of the MTA's name, which is the first line.
			told.Lines[0] = odmr.Ahead
			r.Lines = append(r.Lines, offer(told.Lines)...)
		}
	}
	return string(r.AppendTo(nil)), nil
}

// offered are the extensions among the lines behind the first, of those that are
// passed on.
func offered(lines []string) esmtp.Offers {
	return esmtp.ParseOffers(offer(append([]string{""}, lines...))[1:])
}

// offer is the MTA's reply to EHLO as the provider sees it.
func offer(lines []string) []string {
	name, _, _ := strings.Cut(lines[0], " ")
	kept := []string{name}
	for _, line := range lines[1:] {
		if keyword, _ := esmtp.CutKeyword(line); slices.Contains(keywords, keyword) {
			kept = append(kept, line)
		}
	}
	return kept
}
