package listen

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets are the listeners that systemd passed to this process. A nil
// *Sockets has none.
type Sockets struct {
	mu sync.Mutex
	ls []passed
}

type passed struct {
	name string
	ln   net.Listener
}

// Activated takes over the sockets that systemd passed, and clears the
// variables that said so, so that commands started later do not believe that
// the sockets are theirs. Call it once, early.
func Activated() (*Sockets, error) {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, err
	}
	s := &Sockets{}
	for name, ls := range byName {
		for _, ln := range ls {
			// The file belongs to the socket unit: removing it would leave
			// systemd listening on a path that is gone.
			if u, ok := ln.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
			}
			s.ls = append(s.ls, passed{name, ln})
		}
	}
	return s, nil
}

// take finds a passed socket by its name, or else by its address.
func (s *Sockets) take(name, network, address string) net.Listener {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// A unit may pass several sockets under one name (ListenStream= given
	// twice); the address then says which is meant.
	best := -1
	for i, p := range s.ls {
		if sameAddress(p.ln.Addr(), network, address) {
			best = i
			break
		}
		if name != "" && p.name == name && best < 0 {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	ln := s.ls[best].ln
	s.ls = slices.Delete(s.ls, best, best+1)
	return ln
}

// Unused lists the names of sockets that nobody has asked for so far: a unit
// and a configuration that do not fit.
func (s *Sockets) Unused() []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, p := range s.ls {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}

func sameAddress(a net.Addr, network, address string) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return network == "unix" && filepath.Clean(a.Name) == address
	case *net.TCPAddr:
		if network != "tcp" {
			return false
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return false
		}
		if host == "" {
			host = "::"
		}
		want, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
		if err != nil {
			return false
		}
		have := a.AddrPort()
		return have.Port() == want.Port() && have.Addr().Unmap() == want.Addr().Unmap()
	}
	return false
}
