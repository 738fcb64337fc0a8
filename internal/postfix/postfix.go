// Package postfix runs Postfix's commands: it lists the queue, releases mail,
// and asks for settings and tables. It implements mta.MTA.
//
// Holding needs no daemon of ours. Mail for a held domain is routed to a
// transport that Postfix is told to defer (defer_transports), and releasing
// asks the flush service (flush(8)) for one more try, which is made in spite
// of defer_transports. What Postfix's files have to say for that is the
// business of the package setup below this one. No other package knows the
// commands.
//
// What the package does not do: it keeps no state about the queue, it starts
// nothing by itself, it writes no file, and it never deletes or rewrites a
// message. It puts one on hold (postsuper -h) only when an operator says so.
package postfix

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
)

// Options are what New needs to know. The zero value is the Postfix that the
// machine runs by default.
type Options struct {
	// ConfigDir is where main.cf is; empty is the directory that Postfix was
	// built with. For another one an ordinary user needs it listed in
	// alternate_config_directories or multi_instance_directories of the
	// default main.cf.
	ConfigDir string
	// CommandDir is where postqueue and postconf are; empty looks into PATH
	// and then into the usual places.
	CommandDir string
	// Parallel bounds how many commands Release runs at once; 0 is 4.
	Parallel int
	// CommandTimeout bounds every single command; 0 is one minute. The
	// context may cut it shorter.
	CommandTimeout time.Duration
	// Credential is as whom the commands run; nil is this process's own. Only
	// root can choose.
	Credential *syscall.Credential
	Logger     *slog.Logger
}

// Instance is one Postfix of the machine, 3.4 or later (postqueue -j is of
// 3.1; the set-up uses postconf -M and -P), by its configuration directory. It
// is safe for concurrent use.
type Instance struct {
	o Options

	mu       sync.Mutex
	builtin  string   // the configuration directory that Postfix was built with
	confArgs []string // "-c DIR", or empty for that directory
	resolved bool     // confArgs
	facts    *facts
	downAt   string // the socket on which Postfix will answer, while it is down
}

var _ mta.MTA = (*Instance)(nil)

// New returns the Postfix of these options. It runs nothing yet.
func New(o Options) *Instance {
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.CommandTimeout <= 0 {
		o.CommandTimeout = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Instance{o: o}
}

// At is the same Postfix with its configuration read from another directory,
// such as one with files that are to be tried.
func (p *Instance) At(dir string) *Instance {
	q := New(p.o)
	q.o.ConfigDir = dir
	q.confArgs, q.resolved = []string{"-c", dir}, true
	return q
}

// As is the same Postfix with its commands run as somebody else: what the daemon
// can do is found out by doing it as the daemon's user.
func (p *Instance) As(who *syscall.Credential) *Instance {
	o := p.o
	o.Credential = who
	return New(o)
}

// ConfigDir is the directory with main.cf.
func (p *Instance) ConfigDir(ctx context.Context) (string, error) {
	if p.o.ConfigDir != "" {
		return p.o.ConfigDir, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.builtinDir(ctx)
}

// builtinDir asks once: it does not change while a program is installed. The
// caller holds mu.
func (p *Instance) builtinDir(ctx context.Context) (string, error) {
	if p.builtin == "" {
		out, err := p.output(ctx, nil, "postconf", "-d", "-h", "config_directory")
		if err != nil {
			return "", err
		}
		p.builtin = strings.TrimSpace(out)
	}
	return p.builtin, nil
}

// configArgs is "-c DIR" where it is needed. The default directory is not
// named on command lines: postqueue asks an ordinary user for a licence to
// name any.
func (p *Instance) configArgs(ctx context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.resolved && p.o.ConfigDir != "" {
		builtin, err := p.builtinDir(ctx)
		if err != nil {
			return nil, err
		}
		if filepath.Clean(p.o.ConfigDir) != filepath.Clean(builtin) {
			p.confArgs = []string{"-c", p.o.ConfigDir}
		}
	}
	p.resolved = true
	return slices.Clone(p.confArgs), nil
}
