// Package call is the site's side: links that come and go, and the calls that
// are made while they are up.
//
// A call follows Domino's order: request what the remote holds (RFC 1985),
// push what is held here, wait for what comes, hang up. What moves mail is the
// MTA on either side; the call only watches, so that the line is up no second
// longer than needed and is not hung up while mail is moving. Three things
// tell it: the counts in the replies, the milter's view of inbound sessions,
// and the MTA's queue. Timers only bound them.
//
// The package has no schedule and keeps no mail.
package call

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// Why a call ends before its time. They are causes of its context.
var (
	errLinkDown = errors.New("the link went down")
	errHungUp   = errors.New("the line was hung up by an operator")
	errShutdown = errors.New("etrnd was stopped")
)

// historyLength is how many calls that have ended are kept.
const historyLength = 100

// Options of a Caller.
type Options struct {
	Config  *config.Config
	Hold    *hold.Manager
	Inbound *Inbound
	Logger  *slog.Logger
}

// Caller knows the links and makes the calls.
type Caller struct {
	hold    *hold.Manager
	inbound *Inbound
	log     *slog.Logger

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	cfg     *config.Config
	ready   chan struct{}    // closed when ctx is set
	lines   map[string]*line // by name of the link, as configured
	calls   map[string]*call // under way, by id
	history []api.CallResult
	broke   map[string]time.Time // when a turned connection last ended without QUIT, by remote
	last    uint64               // number of the last call
	changed chan struct{}        // closed and replaced when a call or a line changes
	wg      sync.WaitGroup
}

// line is a link and its state.
type line struct {
	name  string
	state api.LinkState
	since time.Time
	iface string
	calls map[string]*call // under way, by remote
	last  *session         // the present one, or the last one; nil: none yet
}

// New returns a Caller. Run has to be called before anything else.
func New(o Options) *Caller {
	c := &Caller{
		hold: o.Hold, inbound: o.Inbound, log: o.Logger,
		lines: map[string]*line{}, calls: map[string]*call{}, broke: map[string]time.Time{}, changed: make(chan struct{}), ready: make(chan struct{}),
	}
	c.setConfig(o.Config)
	return c
}

// Run owns the calls until ctx ends, then ends them and waits for them. The
// lines are not hung up, since mail may be moving; a daemon that starts while a
// line is up takes it over, and hangs it up when its calls are done.
func (c *Caller) Run(ctx context.Context) error {
	calls, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c.mu.Lock()
	c.ctx = calls
	c.resume()
	c.mu.Unlock()
	close(c.ready)
	<-ctx.Done()
	c.mu.Lock()
	c.ctx = nil
	for _, ln := range c.lines {
		if ln.state != api.LinkDown {
			c.log.Warn("the line is left as it is: nobody hangs it up until etrnd runs again", "link", ln.name, "state", string(ln.state))
		}
	}
	c.mu.Unlock()
	cancel(errShutdown)
	c.wg.Wait()
	return nil
}

// Ready is closed as soon as Run takes links and calls.
func (c *Caller) Ready() <-chan struct{} { return c.ready }

// resume makes the calls of links that are up already: their hooks have fired
// while nobody was there to hear it, at boot or during a restart. The caller
// holds mu.
func (c *Caller) resume() {
	for i := range c.cfg.Links {
		link := &c.cfg.Links[i]
		if iface, up := present(link); up && iface != "" {
			c.log.Info("link was up before etrnd", "link", link.Name, "interface", iface)
			c.comesUp(c.lines[link.Name], iface, c.cfg.RemotesOf(link.Name))
		}
	}
}

// SetConfig swaps the configuration, as a reload does. Calls under way go on
// as they began.
func (c *Caller) SetConfig(cfg *config.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setConfig(cfg)
	c.notify()
}

func (c *Caller) setConfig(cfg *config.Config) {
	c.cfg = cfg
	for _, l := range cfg.Links {
		if c.lines[l.Name] == nil {
			c.lines[l.Name] = &line{name: l.Name, state: api.LinkDown, calls: map[string]*call{}}
		}
	}
	for name, ln := range c.lines {
		if _, ok := cfg.Link(name); !ok && ln.state == api.LinkDown {
			delete(c.lines, name)
		}
	}
}

// notify tells watchers. The caller holds mu.
func (c *Caller) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Caller) changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// find resolves a link event. ok is false for an interface of no link. A line
// that is up is found even when a reload has taken its link or its interface
// out of the configuration: somebody has to hear that it goes down.
func (c *Caller) find(ev api.LinkEvent) (ln *line, ok bool, err error) {
	if ev.Link == "" {
		for _, ln := range c.lines {
			if ln.state != api.LinkDown && (ln.iface == ev.Interface || ln.iface == "" && ln.last.link.Match(ev.Interface)) {
				return ln, true, nil
			}
		}
		l, ok := c.cfg.LinkOf(ev.Interface)
		if !ok {
			return nil, false, nil
		}
		return c.lines[l.Name], true, nil
	}
	if l, ok := c.cfg.Link(ev.Link); ok {
		return c.lines[l.Name], true, nil
	}
	if ln := c.lines[ev.Link]; ln != nil {
		return ln, true, nil
	}
	return nil, false, api.Errorf(api.ExitUsage, "links of the configuration: "+names(c.cfg.Links, func(l config.Link) string { return l.Name }), "there is no link %q", ev.Link)
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
	ln, ok, err := c.find(ev)
	if err != nil || !ok {
		return nil, err
	}
	if c.ctx == nil {
		return nil, errShutdown
	}
	return c.comesUp(ln, ev.Interface, c.cfg.RemotesOf(ln.name)), nil
}

// comesUp starts the calls of a line that is up. Hooks fire more than once
// for one connection (for IPv4 and IPv6, say), so while calls are under way
// that changes nothing. If none is, calls are made even though the line is
// believed to be up: a hook that told of its end may have been lost, and a
// call too many costs less than a site that never calls again. The caller
// holds mu.
func (c *Caller) comesUp(ln *line, iface string, remotes []*config.Remote) []api.CallRef {
	if iface != "" && (ln.iface == "" || ln.state == api.LinkDown || len(ln.calls) == 0) {
		ln.iface = iface // one that comes up beside it is not in use
	}
	switch ln.state {
	case api.LinkDialling:
		// The session that dials makes the calls.
		ln.last.cameUp()
	case api.LinkUp:
		if len(ln.calls) == 0 {
			for _, r := range remotes {
				ln.last.join(r)
			}
		}
	case api.LinkHangingUp:
		// A hook that is late: the line is on its way down. If it comes up
		// again after that, it has its hook again.
	default:
		if len(remotes) == 0 {
			break // nothing to call, so nothing to hang up after
		}
		c.start(ln, remotes, false)
	}
	return refs(ln)
}

func refs(ln *line) []api.CallRef {
	list := []api.CallRef{}
	for _, cl := range ln.calls {
		list = append(list, cl.ref)
	}
	slices.SortFunc(list, func(a, b api.CallRef) int { return strings.Compare(a.Call, b.Call) })
	return list
}

// start begins a session of a line that is down: dial if asked to, make the
// calls, hang up. The caller holds mu.
func (c *Caller) start(ln *line, remotes []*config.Remote, dial bool) {
	ctx, end := context.WithCancelCause(c.ctx)
	s := &session{
		caller: c, line: ln, before: ln.last, end: end, ended: make(chan struct{}),
		left: make(chan struct{}, 1), pins: map[string]func(){},
	}
	if link, ok := c.cfg.Link(ln.name); ok {
		s.link = *link
	}
	ln.last, ln.since, ln.state = s, time.Now(), api.LinkUp
	if dial {
		ln.state = api.LinkDialling
		s.dialled = make(chan struct{})
	}
	for _, r := range remotes {
		s.add(r)
	}
	c.log.Info("link "+string(ln.state), "link", ln.name, "interface", ln.iface, "calls", len(s.calls))
	c.notify()
	c.wg.Go(func() {
		defer close(s.ended)
		defer end(nil)
		if s.before != nil {
			<-s.before.ended
			s.before = nil
		}
		s.run(ctx)
	})
}

// LinkDown notes that a link is down and ends its calls. What has not gone
// stays held.
func (c *Caller) LinkDown(ev api.LinkEvent) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ln, ok, err := c.find(ev)
	if err != nil || !ok {
		return err
	}
	if ev.Link == "" && ln.iface != "" && ev.Interface != ln.iface {
		// Another interface of the same link, which is not in use.
		return nil
	}
	c.goesDown(ln, errLinkDown)
	return nil
}

// goesDown ends the session of a line. The caller holds mu.
func (c *Caller) goesDown(ln *line, why error) {
	if ln.state == api.LinkDown {
		return
	}
	c.log.Info("link down", "link", ln.name, "calls", len(ln.calls), "reason", why)
	ln.last.end(why)
	ln.state, ln.since, ln.iface = api.LinkDown, time.Now(), ""
	c.notify()
}

// Call calls one remote, and dials when the link is down.
func (c *Caller) Call(name string) (api.CallRef, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	remote, ok := c.cfg.Remote(name)
	if !ok {
		return api.CallRef{}, api.Errorf(api.ExitUsage, "remotes of the configuration: "+names(c.cfg.Remotes, func(r config.Remote) string { return r.Name }), "there is no remote %q", name)
	}
	if c.ctx == nil {
		return api.CallRef{}, errShutdown
	}
	ln := c.lines[remote.Link]
	if cl := ln.calls[remote.Name]; cl != nil && cl.session == ln.last && ln.state != api.LinkDown {
		return cl.ref, nil
	}
	link, _ := c.cfg.Link(remote.Link)
	switch ln.state {
	case api.LinkHangingUp:
		return api.CallRef{}, api.Errorf(api.ExitTempFail, "wait until the line is down, and call again", "link %s is just being hung up", ln.name)
	case api.LinkUp, api.LinkDialling:
		ln.last.join(remote)
	default:
		iface, up := present(link)
		switch {
		case up:
			if iface != "" {
				ln.iface = iface
			}
			c.start(ln, []*config.Remote{remote}, false)
		case len(link.Dial) > 0:
			c.start(ln, []*config.Remote{remote}, true)
		default:
			return api.CallRef{}, api.Errorf(api.ExitTempFail, "bring it up, or give the link a \"dial\" command", "link %s is down: no interface like %s is up, and there is no command to dial", ln.name, strings.Join(link.Interfaces, ", "))
		}
	}
	return ln.calls[remote.Name].ref, nil
}

// present reports whether an interface of the link is up and has an address.
// A link without interfaces and without a command to dial is always up: there
// is nothing to tell otherwise.
func present(link *config.Link) (iface string, up bool) {
	if len(link.Interfaces) == 0 {
		return "", len(link.Dial) == 0
	}
	ifaces, err := net.Interfaces()
	if err != nil {
		return "", false
	}
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 || !link.Match(i.Name) {
			continue
		}
		if addrs, err := i.Addrs(); err == nil && len(addrs) > 0 {
			return i.Name, true
		}
	}
	return "", false
}

// HangUp ends the calls of a link and runs its command to hang up. What has
// been begun is finished even if nobody waits for it any more.
func (c *Caller) HangUp(ctx context.Context, name string) error {
	c.mu.Lock()
	ln, _, err := c.find(api.LinkEvent{Link: name})
	if err == nil && c.ctx == nil {
		err = errShutdown
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	link, ok := c.cfg.Link(name)
	if !ok {
		link = &ln.last.link
	}
	last := ln.last
	c.goesDown(ln, errHungUp)
	if last != nil {
		// Nobody may call while the command is about to cut the line.
		ln.state = api.LinkHangingUp
	}
	done := make(chan error, 1)
	c.wg.Go(func() {
		if last != nil {
			<-last.ended
			defer func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				if ln.last == last && ln.state == api.LinkHangingUp {
					ln.state, ln.since = api.LinkDown, time.Now()
					c.notify()
				}
			}()
		}
		if len(link.HangUp) == 0 {
			done <- api.Errorf(api.ExitConfig, "give the link a \"hang-up\" command", "the calls of link %s have ended, but it has no command to hang up", link.Name)
			return
		}
		if err := c.hangUp(link, last); err != nil {
			done <- api.Errorf(api.ExitTempFail, "the line may still be up: hang up by hand", "%v", err)
			return
		}
		done <- nil
	})
	c.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hangUpTries is how often a line is hung up that stays up.
const hangUpTries = 3

// hangUp runs the command of a link to hang up, again if it fails and the line
// may still be up, which costs money. It has no context, since a line is hung
// up whoever has gone; each try has its limit. There is no second try once the
// line has come up for somebody else, or etrnd is to end. last is the line's
// session, or nil.
func (c *Caller) hangUp(link *config.Link, last *session) (err error) {
	for try := range hangUpTries {
		if try > 0 {
			time.Sleep(time.Duration(try) * 2 * time.Second)
			c.mu.Lock()
			over := c.ctx == nil || last != nil && last.line.last != last
			c.mu.Unlock()
			if over {
				return err
			}
			if _, up := present(link); !up && len(link.Interfaces) > 0 {
				return nil
			}
		}
		if err = c.command(context.Background(), link.Name, "hang-up", link.HangUp, link.HangUpTimeout); err != nil {
			continue
		}
		// The command may return while the line still goes down: it must not
		// be taken for one that is up.
		for range 20 {
			if iface, up := present(link); !up || iface == "" {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	}
	return err
}

// command runs a command of a link. It gets no input and a small environment;
// what it prints goes to the log, cut.
func (c *Caller) command(ctx context.Context, link, what string, argv []string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "ETRND_LINK=" + link}
	cmd.Dir = "/"
	// A command that leaves a child behind must not keep the call waiting.
	cmd.WaitDelay = time.Second
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("it did not end within %v", timeout)
	}
	log := c.log.With("link", link, "command", argv, "took", time.Since(start).Round(time.Millisecond), "output", out.String())
	if err != nil {
		log.Error("command failed", "what", what, "error", err)
		if text := out.String(); text != "" {
			return fmt.Errorf("the %s command %q of link %s failed: %w: %s", what, argv[0], link, err, text)
		}
		return fmt.Errorf("the %s command %q of link %s failed: %w", what, argv[0], link, err)
	}
	log.Info("command run", "what", what)
	return nil
}

// tail keeps the first part of what a command prints.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[:min(len(p), 300-min(len(t.buf), 300))]...)
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(strings.TrimSpace(string(t.buf)), "?") }

// Links tells how the links are, in the order of the configuration.
func (c *Caller) Links() []api.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	links := []api.Link{}
	for _, l := range c.cfg.Links {
		ln := c.lines[l.Name]
		link := api.Link{Name: l.Name, State: ln.state, Interface: ln.iface, Remotes: []string{}}
		if since := ln.since; !since.IsZero() {
			link.Since = &since
		}
		for _, r := range c.cfg.RemotesOf(l.Name) {
			link.Remotes = append(link.Remotes, r.Name)
		}
		links = append(links, link)
	}
	return links
}

// Calls returns the latest event of each call that is under way.
func (c *Caller) Calls() []api.CallEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := []api.CallEvent{}
	for _, cl := range c.calls {
		events = append(events, cl.event())
	}
	slices.SortFunc(events, func(a, b api.CallEvent) int { return strings.Compare(a.Call, b.Call) })
	return events
}

// History returns up to n calls that have ended, the latest first.
func (c *Caller) History(n int) []api.CallResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	results := []api.CallResult{}
	for i := len(c.history) - 1; i >= 0 && len(results) < n; i-- {
		results = append(results, c.history[i])
	}
	return results
}

// newID names a call: short, and sorted by age. The caller holds mu.
func (c *Caller) newID() string {
	c.last++
	return time.Now().UTC().Format("20060102") + "-" + fmt.Sprintf("%06s", strconv.FormatUint(c.last, 10))
}

// watchInterval is the least time between two events of a call to one
// watcher, the last one excepted.
const watchInterval = 100 * time.Millisecond

// Watch reports on calls until each has ended or ctx does.
func (c *Caller) Watch(ctx context.Context, ids []string) (<-chan api.CallEvent, error) {
	c.mu.Lock()
	for _, id := range ids {
		if _, ok := c.latest(id); !ok {
			c.mu.Unlock()
			return nil, api.Errorf(api.ExitUsage, "\"etrnctl history\" lists those that are known", "there is no call %q", id)
		}
	}
	c.mu.Unlock()
	events := make(chan api.CallEvent)
	open := slices.Clone(ids)
	// The goroutine ends with ctx, which is the request's, or with the calls,
	// which Run waits for.
	go func() {
		defer close(events)
		sent := map[string]api.CallEvent{}
		for len(open) > 0 {
			changed := c.changes()
			for _, id := range slices.Clone(open) {
				c.mu.Lock()
				ev, ok := c.latest(id)
				c.mu.Unlock()
				if !ok || ev.Result != nil {
					open = slices.DeleteFunc(open, func(o string) bool { return o == id })
				}
				if last, again := sent[id]; !ok || again && same(last, ev) {
					continue
				}
				select {
				case events <- ev:
					sent[id] = ev
				case <-ctx.Done():
					return
				}
			}
			if len(open) == 0 {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(watchInterval):
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}

// same reports whether an event tells nothing that the last one did not.
func same(a, b api.CallEvent) bool {
	return a.Phase == b.Phase && a.Waiting == b.Waiting && a.In == b.In && a.Out == b.Out && b.Result == nil
}

// latest returns how a call stands, be it under way or in the history. The
// caller holds mu.
func (c *Caller) latest(id string) (api.CallEvent, bool) {
	if cl := c.calls[id]; cl != nil {
		return cl.event(), true
	}
	for _, r := range slices.Backward(c.history) {
		if r.Call == id {
			return api.CallEvent{CallRef: r.CallRef, Time: r.End, Phase: api.PhaseDone, Line: r.Line, In: r.In, Out: r.Out, Result: &r}, true
		}
	}
	return api.CallEvent{}, false
}
