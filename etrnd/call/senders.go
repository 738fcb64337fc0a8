package call

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/etrnd/etrnd/internal/config"
)

// likeness is how surely an inbound SMTP session is the remote's.
type likeness int

const (
	foreign likeness = iota
	likely           // it came in over the link
	certain          // from an address of the remote, or one that the configuration gives it
)

// senders tells the remote's inbound SMTP sessions from others. It learns as
// the call goes on: at its beginning, names may not resolve yet and interfaces
// may lack an address.
type senders struct {
	fixed bool // the configuration says all there is to know

	mu     sync.Mutex
	remote []netip.Prefix
	local  []netip.Addr
}

func newSenders(r *config.Remote) *senders {
	s := &senders{fixed: len(r.Senders) > 0, remote: slices.Clone(r.Senders)}
	if addr, err := netip.ParseAddr(r.Host); err == nil && !s.fixed {
		s.add(addr)
	}
	return s
}

// networks are those that the remote's mail comes from, as far as they are known.
func (s *senders) networks() []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.remote)
}

func (s *senders) match(client, to netip.Addr) likeness {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case slices.ContainsFunc(s.remote, func(p netip.Prefix) bool { return p.Contains(client) }):
		return certain
	case slices.Contains(s.local, to):
		return likely
	}
	return foreign
}

// connected learns from the connection to the remote, and from the interfaces
// of the link.
func (s *senders) connected(conn net.Conn, link []Interface) {
	if s.fixed {
		return
	}
	if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		s.add(a.Addr())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		s.local = append(s.local, a.Addr().Unmap().WithZone(""))
	}
	// The MTA that sends need not have the address that takes requests, but
	// its mail comes over the link.
	for _, i := range link {
		s.local = append(s.local, i.Addrs...)
	}
}

// resolve learns the other addresses of the remote.
func (s *senders) resolve(ctx context.Context, n Network, host string) {
	if s.fixed {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	addrs, err := n.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return // the address that was connected to is known
	}
	for _, a := range addrs {
		s.add(a)
	}
}

func (s *senders) add(a netip.Addr) {
	a = a.Unmap().WithZone("")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remote = append(s.remote, netip.PrefixFrom(a, a.BitLen()))
}
