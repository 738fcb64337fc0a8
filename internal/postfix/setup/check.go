package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
)

// Finding is the outcome of one check.
type Finding struct {
	OK   bool
	What string // what was looked at, and what is wrong with it
	Hint string // how to mend it; empty if OK
}

// findings are collected one by one.
type findings []Finding

func (l *findings) good(what string)      { *l = append(*l, Finding{OK: true, What: what}) }
func (l *findings) bad(what, hint string) { *l = append(*l, Finding{What: what, Hint: hint}) }

// Check looks at everything that holding and releasing depend on, as the user
// that runs it: the commands, the queue, the set-up, the sockets. It changes
// nothing.
func Check(ctx context.Context, pf *postfix.Instance, req Requirements) []Finding {
	var found findings
	v, err := pf.Settings(ctx, "mail_version", "mail_owner", "setgid_group")
	if err != nil {
		found.bad(err.Error(), "install Postfix, or set config-dir in [mta] to where its main.cf is")
		return found
	}
	if what := "Postfix " + v["mail_version"]; versionOK(v["mail_version"]) {
		found.good(what)
	} else {
		found.bad(what, "Postfix 3.4 or later is needed")
	}
	found.queue(ctx, pf, v["setgid_group"])
	found.files(ctx, pf, req)
	for _, path := range flushHooks("/") {
		found.bad(path+" makes Postfix try all of its mail when a network interface comes up, what is held included", "take the queue run (sendmail -q, postqueue -f, postfix flush) out of it; the rest of the script may be needed")
	}
	found.socket("the milter", req.Milter, v["mail_owner"])
	found.socket("the policy service", req.Policy, v["mail_owner"])
	return found
}

// queue looks whether the mail queue can be listed.
func (l *findings) queue(ctx context.Context, pf *postfix.Instance, group string) {
	messages := 0
	err := pf.List(ctx, func(mta.Message) { messages++ })
	if err == nil {
		l.good(fmt.Sprintf("the mail queue can be listed (%d messages)", messages))
		return
	}
	hint := "see what \"postqueue -j\" says as this user"
	switch {
	case errors.Is(err, mta.ErrPermission):
		hint = "run the daemon with the supplementary group " + group
	case errors.Is(err, mta.ErrDown):
		hint = "start Postfix"
	}
	l.bad(err.Error(), hint)
}

// files looks whether Postfix is set up.
func (l *findings) files(ctx context.Context, pf *postfix.Instance, req Requirements) {
	pl, err := NewPlan(ctx, pf, req)
	if err != nil {
		l.bad(fmt.Sprintf("the set-up of Postfix: %v", err), "mend this, then run \"etrnctl setup postfix\"")
		return
	}
	if pl.Empty() {
		l.good("Postfix is set up for this configuration")
	} else {
		what := "Postfix is not set up for this configuration"
		if files := pl.Files(); len(files) > 0 {
			what += " (" + strings.Join(files, ", ") + ")"
		}
		l.bad(what, "run \"etrnctl setup postfix\"")
	}
	for _, text := range pl.Warnings {
		l.bad(text, "see etrnctl(8), setup postfix")
	}
}

// socket looks whether Postfix's daemons get at a socket of ours.
func (l *findings) socket(whose, listen, owner string) {
	if listen == "" {
		return
	}
	path, ok := strings.CutPrefix(listen, "unix:")
	if !ok {
		if _, _, err := net.SplitHostPort(listen); err != nil {
			l.bad(fmt.Sprintf("the address of %s: %v", whose, err), "write \"unix:/path\" or \"host:port\"")
		}
		return
	}
	what := "the directory of the socket of " + whose
	if err := reachable(filepath.Dir(path), owner); err != nil {
		l.bad(fmt.Sprintf("%s: %v", what, err), "make the directory, readable for the user "+owner+" (tmpfiles.d)")
		return
	}
	l.good(what)
}

// versionOK is for 3.4 and later; what cannot be read is not held against
// anyone.
func versionOK(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	if err != nil {
		return true
	}
	b, err := strconv.Atoi(strings.TrimFunc(minor, func(r rune) bool { return r < '0' || r > '9' }))
	return a > 3 || a == 3 && (err != nil || b >= 4)
}

// reachable reports why a user cannot pass through a directory, going by mode
// bits alone.
func reachable(dir, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	gids, err := u.GroupIds()
	if err != nil {
		return err
	}
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if errors.Is(err, fs.ErrPermission) {
			return nil // cannot be seen from here; not known to be wrong
		}
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return fmt.Errorf("%s is not a directory", d)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		need := fs.FileMode(0o001)
		for _, g := range gids {
			if g == strconv.FormatUint(uint64(st.Gid), 10) {
				need = 0o010
			}
		}
		if strconv.FormatUint(uint64(st.Uid), 10) == u.Uid {
			need = 0o100
		}
		if fi.Mode().Perm()&need == 0 {
			return fmt.Errorf("%s (mode %04o) keeps the user %s out", d, fi.Mode().Perm(), name)
		}
		if d == "/" || d == "." {
			return nil
		}
	}
}
