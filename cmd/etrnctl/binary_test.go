package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
)

// run runs the built binary.
func run(t *testing.T, args ...string) (out string, exit int) {
	t.Helper()
	return finish(t, exec.CommandContext(t.Context(), binary, args...))
}

func finish(t *testing.T, cmd *exec.Cmd) (out string, exit int) {
	t.Helper()
	b, err := cmd.CombinedOutput()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// The exit codes of the real program.
func TestExitCodes(t *testing.T) {
	socket := full().start(t)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	if err := os.WriteFile(bad, []byte("[milter]\nlisten = 7\nheadr = \"x\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		exit int
		says string
	}{
		{"version", 0, "etrnctl 1.2.3\n"},
		{"status --socket " + socket, 0, "running for"},
		{"queues --socket " + socket + " --json", 0, `"name": "acme"`},
		{"queues --socket " + dir + "/none", 75, "systemctl status etrnd"},
		{"setup exim", 64, "supported is: postfix"},
		{"frobnicate", 64, `has no command "frobnicate"`},
		{"check --config " + bad, 78, "bad.toml:3: "},
		{"check --config " + dir + "/none", 78, "no such file"},
		{"user list --config " + bad, 78, "bad.toml:2: "},
		{"setup postfix --config " + bad, 78, "bad.toml:2: "},
		{"probe 127.0.0.1:1", 75, "cannot be probed"}, // nobody listens there
	} {
		out, exit := run(t, strings.Fields(c.args)...)
		if exit != c.exit || !strings.Contains(out, c.says) {
			t.Errorf("etrnctl %s: exit %d, want %d: %s", c.args, exit, c.exit, out)
		}
	}

	// A full disk, or a reader that has gone, is not a success.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := exec.CommandContext(t.Context(), binary, "queues", "--socket", socket)
	cmd.Stdout = full
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != api.ExitTempFail {
		t.Errorf("to a full disk: %v", err)
	}
}

// follow collects what a program prints, and waits for words in it.
type follow struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (f *follow) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.Write(b)
}

func (f *follow) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.text.String()
}

func (f *follow) wait(t *testing.T, words string) {
	t.Helper()
	for deadline := hang.Deadline(); !strings.Contains(f.String(), words); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("15 seconds have passed without %q in %q", words, f.String())
		}
	}
}

// Ctrl-C leaves the call alone and says so.
func TestDetach(t *testing.T) {
	d := full()
	d.events, d.left = queued(callEvents()[:3]), make(chan struct{})
	cmd := exec.CommandContext(t.Context(), binary, "call", "hub", "--wait", "--socket", d.start(t))
	var out follow
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "hub: waiting for the local SMTP listener")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if exit := cmd.ProcessState.ExitCode(); exit != api.ExitTempFail || !strings.Contains(out.String(), "the call goes on without you") || !strings.Contains(out.String(), "etrnctl hang-up isp ends it") {
		t.Errorf("exit %d: %s", exit, &out)
	}
	<-d.left // the daemon has noticed
	if len(d.asked) != 1 {
		t.Errorf("the daemon was asked %q, want the call alone", d.asked)
	}
}

// terminal is a pseudo-terminal: what is written to master was typed.
func terminal(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60})
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return master, tty
}

// On a real terminal the progress is rewritten in place, and gone at the end.
func TestTerminal(t *testing.T) {
	master, tty := terminal(t)
	d := full()
	d.events = queued(slices.DeleteFunc(callEvents(), func(ev api.CallEvent) bool { return ev.Call != hub.Call }))
	cmd := exec.CommandContext(t.Context(), binary, "call", "hub", "--wait", "--socket", d.start(t))
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var out follow
	go func() { _, _ = io.Copy(&out, master) }() // ends when the terminal is closed
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	out.wait(t, "asked #site")
	text := out.String()
	for _, want := range []string{
		"hub: receiving, waiting for 7 of 14 messages\r\n    in 7 of 14 (16 kB)   out 3 of 3 (2.1 MB)   line 1:00\r\n", // of the live lines
		"\x1b[2A\r\x1b[J",                        // over which the next ones are written,
		"\x1b[2A\r\x1b[Jhub: done, the line was", // and in the end the summary
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
}

// A password typed on a terminal is not shown, and has to be typed twice.
func TestTypedPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	typed := func(first, second string) (text string, exit int) {
		master, tty := terminal(t)
		cmd := exec.CommandContext(t.Context(), binary, "user", "add", "acme", "--file", file)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var out follow
		go func() { _, _ = io.Copy(&out, master) }()
		out.wait(t, "Password for acme: ")
		fmt.Fprintf(master, "%s\n", first)
		out.wait(t, "Once more: ")
		fmt.Fprintf(master, "%s\n", second)
		_ = cmd.Wait()
		return out.String(), cmd.ProcessState.ExitCode()
	}
	if text, exit := typed("correct horse", "correct house"); exit != 64 || strings.Contains(text, "horse") {
		t.Errorf("two that differ: exit %d: %q", exit, text)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file was made all the same")
	}
	if text, exit := typed("correct horse", "correct horse"); exit != 0 || strings.Contains(text, "horse") {
		t.Errorf("exit %d: %q", exit, text)
	}
	if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), "acme:{SCRAM-SHA-256}") {
		t.Errorf("the file holds %q (%v)", b, err)
	}
}

// The users file, from the first user to the last.
func TestUser(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	cfg := filepath.Join(dir, "etrnd.toml")
	if err := os.WriteFile(cfg, []byte("hostname = \"hub.example.net\"\n[odmr]\nusers = \""+file+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		args, stdin string
		exit        int
		says        string
	}{
		{"list", "", 78, "there is no users file"},
		{"delete acme", "", 64, `has no user "acme"`},
		{"add acme", "", 64, "the password is empty"},
		{"add acme", "\nsecret\n", 64, "the password is empty"}, // the first line counts
		{"add acme", strings.Repeat("x", 2000) + "\n", 64, "longer than 1000 bytes"},
		{"add acme", "secret\x00\n", 64, "the password cannot be used"},
		{"add a:b", "secret\n", 64, "is not allowed"},
		{"add acme", "secret\nmore\n", 0, file + " is changed; etrnctl reload makes etrnd take notice\n"},
		{"add acme", "", 64, "etrnctl user password acme"}, // before the password is asked for
		{"add beta --cram-md5", "another", 0, ""},          // no line end
		{"list", "", 0, "USER  MECHANISMS\nacme  SCRAM-SHA-256 PLAIN LOGIN\nbeta  SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5\n"},
		{"password gamma", "", 64, `has no user "gamma"`},
		{"password beta", "third\r\n", 0, ""}, // from another system; and CRAM-MD5 is off again
		{"delete acme", "", 0, ""},
		{"list --json", "", 0, `"name": "beta"`},
		{"list --json", "", 0, `"cram_md5": false`},
		{"delete beta", "", 0, ""},
		{"list", "", 0, "has no users"},
		{"list --json", "", 0, "[]\n"},
	} {
		out, errs, exit := etrnctl(t, c.stdin, append([]string{"user", "--config", cfg}, strings.Fields(c.args)...)...)
		if exit != c.exit || !strings.Contains(out+errs, c.says) {
			t.Errorf("%d: user %s: exit %d, want %d: %s%s", i, c.args, exit, c.exit, out, errs)
		}
	}

	// What is wrong with a file is said line by line.
	if err := os.WriteFile(file, []byte("acme\n# fine\nbeta:x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"list", "add gamma", "delete beta"} {
		_, errs, exit := etrnctl(t, "secret\n", append([]string{"user", "--config", cfg}, strings.Fields(args)...)...)
		if exit != 78 || !strings.Contains(errs, "users:1: ") || !strings.Contains(errs, "users:3: ") {
			t.Errorf("user %s: exit %d: %s", args, exit, errs)
		}
	}
	// And a configuration without one says how to name one.
	if err := os.WriteFile(cfg, []byte("hostname = \"hub.example.net\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs, exit := etrnctl(t, "", "user", "list", "--config", cfg); exit != 78 || !strings.Contains(errs, "[odmr] table") {
		t.Errorf("exit %d: %s", exit, errs)
	}
}

// check says everything at once, in the form that editors jump to.
func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("bad.toml", []byte("hostname = \"hub.example.net\"\n[[queue]]\nname = \"acme\"\ndomains = [\"acme..example\"]\n[milter]\nheadr = \"X\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, errs, exit := etrnctl(t, "", "check", "--config", "bad.toml")
	if exit != 78 || !strings.Contains(out, "bad.toml:4: queue \"acme\": domains: ") || !strings.Contains(out, "bad.toml:6: ") || strings.Contains(out, "is good") || !strings.Contains(errs, "errors found") {
		t.Errorf("exit %d\n%s%s", exit, out, errs)
	}
	out, _, exit = etrnctl(t, "", "check", "--json", "--config", "bad.toml")
	if exit != 78 || !strings.Contains(out, `"level": "error"`) || !strings.Contains(out, `"line": 4`) {
		t.Errorf("exit %d\n%s", exit, out)
	}
}

type asker struct{}

func (asker) Ask(context.Context, etrn.Identity, string) etrn.Answer { return etrn.Answer{Code: 459} }

// probe tells what a listener of our own offers, what a server without ETRN
// lacks, and what is no mail server at all.
func TestProbe(t *testing.T) {
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	etrn := listen()
	s, err := odmr.NewServer(odmr.ServerOptions{Hostname: "hub.example.net", Asker: asker{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ctx, etrn) })
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)

	says := func(greeting, ehlo string) net.Listener {
		ln := listen()
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_ = c.SetDeadline(hang.Deadline())
				_, _ = io.WriteString(c, greeting)
				if ehlo != "" {
					_, _ = c.Read(make([]byte, 512))
					_, _ = io.WriteString(c, ehlo)
					_, _ = c.Read(make([]byte, 512))
				}
				c.Close()
			}
		})
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	plain := says("220 mail.acme.example\r\n", "250-mail.acme.example\r\n250 SIZE 10240000\r\n")
	no := says("554 go away\r\n", "")
	closed := listen()
	closed.Close()

	for _, c := range []struct {
		name string
		ln   net.Listener
		exit int
		says []string
	}{
		{"ours", etrn, 0, []string{"  ETRN        yes\n", "  ATRN        no\n", "PIPELINING"}},
		{"without ETRN", plain, 69, []string{"  ETRN        no\n", "  SIZE        10 MB (10240000 bytes)\n", "lists neither ETRN nor ATRN"}},
		{"refuses", no, 69, []string{"554", "go away"}},
		{"nobody", closed, 75, []string{"cannot be probed", closed.Addr().String() + ": connection refused\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, exit := etrnctl(t, "", "probe", c.ln.Addr().String())
			if exit != c.exit {
				t.Errorf("exit %d, want %d", exit, c.exit)
			}
			for _, s := range c.says {
				if !strings.Contains(out+errs, s) {
					t.Errorf("%q is not in\n%s%s", s, out, errs)
				}
			}
			if out, _, _ := etrnctl(t, "", "probe", "--json", c.ln.Addr().String()); !strings.HasPrefix(out, "[\n  {\n    \"address\": \"127.0.0.1:") {
				t.Errorf("JSON: %s", out)
			}
		})
	}
}

// The name of a remote stands for its host and port, and for what a call would
// insist on.
func TestProbeRemote(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := odmr.NewServer(odmr.ServerOptions{Hostname: "hub.example.net", Asker: asker{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ctx, ln) })
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	for mode, want := range map[string]struct {
		exit int
		says string
	}{
		"auto":    {0, "  ETRN        yes\n"},
		"require": {69, "a call of depot would fail"},
	} {
		file := filepath.Join(t.TempDir(), "etrnd.toml")
		text := "hostname = \"site.example\"\n[[link]]\nname = \"isp\"\ninterfaces = [\"ppp0\"]\n[[remote]]\nname = \"depot\"\nlink = \"isp\"\nhost = \"" + ln.Addr().String() +
			"\"\nrouter-type = \"pull-only\"\nrequest = [\"site.example\"]\ntls = \"" + mode + "\"\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, errs, exit := etrnctl(t, "", "--config", file, "probe", "depot")
		if exit != want.exit || !strings.Contains(out+errs, want.says) {
			t.Errorf("%s: exit %d, want %d:\n%s%s", mode, exit, want.exit, out, errs)
		}
	}
}

func TestProbeAddrs(t *testing.T) {
	for in, want := range map[string]string{
		"hub.example.net":         "hub.example.net:366 hub.example.net:25",
		"hub.example.net:2525":    "hub.example.net:2525",
		"192.0.2.1":               "192.0.2.1:366 192.0.2.1:25",
		"2001:db8::1":             "[2001:db8::1]:366 [2001:db8::1]:25",
		"[2001:db8::1]":           "[2001:db8::1]:366 [2001:db8::1]:25",
		"[2001:db8::1]:366":       "[2001:db8::1]:366",
		"":                        "",
		":25":                     "",
		"hub:":                    "",
		"hub:65536":               "",
		"a:b:c":                   "",
		"http://hub.example.net/": "",
		"user@hub.example.net":    "",
	} {
		got, err := probeAddrs(in)
		if strings.Join(got, " ") != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q (%v), want %q", in, got, err, want)
		}
	}
}

// A certificate and what came of TLS, as people see them.
func TestRenderProbe(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b, zone: time.UTC}
	offer := &odmr.Offer{
		Address: "hub.example.net:366", Remote: "192.0.2.1:366", Greeting: "hub.example.net ESMTP\x1b[2J", ESMTP: true, ETRN: true, ATRN: true, STARTTLS: true,
		Pipelining: true, DSN: true, SizeListed: true, Auth: []string{"SCRAM-SHA-256"}, AuthTLS: []string{"SCRAM-SHA-256", "PLAIN", "LOGIN"},
		TLS: &odmr.OfferTLS{Version: "TLS 1.3", Problem: "x509: certificate signed by unknown authority", Certificate: &odmr.OfferCertificate{
			Names: []string{"hub.example.net"}, NotAfter: noon, Fingerprint: strings.Repeat("0123456789abcdef", 4),
		}},
	}
	if err := a.renderProbe([]probed{{Address: "hub.example.net:366", Offer: offer}, {Address: "hub.example.net:25", Error: "connect: timed out"}}); err != nil {
		t.Fatal(err)
	}
	golden(t, "probe", b.String())
}
