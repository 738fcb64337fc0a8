//go:build !quick

package packaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/programs"
)

// machine is a system that systemd has booted, with Postfix and both daemons as
// the package installs them, run by their own units: their users, groups and
// sandboxes are what users get.
type machine struct {
	t   *testing.T
	pid int
}

// boot starts a machine with a configuration. prepare is a script that runs in the
// machine before it boots, once the package is installed.
func boot(t *testing.T, config, prepare string) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test boots a system: run it as root")
	}
	dir := t.TempDir()
	built, err := programs.Build(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { built.Close() })
	put := func(from, to string, mode os.FileMode) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(dir, "upper", to)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, text, mode), os.Chmod(to, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write := func(text, to string, mode os.FileMode) {
		t.Helper()
		from := filepath.Join(dir, "text")
		if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		put(from, to, mode)
	}
	put(built.Path("etrnd"), "usr/sbin/etrnd", 0o755)
	put(built.Path("etrn-milter"), "usr/sbin/etrn-milter", 0o755)
	put(built.Path("etrnctl"), "usr/bin/etrnctl", 0o755)
	for _, unit := range units(t) {
		put(unit, "usr/lib/systemd/system/"+filepath.Base(unit), 0o644)
	}
	put("sysusers.conf", "usr/lib/sysusers.d/etrnd.conf", 0o644)
	put("tmpfiles.conf", "usr/lib/tmpfiles.d/etrnd.conf", 0o644)
	put("scripts/postinstall", "usr/local/sbin/postinstall", 0o755)
	write("127.0.0.1 localhost hub.example.net\n192.0.2.2 mail.acme.example\n", "etc/hosts", 0o644)
	write("passwd: files\ngroup: files\nshadow: files\nhosts: files\n", "etc/nsswitch.conf", 0o644)
	write("hub.example.net\n", "etc/hostname", 0o644)
	write("hub.example.net\n", "etc/mailname", 0o644)
	write("", "etc/resolv.conf", 0o644)
	write("", "etc/fstab", 0o644)
	write(config, "etc/etrnd/etrnd.toml", 0o644)
	// A stock Postfix of Debian's, as debconf leaves an "Internet Site".
	write(`set -e
rm -rf /etc/postfix/main.cf /etc/postfix/master.cf /var/spool/postfix /var/lib/postfix /var/log/journal/*
cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf
cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf
mkdir -p /var/spool/postfix /var/log/journal
postconf -e myhostname=hub.example.net 'mydestination=$myhostname, localhost' inet_interfaces=all smtp_host_lookup=native
install -d -o postfix -g postfix /var/lib/postfix
postfix set-permissions >/dev/null 2>&1 || :
[ -e /etc/aliases ] || printf 'postmaster: root\n' >/etc/aliases # whose package need not have made one
newaliases
/usr/local/sbin/postinstall
for unit in postfix etrnd etrn-milter; do
	ln -s /usr/lib/systemd/system/$unit.service /etc/systemd/system/multi-user.target.wants/
done
`+prepare, "usr/local/sbin/setup", 0o755)
	write("#!/bin/sh\nsh -x /usr/local/sbin/setup >/var/log/setup 2>&1\n", "usr/local/sbin/prepare", 0o755)

	cgroup := unified(t)
	var said bytes.Buffer
	self, err := filepath.Abs("boot.sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, dir, cgroup)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, pid: cmd.Process.Pid}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			if out, err := m.run("journalctl --no-pager -n 200 2>&1; systemctl --no-pager --failed; cat /var/log/setup"); err == nil {
				t.Logf("the machine's journal:\n%s", out)
			}
		}
		cmd.Process.Kill() // with it ends every process of the machine
		<-ended
	})
	m.until("the system to be up", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the system has ended: %v\n%s", err, said.String())
		default:
		}
		out, _ := m.run("systemctl is-system-running")
		return strings.TrimSpace(out) == "running" || strings.TrimSpace(out) == "degraded"
	})
	return m
}

// unified makes a directory of the unified hierarchy of cgroups, which is the
// only one or beside the older ones.
func unified(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] != "cgroup2" {
			continue
		}
		dir, err := os.MkdirTemp(f[1], "etrnd-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			// From below: each must be empty, which takes the kernel a moment.
			deadline := hang.Deadline()
			for os.Remove(dir) != nil && time.Now().Before(deadline) {
				_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
					if err == nil && d.IsDir() {
						os.Remove(path)
					}
					return nil
				})
				time.Sleep(5 * time.Millisecond)
			}
		})
		return dir
	}
	t.Fatal("no unified hierarchy of cgroups is mounted here, and systemd needs one")
	return ""
}

// run runs a shell script in the machine, as root.
func (m *machine) run(script string) (string, error) {
	return m.as("root", script)
}

// as runs a script as a user of the machine with nothing but that user's own
// rights. The error has what it wrote to standard error.
func (m *machine) as(user, script string, groups ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), hang.Limit)
	defer cancel()
	args := []string{"-t", strconv.Itoa(m.pid), "-m", "-p", "-n", "-u", "-i", "-C"}
	if user != "root" {
		args = append(args, "setpriv", "--reuid="+user, "--regid="+user, "--inh-caps=-all")
		if len(groups) > 0 {
			args = append(args, "--groups="+strings.Join(groups, ","))
		} else {
			args = append(args, "--clear-groups")
		}
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, "bash", "-c", "cd /\n"+script)...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(diag.String()))
	}
	return out.String(), nil
}

// must is run for what has to work.
func (m *machine) must(script string) string {
	m.t.Helper()
	out, err := m.run(script)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// until waits for a condition.
func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	deadline := hang.Deadline()
	for !ok() {
		if time.Now().After(deadline) {
			m.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
