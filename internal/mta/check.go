package mta

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
)

// Finding is the outcome of one check.
type Finding struct {
	OK   bool
	What string // what was looked at, and what is wrong with it
	Hint string // how to mend it; empty if OK
}

// Check looks at everything that holding and releasing depend on, as the user
// that runs it: the commands, the queue, the set-up, the sockets. It changes
// nothing.
func (p *Postfix) Check(ctx context.Context, w Wanted) []Finding {
	var list []Finding
	add := func(ok bool, what, hint string) {
		if ok {
			hint = ""
		}
		list = append(list, Finding{ok, what, hint})
	}

	v, err := p.settings(ctx, "", "mail_version", "queue_directory", "mail_owner", "setgid_group")
	if err != nil {
		add(false, fmt.Sprintf("Postfix's settings: %v", err), "install Postfix, or set config-dir in [mta] to where its main.cf is")
		return list
	}
	add(versionOK(v["mail_version"]), "Postfix "+v["mail_version"], "Postfix 3.4 or later is needed")

	msgs, err := p.List(ctx)
	switch {
	case errors.Is(err, ErrPermission):
		add(false, fmt.Sprintf("the mail queue: %v", err), fmt.Sprintf("run the daemon with the supplementary group %s", v["setgid_group"]))
	case errors.Is(err, ErrDown):
		add(false, fmt.Sprintf("the mail queue: %v", err), "start Postfix")
	case err != nil:
		add(false, fmt.Sprintf("the mail queue: %v", err), "see what \"postqueue -j\" says as this user")
	default:
		add(true, fmt.Sprintf("the mail queue can be listed (%d messages)", len(msgs)), "")
	}

	pl, err := p.Plan(ctx, w)
	switch {
	case err != nil:
		add(false, fmt.Sprintf("the set-up of Postfix: %v", err), "mend this, then run \"etrnctl setup postfix\"")
	case !pl.Empty():
		what := "Postfix is not set up for this configuration"
		if files := pl.Files(); len(files) > 0 {
			what += " (" + strings.Join(files, ", ") + ")"
		}
		add(false, what, "run \"etrnctl setup postfix\"")
	default:
		add(true, "Postfix is set up for this configuration", "")
	}
	if pl != nil {
		for _, text := range pl.Warnings {
			add(false, text, "see etrnctl(8), setup postfix")
		}
	}

	for _, path := range flushHooks("/") {
		add(false, path+" makes Postfix try all of its mail when a network interface comes up, what is held included", "take the queue run (sendmail -q, postqueue -f, postfix flush) out of it; the rest of the script may be needed")
	}

	for _, s := range []struct{ whose, listen string }{{"the milter", w.Milter}, {"the policy service", w.Policy}} {
		if s.listen == "" {
			continue
		}
		if path, ok := strings.CutPrefix(s.listen, "unix:"); ok {
			err := reachable(filepath.Dir(path), v["mail_owner"])
			add(err == nil, fmt.Sprintf("the directory of the socket of %s%s", s.whose, because(err)), "make the directory, readable for the user "+v["mail_owner"]+" (tmpfiles.d)")
		} else if _, _, err := net.SplitHostPort(s.listen); err != nil {
			add(false, fmt.Sprintf("the address of %s: %v", s.whose, err), "write \"unix:/path\" or \"host:port\"")
		}
	}
	return list
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
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
			return fmt.Errorf("%s is no directory", d)
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
