package queue

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/etrn"
)

func TestRelayLets(t *testing.T) {
	for network, want := range map[string]struct{ site, all bool }{
		"192.0.2.7/32":        {true, true},
		"192.0.2.0/24":        {true, true},
		"192.0.2.0/23":        {false, true}, // more than one site may be behind it
		"192.0.0.0/16":        {false, true},
		"192.0.0.0/15":        {false, false},
		"10.0.0.0/8":          {false, false},
		"0.0.0.0/0":           {false, false},
		"0.0.0.0/1":           {false, false},
		"2001:db8::7/128":     {true, true},
		"2001:db8:1::/48":     {true, true},
		"2001:db8::/47":       {false, true},
		"2001:db8::/32":       {false, true},
		"2001::/16":           {false, false},
		"::/0":                {false, false},
		"64:ff9b::/96":        {false, false}, // all of IPv4
		"64:ff9b::/64":        {false, false},
		"64:ff9b::c000:0/112": {false, true},
	} {
		p := netip.MustParsePrefix(network)
		if RelaySite.Lets(p) != want.site || RelayAll.Lets(p) != want.all || RelayNone.Lets(p) {
			t.Errorf("%s: %v, %v; want %v", network, RelaySite.Lets(p), RelayAll.Lets(p), want)
		}
	}
}

func TestMayRelay(t *testing.T) {
	acme := Queue{
		Name: "acme", Users: []string{"acme"}, Certificates: []string{strings.Repeat("ab", 32)},
		Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("0.0.0.0/0")},
	}
	off, all := acme, acme
	off.Relay, all.Relay = RelayNone, RelayAll
	wide := Queue{Name: "wide", Clients: []netip.Prefix{netip.MustParsePrefix("198.51.0.0/16")}, Relay: RelayAll}
	for _, c := range []struct {
		who  etrn.Identity
		want bool
	}{
		{etrn.Identity{}, false},
		{etrn.Identity{Addr: netip.MustParseAddr("192.0.2.7")}, true},
		{etrn.Identity{Addr: netip.MustParseAddr("::ffff:192.0.2.7")}, true},
		// They may ask, since everybody may.
		{etrn.Identity{Addr: netip.MustParseAddr("198.18.0.7")}, false},
		{etrn.Identity{Addr: netip.MustParseAddr("203.0.113.7")}, false},
		{etrn.Identity{User: "acme"}, true},
		{etrn.Identity{User: "beta"}, false},
		{etrn.Identity{Certificates: []string{strings.Repeat("ab", 32)}}, true},
		{etrn.Identity{Certificates: []string{strings.Repeat("cd", 32)}}, false},
	} {
		set := func(q Queue) *Set {
			s, err := NewSet([]Queue{q})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if got := set(acme).MayRelay(c.who); got != c.want {
			t.Errorf("MayRelay(%+v) = %v", c.who, got)
		}
		if set(off).MayRelay(c.who) {
			t.Errorf("MayRelay(%+v) for a queue that lets nobody", c.who)
		}
		if set(all).MayRelay(c.who) != c.want {
			t.Errorf("MayRelay(%+v) = %v when it is for all", c.who, !c.want)
		}
	}
	s, err := NewSet([]Queue{off, wide})
	if err != nil {
		t.Fatal(err)
	}
	if s.MayRelay(etrn.Identity{User: "acme"}) || !s.MayRelay(etrn.Identity{Addr: netip.MustParseAddr("198.51.7.7")}) {
		t.Error("a set lets others than its queues do")
	}
}
