//go:build !quick

package packaging

import (
	"strings"
	"testing"
)

// etrnctl check, as root, says what is wrong for the users that the daemons run
// as, and what to run; when that has been run, it says so no more.
func TestCheckTellsTheTruth(t *testing.T) {
	m := hub(t, "")
	check := func() string {
		out, _ := m.run("etrnctl check 2>&1")
		return out
	}
	if out := check(); strings.Contains(out, "warning:") || !strings.Contains(out, "/etc/etrnd/etrnd.toml is good") {
		t.Fatalf("before anything is wrong:\n%s", out)
	}
	for _, c := range []struct {
		what string
		harm string
		says string // and the command behind "run: " mends it,
		mend string // or this
	}{
		{"Postfix is stopped", "systemctl stop postfix postfix@-", "mail system is down", "systemctl start postfix"},
		{"the milter is dead", "systemctl stop etrn-milter", "the milter does not answer", ""},
		{"the milter hangs", "kill -STOP $(systemctl show -P MainPID etrn-milter)", "nothing came within", ""},
		{"etrnd is dead", "systemctl stop etrnd", "etrnd: it does not run", ""},
		{"the policy service is dead", "systemctl stop etrnd", "the policy service does not answer", ""},
		{"Postfix cannot enter", "chmod 700 /var/spool/postfix/etrn-milter", "the user postfix, as which Postfix's daemons run, cannot enter it", ""},
		{"the milter cannot make its socket", "chown root /var/spool/postfix/etrn-milter", "the user etrn-milter cannot make it there", ""},
		{"etrnd cannot make its sockets", "chown root: /var/spool/postfix/etrnd", "the user etrnd cannot make it there", ""},
		{"the milter can make etrnd's", "chgrp etrn-milter /var/spool/postfix/etrnd; chown etrnd /var/spool/postfix/etrnd", "the user etrn-milter can make sockets there too", ""},
		{"the key is root's", "chown root: /etc/etrnd/hub.key; chmod 600 /etc/etrnd/hub.key", "the user etrnd cannot read it; run: chgrp etrnd /etc/etrnd/hub.key && chmod 640", ""},
		{"the key is the group's, closed to it", "chmod 600 /etc/etrnd/hub.key", "chmod g+r /etc/etrnd/hub.key", ""},
		{"the certificate is closed", "chmod 0 /etc/etrnd/hub.pem", "the user etrnd cannot read it", ""},
		{"the users file is somebody's", "chown daemon:daemon /etc/etrnd/users", "chgrp etrnd /etc/etrnd/users", "chgrp etrnd /etc/etrnd/users && chmod 640 /etc/etrnd/users && chown root /etc/etrnd/users"},
		{"somebody owns the configuration", "chown daemon /etc/etrnd/etrnd.toml", "it belongs to the user daemon", ""},
		{"somebody may write the key", "chmod 660 /etc/etrnd/hub.key", "it can be written to by the group etrnd", ""},
		{"everybody may replace the files", "chmod 777 /etc/etrnd", "so that another file can be put in its place", ""},
		{"the directory is closed", "chmod 700 /etc/etrnd", "the user etrn-milter cannot read it; run: chmod o+x /etc/etrnd", "chmod g+x /etc/etrnd; chmod o+x /etc/etrnd"},
		{"the configuration is closed", "chmod 600 /etc/etrnd/etrnd.toml", "the user etrn-milter cannot read it", ""},
		{"the key is another's", "cp -p /etc/etrnd/hub.key /tmp/key; openssl genpkey -algorithm RSA 2>/dev/null >/etc/etrnd/hub.key", "does not contain the key of the certificate", "cp -p /tmp/key /etc/etrnd/hub.key"},
		{"the certificate is about to expire", "cp -p /etc/etrnd/hub.pem /tmp/pem; openssl x509 -in /tmp/pem -signkey /etc/etrnd/hub.key -days 5 2>/dev/null >/etc/etrnd/hub.pem", "expires on", "cp -p /tmp/pem /etc/etrnd/hub.pem"},
		{"nobody can log in", "cp -p /etc/etrnd/users /tmp/users; : >/etc/etrnd/users", "there are no users in it", "cp -p /tmp/users /etc/etrnd/users"},
		{"a queue's user is missing", "echo x | etrnctl user add other; etrnctl user delete turned", "turned, which may ask for queue turned, is not in /etc/etrnd/users", "echo secret | etrnctl user add --cram-md5 turned; etrnctl user delete other"},
		{"the users file is broken", "cp -p /etc/etrnd/users /tmp/users; echo nonsense >>/etc/etrnd/users", "users:3: not NAME:SECRET", "cp -p /tmp/users /etc/etrnd/users"},
		{"the file has changed", "cp -p /etc/etrnd/etrnd.toml /tmp/toml; sed -i '1a [mta]\\nreconcile = \"2m\"' /etc/etrnd/etrnd.toml", "the configuration has changed since it read it", "cp -p /tmp/toml /etc/etrnd/etrnd.toml"},
		{"a change takes a restart", "cp -p /etc/etrnd/etrnd.toml /tmp/toml; sed -i '1a [mta]\\nreconcile = \"2m\"' /etc/etrnd/etrnd.toml; etrnctl reload", "a change of mta: reconcile is not in force before a restart", "cp -p /tmp/toml /etc/etrnd/etrnd.toml; systemctl restart etrnd"},
		{"the control socket cannot be made", "cp -p /etc/etrnd/etrnd.toml /tmp/toml; printf '[control]\\nlisten = \"unix:/srv/etrnd/control.sock\"\\n' >>/etc/etrnd/etrnd.toml", "control: listen: the user etrnd cannot make a socket in /srv/etrnd", "install -d -o etrnd -g etrnd -m 755 /srv/etrnd; etrnctl check | grep 'make a socket' && exit 1; cp -p /tmp/toml /etc/etrnd/etrnd.toml"},
		{"the milter knows nothing of a queue", "cp -p /etc/etrnd/etrnd.toml /tmp/toml; sed -i 's/\"acme.example\"/\"acme.example\", \"new.example\"/' /etc/etrnd/etrnd.toml; etrnctl setup postfix --apply; etrnctl reload", "the milter runs by another configuration than etrnd", "systemctl reload etrn-milter; cp -p /tmp/toml /etc/etrnd/etrnd.toml; etrnctl setup postfix --apply; systemctl reload etrnd; systemctl reload etrn-milter"},
		{"a reload was refused", "cp -p /etc/etrnd/etrnd.toml /tmp/toml; echo colour=1 >>/etc/etrnd/etrnd.toml; etrnctl reload; cp -p /tmp/toml /etc/etrnd/etrnd.toml", "its last reload was refused", "etrnctl reload"},
	} {
		m.run(c.harm)
		out := check()
		if !strings.Contains(out, c.says) {
			t.Errorf("%s: check does not say %q:\n%s", c.what, c.says, out)
		}
		if strings.Contains(out, "is good") || strings.Contains(out, "etrnd.toml has no errors, but") != strings.Contains(out, "warning:") && !strings.Contains(out, " found\n") {
			t.Errorf("%s: the verdict is\n%s", c.what, out)
		}
		mend := c.mend
		if mend == "" {
			_, rest, _ := strings.Cut(out[strings.Index(out, c.says)-min(strings.Index(out, c.says), 200):], "run: ")
			mend, _, _ = strings.Cut(rest, "\n")
			mend, _, _ = strings.Cut(mend, "; if it does not")
		}
		if out, err := m.run(mend); err != nil {
			t.Errorf("%s: the mend %q: %v\n%s", c.what, mend, err, out)
		}
		m.until("the daemons to be up after "+mend, func() bool {
			out, _ := m.run("systemctl reset-failed; systemctl start etrn-milter etrnd; etrnctl status")
			return strings.Contains(out, "milter        reports") && !strings.Contains(out, "does not answer") && !strings.Contains(out, "another configuration")
		})
		if out := check(); strings.Contains(out, "warning:") || !strings.Contains(out, "is good") {
			t.Fatalf("%s: after %q:\n%s", c.what, mend, out)
		}
	}

	// The password file as the howto makes it.
	m.must("echo secret | " + strings.TrimSpace(recipe(t, "install -m 640 /dev/stdin")) + " && sed -i '/^tls-ca/a user = \"turned\"\\npassword-file = \"/etc/etrnd/hub.password\"' /etc/etrnd/etrnd.toml && etrnctl reload")
	if out := check(); strings.Contains(out, "warning:") || !strings.Contains(out, "is good") {
		t.Errorf("with a password file:\n%s", out)
	}

	// Who may not look into a file is told nothing wrong about it.
	m.must("useradd -M -N -g etrnd operator && install -o etrnd -m 600 /dev/stdin /etc/etrnd/password </etc/hostname && sed -i 's,/etc/etrnd/hub.password,/etc/etrnd/password,' /etc/etrnd/etrnd.toml && etrnctl reload")
	out, err := m.run("setpriv --reuid=operator --regid=etrnd --clear-groups etrnctl check 2>&1")
	if err != nil || !strings.Contains(out, "cannot be read by you") || strings.Contains(out, "permission denied") {
		t.Errorf("as an operator: %v\n%s", err, out)
	}
	m.must("chown root: /etc/etrnd/password")
	if out, err := m.run("setpriv --reuid=operator --regid=etrnd --clear-groups etrnctl check 2>&1"); err == nil || !strings.Contains(out, "the user etrnd cannot read it") {
		t.Errorf("as an operator, of a file that etrnd cannot read: %v\n%s", err, out)
	}
}
