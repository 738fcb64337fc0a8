package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/users"
)

// finding is one thing that check found.
type finding struct {
	Level string `json:"level"` // error, warning or ok
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`
	Key   string `json:"key,omitempty"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration, the MTA, and what the daemons need",
		Long: "check reads the configuration, reports everything that is wrong with it, and asks\n" +
			"the MTA whether it is set up for it. As root it tries as the users of the daemons\n" +
			"what they have to open, and whether they answer. It changes nothing. The exit code\n" +
			"is 78 when there is an error: something that keeps a daemon from starting. Warnings\n" +
			"do not count.",
		Args: none,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			found := []finding{}
			d := newDaemonUser()
			cfg, err := config.Load(a.configFile, config.WithOpen(d.open))
			var bad *config.Error
			switch {
			case errors.As(err, &bad):
				found = add(found, "error", bad.Problems)
			case err != nil:
				found = append(found, finding{Level: "error", File: a.configFile, Text: err.Error()})
			default:
				found = add(found, "warning", cfg.Warnings)
				found = append(found, d.findUsers(a.configFile, cfg)...)
				found = append(found, d.findSockets(a.configFile, cfg)...)
				said, list := checkMTA(ctx, cfg)
				found = append(found, said...)
				found = append(found, checkRequests(ctx, a.configFile, cfg)...)
				found = append(found, a.checkClock(ctx, cfg, list)...)
				found = append(found, a.checkRunning(ctx, cfg)...)
			}
			if _, err := os.Stat(a.configFile); err == nil {
				var included []string
				if cfg != nil {
					included = cfg.Included()
				}
				found = append(append(d.find(a.configFile, included), d.findExposed(a.configFile, included, cfg)...), found...)
			}
			return a.renderCheck(cfg, found)
		}),
	}
}

func add(found []finding, level string, ps []config.Problem) []finding {
	for _, p := range ps {
		found = append(found, finding{level, p.File, p.Line, p.Key, p.Msg, p.Hint})
	}
	return found
}

// daemonUser opens files as etrnd does.
type daemonUser struct {
	etrnd account.User
	err   error // why there is none
}

func newDaemonUser() *daemonUser {
	u, err := account.Daemon()
	return &daemonUser{u, err}
}

// open opens a file that etrnd reads, as etrnd if that can be done. To others its
// secrets are closed: they can only see whether etrnd gets at them.
func (d *daemonUser) open(path string) (*os.File, error) {
	if d.err != nil {
		return os.Open(path)
	}
	if d.etrnd.Known() {
		return d.etrnd.Open(path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		if d.etrnd.Reads(path) {
			return nil, config.ErrUnseen
		}
		return nil, &account.Denied{User: d.etrnd, Path: path, Err: err}
	}
	return f, err
}

// find looks whether both daemons can read the configuration, with what it
// includes.
func (d *daemonUser) find(file string, included []string) []finding {
	var found []finding
	if d.err != nil {
		found = append(found, finding{Level: "warning", File: file, Text: fmt.Sprintf("there is no user for etrnd to run as: %v", d.err), Hint: "run: systemd-sysusers etrnd.conf"})
	}
	milter, err := account.Lookup(account.Milter)
	for _, who := range []struct {
		account.User
		err error
	}{{d.etrnd, d.err}, {milter, err}} {
		if who.err != nil {
			continue
		}
		for _, denied := range denies(who.User, append([]string{file}, included...)) {
			found = append(found, closed(denied.Path, who.User))
		}
	}
	return found
}

// closed is that a daemon cannot read the configuration, which both read, and
// which holds no secrets.
func closed(file string, who account.User) finding {
	mend := "chmod 644 " + file
	switch st, err := os.Stat(file); {
	case err == nil && st.IsDir():
		mend = "chmod 755 " + file
	case err == nil && st.Mode().Perm()&0o044 == 0o044:
		mend = who.Mend(file) // it is the directory
	}
	return finding{Level: "error", File: file, Text: "permission denied", Hint: "the user " + who.Name + " cannot read it; run: " + mend}
}

// maxDenied bounds the files of the configuration that one user is said not to be
// able to read.
const maxDenied = 20

// denies tries to open files as a user, or looks at their modes where that cannot
// be tried, and returns the first that he may not.
func denies(who account.User, paths []string) (denied []*account.Denied) {
	as, try := who.Do, func(path string) error {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			f.Close()
		}
		return err
	}
	if !who.Known() {
		as = func(look func() error) error { return look() }
		try = func(path string) error {
			if who.Reads(path) {
				return nil
			}
			return fs.ErrPermission
		}
	}
	// As nobody else, and there is nothing to say then.
	_ = as(func() error {
		for _, path := range paths {
			if err := try(path); errors.Is(err, fs.ErrPermission) {
				if denied = append(denied, &account.Denied{User: who, Path: path, Err: err}); len(denied) == maxDenied {
					break // what is wrong with the directory is wrong with all in it
				}
			}
		}
		return nil
	})
	return denied
}

// runtimeDir is made by the unit of etrnd, and gone while that does not run.
const runtimeDir = "/run/etrnd"

// findSockets looks whether etrnd can make the sockets that are not Postfix's.
func (d *daemonUser) findSockets(file string, cfg *config.Config) []finding {
	var found []finding
	for _, s := range []struct{ key, listen string }{{"control: listen", cfg.Control.Listen}, {"milter: report", cfg.Milter.Report}} {
		path, isUnix := strings.CutPrefix(s.listen, "unix:")
		dir := filepath.Dir(path)
		if !isUnix || dir == runtimeDir || d.err != nil || !d.etrnd.Known() {
			continue
		}
		if err := d.etrnd.Writable(dir); err != nil {
			text := fmt.Sprintf("the user %s cannot make a socket in %s: %v", d.etrnd.Name, dir, errors.Unwrap(err))
			found = append(found, finding{Level: "error", File: file, Key: s.key, Text: text, Hint: "run: install -d -o etrnd -g etrnd -m 755 " + dir})
		}
	}
	return found
}

// findUsers compares the users file with the users that queues name.
func (d *daemonUser) findUsers(file string, cfg *config.Config) []finding {
	path := cfg.ODMR.Users
	if path == "" {
		return nil
	}
	known, err := readUsers(d.open, path)
	var bad users.Errors
	switch {
	case errors.As(err, &bad):
		var found []finding
		for _, p := range bad {
			found = append(found, finding{Level: "error", File: p.File, Line: p.Line, Text: p.Msg})
		}
		return found
	case err != nil:
		return nil // the configuration has said so
	case len(known) == 0:
		return []finding{{Level: "warning", File: path, Text: "there are no users in it, so nobody can log in", Hint: "etrnctl user add NAME makes one"}}
	}
	var found []finding
	for _, q := range cfg.Queues {
		for _, name := range q.Users {
			if !known[name] {
				text := fmt.Sprintf("%s, which may ask for queue %s, is not in %s and cannot log in on the ports of [odmr]", name, q.Name, path)
				found = append(found, finding{Level: "warning", File: file, Key: "queue " + q.Name + ": users", Text: text, Hint: "etrnctl user add " + name})
			}
		}
	}
	return found
}

func readUsers(open func(string) (*os.File, error), path string) (map[string]bool, error) {
	list, err := users.ReadFrom(open, path)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, u := range list.Users() {
		known[u.Name] = true
	}
	return known, nil
}

// statusTimeout bounds the question how etrnd is.
const statusTimeout = 10 * time.Second

// checkRunning asks etrnd how it is, and whether it runs by this file.
func (a *app) checkRunning(ctx context.Context, cfg *config.Config) []finding {
	c := control.NewClient(control.ClientOptions{Socket: cfg.Control.Listen, Timeout: statusTimeout})
	defer c.Close()
	s, err := c.Status(ctx)
	var e *api.Error
	switch {
	case errors.As(err, &e) && e.Exit == api.ExitNoPerm:
		return []finding{{Level: "warning", File: "etrnd", Text: "it cannot be asked how it is: " + e.Message, Hint: e.Hint}}
	case err != nil:
		return []finding{{Level: "warning", File: "etrnd", Text: "it does not run, or does not answer: " + err.Error(), Hint: "run: systemctl restart etrnd; if it does not stay up: journalctl -u etrnd"}}
	}
	var found []finding
	warn := func(text, hint string) {
		found = append(found, finding{Level: "warning", File: "etrnd", Text: text, Hint: hint})
	}
	if s.Config.File != "" && !sameFile(s.Config.File, a.configFile) {
		warn("it runs by another configuration, "+s.Config.File, "check that one: etrnctl --config "+s.Config.File+" check")
		return found
	}
	if s.Config.Rejected != nil {
		warn("its last reload was refused, and the old configuration stays in force: "+strings.Join(s.Config.Problems, "; "), "with that mended: etrnctl reload")
	} else if s.Config.Changed {
		warn("the configuration has changed since it read it", "etrnctl reload")
	}
	if len(s.Config.Restart) > 0 {
		warn(restartText(s.Config.Restart), "systemctl restart etrnd")
	}
	if s.MTA.Error != "" {
		warn("it cannot read the mail queue: "+s.MTA.Error, "")
	}
	if s.Milter.Differs {
		warn("the milter runs by another configuration than etrnd", "run: systemctl reload etrn-milter; if that does not help: systemctl restart etrn-milter")
	}
	if !s.Milter.Connected {
		warn("the milter does not report to it, so new mail is noticed late", "run: systemctl restart etrn-milter; if it does not stay up: journalctl -u etrn-milter")
	}
	if len(found) == 0 {
		found = append(found, finding{Level: "ok", File: "etrnd", Text: "it runs by this configuration, and the milter reports to it"})
	}
	return found
}

func restartText(keys []string) string {
	return "a change of " + strings.Join(keys, ", ") + " is not in force before a restart"
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 != nil || err2 != nil || os.SameFile(x, y)
}

// renderCheck prints what was found, in the form that editors jump to.
func (a *app) renderCheck(cfg *config.Config, found []finding) error {
	errs, warnings := 0, 0
	for _, f := range found {
		switch f.Level {
		case "error":
			errs++
		case "warning":
			warnings++
		}
	}
	if a.json {
		if err := a.printJSON(found); err != nil {
			return err
		}
	} else {
		p := a.print()
		for _, f := range found {
			where := f.File
			if where == "" {
				where = "mta"
			}
			text := config.Problem{File: where, Line: f.Line, Key: f.Key, Msg: f.Text, Hint: f.Hint}.String()
			if f.Level != "error" {
				text = f.Level + ": " + text
			}
			p.f("%s\n", text)
		}
		if errs == 0 {
			verdict := "is good"
			if warnings > 0 {
				verdict = "has no errors, but there is something to look at (" + count(warnings, "warning") + ")"
			}
			p.f("%s %s: %s, %s, %s\n", a.configFile, verdict, count(len(cfg.Queues), "queue"), count(len(cfg.Links), "link"), count(len(cfg.Remotes), "remote"))
		}
		if p.err != nil {
			return p.err
		}
	}
	if errs > 0 {
		return api.Errorf(api.ExitConfig, "", "%s found", count(errs, "error"))
	}
	return nil
}
