//go:build !quick

// Package packaging holds no code: its tests check what is installed beside
// the programs against the programs that read it. The units are verified and
// scored by systemd-analyze, and users, groups and directories are made by
// systemd-sysusers and systemd-tmpfiles below a scratch root, where it is then
// tried who can do what with the sockets. What the units do is tried on a system
// that systemd boots, in namespaces of its own on a file system over this
// machine's.
package packaging

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// maxExposure is the worst score that systemd-analyze may give to a unit, in
// tenths: 0 is the best, 100 an unprotected service.
const maxExposure = 20

func units(t *testing.T) []string {
	t.Helper()
	units, err := filepath.Glob("systemd/*.service")
	if err != nil || len(units) == 0 {
		t.Fatalf("no units in systemd/: %v", err)
	}
	return units
}

// TestUnitsVerify lets systemd parse the units. The programs are replaced,
// since verify wants them to be installed.
func TestUnitsVerify(t *testing.T) {
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, unit := range append(units(t), "../contrib/line/etrnd-line@.service") {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"/usr/sbin/etrnd", "/usr/sbin/etrn-milter", "/usr/sbin/pppd"} {
			text = bytes.ReplaceAll(text, []byte(program+" "), []byte("/bin/true "))
		}
		// An instance, since a template alone is not loaded.
		path := filepath.Join(dir, strings.Replace(filepath.Base(unit), "@.", "@isp.", 1))
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze verify: %v", err)
	}
	// Problems of other units of this machine are none of ours, and an
	// unknown setting is a warning only: read what it says about ours.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "etrn") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
}

// TestUnitsExposure fails when a unit scores worse than the promise.
func TestUnitsExposure(t *testing.T) {
	for _, unit := range units(t) {
		out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager",
			"--threshold="+strconv.Itoa(maxExposure), unit).CombinedOutput()
		var bad []string
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "✗") || strings.HasPrefix(line, "→") {
				bad = append(bad, line)
			}
		}
		if len(bad) == 0 {
			t.Fatalf("%s: systemd-analyze gave no score: %v\n%s", unit, err, out)
		}
		if err != nil {
			t.Errorf("%s: %v; what counts against it:\n%s", unit, err, strings.Join(bad, ""))
			continue
		}
		t.Logf("%s: %s", unit, strings.TrimSpace(bad[len(bad)-1]))
	}
}

// root is a scratch system in which sysusers.conf and tmpfiles.conf have been
// carried out, on top of the users that the postfix package makes.
func root(t *testing.T) (dir string, uids, gids map[string]int) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test gives files to users: run it as root")
	}
	// Not t.TempDir, whose parents the users below may not enter.
	dir, err := os.MkdirTemp("", "etrnd-packaging-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"etc", "run", "var/spool/postfix"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\npostfix:x:102:105::/var/spool/postfix:/usr/sbin/nologin\n",
		"etc/group":  "root:x:0:\npostfix:x:105:\npostdrop:x:106:\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"systemd-sysusers", "--root=" + dir},
		{"systemd-tmpfiles", "--root=" + dir, "--create"},
	} {
		conf, err := filepath.Abs(strings.TrimPrefix(args[0], "systemd-") + ".conf")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(args[0], append(args[1:], conf)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	ids := func(name string) map[string]int {
		text, err := os.ReadFile(filepath.Join(dir, "etc", name))
		if err != nil {
			t.Fatal(err)
		}
		ids := make(map[string]int)
		for line := range strings.Lines(string(text)) {
			f := strings.Split(line, ":")
			if ids[f[0]], err = strconv.Atoi(f[2]); err != nil {
				t.Fatalf("%s: %q: %v", name, line, err)
			}
		}
		return ids
	}
	return dir, ids("passwd"), ids("group")
}

// TestSocketDirectory tries who can bind, connect and remove in the directories
// of the sockets. The kernel decides, not the mode.
func TestSocketDirectory(t *testing.T) {
	dir, uids, gids := root(t)
	sockets := filepath.Join(dir, "var/spool/postfix/etrnd")
	who := func(user string, groups ...string) *syscall.Credential {
		c := &syscall.Credential{Uid: id(t, uids, user), Gid: id(t, gids, user), Groups: []uint32{}}
		for _, g := range groups {
			c.Groups = append(c.Groups, id(t, gids, g))
		}
		return c
	}
	// As the units start them. The groups of etrnd are in its unit.
	unit, err := os.ReadFile("systemd/etrnd.service")
	if err != nil {
		t.Fatal(err)
	}
	var groups []string
	for line := range strings.Lines(string(unit)) {
		if v, ok := strings.CutPrefix(line, "SupplementaryGroups="); ok {
			groups = append(groups, strings.Fields(v)...)
		}
	}
	etrnd, milter := who("etrnd", groups...), who("etrn-milter")
	// smtpd drops all supplementary groups.
	postfix := who("postfix")
	stranger := &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{}}
	// An operator: a member of etrnd, for etrnctl.
	operator := &syscall.Credential{Uid: 4711, Gid: id(t, gids, "etrnd"), Groups: []uint32{}}

	policySock, link := filepath.Join(sockets, "policy.sock"), filepath.Join(sockets, "milter.sock")
	milterSock := filepath.Join(sockets, "../etrn-milter/milter.sock")
	turnSock := filepath.Join(sockets, "turn-acme.sock")
	steps := []struct {
		what  string
		who   *syscall.Credential
		do    string
		path  string
		works bool
	}{
		{"etrnd binds the policy socket", etrnd, "bind", policySock, true},
		{"etrnd binds the socket of a turned queue", etrnd, "bind", turnSock, true},
		{"the milter binds its own", milter, "bind", milterSock, true},
		{"smtpd reaches the policy service", postfix, "connect", policySock, true},
		{"lmtp reaches the turned queue", postfix, "connect", turnSock, true},
		{"smtpd reaches the milter by the path that it knows", postfix, "connect", link, true},
		// A taken-over milter must not answer for the policy service, which
		// decides who may ask for whose mail, nor be given any.
		{"the milter cannot remove the policy socket", milter, "remove", policySock, false},
		{"the milter cannot put a queue's socket there", milter, "bind", filepath.Join(sockets, "turn-beta.sock"), false},
		{"the milter cannot remove a queue's socket", milter, "remove", turnSock, false},
		{"the milter cannot remove its link", milter, "remove", link, false},
		// A taken-over etrnd must not be shown all mail.
		{"etrnd cannot remove the milter's socket", etrnd, "remove", milterSock, false},
		{"etrnd cannot remove the milter's link", etrnd, "remove", link, false},
		{"etrnd cannot put a socket there", etrnd, "bind", filepath.Join(filepath.Dir(milterSock), "other.sock"), false},
		{"smtpd cannot put a socket there", postfix, "bind", filepath.Join(sockets, "other.sock"), false},
		{"smtpd cannot remove one", postfix, "remove", milterSock, false},
		{"a local user cannot put a socket there", stranger, "bind", filepath.Join(sockets, "other.sock"), false},
		{"a local user cannot speak to the milter", stranger, "connect", milterSock, false},
		// Members of etrnd use etrnctl, and no more.
		{"an operator cannot put a socket there either", operator, "bind", filepath.Join(sockets, "other.sock"), false},
		{"an operator cannot remove one", operator, "remove", policySock, false},
		// A socket left behind by kill -9 must not be in the way.
		{"etrnd removes its own socket", etrnd, "remove", policySock, true},
		{"etrnd binds again", etrnd, "bind", policySock, true},
	}
	for _, s := range steps {
		err := as(t, s.who, s.do, s.path)
		switch {
		case s.works && err != nil:
			t.Errorf("%s: fails: %v", s.what, err)
		case !s.works && err == nil:
			t.Errorf("%s: it can", s.what)
		case !s.works && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM):
			t.Errorf("%s: %v, want a refusal by the kernel", s.what, err)
		}
	}
}

// TestGroups holds that the milter has no rights but its own.
func TestGroups(t *testing.T) {
	unit, err := os.ReadFile("systemd/etrn-milter.service")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(unit, []byte("\nSupplementaryGroups=")) {
		t.Error("etrn-milter.service joins a group; it reads mail from strangers and needs none")
	}
	dir, _, _ := root(t)
	text, err := os.ReadFile(filepath.Join(dir, "etc/group"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); f[3] != "" {
			t.Errorf("group %s has the members %q by package; members of etrnd may use etrnctl", f[0], f[3])
		}
	}
}

func id(t *testing.T, ids map[string]int, name string) uint32 {
	t.Helper()
	n, ok := ids[name]
	if !ok {
		t.Fatalf("sysusers.conf made no %q: %v", name, ids)
	}
	return uint32(n)
}

// as does one thing as another user, in a child: the test binary itself.
func as(t *testing.T, who *syscall.Credential, do, path string) error {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Opened by root and run by its descriptor: the users cannot enter the
	// directory of the test binary.
	f, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/fd/3", "-test.run=^$")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = []string{"ETRND_TEST_DO=" + do, "ETRND_TEST_PATH=" + path}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start as uid %d: %v", who.Uid, err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 1 {
		// The child's status is the error number, see TestMain.
		return fmt.Errorf("%s: %w", strings.TrimSpace(out.String()), syscall.Errno(exit.ExitCode()))
	}
	if err != nil {
		t.Fatalf("as uid %d: %v\n%s", who.Uid, err, out.String())
	}
	return nil
}

func TestMain(m *testing.M) {
	do, path := os.Getenv("ETRND_TEST_DO"), os.Getenv("ETRND_TEST_PATH")
	if do == "" {
		os.Exit(m.Run())
	}
	if err := act(do, path); err != nil {
		fmt.Println(err)
		var errno syscall.Errno
		if errors.As(err, &errno) {
			os.Exit(int(errno))
		}
		os.Exit(1)
	}
	os.Exit(0)
}

// act does in the child what a step asks for. EPERM is 1 as an exit status
// and would be taken for a failure of the child: it is told as EACCES.
func act(do, path string) error {
	err := func() error {
		switch do {
		case "bind":
			// The socket stays when the child ends, as after kill -9: it
			// refuses connections, but only those that may reach it.
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
				return err
			}
			return os.Chmod(path, 0o666)
		case "connect":
			c, err := net.Dial("unix", path)
			if errors.Is(err, syscall.ECONNREFUSED) {
				// The kernel has looked up the socket and checked the rights.
				return nil
			}
			if err == nil {
				c.Close()
			}
			return err
		case "remove":
			return os.Remove(path)
		}
		return fmt.Errorf("unknown step %q", do)
	}()
	if errors.Is(err, syscall.EPERM) {
		return syscall.EACCES
	}
	return err
}
