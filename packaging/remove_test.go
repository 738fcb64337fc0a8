//go:build !quick

package packaging

import (
	"context"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/testbed"
)

const removeConfig = `hostname = "hub.example.net"

[odmr]
listen = ["127.0.0.1:366"]

[[queue]]
name = "acme"
domains = ["acme.example"]
deliver = "smtp:[192.0.2.25]"
clients = ["192.0.2.0/24"]
`

// hubWithScripts is a hub with the package's scripts, as dpkg and rpm run them.
// Mail for acme.example leads back to it.
func hubWithScripts(t *testing.T) (h *testbed.Host, script func(name, arg string) string) {
	t.Helper()
	ctx := t.Context()
	built, err := programs.Build(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { built.Close() })
	h, err = testbed.Start(t).Host(ctx, "hub", testbed.HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Postfix(ctx, testbed.PostfixOptions{
		Main:  map[string]string{"queue_run_delay": "1s", "minimal_backoff_time": "1s", "maximal_backoff_time": "1s"},
		Files: map[string]string{"/etc/hosts": "127.0.0.1 localhost acme.example\n", "/etc/etrnd/etrnd.toml": removeConfig},
	}); err != nil {
		t.Fatal(err)
	}
	if err := built.Install(h); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"preremove", "postremove"} {
		if err := h.Install("scripts/"+name, "/usr/local/bin/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h, func(name, arg string) string {
		t.Helper()
		out, err := h.Run(ctx, "sh", "-c", name+" "+arg+" 2>&1")
		if err != nil {
			t.Fatalf("%s %s: %v", name, arg, err)
		}
		return out
	}
}

// The removal of the package takes the set-up out of Postfix, which then asks
// nobody who is gone; what it holds stays held, is named, and is there when the
// package is. Without held mail Postfix is as it was.
func TestRemoveAndPurge(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h, script := hubWithScripts(t)
	run := func(command string) string {
		t.Helper()
		out, err := h.Run(ctx, "sh", "-c", command)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	files := func() string { return run("cat /etc/postfix/main.cf /etc/postfix/master.cf; ls /etc/postfix") }
	before := files()

	// Never set up: there is nothing to take out, and nothing to say.
	for _, s := range [][2]string{{"preremove", "remove"}, {"postremove", "remove"}, {"postremove", "purge"}, {"preremove", "0"}, {"postremove", "0"}} {
		if out := script(s[0], s[1]); out != "" {
			t.Errorf("%s %s says %q", s[0], s[1], out)
		}
	}
	// An upgrade changes nothing.
	run("etrnctl setup postfix --apply")
	applied := files()
	for _, s := range [][2]string{{"preremove", "upgrade 2.0"}, {"postremove", "upgrade 2.0"}, {"preremove", "1"}, {"postremove", "1"}} {
		script(s[0], s[1])
	}
	if files() != applied {
		t.Error("an upgrade has changed Postfix")
	}
	// Removed with nothing held, as rpm does it.
	if out := script("preremove", "0"); !strings.Contains(out, "taken out") {
		t.Errorf("the removal says %q", out)
	}
	if out := script("postremove", "0"); out != "" {
		t.Errorf("after the removal: %q", out)
	}
	if now := files(); now != before {
		t.Errorf("Postfix is not as it was:\n%s", now)
	}

	// With mail held, as dpkg does it, and everything that may be tried after it.
	run("etrnctl setup postfix --apply")
	if _, err := h.SendMany(ctx, "127.0.0.1:25", []testbed.Message{{From: "s@client.example", To: []string{"a@acme.example"}}}); err != nil {
		t.Fatal(err)
	}
	held := waitHeld(ctx, t, h)
	out := script("preremove", "remove")
	if !strings.Contains(out, "acme.example") || !strings.Contains(out, "1 message") || strings.Contains(out, "postqueue -f") {
		t.Errorf("the removal says %q", out)
	}
	run("mv /usr/local/sbin/etrnctl /usr/local/sbin/etrnctl.gone")
	for _, arg := range []string{"remove", "purge"} {
		if out := script("postremove", arg); !strings.Contains(out, "/etc/postfix/etrnd/README") {
			t.Errorf("postremove %s says %q", arg, out)
		}
	}
	for _, setting := range []string{"smtpd_milters", "non_smtpd_milters", "smtpd_etrn_restrictions", "relay_domains"} {
		if v := run("postconf -h " + setting); strings.Contains(v, "etrnd") {
			t.Errorf("%s = %s", setting, v)
		}
	}
	run("postqueue -f")
	if again := waitHeld(ctx, t, h); again != held {
		t.Errorf("the queue had %s and has %s", held, again)
	}
	// By hand, as the file says.
	readme := run("cat /etc/postfix/etrnd/README")
	_, commands, _ := strings.Cut(readme, "returns it):\n")
	run("set -e\npostsuper -d ALL\n" + commands)
	if now := run("postconf -n; postconf -M"); strings.Contains(now, "etrnd") || strings.Contains(now, "transient") {
		t.Errorf("left behind, in spite of the file:\n%s\n%s", readme, now)
	}

	// Reinstalled, set up and undone: as ever.
	run("mv /usr/local/sbin/etrnctl.gone /usr/local/sbin/etrnctl && etrnctl setup postfix --apply && etrnctl setup postfix --undo")

	// With a configuration that cannot be read, and one that is gone.
	run("etrnctl setup postfix --apply && echo nonsense >/etc/etrnd/etrnd.toml")
	if out := script("preremove", "remove"); !strings.Contains(out, "taken out") {
		t.Errorf("with a bad configuration the removal says %q", out)
	}
	if v := run("postconf -n"); strings.Contains(v, "etrnd") {
		t.Errorf("with a bad configuration it leaves %s", v)
	}
	if err := h.WriteFile("/etc/etrnd/etrnd.toml", []byte(removeConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	// With a Postfix that cannot be read nothing is changed, and it is said.
	run("etrnctl setup postfix --apply && cp /etc/postfix/main.cf /tmp/main.cf && echo 'inet_protocols = pigeon' >>/etc/postfix/main.cf")
	if out := script("preremove", "remove"); !strings.Contains(out, "could not be taken out") && !strings.Contains(out, "taken out") {
		t.Errorf("with a broken Postfix the removal says %q", out)
	}
	// With none at all.
	run("cp /tmp/main.cf /etc/postfix/main.cf && rm -r /etc/postfix/etrnd; mkdir /tmp/none && for c in sh sed tail rm rmdir cat; do ln -s $(command -v $c) /tmp/none/; done")
	if out := run("PATH=/tmp/none sh /usr/local/bin/preremove remove 2>&1; PATH=/tmp/none sh /usr/local/bin/postremove purge 2>&1"); out != "" {
		t.Errorf("without Postfix: %q", out)
	}
}

// waitHeld waits until what is in the queue is held, and names it.
func waitHeld(ctx context.Context, t *testing.T, h *testbed.Host) (ids string) {
	t.Helper()
	err := testbed.Until(ctx, "mail to be held", func() (bool, error) {
		list, err := h.Queue(ctx)
		ids = ""
		for _, m := range list {
			ids += m.ID + " "
			if m.Queue != "deferred" || m.Recipients[0].Reason == "" {
				return false, nil
			}
		}
		return len(list) > 0, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}
