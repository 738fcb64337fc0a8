//go:build !quick

package setup

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	mainCF   = postfixtest.MainCF
	masterCF = postfixtest.MasterCF
)

// apply plans and applies, and sees that nothing is left to do.
func apply(t *testing.T, ctx context.Context, pf *postfix.Instance, req Requirements) *Plan {
	t.Helper()
	pl, err := NewPlan(ctx, pf, req)
	if err != nil {
		t.Fatal(err)
	}
	if err := pl.Apply(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := NewPlan(ctx, pf, req)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Empty() || again.Diff() != "" {
		t.Fatalf("applied, and still there is something to do:\n%s", again.Diff())
	}
	return pl
}

func undo(t *testing.T, ctx context.Context, pf *postfix.Instance) *Plan {
	t.Helper()
	pl, err := NewUndo(ctx, pf, Requirements{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pl.Apply(ctx); err != nil {
		t.Fatal(err)
	}
	return pl
}

// sameFiles compares main.cf and master.cf with what they were.
func sameFiles(t *testing.T, mainText, masterText string) {
	t.Helper()
	for path, was := range map[string]string{mainCF: mainText, masterCF: masterText} {
		if now := postfixtest.Read(t, path); now != was {
			t.Errorf("%s after the undo:\n%s", path, change{path: path, before: &was, after: &now}.unified())
		}
	}
}

func setting(t *testing.T, ctx context.Context, pf *postfix.Instance, name string) string {
	t.Helper()
	v, err := pf.Settings(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return v[name]
}

// handmade is a main.cf as people write them: values over several lines,
// comments within, references, no two lists in the same style. It sets whatever
// the plan for it would otherwise take from the defaults of one release.
const handmade = `# The mail host of example.net.
compatibility_level = 3.6
myhostname = hub.example.net
mydestination = $myhostname, localhost
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks defer_unauth_destination
recipient_delimiter = +-
alias_maps =
alias_database =
inet_protocols = ipv4
maillog_file = /var/log/mail.log
smtp_host_lookup = native
smtp_dns_support_level = disabled

# Sites that we relay for.
relay_domains =
    partner.example,
# the second one is new
    other.example
fast_flush_domains = $relay_domains

transport_maps = texthash:/etc/postfix/routes
smtpd_milters =
	inet:127.0.0.1:8891
	# signs last
	{ inet:127.0.0.1:8892, default_action=tempfail }
non_smtpd_milters = $smtpd_milters
milter_default_action = tempfail
milter_connect_macros = j v {daemon_addr}
smtpd_etrn_restrictions = permit_mynetworks, reject
smtpd_tls_fingerprint_digest = sha256
`

// handmadeMaster is a master.cf with what a Postfix needs, and no more.
const handmadeMaster = `# service type private unpriv chroot wakeup maxproc command
smtp      inet  n       -       y       -       -       smtpd
  -o smtpd_helo_required=no
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
local     unix  -       n       n       -       -       local
anvil     unix  -       -       n       -       1       anvil
postlog   unix-dgram n  -       n       -       1       postlogd

# The old system, until its users are gone.
uucp      unix  -       n       n       -       -       pipe
  flags=Fqhu user=nobody argv=/bin/false
`

var required = Requirements{
	Routes: []Route{
		{Pattern: "acme.example", Deliver: "smtp:[mail.acme.example]", Relay: true},
		{Pattern: ".acme.example", Deliver: "smtp:[mail.acme.example]", Relay: true},
		{Pattern: "chief@beta.example", Deliver: "lmtp:inet:127.0.0.1:2424", Relay: true},
		{Pattern: "partner.example", Deliver: "smtp:[198.51.100.7]:2525", Relay: true},
	},
	QueueNames:  []string{"acme", "Beta"},
	Policy:      "unix:/var/spool/postfix/etrnd/policy.sock",
	Milter:      "unix:/var/spool/postfix/etrnd/milter.sock",
	ClientCerts: true,
}

// plant puts the handmade files in place.
func plant(t *testing.T) (mainText, masterText string) {
	t.Helper()
	postfixtest.Write(t, mainCF, handmade)
	postfixtest.Write(t, masterCF, handmadeMaster)
	postfixtest.Write(t, "/etc/postfix/routes", "partner.example smtp:[192.0.2.77]\n")
	return handmade, handmadeMaster
}

func inSync(t *testing.T, ctx context.Context, pf *postfix.Instance, req Requirements) (ok bool, files []string) {
	t.Helper()
	pl, err := NewPlan(ctx, pf, req)
	if err != nil {
		t.Fatal(err)
	}
	return pl.Empty(), pl.Files()
}

func TestSetupAndUndo(t *testing.T) {
	const shown = "/tmp/plan"
	h := postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := plant(t)
		if err := errors.Join(os.Chmod(mainCF, 0o640), os.Chown(mainCF, 0, 4)); err != nil {
			t.Fatal(err)
		}
		pf := postfix.New(postfix.Options{})
		pl, err := NewPlan(ctx, pf, required)
		if err != nil {
			t.Fatal(err)
		}
		postfixtest.Write(t, shown, pl.Diff()+"\n"+strings.Join(pl.Warnings, "\n")+"\n")
		if postfixtest.Read(t, mainCF) != mainText {
			t.Fatal("a plan changed main.cf")
		}
		if ok, files := inSync(t, ctx, pf, required); ok || len(files) != 6 {
			t.Errorf("before it is applied: in sync %v, files %v", ok, files)
		}
		if err := pl.Apply(ctx); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(mainCF); err != nil || fi.Mode().Perm() != 0o640 {
			t.Errorf("main.cf has lost its mode: %v %v", fi.Mode(), err)
		}
		if ok, files := inSync(t, ctx, pf, required); !ok {
			t.Errorf("not in sync after it is applied: %v", files)
		}
		applied := postfixtest.Read(t, mainCF)
		apply(t, ctx, pf, required)
		if postfixtest.Read(t, mainCF) != applied {
			t.Error("applied twice, main.cf changed twice")
		}
		if got := setting(t, ctx, pf, "non_smtpd_milters"); strings.Count(got, "etrnd/milter.sock") != 1 {
			t.Errorf("the milter must be asked once: %s", got)
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
		if _, err := os.Stat("/etc/postfix/etrnd"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the undo has left its directory: %v", err)
		}
		if pl := undo(t, ctx, pf); !pl.Empty() {
			t.Error("nothing is left to undo, and still there is a plan")
		}
	})
	if h == nil {
		return
	}
	got, err := h.ReadFile(shown)
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/setup.diff"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(golden); err != nil || string(got) != string(want) {
		t.Errorf("the plan is\n%s\nwant (%v)\n%s", got, err, want)
	}
}

// What main.cf does not have begins with what it is by default, whatever that
// is in this release.
func TestSetupBeginsWithDefaults(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		defaults, err := pf.Settings(ctx, lists...)
		if err != nil {
			t.Fatal(err)
		}
		req := required
		req.Split = "127.0.0.1:10366"
		apply(t, ctx, pf, req)
		for _, list := range lists {
			got := conffile.Words(setting(t, ctx, pf, list))
			rest := slices.DeleteFunc(slices.Clone(got), func(w string) bool { return !slices.Contains(conffile.Words(defaults[list]), w) })
			if !slices.Equal(rest, conffile.Words(defaults[list])) {
				t.Errorf("%s is %q, and was %q by default", list, got, defaults[list])
			}
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}

// What somebody has edited after the set-up is kept by the next set-up and by
// the undo, which then takes out our elements alone.
func TestSetupKeepsEdits(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := plant(t)
		pf := postfix.New(postfix.Options{})
		apply(t, ctx, pf, required)
		for _, e := range []struct {
			path, old, text string
			was             *string
		}{
			{mainCF, "# Sites that we relay for.", "# Sites that we relay for, and more.", &mainText},
			{mainCF, "    other.example", "    other.example, third.example", &mainText},
			{mainCF, "maillog_file", "message_size_limit = 1000000\nmaillog_file", &mainText},
			{masterCF, "\nretry ", "\n# mine\nretry ", &masterText},
		} {
			postfixtest.Edit(t, e.path, e.old, e.text)
			*e.was = strings.Replace(*e.was, e.old, e.text, 1)
		}
		if ok, files := inSync(t, ctx, pf, required); !ok {
			t.Errorf("edits elsewhere are no reason to set up again: %v", files)
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}

// A setting that we have made and somebody has since given another value is
// his, and an element that was there before us stays when we go.
func TestUndoLeavesWhatIsNotOurs(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Main: map[string]string{"defer_transports": "slow", "relayhost": "[192.0.2.1]"}}, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		flushed := setting(t, ctx, pf, "fast_flush_domains")
		apply(t, ctx, pf, Requirements{Routes: []Route{{Pattern: "*", Deliver: "smtp:[192.0.2.25]"}}})
		if got := setting(t, ctx, pf, "defer_transports"); got != "slow, transient" {
			t.Errorf("defer_transports = %s", got)
		}
		if got := setting(t, ctx, pf, "default_transport"); got != "transient:[192.0.2.25]" {
			t.Errorf("default_transport = %s", got)
		}
		postfixtest.Edit(t, mainCF, "default_transport = transient:[192.0.2.25]", "default_transport = smtp:[192.0.2.26]")
		postfixtest.Edit(t, mainCF, "slow, transient", "transient")
		pl := undo(t, ctx, pf)
		if got := setting(t, ctx, pf, "default_transport"); got != "smtp:[192.0.2.26]" {
			t.Errorf("default_transport = %s", got)
		}
		if !slices.ContainsFunc(pl.Warnings, func(s string) bool { return strings.Contains(s, "default_transport") }) {
			t.Errorf("the undo says nothing of default_transport: %q", pl.Warnings)
		}
		if got := setting(t, ctx, pf, "defer_transports"); got != "" {
			t.Errorf("defer_transports = %s", got)
		}
		if got := setting(t, ctx, pf, "fast_flush_domains"); got != flushed {
			t.Errorf("fast_flush_domains = %s, and was %s", got, flushed)
		}
	})
}

// A changed configuration moves the difference: what is dropped goes, what is
// new comes, the rest stays where it is.
func TestSetupDelta(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := plant(t)
		pf := postfix.New(postfix.Options{})
		apply(t, ctx, pf, required)
		req := required
		req.Routes = append(slices.Clone(req.Routes[:2]), Route{Pattern: "gamma.example", Deliver: "smtp:[192.0.2.9]", Relay: true})
		req.QueueNames = []string{"gamma"}
		req.ClientCerts = false
		diff := apply(t, ctx, pf, req).Diff()
		for _, gone := range []string{"-transient-lmtp unix", "-smtpd_tls_ask_ccert", "-chief@beta.example"} {
			if !strings.Contains(diff, "\n"+gone) {
				t.Errorf("%q is not in the difference:\n%s", gone, diff)
			}
		}
		if got := setting(t, ctx, pf, "defer_transports"); got != "transient" {
			t.Errorf("defer_transports = %s", got)
		}
		if got := postfixtest.Read(t, "/etc/postfix/etrnd/flush"); !strings.Contains(got, "\ngamma ") || strings.Contains(got, "beta") {
			t.Errorf("the names that can be asked for: %s", got)
		}
		// A set-up that ended between the files and the reload is finished by
		// the next one, although no file is left to change.
		postfixtest.Edit(t, "/etc/postfix/etrnd/state.json", `"version": 1,`, `"version": 1, "pending": true,`)
		if ok, files := inSync(t, ctx, pf, req); ok || len(files) != 0 {
			t.Errorf("Postfix may not know: in sync %v, files %v", ok, files)
		}
		apply(t, ctx, pf, req)

		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}

func TestSetupRefuses(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Master: []string{"transient unix - n n - - pipe\n  flags=R user=nobody argv=/bin/true"}}, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		a := func(transport, deliver string) Requirements {
			return Requirements{Transport: transport, Routes: []Route{{Pattern: "a.example", Deliver: deliver}}}
		}
		if _, err := NewPlan(ctx, pf, a("", "smtp:[192.0.2.1]")); err == nil || !strings.Contains(err.Error(), `runs "pipe"`) {
			t.Errorf("the transport is taken: %v", err)
		}
		// Another name for the transport is the way out.
		held := a("held", "smtp:[192.0.2.1]")
		apply(t, ctx, pf, held)

		// Somebody was quicker: nothing is written.
		other := held
		other.Routes = append(slices.Clone(held.Routes), Route{Pattern: "b.example", Deliver: "smtp:[192.0.2.1]", Relay: true})
		pl, err := NewPlan(ctx, pf, other)
		if err != nil {
			t.Fatal(err)
		}
		const table = "/etc/postfix/etrnd/transport"
		before := postfixtest.Read(t, table)
		postfixtest.Edit(t, table, "a.example", "A.example")
		if err := pl.Apply(ctx); err == nil || !strings.Contains(err.Error(), "has changed since") {
			t.Errorf("applied over an edit: %v", err)
		}
		postfixtest.Edit(t, table, "A.example", "a.example")

		// Postfix does not take it: all files are as they were.
		postfixtest.Edit(t, mainCF, "inet_protocols = ipv4", "inet_protocols = pigeon")
		now := postfixtest.Read(t, mainCF)
		if pl, err = NewPlan(ctx, pf, other); err != nil {
			t.Fatal(err)
		}
		if err := pl.Apply(ctx); err == nil || !strings.Contains(err.Error(), "nothing has been changed") {
			t.Errorf("applied what does not pass: %v", err)
		}
		if postfixtest.Read(t, mainCF) != now || postfixtest.Read(t, table) != before {
			t.Error("the old files are not back")
		}
	})
}

// An interrupt does not leave half a set-up.
func TestApplyIsCancelled(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pl, err := NewPlan(ctx, postfix.New(postfix.Options{}), required)
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := pl.Apply(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("apply: %v", err)
		}
		sameFiles(t, mainText, masterText)
		if _, err := os.Stat("/etc/postfix/etrnd"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a directory is left: %v", err)
		}
	})
}

// Check names what is wrong before anything is set up.
func TestCheck(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		plant(t)
		req := required
		req.Milter, req.Policy = "unix:/var/spool/postfix/etrnd/milter.sock", "unix:/run/locked/policy.sock"
		if err := errors.Join(os.RemoveAll("/var/spool/postfix/etrnd"), os.MkdirAll("/run/locked", 0o700)); err != nil {
			t.Fatal(err)
		}
		found := func(wants ...string) {
			t.Helper()
			var all strings.Builder
			said, _ := Check(ctx, postfix.New(postfix.Options{}), req)
			for _, f := range said {
				if !f.OK {
					all.WriteString(f.What + "\n")
				}
			}
			for _, want := range wants {
				if !strings.Contains(all.String(), want) {
					t.Errorf("nothing of %q in\n%s", want, all.String())
				}
			}
		}
		found("not set up", "is chrooted",
			"/var/spool/postfix/etrnd: the user etrn-milter cannot make it there: no such file",
			"/run/locked: the user etrnd cannot make it there: permission denied")
		run(t, ctx, "chown", "etrnd", "/run/locked")
		found("/run/locked: the user postfix, as which Postfix's daemons run, cannot enter it: permission denied")
	})
}

// The diff can be fed to patch(1), whatever there was before.
func TestDiff(t *testing.T) {
	s := func(s string) *string { return &s }
	cases := map[string]struct {
		before, after *string
		want          string
	}{
		"new file":   {nil, s("a\n"), "--- /dev/null\n+++ f\n@@ -0,0 +1,1 @@\n+a\n"},
		"gone":       {s("a\nb\n"), nil, "--- f\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-a\n-b\n"},
		"no newline": {s("a"), s("a\n"), "--- f\n+++ f\n@@ -1,1 +1,1 @@\n-a\n\\ No newline at end of file\n+a\n"},
		"middle":     {s("1\n2\n3\n4\n5\n6\n7\n8\n9\n"), s("1\n2\n3\n4\nx\n6\n7\n8\n9\n"), "--- f\n+++ f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := (change{path: "f", before: c.before, after: c.after}).unified(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// run runs a command of the host.
func run(t *testing.T, ctx context.Context, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// A file that is replaced keeps its owner and mode, and a link stays a link.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "main.cf"), filepath.Join(dir, "link")
	err := errors.Join(os.WriteFile(file, []byte("old\n"), 0o640), os.Chmod(file, 0o640), os.Symlink("main.cf", link))
	if err == nil && os.Geteuid() == 0 {
		err = os.Chown(file, 1, 2)
	}
	if err != nil {
		t.Fatal(err)
	}
	was := inode(file)
	if err := replaceFile(link, "new\n", aged()); err != nil {
		t.Fatal(err)
	}
	if got := postfixtest.Read(t, file); got != "new\n" {
		t.Errorf("the file is %q", got)
	}
	if to, err := os.Readlink(link); err != nil || to != "main.cf" {
		t.Errorf("the link is now %q (%v)", to, err)
	}
	before, after := run(t, t.Context(), "stat", "-c", "%a %u %g", link), run(t, t.Context(), "stat", "-Lc", "%a %u %g", link)
	if os.Geteuid() == 0 && after != "640 1 2\n" {
		t.Errorf("mode and owner are %q (of the link %q)", after, before)
	}
	if inode(file) == was {
		t.Error("the file was written in place")
	}
	if names, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %q (%v)", names, err)
	}
}

// inode tells a file from one that was put in its place.
func inode(path string) uint64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}
