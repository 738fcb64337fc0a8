package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"time"
)

// Connect brings the link up and runs the ip-up hooks of side A, in pppd's
// order: the interface first. Unlike pppd it returns when they have ended.
func (l *Link) Connect(ctx context.Context) error {
	if err := l.Up(ctx); err != nil {
		return err
	}
	return l.RunIPUp(ctx, l.a.Host)
}

// Disconnect takes the link down and runs the ip-down hooks of side A. pppd
// removes addresses and interface before it runs them, so a hook cannot say
// goodbye over the line.
func (l *Link) Disconnect(ctx context.Context) error {
	if err := l.Down(ctx); err != nil {
		return err
	}
	return l.RunIPDown(ctx, l.a.Host)
}

// RunIPUp runs the hooks in /etc/ppp/ip-up.d of one of the two hosts, as pppd
// and Debian's /etc/ppp/ip-up do: run-parts' choice and order, six arguments,
// a clean environment, no input and no output. If /var/log/ppp-ipupdown.log
// exists in the host, the output goes there. An error means that a hook failed;
// pppd would not care.
func (l *Link) RunIPUp(ctx context.Context, h *Host) error { return l.runHooks(ctx, h, "ip-up") }

// RunIPDown runs the hooks in /etc/ppp/ip-down.d, see RunIPUp.
func (l *Link) RunIPDown(ctx context.Context, h *Host) error { return l.runHooks(ctx, h, "ip-down") }

func (l *Link) runHooks(ctx context.Context, h *Host, name string) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	l.mu.Lock()
	c := l.last
	if c.down.IsZero() { // still up
		c.down = time.Now()
		c.final = [2]int64{l.count[0].Bytes, l.count[1].Bytes}
	}
	l.mu.Unlock()
	if c.up.IsZero() {
		return fmt.Errorf("%s: the link has never been up", name)
	}
	iface, local, remote, out, in := l.a.Interface, c.addrA, c.addrB, AtoB, BtoA
	switch h {
	case l.a.Host:
	case l.b.Host:
		iface, local, remote, out, in = l.b.Interface, c.addrB, c.addrA, BtoA, AtoB
	default:
		return fmt.Errorf("%s: host %s is not at this link", name, h.Name)
	}
	if !local.Is4() {
		return errors.New(name + ": these hooks are for IPv4; pppd has others for IPv6")
	}
	args := []string{iface, l.options.TTY, l.options.Speed, local.String(), remote.String(), l.options.IPParam}
	env := []string{ // pppd(8), "SCRIPTS"
		"DEVICE=" + l.options.TTY, "IFNAME=" + iface,
		"IPLOCAL=" + local.String(), "IPREMOTE=" + remote.String(),
		"SPEED=" + l.options.Speed, "ORIG_UID=0", "PPPLOGNAME=root",
	}
	if name == "ip-down" {
		env = append(env,
			"CONNECT_TIME="+strconv.Itoa(int(c.down.Sub(c.up).Seconds())),
			"BYTES_SENT="+strconv.FormatInt(c.final[out]-c.base[out], 10),
			"BYTES_RCVD="+strconv.FormatInt(c.final[in]-c.base[in], 10))
	}

	var cmd *Cmd
	if fi, err := os.Stat(h.Path("/etc/ppp/" + name)); err == nil && fi.Mode().Perm()&0o100 != 0 {
		// The ppp package is installed: its own script does the rest.
		cmd = h.Command(ctx, append([]string{"/etc/ppp/" + name}, args...)...)
		cmd.Env = env
	} else {
		run := []string{"run-parts"}
		for _, a := range args {
			run = append(run, "--arg="+a)
		}
		cmd = h.Command(ctx, append(run, "/etc/ppp/"+name+".d")...)
		cmd.Env = append(env,
			"PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin",
			"PPP_IFACE="+iface, "PPP_TTY="+l.options.TTY, "PPP_SPEED="+l.options.Speed,
			"PPP_LOCAL="+local.String(), "PPP_REMOTE="+remote.String(),
			"PPP_IPPARAM="+l.options.IPParam, "PPP_TTYNAME="+path.Base(l.options.TTY))
	}
	// A file or nothing, never a pipe: a hook that leaves a background process
	// behind must not be waited for, pppd does not either.
	if log, err := os.OpenFile(h.Path("/var/log/ppp-ipupdown.log"), os.O_APPEND|os.O_WRONLY, 0); err == nil {
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("host %s: hooks of %s: %w", h.Name, name, err)
	}
	return nil
}
