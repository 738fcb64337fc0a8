package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/users"
)

// maxPassword is far beyond what anybody types, and what SASL carries.
const maxPassword = 1000

func (a *app) userCommand() *cobra.Command {
	var file string
	var cram bool
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Edit the users file",
		Long: "user edits the file of those who may log in to port 366 (users in the [odmr]\n" +
			"table of the configuration). The password is asked for, or is the first line of\n" +
			"standard input where that is no terminal. The daemon takes notice at etrnctl\n" +
			"reload.",
		Args: none,
		RunE: needs("add, delete, list or password"),
	}
	cmd.PersistentFlags().StringVar(&file, "file", "", "edit this `FILE` instead of the configuration's")

	secret := func(use, short string, edit func(f *users.File, name string, s users.Secret) error) *cobra.Command {
		c := &cobra.Command{
			Use:   use + " NAME",
			Short: short,
			Args:  one("NAME"),
			RunE: a.does(func(_ context.Context, args []string) error {
				path, err := a.usersFile(file)
				if err != nil {
					return err
				}
				return a.editSecret(path, args[0], cram, edit)
			}),
		}
		c.Flags().BoolVar(&cram, "cram-md5", false, "keep a secret for CRAM-MD5 too: whoever reads it can log in with CRAM-MD5")
		return c
	}
	cmd.AddCommand(
		secret("add", "Add a user", (*users.File).Add),
		secret("password", "Change the password of a user", (*users.File).Set),
		&cobra.Command{
			Use:   "delete NAME",
			Short: "Delete a user",
			Args:  one("NAME"),
			RunE: a.does(func(_ context.Context, args []string) error {
				path, err := a.usersFile(file)
				if err != nil {
					return err
				}
				return a.keep(path, args[0], func(f *users.File) error { return f.Delete(args[0]) })
			}),
		},
		&cobra.Command{
			Use:   "list",
			Short: "List the users",
			Args:  none,
			RunE: a.does(func(context.Context, []string) error {
				path, err := a.usersFile(file)
				if err != nil {
					return err
				}
				return a.listUsers(path)
			}),
		},
	)
	return cmd
}

// usersFile is the file that --file or the configuration names. The checks of
// files are left out: this may be the command that is to make the users file.
func (a *app) usersFile(file string) (string, error) {
	if file != "" {
		return file, nil
	}
	cfg, err := a.load(config.WithoutFiles())
	if err != nil {
		return "", err
	}
	if cfg.ODMR.Users == "" {
		return "", api.Errorf(api.ExitConfig, `write users = "/etc/etrnd/users" into its [odmr] table, or name the file with --file`,
			"%s names no users file", a.configFile)
	}
	return cfg.ODMR.Users, nil
}

func (a *app) editSecret(path, name string, cram bool, edit func(*users.File, string, users.Secret) error) error {
	// The name is tried first, so that nobody types a password in vain.
	var probe users.Secret
	if err := a.edited(path, name, a.tryEdit(path, func(f *users.File) error { return edit(f, name, probe) })); err != nil {
		return err
	}
	password, err := a.password(name)
	if err != nil {
		return err
	}
	s, err := users.NewSecret(password, users.SecretOptions{CramMD5: cram})
	if err != nil {
		return api.Errorf(api.ExitUsage, "", "the password cannot be used: %v", err)
	}
	return a.keep(path, name, func(f *users.File) error { return edit(f, name, s) })
}

// keep makes an edit, and says what else it takes.
func (a *app) keep(path, name string, edit func(*users.File) error) error {
	if err := a.edited(path, name, users.Edit(path, edit)); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(struct{}{})
	}
	p := a.print()
	p.f("%s is changed; etrnctl reload makes etrnd take notice\n", path)
	if d := newDaemonUser(); d.err == nil {
		// One that was made by hand keeps its owner and mode.
		var denied *account.Denied
		if f, err := d.open(path); err == nil {
			f.Close()
		} else if errors.As(err, &denied) {
			p.f("warning: %s\n", denied.Hint())
		}
	}
	return p.err
}

// tryEdit makes an edit that is not kept.
func (a *app) tryEdit(path string, edit func(*users.File) error) error {
	f, err := users.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = users.Parse(path, nil)
	}
	if err != nil {
		return err
	}
	return edit(f)
}

// edited gives the errors of an edit their exit codes.
func (a *app) edited(path, name string, err error) error {
	var bad users.Errors
	switch {
	case err == nil:
		return nil
	case errors.Is(err, users.ErrExists):
		return api.Errorf(api.ExitUsage, "change the password with etrnctl user password "+name, "%s has a user %q already", path, name)
	case errors.Is(err, users.ErrNoUser):
		return api.Errorf(api.ExitUsage, "list the users with etrnctl user list", "%s has no user %q", path, name)
	case errors.As(err, &bad):
		e := &api.Error{Exit: api.ExitConfig, Message: "the users file cannot be used:"}
		for _, p := range bad {
			e.Details = append(e.Details, p.String())
		}
		return e
	case errors.Is(err, fs.ErrPermission):
		return api.Errorf(api.ExitNoPerm, "try it as root", "%v", err)
	case errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.ExitConfig, "make the directory first", "%v", err)
	}
	return api.Errorf(api.ExitUsage, "", "%v", err)
}

func (a *app) listUsers(path string) error {
	f, err := users.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.ExitConfig, "etrnctl user add NAME makes it", "there is no users file %s", path)
	}
	if err != nil {
		return a.edited(path, "", err)
	}
	if a.json {
		return a.printJSON(list(f.Users()))
	}
	p := a.print()
	if len(f.Users()) == 0 {
		p.f("%s has no users\n", path)
		return p.err
	}
	t := table{}
	t.row("USER", "MECHANISMS")
	for _, u := range f.Users() {
		m := users.ScramSHA256 + " " + users.Plain + " " + users.Login
		if u.CramMD5 {
			m += " " + users.CramMD5
		}
		t.row(u.Name, m)
	}
	t.print(p)
	return p.err
}

// password asks twice on a terminal, and elsewhere takes the first line. It
// is never an argument, for everybody can read those in /proc.
func (a *app) password(name string) (string, error) {
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return readPassword(a.in)
	}
	ask := func(prompt string) (string, error) {
		printer{w: a.err}.ask(prompt)
		b, err := term.ReadPassword(int(f.Fd()))
		printer{w: a.err}.ask("\n")
		if err != nil {
			return "", api.Errorf(api.ExitUsage, "", "no password was read: %v", err)
		}
		return checkPassword(string(b))
	}
	first, err := ask("Password for " + clean(name) + ": ")
	if err != nil {
		return "", err
	}
	second, err := ask("Once more: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", api.Errorf(api.ExitUsage, "", "the two passwords differ; nothing was changed")
	}
	return first, nil
}

// ask writes a prompt; a prompt that cannot be seen is no reason to stop.
func (p printer) ask(s string) { _, _ = io.WriteString(p.w, s) }

func readPassword(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxPassword+3)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", api.Errorf(api.ExitUsage, "", "no password was read: %v", err)
	}
	line, _ = strings.CutSuffix(line, "\n")
	line, _ = strings.CutSuffix(line, "\r")
	return checkPassword(line)
}

func checkPassword(s string) (string, error) {
	switch {
	case s == "":
		return "", api.Errorf(api.ExitUsage, "type it, or send it on the first line of standard input", "the password is empty; nothing was changed")
	case len(s) > maxPassword:
		return "", api.Errorf(api.ExitUsage, "", "the password is longer than %d bytes; nothing was changed", maxPassword)
	}
	return s, nil
}
