package setup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFlushHooks(t *testing.T) {
	root := t.TempDir()
	for _, f := range []struct {
		path, text string
		mode       os.FileMode
		found      bool
	}{
		{"etc/ppp/ip-up.d/postfix", "#!/bin/sh\nif [ -x /usr/sbin/sendmail ]; then\n\t/usr/sbin/sendmail -q >/dev/null 2>&1 || true\nfi\n", 0o755, true},
		{"etc/ppp/ip-up.d/own", "#!/bin/sh\npostqueue -f\n", 0o755, true},
		{"etc/network/if-up.d/x", "#!/bin/sh\nexec postfix flush\n", 0o755, true},
		{"usr/lib/networkd-dispatcher/routable.d/postfix", "#!/bin/sh\nsendmail -q\n", 0o755, true},
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
