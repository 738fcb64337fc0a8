// Command demo plays the main job on this machine, with real Postfix
// instances, and tells it as it happens: mail queues up at a hub and at a site
// while the line between them is down, the line comes up, the mail crosses in
// both directions, and the line is hung up. It ends with a status other than
// zero if a single message is missing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/scenario"
	"github.com/etrnd/etrnd/internal/testbed"
)

// What crosses the line, each way.
const (
	inbound  = 40
	outbound = 15
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	start := time.Now()
	say := func(format string, args ...any) {
		fmt.Printf("%5.1f s  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	say("building etrnd, etrn-milter and etrnctl, and setting up four hosts with a Postfix each")
	set, err := programs.Build(ctx, false)
	if err != nil {
		return err
	}
	defer set.Close()
	bed, err := testbed.New(ctx, testbed.Options{})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			bed.Dump(os.Stderr)
		}
		err = errors.Join(err, bed.Close())
	}()
	line := testbed.Shape{RTT: 600 * time.Millisecond, Rate: 256_000}
	w, err := scenario.New(ctx, bed, scenario.Options{Programs: set, Shape: line})
	if err != nil {
		return err
	}
	say("hub.example.net holds mail for acme.example. Its site, mail.acme.example, is at")
	say("the far end of a satellite line (%v round trip, %d kbit/s), which is down", line.RTT, line.Rate/1000)

	in, err := w.Online.SendMany(ctx, "hub.example.net:25", scenario.Messages(inbound, 2000, "crew@acme.example"))
	if err != nil {
		return err
	}
	if err := w.Hub.WaitQueue(ctx, "acme", inbound); err != nil {
		return err
	}
	say("the world sends %d messages to acme.example: all held at the hub", inbound)
	out, err := w.Office.SendMany(ctx, "203.0.113.1:25", scenario.Messages(outbound, 2000, "friend@online.example"))
	if err != nil {
		return err
	}
	if err := w.Site.WaitQueue(ctx, "hub", outbound); err != nil {
		return err
	}
	say("a PC in the site's office sends %d messages to the world: all held at the site", outbound)

	up := time.Now()
	if err := w.Line.Connect(ctx); err != nil {
		return err
	}
	say("the line comes up, and pppd runs /etc/ppp/ip-up.d/etrnd: etrnctl link up --interface ppp0")
	if err := testbed.Until(ctx, "the site to hang up", func() (bool, error) { return !w.Line.IsUp(), nil }); err != nil {
		return err
	}
	took := time.Since(up)
	var history []api.CallResult
	if err := testbed.Until(ctx, "the call to be in the history", func() (bool, error) {
		err := w.Site.CtlJSON(ctx, &history, "history")
		return len(history) > 0, err
	}); err != nil {
		return err
	}
	call := history[0]
	for _, r := range call.Replies {
		say("the site asks for %-14s the hub says %d %s", r.Name+":", r.Code, r.Text)
		break // the other names are of the same mail
	}
	say("in: %d messages came. out: %d messages went, at the same time", call.In.Messages, call.Out.Messages)
	say("nothing is left to come or to go: the site hangs up, after %.1f s of line", took.Seconds())

	twiceIn, err := w.SiteHost.WaitDelivered(ctx, in)
	if err != nil {
		return fmt.Errorf("to the site: %w", err)
	}
	twiceOut, err := w.Online.WaitDelivered(ctx, out)
	if err != nil {
		return fmt.Errorf("to the world: %w", err)
	}
	if call.Exit != 0 {
		return fmt.Errorf("the call ended with exit code %d: %s", call.Exit, call.Error)
	}
	for _, d := range []struct {
		at    *scenario.Daemons
		queue string
	}{{w.Hub, "acme"}, {w.Site, "hub"}} {
		if err := d.at.WaitQueue(ctx, d.queue, 0); err != nil {
			return err
		}
	}
	say("%d of %d messages are at the site and %d of %d in the world, %d came twice, none is held", len(in), inbound, len(out), outbound, twiceIn+twiceOut)
	return nil
}
