package mta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options are what NewPostfix needs to know. The zero value is the Postfix
// that the machine runs by default.
type Options struct {
	// ConfigDir is where main.cf is; empty is the directory that Postfix was
	// built with. For another one an ordinary user needs it listed in
	// alternate_config_directories or multi_instance_directories of the
	// default main.cf.
	ConfigDir string
	// CommandDir is where postqueue and postconf are; empty looks into PATH
	// and then into the usual places.
	CommandDir string
	// Transport is the name of the transport whose mail is held; empty is
	// DefaultTransport.
	Transport string
	// Parallel bounds how many commands Release runs at once; 0 is 4.
	Parallel int
	// CommandTimeout bounds every single command; 0 is one minute. The
	// context may cut it shorter.
	CommandTimeout time.Duration
	Logger         *slog.Logger
}

// DefaultTransport is the name of the transport that holds mail.
const DefaultTransport = "transient"

// Postfix is the MTA interface for Postfix 3.4 or later (postqueue -j is of
// 3.1; the set-up uses postconf -M and -P). It is safe for concurrent use.
type Postfix struct {
	o Options

	mu       sync.Mutex
	confArgs []string // "-c DIR", or empty for the default directory
	resolved bool
	facts    *facts
}

var _ MTA = (*Postfix)(nil)

// NewPostfix returns the Postfix of these options. It runs nothing yet.
func NewPostfix(o Options) *Postfix {
	if o.Transport == "" {
		o.Transport = DefaultTransport
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.CommandTimeout <= 0 {
		o.CommandTimeout = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Postfix{o: o}
}

// List asks showq(8) through postqueue -j. While Postfix is stopped it still
// works for root, who reads the queue directory; for others it is ErrDown.
func (p *Postfix) List(ctx context.Context) ([]Message, error) {
	args, err := p.configArgs(ctx)
	if err != nil {
		return nil, err
	}
	var list []Message
	at := make(map[string]int)
	var badLines int
	var firstBad error
	each := func(m Message) {
		// A message that moves while the queues are read shows up twice. They
		// are read in the order in which a message moves, so the later one is
		// the newer.
		if i, ok := at[m.ID]; ok {
			list[i] = m
			return
		}
		at[m.ID] = len(list)
		list = append(list, m)
	}
	bad := func(err error) {
		if badLines++; firstBad == nil {
			firstBad = err
		}
	}
	err = p.run(ctx, func(out io.Reader) error { return parseListing(out, each, bad) }, nil, "postqueue", append(args, "-j")...)
	if err != nil {
		return nil, fmt.Errorf("list the mail queue: %w", err)
	}
	if badLines > 0 {
		p.o.Logger.WarnContext(ctx, "queue listing has lines that are no messages", "lines", badLines, "first", firstBad)
	}
	return list, nil
}

// Release asks flush(8): postqueue -s for each domain, postqueue -i for each
// id. Facts about Postfix that a caller has to know, each pinned by a test:
//
//   - The domain must be in fast_flush_domains, else ErrNotFlushable. It is
//     the domain of the recipient, exactly: "acme.example" says nothing about
//     mail for "sub.acme.example".
//   - A domain stands for what was deferred since it was put into
//     fast_flush_domains, for whatever reason. Older mail must be named by id.
//   - An id does something only while the message is in the deferred (or
//     incoming) queue. When it is active, or unknown, or in the hold queue,
//     nothing happens and nothing is said. A new message is active for some
//     milliseconds after it has been accepted, on a busy machine for 100 or
//     200: ask after that, look at a listing, and ask again while the reason
//     is still ReasonHeld.
//   - By the time that Release returns, the messages have left the deferred
//     queue (3,000 by domain: 0.07 s). By id it is a process each: 5,000 take
//     10 to 20 s on two cores.
//   - A domain's list keeps an id until the domain is asked for, so a message
//     whose recipients there were served by id is moved again by the domain.
//     Where that matters, name ids.
//   - "postqueue -f" of the postmaster releases everything. Postfix's own
//     refresh of the lists (fast_flush_refresh_time) does not.
//   - Released mail that cannot be delivered goes back to deferred and stays
//     there through every queue run, as before.
func (p *Postfix) Release(ctx context.Context, domains, ids []string) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	type job struct{ flag, what, name string }
	jobs := make([]job, 0, len(domains)+len(ids))
	var errs []error
	for _, d := range domains {
		if err := checkSite(d); err != nil {
			errs = append(errs, fmt.Errorf("release: %w", err))
			continue
		}
		jobs = append(jobs, job{"-s", "domain", d})
	}
	for _, id := range ids {
		if err := checkID(id); err != nil {
			errs = append(errs, fmt.Errorf("release: %w", err))
			continue
		}
		jobs = append(jobs, job{"-i", "message", id})
	}

	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(p.o.Parallel)
	// One failure that all others will share ends it: five thousand times
	// "the mail system is down" helps nobody.
	gctx, stop := context.WithCancel(ctx)
	defer stop()
	done, fatal := 0, false
	for _, j := range jobs {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := p.run(gctx, nil, nil, "postqueue", append(slices.Clone(args), j.flag, j.name)...)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case fatal:
				// Cut off by the failure that is already reported.
			case errors.Is(err, ErrDown), errors.Is(err, ErrPermission), gctx.Err() != nil:
				fatal = true
				stop()
				errs = append(errs, fmt.Errorf("release %s %q (%d of %d asked for before): %w", j.what, j.name, done, len(jobs), err))
			default:
				errs = append(errs, fmt.Errorf("release %s %q: %w", j.what, j.name, err))
			}
			return nil
		})
	}
	_ = g.Wait() // the jobs collect their own errors
	if err := ctx.Err(); err != nil && !fatal {
		errs = append(errs, fmt.Errorf("release: %d of %d asked for: %w", done, len(jobs), err))
	}
	return errors.Join(errs...)
}

// checkSite takes the domains that postqueue -s takes; it must not look like
// an option.
func checkSite(d string) error {
	if d == "" || len(d) > 255 || d[0] == '-' {
		return fmt.Errorf("%.70q is no domain", d)
	}
	for _, c := range []byte(d) {
		if c <= ' ' || c >= 0x7f || c == '@' || c == '#' || c == '/' {
			return fmt.Errorf("%.70q is no domain", d)
		}
	}
	return nil
}

// configArgs is "-c DIR" where it is needed. The default directory is not
// named on command lines: postqueue asks an ordinary user for a licence to
// name any.
func (p *Postfix) configArgs(ctx context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resolved {
		return slices.Clone(p.confArgs), nil
	}
	if p.o.ConfigDir != "" {
		def, err := p.output(ctx, nil, "postconf", "-d", "-h", "config_directory")
		if err != nil {
			return nil, err
		}
		if filepath.Clean(p.o.ConfigDir) != filepath.Clean(strings.TrimSpace(def)) {
			p.confArgs = []string{"-c", p.o.ConfigDir}
		}
	}
	p.resolved = true
	return slices.Clone(p.confArgs), nil
}

// maxOutput bounds what is kept of a command's output; a listing is not kept.
const maxOutput = 4 << 20

// output runs a command and returns what it wrote.
func (p *Postfix) output(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	var b strings.Builder
	err := p.run(ctx, func(r io.Reader) error {
		n, err := io.Copy(&b, io.LimitReader(r, maxOutput+1))
		if err == nil && n > maxOutput {
			err = fmt.Errorf("more than %d bytes of output", maxOutput)
		}
		return err
	}, stdin, name, args...)
	return b.String(), err
}

// run runs one of Postfix's commands and hands its output to read, if any.
func (p *Postfix) run(ctx context.Context, read func(io.Reader) error, stdin io.Reader, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, p.o.CommandTimeout)
	defer cancel()
	path, err := p.command(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	// A plain environment: MAIL_CONFIG would choose another instance, and a
	// locale other messages.
	cmd.Env = []string{"PATH=" + searchPath, "LC_ALL=C"}
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdin = stdin
	stderr := &head{max: 4 << 10}
	cmd.Stderr = stderr
	var readErr error
	if read == nil {
		err = cmd.Run()
	} else {
		var out io.ReadCloser
		if out, err = cmd.StdoutPipe(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err = cmd.Start(); err == nil {
			if readErr = read(out); readErr != nil {
				// What nobody reads would block the command.
				cancel()
			}
			err = cmd.Wait()
		}
	}
	if readErr != nil {
		return fmt.Errorf("%s: %w", name, readErr)
	}
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return fmt.Errorf("%s: %w", name, cerr)
	}
	said := lastLine(stderr.String())
	if said == "" {
		return fmt.Errorf("%s: %w", name, &silentError{err})
	}
	// "Permission denied" comes first: postqueue calls the mail system down
	// for want of permission, too.
	switch text := stderr.String(); {
	case strings.Contains(text, "ermission denied"):
		return fmt.Errorf("%s: %w: %.300q (with NoNewPrivileges the group postdrop is needed)", name, ErrPermission, said)
	case strings.Contains(text, "mail system is down"):
		return fmt.Errorf("%s: %w: %.300q", name, ErrDown, said)
	case strings.Contains(text, "Flush service is not configured"):
		return fmt.Errorf("%s: %w: %.300q (it has to be in fast_flush_domains)", name, ErrNotFlushable, said)
	}
	return fmt.Errorf("%s: %w: %.300q", name, err, said)
}

// silentError is the failure of a command that gave no reason. For postmap -q
// it means that the key is not there.
type silentError struct{ error }

func (e *silentError) Unwrap() error { return e.error }

func saidNothing(err error) bool {
	var s *silentError
	var exit *exec.ExitError
	return errors.As(err, &s) && errors.As(err, &exit) && exit.ExitCode() == 1
}

const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"

// command finds one of Postfix's commands. They are in sbin, which an
// ordinary user's PATH need not have.
func (p *Postfix) command(name string) (string, error) {
	if p.o.CommandDir != "" {
		return filepath.Join(p.o.CommandDir, name), nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w (is Postfix installed?)", name, exec.ErrNotFound)
}

// lastLine is where a Postfix command says what was fatal.
func lastLine(s string) string {
	s = strings.TrimRight(s, "\r\n \t")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// head keeps the first max bytes that are written to it.
type head struct {
	bytes.Buffer
	max int
}

func (h *head) Write(b []byte) (int, error) {
	if room := h.max - h.Len(); room > 0 {
		h.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
