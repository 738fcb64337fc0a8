// Package socket is what the kernel knows of TCP connections, and what it can be
// told about one of ours: how soon a line that is dead is noticed, when the peer
// was last heard, and what the line is doing. It neither opens nor serves
// connections.
//
// A connection may be wrapped: whatever has NetConn, as TLS does, is looked
// through. On one without a descriptor nothing is known and nothing is set.
package socket

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Raw is the connection below TLS.
func Raw(conn net.Conn) net.Conn {
	for {
		t, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = t.NetConn()
	}
}

// descriptor runs f with the socket of a connection, or reports that there is
// none.
func descriptor(conn net.Conn, f func(fd int)) bool {
	sc, ok := Raw(conn).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) }) == nil
}

// Dead is how long a peer may leave what was sent to it, or the question whether
// it is there, without an acknowledgement. The lines of sites end without a
// word, and nothing else tells that while an answer is awaited: a line is then
// paid for in vain, and what waits for one that is gone keeps its next
// connection from its mail. RFC 1122, section 4.2.3.5, wants 100 seconds for
// hosts in general. Less frees the line sooner; but at 2,400 bit/s ten kilobytes
// that are queued before a segment take half a minute, and a connection that was
// given up too early costs all of its message again. It is for a line without
// a round trip: see Grace.
const Dead = 75 * time.Second

// Policy is how often a silent peer is asked for a sign of life: first after
// Idle, then every Interval. That it is gone is noticed after Dead.
type Policy struct{ Idle, Interval time.Duration }

var (
	// Line is for a connection that crosses a line. Each question costs it 80
	// bytes.
	Line = Policy{Idle: 30 * time.Second, Interval: 15 * time.Second}
	// Turned is for a connection over which a site takes its mail. A site that
	// thinks about a message says nothing for a while; whether it lives has to
	// be known by the time that a new connection wants to take its place.
	Turned = Policy{Idle: 5 * time.Second, Interval: 5 * time.Second}
)

// Watch makes the kernel notice a peer that is gone, whoever reads or writes.
// What is taken for dead is so later on a line whose round trip is long.
func Watch(conn net.Conn, p Policy) {
	dead := Grace(conn, Dead)
	descriptor(conn, func(fd int) {
		// None of these is worth a connection; a socket that is no TCP has none.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(dead.Milliseconds()))
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(p.Idle.Seconds()))
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(p.Interval.Seconds()))
		// With a user timeout Linux does not count the questions (tcp(7)); the
		// count is for where there is none.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int((dead-p.Idle)/p.Interval))
	})
}

// LimitUnsent bounds how much may wait in the kernel for its first
// transmission, in bytes.
func LimitUnsent(conn net.Conn, n int) {
	descriptor(conn, func(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n) })
}

// Info is how a connection stands. Times are as the acknowledgements tell.
type Info struct {
	Heard   time.Duration // since the peer has sent or acknowledged something
	RTT     time.Duration // round trip at present, smoothed
	MinRTT  time.Duration // the shortest, without what waits on the way
	Unacked int           // segments on their way
}

// Informed is a connection that is no socket, and knows how it stands all the same:
// the line of a test.
type Informed interface{ SocketInfo() Info }

// InfoOf asks the kernel.
func InfoOf(conn net.Conn) (info Info, ok bool) {
	if i, ok := Raw(conn).(Informed); ok {
		return i.SocketInfo(), true
	}
	descriptor(conn, func(fd int) {
		i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		info, ok = toInfo(i), true
	})
	return info, ok
}

func toInfo(i *unix.TCPInfo) Info {
	return Info{
		Heard:   time.Duration(min(i.Last_ack_recv, i.Last_data_recv)) * time.Millisecond,
		RTT:     time.Duration(i.Rtt) * time.Microsecond,
		MinRTT:  time.Duration(i.Min_rtt) * time.Microsecond,
		Unacked: int(i.Unacked),
	}
}

// HungUp reports whether the peer has closed a connection on which it has
// nothing to say. It takes nothing from what can be read.
func HungUp(conn net.Conn) (gone bool) {
	descriptor(conn, func(fd int) {
		n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err == unix.ECONNRESET
	})
	return gone
}
