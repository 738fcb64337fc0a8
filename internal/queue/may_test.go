package queue

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/etrn"
)

func TestMayAsk(t *testing.T) {
	owner := etrn.Identity{Addr: netip.MustParseAddr("192.0.2.7")}
	acme := Queue{Clients: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Users: []string{"acme"}, Certificates: []string{strings.Repeat("ab", 32)}}
	turn := acme
	turn.Deliver = Deliver{Turn: true}
	var nobody Queue
	for _, c := range []struct {
		who  etrn.Identity
		want bool
	}{
		{etrn.Identity{}, false}, // nothing proved
		{owner, true},
		{etrn.Identity{Addr: netip.MustParseAddr("::ffff:192.0.2.7")}, true}, // the same, as a dual-stack socket sees it
		{etrn.Identity{Addr: netip.MustParseAddr("192.0.3.7")}, false},
		{etrn.Identity{User: "acme"}, true},
		{etrn.Identity{User: "ACME"}, false}, // user names are not host names
		{etrn.Identity{User: "beta"}, false},
		{etrn.Identity{Certificates: []string{strings.Repeat("ab", 32)}}, true},
		{etrn.Identity{Certificates: []string{strings.Repeat("cd", 32)}}, false},
	} {
		if got := acme.MayAsk(c.who); got != c.want {
			t.Errorf("MayAsk(%+v) = %v", c.who, got)
		}
		// The mail goes to whoever asks, so that an address proves too little.
		if got := turn.MayTurn(c.who); got != (c.who.User == "acme") {
			t.Errorf("MayTurn(%+v) = %v", c.who, got)
		}
		if acme.MayTurn(c.who) {
			t.Errorf("MayTurn(%+v) for a queue that is not turned", c.who)
		}
		if nobody.MayAsk(c.who) {
			t.Errorf("MayAsk(%+v) for a queue that lists nobody", c.who)
		}
	}
}
