// Package listen opens the sockets that the daemons serve on, from the words
// of the configuration: "unix:/path" or "host:port", and has connections
// served.
//
// Its listeners go on after an accept that failed for want of descriptors or
// memory, and close meanwhile what they cannot serve. Limits holds the number
// of simultaneous connections down, of all and of each client. Serve is the
// loop of a server, with its orderly end. A socket that systemd passed
// (sd_listen_fds(3)) is taken in place of a new one. What is said over the
// connections is no business of this package; nor is TLS.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/foreign"
)

// MaxUnixPath is the longest path of a unix socket, in bytes: sun_path of
// unix(7) less its final NUL.
const MaxUnixPath = 107

// Options say how a listener is opened. The zero value opens a plain one.
type Options struct {
	// Name is what a socket unit calls this socket (FileDescriptorName=).
	Name string
	// Sockets are those that systemd passed, or nil.
	Sockets *Sockets

	// Mode and Group are the permissions of a unix socket. A zero Mode
	// stands for 0600. Group is a name or a number; empty leaves the group
	// of the process. A socket from systemd keeps what its unit gave it.
	Mode  fs.FileMode
	Group string

	// Logger is told about failed accepts; nil is silence.
	Logger *slog.Logger
}

// Parse reads the address of a listener: "unix:/path", "host:port" with a
// host name, an address or nothing for every address. The results are what
// package net takes.
func Parse(spec string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(spec, "unix:"); ok {
		switch {
		case !filepath.IsAbs(path):
			return "", "", fmt.Errorf("%q is no address to listen on: the path after \"unix:\" must be absolute", foreign.Clip(spec, 200))
		case len(path) > MaxUnixPath:
			return "", "", fmt.Errorf("%q is no address to listen on: a socket's path has at most %d bytes, this one has %d", foreign.Clip(spec, 200), MaxUnixPath, len(path))
		case strings.IndexByte(path, 0) >= 0 || strings.HasSuffix(path, "/"):
			return "", "", fmt.Errorf("%q is no address to listen on: the path after \"unix:\" names no file", foreign.Clip(spec, 200))
		}
		return "unix", filepath.Clean(path), nil
	}
	host, port, err := net.SplitHostPort(spec)
	if err != nil {
		return "", "", fmt.Errorf("%q is no address to listen on: write \"unix:/path\", \"host:port\" or \"[::]:port\"", foreign.Clip(spec, 200))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 && port != "0" {
		return "", "", fmt.Errorf("%q is no address to listen on: %s is no port number (1 to 65535)", foreign.Clip(spec, 200), foreign.Quote(port))
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) {
		return "", "", fmt.Errorf("%q is no address to listen on: %s is no host", foreign.Clip(spec, 200), foreign.Quote(host))
	}
	return "tcp", net.JoinHostPort(host, port), nil
}

// Dial connects to an address of the form that Parse reads.
func Dial(ctx context.Context, spec string) (net.Conn, error) {
	network, address, err := Parse(spec)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// Listen opens a listener on spec. A unix socket that nobody answers on is
// taken for the remains of a process that died, and replaced; one that
// somebody answers on, and any other file, is an error and left alone. The
// context bounds the look-up of a host name and that question.
func Listen(ctx context.Context, spec string, o Options) (net.Listener, error) {
	network, address, err := Parse(spec)
	if err != nil {
		return nil, err
	}
	if ln := o.Sockets.take(o.Name, network, address); ln != nil {
		return Resilient(ln, o.Logger), nil
	}
	var ln net.Listener
	if network == "unix" {
		ln, err = listenUnix(ctx, address, o)
	} else {
		var lc net.ListenConfig
		ln, err = lc.Listen(ctx, network, address)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", spec, err)
	}
	return Resilient(ln, o.Logger), nil
}

// probeTimeout bounds the question whether somebody listens on a unix socket.
// Connecting to one is answered by the kernel; only a full backlog, which
// proves a listener, makes it wait.
const probeTimeout = 2 * time.Second

func listenUnix(ctx context.Context, path string, o Options) (net.Listener, error) {
	gid := -1
	if o.Group != "" {
		var err error
		if gid, err = lookupGroup(o.Group); err != nil {
			return nil, err
		}
	}
	path, err := Target(path)
	if err != nil {
		return nil, err
	}
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	// On Linux, bind gives the file the mode of the socket's own inode. So
	// nobody else can connect before the group is right, and the umask, which
	// belongs to the whole process, need not be touched.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); e != nil {
			return e
		}
		return err
	}}
	ln, err := lc.Listen(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (make the directory %s; for those of the package: systemd-tmpfiles --create, and /run/etrnd is made by etrnd.service)", err, filepath.Dir(path))
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return nil, fmt.Errorf("%w (this process, of user id %d, may not make files in %s; for the directories of the package: systemd-tmpfiles --create; etrnctl check as root says more)", err, os.Geteuid(), filepath.Dir(path))
	case err != nil:
		return nil, err
	}
	if gid >= 0 {
		if err := os.Lchown(path, -1, gid); err != nil {
			ln.Close()
			return nil, fmt.Errorf("give the socket to group %q: %w", o.Group, err)
		}
	}
	if o.Mode != 0 {
		if err := os.Chmod(path, o.Mode.Perm()); err != nil {
			ln.Close()
			return nil, err
		}
	}
	return ln, nil
}

// maxLinks bounds the links that lead to a socket.
const maxLinks = 8

// Target is where the symbolic links at a socket's path lead, whether there is
// anything or not: bind(2) follows none. So a socket can lie in a directory of
// its own, in which its process alone may write, and be known by the path that
// everybody has always used. That path may be longer than a socket's can be.
func Target(path string) (string, error) {
	at := path
	for range maxLinks {
		to, err := os.Readlink(at)
		switch {
		case errors.Is(err, syscall.EINVAL), errors.Is(err, fs.ErrNotExist):
			if len(at) > MaxUnixPath {
				return "", fmt.Errorf("the link at %q leads to %q: a socket's path has at most %d bytes, this one has %d", path, foreign.Clip(at, 200), MaxUnixPath, len(at))
			}
			return at, nil
		case err != nil:
			return "", err
		case !filepath.IsAbs(to):
			to = filepath.Join(filepath.Dir(at), to)
		}
		at = filepath.Clean(to)
	}
	return "", fmt.Errorf("%q: %w", path, syscall.ELOOP)
}

// clearStale removes a socket that nobody listens on.
func clearStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%q is there already and is no socket: move it away or choose another path", path)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		c.Close()
		return fmt.Errorf("another process answers on %q: %w", path, syscall.EADDRINUSE)
	case errors.Is(err, syscall.ENOENT):
		return nil
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the stale socket: %w", err)
		}
		return nil
	}
	return fmt.Errorf("find out whether somebody listens on %q: %w", path, err)
}

func lookupGroup(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("group %q of the socket: %w", name, err)
	}
	return strconv.Atoi(g.Gid)
}
