//go:build !quick

package report

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Only the users that were named may report, whoever can reach the socket.
func TestPeerCredentials(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test must run as root: it reports as other users")
	}
	// A user other than ours must be able to reach the socket and run the
	// test binary.
	dir, err := os.MkdirTemp("/tmp", "report")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "child")
	if err := os.WriteFile(bin, self, 0o755); err != nil {
		t.Fatal(err)
	}
	const allowed, stranger = 65533, 65532
	d := startDaemon(t, filepath.Join(dir, "s"), ServerOptions{UIDs: []int{allowed}})
	run := func(uid uint32) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), bin)
		cmd.Env = []string{childEnv + "=" + d.path}
		cmd.Dir = dir
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return cmd
	}
	if err := run(stranger).Run(); err != nil {
		t.Fatalf("stranger: %v; want to be cut off", err)
	}
	ok := run(allowed)
	if err := ok.Start(); err != nil {
		t.Fatal(err)
	}
	es := d.wait(t, "hello", atLeast(Hello, 1))
	if got := brief(es); got != "hello" {
		t.Errorf("events: %s", got)
	}
	d.stop()
	if err := ok.Wait(); err != nil {
		t.Errorf("allowed: %v", err)
	}
}
