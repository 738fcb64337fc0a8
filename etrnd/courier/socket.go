package courier

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

// hungUp reports whether the peer has closed a connection on which it has
// nothing to say.
func hungUp(conn net.Conn) (gone bool) {
	descriptor(conn, func(fd int) {
		n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil || err == unix.ECONNRESET
	})
	return gone
}
