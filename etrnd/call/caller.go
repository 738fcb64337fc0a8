// Package call is the site's side: links that come and go, and the calls that
// are made while they are up.
//
// A call does what Domino's does: it requests what the remote holds (RFC 1985),
// then releases what is held here, waits for what comes and goes, and hangs up.
// In this order, since on a thin line the dialogue does not get through between
// mail that goes out. What moves mail is the MTA on either side; the call only
// watches, so that the line is up no second longer than needed and is not hung up
// while mail is moving. Three things tell it: the counts in the replies, the
// milter's view of inbound sessions, and the MTA's queue. Timers only bound them;
// that the line is dead shows in the machine's connections (pulse.go). What follows
// from what was seen is decided in verdict*.go and ending.go, by functions of
// nothing else.
//
// The package has no schedule and keeps no mail.
//
// # Who owns what
//
// A Caller has a link for each of the configuration, a link its line (one life
// of it, from dialling or coming up to hanging up), a line its calls.
//
//   - Each line has a goroutine, which dials, waits for the calls, drains and
//     hangs up; Caller.Run waits for all of them. It begins its work when the
//     link's line before it has ended.
//   - One more goroutine of the line feels its pulse while there are calls, and ends
//     them when it is dead. pulse.mu stands apart.
//   - Each call has a goroutine, to which the call's fields belong; the line
//     waits for it, and has them before and after. A turned connection has one
//     more, which the call waits for.
//   - Caller.mu guards the configuration and the table of links; link.mu a
//     link's state, its line and which calls are on it; ledger.mu the calls
//     under way and the history; call.mu what a call shows of itself. They are
//     taken in this order. Inbound.mu, and below it senders.mu, stand apart.
//     pins.mu comes before link.mu; the Holder is asked under it, which never
//     waits.
//   - Under none of the others is anybody asked: no Holder, Modem, Network or
//     Receiver, no file, no wait. Methods that need one held end in Locked.
package call

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/queue"

	"time"
)

// Holder is what a call needs of a hold.Manager.
type Holder interface {
	// Changed returns a channel that is closed at the next change.
	Changed() <-chan struct{}
	// Watch makes it look often, until stop is called.
	Watch() (stop func())
	// Pin opens queues until unpin is called.
	Pin(sels ...queue.Selection) (unpin func())
	// Limit bounds how many messages of a queue the MTA tries at a time, until
	// undo is called; 0: no more of them.
	Limit(queue string, n int) (undo func())
	// Follow follows queues through changes of the configuration.
	Follow(queues ...string) (states func() []hold.State, stop func())
	// Listed is when the MTA's queue was last listed, and why the last try
	// failed.
	Listed() (at time.Time, took time.Duration, err error)
}

// Options of a Caller.
type Options struct {
	Config  *config.Config
	Hold    Holder
	Inbound *Inbound
	Logger  *slog.Logger

	Modem   Modem                          // default: Commands
	Network Network                        // default: the machine's
	Receive func(receive.Options) Receiver // default: receive.New
	Now     func() time.Time               // what the clock says; default: the machine's
	Door    Door                           // default: receive.Door
	Refuses Refuses                        // default: nothing is known to be refused
}

// Door asks the local MTA at addr whether it will take mail; see receive.Door.
type Door func(ctx context.Context, addr, hello string, domains []string) (why receive.Refusal, all bool, err error)

// Refuses tells whether the local MTA is certain to refuse mail for a domain from
// hosts in these networks; see mta.MTA.
type Refuses func(ctx context.Context, domain string, from []netip.Prefix) (bool, error)

// Caller knows the links and makes the calls.
type Caller struct {
	hold    Holder
	inbound *Inbound
	modem   Modem
	network Network
	receive func(receive.Options) Receiver
	now     func() time.Time
	door    Door
	refuses Refuses
	log     *slog.Logger
	ledger  *ledger
	ready   chan struct{} // closed when ctx is set

	lines sync.WaitGroup // their goroutines

	mu    sync.Mutex
	ctx   context.Context // of Run; nil before and after
	cfg   *config.Config
	links map[string]*link // by name, as configured
}

// New returns a Caller. Run has to be called before anything else.
func New(o Options) *Caller {
	c := &Caller{
		hold: o.Hold, inbound: o.Inbound, modem: o.Modem, network: o.Network, receive: o.Receive, now: o.Now, door: o.Door, refuses: o.Refuses, log: o.Logger,
		ledger: newLedger(o.Logger), ready: make(chan struct{}), links: map[string]*link{},
	}
	if c.modem == nil {
		c.modem = Commands{Logger: o.Logger}
	}
	if c.network == nil {
		c.network = machine{}
	}
	if c.now == nil {
		c.now = func() time.Time { return time.Now().Round(0) } // without the reading that a step leaves alone
	}
	if c.receive == nil {
		c.receive = func(o receive.Options) Receiver { return receive.New(o) }
	}
	if c.door == nil {
		c.door = func(ctx context.Context, addr, hello string, domains []string) (receive.Refusal, bool, error) {
			return receive.Door(ctx, receive.Dialer(addr), hello, domains)
		}
	}
	if c.refuses == nil {
		c.refuses = func(context.Context, string, []netip.Prefix) (bool, error) { return false, nil }
	}
	c.setConfigLocked(o.Config)
	return c
}

// Run owns the calls until ctx ends, then ends them and waits for them. The
// lines are not hung up, since mail may be moving; a daemon that starts while a
// line is up takes it over, and hangs it up when its calls are done.
func (c *Caller) Run(ctx context.Context) error {
	calls, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	c.mu.Lock()
	c.ctx = calls
	c.mu.Unlock()
	c.resume()
	close(c.ready)
	<-ctx.Done()
	c.mu.Lock()
	c.ctx = nil
	for _, ln := range c.links {
		if l := ln.show(); l.State != api.LinkDown {
			c.log.Warn("the line is left as it is: nobody hangs it up until etrnd runs again", "link", l.Name, "state", string(l.State))
		}
	}
	c.mu.Unlock()
	cancel(errShutdown)
	c.lines.Wait()
	return nil
}

// Ready is closed as soon as Run takes links and calls.
func (c *Caller) Ready() <-chan struct{} { return c.ready }

// resume makes the calls of links that are up already: their hooks have fired
// while nobody was there to hear it, at boot or during a restart.
func (c *Caller) resume() {
	cfg := c.config()
	for i := range cfg.Links {
		l := &cfg.Links[i]
		if iface, up := present(c.modem, l); up && iface != "" {
			c.log.Info("link was up before etrnd", "link", l.Name, "interface", iface)
			c.LinkUp(api.LinkEvent{Link: l.Name, Interface: iface})
		}
	}
}

// config is the configuration in force.
func (c *Caller) config() *config.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg
}

// SetConfig swaps the configuration, as a reload does. Calls under way go on
// as they began.
func (c *Caller) SetConfig(cfg *config.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setConfigLocked(cfg)
	c.ledger.notify()
}

func (c *Caller) setConfigLocked(cfg *config.Config) {
	c.cfg = cfg
	for _, l := range cfg.Links {
		if c.links[l.Name] == nil {
			c.links[l.Name] = newLink(c, l.Name)
		}
	}
	for name, ln := range c.links {
		// Of one that is up, somebody has to hear that it goes down.
		if _, ok := cfg.Link(name); !ok && ln.down() {
			delete(c.links, name)
		}
	}
}

// findLocked resolves a link event: nil for an interface of no link. A line
// that is up is found even when a reload has taken its link or its interface
// out of the configuration.
func (c *Caller) findLocked(ev api.LinkEvent) (*link, error) {
	if ev.Link == "" {
		for _, ln := range c.links {
			if ln.uses(ev.Interface) {
				return ln, nil
			}
		}
		if l, ok := c.cfg.LinkOf(ev.Interface); ok {
			return c.links[l.Name], nil
		}
		return nil, nil
	}
	if l, ok := c.cfg.Link(ev.Link); ok {
		return c.links[l.Name], nil
	}
	if ln := c.links[ev.Link]; ln != nil {
		return ln, nil
	}
	return nil, api.Errorf(api.ExitUsage, "links of the configuration: "+names(c.cfg.Links, func(l config.Link) string { return l.Name }), "there is no link %q", ev.Link)
}

// linkConfigLocked is the settings of a link, or those that it had when a
// reload took it away.
func (c *Caller) linkConfigLocked(ln *link) config.Link {
	if l, ok := c.cfg.Link(ln.name); ok {
		return *l
	}
	return ln.lastConfig()
}

func names[T any](list []T, name func(T) string) string {
	if len(list) == 0 {
		return "none"
	}
	var s []string
	for _, v := range list {
		s = append(s, name(v))
	}
	return strings.Join(s, ", ")
}

// LinkUp notes that a link is up and starts its calls.
func (c *Caller) LinkUp(ev api.LinkEvent) ([]api.CallRef, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ln, err := c.findLocked(ev)
	switch {
	case err != nil || ln == nil:
		return nil, err
	case c.ctx == nil:
		return nil, errShutdown
	}
	return ln.up(c.ctx, c.linkConfigLocked(ln), c.cfg.RemotesOf(ln.name), ev.Interface), nil
}

// LinkDown notes that a link is down and ends its calls. What has not gone
// stays held.
func (c *Caller) LinkDown(ev api.LinkEvent) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ln, err := c.findLocked(ev)
	if err != nil || ln == nil {
		return err
	}
	if ev.Link != "" {
		ev.Interface = "" // it is only noted
	}
	ln.wentDown(ev.Interface)
	return nil
}

// Call calls one remote, and dials when the link is down.
func (c *Caller) Call(name string) (api.CallRef, error) {
	cfg := c.config()
	unknown := api.Errorf(api.ExitUsage, "remotes of the configuration: "+names(cfg.Remotes, func(r config.Remote) string { return r.Name }), "there is no remote %q", name)
	remote, ok := cfg.Remote(name)
	if !ok {
		return api.CallRef{}, unknown
	}
	l, _ := cfg.Link(remote.Link)
	iface, up := present(c.modem, l)
	c.mu.Lock()
	defer c.mu.Unlock()
	ln := c.links[l.Name]
	switch {
	case c.ctx == nil:
		return api.CallRef{}, errShutdown
	case ln == nil: // a reload has taken it away in this moment
		return api.CallRef{}, unknown
	}
	return ln.call(c.ctx, *l, remote, iface, up)
}

// HangUp ends the calls of a link and runs its command to hang up. What has
// been begun is finished even if nobody waits for it any more.
func (c *Caller) HangUp(ctx context.Context, name string) error {
	cfg, l, err := c.orderHangUp(name)
	if err != nil {
		return err
	}
	if l != nil {
		select {
		case <-l.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch {
	case len(cfg.HangUp) == 0:
		return api.Errorf(api.ExitConfig, "give the link a \"hang-up\" command", "the calls of link %s have ended, but it has no command to hang up", cfg.Name)
	case l.failed != nil:
		return api.Errorf(api.ExitTempFail, "the line may still be up: hang up by hand", "%v", l.failed)
	}
	return nil
}

func (c *Caller) orderHangUp(name string) (config.Link, *line, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ln, err := c.findLocked(api.LinkEvent{Link: name})
	switch {
	case err != nil:
		return config.Link{}, nil, err
	case c.ctx == nil:
		return config.Link{}, nil, errShutdown
	}
	cfg := c.linkConfigLocked(ln)
	return cfg, ln.hangUp(c.ctx, cfg), nil
}

// Links tells how the links are, in the order of the configuration.
func (c *Caller) Links() []api.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	links := []api.Link{}
	for _, cfg := range c.cfg.Links {
		l := c.links[cfg.Name].show()
		l.Remotes = []string{}
		for _, r := range c.cfg.RemotesOf(cfg.Name) {
			l.Remotes = append(l.Remotes, r.Name)
		}
		links = append(links, l)
	}
	return links
}

// Calls returns the latest event of each call that is under way.
func (c *Caller) Calls() []api.CallEvent { return c.ledger.underWay() }

// History returns up to n calls that have ended, the latest first.
func (c *Caller) History(n int) []api.CallResult { return c.ledger.ended(n) }

// Watch reports on calls until each has ended or ctx does.
func (c *Caller) Watch(ctx context.Context, ids []string) (<-chan api.CallEvent, error) {
	return c.ledger.watch(ctx, ids)
}
