package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A named pipe in place of a file is named, and not waited for.
func TestNamedPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for args, says := range map[string]string{
		"user add acme --file":      "is a named pipe and not a regular file",
		"user password acme --file": "is a named pipe and not a regular file",
		"user delete acme --file":   "is a named pipe and not a regular file",
		"user list --file":          "is a named pipe and not a regular file",
		"queues --config":           "could not be used",
		"user list --config":        "is not a regular file",
	} {
		_, errs, exit := etrnctl(t, "secret\n", append(strings.Fields(args), pipe)...)
		if exit == 0 || !strings.Contains(errs, says) {
			t.Errorf("%s: exit %d: %s", args, exit, errs)
		}
	}
	if _, errs, exit := etrnctl(t, "secret\n", "user", "list", "--file", filepath.Dir(pipe)); exit == 0 || !strings.Contains(errs, "is a directory") {
		t.Errorf("a directory: exit %d: %s", exit, errs)
	}
}
