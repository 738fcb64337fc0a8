package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/mta"
)

// maxOutput bounds what is kept of a command's output; a listing is not kept.
const maxOutput = 4 << 20

// output runs a command and returns what it wrote.
func (p *Instance) output(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	return p.outputUpTo(ctx, maxOutput, stdin, name, args...)
}

func (p *Instance) outputUpTo(ctx context.Context, limit int64, stdin io.Reader, name string, args ...string) (string, error) {
	var b strings.Builder
	err := p.run(ctx, func(r io.Reader) error {
		n, err := io.Copy(&b, io.LimitReader(r, limit+1))
		if err == nil && n > limit {
			err = fmt.Errorf("more than %d bytes of output", limit)
		}
		return err
	}, stdin, name, args...)
	return b.String(), err
}

// run runs one of Postfix's commands and hands its output to read, if any.
func (p *Instance) run(ctx context.Context, read func(io.Reader) error, stdin io.Reader, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, p.o.CommandTimeout)
	defer cancel()
	path, err := p.command(name)
	if err != nil {
		return err
	}
	if name == "postqueue" && !(slices.Contains(args, "-j") && p.root()) {
		if err := p.stillDown(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	cmd := exec.CommandContext(ctx, path, args...)
	// A plain environment: MAIL_CONFIG would choose another instance, and a
	// locale other messages.
	cmd.Env = []string{"PATH=" + searchPath, "LC_ALL=C"}
	cmd.WaitDelay = 5 * time.Second
	if p.o.Credential != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.o.Credential}
		cmd.Dir = "/" // which everybody may enter
	}
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
		return fmt.Errorf("%s: %w: %q (with NoNewPrivileges the group postdrop is needed)", name, mta.ErrPermission, foreign.Clip(said, 300))
	case strings.Contains(text, "mail system is down"):
		p.wentDown(context.WithoutCancel(ctx))
		return fmt.Errorf("%s: %w: %q", name, mta.ErrDown, foreign.Clip(said, 300))
	case strings.Contains(text, "Flush service is not configured"):
		return fmt.Errorf("%s: %w: %q (it has to be in fast_flush_domains)", name, mta.ErrNotFlushable, foreign.Clip(said, 300))
	}
	for _, errno := range exhausted {
		if strings.Contains(strings.ToLower(stderr.String()), errno.Error()) {
			err = errno
		}
	}
	return fmt.Errorf("%s: %w: %q", name, err, foreign.Clip(said, 300))
}

// exhausted are errors of the file system that a command passes on in words.
var exhausted = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO}

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
func (p *Instance) command(name string) (string, error) {
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
