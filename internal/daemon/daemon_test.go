package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/hang"
)

const patience = hang.Limit

// buffer is written by several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// load is a configuration that works, unless the file is called bad.
func load(file string) (*config.Config, error) {
	if file == "bad" {
		return nil, errors.New("bad:1: colour: unknown key")
	}
	return &config.Config{LogFormat: "json", LogLevel: slog.LevelWarn, Warnings: []config.Problem{{File: file, Line: 7, Msg: "likely to surprise"}}}, nil
}

func TestCommandLine(t *testing.T) {
	runs := 0
	p := Program{Name: "etrnd", Version: "1.2.3", Load: load, Start: func(e Env) (Service, error) {
		return Service{Run: func(_ context.Context, ready func()) error {
			runs++
			ready()
			if e.File == "fails" {
				return errors.New("the socket is taken")
			}
			return nil
		}}, nil
	}}
	refuses := Program{Name: "etrnd", Load: load, Start: func(Env) (Service, error) { return Service{}, errors.New("no certificate") }}
	quiet := p
	quiet.Quiet = true
	const warning = "warning: etrnd.toml:7: likely to surprise\n"
	for _, tt := range []struct {
		p              Program
		args           string
		exit, runs     int
		stdout, stderr string // all of the first, part of the second
	}{
		{p: p, args: "-version", stdout: "etrnd 1.2.3\n"},
		{p: p, args: "-help", stderr: "-config file"},
		{p: p, args: "-colour", exit: 64, stderr: "-colour"},
		{p: p, args: "start", exit: 64, stderr: "etrnd: takes no arguments, but got \"start\"\n"},
		{p: p, args: "-config bad", exit: 78, stderr: "bad:1: colour: unknown key\n"},
		{p: p, args: "-check -config bad", exit: 78, stderr: "bad:1: colour: unknown key\n"},
		{p: p, args: "-check -config etrnd.toml", stderr: warning + "etrnd.toml: no errors\n"},
		{p: quiet, args: "-check -config etrnd.toml", stderr: warning + "etrnd.toml: no errors\n"},
		// Warnings are for people, also when the log is for programs.
		{p: p, args: "-config etrnd.toml", runs: 1, stderr: warning},
		{p: quiet, args: "-config etrnd.toml", runs: 1},
		{p: p, args: "-config fails", exit: 75, runs: 1, stderr: `"error":"the socket is taken"`},
		{p: refuses, args: "-config etrnd.toml", exit: 78, stderr: `"error":"no certificate"`},
	} {
		runs = 0
		var stdout, stderr buffer
		if exit := tt.p.Main(strings.Fields(tt.args), &stdout, &stderr); exit != tt.exit || runs != tt.runs || stdout.String() != tt.stdout || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%s: exit %d, %d runs, %q, %q; want %d, %d, %q, %q", tt.args, exit, runs, &stdout.b, &stderr.b, tt.exit, tt.runs, tt.stdout, tt.stderr)
		}
		if tt.p.Quiet && !strings.Contains(tt.args, "-check") && strings.Contains(stderr.String(), "warning") {
			t.Errorf("%s: %q", tt.args, &stderr.b)
		}
	}
}

// systemd is the receiving end of sd_notify(3).
type systemd struct{ *net.UnixConn }

func newSystemd(t *testing.T) systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return systemd{c}
}

func (s systemd) expect(t *testing.T, state string) {
	t.Helper()
	b := make([]byte, 1000)
	s.SetReadDeadline(time.Now().Add(patience))
	n, err := s.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), state) {
		t.Fatalf("systemd is told %q, %v; want %s", b[:n], err, state)
	}
}

// A life as systemd sees it. A SIGHUP that comes before the daemon is ready
// waits for it, and is no end of it; and that the daemon stops is told when it
// begins to drain, not when it has.
func TestLife(t *testing.T) {
	s := newSystemd(t)
	starting, draining := make(chan struct{}), make(chan struct{})
	hurry, drained := make(chan struct{}), make(chan struct{})
	reloads := 0
	p := Program{Name: "etrnd", Load: load, Start: func(Env) (Service, error) {
		return Service{
			Run: func(ctx context.Context, ready func()) error {
				close(starting)
				<-hurry
				ready()
				<-ctx.Done()
				close(draining)
				<-drained
				return nil
			},
			Reload: func(context.Context) { reloads++ },
		}, nil
	}}
	ended := make(chan int, 1)
	var log buffer
	go func() { ended <- p.Main([]string{"-config", "etrnd.toml"}, &log, &log) }()
	<-starting
	syscall.Kill(os.Getpid(), syscall.SIGHUP)
	close(hurry)
	s.expect(t, "READY=1")
	for again := range 2 {
		s.expect(t, "RELOADING=1\nMONOTONIC_USEC=")
		s.expect(t, "READY=1")
		if again == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGHUP)
		}
	}
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	s.expect(t, "STOPPING=1")
	<-draining
	close(drained)
	select {
	case exit := <-ended:
		if exit != 0 || reloads != 2 {
			t.Errorf("exit %d, %d reloads", exit, reloads)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
}

// What never was ready says nothing to systemd: it may not be the main process.
func TestNeverReady(t *testing.T) {
	s := newSystemd(t)
	p := Program{Name: "etrnd", Load: load, Start: func(Env) (Service, error) {
		return Service{Run: func(context.Context, func()) error { return errors.New("the socket is taken") }}, nil
	}}
	var log buffer
	if exit := p.Main(nil, &log, &log); exit != 75 {
		t.Errorf("exit %d", exit)
	}
	s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	b := make([]byte, 100)
	if n, err := s.Read(b); err == nil {
		t.Errorf("systemd is told %q", b[:n])
	}
}

// The level can be changed while the log is in use; the form follows the
// configuration.
func TestLog(t *testing.T) {
	var out buffer
	p := Program{Name: "etrnd", Load: load, Quiet: true, Start: func(e Env) (Service, error) {
		return Service{Run: func(_ context.Context, ready func()) error {
			e.Log.Info("not said")
			e.Level.Set(slog.LevelInfo)
			e.Log.Info("said", "queue", "acme")
			e.Level.Set(slog.LevelError)
			return nil
		}}, nil
	}}
	if exit := p.Main(nil, &out, &out); exit != 0 {
		t.Fatalf("exit %d: %s", exit, &out.b)
	}
	var line map[string]any
	if err := json.Unmarshal(out.b.Bytes(), &line); err != nil || line["msg"] != "said" || line["queue"] != "acme" {
		t.Errorf("the log is %q", &out.b)
	}
}
