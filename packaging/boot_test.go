//go:build !quick

package packaging

import (
	"os"
	"strings"
	"testing"
)

// hubConfig is one that was written before the daemons had directories of their
// own: every path in it is still good.
const hubConfig = `hostname = "hub.example.net"
[milter]
listen = "unix:/var/spool/postfix/etrnd/milter.sock"
[policy]
listen = "unix:/var/spool/postfix/etrnd/policy.sock"
[odmr]
listen = ["127.0.0.1:366"]
tls-cert = "/etc/etrnd/hub.pem"
tls-key = "/etc/etrnd/hub.key"
users = "/etc/etrnd/users"
cram-md5 = true
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

# A site's part, to try the certificate with.
[[link]]
name = "loopback"
[[remote]]
name = "hub"
link = "loopback"
host = "hub.example.net:366"
router-type = "pull-only"
request = ["hub.example.net"]
tls = "require"
tls-ca = "/etc/etrnd/hub.pem"
`

// recipe is a block of commands of the howto, as it stands there.
func recipe(t *testing.T, begins string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/howto.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n    "+begins)
	if !ok {
		t.Fatalf("howto.md has no block that begins with %q", begins)
	}
	block := begins
	for line := range strings.Lines(rest) {
		if line != "\n" && !strings.HasPrefix(line, "    ") && block != begins {
			break
		}
		block += strings.TrimPrefix(line, "    ")
	}
	return block
}

func hub(t *testing.T, prepare string) *machine {
	t.Helper()
	m := boot(t, hubConfig, recipe(t, "openssl req -x509")+`
echo secret | etrnctl user add --cram-md5 turned
`+prepare)
	m.must("etrnctl setup postfix --apply >/dev/null")
	m.write("/usr/local/bin/say", say)
	m.write("/usr/local/bin/site", site)
	m.write("/usr/local/bin/serve-socket", bind)
	return m
}

// say PATH sends its standard input to a unix socket and prints what comes back.
const say = `#!/usr/bin/perl
use strict; use IO::Socket::UNIX; use Socket;
my $s = IO::Socket::UNIX->new(Peer => shift) or die "connect: $!\n";
local $/; my $text = <STDIN>; $SIG{PIPE} = 'IGNORE';
print $s $text; $s->flush; shutdown($s, 1);
print scalar <$s>;
`

// serve-socket PATH makes a socket, says so, and shows what is sent to it.
const bind = `#!/usr/bin/perl
use strict; use IO::Socket::UNIX;
my $path = shift;
my $l = IO::Socket::UNIX->new(Local => $path, Listen => 5) or die "bind: $!\n";
chmod 0666, $path; $| = 1; print "bound\n";
exit 0 if $ENV{LEAVE};
while (my $c = $l->accept) { print $c "220 fake\r\n"; while (<$c>) { print; } }
`

// site logs in on port 366, turns the connection and takes mail.
const site = `#!/usr/bin/perl
use strict; use IO::Socket::INET; use MIME::Base64; use Digest::MD5 qw(md5 md5_hex);
my $s = IO::Socket::INET->new('127.0.0.1:366') or die "connect: $!\n";
$| = 1; $s->autoflush(1); $SIG{ALRM} = sub { die "nothing came\n" }; alarm 120;
sub say_ { print $s "$_[0]\r\n" }
sub hear { my $l; do { $l = <$s>; die "gone\n" unless defined $l } while $l =~ /^\d+-/; $l =~ s/\r?\n//; $l }
hear(); say_('EHLO mail.turned.example'); hear();
say_('AUTH CRAM-MD5');
my ($challenge) = hear() =~ /^334 (.*)/ or die "no challenge\n"; $challenge = decode_base64($challenge);
my $k = 'secret'; $k .= "\0" x (64 - length $k);
my $digest = md5_hex(($k ^ ("\x5c" x 64)), md5(($k ^ ("\x36" x 64)), $challenge));
say_(encode_base64("turned $digest", '')); my $r = hear(); die "$r\n" unless $r =~ /^235/;
say_('ATRN turned.example'); $r = hear(); die "$r\n" unless $r =~ /^250/;
say_('220 mail.turned.example ESMTP');
while (my $l = <$s>) {
	if ($l =~ /^EHLO/i) { say_('250 mail.turned.example') }
	elsif ($l =~ /^DATA/i) { say_('354 go on'); while (<$s>) { last if /^\.\r?\n/ } print "taken\n"; say_('250 taken') }
	elsif ($l =~ /^QUIT/i) { say_('221 bye'); last }
	else { say_('250 ok') }
}
`

func (m *machine) write(path, text string) {
	m.t.Helper()
	m.must("cat >" + path + " <<'END OF FILE'\n" + text + "END OF FILE\nchmod 755 " + path)
}

// send has mail sent from the command line.
func (m *machine) send(to ...string) {
	m.t.Helper()
	for _, to := range to {
		m.must("printf 'Subject: x\\n\\nx\\n' | sendmail -f s@hub.example.net '" + to + "'")
	}
}

// held waits until as many messages are held, and holds that they stay.
func (m *machine) held(n int) {
	m.t.Helper()
	m.until("the mail to be held", func() bool {
		return strings.Count(m.must("postqueue -p"), "deferred transport") == n
	})
}

// smtp speaks a dialogue on a port and returns what was said, without the
// greeting.
func (m *machine) smtp(port string, commands ...string) string {
	m.t.Helper()
	return m.must("exec 3<>/dev/tcp/127.0.0.1/" + port + "; hear() { while read -r l <&3; do l=${l%$'\\r'}; case $l in ???-*) ;; *) break;; esac; done; }\nhear\n" +
		"for c in '" + strings.Join(append([]string{"EHLO mail.acme.example"}, commands...), "' '") + "'; do printf '%s\\r\\n' \"$c\" >&3; hear; echo \"$l\"; done")
}

// Everything that the daemons are for works as their units run them.
func TestUnits(t *testing.T) {
	m := hub(t, "")
	for _, unit := range []string{"postfix", "etrnd", "etrn-milter"} {
		if out, err := m.run("systemctl is-active " + unit); err != nil {
			t.Fatalf("%s is %s", unit, out)
		}
	}
	// Mail from the command line is tagged and counted.
	m.must("touch /var/mail/root")
	m.send("a@acme.example", "b@else.example", "c@turned.example", "root@hub.example.net", "root@[127.0.0.1]")
	m.held(3)
	out := m.must("postqueue -j | sed 's/.*queue_id\": \"\\([^\"]*\\).*/\\1/' | while read -r id; do postcat -qh $id; done")
	for _, tag := range []string{"X-ETRN-Queue: acme", "X-ETRN-Queue: rest", "X-ETRN-Queue: turned"} {
		if strings.Count(out, tag) != 1 {
			t.Errorf("no %q in the mail:\n%s", tag, out)
		}
	}
	m.until("the mail to be counted", func() bool {
		out := m.must("etrnctl queues")
		return strings.Count(out, "   1  ") == 3
	})
	// What stays here is neither tagged nor wondered about: the milter sees no
	// interface but a loopback of its own.
	m.until("the mail of this host to be delivered", func() bool {
		return strings.TrimSpace(m.must("grep -c '^Subject: x' /var/mail/root || :")) == "2"
	})
	if out := m.must("grep X-ETRN-Queue /var/mail/root || :"); out != "" {
		t.Errorf("mail for this host is tagged: %s", out)
	}
	if out := m.must("journalctl -u etrn-milter -p warning -o cat | grep -v 'cannot reach the daemon' || :"); out != "" {
		t.Errorf("the milter complains: %s", out)
	}

	// ETRN on Postfix's port, decided by the policy service, and on etrnd's own.
	if out := m.smtp("25", "ETRN acme.example", "ETRN else.example"); !strings.Contains(out, "250 Queuing started") || !strings.Contains(out, "459 ") {
		t.Errorf("on port 25: %s", out)
	}
	m.until("the release to be tried", func() bool {
		return strings.Contains(m.must("postqueue -p"), "Connection refused")
	})
	if out := m.smtp("366", "ETRN #acme", "ETRN #rest"); !strings.Contains(out, "459 ") || strings.Contains(out, "\n451") {
		t.Errorf("on port 366: %s", out)
	}
	// A turned connection: Postfix gets at the queue's socket.
	if out, err := m.run("site"); err != nil || out != "taken\n" {
		t.Errorf("ATRN: %v: %s", err, out)
	}
	// The certificate of the howto is one that a site can trust.
	if out, err := m.run("etrnctl probe hub"); err != nil || !strings.Contains(out, "certificate verified") {
		t.Errorf("probe of the remote: %v\n%s", err, out)
	}
	// One that vouches for another is not.
	m.must("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout /tmp/x.key -out /tmp/x.pem 2>/dev/null; sed 's,^tls-ca.*,tls-ca = \"/tmp/x.pem\",' /etc/etrnd/etrnd.toml >/tmp/x.toml")
	if out := m.must("etrnctl --config /tmp/x.toml probe hub 2>&1; echo exit $?"); !strings.Contains(out, "a call of hub would fail") || !strings.HasSuffix(out, "exit 69\n") {
		t.Errorf("probe with another certificate: %s", out)
	}
	if out, err := m.run("etrnctl check"); err != nil || strings.Contains(out, "warning:") {
		t.Errorf("check: %v\n%s", err, out)
	}
	// The journal knows how severe a line is, and that it is about mail.
	m.must("kill -HUP $(systemctl show -P MainPID etrnd)")
	if out := m.must("journalctl -u etrnd -o json --no-pager | grep -c '\"SYSLOG_FACILITY\":\"2\"' || :"); strings.TrimSpace(out) == "0" {
		t.Errorf("no line is of facility mail: %s", m.must("journalctl -u etrnd -o json --no-pager | tail -n 2"))
	}
	if out := m.must("journalctl -u etrnd -u etrn-milter -o cat"); strings.Contains(out, "time=") || strings.Contains(out, "<6>") {
		t.Errorf("the journal has\n%s", out)
	}
	sees(m)
}

// sees checks that etrnd in its sandbox sees the connections that cross a line: it
// says so in a call where it does not, as without netlink.
func sees(m *machine) {
	m.t.Helper()
	m.must(`cat >>/etc/etrnd/etrnd.toml <<'END'
[[remote]]
name = "mute"
link = "loopback"
host = "127.0.0.1:3666"
router-type = "pull-only"
request = ["#mute"]
request-timeout = "7s"
END
perl -MIO::Socket::INET -e 'alarm 300; my $l = IO::Socket::INET->new(LocalAddr => "127.0.0.1:3666", Listen => 5) or die; my @c; while (my $c = $l->accept) { push @c, $c }' >/dev/null 2>&1 &`)
	blind := func() bool {
		m.must("systemctl restart etrnd")
		if out, err := m.run("etrnctl call mute --wait"); err == nil || !strings.Contains(err.Error(), "no answer for 7s") {
			m.t.Errorf("the call of a remote that says nothing: %v\n%s", err, out)
		}
		return strings.Contains(m.must("journalctl -u etrnd -o cat"), "shows only by knocking")
	}
	if blind() {
		m.t.Error("the sandbox hides the machine's connections")
	}
	m.must("mkdir -p /run/systemd/system/etrnd.service.d; printf '[Service]\\nRestrictAddressFamilies=\\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\\n' >/run/systemd/system/etrnd.service.d/blind.conf; systemctl daemon-reload")
	if !blind() {
		m.t.Error("etrnd sees connections without netlink, or does not say that it does not")
	}
}

// milter and etrnd run what an attacker tries: as the user, with the groups of his
// unit, and without the unit's sandbox, which is more than he has.
func (m *machine) milter(script string) (string, error) { return m.as("etrn-milter", script) }

func (m *machine) etrnd(script string) (string, error) {
	return m.as("etrnd", script, "postdrop", "etrn-milter", "etrnd-sockets")
}

// Whoever has taken over the milter gets no mail, and lets none go.
func TestTakenMilter(t *testing.T) {
	m := hub(t, "")
	m.send("a@acme.example", "c@turned.example", "d@turned.example")
	m.held(3)
	sockets := "/var/spool/postfix/etrnd/"
	for what, script := range map[string]string{
		"put a turned queue's socket there":      "LEAVE=1 serve-socket " + sockets + "turn-turned.sock",
		"put a link there":                       "ln -s /tmp/fake " + sockets + "turn-turned.sock",
		"remove the policy socket":               "rm -f " + sockets + "policy.sock",
		"replace the policy socket":              "mv -f /var/spool/postfix/etrn-milter/milter.sock " + sockets + "policy.sock",
		"remove its own link":                    "rm -f " + sockets + "milter.sock",
		"rename the directory":                   "mv " + sockets + " /var/spool/postfix/x",
		"read the users":                         "cat /etc/etrnd/users",
		"read the key":                           "cat /etc/etrnd/hub.key",
		"control etrnd":                          "etrnctl release turned",
		"read the queue":                         "ls /var/spool/postfix/deferred/*/*",
		"send mail as a local user past Postfix": "touch /var/spool/postfix/maildrop/x",
	} {
		if out, err := m.milter(script); err == nil {
			t.Errorf("it can %s: %s", what, out)
		}
	}
	// A forged request, in the name of a client who may.
	request := "printf 'request=smtpd_access_policy\\nprotocol_state=ETRN\\netrn_domain=%s\\nclient_address=127.0.0.1\\nsasl_username=turned\\ninstance=1\\n\\n' "
	for _, domain := range []string{"acme.example", "turned.example", "turned"} {
		if out, _ := m.milter(request + domain + " | say " + sockets + "policy.sock"); strings.Contains(out, "action=") {
			t.Errorf("the policy service believes it about %s: %q", domain, out)
		}
	}
	if t.Failed() {
		return // what follows would wait for mail that is gone
	}
	// False reports: messages that do not exist, and that sessions are open.
	if out, err := m.milter(`(printf '{"kind":"hello","time":"2026-01-02T03:04:05Z","version":1}\n{"kind":"ready","time":"2026-01-02T03:04:05Z"}\n'
for i in $(seq 50); do printf '{"kind":"message","time":"2026-01-02T03:04:05Z","session":"s'$i'","queue_id":"F'$i'","recipients":["x@turned.example"]}\n'; done) | say /run/etrnd/report.sock`); err != nil {
		t.Errorf("it cannot even report: %v: %s", err, out)
	}
	// They are gone with the next listing; what is held is still held, and goes to
	// the site alone.
	m.until("the false counts to go", func() bool {
		return strings.Contains(m.must("etrnctl queues"), "turned         2  ")
	})
	m.held(3)
	if out, err := m.run("site"); err != nil || out != "taken\ntaken\n" {
		t.Errorf("ATRN: %v: %s", err, out)
	}
	m.held(1)
}

// Whoever has taken over etrnd has its queues and its secrets, not the mail of
// others, and not the milter's place.
func TestTakenEtrnd(t *testing.T) {
	m := hub(t, "")
	m.send("a@acme.example")
	m.held(1)
	for what, script := range map[string]string{
		"take the milter's place":                 "rm -f /var/spool/postfix/etrnd/milter.sock",
		"put a link in its place":                 "ln -sfn /tmp/fake /var/spool/postfix/etrnd/milter.sock",
		"rename it away":                          "mv /var/spool/postfix/etrnd/milter.sock /var/spool/postfix/etrnd/x",
		"make files where the milter does":        "touch /var/spool/postfix/etrn-milter/x",
		"read mail in the queue":                  "cat /var/spool/postfix/deferred/*/*",
		"change the configuration":                "echo >>/etc/etrnd/etrnd.toml",
		"change the users":                        "echo >>/etc/etrnd/users",
		"make files beside the configuration":     "touch /etc/etrnd/x",
		"change how Postfix routes":               "postconf -e relayhost=x",
		"change the directory of the sockets":     "chmod 777 /var/spool/postfix/etrnd",
		"let the milter into its own directories": "chgrp etrn-milter /var/spool/postfix/etrnd",
	} {
		if out, err := m.etrnd(script); err == nil {
			t.Errorf("it can %s: %s", what, out)
		}
	}
	m.held(1)
}

// An upgrade from the directory that both daemons shared: nothing has to be done
// by hand, and what the milter has left there takes no mail.
func TestUpgrade(t *testing.T) {
	m := hub(t, "")
	m.send("c@turned.example")
	m.held(1)
	m.must(`systemctl stop etrnd etrn-milter
rm -rf /var/spool/postfix/etrnd /var/spool/postfix/etrn-milter
install -d -o postfix -g etrn-milter -m 1570 /var/spool/postfix/etrnd
chown root: /etc/etrnd; chmod 755 /etc/etrnd`)
	// As the older daemons left them: killed, and one that is not what it seems.
	if out, err := m.milter("LEAVE=1 serve-socket /var/spool/postfix/etrnd/milter.sock; (setsid serve-socket /var/spool/postfix/etrnd/turn-turned.sock </dev/null >/tmp/fake 2>&1 &); until grep -q bound /tmp/fake; do :; done"); err != nil {
		t.Fatalf("the old layout: %v: %s", err, out)
	}
	if out, err := m.as("etrnd", "LEAVE=1 serve-socket /var/spool/postfix/etrnd/policy.sock", "postdrop", "etrn-milter"); err != nil {
		t.Fatalf("the old layout: %v: %s", err, out)
	}
	m.must("/usr/local/sbin/postinstall && systemctl start etrn-milter etrnd")
	if out, err := m.run("etrnctl check"); err != nil || strings.Contains(out, "warning:") {
		t.Errorf("check: %v\n%s", err, out)
	}
	m.must("postqueue -f")
	if out, err := m.run("site"); err != nil || out != "taken\n" {
		t.Errorf("ATRN: %v: %s", err, out)
	}
	if out := m.must("cat /tmp/fake"); out != "bound\n" {
		t.Errorf("the socket that the milter had left was given\n%s", out)
	}
	// Again, with the daemons running: nothing changes under them.
	m.must("/usr/local/sbin/postinstall")
	m.send("a@acme.example")
	m.held(1)
	if out := m.must("postqueue -j | sed 's/.*queue_id\": \"\\([^\"]*\\).*/\\1/' | while read -r id; do postcat -qh $id; done"); !strings.Contains(out, "X-ETRN-Queue: acme") {
		t.Errorf("the milter is not asked any more:\n%s", out)
	}
}
