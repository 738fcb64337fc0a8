package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cmd is an exec.Cmd that runs inside a host. It is a direct child of this
// process, without a wrapper in between, so signals reach the program itself.
// Use Start, Run, Output and CombinedOutput of Cmd, not those of the embedded
// one. The environment is a clean one: PATH, HOME, LANG; change Env to add.
type Cmd struct {
	*exec.Cmd
	host    *Host
	bounded bool // its context has a deadline
}

// Command makes a command for the host, to be run as root in "/". The end of
// ctx kills it, and without a deadline in ctx Run does so after hang.Limit.
func (h *Host) Command(ctx context.Context, args ...string) *Cmd {
	if len(args) == 0 {
		args = []string{"/nonexistent"}
	}
	path, err := h.which(args[0])
	c := exec.CommandContext(ctx, path)
	c.Args = args
	c.Dir = "/"
	c.Env = []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8"}
	// A process that leaves a daemon behind must not keep us waiting for the
	// other end of its output.
	c.WaitDelay = 5 * time.Second
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.Err = err
	_, bounded := ctx.Deadline()
	return &Cmd{Cmd: c, host: h, bounded: bounded}
}

// which finds a program as a shell in the host would.
func (h *Host) which(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		// Not followed: an absolute link would lead to the machine's files.
		fi, err := os.Lstat(h.Path(dir + "/" + name))
		if err == nil && !fi.IsDir() && fi.Mode().Perm()&0o111 != 0 {
			return dir + "/" + name, nil
		}
	}
	return "/nonexistent", fmt.Errorf("host %s: %q is not in %s", h.Name, name, searchPath)
}

// As makes the command run as another user of the host, with that user's own
// group and these further ones (and no others).
func (c *Cmd) As(user string, groups ...string) *Cmd {
	acc, err := c.host.user(user)
	cred := &syscall.Credential{Uid: acc.uid, Gid: acc.gid, Groups: []uint32{}}
	errs := []error{c.Err, err}
	for _, g := range groups {
		gid, err := c.host.group(g)
		errs = append(errs, err)
		cred.Groups = append(cred.Groups, gid)
	}
	c.Err = errors.Join(errs...)
	c.SysProcAttr.Credential = cred
	for i, kv := range c.Env {
		if strings.HasPrefix(kv, "HOME=") {
			c.Env[i] = "HOME=" + acc.home
		}
	}
	return c
}

// Start starts the command inside the host.
func (c *Cmd) Start() error {
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID
	return c.host.enter(all, c.Cmd.Start)
}

// Run starts the command and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	if !c.bounded {
		defer time.AfterFunc(longest, func() { _ = c.Process.Kill() }).Stop()
	}
	return c.Wait()
}

// Output runs the command and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns all its output.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Run runs a command in the host as root, and returns its standard output. An
// error has the command and what it wrote to standard error.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	return h.Command(ctx, args...).Text()
}

// Text runs the command as Host.Run does.
func (c *Cmd) Text() (string, error) {
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return string(out), fmt.Errorf("host %s: %s: %w: %s", c.host.Name, strings.Join(c.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// StartOptions of a daemon.
type StartOptions struct {
	Args []string // program and arguments
	User string   // default root

	// Groups are the supplementary groups, such as postdrop, which a process
	// under NoNewPrivileges needs for postqueue.
	Groups []string

	// Capabilities are kept across the change of user, as a unit's
	// AmbientCapabilities are: CAP_NET_BIND_SERVICE for a port below 1024.
	Capabilities []uintptr

	Env []string // added to PATH, HOME and LANG

	// Log names the file /var/log/NAME.log of the host that gets the output,
	// appended; by default it is the program's name.
	Log string
}

// Process is a daemon in a host.
type Process struct {
	host *Host
	cmd  *Cmd
	log  string
	done chan struct{}
}

// Start starts a daemon. It ends with the host, or when it is told to; ctx
// bounds the start only.
func (h *Host) Start(ctx context.Context, opts StartOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(opts.Args) == 0 {
		return nil, errors.New("start: no program given")
	}
	if opts.Log == "" {
		opts.Log = filepath.Base(opts.Args[0])
	}
	p := &Process{host: h, log: "/var/log/" + opts.Log + ".log", done: make(chan struct{})}
	p.cmd = h.Command(context.WithoutCancel(ctx), opts.Args...)
	if opts.User != "" {
		p.cmd.As(opts.User, opts.Groups...)
	}
	p.cmd.SysProcAttr.AmbientCaps = opts.Capabilities
	p.cmd.Env = append(p.cmd.Env, opts.Env...)
	log, err := os.OpenFile(h.Path(p.log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("host %s: start %s: %w", h.Name, opts.Args[0], err)
	}
	h.procs.Go(func() {
		_ = p.cmd.Wait()
		close(p.done)
	})
	return p, nil
}

// PID is the process number on the machine (not the one inside the host).
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the path of the log file inside the host.
func (p *Process) Log() string { return p.log }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.done }

// Signal sends a signal to exactly this process.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill kills the process with SIGKILL and returns when it is gone.
func (p *Process) Kill() error {
	err := p.Signal(syscall.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err == nil {
		<-p.done
	}
	return err
}

// Wait waits for the end and returns the exit code, -1 after a signal.
func (p *Process) Wait(ctx context.Context) (int, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("host %s: waiting for %s to end: %w", p.host.Name, p.cmd.Args[0], context.Cause(ctx))
	}
}

// Stop sends SIGTERM, waits for the end and returns the exit code.
func (p *Process) Stop(ctx context.Context) (int, error) {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return -1, err
	}
	return p.Wait(ctx)
}
