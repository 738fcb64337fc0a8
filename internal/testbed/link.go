package testbed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var interfaceName = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,14}$`)

// End is one end of a cable or of a link.
type End struct {
	Host      *Host
	Interface string // by default "eth0" on a cable and "ppp0" on a link

	// Address is "192.0.2.1/24" on a cable; on a link, where the other end is
	// a route of its own, "192.0.2.1".
	Address string

	// Routes lead through the other end while the cable or link is up, such
	// as "0.0.0.0/0".
	Routes []string
}

type end struct {
	End
	prefix netip.Prefix
}

func (e End) parse(iface string) (end, error) {
	out := end{End: e}
	if e.Host == nil {
		return out, errors.New("an end has no host")
	}
	if out.Interface == "" {
		out.Interface = iface
	}
	if !interfaceName.MatchString(out.Interface) {
		return out, fmt.Errorf("%s: interface name %q: letters, digits, dots and hyphens are allowed, 15 at most", e.Host.Name, out.Interface)
	}
	p, err := netip.ParsePrefix(e.Address)
	if err != nil {
		a, err := netip.ParseAddr(e.Address)
		if err != nil {
			return out, fmt.Errorf("%s: address %q: an IP address with or without a prefix length is allowed", e.Host.Name, e.Address)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	out.prefix = p
	for _, r := range e.Routes {
		if _, err := netip.ParsePrefix(r); err != nil {
			return out, fmt.Errorf("%s: route %q: %w", e.Host.Name, r, err)
		}
	}
	return out, nil
}

// ip runs a list of ip(8) commands in the host, stopping at the first failure.
func (h *Host) ip(ctx context.Context, commands ...string) error {
	// One process for all of them: each costs milliseconds.
	c := h.Command(ctx, "ip", "-batch", "-")
	c.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	_, err := c.Text()
	return err
}

// Wire joins two hosts by a perfect cable, as in one local network. From then
// on each finds the other's name in its /etc/hosts.
func (b *Bed) Wire(ctx context.Context, endA, endB End) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	a, errA := endA.parse("eth0")
	z, errZ := endB.parse("eth0")
	if err := errors.Join(errA, errZ); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	// The far end is born in its own host, so that nothing ever shows among
	// the machine's interfaces. A process number means nothing inside a host:
	// ip gets the namespace by a descriptor instead.
	ns, err := os.Open("/proc/" + strconv.Itoa(z.Host.init.Process.Pid) + "/ns/net")
	if err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	defer ns.Close()
	c := a.Host.Command(ctx, "ip", "link", "add", "name", a.Interface, "type", "veth",
		"peer", "name", z.Interface, "netns", "/proc/self/fd/3")
	c.ExtraFiles = []*os.File{ns}
	if _, err := c.Text(); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	for _, p := range [][2]end{{a, z}, {z, a}} {
		near, far := p[0], p[1]
		commands := []string{
			"addr add " + near.prefix.String() + " dev " + near.Interface + nodad(near.prefix),
			"link set " + near.Interface + " up",
		}
		if err := near.Host.ip(ctx, commands...); err != nil {
			return fmt.Errorf("wire: %w", err)
		}
		if err := near.Host.SetName(far.Host.Hostname, far.prefix.Addr()); err != nil {
			return fmt.Errorf("wire: %w", err)
		}
	}
	for _, p := range [][2]end{{a, z}, {z, a}} {
		var commands []string
		for _, r := range p[0].Routes {
			commands = append(commands, "route add "+r+" via "+p[1].prefix.Addr().String()+" dev "+p[0].Interface)
		}
		if len(commands) == 0 {
			continue
		}
		if err := p[0].Host.ip(ctx, commands...); err != nil {
			return fmt.Errorf("wire: %w", err)
		}
	}
	return nil
}

// nodad: an IPv6 address is usable at once, without looking for duplicates.
func nodad(p netip.Prefix) string {
	if p.Addr().Is6() {
		return " nodad"
	}
	return ""
}

// Direction of a packet on a link.
type Direction int

// The two directions.
const (
	AtoB Direction = iota
	BtoA
)

func (d Direction) String() string {
	if d == AtoB {
		return "A to B"
	}
	return "B to A"
}

// LinkOptions of a link between two hosts. By custom A is the site, the side
// that dials, and B the hub.
type LinkOptions struct {
	A, B  End
	Shape Shape
	MTU   int    // default 1500
	Seed  uint64 // of the random losses

	// TTY, Speed and IPParam are what hooks are told, as by pppd; by default
	// /dev/ttyS0, 115200 and nothing.
	TTY, Speed, IPParam string
}

// Counters of one direction of a link since it was made.
type Counters struct {
	Packets, Bytes int64 // that came out at the far end

	Lost     int64 // packets lost by chance
	Overflow int64 // packets dropped at a full buffer
	Cut      int64 // packets dropped because the link was cut or went down
}

// Link is an emulated line between two hosts. It begins as a line that is
// down: there is no interface. Its methods are safe for concurrent use.
type Link struct {
	bed     *Bed
	a, b    end
	options LinkOptions

	op     sync.Mutex // held by Up, Down and Renumber, one at a time
	closed bool       // guarded by op

	mu      sync.Mutex // guards the rest
	moved   chan struct{}
	session *session
	shape   Shape
	cut     bool
	cutAt   [2]int64 // byte count of a direction at which the link is cut, 0: never
	cutDone chan struct{}
	count   [2]Counters
	rng     [2]*rand.Rand
	last    connection
}

// connection is what the hooks are told about the present or the last session.
type connection struct {
	up, down     time.Time
	base         [2]int64 // bytes of each direction at the start
	final        [2]int64 // and at the end
	addrA, addrB netip.Addr
}

// session is one life of the interfaces, from Up to Down.
type session struct {
	tun  [2]*os.File // of A and of B
	lane [2]*lane
	wake [2]chan struct{}
	quit chan struct{}
	wg   sync.WaitGroup
}

// Link makes a link that is down. From then on each host finds the other's
// name in its /etc/hosts.
func (b *Bed) Link(_ context.Context, opts LinkOptions) (*Link, error) {
	a, errA := opts.A.parse("ppp0")
	z, errZ := opts.B.parse("ppp0")
	if err := errors.Join(errA, errZ, opts.Shape.check()); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	if a.Host == z.Host {
		return nil, fmt.Errorf("link: both ends are at host %s", a.Host.Name)
	}
	if opts.MTU == 0 {
		opts.MTU = 1500
	}
	if opts.TTY == "" {
		opts.TTY = "/dev/ttyS0"
	}
	if opts.Speed == "" {
		opts.Speed = "115200"
	}
	l := &Link{bed: b, a: a, b: z, options: opts, shape: opts.Shape, moved: make(chan struct{})}
	for d := range l.rng {
		l.rng[d] = rand.New(rand.NewPCG(opts.Seed, uint64(d)))
	}
	if err := l.setNames(); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.New("link: the test bed is closed")
	}
	b.links = append(b.links, l)
	return l, nil
}

func (s Shape) check() error {
	if s.RTT < 0 || s.Rate < 0 || s.RateBack < 0 || s.Buffer < 0 || s.Loss < 0 || s.Loss > 1 {
		return fmt.Errorf("shape %+v: nothing may be negative, and loss is at most 1", s)
	}
	return nil
}

func (l *Link) setNames() error {
	return errors.Join(
		l.a.Host.SetName(l.b.Host.Hostname, l.b.prefix.Addr()),
		l.b.Host.SetName(l.a.Host.Hostname, l.a.prefix.Addr()))
}

// Renumber gives the ends other addresses, as a provider does at every
// connection; empty keeps one. The link must be down.
func (l *Link) Renumber(addressA, addressB string) error {
	l.op.Lock()
	defer l.op.Unlock()
	if l.IsUp() {
		return errors.New("link: it must be down to be renumbered")
	}
	for _, e := range []struct {
		end *end
		to  string
	}{{&l.a, addressA}, {&l.b, addressB}} {
		if e.to == "" {
			continue
		}
		addr, err := netip.ParseAddr(e.to)
		if err != nil {
			return fmt.Errorf("link: %w", err)
		}
		e.end.prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	return l.setNames()
}

// Up makes the interfaces, with addresses and routes, and carries packets
// between them. Hooks are not run; see RunIPUp and Connect.
func (l *Link) Up(ctx context.Context) error {
	l.op.Lock()
	defer l.op.Unlock()
	ctx, cancel := bounded(ctx)
	defer cancel()
	if l.closed {
		return errors.New("link up: the test bed is closed")
	}
	if l.IsUp() {
		return nil
	}
	s := &session{quit: make(chan struct{})}
	ends := [2]end{l.a, l.b}
	var err error
	for i, e := range ends {
		if s.tun[i], err = e.Host.openTUN(e.Interface); err != nil {
			break
		}
	}
	for i, e := range ends {
		if err != nil {
			break
		}
		far := ends[1-i]
		commands := []string{
			// The kernel's own queue is short; what waits, waits in the lane.
			"link set " + e.Interface + " mtu " + strconv.Itoa(l.options.MTU) + " up",
			"addr add " + e.prefix.Addr().String() + " peer " + far.prefix.Addr().String() + " dev " + e.Interface + nodad(e.prefix),
		}
		for _, r := range e.Routes {
			commands = append(commands, "route add "+r+" dev "+e.Interface)
		}
		err = e.Host.ip(ctx, commands...)
	}
	if err != nil {
		s.closeTUNs()
		return fmt.Errorf("link up: %w", err)
	}

	l.mu.Lock()
	now := time.Now()
	for d := range s.lane {
		s.lane[d] = &lane{rng: l.rng[d]}
		s.lane[d].shape(now, l.shape, Direction(d) == BtoA)
		s.wake[d] = make(chan struct{}, 1)
	}
	l.session = s
	l.last = connection{up: now, base: [2]int64{l.count[0].Bytes, l.count[1].Bytes}, addrA: l.a.prefix.Addr(), addrB: l.b.prefix.Addr()}
	l.mu.Unlock()
	for d := range s.lane {
		s.wg.Go(func() { l.read(s, Direction(d)) })
		s.wg.Go(func() { l.write(s, Direction(d)) })
	}
	l.bed.log.Debug("link up", "a", l.a.Host.Name, "b", l.b.Host.Name)
	return nil
}

// Down takes the interfaces away, with what is in flight. Hooks are not run;
// see RunIPDown and Disconnect.
func (l *Link) Down(_ context.Context) error {
	l.op.Lock()
	defer l.op.Unlock()
	l.down()
	return nil
}

func (l *Link) close() {
	l.op.Lock()
	defer l.op.Unlock()
	l.closed = true
	l.down()
}

func (l *Link) down() {
	l.mu.Lock()
	s := l.session
	l.session = nil
	if s != nil {
		l.last.down = time.Now()
		for d, lane := range s.lane {
			l.count[d].Cut += lane.purge()
			l.count[d].Lost += lane.lost
			l.count[d].Overflow += lane.overflow
			l.last.final[d] = l.count[d].Bytes
		}
	}
	l.mu.Unlock()
	if s != nil {
		s.close()
		l.bed.log.Debug("link down", "a", l.a.Host.Name, "b", l.b.Host.Name)
	}
}

// IsUp tells whether the interfaces are there.
func (l *Link) IsUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session != nil
}

func (s *session) close() {
	close(s.quit)
	s.closeTUNs()
	s.wg.Wait()
}

func (s *session) closeTUNs() {
	for _, f := range s.tun {
		if f != nil {
			f.Close()
		}
	}
}

// openTUN makes an interface that lasts until the file is closed.
func (h *Host) openTUN(name string) (*os.File, error) {
	var fd int
	err := h.enter(unix.CLONE_NEWNET, func() (err error) {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("host %s: interface %s: %w", h.Name, name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), h.Name+":"+name), nil
}

// read puts what the host sends into the lane.
func (l *Link) read(s *session, d Direction) {
	buf := make([]byte, 64<<10)
	for {
		n, err := s.tun[d].Read(buf)
		if err != nil {
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
				continue
			}
			return // closed, or the host is gone
		}
		data := append([]byte(nil), buf[:n]...)
		l.mu.Lock()
		if l.cut {
			l.count[d].Cut++
		} else {
			s.lane[d].offer(time.Now(), data)
		}
		l.mu.Unlock()
		s.poke(d)
	}
}

func (s *session) poke(d Direction) {
	select {
	case s.wake[d] <- struct{}{}:
	default:
	}
}

// write hands to the far host what has come out of the lane.
func (l *Link) write(s *session, d Direction) {
	far := s.tun[1-d]
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.mu.Lock()
		data := s.lane[d].due(time.Now())
		wait := time.Hour
		if data == nil {
			if at, ok := s.lane[d].next(); ok {
				wait = time.Until(at)
			}
		}
		l.mu.Unlock()
		if data != nil {
			if _, err := far.Write(data); err == nil {
				l.crossed(s, d, len(data))
			} else if errors.Is(err, os.ErrClosed) {
				return
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake[d]:
		case <-s.quit:
			return
		}
	}
}

// crossed counts a packet and cuts the link where that was asked for.
func (l *Link) crossed(s *session, d Direction, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != s {
		return
	}
	l.count[d].Packets++
	l.count[d].Bytes += int64(size)
	if at := l.cutAt[d]; at != 0 && l.count[d].Bytes >= at {
		l.cutNow()
	}
	l.changed()
}

// changed tells those that wait on the counters. l.mu is held.
func (l *Link) changed() {
	close(l.moved)
	l.moved = make(chan struct{})
}

// Set changes the shape at once.
func (l *Link) Set(shape Shape) error {
	if err := shape.check(); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shape = shape
	if s := l.session; s != nil {
		for d, lane := range s.lane {
			lane.shape(time.Now(), shape, Direction(d) == BtoA)
			s.poke(Direction(d))
		}
	}
	return nil
}

// Cut silently drops everything from now on, in both directions, with what is
// on its way. The interfaces stay up: neither side is told.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutNow()
	l.changed()
}

func (l *Link) cutNow() {
	l.cut = true
	l.cutAt = [2]int64{}
	if l.session != nil {
		for d, lane := range l.session.lane {
			l.count[d].Cut += lane.purge()
		}
	}
	if l.cutDone != nil {
		close(l.cutDone)
		l.cutDone = nil
	}
}

// CutAfter cuts the link as soon as n more bytes have crossed it in direction
// d, to the packet, however fast the link or slow the caller is. The channel
// is closed when it is cut.
func (l *Link) CutAfter(d Direction, n int64) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cutDone == nil {
		l.cutDone = make(chan struct{})
	}
	done := l.cutDone
	if l.cut || n <= 0 {
		l.cutNow()
		return done
	}
	l.cutAt[d] = l.count[d].Bytes + n
	return done
}

// Restore ends a cut, and calls off one that was to come.
func (l *Link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
	l.cutAt = [2]int64{}
}

// Counters of one direction.
func (l *Link) Counters(d Direction) Counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.count[d]
	if l.session != nil {
		c.Lost += l.session.lane[d].lost
		c.Overflow += l.session.lane[d].overflow
	}
	return c
}

// WaitBytes waits until the byte counter of d is at least total.
func (l *Link) WaitBytes(ctx context.Context, d Direction, total int64) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		l.mu.Lock()
		have, moved := l.count[d].Bytes, l.moved
		l.mu.Unlock()
		if have >= total {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("link: %d of %d bytes have crossed from %v: %w", have, total, d, context.Cause(ctx))
		}
	}
}
