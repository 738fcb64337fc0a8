package call

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/socket"
)

// Modem brings links up and takes them down.
type Modem interface {
	// Dial runs the command of a link to dial. That it returns nil does not
	// say that the link is up.
	Dial(ctx context.Context, l *config.Link) error
	// HangUp runs the command to hang up. It has no context, since a line is
	// hung up whoever has gone.
	HangUp(l *config.Link) error
	// Interfaces are the network interfaces of the link that there are.
	Interfaces(l *config.Link) []Interface
}

// Interface is a network interface.
type Interface struct {
	Name  string
	Up    bool
	Addrs []netip.Addr
}

// Network is how a call reaches others.
type Network interface {
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Connections are those of this machine, whosever they are.
	Connections() ([]socket.Connection, error)
}

// machine is the Network of this machine.
type machine struct{}

func (machine) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

func (machine) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, network, host)
}

func (machine) Connections() ([]socket.Connection, error) { return socket.Connections() }

// present reports whether an interface of the link is up and has an address.
// A link without interfaces and without a command to dial is always up: there
// is nothing to tell otherwise.
func present(m Modem, l *config.Link) (iface string, up bool) {
	if len(l.Interfaces) == 0 {
		return "", len(l.Dial) == 0
	}
	for _, i := range m.Interfaces(l) {
		if i.Up && len(i.Addrs) > 0 {
			return i.Name, true
		}
	}
	return "", false
}

// Commands is the Modem that a link's commands are, and this machine's network
// interfaces. A command gets no input and a small environment; what it prints
// goes to the log, cut.
type Commands struct {
	Logger *slog.Logger
}

// Dial runs the command to dial. It is ended with ctx, and by its time limit.
func (c Commands) Dial(ctx context.Context, l *config.Link) error {
	return c.run(ctx, l.Name, "dial", l.Dial, l.DialTimeout)
}

// HangUp runs the command to hang up. Its time limit ends it.
func (c Commands) HangUp(l *config.Link) error {
	return c.run(context.Background(), l.Name, "hang-up", l.HangUp, l.HangUpTimeout)
}

// Interfaces are those of this machine that the link's patterns match.
func (c Commands) Interfaces(l *config.Link) []Interface {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var list []Interface
	for _, i := range ifaces {
		if !l.Match(i.Name) {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		found := Interface{Name: i.Name, Up: i.Flags&net.FlagUp != 0}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				found.Addrs = append(found.Addrs, p.Addr().Unmap())
			}
		}
		list = append(list, found)
	}
	return list
}

func (c Commands) run(ctx context.Context, link, what string, argv []string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "ETRND_LINK=" + link}
	cmd.Dir = "/"
	// A command that leaves a child behind must not keep the call waiting.
	cmd.WaitDelay = time.Second
	var out head
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("it did not end within %v", timeout)
	}
	text := out.String()
	log := c.Logger.With("link", link, "what", what, "command", argv, "took", time.Since(start).Round(time.Millisecond), "output", text)
	if err == nil {
		log.Info("command run")
		return nil
	}
	log.Error("command failed", "error", err)
	if text != "" {
		text = ": " + text
	}
	return fmt.Errorf("the %s command %q of link %s failed: %w%s", what, argv[0], link, err, text)
}

// maxOutput is how much of what a command prints is kept.
const maxOutput = 300

// head keeps the first part of what a command prints.
type head struct{ buf []byte }

func (t *head) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[:min(len(p), maxOutput-len(t.buf))]...)
	return len(p), nil
}

func (t *head) String() string { return strings.ToValidUTF8(strings.TrimSpace(string(t.buf)), "?") }
