package config

import "testing"

// The sockets of turned queues are where the MTA is known to get.
func TestTurnSocket(t *testing.T) {
	cases := map[string]struct {
		policy, milter, want string
	}{
		"policy service": {"unix:/run/a/policy.sock", "unix:/run/b/milter.sock", "/run/a/turn-acme.sock"},
		"milter":         {"", "unix:/run/b/milter.sock", "/run/b/turn-acme.sock"},
		"only ports":     {"127.0.0.1:10100", "127.0.0.1:10101", "/var/spool/postfix/etrnd/turn-acme.sock"},
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
