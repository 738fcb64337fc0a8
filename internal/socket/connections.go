package socket

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Connection is a TCP connection of this machine, whosever it is.
type Connection struct {
	Info
	Local, Peer netip.AddrPort
	Ours        bool // of the user whom we run as
	Outgoing    bool // it was made from here: nobody here listens at Local
	// Established tells that the peer has answered once. Before that, Info is
	// of no meaning.
	Established bool
	// Asking tells that something is on its way to the peer, the question whether
	// it is there included, to which the kernel wants an answer.
	Asking bool
	// Near tells that the peer is this machine, or in a network that an interface
	// of it is in: no line is between them, unless the interface is that line.
	Near bool
	// Stray tells that no interface of this machine has the local address any
	// more: nothing can come.
	Stray bool
}

// The kernel's numbers: linux/inet_diag.h and net/tcp_states.h.
const (
	diagInfo                       = 2 // the attribute that struct tcp_info is
	established, synSent, lastAck  = 1, 2, 9
	listening, closing             = 10, 11
	finWait1, finWait2, closedHalf = 4, 5, 8
)

// diagRequest is struct inet_diag_req_v2. The kernel tells everybody of all
// sockets, whoever has them.
type diagRequest struct {
	unix.NlMsghdr
	family, protocol, extensions, _ uint8
	states                          uint32
	_                               [48]byte // of one socket: of any
}

// diagSocket is struct inet_diag_msg.
type diagSocket struct {
	family, state, timer, retransmits uint8
	localPort, peerPort               [2]byte
	local, peer                       [16]byte
	iface                             uint32
	cookie                            [2]uint32
	expires, receiving, sending       uint32
	user, inode                       uint32
}

// Connections asks the kernel for the TCP connections of this machine.
func Connections() ([]Connection, error) {
	near, own, err := networks()
	if err != nil {
		return nil, err
	}
	var list []Connection
	doors := map[uint16]bool{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := sockets(family, func(s *diagSocket, info []byte) {
			c := Connection{Local: s.endpoint(s.local, s.localPort), Peer: s.endpoint(s.peer, s.peerPort), Ours: int(s.user) == os.Getuid()}
			switch {
			case s.state == listening:
				doors[c.Local.Port()] = true
				return
			case len(info) == 0:
				return // nobody has it any more
			}
			c.Established = s.state != synSent
			c.Info = infoOf(info)
			c.Asking = !c.Established || c.Unacked > 0 || s.timer != 0 && s.retransmits > 0
			c.Near = slices.ContainsFunc(near, func(p netip.Prefix) bool { return p.Contains(c.Peer.Addr()) })
			c.Stray = !c.Local.Addr().IsLoopback() && !slices.Contains(own, c.Local.Addr())
			list = append(list, c)
		})
		if err != nil {
			return nil, fmt.Errorf("cannot ask the kernel for its connections: %w", err)
		}
	}
	for i := range list {
		list[i].Outgoing = !doors[list[i].Local.Port()]
	}
	return list, nil
}

func (s *diagSocket) endpoint(addr [16]byte, port [2]byte) netip.AddrPort {
	a := netip.AddrFrom16(addr)
	if s.family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port[:]))
}

// infoOf reads struct tcp_info, of which older kernels have less.
func infoOf(data []byte) Info {
	var i unix.TCPInfo
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&i)), unsafe.Sizeof(i)), data)
	return toInfo(&i)
}

// sockets yields the TCP sockets of a family that do something, each with the
// kernel's information about it.
func sockets(family uint8, yield func(s *diagSocket, info []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The kernel answers at once, or not at all.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	req := diagRequest{family: family, protocol: unix.IPPROTO_TCP, extensions: 1 << (diagInfo - 1)}
	for _, state := range []int{established, synSent, finWait1, finWait2, closedHalf, lastAck, listening, closing} {
		req.states |= 1 << state
	}
	req.NlMsghdr = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(req)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP}
	if err := unix.Sendto(fd, unsafe.Slice((*byte)(unsafe.Pointer(&req)), unsafe.Sizeof(req)), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return nil
			case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
				return syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
			case m.Header.Type != unix.SOCK_DIAG_BY_FAMILY || len(m.Data) < int(unsafe.Sizeof(diagSocket{})):
				continue
			}
			var s diagSocket
			size := copy(unsafe.Slice((*byte)(unsafe.Pointer(&s)), unsafe.Sizeof(s)), m.Data)
			yield(&s, attribute(m.Data[size:], diagInfo))
		}
	}
}

// attribute finds a netlink attribute; nil: there is none.
func attribute(data []byte, want uint16) []byte {
	for len(data) >= unix.SizeofNlAttr {
		size, kind := int(binary.NativeEndian.Uint16(data)), binary.NativeEndian.Uint16(data[2:])
		if size < unix.SizeofNlAttr || size > len(data) {
			return nil
		}
		if kind == want {
			return data[unix.SizeofNlAttr:size]
		}
		data = data[min((size+3)&^3, len(data)):]
	}
	return nil
}

// networks are those that this machine is in by its interfaces, and the addresses
// that it has. A line between two ends is no network.
func networks() (near []netip.Prefix, own []netip.Addr, err error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, nil, err
	}
	for _, i := range ifaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has just gone
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil {
				continue
			}
			own = append(own, p.Addr().Unmap())
			near = append(near, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
			if i.Flags&net.FlagPointToPoint == 0 {
				near = append(near, p.Masked())
			}
		}
	}
	return near, own, nil
}
