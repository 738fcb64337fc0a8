//go:build !quick

package control

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
)

// Who may act is decided by real credentials of real processes.
func TestPeers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test runs processes of other users and has to be run as root")
	}
	games, err := user.LookupGroup("games") // a group of every Debian
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(games.Gid)
	gid := uint32(n)
	const uid, other = 47110, 47111 // nobody has them
	many := make([]uint32, 200)
	for i := range many {
		many[i] = other + uint32(i)
	}

	for _, c := range []struct {
		name  string
		group string
		cred  syscall.Credential
		exit  int
		says  string
	}{
		// Root needs no group.
		{"root", "games", syscall.Credential{}, 0, "allowed"},
		// A stranger is told who may.
		{"stranger", "games", syscall.Credential{Uid: uid, Gid: other}, api.ExitNoPerm, `user 47110 may not control etrnd: only root and the group "games" may; ask as root, or join the group (adduser USER games) and log in again`},
		// The group may be the primary one,
		{"primary", "games", syscall.Credential{Uid: uid, Gid: gid}, 0, "allowed"},
		// or a supplementary one,
		{"supplementary", "games", syscall.Credential{Uid: uid, Gid: other, Groups: []uint32{other, gid}}, 0, "allowed"},
		// also the last of more than the first buffer holds.
		{"many groups", "games", syscall.Credential{Uid: uid, Gid: other, Groups: append(many[:199:199], gid)}, 0, "allowed"},
		// Other groups, however many, do not help,
		{"other groups", "games", syscall.Credential{Uid: uid, Gid: other, Groups: many}, api.ExitNoPerm, "may not control"},
		// nor does root's group.
		{"group root", "games", syscall.Credential{Uid: uid, Gid: 0}, api.ExitNoPerm, "may not control"},
		// Without a group only root may.
		{"no group", "", syscall.Credential{Uid: uid, Gid: 0}, api.ExitNoPerm, "only root may"},
		// A group that does not exist lets nobody in and is named.
		{"missing group", "no-such-group", syscall.Credential{Uid: uid, Gid: gid}, api.ExitNoPerm, "this machine has no such group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket, _ := serve(t, Options{Backend: &backend{}, Group: c.group})
			got, exit := child(t, socket, c.cred)
			if exit != c.exit || !strings.Contains(got, c.says) {
				t.Errorf("got %q, exit %d; want %q, exit %d", got, exit, c.says, c.exit)
			}
		})
	}

	// The mode of the socket can keep people out before that.
	t.Run("mode", func(t *testing.T) {
		socket, _ := serve(t, Options{Backend: &backend{}, Group: "games"})
		if err := os.Chmod(socket, 0o600); err != nil {
			t.Fatal(err)
		}
		got, exit := child(t, socket, syscall.Credential{Uid: uid, Gid: gid})
		if exit != api.ExitNoPerm || !strings.Contains(got, "you may not open the socket "+socket) {
			t.Errorf("got %q, exit %d", got, exit)
		}
	})
}

// child asks from a process with these credentials.
func child(t *testing.T, socket string, cred syscall.Credential) (out string, exit int) {
	t.Helper()
	// The binary is in a directory that only root may enter.
	bin := filepath.Join(filepath.Dir(socket), "child")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(bin, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin)
	cmd.Env = []string{childSocket + "=" + socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &cred}
	got, err := cmd.CombinedOutput()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return string(got), cmd.ProcessState.ExitCode()
}

// The connections of one user are not another's: a user who has all that he may
// have does not keep the next one from an answer.
func TestLimitIsEachUsersOwn(t *testing.T) {
	socket, _ := serve(t, Options{Backend: &backend{}, ReadTimeout: time.Minute, DrainTimeout: time.Minute})
	for range maxPerUser {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got, exit := child(t, socket, syscall.Credential{Uid: 47110, Gid: 47110}); exit != api.ExitNoPerm {
		t.Errorf("another user: %q, exit %d", got, exit)
	}
}
