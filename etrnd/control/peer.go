package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/api"
)

// peer is who is at the other end of a connection, as the kernel noted it at
// connect(2).
type peer struct {
	pid    int
	uid    int
	groups []int // primary and supplementary
	err    error // why nothing is known; such a peer may do nothing
}

// peerOf asks the kernel. Supplementary groups come from SO_PEERGROUPS
// (Linux 4.13). Looking the process up in /proc instead would trust a process
// id that may be another's by now, and sees nothing under ProtectProc; looking
// the user up in the group file would give a process rights that it has
// dropped. As everywhere on the system, a user who is new in the group has to
// log in again.
func peerOf(c net.Conn) peer {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return peer{uid: -1, err: fmt.Errorf("a %T has no peer credentials", c)}
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return peer{uid: -1, err: err}
	}
	var p peer
	ctl := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, p.err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); p.err != nil {
			return
		}
		// On a socket that is not a unix socket the call succeeds with no
		// credentials in it.
		if cred.Pid == 0 && cred.Uid == ^uint32(0) {
			p.err = errors.New("the kernel knows no peer of this socket")
			return
		}
		p.pid, p.uid, p.groups = int(cred.Pid), int(cred.Uid), []int{int(cred.Gid)}
		more, err := peerGroups(int(fd))
		if err != nil {
			p.err = fmt.Errorf("supplementary groups: %w", err)
			return
		}
		p.groups = append(p.groups, more...)
	})
	if p.err = errors.Join(p.err, ctl); p.err != nil {
		p.uid, p.groups = -1, nil
	}
	return p
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

// mayAct decides. The group is looked up at every request: it may be made,
// or the configuration reloaded, while the daemon runs, and requests are few.
// It returns what to tell the peer when the answer is no.
func mayAct(p peer, group string) *api.Error {
	if p.err != nil {
		return api.Errorf(api.ExitNoPerm, "", "etrnd cannot tell who is asking: %v", p.err)
	}
	if p.uid == 0 || p.uid == os.Geteuid() {
		return nil
	}
	who := userName(p.uid)
	if group == "" {
		return api.Errorf(api.ExitNoPerm, `ask as root, or name a group under group in the [control] table of the configuration`,
			"%s may not control etrnd: only root may", who)
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return api.Errorf(api.ExitNoPerm, "ask as root, or make the group: groupadd --system "+group,
			"%s may not control etrnd: only root and the group %q may, and this machine has no such group", who, group)
	}
	if gid, err := strconv.Atoi(g.Gid); err == nil && slices.Contains(p.groups, gid) {
		return nil
	}
	return api.Errorf(api.ExitNoPerm, fmt.Sprintf("ask as root, or join the group (adduser USER %s) and log in again", group),
		"%s may not control etrnd: only root and the group %q may", who, group)
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return fmt.Sprintf("user %q", u.Username)
	}
	return fmt.Sprintf("user %d", uid)
}

type peerKey struct{}

func peerFrom(ctx context.Context) peer {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return peer{uid: -1, err: errors.New("no connection")}
	}
	return p
}

// peerListener notes the peer of each connection and bounds how many one user
// may have open, so that a user who may do nothing cannot keep out those who
// may.
type peerListener struct {
	net.Listener
	perUser int
	refused func(peer)

	mu   sync.Mutex
	open map[int]int // by uid
}

func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p := peerOf(c)
		if l.take(p.uid) {
			return &peerConn{Conn: c, peer: p, release: sync.OnceFunc(func() { l.give(p.uid) })}, nil
		}
		c.Close()
		l.refused(p)
	}
}

func (l *peerListener) take(uid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[uid] >= l.perUser {
		return false
	}
	l.open[uid]++
	return true
}

func (l *peerListener) give(uid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[uid]--; l.open[uid] == 0 {
		delete(l.open, uid)
	}
}

type peerConn struct {
	net.Conn
	peer    peer
	release func()
}

func (c *peerConn) Close() error {
	c.release()
	return c.Conn.Close()
}
