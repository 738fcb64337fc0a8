package queue

import (
	"net/netip"
	"slices"

	"github.com/etrnd/etrnd/internal/etrn"
)

// Relay says which of those who may ask for a queue may also send mail through
// the MTA, to anywhere.
type Relay uint8

const (
	// RelaySite is for users, certificates, and networks that are no larger than
	// what one site has.
	RelaySite Relay = iota
	// RelayAll is for larger networks too, though never for so large a one that
	// strangers are in it.
	RelayAll
	// RelayNone is for nobody.
	RelayNone
)

// How long a prefix has to be at the least. A site has up to a /24 of IPv4, and
// gets a /48 of IPv6 at the most (RFC 6177). Beyond a /16, or the /32 that is a
// provider's, nobody can vouch for all who are in it.
const (
	siteBits4, siteBits6 = 24, 48
	mostBits4, mostBits6 = 16, 32
)

// Lets reports whether a network is narrow enough.
func (r Relay) Lets(p netip.Prefix) bool {
	bits4, bits6 := siteBits4, siteBits6
	switch r {
	case RelayNone:
		return false
	case RelayAll:
		bits4, bits6 = mostBits4, mostBits6
	}
	bits, most := p.Bits(), bits6
	switch {
	case p.Addr().Is4():
		most = bits4
	case nat64.Overlaps(p):
		// All of IPv4 in 32 bits of IPv6.
		bits, most = bits-nat64.Bits(), bits4
	}
	return p.IsValid() && bits >= most
}

// nat64 is where IPv4 is seen from networks that have IPv6 alone (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// MayRelayAtAll reports whether anybody may.
func (q Queue) MayRelayAtAll() bool { return q.Relay != RelayNone }

// RelayClients are the networks from which mail for anywhere may be sent.
func (q Queue) RelayClients() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range q.Clients {
		if q.Relay.Lets(p) {
			list = append(list, p)
		}
	}
	return list
}

// relayRights are those who may relay by any of many queues.
type relayRights struct {
	clients             []netip.Prefix
	users, certificates map[string]bool
}

func relayRightsOf(queues []Queue) relayRights {
	r := relayRights{users: map[string]bool{}, certificates: map[string]bool{}}
	for i := range queues {
		q := &queues[i]
		if q.Relay == RelayNone {
			continue
		}
		r.clients = append(r.clients, q.RelayClients()...)
		for _, u := range q.Users {
			r.users[u] = true
		}
		for _, c := range q.Certificates {
			r.certificates[c] = true
		}
	}
	return r
}

// MayRelay reports whether some queue lets somebody send mail to anywhere through
// the MTA. Unlike Queue.MayAsk, which makes mail go to its owner, this is a right
// that others would like to have: a network has to be narrow enough for it.
func (s *Set) MayRelay(who etrn.Identity) bool {
	if who.Addr.IsValid() {
		addr := who.Addr.Unmap()
		if slices.ContainsFunc(s.relay.clients, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return true
		}
	}
	return who.User != "" && s.relay.users[who.User] ||
		slices.ContainsFunc(who.Certificates, func(c string) bool { return s.relay.certificates[c] })
}
