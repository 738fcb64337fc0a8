package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/api"
)

// shownNobody are the domains that queues shows below its table.
const shownNobody = 10

func (a *app) queuesCommand() *cobra.Command {
	var nobody bool
	cmd := &cobra.Command{
		Use:   "queues",
		Short: "Show what is held for whom",
		Long: "queues shows what is held for each queue, and what is held for nobody: mail for\n" +
			"domains that are in no queue any more. It stays held until you say where it\n" +
			"goes, see HELD FOR NOBODY in etrnctl(8).",
		Args: none,
		RunE: a.asks(func(ctx context.Context, c *control.Client, _ []string) error {
			if nobody {
				n, err := c.Nobody(ctx)
				switch {
				case err != nil:
					return err
				case a.json:
					return a.printJSON(list(n.Domains))
				case n.Messages == 0:
					a.print().f("nothing is held for nobody\n")
					return nil
				}
				return a.renderNobody(n, len(n.Domains))
			}
			qs, err := c.Queues(ctx)
			if err != nil {
				return err
			}
			if a.json {
				// The array is of queues and nothing else: scripts sum it up.
				return a.printJSON(list(qs))
			}
			if err := a.renderQueues(qs); err != nil {
				return err
			}
			n, err := c.Nobody(ctx)
			if err != nil || n.Messages == 0 {
				return err
			}
			a.print().f("\n")
			return a.renderNobody(n, shownNobody)
		}),
	}
	cmd.Flags().BoolVar(&nobody, "nobody", false, "show only what is held for nobody, all of it")
	return cmd
}

// renderNobody shows what is held for domains in no queue, some of them.
func (a *app) renderNobody(n api.Nobody, max int) error {
	p := a.print()
	p.f("held for nobody, since no queue has the domain: %s (%s)\n", count(n.Messages, "message"), size(n.Bytes))
	t := table{right: map[int]bool{1: true, 2: true}}
	t.row("DOMAIN", "MESSAGES", "SIZE", "OLDEST", "RETURNED")
	more := n.More
	for i, d := range n.Domains {
		if i >= max {
			more += len(n.Domains) - i
			break
		}
		expires := "-"
		if d.Expires != nil {
			expires = a.date(*d.Expires)
		}
		t.row(dash(d.Domain), strconv.Itoa(d.Messages), size(d.Bytes), a.since(d.Oldest), expires)
	}
	t.print(p)
	switch {
	case more == 0:
	case max < len(n.Domains):
		p.f("and %s: etrnctl queues --nobody\n", count(more, "more domain"))
	default:
		p.f("and %s\n", count(more, "more domain"))
	}
	if n.OnHold > 0 {
		p.f("%s of these on hold (postsuper -h), where it does not expire\n", count(n.OnHold, "message"))
	}
	p.f("RETURNED is when the MTA sends the oldest back. Put the domain into a queue,\n")
	p.f("or let its mail go: etrnctl setup postfix --let-go DOMAIN --apply\n")
	return p.err
}
