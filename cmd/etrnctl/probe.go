package main

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// probed is what came of one port.
type probed struct {
	Address string      `json:"address"`
	Offer   *odmr.Offer `json:"offer"` // null: no answer
	Error   string      `json:"error,omitempty"`

	refused bool // the error is the remote's last word
}

// probe asks one port. An offer in which nothing was said is none.
func (a *app) probe(ctx context.Context, addr string, timeout time.Duration) probed {
	f := probed{Address: addr}
	offer, err := odmr.Probe(ctx, addr, odmr.ClientOptions{Hostname: a.hostname(), ConnectTimeout: timeout, ReplyTimeout: timeout})
	if offer != nil && offer.Greeting != "" {
		f.Offer = offer
	}
	if err != nil {
		f.Error = err.Error()
		var oe *odmr.Error
		f.refused = errors.As(err, &oe) && !oe.Temporary()
	}
	return f
}

func (a *app) probeCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "probe HOST[:PORT]",
		Short: "Show what a remote offers: ETRN, ATRN, TLS, AUTH, SIZE",
		Long: "probe connects to a remote, shows what it offers with and without TLS, and\n" +
			"leaves. It asks for no mail and does not log in. Without a port, both 366 and 25\n" +
			"are tried. The exit code is 0 when ETRN or ATRN is offered, 69 when the remote\n" +
			"answers but offers neither, and 75 when it cannot be reached.",
		Args: one("HOST[:PORT]"),
		RunE: a.does(func(ctx context.Context, args []string) error {
			addrs, err := probeAddrs(args[0])
			if err != nil {
				return err
			}
			ctx, stop := context.WithTimeout(ctx, timeout)
			defer stop()
			found := make([]probed, len(addrs))
			var wg sync.WaitGroup
			for i, addr := range addrs {
				wg.Go(func() { found[i] = a.probe(ctx, addr, timeout) })
			}
			wg.Wait()
			if a.json {
				if err := a.printJSON(found); err != nil {
					return err
				}
			} else if err := a.renderProbe(found); err != nil {
				return err
			}
			return probeOutcome(args[0], found)
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "give up after this `TIME`")
	return cmd
}

// probeAddrs reads HOST[:PORT]; an IPv6 address with a port has brackets.
func probeAddrs(s string) ([]string, error) {
	bad := func(why string) error {
		return api.Errorf(api.ExitUsage, `write HOST, HOST:PORT or [ADDRESS]:PORT`, "%q is no host to probe: %s", s, why)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
		if net.ParseIP(host) == nil && strings.Contains(host, ":") {
			return nil, bad("there is more than one colon")
		}
	}
	if host == "" || strings.ContainsAny(host, " /@[]") {
		return nil, bad("the name of the host cannot be")
	}
	if err != nil {
		return []string{net.JoinHostPort(host, "366"), net.JoinHostPort(host, "25")}, nil
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return nil, bad("the port must be a number from 1 to 65535")
	}
	return []string{net.JoinHostPort(host, port)}, nil
}

// hostname is the one of the configuration, because that is what the remote
// will be told in earnest.
func (a *app) hostname() string {
	if cfg, err := config.Load(a.configFile, config.WithoutFiles()); err == nil {
		return cfg.Hostname
	}
	if h, err := os.Hostname(); err == nil && h != "" {
		return h
	}
	return "localhost"
}

func probeOutcome(host string, found []probed) error {
	answered := false
	e := &api.Error{Exit: api.ExitTempFail, Message: host + " cannot be probed:"}
	for _, f := range found {
		if f.Offer != nil && (f.Offer.ETRN || f.Offer.ATRN) {
			return nil
		}
		answered = answered || f.Offer != nil && f.Error == ""
		if f.Error != "" {
			e.Details = append(e.Details, f.Address+": "+f.Error)
		}
		if f.refused {
			e.Exit = api.ExitUnavailable
		}
	}
	if answered {
		return api.Errorf(api.ExitUnavailable, "a few servers (Sendmail among them) take ETRN without listing it; it can still be tried",
			"%s lists neither ETRN nor ATRN", host)
	}
	return e
}

func (a *app) renderProbe(found []probed) error {
	p := a.print()
	n := 0
	for _, f := range found {
		if f.Offer == nil {
			continue // the errors come at the end, if nobody answers
		}
		if n++; n > 1 {
			p.f("\n")
		}
		renderOffer(p, a, f)
	}
	if n > 0 {
		for _, f := range found {
			if f.Offer == nil {
				p.f("\n%s: %s\n", f.Address, f.Error)
			}
		}
	}
	return p.err
}

func renderOffer(p *printer, a *app, f probed) {
	o := f.Offer
	field := func(name, text string) { p.f("  %-11s %s\n", name, text) }
	p.f("%s", f.Address)
	if o.Remote != "" && o.Remote != f.Address {
		p.f(" (%s)", o.Remote)
	}
	p.f("\n")
	if f.Error != "" {
		field("broken off", f.Error)
	}
	field("greeting", dash(o.Greeting))
	field("ETRN", yes(o.ETRN))
	field("ATRN", yes(o.ATRN))
	field("STARTTLS", yes(o.STARTTLS))
	if t := o.TLS; t != nil {
		switch {
		case t.Version == "":
			field("TLS", "failed: "+t.Problem)
		case t.Verified:
			field("TLS", t.Version+", certificate verified")
		default:
			field("TLS", t.Version+", certificate not verified:")
			field("", t.Problem)
		}
		if c := t.Certificate; c != nil {
			field("certificate", "for "+dash(strings.Join(c.Names, " "))+", until "+a.date(c.NotAfter))
			field("SHA-256", c.Fingerprint)
		}
	}
	field("AUTH", dash(strings.Join(o.Auth, " ")))
	if o.TLS != nil {
		field("  under TLS", dash(strings.Join(o.AuthTLS, " ")))
	}
	switch {
	case !o.SizeListed:
		field("SIZE", "not listed")
	case o.Size == 0:
		field("SIZE", "no limit told")
	default:
		field("SIZE", size(o.Size)+" ("+strconv.FormatInt(o.Size, 10)+" bytes)")
	}
	var more []string
	for _, k := range []struct {
		name string
		has  bool
	}{
		{"PIPELINING", o.Pipelining}, {"CHUNKING", o.Chunking}, {"8BITMIME", o.EightBit},
		{"SMTPUTF8", o.SMTPUTF8}, {"DSN", o.DSN}, {"MT-PRIORITY", o.MTPriority},
	} {
		if k.has {
			more = append(more, k.name)
		}
	}
	field("also", dash(strings.Join(more, " ")))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
