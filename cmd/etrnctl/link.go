package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/api"
)

func (a *app) linkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "link",
		Short: "Tell the daemon that a link is up or down",
		Args:  none,
		RunE:  needs("up or down"),
	}
	cmd.AddCommand(a.linkUpCommand(), a.linkDownCommand())
	return cmd
}

// linkArgs reads LINK, --interface or both.
func linkArgs(ev *api.LinkEvent) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 1:
			return api.Errorf(api.ExitUsage, "usage: "+cmd.UseLine(), "%s needs one LINK, but got %q too", cmd.CommandPath(), args[1])
		case len(args) == 1:
			ev.Link = args[0]
		case ev.Interface == "":
			return api.Errorf(api.ExitUsage, "usage: "+cmd.UseLine(), "%s needs a LINK or --interface", cmd.CommandPath())
		}
		return nil
	}
}

func (a *app) linkUpCommand() *cobra.Command {
	var ev api.LinkEvent
	var wait bool
	cmd := &cobra.Command{
		Use:   "up [LINK]",
		Short: "A link is up: start its calls",
		Long: "link up tells the daemon that a link is up, by its name or by that of a network\n" +
			"interface, and starts the calls of that link. An interface of no link is no\n" +
			"error, so that a hook may report every interface.",
		Args:              linkArgs(&ev),
		ValidArgsFunction: a.complete(a.linkNames),
		RunE: a.asks(func(ctx context.Context, c *control.Client, _ []string) error {
			calls, err := c.LinkUp(ctx, ev)
			if err != nil {
				return err
			}
			return a.started(ctx, c, calls, wait)
		}),
	}
	cmd.Flags().StringVar(&ev.Interface, "interface", "", "the network interface `IF` that is up, such as ppp0")
	cmd.Flags().BoolVar(&wait, "wait", false, "show the calls until they have ended")
	return cmd
}

func (a *app) linkDownCommand() *cobra.Command {
	var ev api.LinkEvent
	cmd := &cobra.Command{
		Use:   "down [LINK]",
		Short: "A link is down: end its calls",
		Long: "link down tells the daemon that a link is down, by its name or by that of a\n" +
			"network interface. Its calls end, and what has not crossed the line stays held.\n" +
			"An interface of no link is no error.",
		Args:              linkArgs(&ev),
		ValidArgsFunction: a.complete(a.linkNames),
		RunE: a.asks(func(ctx context.Context, c *control.Client, _ []string) error {
			err := c.LinkDown(ctx, ev)
			if err == nil && a.json {
				err = a.printJSON(struct{}{})
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&ev.Interface, "interface", "", "the network interface `IF` that is down")
	return cmd
}

func (a *app) callCommand() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "call REMOTE",
		Short: "Call a remote now",
		Long: "call calls a remote now, and dials first when its link is down and the\n" +
			"configuration has a command for that.",
		Args:              one("REMOTE"),
		ValidArgsFunction: a.complete(a.remoteNames),
		RunE: a.asks(func(ctx context.Context, c *control.Client, args []string) error {
			call, err := c.Call(ctx, args[0])
			if err != nil {
				return err
			}
			return a.started(ctx, c, []api.CallRef{call}, wait)
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "show the call until it has ended")
	return cmd
}

func (a *app) hangUpCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "hang-up LINK",
		Short:             "End the calls of a link and hang it up",
		Args:              one("LINK"),
		ValidArgsFunction: a.complete(a.linkNames),
		RunE: a.asks(func(ctx context.Context, c *control.Client, args []string) error {
			if err := c.HangUp(ctx, args[0]); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct{}{})
			}
			p := a.print()
			p.f("%s: hung up\n", args[0])
			return p.err
		}),
	}
}

// started reports calls that have begun, and with wait stays until they have
// ended. The exit code is then the highest of theirs.
func (a *app) started(ctx context.Context, c *control.Client, calls []api.CallRef, wait bool) error {
	p := a.print()
	if !wait || len(calls) == 0 {
		switch {
		case a.json && wait:
			return a.printJSON([]api.CallResult{})
		case a.json:
			return a.printJSON(list(calls))
		case len(calls) == 0:
			p.f("no calls to make\n")
		}
		for _, r := range calls {
			p.f("calling %s over %s (call %s)\n", r.Remote, r.Link, r.Call)
		}
		return p.err
	}

	ids := make([]string, 0, len(calls))
	for _, r := range calls {
		ids = append(ids, r.Call)
	}
	results := make([]api.CallResult, 0, len(calls))
	show := a.progress(calls)
	err := c.Watch(ctx, ids, func(ev api.CallEvent) error {
		if ev.Result != nil {
			results = append(results, *ev.Result)
		}
		return show.event(ev)
	})
	show.end()
	if errors.Is(err, context.Canceled) {
		err = api.Errorf(api.ExitTempFail, "etrnctl status shows it, etrnctl hang-up "+calls[0].Link+" ends it",
			"you have left; the call goes on without you")
	}
	if a.json {
		if jerr := a.printJSON(results); err == nil {
			err = jerr
		}
	} else {
		for _, r := range results {
			a.renderResult(p, r)
		}
		if err == nil {
			err = p.err
		}
	}
	if err != nil {
		return err
	}
	return outcome(results)
}

// outcome is the error that a set of results amounts to.
func outcome(results []api.CallResult) error {
	var e *api.Error
	for _, r := range results {
		if r.Exit == api.ExitOK || e != nil && e.Exit >= r.Exit {
			continue
		}
		e = api.Errorf(r.Exit, r.Hint, "%s: %s", r.Remote, r.Error)
	}
	if e == nil {
		return nil
	}
	return e
}
