// Command etrnctl is how people and hooks speak to etrnd, and how an
// administrator prepares what it needs: it asks the daemon over its control
// socket, checks the configuration, probes remotes, sets up Postfix and edits
// the users file. See etrnctl(8).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// version is set by the linker.
var version = "unknown"

func main() {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, now: time.Now, zone: time.Local, version: version}
	os.Exit(a.run(context.Background(), os.Args[1:]))
}

// app is what the commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	now      func() time.Time
	zone     *time.Location
	version  string

	configFile string
	socket     string
	json       bool

	// badConfig is why the socket could not be had from the configuration.
	badConfig error
}

// run executes a command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return api.ExitOK
	}
	var e *api.Error
	if !errors.As(err, &e) {
		// Errors of a command are all of that type (see does), so this one is
		// cobra's, of the command line.
		e = api.Errorf(api.ExitUsage, "see "+cmd.CommandPath()+" --help", "%s", strings.TrimSpace(err.Error()))
	}
	a.complain(e)
	return e.Exit
}

// complain prints an error: what is wrong, then how to mend it.
func (a *app) complain(e *api.Error) {
	p := printer{w: a.err}
	p.f("etrnctl: %s\n", e.Message)
	for _, d := range e.Details {
		p.f("  %s\n", d)
	}
	if e.Hint != "" {
		p.f("  hint: %s\n", e.Hint)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "etrnctl",
		Short: "Control etrnd, which holds mail for remotes that are not always there",
		Long: "etrnctl asks etrnd what is held and what is going on, lets mail go, calls\n" +
			"remotes, and prepares what the daemon needs. See etrnctl(8).",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          none,
		RunE:          needs("a command"),
	}
	root.PersistentFlags().StringVar(&a.configFile, "config", config.DefaultPath, "the configuration `FILE`")
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "the control socket's `PATH` (default: from the configuration, or "+control.DefaultSocket+")")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON, with exact numbers and times")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		// Not in the words of Go's parsers.
		text := err.Error()
		for parser, expected := range map[string]string{": strconv.": "expected a number", ": time: ": "expected a time such as 90s, 5m or 1h"} {
			if at := strings.Index(text, parser); at >= 0 {
				text = text[:at] + ": " + expected
			}
		}
		return errors.New(text)
	})
	root.AddGroup(
		&cobra.Group{ID: "ask", Title: "Ask the daemon:"},
		&cobra.Group{ID: "act", Title: "Make it act:"},
		&cobra.Group{ID: "prepare", Title: "Prepare and examine:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("ask", a.statusCommand(), a.queuesCommand(), a.historyCommand())
	add("act", a.releaseCommand(), a.linkCommand(), a.callCommand(), a.hangUpCommand(), a.reloadCommand())
	add("prepare", a.checkCommand(), a.probeCommand(), a.setupCommand(), a.userCommand())
	root.AddCommand(a.versionCommand())
	return root
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of etrnctl",
		Args:  none,
		RunE: a.does(func(context.Context, []string) error {
			if a.json {
				return a.printJSON(map[string]string{"version": a.version})
			}
			a.print().f("etrnctl %s\n", a.version)
			return nil
		}),
	}
}

// needs is the RunE of a command that does nothing without a command below it.
func needs(what string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		return api.Errorf(api.ExitUsage, "write "+cmd.CommandPath()+" and one of: "+strings.Join(names, ", "), "%s needs %s", cmd.CommandPath(), what)
	}
}

// does is the RunE of a command. It makes every error one with an exit code,
// so that those without can be told to be of the command line.
func (a *app) does(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd.Context(), args)
		var e *api.Error
		if err == nil || errors.As(err, &e) {
			return err
		}
		return api.Errorf(api.ExitTempFail, "", "%v", err)
	}
}

// warn says something on the side.
func (a *app) warn(format string, args ...any) {
	p := printer{w: a.err}
	p.f("warning: "+format+"\n", args...)
}

func (a *app) print() *printer { return &printer{w: a.out} }

// printJSON prints indented, for people read it too, and jq does not mind.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// list makes a nil slice an empty JSON array.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// client is for the socket that --socket or the configuration names. Any user
// may ask for it, so a configuration that cannot be read, or is being edited,
// is no reason to give up: the daemon may well be running.
func (a *app) client(cmdline bool) (*control.Client, error) {
	socket := a.socket
	if socket == "" {
		listen, err := config.ControlListen(a.configFile)
		switch {
		case err == nil:
			socket = listen
		case cmdline && a.configFile != config.DefaultPath && !readable(a.configFile):
			return nil, configError(err)
		default:
			a.badConfig = err
		}
	}
	return control.NewClient(control.ClientOptions{Socket: socket}), nil
}

func readable(file string) bool {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may be a named pipe
	if err == nil {
		f.Close()
	}
	return err == nil
}

// asks is does for a command that speaks to the daemon.
func (a *app) asks(f func(ctx context.Context, c *control.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.does(func(ctx context.Context, args []string) error {
		c, err := a.client(true)
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = f(ctx, c, args)
		var e *api.Error
		switch {
		case errors.As(err, &e) && e.Exit == api.ExitTempFail && a.badConfig != nil && readable(a.configFile) && !reachable(c.Socket()):
			// A daemon on another socket looks like none at all.
			e.Hint = strings.TrimPrefix(e.Hint+"; ", "; ") + fmt.Sprintf("%s could not be used to find the socket: see etrnctl check", a.configFile)
		case errors.Is(err, context.Canceled):
			return api.Errorf(api.ExitTempFail, "etrnctl status shows what came of it", "interrupted before etrnd answered")
		}
		return err
	})
}

func reachable(socket string) bool {
	_, err := os.Stat(socket)
	return err == nil
}

// load reads the configuration in full.
func (a *app) load(opts ...config.Option) (*config.Config, error) {
	cfg, err := config.Load(a.configFile, opts...)
	if err != nil {
		return nil, configError(err)
	}
	return cfg, nil
}

func configError(err error) error {
	var ce *config.Error
	if !errors.As(err, &ce) {
		return api.Errorf(api.ExitConfig, "", "%v", err)
	}
	return &api.Error{Exit: api.ExitConfig, Message: "the configuration cannot be used:", Details: strings.Split(ce.Error(), "\n")}
}

// size is that of the terminal: 80 by 24 where that cannot be known.
func (a *app) size() (columns, rows int) {
	if f, ok := a.out.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w >= 40 && h >= 4 {
			return w, h
		}
	}
	return 80, 24
}

// terminal tells whether the output can be rewritten.
func (a *app) terminal() bool {
	f, ok := a.out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// complete offers the names that the daemon or the configuration knows.
func (a *app) complete(names func(context.Context) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, stop := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer stop()
		s := names(ctx)
		slices.Sort(s)
		return s, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) linkNames(context.Context) (names []string) {
	if cfg, err := config.Load(a.configFile, config.WithoutFiles()); err == nil {
		for _, l := range cfg.Links {
			names = append(names, l.Name)
		}
	}
	return names
}

func (a *app) remoteNames(context.Context) (names []string) {
	if cfg, err := config.Load(a.configFile, config.WithoutFiles()); err == nil {
		for _, r := range cfg.Remotes {
			names = append(names, r.Name)
		}
	}
	return names
}

func (a *app) queueNames(ctx context.Context) (names []string) {
	c, err := a.client(false)
	if err != nil {
		return nil
	}
	defer c.Close()
	qs, err := c.Queues(ctx)
	if err != nil {
		return nil
	}
	for _, q := range qs {
		names = append(names, q.Name)
	}
	return names
}
