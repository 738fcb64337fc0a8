//go:build !quick

package packaging

import (
	"strings"
	"testing"
)

const hubConfig = `hostname = "hub.example.net"
[odmr]
listen = ["127.0.0.1:366"]
users = "/etc/etrnd/users"
[[queue]]
name = "acme"
domains = ["acme.example"]
deliver = "smtp:[127.0.0.1]:9"
clients = ["127.0.0.1"]
[[queue]]
name = "turned"
domains = ["turned.example"]
deliver = "turn"
users = ["turned"]
[[queue]]
name = "rest"
domains = ["*"]
deliver = "smtp:[127.0.0.1]:9"
clients = ["192.0.2.0/24"]
`

const hubPrepare = `
echo secret | etrnctl user add turned
`

// Everything that the daemons are for works as their units run them.
func TestUnits(t *testing.T) {
	m := boot(t, hubConfig, hubPrepare)
	m.must("etrnctl setup postfix --apply >/dev/null")
	for _, unit := range []string{"postfix", "etrnd", "etrn-milter"} {
		if out, err := m.run("systemctl is-active " + unit); err != nil {
			t.Fatalf("%s is %s", unit, out)
		}
	}
	// Mail from the command line is tagged and counted, that for this host is not.
	m.must("for to in a@acme.example b@else.example root@hub.example.net 'root@[127.0.0.1]'; do printf 'Subject: x\n\nx\n' | sendmail -f s@hub.example.net $to; done")
	m.until("the mail to be held", func() bool {
		return strings.Count(m.must("postqueue -p"), "deferred transport") == 2
	})
	out := m.must("postqueue -j | sed 's/.*queue_id\": \"\\([^\"]*\\).*/\\1/' | while read -r id; do postcat -qh $id; done")
	for _, tag := range []string{"X-ETRN-Queue: acme", "X-ETRN-Queue: rest"} {
		if strings.Count(out, tag) != 1 {
			t.Errorf("no %q in the mail:\n%s", tag, out)
		}
	}
	t.Log(m.must("etrnctl queues; etrnctl status; etrnctl check"))
}
