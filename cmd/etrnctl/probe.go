package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

	refused  bool   // the error is the remote's last word
	hint     string // how to mend the error; empty if that is not known
	nameless bool   // no address was found for the host
}

// probe asks one port. An offer in which nothing was said is none.
func (a *app) probe(ctx context.Context, addr string, o odmr.ClientOptions) probed {
	f := probed{Address: addr}
	offer, err := odmr.Probe(ctx, addr, o)
	if offer != nil && offer.Greeting != "" {
		f.Offer = offer
	}
	if err != nil {
		f.Error, f.hint = unreachable(err), reachHint(err)
		f.nameless = errors.As(err, new(*net.DNSError))
		var oe *odmr.Error
		f.refused = errors.As(err, &oe) && !oe.Temporary()
	}
	return f
}

// reachHint is what to look at when nobody can be reached; empty for what somebody
// has said.
func reachHint(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case !errors.Is(err, odmr.ErrConnect):
		return ""
	case errors.As(err, &dns) && dns.IsNotFound:
		return "is the name right? it has no address in the DNS"
	case errors.As(err, &dns):
		return "the DNS does not answer: is the link up, and the server in /etc/resolv.conf the right one?"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the host is there and does not take the connection: does etrnd run there, with this port under listen in [odmr], and does its firewall let it in?"
	case errors.As(err, &op):
		return "is the link up, and does every firewall on the way, the other side's too, let this port through?"
	}
	return ""
}

// unreachable is an error without what stands beside it anyway: the address, and
// that it is about a connection.
func unreachable(err error) string {
	var op *net.OpError
	var dns *net.DNSError
	var call *os.SyscallError
	switch {
	case !errors.Is(err, odmr.ErrConnect):
		return err.Error()
	case errors.As(err, &dns):
		return dns.Error()
	case errors.As(err, &call):
		return call.Err.Error()
	case errors.As(err, &op) && op.Timeout():
		return "no answer"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return err.Error()
}

func (a *app) probeCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "probe REMOTE|HOST[:PORT]",
		Short: "Show what a remote offers: ETRN, ATRN, TLS, AUTH, SIZE",
		Long: "probe connects to a remote, shows what it offers with and without TLS, and\n" +
			"leaves. It asks for no mail and does not log in. The name of a [[remote]] stands\n" +
			"for its host and port, and its certificate is checked as a call would. Of another\n" +
			"host without a port, both 366 and 25 are tried. The exit code is 0 when ETRN or\n" +
			"ATRN is offered, 69 when the remote answers but offers neither, or not the TLS\n" +
			"that its [[remote]] asks for, and 75 when it cannot be reached.",
		Args:              one("REMOTE or HOST[:PORT]"),
		ValidArgsFunction: a.complete(a.remoteNames),
		RunE: a.does(func(ctx context.Context, args []string) error {
			o := odmr.ClientOptions{Hostname: a.hostname(), ConnectTimeout: timeout, ReplyTimeout: timeout}
			remote := a.remote(args[0])
			var addrs []string
			var err error
			if remote != nil {
				addrs = []string{remote.Addr()}
				if o.Config, err = remote.TLSConfig(); err != nil {
					return fileError(err)
				}
			} else if addrs, err = probeAddrs(args[0]); err != nil {
				return err
			}
			ctx, stop := context.WithTimeout(ctx, timeout)
			defer stop()
			found := make([]probed, len(addrs))
			var wg sync.WaitGroup
			for i, addr := range addrs {
				wg.Go(func() { found[i] = a.probe(ctx, addr, o) })
			}
			wg.Wait()
			if a.json {
				if err := a.printJSON(found); err != nil {
					return err
				}
			} else if err := a.renderProbe(found); err != nil {
				return err
			}
			if err := probeOutcome(args[0], remote != nil, found); err != nil || remote == nil {
				return err
			}
			return demands(remote, found[0].Offer)
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "give up after this `TIME`")
	return cmd
}

// remote is the [[remote]] of the configuration that goes by a name, or nil.
func (a *app) remote(name string) *config.Remote {
	cfg, err := config.Load(a.configFile, config.WithoutFiles())
	if err != nil {
		return nil
	}
	for i := range cfg.Remotes {
		if strings.EqualFold(cfg.Remotes[i].Name, name) {
			return &cfg.Remotes[i]
		}
	}
	return nil
}

// fileError is that of a file which a remote names.
func fileError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return api.Errorf(api.ExitNoPerm, "try it as root", "%v", err)
	}
	return api.Errorf(api.ExitConfig, "etrnctl check says what is wrong with it", "%v", err)
}

// demands compares what was offered with what a call would insist on.
func demands(r *config.Remote, o *odmr.Offer) error {
	refuse := func(hint, format string, args ...any) error {
		return api.Errorf(api.ExitUnavailable, hint, "a call of "+r.Name+" would fail: "+format, args...)
	}
	t := o.TLS
	strict := r.TLS == config.TLSRequire
	switch {
	case (strict || r.TLS == config.TLSInsecure) && t == nil:
		return refuse("it has to be set up there; without it, tls = \"auto\"", "it offers no TLS, and tls is %q", r.TLS)
	case strict && !t.Verified && strings.HasSuffix(t.Problem, "not valid yet"):
		return refuse("set the clock of this machine; if it is right, the certificate has to be made anew there", "%s", t.Problem)
	case strict && !t.Verified:
		return refuse("name the file of the certificate that vouches for it under tls-ca, and the name in it under tls-name", "%s", t.Problem)
	}
	return nil
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

func probeOutcome(host string, known bool, found []probed) error {
	answered, nameless := false, false
	e := &api.Error{Exit: api.ExitTempFail, Message: host + " cannot be probed:"}
	for _, f := range found {
		if f.Offer != nil && (f.Offer.ETRN || f.Offer.ATRN) {
			return nil
		}
		answered = answered || f.Offer != nil && f.Error == ""
		if f.Error != "" {
			e.Details = append(e.Details, f.Address+": "+f.Error)
			e.Hint = cmp.Or(e.Hint, f.hint)
			nameless = nameless || f.nameless
		}
		if f.refused {
			e.Exit = api.ExitUnavailable
		}
	}
	if nameless && !known && !strings.ContainsAny(host, ".:") {
		e.Hint = "no [[remote]] of the configuration goes by this name; etrnctl status lists those there are"
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
