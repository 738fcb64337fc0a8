package setup

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFlushHooks(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/sbin", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"usr/sbin/pppd", "usr/sbin/ifup", "usr/bin/networkd-dispatcher"} {
		if err := os.WriteFile(filepath.Join(root, program), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []struct {
		path, text string
		mode       os.FileMode
		found      bool
	}{
		{"etc/ppp/ip-up.d/postfix", "#!/bin/sh\nif [ -x /usr/sbin/sendmail ]; then\n\t/usr/sbin/sendmail -q >/dev/null 2>&1 || true\nfi\n", 0o755, true},
		{"etc/ppp/ip-up.d/own", "#!/bin/sh\npostqueue -f\n", 0o755, true},
		{"etc/network/if-up.d/x", "#!/bin/sh\nexec postfix flush\n", 0o755, true},
		{"usr/lib/networkd-dispatcher/routable.d/postfix", "#!/bin/sh\nsendmail -q\n", 0o755, true},
		// Nobody runs it: there is no NetworkManager here.
		{"etc/NetworkManager/dispatcher.d/x", "#!/bin/sh\nsendmail -q\n", 0o755, false},
		// Not run: not executable, or another of its name is run instead.
		{"etc/ppp/ip-up.d/off", "#!/bin/sh\npostqueue -f\n", 0o644, false},
		{"usr/lib/networkd-dispatcher/degraded.d/postfix", "#!/bin/sh\nsendmail -q\n", 0o755, false},
		{"etc/networkd-dispatcher/degraded.d/postfix", "#!/bin/sh\n", 0o755, false},
		// Something else: a comment, one queue, one message, a queue group.
		{"etc/ppp/ip-up.d/comment", "#!/bin/sh\n# sendmail -q\n", 0o755, false},
		{"etc/ppp/ip-up.d/etrnd", "#!/bin/sh\netrnctl link up --interface ppp0\npostqueue -s acme.example\n", 0o755, false},
		{"etc/ppp/ip-up.d/mail", "#!/bin/sh\nsendmail -qRacme.example\n", 0o755, false},
	} {
		path := filepath.Join(root, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(flushHooks(root), path); got != f.found && !strings.Contains(f.path, "usr/lib/networkd-dispatcher/degraded") {
			t.Errorf("%s found: %v", f.path, got)
		}
	}
	for _, path := range flushHooks(root) {
		if strings.Contains(path, "degraded") {
			t.Errorf("%s found, although it is overridden", path)
		}
	}
}

// One finding for all of them, with a command that the next upgrade leaves be,
// and that does what it says.
func TestHooksMend(t *testing.T) {
	root := t.TempDir()
	var paths []string
	for _, f := range []string{"usr/sbin/pppd", "etc/ppp/ip-up.d/postfix", "etc/ppp/ip-up.d/own"} {
		path := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\nsendmail -q\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	var l findings
	l.hooks(root)
	if len(l) != 1 || l[0].OK {
		t.Fatalf("found %+v, want one finding", l)
	}
	command, ok := strings.CutPrefix(l[0].Hint, "run: ")
	if !ok {
		t.Fatalf("the hint is %q", l[0].Hint)
	}
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	if found := flushHooks(root); len(found) > 0 {
		t.Errorf("after %s: %v", command, found)
	}
	if err := os.Mkdir(filepath.Join(root, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/bin/dpkg-statoverride"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := keepHooks(root, paths[1:2]); got != "run: dpkg-statoverride --update --add root root 0644 "+paths[1] {
		t.Errorf("with dpkg: %q", got)
	}
}
