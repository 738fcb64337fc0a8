package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/programs"
)

// program is etrnd as it is installed.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		built, err := programs.Build(context.Background(), false)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer built.Close()
		program = built.Path("etrnd")
		return m.Run()
	}())
}

// runBinary runs the program and returns its exit code and all that it says.
func runBinary(t *testing.T, args ...string) (int, string) {
	t.Helper()
	out, err := exec.CommandContext(hang.Context(t), program, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode(), string(out)
	}
	return 0, string(out)
}

// Every bad configuration is refused by the program itself with exit code 78
// and all of its problems, whether it is asked to check or to run.
func TestBadConfigurations(t *testing.T) {
	const testdata = "../../internal/config/testdata"
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(testdata)); err != nil {
		t.Fatal(err)
	}
	// As the package of the configuration has them: secrets that only their
	// owner can read.
	for _, name := range []string{"tls/hub.key", "tls/users", "tls/password"} {
		if err := os.Chmod(filepath.Join(root, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dirs, err := os.ReadDir(testdata + "/bad")
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) < 40 {
		t.Fatalf("only %d bad configurations found", len(dirs))
	}
	for i, d := range dirs {
		dir := filepath.Join(root, "bad", d.Name())
		want, err := os.ReadFile(filepath.Join(dir, "want"))
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"-config", filepath.Join(dir, "etrnd.toml")}
		if i%2 == 0 {
			args = append(args, "-check")
		}
		code, out := runBinary(t, args...)
		out = strings.ReplaceAll(out, dir+"/", "")
		out = strings.ReplaceAll(out, filepath.Dir(dir)+"/", "../")
		out = strings.ReplaceAll(out, root+"/", "../../")
		if code != 78 || out != string(want) {
			t.Errorf("%s: exit %d, want 78; it says:\n%swant:\n%s", d.Name(), code, out, want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	good := filepath.Join(t.TempDir(), "etrnd.toml")
	if err := os.WriteFile(good, []byte("hostname = \"hub.example.net\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-version"}, 0, "etrnd "},
		{[]string{"-help"}, 0, "-config"},
		{[]string{"-check", "-config", good}, 0, "no errors"},
		{[]string{"-nonsense"}, 64, "nonsense"},
		{[]string{"start"}, 64, "start"},
		{[]string{"-config", "/nonexistent/etrnd.toml"}, 78, "/nonexistent/etrnd.toml"},
	} {
		if code, out := runBinary(t, c.args...); code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("etrnd %v: exit %d, want %d; it says %q", c.args, code, c.code, out)
		}
	}
}

// It ends with 0 on SIGTERM, and leaves no socket that somebody would wait at.
func TestLife(t *testing.T) {
	dir := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close() // and so it is, but for a moment
	config := "hostname = \"hub.example.net\"\n[milter]\nreport = \"unix:" + dir + "/report.sock\"\n[policy]\nlisten = \"unix:" + dir + "/policy.sock\"\n[control]\nlisten = \"unix:" + dir + "/control.sock\"\ngroup = \"root\"\n[odmr]\nlisten = [\"" + free.Addr().String() + "\"]\n"
	file := filepath.Join(dir, "etrnd.toml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(program, "-config", file)
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	deadline := hang.After()
	for {
		if _, err := os.Stat(dir + "/control.sock"); err == nil {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("it ended: %v\n%s", err, out.String())
		case <-deadline:
			cmd.Process.Kill()
			t.Fatalf("it did not listen\n%s", out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("after SIGTERM: %v\n%s", err, out.String())
		}
	case <-deadline:
		cmd.Process.Kill()
		t.Errorf("it did not end\n%s", out.String())
	}
	if _, err := os.Stat(dir + "/control.sock"); err == nil {
		t.Error("the control socket is still there")
	}
}
