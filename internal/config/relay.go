package config

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/queue"
)

// relay reads who of those that may ask may send mail through the MTA. What is
// said of all has to hold for all; what is a default leaves out the large
// networks, and says so.
func (r *reader) relay(t *table, q *queue.Queue) {
	yes := t.boolean("relay")
	if t.has("relay") {
		q.Relay = queue.RelayNone
		if yes {
			q.Relay = queue.RelayAll
		}
	}
	if q.Relay == queue.RelayNone {
		return
	}
	for _, it := range t.strs("clients") {
		p, err := prefix(it.s)
		if err != nil || p != p.Masked() || q.Relay.Lets(p) {
			continue
		}
		switch hint := `name the networks of the site, or users, who may send from anywhere; relay = false leaves it at asking`; {
		case q.Relay == queue.RelayAll:
			t.failAt(it.line, "relay", hint, "true would let all of %s send mail to anywhere through this host; the limit is %s", foreign.Quote(it.s), widest(p, queue.RelayAll))
		case queue.RelayAll.Lets(p):
			t.warnAt(it.line, "clients", "write relay = true to let all of it, or relay = false to leave it at asking", "%s may ask, but is too large (over %s) to be let send mail through this host unless it is spelled", foreign.Quote(it.s), widest(p, queue.RelaySite))
		default:
			t.warnAt(it.line, "clients", hint, "%s may ask, but is too large to be let send mail through this host", foreign.Quote(it.s))
		}
	}
}

// widest is the shortest prefix that a kind of relay lets of a network's family.
func widest(p netip.Prefix, kind queue.Relay) string {
	for bits := 0; bits < p.Addr().BitLen(); bits++ {
		if kind.Lets(netip.PrefixFrom(p.Addr(), bits)) {
			return "/" + strconv.Itoa(bits)
		}
	}
	return "a single address"
}

// relayNot takes the right from queues that this host pushes, where it is not
// spelled: those who may ask for them are servers, not customers.
func (r *reader) relayNot(c *Config) {
	for i := range c.Queues {
		if q := &c.Queues[i]; q.Remote != "" || r.pushed[strings.ToLower(q.Name)] && q.Relay == queue.RelaySite {
			q.Relay = queue.RelayNone
		}
	}
}

// submission reads the port on which the MTA takes mail from those who log in:
// the name of a service in master.cf.
func (r *reader) submission(t *table, smtp string) string {
	s := t.str("submission")
	if s == "" {
		return ""
	}
	const hint = `write "587", or an address of this machine with a port: "192.0.2.1:587"`
	port := s
	if strings.Trim(s, digits) != "" {
		at, err := netip.ParseAddrPort(s)
		if err != nil || at.Addr().Zone() != "" {
			t.fail("submission", hint, "expected a port, alone or with an address, got %s", foreign.Quote(s))
			return ""
		}
		port, s = strconv.Itoa(int(at.Port())), at.String()
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		t.fail("submission", hint, "expected a port from 1 to 65535, got %s", foreign.Quote(port))
		return ""
	}
	if n == 25 || n == 465 {
		// 25 is where the world delivers, which must not depend on our logins;
		// 465 wants TLS from the first byte.
		t.fail("submission", hint, "%s is a port for something else", foreign.Quote(s))
		return ""
	}
	if _, p, msg := hostPort(smtp); msg == "" && uint64(p) == n {
		t.fail("submission", hint, "%s is where the mail server takes all mail (mta: smtp)", foreign.Quote(s))
		return ""
	}
	return s
}

// pushLogin reads where the credentials are used for what is pushed.
func pushLogin(t *table, rem *Remote) {
	yes := t.boolean("push-login")
	if !t.has("push-login") {
		return
	}
	rem.PushLogin = PushLoginNever
	if yes {
		rem.PushLogin = PushLoginAlways
		if rem.User == "" && rem.TLSCert == "" {
			t.fail("push-login", "write user and password-file, or tls-cert and tls-key", "has nothing to log in with")
		}
	}
	if rem.RouterType == PullOnly {
		t.fail("push-login", `write router-type = "pull-push", or leave push-login out`, "has no effect, because router-type is %s", foreign.Quote(string(rem.RouterType)))
	}
}
