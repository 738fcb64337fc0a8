package deliver

import (
	"slices"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/queue"
)

// selections are the parts of queues that an ATRN is about; nil with the answer
// if it is refused.
func (a *Agent) selections(who etrn.Identity, domains []string) ([]queue.Selection, etrn.Answer) {
	set := a.o.Hold.Queues()
	may := func(name string) bool { return mayTurn(set, who, name) }
	var sels []queue.Selection
	if len(domains) == 0 {
		for _, q := range set.Queues() {
			if may(q.Name) {
				sels = append(sels, queue.Selection{Queue: q.Name})
			}
		}
	}
	for _, domain := range domains {
		found := set.Resolve(domain)
		if len(found) == 0 || !may(found[0].Queue) {
			// One that is forbidden refuses all (RFC 2645, section 5.2.1). What
			// does not exist and what is another's look the same.
			return nil, etrn.Answer{Code: 450, Text: "not permitted for at least one of the domains"}
		}
		for _, sel := range found {
			if may(sel.Queue) && !slices.Contains(sels, sel) {
				sels = append(sels, sel)
			}
		}
	}
	if sels == nil {
		return nil, etrn.Answer{Code: 450, Text: "no queue of yours is delivered this way"}
	}
	return sels, etrn.Answer{}
}

// may reports whether somebody may have a queue by the configuration in force.
func (a *Agent) may(who etrn.Identity, name string) bool {
	return mayTurn(a.o.Hold.Queues(), who, name)
}

func mayTurn(set *queue.Set, who etrn.Identity, name string) bool {
	q, ok := set.ByName(name)
	return ok && q.MayTurn(who)
}

// queuesOf names the queues of selections, each once.
func queuesOf(sels []queue.Selection) []string {
	var names []string
	for _, sel := range sels {
		if !slices.Contains(names, sel.Queue) {
			names = append(names, sel.Queue)
		}
	}
	return names
}

// allowed reports whether the site may still have all that the turn is for.
func (t *turn) allowed() bool {
	for _, name := range t.queues {
		if !t.agent.may(t.who, name) {
			return false
		}
	}
	return true
}

// refusal is why the MTA may not deliver to an address over this connection now,
// or nil.
//
// That a message comes on the socket of a queue says what the MTA's tables say, and
// those follow the configuration only with the next set-up: until then an address
// that has been moved from one queue to another one still leads to the site of the
// first, and two queues that swapped their names lead to each other's. What counts is
// the queue that the address belongs to by the configuration in force, as it does
// when mail is counted and released. The MTA hands over the address that it has
// routed, with its aliases behind it, so no mail that is rightly here is refused; and
// what belongs to nobody goes to nobody.
func (t *turn) refusal(set *queue.Set, address string) *smtp.SMTPError {
	refuse := func(sub int, why string) *smtp.SMTPError {
		return &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, sub, 1}, Message: why}
	}
	name, ok := set.Match(address)
	mine := ok && slices.ContainsFunc(t.queues, func(q string) bool { return strings.EqualFold(q, name) })
	switch {
	case !mine:
		return refuse(7, "no queue of this site has this address now: the mail server has to be set up again (etrnctl setup postfix --apply)")
	case !mayTurn(set, t.who, name):
		return refuse(7, "the site may not have this queue any more")
	}
	for _, sel := range t.sels {
		if strings.EqualFold(sel.Queue, name) && sel.Covers(address) {
			return nil
		}
	}
	return refuse(2, "the site has not asked for this domain")
}

// recheck answers for the recipients of a message that have become another's while
// it waited for the line, and reports whether there are any.
func (t *turn) recheck(m *message) (fewer bool) {
	set := t.agent.o.Hold.Queues()
	if set == m.set {
		return false
	}
	refused := make([]*smtp.SMTPError, len(m.rcpts))
	for i := range m.rcpts {
		refused[i] = t.refusal(set, m.rcpts[i].addr) // may ask the MTA
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m.set = set
	for i, e := range refused {
		if r := &m.rcpts[i]; e != nil && r.result == nil {
			r.result, fewer = e, true
		}
	}
	return fewer
}
