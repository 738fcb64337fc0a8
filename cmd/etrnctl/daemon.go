package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/api"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the daemon, its links and its calls are",
		Args:  none,
		RunE: a.asks(func(ctx context.Context, c *control.Client, _ []string) error {
			s, err := c.Status(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			return a.renderStatus(s)
		}),
	}
}

func (a *app) historyCommand() *cobra.Command {
	var n int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show the calls that have ended, the latest first",
		Args:  none,
		RunE: a.asks(func(ctx context.Context, c *control.Client, _ []string) error {
			if n < 1 || n > 10000 {
				return api.Errorf(api.ExitUsage, "see etrnctl history --help", "--number is %d, but must be from 1 to 10000", n)
			}
			rs, err := c.History(ctx, n)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list(rs))
			}
			return a.renderHistory(rs)
		}),
	}
	cmd.Flags().IntVarP(&n, "number", "n", 20, "show at most `N` calls")
	return cmd
}

func (a *app) releaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "release QUEUE",
		Short: "Deliver what is held for a queue now",
		Long: "release makes the MTA deliver now what is held for a queue, as if its remote had\n" +
			"asked. QUEUE is a queue's name, or what a remote may ask for: #name, a domain,\n" +
			"or @domain for a domain and all below it.",
		Args:              one("QUEUE"),
		ValidArgsFunction: a.complete(a.queueNames),
		RunE: a.asks(func(ctx context.Context, c *control.Client, args []string) error {
			rs, err := c.Release(ctx, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list(rs))
			}
			p := a.print()
			for _, r := range rs {
				switch {
				case r.Note != "":
					p.f("%s: nothing released: %s\n", r.Queue, r.Note)
				case r.Messages == 0:
					p.f("%s: no messages waiting\n", r.Queue)
				default:
					p.f("%s: released %s (%s)\n", r.Queue, count(r.Messages, "message"), size(r.Bytes))
				}
				if r.OnHold > 0 && r.Messages > 0 {
					p.f("%s: not released: %d on hold (postsuper -h)\n", r.Queue, r.OnHold)
				}
			}
			return p.err
		}),
	}
}

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the daemon read its configuration again",
		Long: "reload makes the daemon read its configuration again. A bad one changes nothing:\n" +
			"every problem in it is printed, and the exit code is 78.",
		Args: none,
		RunE: a.asks(func(ctx context.Context, c *control.Client, _ []string) error {
			warnings, err := c.Reload(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string][]string{"warnings": list(warnings)})
			}
			p := a.print()
			p.f("etrnd has read its configuration again\n")
			for _, w := range warnings {
				p.f("warning: %s\n", w)
			}
			return p.err
		}),
	}
}

// one demands one argument, and names it.
func one(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return api.Errorf(api.ExitUsage, "usage: "+cmd.UseLine(), "%s needs %s", cmd.CommandPath(), name)
		case len(args) > 1:
			return api.Errorf(api.ExitUsage, "usage: "+cmd.UseLine(), "%s needs one %s, but got %q too", cmd.CommandPath(), name, args[1])
		}
		return nil
	}
}
