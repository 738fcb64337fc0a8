package listen

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		spec             string
		network, address string
		bad              string // part of the message, or empty
	}{
		{spec: "unix:/run/etrnd/report.sock", network: "unix", address: "/run/etrnd/report.sock"},
		// Cleaned, so that two ways to write one path are found to clash.
		{spec: "unix:/run//etrnd/../x", network: "unix", address: "/run/x"},
		{spec: "127.0.0.1:366", network: "tcp", address: "127.0.0.1:366"},
		{spec: "[::]:366", network: "tcp", address: "[::]:366"},
		{spec: ":366", network: "tcp", address: ":366"},
		// Port 0 is for tests: the kernel chooses.
		{spec: "localhost:0", network: "tcp", address: "localhost:0"},
		{spec: "unix:report.sock", bad: "absolute"},
		{spec: "unix:", bad: "absolute"},
		{spec: "unix:/run/etrnd/", bad: "names no file"},
		{spec: "unix:/" + strings.Repeat("x", 107), bad: "107 bytes, this one has 108"},
		{spec: "unix:/a\x00b", bad: "names no file"},
		{spec: "/run/x.sock", bad: `write "unix:/path"`},
		{spec: "", bad: `write "unix:/path"`},
		{spec: "127.0.0.1", bad: `write "unix:/path"`},
		// A service name would make the meaning depend on /etc/services.
		{spec: "127.0.0.1:smtp", bad: `"smtp" is no port`},
		{spec: "127.0.0.1:65536", bad: `"65536" is no port`},
		{spec: "127.0.0.1:-1", bad: `"-1" is no port`},
		{spec: "127.0.0.1:00", bad: `"00" is no port`},
		{spec: "tcp://127.0.0.1:25", bad: `write "unix:/path"`},
		{spec: "a b:25", bad: `"a b" is no host`},
	} {
		network, address, err := Parse(tt.spec)
		switch {
		case tt.bad != "":
			if err == nil || !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("Parse(%q) = %v, want an error with %q", tt.spec, err, tt.bad)
			}
		case err != nil || network != tt.network || address != tt.address:
			t.Errorf("Parse(%q) = %q, %q, %v; want %q, %q", tt.spec, network, address, err, tt.network, tt.address)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"unix:/run/x", "[::]:366", ":25", "a:b:c", "unix:/" + strings.Repeat("x", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		network, address, err := Parse(s)
		if err != nil {
			if len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if network == "unix" && (!filepath.IsAbs(address) || len(address) > MaxUnixPath) {
			t.Errorf("Parse(%q) = %q, %q", s, network, address)
		}
	})
}

func open(t *testing.T, spec string, o Options) net.Listener {
	t.Helper()
	ln, err := Listen(t.Context(), spec, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// accepting accepts in the background and hands the connections over.
func accepting(t *testing.T, ln net.Listener) <-chan net.Conn {
	ch := make(chan net.Conn, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			ch <- c
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		for len(ch) > 0 {
			(<-ch).Close()
		}
	})
	return ch
}

func receive[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-hang.After():
		t.Fatal("nothing came within 10 s")
	}
	panic("unreachable")
}

func dial(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(ln.Addr().Network(), ln.Addr().String(), hang.Limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(hang.Deadline())
	return c
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	// The umask must not decide who may connect.
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	for _, tt := range []struct {
		o    Options
		want os.FileMode
	}{
		{Options{}, 0o600},
		{Options{Mode: 0o666}, 0o666},
		{Options{Mode: 0o660, Group: strconv.Itoa(os.Getgid())}, 0o660},
	} {
		ln := open(t, "unix:"+path, tt.o)
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != tt.want {
			t.Errorf("mode %o, want %o", fi.Mode().Perm(), tt.want)
		}
		ln.Close()
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket stays after Close: %v", err)
		}
	}
}

func TestUnixStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	// What a killed process leaves behind.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	ln := open(t, "unix:"+path, Options{})
	conns := accepting(t, ln)
	dial(t, ln)
	receive(t, conns)

	// Somebody answers: the socket is theirs, and must work on.
	if _, err := Listen(t.Context(), "unix:"+path, Options{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second Listen: %v, want EADDRINUSE", err)
	}
	receive(t, conns) // the question
	dial(t, ln)
	receive(t, conns)
}

// A link stays, and the socket is where it leads, also when nothing is there yet
// and when a killed process has left one there.
func TestUnixLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "own"), 0o755); err != nil {
		t.Fatal(err)
	}
	link, at := filepath.Join(dir, "s"), filepath.Join(dir, "own", "s")
	for from, to := range map[string]string{link: "middle", filepath.Join(dir, "middle"): "own/s"} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		ln := open(t, "unix:"+link, Options{Mode: 0o666})
		conns := accepting(t, ln)
		c, err := net.Dial("unix", link)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		receive(t, conns)
		ln.(*resilient).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
		ln.Close()
	}
	for path, want := range map[string]os.FileMode{link: os.ModeSymlink, at: os.ModeSocket} {
		if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != want {
			t.Errorf("%s is %v, %v; want %v", path, fi.Mode(), err, want)
		}
	}

	for from, to := range map[string]string{"loop": "loop", "long": strings.Repeat("x", MaxUnixPath+1)} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
		if ln, err := Listen(t.Context(), "unix:"+filepath.Join(dir, from), Options{}); err == nil {
			ln.Close()
			t.Errorf("a link that leads to %s is taken", to)
		}
	}
}

func TestUnixKeepsFiles(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("mail"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		if ln, err := Listen(t.Context(), "unix:"+path, Options{}); err == nil {
			ln.Close()
			t.Errorf("Listen on %s succeeded", path)
		} else if !strings.Contains(err.Error(), "is no socket") {
			t.Errorf("Listen on %s: %v", path, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mail" {
		t.Errorf("the file now holds %q, %v", b, err)
	}
}

const childEnv = "ETRND_LISTEN_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "emfile":
		os.Exit(childEMFILE())
	case "activation":
		os.Exit(childActivation())
	}
	os.Exit(m.Run())
}

func child(t *testing.T, kind string, files ...*os.File) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hang.Limit)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

func line(t *testing.T, s *bufio.Scanner) string {
	t.Helper()
	if !s.Scan() {
		t.Fatalf("the child's output ended: %v", s.Err())
	}
	return s.Text()
}

// A process that has run out of descriptors closes connections at once, rather
// than have them wait, and serves again as soon as it has some.
func TestEMFILE(t *testing.T) {
	cmd, out := child(t, "emfile")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := line(t, out)
	ask := func() string {
		t.Helper()
		c, err := net.DialTimeout("tcp", addr, hang.Limit)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(hang.Deadline())
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for range 3 {
		if got := ask(); got != "" {
			t.Errorf("without descriptors: %q, want nothing", got)
		}
	}
	io.WriteString(in, "go on\n")
	if got := line(t, out); got != "going on" {
		t.Fatalf("the child says %q", got)
	}
	// It may just be turning connections away.
	got := ask()
	for deadline := hang.Deadline(); got == "" && time.Now().Before(deadline); {
		got = ask()
	}
	if got != "served" {
		t.Errorf("with descriptors: %q, want %q", got, "served")
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("child: %v", err)
	}
}

// childEMFILE holds every descriptor it may have until it is told to go on.
func childEMFILE() int {
	ln, err := Listen(context.Background(), "127.0.0.1:0", Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 1
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}); err != nil {
		return 2
	}
	var held []int
	for {
		fd, err := syscall.Dup(0)
		if err == syscall.EMFILE {
			break
		}
		if err != nil {
			return 3
		}
		held = append(held, fd)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, ln, ServeOptions{}, func(_, _ context.Context, c net.Conn) {
			io.WriteString(c, "served")
			cancel()
		})
	}()
	os.Stdout.WriteString(ln.Addr().String() + "\n")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return 4
	}
	for _, fd := range held {
		syscall.Close(fd)
	}
	os.Stdout.WriteString("going on\n")
	if err := <-served; err != nil {
		os.Stderr.WriteString(err.Error())
		return 5
	}
	return 0
}

// Sockets as systemd passes them: by name, by address, and one that nobody
// asks for. The descriptor protocol is sd_listen_fds(3); the process id in it
// is known only to the child.
func TestActivation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	file := func(ln net.Listener, err error) *os.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if u, ok := ln.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		defer ln.Close()
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := tcp.Addr().String()
	cmd, out := child(t, "activation",
		file(net.Listen("unix", path)), file(tcp, nil), file(net.Listen("tcp", "127.0.0.1:0")))
	cmd.Env = append(cmd.Env, "LISTEN_FDS=3", "LISTEN_FDNAMES=milter:other:spare", "SPEC="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"name " + path, "address " + addr, "unused spare", "env "} {
		if got := line(t, out); got != want {
			t.Errorf("the child says %q, want %q", got, want)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("child: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket unit's file is gone: %v", err)
	}
}

func childActivation() int {
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	s, err := Activated()
	if err != nil {
		return 1
	}
	// By name, though the configuration has another path for it.
	a, err := Listen(context.Background(), "unix:/nonexistent/milter.sock", Options{Name: "milter", Sockets: s})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 2
	}
	b, err := Listen(context.Background(), os.Getenv("SPEC"), Options{Name: "nothing", Sockets: s})
	if err != nil {
		os.Stderr.WriteString(err.Error())
		return 3
	}
	os.Stdout.WriteString("name " + a.Addr().String() + "\n")
	os.Stdout.WriteString("address " + b.Addr().String() + "\n")
	os.Stdout.WriteString("unused " + strings.Join(s.Unused(), ",") + "\n")
	os.Stdout.WriteString("env " + os.Getenv("LISTEN_FDS") + "\n")
	a.Close()
	b.Close()
	return 0
}

// Who starts a daemon by hand before its directory is there hears what makes it.
func TestUnixNoDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	_, err := Listen(t.Context(), "unix:"+filepath.Join(dir, "s"), Options{})
	if err == nil || !strings.Contains(err.Error(), "systemd-tmpfiles --create") || !strings.Contains(err.Error(), dir) {
		t.Errorf("Listen: %v", err)
	}
}
