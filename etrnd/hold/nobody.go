package hold

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// Nobody is mail that waits for its release and is in no queue: that of a
// domain which was taken out of the configuration, most often. It stays where
// it is, for nobody can ask for it, so it must be seen.
//
// It is counted anew with each listing and has no place in the index: nothing
// is ever done with it, and there may be very much of it.
type Nobody struct {
	Messages int // a message to two such domains is one
	Bytes    int64
	Oldest   time.Time
	OnHold   int // of the messages, put on hold by an administrator
	// Domains are those with the most messages first. More is how many others
	// there are, or at least, if the sums by domain were given up.
	Domains []NobodyDomain
	More    int
	Known   bool // false until the MTA's queue has been listed
}

// NobodyDomain is the part of Nobody that is for one domain of recipients;
// empty stands for addresses without one.
type NobodyDomain struct {
	Domain   string
	Messages int
	Bytes    int64
	Oldest   time.Time
}

// maxNobody bounds the domains that are counted one by one: a queue of "*"
// that is taken out leaves as many as its mail was for.
const maxNobody = 10000

// nobody counts while a listing is compared.
type nobody struct {
	sum     Nobody
	domains map[string]*NobodyDomain
	routed  func() func(domain string) (ours, surely bool) // nil: all is ours that is held
	ours    func(domain string) (ours, surely bool)        // once it has been asked for
}

func newNobody(routed func() func(string) (bool, bool)) *nobody {
	return &nobody{domains: map[string]*NobodyDomain{}, routed: routed}
}

// counts reports whether recipients are in no queue, and wait on our account.
// Those whose domain is routed to us do whatever was the reason for the last
// attempt: a run of all of the MTA's queue tries them, and they wait again.
func (n *nobody) counts(g group) bool {
	if g.queue != "" {
		return false
	}
	if n.routed == nil {
		return waits(g.reason)
	}
	if n.ours == nil {
		n.ours = n.routed()
	}
	ours, surely := n.ours(g.domain)
	return ours && (surely || waits(g.reason))
}

// add counts a message, whose recipients are sorted into groups.
func (n *nobody) add(l mta.Message, groups []group) {
	counted := false
	for _, g := range groups {
		if !n.counts(g) {
			continue
		}
		if !counted {
			counted = true
			n.sum.Messages++
			n.sum.Bytes += l.Size
			n.sum.Oldest = older(n.sum.Oldest, l.Arrived)
			if placeOf(l) == onHold {
				n.sum.OnHold++
			}
		}
		d := n.domains[g.domain]
		if d == nil {
			if len(n.domains) >= maxNobody {
				n.sum.More = 1
				continue
			}
			d = &NobodyDomain{Domain: strings.Clone(g.domain)}
			n.domains[d.Domain] = d
		}
		d.Messages++
		d.Bytes += l.Size
		d.Oldest = older(d.Oldest, l.Arrived)
	}
}

func older(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// done is what has been counted.
func (n *nobody) done() Nobody {
	sum := n.sum
	sum.Known = true
	for _, d := range n.domains {
		sum.Domains = append(sum.Domains, *d)
	}
	slices.SortFunc(sum.Domains, func(a, b NobodyDomain) int {
		return cmp.Or(cmp.Compare(b.Messages, a.Messages), cmp.Compare(a.Domain, b.Domain))
	})
	return sum
}

// Nobody returns what is held for nobody, as of the last listing. Of its
// domains it has no more than max.
func (m *Manager) Nobody(max int) Nobody {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nobody
	if len(n.Domains) > max {
		n.More += len(n.Domains) - max
		n.Domains = n.Domains[:max:max]
	}
	return n
}

// Sorted waits until the MTA's queue has been listed and sorted into the
// present queues, or could not be, or until ctx ends. It reports whether it
// has. Before Run nobody lists, and there is nothing to wait for.
func (m *Manager) Sorted(ctx context.Context) bool {
	for {
		m.mu.Lock()
		ok, failed, changed := m.sorted, m.listErr != nil || !m.sight.running, m.changed
		m.mu.Unlock()
		if ok || failed {
			return ok
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// nobodyIs takes what a listing has shown.
func (m *Manager) nobodyIs(set *queue.Set, now Nobody) {
	before, ok := m.swapNobody(set, now)
	switch {
	case !ok || (before.Messages > 0) == (now.Messages > 0):
	case now.Messages > 0:
		m.log.Warn("mail is held for domains that are in no queue", "messages", now.Messages, "domains", len(now.Domains)+now.More, "first", now.Domains[0].Domain)
	default:
		m.log.Info("no mail is held any more for domains that are in no queue")
	}
}

func (m *Manager) swapNobody(set *queue.Set, now Nobody) (before Nobody, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set != set {
		return before, false
	}
	before, m.nobody, m.sorted = m.nobody, now, true
	return before, true
}
