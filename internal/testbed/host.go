package testbed

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed init.sh
var initScript string

// searchPath is the PATH of every process in a host.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// HostOptions of one host. The zero value is fine.
type HostOptions struct {
	// Hostname is the full name, such as "hub.example.net"; by default the
	// short name with ".example" behind it.
	Hostname string
}

// Host is one machine of the bed.
type Host struct {
	// Name is the short name in logs and errors, Hostname the full one.
	Name, Hostname string

	bed   *Bed
	init  *exec.Cmd
	pidfd int
	stdin *os.File      // closing it ends the host
	gone  chan struct{} // closed when init has been reaped
	dir   string        // on the machine's disk, or empty

	mu      sync.Mutex // guards these, and the files under /etc that Host rewrites
	names   []hostsLine
	closers []func() // end what this process itself runs in the host
	down    bool

	procs sync.WaitGroup
	mail  mailbox
}

type hostsLine struct {
	name string
	addr netip.Addr
}

// Host adds a host to the bed. It has a loopback interface and nothing else.
func (b *Bed) Host(ctx context.Context, name string, opts HostOptions) (*Host, error) {
	if !hostName.MatchString(name) {
		return nil, fmt.Errorf("host name %q: lower-case letters, digits and hyphens are allowed, 32 at most", name)
	}
	h := &Host{Name: name, Hostname: opts.Hostname, bed: b, gone: make(chan struct{})}
	if h.Hostname == "" {
		h.Hostname = name + ".example"
	}

	b.mu.Lock()
	switch {
	case b.closed:
		b.mu.Unlock()
		return nil, fmt.Errorf("host %s: the test bed is closed", name)
	case b.names[name]:
		b.mu.Unlock()
		return nil, fmt.Errorf("host %s: there is one of this name already", name)
	}
	b.names[name] = true
	b.making.Add(1)
	b.mu.Unlock()
	defer b.making.Done()

	if err := h.boot(ctx); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	b.mu.Lock()
	b.hosts = append(b.hosts, h)
	b.mu.Unlock()
	b.log.Debug("host up", "host", name, "pid", h.init.Process.Pid)
	return h, nil
}

func (h *Host) boot(ctx context.Context) (err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if h.bed.dir != "" {
		h.dir = filepath.Join(h.bed.dir, h.Name)
		if err := os.MkdirAll(h.bed.dir, 0o755); err != nil {
			return err
		}
		// Mkdir, so that what Close removes is never somebody else's.
		if err := os.Mkdir(h.dir, 0o755); err != nil {
			return err
		}
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return err
	}
	defer outR.Close()

	// The script comes through a pipe, not as an argument, so that ps in a host
	// stays readable. It is far shorter than what a pipe holds.
	scriptR, scriptW, err := os.Pipe()
	if err != nil {
		inW.Close()
		outW.Close()
		return err
	}
	defer scriptR.Close()
	_, err = io.WriteString(scriptW, initScript)
	if err = errors.Join(err, scriptW.Close()); err != nil {
		inW.Close()
		outW.Close()
		return err
	}

	h.stdin = inW
	h.init = exec.Command("bash", "/dev/fd/3", h.Hostname)
	h.init.Args[0] = "testbed-init"
	h.init.Stdin, h.init.Stdout, h.init.Stderr = inR, outW, outW
	h.init.ExtraFiles = []*os.File{scriptR}
	h.init.Dir = "/"
	h.init.Env = []string{"PATH=" + searchPath, "TESTBED_HOSTNAME=" + h.Hostname, "TESTBED_VAR=" + h.dir}
	h.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID,
		// A session of its own: Ctrl-C at the terminal is for the demo, which
		// then takes the hosts down itself.
		Setsid: true,
		PidFD:  &h.pidfd,
	}
	err = h.init.Start()
	outW.Close()
	if err != nil {
		inW.Close()
		h.removeDir()
		return fmt.Errorf("making namespaces: %w", err)
	}
	go func() {
		_ = h.init.Wait()
		close(h.gone)
	}()

	// The script speaks once it is done or has failed; either way it then
	// closes its output. The deadline ends it, and with it this read.
	stop := context.AfterFunc(ctx, func() { _ = h.init.Process.Kill() })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(outR, 64<<10))
	if err == nil && string(said) == "ready\n" {
		return h.writeNames()
	}
	closeErr := h.close()
	return errors.Join(fmt.Errorf("setting up: %q: %w", said, errors.Join(err, ctx.Err())), closeErr)
}

// close ends the host and waits until its last process is gone.
func (h *Host) close() error {
	h.mu.Lock()
	h.down = true
	closers := h.closers
	h.closers = nil
	h.mu.Unlock()
	for _, c := range closers {
		c()
	}
	h.stdin.Close()
	select {
	case <-h.gone:
	case <-time.After(longest / 3):
		_ = h.init.Process.Kill()
		<-h.gone
	}
	h.procs.Wait()
	unix.Close(h.pidfd)
	return h.removeDir()
}

func (h *Host) removeDir() error {
	if h.dir == "" {
		return nil
	}
	return os.RemoveAll(h.dir)
}

// Path turns a path of the host into one that this process can open. It is
// valid while the host is up.
func (h *Host) Path(path string) string {
	return "/proc/" + strconv.Itoa(h.init.Process.Pid) + "/root" + filepath.Clean("/"+path)
}

// WriteFile writes a file of the host, with exactly this mode, owned by root.
// Missing directories are made.
func (h *Host) WriteFile(path string, data []byte, mode fs.FileMode) error {
	p := h.Path(path)
	err := os.MkdirAll(filepath.Dir(p), 0o755)
	if err == nil {
		// A program that is being written must not be open in a child that is
		// forked meanwhile: to run it would fail with ETXTBSY.
		syscall.ForkLock.RLock()
		err = os.WriteFile(p, data, mode)
		syscall.ForkLock.RUnlock()
	}
	if err == nil {
		err = os.Chmod(p, mode) // the umask, and files that were there before
	}
	if err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

// ReadFile reads a file of the host.
func (h *Host) ReadFile(path string) ([]byte, error) {
	data, err := os.ReadFile(h.Path(path))
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return data, nil
}

// Install copies a file of the machine, such as a program that was just built,
// into the host. Only /etc, /var, /run, /tmp and /usr/local/{bin,sbin} of a
// host can be written to, and the machine's /tmp is not to be seen in there.
func (h *Host) Install(machinePath, hostPath string, mode fs.FileMode) error {
	data, err := os.ReadFile(machinePath)
	if err != nil {
		return fmt.Errorf("host %s: install: %w", h.Name, err)
	}
	// A new file, not new contents: the old program may be running.
	if err := os.Remove(h.Path(hostPath)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("host %s: install: %w", h.Name, err)
	}
	return h.WriteFile(hostPath, data, mode)
}

// SetName puts a name into the host's /etc/hosts, or changes its address
// there. Postfix's chroot sees the same.
func (h *Host) SetName(name string, addr netip.Addr) error {
	h.mu.Lock()
	h.names = slices.DeleteFunc(h.names, func(l hostsLine) bool { return l.name == name && l.addr.Is4() == addr.Is4() })
	h.names = append(h.names, hostsLine{name, addr})
	h.mu.Unlock()
	return h.writeNames()
}

func (h *Host) writeNames() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b bytes.Buffer
	fmt.Fprintf(&b, "127.0.0.1 localhost\n::1 localhost\n")
	own := false
	for _, l := range h.names {
		own = own || l.name == h.Hostname
		fmt.Fprintf(&b, "%s %s\n", l.addr, l.name)
	}
	if !own {
		fmt.Fprintf(&b, "127.0.1.1 %s\n", h.Hostname)
	}
	if err := h.replaceFile("/etc/hosts", b.Bytes()); err != nil {
		return err
	}
	if _, err := os.Stat(h.Path(queueDir + "/etc")); err != nil {
		return nil // no Postfix yet; its start makes the copy
	}
	return h.replaceFile(queueDir+"/etc/hosts", b.Bytes())
}

// replaceFile swaps a file in one step, for those that are read at any moment.
func (h *Host) replaceFile(path string, data []byte) error {
	if err := h.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	if err := os.Rename(h.Path(path+".new"), h.Path(path)); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

// lookup finds the addresses of a name as the host itself would.
func (h *Host) lookup(name string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a, nil
	}
	if name == "localhost" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.names {
		if l.name == name {
			return l.addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%q is no address and not in /etc/hosts of host %s", name, h.Name)
}

// enter runs fn on a thread that is in the given namespaces of the host. What
// fn starts there, a process or a socket, belongs to the host. The thread is
// not given back to the scheduler: it ends with the goroutine.
func (h *Host) enter(flags int, fn func() error) error {
	errc := make(chan error, 1)
	go onOwnThread(func() {
		errc <- func() error {
			if flags&unix.CLONE_NEWNS != 0 {
				// A thread may change its mount namespace only when it does
				// not share root and working directory with the others.
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					return fmt.Errorf("host %s: unshare: %w", h.Name, err)
				}
			}
			if err := h.join(flags); err != nil {
				return err
			}
			return fn()
		}()
	})
	return <-errc
}

// onOwnThread runs fn on a thread that ends with the calling goroutine. The main
// thread of a process never does: one that fn had left in a host's namespaces
// would keep them, and be what /proc/self shows.
func onOwnThread(fn func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	// As long as this goroutine is locked to it, no other is run there.
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(fn)
	}()
	<-done
	runtime.UnlockOSThread()
}

// join moves the calling thread into namespaces of the host.
func (h *Host) join(flags int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return fmt.Errorf("host %s is down", h.Name)
	}
	if err := unix.Setns(h.pidfd, flags); err != nil {
		return fmt.Errorf("host %s: setns: %w", h.Name, err)
	}
	return nil
}

// Dial connects from inside the host. A tcp or udp address is IP:port or
// name:port with a name of the host's /etc/hosts; a unix address is a path of
// the host.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var d net.Dialer
	if strings.HasPrefix(network, "unix") {
		return d.DialContext(ctx, network, h.Path(addr))
	}
	addr, err := h.literal(addr)
	if err != nil {
		return nil, err
	}
	var c net.Conn
	err = h.enter(unix.CLONE_NEWNET, func() (err error) {
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Listen listens inside the host; addresses are as for Dial.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	if strings.HasPrefix(network, "unix") {
		return net.Listen(network, h.Path(addr))
	}
	addr, err := h.literal(addr)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	err = h.enter(unix.CLONE_NEWNET, func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// ListenPacket is Listen for udp.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	addr, err := h.literal(addr)
	if err != nil {
		return nil, err
	}
	var c net.PacketConn
	err = h.enter(unix.CLONE_NEWNET, func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// literal makes an address of numbers only: the resolver of package net works
// on other threads, which are not in the host.
func (h *Host) literal(addr string) (string, error) {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	if name == "" {
		return addr, nil
	}
	ip, err := h.lookup(name)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(ip.String(), port), nil
}

// dump writes the tail of every log of the host.
func (h *Host) dump(w io.Writer) {
	dir := h.Path("/var/log")
	entries, err := os.ReadDir(dir)
	if err != nil {
		fmt.Fprintf(w, "==== %s: %v\n", h.Name, err)
		return
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || len(data) == 0 {
			continue
		}
		const most = 16 << 10
		if len(data) > most {
			data = data[len(data)-most:]
			data = data[bytes.IndexByte(data, '\n')+1:]
		}
		fmt.Fprintf(w, "==== %s: /var/log/%s\n%s", h.Name, e.Name(), data)
	}
}

// account is a line of the host's /etc/passwd with its groups.
type account struct {
	uid, gid uint32
	home     string
}

func (h *Host) user(name string) (account, error) {
	f := h.fields("/etc/passwd", name)
	if len(f) < 7 {
		return account{}, fmt.Errorf("host %s has no user %q", h.Name, name)
	}
	uid, err1 := strconv.ParseUint(f[2], 10, 32)
	gid, err2 := strconv.ParseUint(f[3], 10, 32)
	return account{uint32(uid), uint32(gid), f[5]}, errors.Join(err1, err2)
}

func (h *Host) group(name string) (uint32, error) {
	f := h.fields("/etc/group", name)
	if len(f) < 3 {
		return 0, fmt.Errorf("host %s has no group %q", h.Name, name)
	}
	gid, err := strconv.ParseUint(f[2], 10, 32)
	return uint32(gid), err
}

func (h *Host) fields(file, name string) []string {
	data, err := os.ReadFile(h.Path(file))
	if err != nil {
		return nil
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if f := strings.Split(s.Text(), ":"); f[0] == name {
			return f
		}
	}
	return nil
}
