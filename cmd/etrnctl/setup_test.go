package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/postfix/setup"
)

// What has failed for want of room or by a fault of the machine can be tried
// again, and is no fault of the configuration.
func TestSetupErrors(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "/etc/postfix/etrnd/transport", Err: syscall.ENOSPC}
	state := []string{"nothing has been changed"}
	for name, c := range map[string]struct {
		err  error
		exit int
		hint string
	}{
		"no room":            {&setup.Halt{Err: full, State: state, Do: "make room", Again: true}, api.ExitTempFail, "make room"},
		"does not pass":      {&setup.Halt{Err: errors.New("the new set-up does not pass"), State: state, Do: "mend it"}, api.ExitConfig, "mend it"},
		"interrupted":        {&setup.Halt{Err: fmt.Errorf("x: %w", context.Canceled), State: state, Do: "go on"}, api.ExitTempFail, "go on"},
		"no room for a plan": {fmt.Errorf("read: %w", full), api.ExitTempFail, "nothing has been changed"},
		"read-only":          {fmt.Errorf("x: %w", syscall.EROFS), api.ExitTempFail, "nothing has been changed"},
		"a disk that fails":  {fmt.Errorf("x: %w", syscall.EIO), api.ExitTempFail, "nothing has been changed"},
		"not root":           {fmt.Errorf("x: %w", fs.ErrPermission), api.ExitNoPerm, "try it as root"},
		"a bad plan":         {errors.New("no such thing"), api.ExitConfig, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var e *api.Error
			if err := mtaError(c.err); !errors.As(err, &e) || e.Exit != c.exit || !strings.Contains(e.Hint, c.hint) {
				t.Fatalf("%+v, want exit %d and %q", err, c.exit, c.hint)
			}
			var h *setup.Halt
			if errors.As(c.err, &h) && strings.Join(e.Details, "") != state[0] {
				t.Errorf("it says %q of how things stand", e.Details)
			}
		})
	}
}

// On a terminal it is said what is being done, on a line that goes again;
// elsewhere only what comes of it.
func TestSetupSaysWhatItDoes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etrnd.toml")
	if err := os.WriteFile(file, []byte("hostname = \"hub.example.net\"\n[mta]\nconfig-dir = \"/nonexistent/postfix\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	command := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), binary, "setup", "postfix", "--config", file)
		cmd.Env = append(os.Environ(), "TERM=xterm")
		return cmd
	}
	master, tty := terminal(t)
	cmd := command()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var out follow
	go func() { _, _ = io.Copy(&out, master) }() // ends when the terminal is closed
	if err := cmd.Wait(); err == nil {
		t.Error("it has set up what is not there")
	}
	out.wait(t, "etrnctl: ")
	if text := out.String(); !strings.HasPrefix(text, "\r\x1b[Klooking at Postfix\r\x1b[K") || strings.Contains(text[strings.Index(text, "etrnctl: "):], "\x1b") {
		t.Errorf("%q", text)
	}
	if text, err := command().CombinedOutput(); err == nil || !strings.HasPrefix(string(text), "etrnctl: ") || strings.Contains(string(text), "looking") {
		t.Errorf("without a terminal: %q, %v", text, err)
	}
}
