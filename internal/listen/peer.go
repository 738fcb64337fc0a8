package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a unix socket, as the kernel noted it
// at connect(2).
type Peer struct {
	PID    int
	UID    int   // -1: unknown
	Groups []int // primary and supplementary
}

// PeerOf asks the kernel. Supplementary groups come from SO_PEERGROUPS
// (Linux 4.13). Looking the process up in /proc instead would trust a process
// id that may be another's by now, and sees nothing under ProtectProc; looking
// the user up in the group file would give a process rights that it has
// dropped. As everywhere on the system, a user who is new in the group has to
// log in again.
func PeerOf(c net.Conn) (Peer, error) {
	unknown := Peer{UID: -1}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return unknown, fmt.Errorf("a %T has no peer credentials", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return unknown, err
	}
	var p Peer
	ctl := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		// On a socket that is not a unix socket the call succeeds with no
		// credentials in it.
		if cred.Pid == 0 && cred.Uid == ^uint32(0) {
			err = errors.New("the kernel knows no peer of this socket")
			return
		}
		p = Peer{PID: int(cred.Pid), UID: int(cred.Uid), Groups: []int{int(cred.Gid)}}
		more, e := peerGroups(int(fd))
		if e != nil {
			err = fmt.Errorf("supplementary groups: %w", e)
			return
		}
		p.Groups = append(p.Groups, more...)
	})
	if err = errors.Join(err, ctl); err != nil {
		return unknown, err
	}
	return p, nil
}

// peerGroups is getsockopt(SO_PEERGROUPS), for which x/sys has no function.
func peerGroups(fd int) ([]int, error) {
	buf := make([]byte, 4*32)
	for {
		n := uint32(len(buf))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), 0)
		// ERANGE comes with the size that is needed. Linux has at most
		// 65,536 groups (NGROUPS_MAX).
		if errno == unix.ERANGE && int(n) > len(buf) && n <= 4*65536 {
			buf = make([]byte, n)
			continue
		}
		if errno != 0 {
			return nil, errno
		}
		gids := make([]int, 0, n/4)
		for b := buf[:n]; len(b) >= 4; b = b[4:] {
			gids = append(gids, int(binary.NativeEndian.Uint32(b)))
		}
		return gids, nil
	}
}
