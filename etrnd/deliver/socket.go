package deliver

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// descriptor runs f with the socket below a connection, or reports that there
// is none.
func descriptor(conn net.Conn, f func(fd int)) bool {
	for {
		if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
			conn = t.NetConn()
			continue
		}
		break
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) }) == nil
}

// lastHeard is how long ago the peer has sent or acknowledged something.
func lastHeard(conn net.Conn) (ago time.Duration, ok bool) {
	descriptor(conn, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			ago, ok = time.Duration(min(info.Last_ack_recv, info.Last_data_recv))*time.Millisecond, true
		}
	})
	return ago, ok
}

// unsent is how much may wait in the kernel for its first transmission. More
// would not make the line any faster, and what is in there can be overtaken by
// nothing: neither by mail of a higher priority nor by the end of the turn.
const unsent = 32 << 10

// prepare sets a turned connection up for mail.
func prepare(conn net.Conn) {
	descriptor(conn, func(fd int) {
		// All of these are for better, so what does not work is left as it is.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
		// A site that thinks about a message says nothing for a while. Whether
		// it lives has to be known within Options.Dead, before a new connection
		// takes its place.
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 5)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5)
	})
}

// Bounds of how long a segment that is not full may wait for more.
const (
	leastCork = 2 * time.Millisecond
	mostCork  = 500 * time.Millisecond
)

// corkTime is how long what is written may wait for more to fill its packets,
// without the line running dry: half of the time for which what was sent before
// waits on the way, as the round trips tell.
func corkTime(conn net.Conn) time.Duration {
	d := time.Duration(0)
	descriptor(conn, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Unacked > 0 && info.Rtt > info.Min_rtt {
			d = time.Duration(info.Rtt-info.Min_rtt) * time.Microsecond / 2
		}
	})
	return min(max(d, leastCork), mostCork)
}

// hungUp reports whether the peer has closed a connection on which it has
// nothing to say.
func hungUp(conn net.Conn) (gone bool) {
	descriptor(conn, func(fd int) {
		n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err == unix.ECONNRESET
	})
	return gone
}
