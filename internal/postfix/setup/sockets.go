package setup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/listen"
)

// The directories that the package makes for the sockets, and what makes them.
const (
	packagedDir       = "/var/spool/postfix/etrnd"
	packagedMilterDir = "/var/spool/postfix/etrn-milter"
	makePackaged      = "systemd-tmpfiles --create etrnd.conf"
)

// end is a socket between Postfix and one of the daemons.
type end struct {
	whose   string // in messages
	unit    string
	address string // of the configuration
	makes   string // the user who makes the socket
	right   string // how the directory is made right, where the package does not make it
	ask     func(net.Conn) error
}

// sockets looks whether both daemons can make their sockets where Postfix looks
// for them, whether Postfix gets there, whether somebody answers, and whether
// nobody can put a socket there to whom it does not belong.
func (l *findings) sockets(ctx context.Context, req Requirements, owner string) {
	dir := func(address string) string { return filepath.Dir(socketOf(address)) }
	for _, e := range []end{
		{"the milter", "etrn-milter", req.Milter, account.Milter,
			"install -d -o " + account.Milter + " -g " + owner + " -m 0710 " + dir(req.Milter), askMilter},
		{"the policy service", "etrnd", req.Policy, account.Etrnd,
			"install -d -g " + account.Sockets + " -m 1771 " + dir(req.Policy), askPolicy},
	} {
		if e.address == "" {
			continue
		}
		if path := socketOf(e.address); path != "" {
			if dir := filepath.Dir(path); dir == packagedDir || dir == packagedMilterDir {
				e.right = makePackaged
			}
			if !l.directory(e, filepath.Dir(path), owner) {
				continue
			}
		}
		l.answers(ctx, e, owner)
	}
}

// socketOf is where a unix socket is, behind links; empty for other addresses.
func socketOf(address string) string {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return ""
	}
	if to, err := listen.Target(path); err == nil {
		return to
	}
	return path
}

// directory looks at the directory of a socket.
func (l *findings) directory(e end, dir, owner string) bool {
	what := "the directory of the socket of " + e.whose
	// Postfix's daemons have no supplementary groups.
	postfix, unknown := account.Lookup(owner)
	if os.Geteuid() != 0 {
		err := unknown
		if err == nil {
			err = postfix.Enters(dir)
		}
		if err != nil {
			l.bad(fmt.Sprintf("%s: %v", what, err), "run: "+e.right)
			return false
		}
		return true
	}
	maker, err := account.Lookup(e.makes)
	if e.makes == account.Etrnd {
		maker, err = account.Daemon()
	}
	if err != nil {
		l.bad(fmt.Sprintf("%s has no user to run as: %v", e.unit, err), "run: systemd-sysusers etrnd.conf")
		return false
	}
	if err := maker.Writable(dir); err != nil {
		l.bad(fmt.Sprintf("%s, %s: the user %s cannot make it there: %v", what, dir, e.makes, plain(err)), "run: "+e.right)
		return false
	}
	if err = unknown; err == nil {
		err = postfix.Do(func() error { return unix.Access(dir, unix.X_OK) })
	}
	if err != nil {
		l.bad(fmt.Sprintf("%s, %s: the user %s, as which Postfix's daemons run, cannot enter it: %v", what, dir, owner, plain(err)), "run: "+e.right)
		return false
	}
	if e.makes == account.Etrnd {
		// What it is given there it would believe, and what Postfix finds there it
		// would deliver to.
		if milter, err := account.Lookup(account.Milter); err == nil && milter.Writable(dir) == nil {
			l.bad(fmt.Sprintf("%s, %s: the user %s can make sockets there too, and whoever takes over the milter could be given the mail of turned queues", what, dir, account.Milter), "run: "+e.right)
			return true
		}
	}
	l.good(what)
	return true
}

// askTimeout bounds each question to a daemon, which is on this machine.
const askTimeout = 5 * time.Second

// answers looks whether the daemon does, as Postfix's user would find.
func (l *findings) answers(ctx context.Context, e end, owner string) {
	who, err := account.Lookup(owner)
	if err != nil || !who.Known() {
		return // who asks is not Postfix: that he is turned away says nothing
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var conn net.Conn
	err = who.Do(func() error {
		conn, err = listen.Dial(ctx, e.address)
		return err
	})
	if err == nil {
		defer conn.Close()
		deadline, _ := ctx.Deadline()
		conn.SetDeadline(deadline)
		err = e.ask(conn)
	}
	if err != nil {
		l.bad(fmt.Sprintf("%s does not answer on %s: %v", e.whose, e.address, plain(err)),
			fmt.Sprintf("run: systemctl restart %s; if it does not stay up: journalctl -u %s", e.unit, e.unit))
		return
	}
	l.good(e.whose + " answers")
}

// askMilter begins to negotiate, as Postfix does, and leaves: a milter that hangs
// accepts connections too.
func askMilter(conn net.Conn) error {
	packet := binary.BigEndian.AppendUint32(nil, 13)
	packet = append(packet, 'O')
	for _, v := range []uint32{6, 0x1ff, 0x1fffff} { // version, actions, protocol
		packet = binary.BigEndian.AppendUint32(packet, v)
	}
	if _, err := conn.Write(packet); err != nil {
		return err
	}
	head := make([]byte, 5)
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	if head[4] != 'O' {
		return errors.New("what answers is no milter")
	}
	return nil
}

// askPolicy asks what the service has nothing to say to.
func askPolicy(conn net.Conn) error {
	if _, err := io.WriteString(conn, "request=smtpd_access_policy\nprotocol_state=CONNECT\n\n"); err != nil {
		return err
	}
	head := make([]byte, len("action="))
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	if string(head) != "action=" {
		return errors.New("what answers is no policy service")
	}
	return nil
}

// plain is an error without the names of calls.
func plain(err error) error {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("nothing came within %s", askTimeout)
	case errors.Is(err, io.EOF):
		return errors.New("it hangs up")
	}
	return err
}
