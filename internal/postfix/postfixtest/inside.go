// Package postfixtest is for tests of what talks to Postfix: it runs them on a
// host of the test bed with a Postfix of its own, sends mail there, and takes
// it in. It changes nothing on the machine itself.
package postfixtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

// insideEnv names the test whose body this process runs inside a host.
const insideEnv = "POSTFIXTEST_INSIDE"

// Limits for what hangs. Each is counted from when the work itself begins, so
// waiting for a turn is no part of it, and far above what a busy machine needs.
// The first to strike says the most.
const (
	bodyLimit    = 5 * time.Minute
	processLimit = bodyLimit + time.Minute       // prints where every goroutine is
	hostLimit    = processLimit + time.Minute    // kills the process
	startLimit   = 5 * time.Minute               // of Postfix
	program      = "/usr/local/bin/postfix.test" // inside the host
)

// Inside runs body in a host of a test bed with a Postfix of its own: this
// test binary is started there once more, for this test alone, so that what
// is tested sees /etc/postfix and talks to Postfix as on a real machine. The
// context of body ends when the test hangs.
//
// It returns the host when body has succeeded, and nil in the process that has
// run it.
func Inside(t *testing.T, opts testbed.PostfixOptions, body func(t *testing.T, ctx context.Context)) *testbed.Host {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		ctx, cancel := context.WithTimeout(t.Context(), bodyLimit)
		defer cancel()
		body(t, ctx)
		return nil
	}
	t.Parallel()
	h, err := testbed.Start(t).Host(t.Context(), "hub", testbed.HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	starting, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	if _, err := h.Postfix(starting, opts); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Install(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hostLimit)
	defer cancel()
	cmd := h.Command(ctx, program, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout="+processLimit.String())
	cmd.Env = append(cmd.Env, insideEnv+"="+t.Name())
	cmd.Dir = "/tmp"
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("inside the host: %v\n%s", err, out)
	}
	return h
}

// Files of the host's Postfix.
const (
	MainCF   = "/etc/postfix/main.cf"
	MasterCF = "/etc/postfix/master.cf"
)

// Read reads a file of the host.
func Read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Write writes a file of the host that looks old: Postfix waits for a second
// or two before it trusts a new one.
func Write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	Age(t, path)
}

// Age makes a file of the host look old.
func Age(t *testing.T, path string) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

// Edit changes a file of the host as a postmaster would.
func Edit(t *testing.T, path, old, replacement string) {
	t.Helper()
	text := Read(t, path)
	if !strings.Contains(text, old) {
		t.Fatalf("%s has no %q:\n%s", path, old, text)
	}
	Write(t, path, strings.Replace(text, old, replacement, 1))
}
