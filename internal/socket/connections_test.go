package socket

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// The kernel tells of every connection, of either end.
func TestConnectionsOfTheMachine(t *testing.T) {
	a, b := pair(t)
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// One that somebody listens for is no outgoing one.
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	out, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	// The whole of 127.0.0.0/8 is this machine's, whatever its interfaces say.
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, 66)}}
	v4, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer v4.Close()
	other, err := from.Dial("tcp", v4.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	list, err := Connections()
	if err != nil {
		t.Fatal(err)
	}
	find := func(conn net.Conn) Connection {
		t.Helper()
		for _, c := range list {
			if c.Local == netip.MustParseAddrPort(conn.LocalAddr().String()) {
				return c
			}
		}
		t.Fatalf("%v is missing in %+v", conn.LocalAddr(), list)
		return Connection{}
	}
	for _, end := range []net.Conn{a, out, other} {
		c := find(end)
		if c.Peer.String() != end.RemoteAddr().String() || !c.Established || !c.Ours || !c.Outgoing || !c.Near || c.Stray || c.Asking {
			t.Errorf("%+v", c)
		}
		if c.RTT <= 0 || c.MinRTT <= 0 || c.MinRTT > time.Minute || c.Heard > time.Minute {
			t.Errorf("%+v", c)
		}
	}
	if c := find(in); c.Outgoing || !c.Established {
		t.Errorf("%+v", c)
	}
}

func TestAttribute(t *testing.T) {
	two := []byte{5, 0, 1, 0, 'a', 0, 0, 0, 6, 0, 2, 0, 'b', 'c'}
	for _, c := range []struct {
		data []byte
		want string
	}{
		{two, "bc"},
		{two[:13], ""},                           // cut
		{two[:5], ""},                            // cut after the first
		{nil, ""},                                //
		{[]byte{0, 0, 1, 0}, ""},                 // shorter than its head
		{[]byte{255, 255, 2, 0, 1, 2, 3, 4}, ""}, // longer than all
	} {
		if got := attribute(c.data, diagInfo); string(got) != c.want {
			t.Errorf("%v: %q, want %q", c.data, got, c.want)
		}
	}
}
