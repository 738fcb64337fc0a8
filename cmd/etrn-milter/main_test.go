//go:build !quick

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/report"
	"github.com/etrnd/etrnd/internal/testbed"
)

const goodConfig = `hostname = "hub.example.net"

[[queue]]
name = "acme"
domains = ["acme.example"]
deliver = "smtp:[127.0.0.1]:9"
clients = ["192.0.2.0/24"]
`

// program is etrn-milter as it is installed.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		built, err := programs.Build(context.Background(), false)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer built.Close()
		program = built.Path("etrn-milter")
		return m.Run()
	}())
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.toml"), filepath.Join(dir, "bad.toml")
	write(t, good, goodConfig)
	write(t, bad, goodConfig+"colour = \"red\"\n[milter]\nlisten = \"milter.sock\"\n")
	for _, tt := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{args: []string{"-version"}, stdout: "etrn-milter " + programs.Version + "\n"},
		{args: []string{"-check", "-config", good}, stderr: "good.toml: no errors\n"},
		// All problems at once.
		{args: []string{"-check", "-config", bad}, code: 78, stderr: "colour"},
		{args: []string{"-check", "-config", bad}, code: 78, stderr: "milter.sock"},
		{args: []string{"-config", bad}, code: 78, stderr: "bad.toml:8"},
		{args: []string{"-config", filepath.Join(dir, "none.toml")}, code: 78, stderr: "none.toml"},
		{args: []string{"-help"}, stderr: "-config"},
		{args: []string{"-colour"}, code: 64, stderr: "-colour"},
		{args: []string{"start"}, code: 64, stderr: `"start"`},
	} {
		cmd := exec.CommandContext(hang.Context(t), program, tt.args...)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != tt.code || stdout.String() != tt.stdout || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%q: exit %d, %q, %q; want %d, %q, %q", tt.args, code, stdout.String(), stderr.String(), tt.code, tt.stdout, tt.stderr)
		}
	}
}

// systemd is the receiving end of sd_notify(3).
type systemd struct {
	path string
	c    *net.UnixConn
}

func newSystemd(t *testing.T) *systemd {
	t.Helper()
	s := &systemd{path: filepath.Join(t.TempDir(), "notify")}
	var err error
	if s.c, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.c.Close() })
	return s
}

func (s *systemd) expect(t *testing.T, state string) {
	t.Helper()
	b := make([]byte, 1000)
	s.c.SetReadDeadline(hang.Deadline())
	n, err := s.c.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), state) {
		t.Fatalf("systemd is told %q, %v; want %s", b[:n], err, state)
	}
}

// What systemd sees of a life: ready, reloads good and bad, an orderly end.
func TestLife(t *testing.T) {
	dir := t.TempDir()
	file, sock := filepath.Join(dir, "etrnd.toml"), filepath.Join(dir, "m")
	config := goodConfig + fmt.Sprintf("[milter]\nlisten = \"unix:%s\"\nreport = \"unix:%s/r\"\n", sock, dir)
	write(t, file, config)
	systemd := newSystemd(t)
	ctx := hang.Context(t)
	start := func() (*exec.Cmd, *strings.Builder) {
		cmd := exec.CommandContext(ctx, program, "-config", file)
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+systemd.path)
		var log strings.Builder
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &log
	}
	cmd, log := start()
	systemd.expect(t, "READY=1")
	if fi, err := os.Stat(sock); err != nil || fi.Mode().Perm() != 0o666 {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	// A second one must not take its socket away.
	second, log2 := start()
	if err := second.Wait(); second.ProcessState.ExitCode() != 75 || !strings.Contains(log2.String(), "another process answers") {
		t.Errorf("a second one: %v, %s", err, log2)
	}
	write(t, file, config+"colour = 1\n")
	cmd.Process.Signal(syscall.SIGHUP)
	systemd.expect(t, "RELOADING=1\nMONOTONIC_USEC=")
	systemd.expect(t, "READY=1")
	write(t, file, strings.Replace(config, sock, sock+"2", 1))
	cmd.Process.Signal(syscall.SIGHUP)
	systemd.expect(t, "RELOADING=1")
	systemd.expect(t, "READY=1")
	cmd.Process.Signal(syscall.SIGTERM)
	systemd.expect(t, "STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	for _, want := range []string{
		"reload failed; the old configuration stays in force", "colour",
		"a change of this key needs a restart", `key="milter: listen"`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("not in the log: %s", want)
		}
	}
	if t.Failed() {
		t.Log(log)
	}
	if _, err := os.Lstat(sock); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// hub is a host whose Postfix asks the milter.
func hub(t *testing.T) *testbed.Host {
	t.Helper()
	h, _ := host(t, goodConfig, nil)
	return h
}

// host is a host with this etrnd.toml and these further settings of Postfix,
// which would wait for a milter for longer than a test does: that mail is taken
// shows that it was not waited for.
func host(t *testing.T, config string, main map[string]string) (*testbed.Host, *testbed.Postfix) {
	t.Helper()
	ctx := t.Context()
	h, err := testbed.Start(t).Host(ctx, "hub", testbed.HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.WriteFile("/etc/etrnd/etrnd.toml", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.Install(program, "/usr/local/sbin/etrn-milter", 0o755); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{
		"defer_transports":      "transient",
		"relay_domains":         "acme.example",
		"transport_maps":        "inline:{acme.example=transient:[127.0.0.1]:9}",
		"smtpd_milters":         "unix:etrnd/milter.sock",
		"non_smtpd_milters":     "unix:etrnd/milter.sock",
		"milter_default_action": "accept",

		"milter_connect_timeout": "1h",
		"milter_command_timeout": "1h",
		"milter_content_timeout": "1h",
	}
	maps.Copy(settings, main)
	pf, err := h.Postfix(ctx, testbed.PostfixOptions{Main: settings, Master: []string{"transient unix - - n - - smtp"}})
	if err != nil {
		t.Fatal(err)
	}
	return h, pf
}

// start starts the milter as its own user and waits until it answers.
func start(t *testing.T, h *testbed.Host) *testbed.Process {
	t.Helper()
	p, err := h.Start(t.Context(), testbed.StartOptions{User: "etrn-milter", Args: []string{"/usr/local/sbin/etrn-milter"}})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the milter to listen", func() (bool, error) {
		select {
		case <-p.Exited():
			return false, errors.New("it ended")
		default:
		}
		c, err := h.Dial(t.Context(), "unix", "/var/spool/postfix/etrnd/milter.sock")
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
	return p
}

func until(t *testing.T, what string, ok func() (bool, error)) {
	t.Helper()
	if err := testbed.Until(t.Context(), what, ok); err != nil {
		t.Fatal(err)
	}
}

var toAcme = testbed.Message{To: []string{"a@acme.example"}}

// tagged counts the messages in the queue, and those with a tag.
func tagged(t *testing.T, h *testbed.Host) (all, tagged int) {
	t.Helper()
	q, err := h.Queue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range q {
		ids = append(ids, m.ID)
	}
	out, err := h.Run(t.Context(), append([]string{"postcat", "-qh"}, ids...)...)
	if err != nil {
		t.Fatal(err)
	}
	return len(ids), strings.Count(out, "\nX-ETRN-Queue: acme\n")
}

// Postfix takes every message, whatever happens to the milter, and does not wait
// for it.
func TestKilled(t *testing.T) {
	h := hub(t)
	p := start(t, h)
	var sent atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ids, err := h.SendMany(t.Context(), "", []testbed.Message{toAcme, toAcme, toAcme})
				if err != nil || len(ids) != 3 {
					t.Errorf("Postfix took %d of 3: %v", len(ids), err)
					return
				}
				sent.Add(3)
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		want := sent.Load() + n
		until(t, "more mail", func() (bool, error) {
			if t.Failed() {
				return false, errors.New("mail was refused")
			}
			return sent.Load() >= want, nil
		})
	}
	for range 4 {
		more(15)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		more(15)
		p = start(t, h)
	}
	more(15)
	close(stop)
	wg.Wait()
	all, n := tagged(t, h)
	if all != int(sent.Load()) {
		t.Errorf("%d messages are held, %d were sent", all, sent.Load())
	}
	// Five times fifteen came while it ran, give or take those of a kill.
	if n < 30 || n == all {
		t.Errorf("%d of %d messages have tags", n, all)
	}
}

// Out of descriptors the milter is no use, but no hindrance; with some again
// it tags on.
func TestEMFILE(t *testing.T) {
	h := hub(t)
	p := start(t, h)
	if _, err := h.Send(t.Context(), "", toAcme); err != nil {
		t.Fatal(err)
	}
	pid, err := h.Run(t.Context(), "pidof", "etrn-milter")
	if err != nil {
		t.Fatal(err)
	}
	// As the milter's own user, who may lower and raise the soft limit.
	limit := func(n string) {
		t.Helper()
		out, err := h.Command(t.Context(), "prlimit", "--pid", strings.TrimSpace(pid), "--nofile="+n+":").As("etrn-milter").CombinedOutput()
		if err != nil {
			t.Fatalf("prlimit: %v: %s", err, out)
		}
	}
	// Connections that say nothing use up what there is.
	limit("24")
	var idle []net.Conn
	for range 40 {
		c, err := h.Dial(t.Context(), "unix", "/var/spool/postfix/etrnd/milter.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	until(t, "descriptors to run out", func() (bool, error) {
		log, err := h.ReadFile(p.Log())
		return strings.Contains(string(log), "too many open files"), err
	})
	for range 3 {
		if _, err := h.Send(t.Context(), "", toAcme); err != nil {
			t.Fatal(err)
		}
	}
	if all, n := tagged(t, h); all != 4 || n != 1 {
		t.Errorf("%d of %d messages have tags, want 1 of 4", n, all)
	}
	for _, c := range idle {
		c.Close()
	}
	before := 1
	until(t, "tags again", func() (bool, error) {
		if _, err := h.Send(t.Context(), "", toAcme); err != nil {
			return false, err
		}
		_, n := tagged(t, h)
		return n > before, nil
	})
}

// The daemon is away: mail is tagged all the same, and reported when it is
// back. It is the user of the milter who reports.
func TestDaemonAway(t *testing.T) {
	h := hub(t)
	start(t, h)
	send := func() {
		t.Helper()
		if _, err := h.Send(t.Context(), "", toAcme); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if all, n := tagged(t, h); all != 1 || n != 1 {
		t.Errorf("%d of %d messages have tags", n, all)
	}
	id, err := h.Run(t.Context(), "id", "-u", "etrn-milter")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(strings.TrimSpace(id))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Run(t.Context(), "mkdir", "-p", "/run/etrnd"); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	daemon := func() (stop func()) {
		ln, err := listen.Listen(t.Context(), "unix:"+h.Path("/run/etrnd/report.sock"), listen.Options{Mode: 0o666})
		if err != nil {
			t.Fatal(err)
		}
		s := report.NewServer(report.ServerOptions{
			UIDs:   []int{uid},
			Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Handle: func(e report.Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Kind == report.Message {
					seen[e.QueueID] = true
				}
			},
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, ln) }()
		stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(stop)
		return stop
	}
	reported := func() {
		t.Helper()
		until(t, "reports of all messages", func() (bool, error) {
			q, err := h.Queue(t.Context())
			if err != nil {
				return false, err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, m := range q {
				if !seen[m.ID] {
					return false, nil
				}
			}
			return true, nil
		})
	}
	stop := daemon()
	reported()
	send()
	reported()
	stop()
	// The reporter must have noticed, or the report goes into a closed socket
	// and counts as lost.
	until(t, "the reporter to notice", func() (bool, error) {
		log, err := h.ReadFile("/var/log/etrn-milter.log")
		return strings.Contains(string(log), "lost the daemon"), err
	})
	send()
	daemon()
	reported()
}

// A site holds all that is not for itself. Postfix tells the transport of a
// recipient to the milter for mail by SMTP only; for mail from the command
// line the milter's own user must be able to find out what is local.
func TestCommandLineMail(t *testing.T) {
	h, _ := host(t, `hostname = "site.example"

[[queue]]
name = "out"
domains = ["*", "boss@held.example"]
deliver = "smtp:[127.0.0.1]:9"
clients = ["192.0.2.0/24"]
`, map[string]string{
		"default_transport":       "transient:[127.0.0.1]:9",
		"virtual_mailbox_domains": "texthash:/etc/postfix/mine",
		"virtual_transport":       "error:kept for the test to see",
		"recipient_delimiter":     "+",
		"transport_maps":          "",
	})
	if err := h.WriteFile("/etc/postfix/mine", []byte("mine.example x\nheld.example x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := start(t, h)
	for i, tt := range []struct {
		rcpts string
		want  string // as the milter logs it; empty: nothing to log
	}{
		{"x@far.example", "queues=[out] recipients=1"},
		{"x@mine.example y@far.example", "queues=[out] recipients=1"},
		{"boss+lists@held.example", "queues=[out] recipients=1"},
		{"x@mine.example", ""},
	} {
		sender := fmt.Sprintf("s%d@hub.example.net", i)
		if _, err := h.Run(t.Context(), "sh", "-c", "echo hello | sendmail -f "+sender+" "+tt.rcpts); err != nil {
			t.Fatal(err)
		}
		var id string
		until(t, "Postfix to take the message", func() (bool, error) {
			log, err := h.ReadFile("/var/log/mail.log")
			before, _, ok := strings.Cut(string(log), ": from=<"+sender+">, size=")
			id = before[strings.LastIndexByte(before, ' ')+1:]
			return ok, err
		})
		// By then the milter has answered, and logged.
		log, err := h.ReadFile(p.Log())
		if err != nil {
			t.Fatal(err)
		}
		_, line, found := strings.Cut(string(log), "id="+id+" ")
		if line, _, _ = strings.Cut(line, "\n"); found != (tt.want != "") || !strings.Contains(line, tt.want) {
			t.Errorf("mail to %s: the milter logs %q, want %q", tt.rcpts, line, tt.want)
		}
		if strings.Contains(string(log), "level=WARN") && strings.Contains(string(log), "local") {
			t.Errorf("log: %s", log)
		}
	}
}

// A milter that hangs delays mail by no more than Postfix is told to wait for
// it, and what it is told about this milter leaves others alone.
func TestHangs(t *testing.T) {
	told := func(timeout string) map[string]string {
		return map[string]string{
			"smtpd_milters":         "{ unix:etrnd/milter.sock, connect_timeout=" + timeout + ", command_timeout=" + timeout + ", content_timeout=" + timeout + ", default_action=accept }",
			"non_smtpd_milters":     "",
			"milter_default_action": "tempfail", // for other milters
		}
	}
	h, pf := host(t, goodConfig, told("1h"))
	// tell changes it, for the time in which nobody answers: a milter that is
	// merely slow, as this machine may be, is to have what it needs.
	tell := func(timeout string) {
		t.Helper()
		if err := errors.Join(pf.Set(t.Context(), told(timeout)), pf.Reload(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, h)
	send := func() {
		t.Helper()
		if _, err := h.Send(t.Context(), "", toAcme); err != nil {
			t.Fatal(err)
		}
	}
	send()
	tell("2s")
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, "every thread of the milter to stop", func() (bool, error) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		for _, path := range threads {
			stat, err := os.ReadFile(path)
			if err != nil {
				return false, err
			}
			if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T") {
				return false, nil
			}
		}
		return len(threads) > 0, err
	})
	send()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	send()
	tell("1h")
	start(t, h)
	send()
	if all, n := tagged(t, h); all != 4 || n != 2 {
		t.Errorf("%d of %d messages have tags, want 2 of 4", n, all)
	}
}
