//go:build !quick

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// setup postfix on a real Postfix: shown, applied, applied again, undone.
func TestSetupPostfix(t *testing.T) {
	bed := testbed.Start(t)
	ctx := t.Context()
	h, err := bed.Host(ctx, "hub", testbed.HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	mta, err := h.Postfix(ctx, testbed.PostfixOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		h.Install(binary, "/usr/local/bin/etrnctl", 0o755),
		h.WriteFile("/etc/etrnd/etrnd.toml", []byte("hostname = \"hub.example.net\"\n[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\", \".acme.example\"]\ndeliver = \"smtp:[mail.acme.example]\"\nclients = [\"192.0.2.0/24\"]\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	setup := func(want string, args ...string) string {
		t.Helper()
		out, err := h.Run(ctx, append([]string{"/usr/local/bin/etrnctl", "setup", "postfix"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(out, want) {
			t.Errorf("setup postfix %s: got\n%s\nwant it to end with %q", args, out, want)
		}
		return out
	}
	conf := func() string {
		t.Helper()
		a, err1 := h.ReadFile("/etc/postfix/main.cf")
		b, err2 := h.ReadFile("/etc/postfix/master.cf")
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return string(a) + string(b)
	}
	before := conf()
	diff := setup("to make the changes: etrnctl setup postfix --apply\n")
	if !strings.Contains(diff, "\n+defer_transports = transient\n") {
		t.Errorf("the diff is\n%s", diff)
	}
	if conf() != before {
		t.Fatal("showing has changed something")
	}
	setup("Postfix is set up for /etc/etrnd/etrnd.toml\n", "--apply")
	if conf() == before {
		t.Error("--apply has changed nothing")
	}
	after := conf()
	if out := setup("; nothing to do\n", "--apply"); strings.Contains(out, "@@") {
		t.Errorf("twice: %s", out)
	}
	if out := setup("}\n", "--json"); !strings.Contains(out, `"files": []`) || !strings.Contains(out, `"applied": false`) {
		t.Errorf("JSON: %s", out)
	}
	if conf() != after {
		t.Error("twice has changed something")
	}
	if out, err := h.Run(ctx, "/usr/local/bin/etrnctl", "check"); err != nil || !strings.Contains(out, "ok: mta: Postfix is set up for this configuration\n") || !strings.HasSuffix(out, ": 1 queue, 0 links, 0 remotes\n") || !strings.Contains(out, "the milter does not answer") || !strings.Contains(out, "etrnd: it does not run") {
		t.Errorf("check: %v\n%s", err, out)
	}
	// Whether it has been reloaded is said as it was.
	const config = "hostname = \"hub.example.net\"\n[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\", \".acme.example\"%s]\ndeliver = \"smtp:[mail.acme.example]\"\nclients = [\"192.0.2.0/24\"]\n"
	reloads := func() int {
		text, err := h.ReadFile("/var/log/mail.log")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "reload -- version")
	}
	for _, more := range []string{`, "more.example"`, ""} {
		if err := h.WriteFile("/etc/etrnd/etrnd.toml", fmt.Appendf(nil, config, more), 0o644); err != nil {
			t.Fatal(err)
		}
		was := reloads()
		out := setup("\n", "--apply")
		if said, is := !strings.Contains(out, "without a reload"), reloads() > was; said != is {
			t.Errorf("reloaded: %v, and it is said that\n%s", is, out)
		}
	}
	if conf() != after {
		t.Error("a customer who came and went has changed main.cf or master.cf")
	}
	// An ordinary user is told who may.
	if out, err := h.Command(ctx, "/usr/local/bin/etrnctl", "setup", "postfix", "--undo").As("nobody").CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") || !strings.Contains(string(out), "try it as root") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
	// A new domain alone takes no reload; but nobody notices it in a Postfix that is
	// stopped, and whoever finds a set-up under way can do his own when it is done.
	queue := func(domain string) {
		t.Helper()
		text := fmt.Sprintf("hostname = \"hub.example.net\"\n[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\", \".acme.example\", %q]\ndeliver = \"smtp:[mail.acme.example]\"\nclients = [\"192.0.2.0/24\"]\n", domain)
		if err := h.WriteFile("/etc/etrnd/etrnd.toml", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	queue("new.example")
	out, err := h.Command(ctx, "flock", "/etc/postfix", "/usr/local/bin/etrnctl", "setup", "postfix", "--apply").CombinedOutput()
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != api.ExitTempFail || !strings.Contains(string(out), "another set-up") || !strings.Contains(string(out), "look at a new plan") {
		t.Errorf("a set-up beside another one: %v\n%s", err, out)
	}
	setup("it notices the new tables within ten seconds, without a reload\n", "--apply")
	queue("newer.example")
	if err := mta.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	setup("Postfix is set up for /etc/etrnd/etrnd.toml; it does not run, and goes by that when it is started\n", "--apply")
	if err := mta.Start(ctx); err != nil {
		t.Fatal(err)
	}

	setup("Postfix is as it was before the set-up\n", "--undo")
	if conf() != before {
		t.Error("--undo has not restored everything")
	}
	setup("nothing to undo\n", "--undo")

	// The same Postfix, probed.
	if out, err := h.Run(ctx, "/usr/local/bin/etrnctl", "probe", "localhost"); err != nil || !strings.Contains(out, "  ETRN        yes\n") {
		t.Errorf("probe: %v\n%s", err, out)
	}
}

// Who may not ask is told so, and by whom they may be let in.
func TestStranger(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), binary, "queues", "--socket", full().start(t))
	cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 47110, Gid: 47110}}
	if out, exit := finish(t, cmd); exit != api.ExitNoPerm || !strings.Contains(out, `only root and the group "games" may`) {
		t.Errorf("exit %d: %s", exit, out)
	}
}
