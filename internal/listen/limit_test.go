package listen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// from connects from an address of the loopback.
func from(t *testing.T, ln net.Listener, ip string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(hang.Deadline())
	return c
}

// told is what a connection that is refused gets to read.
func told(t *testing.T, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("got %q, %v; want the end", b, err)
	}
	return string(b)
}

func TestLimits(t *testing.T) {
	var log bytes.Buffer
	// Two from one address, three in all, over two listeners.
	l := &Limits{Max: 3, PerClient: 2, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Busy: func(reason string) string { return "421 " + reason + "\r\n" }}
	a, b := l.Listener(open(t, "127.0.0.1:0", Options{})), l.Listener(open(t, "127.0.0.1:0", Options{}))
	as, bs := accepting(t, a), accepting(t, b)
	const perClient, all = "421 too many connections from your address\r\n", "421 too many connections\r\n"

	from(t, a, "127.0.0.1")
	first := receive(t, as)
	from(t, b, "127.0.0.1")
	receive(t, bs)
	if got := told(t, from(t, a, "127.0.0.1")); got != perClient {
		t.Errorf("the third from one address: %q", got)
	}
	from(t, a, "127.0.0.2")
	receive(t, as)
	if got := told(t, from(t, b, "127.0.0.3")); got != all {
		t.Errorf("the fourth in all: %q", got)
	}
	// One place is free again; closing twice frees one place only.
	first.Close()
	first.Close()
	from(t, b, "127.0.0.1")
	receive(t, bs)
	if got := told(t, from(t, a, "127.0.0.2")); got != all {
		t.Errorf("after one has gone and one has come: %q", got)
	}
	for _, c := range []<-chan net.Conn{as, bs} {
		if len(c) > 0 {
			t.Error("a refused connection was accepted")
		}
	}
	if n := strings.Count(log.String(), "connection refused"); n != 3 || !strings.Contains(log.String(), "client=127.0.0.3:") {
		t.Errorf("want a line for each of three refused:\n%s", &log)
	}
}

// Whoever fills his share of the connections and goes on fills no disk with it.
func TestRefusedSeldom(t *testing.T) {
	var log bytes.Buffer // written by Accept alone, which has told each refused one before the next
	l := &Limits{PerClient: 1, Busy: func(string) string { return "busy" }, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	ln := open(t, "127.0.0.1:0", Options{})
	conns := accepting(t, l.Listener(ln))
	from(t, ln, "127.0.0.1")
	receive(t, conns)
	for range 400 {
		c := from(t, ln, "127.0.0.1")
		told(t, c)
		c.Close()
	}
	if n := strings.Count(log.String(), "connection refused"); n < 10 || n > 200 {
		t.Errorf("%d lines for 400 connections that were refused", n)
	}
}

func TestClientOf(t *testing.T) {
	client := func(addr string) client {
		return clientOf(peerless{net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}, true)
	}
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		// As a dual-stack socket shows it.
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		// A host can have all of its /64.
		{"[2001:db8:1:2:3:4:5:6]:1", "[2001:db8:1:2::1]:1", true},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::2%eth0]:1", true},
	} {
		if same := client(tt.a) == client(tt.b); same != tt.same {
			t.Errorf("%s and %s are one client: %v, want %v", tt.a, tt.b, same, tt.same)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if clientOf(a, true) != clientOf(b, true) || clientOf(a, true) == client("192.0.2.1:1") {
		t.Error("peers of which nothing is known are not one client")
	}
}

// peerless is a connection that has nothing but the address of its peer.
type peerless struct{ addr net.Addr }

func (p peerless) RemoteAddr() net.Addr           { return p.addr }
func (peerless) Close() error                     { return nil }
func (peerless) LocalAddr() net.Addr              { return nil }
func (peerless) Read([]byte) (int, error)         { return 0, io.EOF }
func (peerless) Write(b []byte) (int, error)      { return len(b), nil }
func (peerless) SetDeadline(time.Time) error      { return nil }
func (peerless) SetReadDeadline(time.Time) error  { return nil }
func (peerless) SetWriteDeadline(time.Time) error { return nil }

// A unix socket is counted by users.
func TestLimitsOfUsers(t *testing.T) {
	l := &Limits{PerClient: 1, Busy: func(reason string) string { return reason }}
	ln := l.Listener(open(t, "unix:"+filepath.Join(t.TempDir(), "s"), Options{}))
	conns := accepting(t, ln)
	dial(t, ln)
	c := receive(t, conns)
	if got := told(t, dial(t, ln)); got != "too many connections of your user" {
		t.Errorf("the second of one user: %q", got)
	}
	if p, err := PeerOf(c); err != nil || p.UID != os.Getuid() || p.PID != os.Getpid() {
		t.Errorf("the peer is %+v, %v", p, err)
	}
}

func TestPeerOf(t *testing.T) {
	ln := open(t, "127.0.0.1:0", Options{})
	conns := accepting(t, ln)
	dial(t, ln)
	// The kernel has an answer for TCP too: credentials of nobody.
	if p, err := PeerOf(receive(t, conns)); err == nil || p.UID != -1 || p.Groups != nil {
		t.Errorf("over TCP: %+v, %v", p, err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if p, err := PeerOf(a); err == nil || p.UID != -1 {
		t.Errorf("over a pipe: %+v, %v", p, err)
	}
}

// Of a flood, what is within the limits is served and all the rest refused,
// and afterwards every place is free again.
func TestFlood(t *testing.T) {
	const most, flood = 20, 500
	l := &Limits{Max: most, PerClient: most - 5, Busy: func(string) string { return "busy" }}
	ln := open(t, "127.0.0.1:0", Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	now, peak := 0, 0
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, ln, ServeOptions{Limits: l}, func(_, _ context.Context, c net.Conn) {
			mu.Lock()
			now++
			peak = max(peak, now)
			mu.Unlock()
			io.WriteString(c, "served")
			io.Copy(io.Discard, c) // until the client has gone
			mu.Lock()
			now--
			mu.Unlock()
		})
	}()
	var wg sync.WaitGroup
	answers := make(chan string, flood)
	gate := make(chan struct{})
	for i := range flood {
		ip := "127.0.0." + strconv.Itoa(1+i%2)
		wg.Go(func() {
			c := from(t, ln, ip)
			b := make([]byte, 6)
			n, err := io.ReadAtLeast(c, b, 4)
			if err != nil {
				t.Errorf("connection: %v", err)
			}
			answers <- string(b[:n])
			<-gate // all stay until everybody has an answer
			c.Close()
		})
	}
	got := map[string]int{}
	for range flood {
		got[receive(t, answers)]++
	}
	close(gate)
	wg.Wait()
	if got["served"] != most || got["busy"] != flood-most || peak != most {
		t.Errorf("answers %v, at most %d at a time; want %d served", got, peak, most)
	}
	// The handlers see their clients go in their own time.
	for deadline := hang.Deadline(); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		open, clients := l.open, len(l.per)
		l.mu.Unlock()
		if open == 0 && clients == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections of %d clients are still counted", open, clients)
		}
	}
	cancel()
	if err := receive(t, served); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// A client that has said all it has to say still gets its answer, can be told
// that there is no more, and is counted until the connection is closed.
func TestHalfClosed(t *testing.T) {
	l := &Limits{Max: 1, Busy: func(string) string { return "busy" }}
	ln := l.Listener(open(t, "127.0.0.1:0", Options{}))
	conns := accepting(t, ln)
	c := dial(t, ln)
	s := receive(t, conns)
	io.WriteString(c, "question")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := told(t, s); got != "question" {
		t.Errorf("the server reads %q", got)
	}
	if got := told(t, dial(t, ln)); got != "busy" {
		t.Errorf("beside a half-closed one: %q", got)
	}
	io.WriteString(s, "answer")
	if err := s.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := told(t, c); got != "answer" {
		t.Errorf("the client reads %q", got)
	}
	// Where there are no halves it is said.
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	half := &counted{Conn: a, release: func() {}}
	if err := half.CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("CloseWrite of a pipe: %v", err)
	}
	if _, err := half.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SyscallConn of a pipe: %v", err)
	}
	if _, ok := s.(syscall.Conn); !ok {
		t.Error("the descriptor is hidden")
	}
}
