package setup

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
)

// Mail that Postfix holds for a domain must not be tried because the domain has
// left the configuration: a hub's own routing says "loops back to myself" of
// it, which returns it to its senders. So what Postfix has in its queue for
// patterns that go keeps a route of its own, to a transport that nothing can
// deliver by: it is held for nobody, until the operator says where it goes. New
// mail is not accepted on its account.
//
// What needs such a route is decided here, by two tables and a listing alone.

// Kept is mail that is held for nobody.
type Kept struct {
	// Pattern is the key of its route: the domain of its recipients, or the
	// address if no more than that was held.
	Pattern  string    `json:"pattern"`
	Messages int       `json:"messages"`
	Bytes    int64     `json:"bytes"`
	Oldest   time.Time `json:"oldest,omitzero"`
	OnHold   int       `json:"on_hold"` // of the messages

	ids []string
}

// routing is what a transport table of ours, and default_transport where it is
// ours, make Postfix do.
type routing struct {
	keys       map[string]string // to next hops
	rest       bool              // all else that is not delivered here is ours too
	delimiters string
	parents    bool // names stand for what is below them too
	local      func(domain string) bool
}

// match finds the key that routes a recipient to a transport of ours, in the
// order in which Postfix looks (transport(5)); "*" stands for default_transport.
func (r *routing) match(recipient string) (key string, ok bool) {
	recipient = folded(recipient)
	at := strings.LastIndexByte(recipient, '@')
	if at < 0 {
		return "", false
	}
	local, domain := recipient[:at], recipient[at+1:]
	tries := []string{recipient}
	if cut := strings.IndexAny(local, r.delimiters); cut > 0 {
		tries = append(tries, local[:cut]+"@"+domain)
	}
	tries = append(tries, domain)
	for _, up, more := strings.Cut(domain, "."); more; _, up, more = strings.Cut(up, ".") {
		if r.parents {
			tries = append(tries, up)
		} else {
			tries = append(tries, "."+up)
		}
	}
	for _, key := range tries {
		if _, ok := r.keys[key]; ok {
			return key, true
		}
	}
	if r.rest && !r.local(domain) {
		return "*", true
	}
	return "", false
}

// loses reports the keys of a routing that another one has not.
func (r *routing) loses(next *routing) (keys []string) {
	for key := range r.keys {
		if _, ok := next.keys[key]; !ok {
			keys = append(keys, key)
		}
	}
	if r.rest && !next.rest {
		keys = append(keys, "*")
	}
	slices.Sort(keys)
	return keys
}

// keep finds what is routed to a transport of ours and will not be any more.
// What cannot be the key of a table is in odd.
func keep(list []mta.Message, now, next *routing) (kept []Kept, odd []string) {
	found := map[string]*Kept{}
	for _, m := range list {
		done := map[string]bool{}
		for _, r := range m.Recipients {
			key, ok := now.match(r.Address)
			if !ok {
				continue
			}
			if _, covered := next.match(r.Address); covered {
				continue
			}
			if !strings.Contains(key, "@") {
				key = folded(r.Address[strings.LastIndexByte(r.Address, '@')+1:])
			}
			key = oneName(key)
			if done[key] {
				continue
			}
			done[key] = true
			if !keyOfTable(key) {
				odd = append(odd, r.Address)
				continue
			}
			k := found[key]
			if k == nil {
				k = &Kept{Pattern: key}
				found[key] = k
			}
			k.Messages++
			k.Bytes += m.Size
			k.ids = append(k.ids, m.ID)
			if m.Queue == "hold" {
				k.OnHold++
			}
			if k.Oldest.IsZero() || !m.Arrived.IsZero() && m.Arrived.Before(k.Oldest) {
				k.Oldest = m.Arrived
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		kept = append(kept, *found[key])
	}
	return kept, odd
}

// oneName is what stands for all spellings of a key: of a domain the form with
// A-labels (RFC 5890), of which a route is made for every spelling. A spelling that
// is not among those is a key of its own.
func oneName(key string) string {
	domain, _, _ := domainOf(key)
	a, err := esmtp.Domain(domain)
	if err != nil || !slices.Contains(esmtp.Spellings(a), domain) {
		return key
	}
	return key[:len(key)-len(domain)] + a
}

// keyOfTable reports whether a name can be the key of a transport table.
func keyOfTable(key string) bool {
	return postfix.TableKey(key) && !strings.ContainsAny(key, "#,$") && strings.Trim(key, ".@") != ""
}

// sumOf counts kept mail; a message with two routes is counted once.
func sumOf(kept []Kept) (messages int) { return len(idsOf(kept)) }

// named lists some of the patterns with their counts, those with the most
// messages first.
func named(kept []Kept, max int) string {
	list := slices.Clone(kept)
	slices.SortStableFunc(list, func(a, b Kept) int { return cmp.Compare(b.Messages, a.Messages) })
	var words []string
	for i, k := range list {
		if i == max {
			words = append(words, nOf(len(list)-i, "other domain"))
			break
		}
		words = append(words, k.Pattern+" ("+nOf(k.Messages, "message")+")")
	}
	return strings.Join(words, ", ")
}

// loopsHere reports whether one of the addresses is this machine's own, as
// Postfix looks at it before it connects to a mail exchanger.
func loopsHere(addresses []string, own []net.Addr) bool {
	for _, a := range addresses {
		ip := net.ParseIP(a)
		if ip == nil {
			continue
		}
		if ip.IsLoopback() {
			return true
		}
		for _, o := range own {
			if n, ok := o.(*net.IPNet); ok && n.IP.Equal(ip) {
				return true
			}
		}
	}
	return false
}
