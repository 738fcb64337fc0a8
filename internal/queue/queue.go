// Package queue names what is held for whom: queues, the domain patterns that
// put a recipient into one of them, and the selections that an ETRN request
// makes (RFC 1985, section 5.3: a node name, "@" and a domain, "#" and a
// queue name).
//
// It is about names only. What the MTA holds at the moment, and letting it
// go, is the business of etrnd/hold.
package queue

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/foreign"
)

// MaxName is the longest queue name, in bytes.
const MaxName = etrn.MaxQueueName

// Queue is mail held for one remote, under a name.
type Queue struct {
	Name    string
	Domains []Pattern
	Deliver Deliver

	// Who may ask for it. Any one of the three is enough; nobody may ask for
	// a queue that lists none.
	Clients      []netip.Prefix
	Users        []string
	Certificates []string // SHA-256 of a certificate or its key: lower-case hex, no colons

	// Relay says which of them may also send mail through the MTA.
	Relay Relay

	// Window is how long after a request new mail goes out at once.
	Window time.Duration
	// MinInterval is the least time between two equal requests; one that
	// comes sooner is answered 458.
	MinInterval time.Duration

	// Remote is the name of the remote whose push made this queue, or empty
	// for a queue that the configuration spells out.
	Remote string
}

// Deliver says how mail of a queue leaves: by the MTA over SMTP or LMTP to a
// next hop, or over the connection that the site opened (RFC 2645).
type Deliver struct {
	Turn     bool
	Protocol string // "smtp" or "lmtp"; empty with Turn
	NextHop  string // as the MTA takes it: "[mail.acme.example]:2525"
}

// String is the form that the configuration takes.
func (d Deliver) String() string {
	if d.Turn {
		return "turn"
	}
	if d.Protocol == "" {
		return ""
	}
	return d.Protocol + ":" + d.NextHop
}

// ParseDeliver reads "turn", "smtp:NEXTHOP" or "lmtp:NEXTHOP".
func ParseDeliver(s string) (Deliver, error) {
	if s == "turn" {
		return Deliver{Turn: true}, nil
	}
	proto, hop, ok := strings.Cut(s, ":")
	if !ok || (proto != "smtp" && proto != "lmtp") {
		return Deliver{}, fmt.Errorf("%q is no way to deliver: write \"smtp:[host]\", \"smtp:[host]:port\", \"lmtp:...\" or \"turn\"", s)
	}
	if hop == "" || strings.ContainsFunc(hop, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return Deliver{}, fmt.Errorf("%q has no usable next hop: write for example \"smtp:[mail.acme.example]\"", s)
	}
	return Deliver{Protocol: proto, NextHop: hop}, nil
}

// ParseName checks a queue name: letters, digits, ".", "_" and "-", at most
// MaxName bytes, beginning with a letter or digit. It becomes part of a
// header, of a table of the MTA and of "ETRN #name", so it is kept plain.
func ParseName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("a queue name is empty")
	case len(s) > MaxName:
		return fmt.Errorf("%s is too long for a queue name: at most %d bytes", foreign.Quote(s), MaxName)
	}
	for i, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("._-", r)) {
			return fmt.Errorf("%q is no queue name: letters, digits, \".\", \"_\" and \"-\", beginning with a letter or digit", s)
		}
	}
	return nil
}

// Domain brings a domain name to the form in which patterns compare names:
// esmtp.Domain's.
func Domain(s string) (string, error) { return esmtp.Domain(s) }

type kind uint8

const (
	exact   kind = iota // acme.example
	below               // .acme.example: all below it, not itself
	address             // user@acme.example
	any                 // *
)

// Pattern puts recipients into a queue: "acme.example", ".acme.example" for
// all below it, "user@acme.example", or "*" for every recipient for whom this
// host is not itself the destination. The zero value matches nothing.
type Pattern struct {
	kind   kind
	local  string
	domain string
}

// ParsePattern reads one pattern.
func ParsePattern(s string) (Pattern, error) {
	if s == "*" {
		return Pattern{kind: any}, nil
	}
	if local, domain, ok := cutAddress(s); ok {
		if local == "" {
			return Pattern{}, fmt.Errorf("%q has nothing before the \"@\": write the domain alone for all of its mail", s)
		}
		if strings.ContainsFunc(local, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return Pattern{}, fmt.Errorf("%q holds a space or a control character", s)
		}
		d, err := Domain(domain)
		if err != nil {
			return Pattern{}, err
		}
		return Pattern{kind: address, local: strings.ToLower(local), domain: d}, nil
	}
	k, name := exact, s
	if rest, ok := strings.CutPrefix(s, "."); ok {
		k, name = below, rest
	}
	d, err := Domain(name)
	if err != nil {
		return Pattern{}, err
	}
	return Pattern{kind: k, domain: d}, nil
}

// String is the form that ParsePattern reads, and that a Postfix transport
// table takes as key.
func (p Pattern) String() string {
	switch p.kind {
	case any:
		return "*"
	case below:
		return "." + p.domain
	case address:
		return p.local + "@" + p.domain
	}
	return p.domain
}

// Any reports whether the pattern is "*".
func (p Pattern) Any() bool { return p.kind == any }

// Address reports whether the pattern is a single address.
func (p Pattern) Address() bool { return p.kind == address }

// Touches reports whether the pattern has anything to do with a domain, or, with
// andBelow, with it and all below it. "*" has with all.
func (p Pattern) Touches(domain string, andBelow bool) bool {
	under := func(name, above string) bool { return strings.HasSuffix(name, "."+above) }
	switch {
	case p.kind == any, p.domain != "" && domain == "":
		return true
	case p.kind == below:
		return under(domain, p.domain) || andBelow && (p.domain == domain || under(p.domain, domain))
	}
	return p.domain == domain || andBelow && under(p.domain, domain)
}

// cutAddress splits at the last "@": a quoted local part may hold others.
func cutAddress(s string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// Set is an immutable set of queues in which every recipient belongs to one
// queue at the most. It may be used from several goroutines.
type Set struct {
	queues []Queue
	byName map[string]int // lower-case name
	exact  map[string]int
	below  map[string]int
	addr   map[string]int
	any    int // index of the queue of "*", or -1
	env    Env
	relay  relayRights

	// Queues that own a part of a domain, in order and perhaps twice: single
	// addresses in it, and names below it.
	inside map[string][]int
	under  map[string][]int
}

// Env is what the MTA knows and matching depends on. Its zero value stands
// for an MTA that is the final destination of nothing and knows no extensions.
type Env struct {
	// Local reports whether this host is the final destination of a domain:
	// "*" leaves such mail alone.
	Local func(domain string) bool
	// Delimiters are the characters that begin an address extension.
	Delimiters string
}

// NewSet builds a set. Its error names each clash: two queues of one name, a
// pattern in two queues.
func NewSet(queues []Queue) (*Set, error) {
	s := &Set{queues: slices.Clone(queues), byName: map[string]int{}, exact: map[string]int{}, below: map[string]int{}, addr: map[string]int{}, any: -1, inside: map[string][]int{}, under: map[string][]int{}}
	var clashes []string
	s.relay = relayRightsOf(s.queues)
	for i, q := range s.queues {
		name := strings.ToLower(q.Name)
		if _, ok := s.byName[name]; ok {
			clashes = append(clashes, fmt.Sprintf("two queues are named %q", q.Name))
		}
		s.byName[name] = i
		for _, p := range q.Domains {
			if old, ok := s.put(p, i); ok && old != i {
				clashes = append(clashes, fmt.Sprintf("%q is in the queues %q and %q", p, s.queues[old].Name, q.Name))
			}
		}
	}
	if clashes != nil {
		return nil, fmt.Errorf("%s", strings.Join(clashes, "; "))
	}
	return s, nil
}

func (s *Set) put(p Pattern, i int) (old int, taken bool) {
	if p.kind == any {
		old, s.any = s.any, i
		return old, old >= 0
	}
	if p.kind == address {
		s.inside[p.domain] = append(s.inside[p.domain], i)
	}
	for _, up, ok := strings.Cut(p.domain, "."); ok; _, up, ok = strings.Cut(up, ".") {
		if owners := s.under[up]; len(owners) == 0 || owners[len(owners)-1] != i {
			s.under[up] = append(owners, i)
		}
	}
	m, key := s.exact, p.domain
	switch p.kind {
	case below:
		m = s.below
	case address:
		m, key = s.addr, p.local+"@"+p.domain
	}
	old, taken = m[key]
	m[key] = i
	return old, taken
}

// With returns a copy of the set that matches with what the MTA knows.
func (s *Set) With(env Env) *Set {
	c := *s
	c.env = env
	return &c
}

// Queues returns all queues in the order of the configuration. It must not be
// changed.
func (s *Set) Queues() []Queue { return s.queues }

// ByName finds a queue; case does not matter (RFC 1985 leaves names after "#"
// to the server, and no host name minds case).
func (s *Set) ByName(name string) (Queue, bool) {
	i, ok := s.byName[strings.ToLower(name)]
	if !ok {
		return Queue{}, false
	}
	return s.queues[i], true
}

// Match finds the queue of a recipient. The most specific pattern wins: an
// address, its domain, the nearest ".domain" above it, "*". An address
// without a domain is local mail and belongs to none.
func (s *Set) Match(recipient string) (name string, ok bool) {
	local, domain, ok := cutAddress(recipient)
	if !ok {
		return "", false
	}
	d, err := Domain(domain)
	if err != nil {
		// An address literal or a name that DNS could not hold: only "*" can
		// mean it.
		if s.any < 0 || s.local(strings.ToLower(domain)) {
			return "", false
		}
		return s.queues[s.any].Name, true
	}
	if len(s.addr) > 0 {
		l := strings.ToLower(local)
		if i, ok := s.addr[l+"@"+d]; ok {
			return s.queues[i].Name, true
		}
		if cut := strings.IndexAny(l, s.env.Delimiters); cut > 0 {
			if i, ok := s.addr[l[:cut]+"@"+d]; ok {
				return s.queues[i].Name, true
			}
		}
	}
	i := s.owner(d)
	if i < 0 {
		return "", false
	}
	return s.queues[i].Name, true
}

// owner is the index of the queue that a whole domain belongs to, or -1.
func (s *Set) owner(domain string) int {
	if i, ok := s.exact[domain]; ok {
		return i
	}
	for rest := domain; ; {
		_, up, ok := strings.Cut(rest, ".")
		if !ok {
			break
		}
		if i, ok := s.below[up]; ok {
			return i
		}
		rest = up
	}
	if s.any >= 0 && !s.local(domain) {
		return s.any
	}
	return -1
}

func (s *Set) local(domain string) bool { return s.env.Local != nil && s.env.Local(domain) }

// Selection is what one request is about: all mail of a queue, or the part of
// it that is for one domain.
type Selection struct {
	Queue  string
	Domain string // empty: the whole queue
	Below  bool   // Domain and all below it
}

// String is the selection as an ETRN argument.
func (sel Selection) String() string {
	switch {
	case sel.Domain == "":
		return "#" + sel.Queue
	case sel.Below:
		return "@" + sel.Domain
	}
	return sel.Domain
}

// Covers reports whether a recipient of the selection's queue is meant by it.
func (sel Selection) Covers(recipient string) bool {
	if sel.Domain == "" {
		return true
	}
	_, domain, ok := cutAddress(recipient)
	if !ok {
		return false
	}
	d, err := Domain(domain)
	if err != nil {
		return false
	}
	return sel.CoversDomain(d)
}

// CoversDomain is Covers for all recipients in a domain, which is in the form
// that Domain gives it.
func (sel Selection) CoversDomain(domain string) bool {
	if sel.Domain == "" || domain == sel.Domain {
		return true
	}
	above, ok := strings.CutSuffix(domain, sel.Domain)
	return ok && sel.Below && strings.HasSuffix(above, ".")
}

// Resolve finds what a name in ETRN stands for: "#queue", "@domain" (the
// domain and all below it) or a domain. The first selection is what the name
// itself belongs to: whoever may not ask for that may not ask for the name.
// With "@", further selections are the queues that own single names below the
// domain. No selection means that nothing here goes by that name; "@com" is
// such a name as long as no queue owns com itself.
func (s *Set) Resolve(name string) []Selection {
	if q, ok := strings.CutPrefix(name, "#"); ok {
		if queue, ok := s.ByName(q); ok {
			return []Selection{{Queue: queue.Name}}
		}
		return nil
	}
	rest, isBelow := strings.CutPrefix(name, "@")
	d, err := Domain(rest)
	if err != nil {
		return nil
	}
	var owners []int
	if i := s.owner(d); i >= 0 {
		owners = append(owners, i)
	}
	if isBelow {
		if i, ok := s.below[d]; ok && !slices.Contains(owners, i) {
			owners = append(owners, i)
		}
		if len(owners) == 0 {
			return nil
		}
	}
	parts := slices.Clone(s.inside[d])
	if isBelow {
		parts = append(parts, s.under[d]...)
	}
	slices.Sort(parts)
	whole := owners
	for _, i := range slices.Compact(parts) {
		if !slices.Contains(whole, i) {
			owners = append(owners, i)
		}
	}
	var sels []Selection
	for _, i := range owners {
		sels = append(sels, Selection{Queue: s.queues[i].Name, Domain: d, Below: isBelow})
	}
	return sels
}

// ResolveStripped is Resolve for a name whose "@" or "#" is lost, as Postfix
// hands it to a policy service. It is read as the domain and all below it (as
// far as queues own it), or else as the name of a queue.
func (s *Set) ResolveStripped(name string) []Selection {
	if strings.Contains(name, ".") {
		if sels := s.Resolve("@" + name); sels != nil {
			return sels
		}
		if sels := s.Resolve(name); sels != nil {
			return sels
		}
	}
	return s.Resolve("#" + name)
}
