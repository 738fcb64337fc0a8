package odmr

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
)

// Reply to the ETRN of one name.
type Reply struct {
	Name  string `json:"name"`
	Code  int    `json:"code"`
	Text  string `json:"text"`
	Count int    `json:"count"` // messages on their way: n with 253, 0 with 251, -1 when not told
}

// OK tells whether the remote releases, or has nothing to release (251).
func (r Reply) OK() bool { return r.Code >= 250 && r.Code <= 253 }

// maxBatch bounds what is sent before the replies are read, so that it fits in
// the buffers of the network and nobody waits for the other to read.
const maxBatch = 50

// Request asks for every name, in one round trip when the remote can. It returns
// the replies there were, also together with an error. A refusal that concerns
// one name (458, 459, 501, 55x) is a Reply and no error; after 421 nothing more
// is asked, and 500 or 502 to the first name is ErrNoETRN.
//
// A remote that does not list ETRN is asked all the same: after HELO there is no
// list, filters in front of servers cut keywords from it, and the answer to one
// command settles the matter. The first name is then asked alone, so that a
// remote without ETRN sees one unknown command and not many.
//
// RFC 2920, section 3.1, leaves it to an extension whether its command may be
// followed by others in a group, and RFC 1985 says nothing. So only a hub of ours
// is asked for all at once. An Exim without TLS hangs up on it, a Postfix since 3.9
// may, and a Sendmail runs its queue in a process that flushes the replies of the
// one before once more: the wrong name is blamed, and TLS breaks.
func (c *Client) Request(ctx context.Context, names []string) ([]Reply, error) {
	for _, name := range names {
		if name == "" || len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, &Error{Kind: ErrProtocol, Op: "ETRN", Err: fmt.Errorf("cannot ask for %s: a name is printable ASCII without spaces, of at most 255 characters", foreign.Quote(name))}
		}
	}
	c.o.Phase(PhaseRequest)
	return c.request(ctx, names)
}

func (c *Client) request(ctx context.Context, names []string) ([]Reply, error) {
	var replies []Reply
	for len(names) > 0 {
		n := 1
		if c.pipelines() && (c.offers.Has("ETRN") || len(replies) > 0) {
			n = min(len(names), maxBatch)
		}
		if err := c.send(ctx, "ETRN", "ETRN "+strings.Join(names[:n], "\r\nETRN ")); err != nil {
			return replies, err
		}
		var stop error
		for _, name := range names[:n] {
			rep, err := c.read(ctx, "ETRN "+name)
			if err != nil {
				if stop != nil {
					return replies, stop
				}
				return replies, err
			}
			replies = append(replies, Reply{Name: name, Code: rep.Code, Text: rep.Text(), Count: countOf(rep.Code, rep.Text(), name)})
			if stop == nil {
				stop = c.judge(name, rep, len(replies) == 1)
			}
			if rep.Code == 421 {
				break // it closes; what is unanswered stays so
			}
		}
		if stop != nil {
			return replies, stop
		}
		names = names[n:]
	}
	return replies, nil
}

// Ours tells whether the remote is a hub of ours, which says 251 only when it has
// made sure of it.
func (c *Client) Ours() bool {
	return c.offers.Has(Ahead) || strings.HasSuffix(c.greeting, " "+greeting)
}

// pipelines tells whether several ETRN may go out at a time.
func (c *Client) pipelines() bool { return c.Ours() && c.offers.Has("PIPELINING") }

// judge tells whether a reply ends the request.
func (c *Client) judge(name string, rep esmtp.Reply, first bool) error {
	op := "ETRN " + name
	switch rep.Code {
	case 500, 502:
		// RFC 1985 has them for a server without ETRN. After a name that it
		// knew how to answer it can only mean this one.
		if first {
			return &Error{Kind: ErrNoETRN, Op: op, Code: rep.Code, Text: rep.Text()}
		}
	case 421, 503, 530, 538:
		return c.refused(op, rep)
	}
	if rep.Code/100 == 3 {
		return &Error{Kind: ErrProtocol, Op: op, Code: rep.Code, Text: rep.Text()}
	}
	return nil
}

// counted are the forms in which a number of messages stands in a reply: those of
// RFC 1985, section 5.1 ("253 OK, <n> pending messages for node <x> started"), and a
// number at the beginning or right before the word. There are names in these texts
// too, which anybody may choose: "node 42.example: 2 messages".
var counted = regexp.MustCompile(`(?i)^(?:ok\b[,:]?\s*)?(?:\(?(\d{1,9})\)?(?:[\s,;:]|\.?$)|(?:.*[\s,;:(=])?(\d{1,9})\)?\s+(?:pending\s+|queued\s+|new\s+)*(?:messages?|mails?)\b)`)

// countOf finds how many messages a reply to ETRN for a name announces: -1 when it
// does not tell.
func countOf(code int, text, name string) int {
	switch code {
	case 251:
		return 0
	case 253:
	default:
		return -1
	}
	_, text = esmtp.CutStatus(text)
	// A name says nothing, whatever is in it.
	for _, form := range []string{name, strings.TrimLeft(name, "@#")} {
		if i := indexFold(text, form); i >= 0 && len(form) > 3 {
			text = text[:i] + "<node>" + text[i+len(form):]
		}
	}
	m := counted.FindStringSubmatch(text)
	if m == nil {
		return -1
	}
	n, err := strconv.Atoi(m[1] + m[2])
	if err != nil {
		return -1
	}
	return n
}

// indexFold is where a name stands in a text, whatever the case of its ASCII
// letters; all else is compared as it is, since a change of case may change its
// length. -1 is nowhere.
func indexFold(text, name string) int {
	for i := 0; i+len(name) <= len(text); i++ {
		if equalFoldASCII(text[i:i+len(name)], name) {
			return i
		}
	}
	return -1
}

func equalFoldASCII(a, b string) bool {
	for i := range len(a) {
		if lowerASCII(a[i]) != lowerASCII(b[i]) {
			return false
		}
	}
	return true
}

func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
