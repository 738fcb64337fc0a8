package socket

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is two ends of a TCP connection.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func option(t *testing.T, conn net.Conn, level, name int) (v int) {
	t.Helper()
	var err error
	if !descriptor(conn, func(fd int) { v, err = unix.GetsockoptInt(fd, level, name) }) || err != nil {
		t.Fatalf("option %d: %v", name, err)
	}
	return v
}

// Under every policy a silent peer that is gone is noticed after the same time,
// whether something was sent to it or not; and also under TLS.
func TestWatch(t *testing.T) {
	for name, p := range map[string]Policy{"line": Line, "turned": Turned} {
		a, _ := pair(t)
		conn := tls.Client(a, &tls.Config{InsecureSkipVerify: true})
		Watch(conn, p)
		if v := option(t, a, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); v != 75_000 {
			t.Errorf("%s: TCP_USER_TIMEOUT is %d ms", name, v)
		}
		if v := option(t, a, unix.SOL_SOCKET, unix.SO_KEEPALIVE); v != 1 {
			t.Errorf("%s: SO_KEEPALIVE is %d", name, v)
		}
		idle, every, count := option(t, a, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), option(t, a, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(t, a, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		if dead := time.Duration(idle+every*count) * time.Second; dead != Dead {
			t.Errorf("%s: %d s, then %d questions every %d s: dead after %v, want %v", name, idle, count, every, dead, Dead)
		}
	}
	// What has no descriptor is left alone.
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	Watch(a, Line)
	LimitUnsent(a, 1)
	if _, ok := InfoOf(a); ok || HungUp(a) {
		t.Error("something is known of a pipe")
	}
}

func TestInfo(t *testing.T) {
	a, b := pair(t)
	LimitUnsent(a, 4096)
	if v := option(t, a, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); v != 4096 {
		t.Errorf("TCP_NOTSENT_LOWAT is %d", v)
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	info, ok := InfoOf(a)
	if !ok || info.RTT <= 0 || info.MinRTT <= 0 || info.MinRTT > time.Minute || info.Heard > time.Minute {
		t.Errorf("%+v, %v", info, ok)
	}
}

func TestHungUp(t *testing.T) {
	a, b := pair(t)
	if HungUp(a) {
		t.Error("hung up before the peer has")
	}
	b.Write([]byte("x"))
	wait(t, a, unix.POLLIN)
	if HungUp(a) {
		t.Error("a peer that has said something is gone")
	}
	// The question takes nothing.
	if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	wait(t, a, unix.POLLRDHUP)
	if !HungUp(a) {
		t.Error("the peer has closed, and is still there")
	}
}

// wait waits until the kernel has something of the peer.
func wait(t *testing.T, conn net.Conn, events int16) {
	t.Helper()
	descriptor(conn, func(fd int) {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 20_000); n != 1 {
			t.Fatalf("poll: %d, %v", n, err)
		}
	})
}

// far is a connection over a line with round trips of two seconds.
type far struct{ *net.TCPConn }

func (far) SocketInfo() Info { return Info{RTT: 2 * time.Second} }

// On a line of long round trips a peer is not taken for dead as early.
func TestWatchFar(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for c, want := range map[net.Conn]time.Duration{conn: Dead, far{conn.(*net.TCPConn)}: Dead + 40*time.Second} {
		Watch(c, Line)
		var ms int
		if !descriptor(c, func(fd int) { ms, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }) || err != nil {
			t.Fatal(err)
		}
		// The round trip of loopback is no more than a moment.
		if got := time.Duration(ms) * time.Millisecond; got < want || got > want+5*time.Second {
			t.Errorf("%T is dead after %v, want %v", c, got, want)
		}
	}
}
