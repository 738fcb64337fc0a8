package config

import "testing"

// The sockets of turned queues are where etrnd alone can put them.
func TestTurnSocket(t *testing.T) {
	cases := map[string]struct {
		policy, milter, want string
	}{
		"policy service": {"unix:/run/a/policy.sock", "unix:/run/b/milter.sock", "/run/a/turn-acme.sock"},
		// Where the milter can write it could put a socket of its own.
		"no policy service": {"", "unix:/run/b/milter.sock", "/var/spool/postfix/etrnd/turn-acme.sock"},
		"only ports":        {"127.0.0.1:10100", "127.0.0.1:10101", "/var/spool/postfix/etrnd/turn-acme.sock"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := &Config{Policy: Policy{Listen: c.policy}, Milter: Milter{Listen: c.milter}}
			if got := cfg.TurnSocket("acme"); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}
