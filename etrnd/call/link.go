package call

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/socket"
)

// link is a link of the configuration as it is now. Its line makes the calls.
type link struct {
	caller *Caller
	name   string

	mu    sync.Mutex // guards what follows, and what is said so of its lines
	state api.LinkState
	since time.Time // zero: since the start
	iface string    // that is in use, if known
	line  *line     // the present one, or the last; nil: none yet
	pace  socket.Pace
	guess bool // pace is of what has gone, and of no dialogue
}

func newLink(c *Caller, name string) *link {
	return &link{caller: c, name: name, state: api.LinkDown}
}

// down tells whether nothing is to be heard of the link.
func (ln *link) down() bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.state == api.LinkDown
}

// uses tells whether the link is up, or about to be, by an interface.
func (ln *link) uses(iface string) bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.state != api.LinkDown && (ln.iface == iface || ln.iface == "" && ln.line.cfg.Match(iface))
}

// showPace notes how fast the link is.
func (ln *link) showPace(p socket.Pace, guess bool) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.pace, ln.guess = p, guess
}

// show describes the link.
func (ln *link) show() api.Link {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	l := api.Link{Name: ln.name, State: ln.state, Interface: ln.iface}
	if since := ln.since; !since.IsZero() {
		l.Since = &since
	}
	return l
}

// up notes that the link is up and returns the calls that are made for it.
// Hooks fire more than once for one connection (for IPv4 and IPv6, say), so
// while calls are under way that changes nothing. If none is, calls are made
// even though the link is believed to be up: a hook that told of its end may
// have been lost, and a call too many costs less than a site that never calls
// again.
func (ln *link) up(ctx context.Context, cfg config.Link, remotes []*config.Remote, iface string) []api.CallRef {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if iface != "" && (ln.iface == "" || ln.state == api.LinkDown || len(ln.line.calls) == 0) {
		ln.iface = iface // one that comes up beside it is not in use
	}
	switch ln.state {
	case api.LinkDialling:
		// The line that dials makes the calls.
		ln.line.hookLocked()
	case api.LinkUp:
		if len(ln.line.calls) == 0 {
			for _, r := range remotes {
				ln.line.joinLocked(r)
			}
		}
	case api.LinkHangingUp:
		// A hook that is late: the line is on its way down. If it comes up
		// again after that, it has its hook again.
	default:
		if len(remotes) == 0 {
			return []api.CallRef{} // nothing to call, so nothing to hang up after
		}
		ln.startLocked(ctx, newLine(ln, cfg), api.LinkUp, remotes)
	}
	return ln.line.refsLocked()
}

// wentDown notes that the link is down, unless that was said of an interface
// that is not in use.
func (ln *link) wentDown(iface string) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if iface == "" || ln.iface == "" || ln.iface == iface {
		ln.downLocked(errLinkDown)
	}
}

// downLocked ends the link's line.
func (ln *link) downLocked(why error) {
	if ln.state == api.LinkDown {
		return
	}
	if why != errShutdown { // then the line is left as it is
		ln.caller.log.Info("link down", "link", ln.name, "calls", len(ln.line.calls), "reason", why)
	}
	ln.line.end(why)
	ln.iface = ""
	ln.setLocked(api.LinkDown)
}

func (ln *link) setLocked(state api.LinkState) {
	ln.state, ln.since = state, time.Now()
	ln.caller.ledger.notify()
}

// call makes a call, over the line that is up or over a new one. present says
// whether an interface of the link is up.
func (ln *link) call(ctx context.Context, cfg config.Link, r *config.Remote, iface string, present bool) (api.CallRef, error) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	switch {
	case ln.state == api.LinkHangingUp:
		if cl := ln.line.callLocked(r.Name); cl != nil {
			return cl.ref, nil
		}
		return api.CallRef{}, api.Errorf(api.ExitTempFail, "wait until the line is down, and call again", "link %s is just being hung up", ln.name)
	case ln.state != api.LinkDown:
		if ln.line.callLocked(r.Name) == nil {
			ln.line.joinLocked(r)
		}
	case present:
		if iface != "" {
			ln.iface = iface
		}
		ln.startLocked(ctx, newLine(ln, cfg), api.LinkUp, []*config.Remote{r})
	case len(cfg.Dial) > 0:
		ln.startLocked(ctx, newLine(ln, cfg), api.LinkDialling, []*config.Remote{r})
	default:
		return api.CallRef{}, api.Errorf(api.ExitTempFail, "bring it up, or give the link a \"dial\" command", "link %s is down: no interface like %s is up, and there is no command to dial", ln.name, strings.Join(cfg.Interfaces, ", "))
	}
	return ln.line.callLocked(r.Name).ref, nil
}

// hangUp orders the link's line to end its calls and to be hung up, and returns
// it. A line that is over is not asked: there is a new one just for that, if
// there is a command at all; nil: nothing is to be waited for.
func (ln *link) hangUp(ctx context.Context, cfg config.Link) *line {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.line == nil || ln.line.over {
		if len(cfg.HangUp) == 0 {
			return nil
		}
		ln.startLocked(ctx, newLine(ln, cfg), api.LinkHangingUp, nil)
	} else {
		ln.downLocked(errHungUp)
	}
	ln.line.ordered = &cfg
	ln.line.end(errHungUp)
	// Nobody may call while the command is about to cut the line.
	ln.setLocked(api.LinkHangingUp)
	return ln.line
}

// startLocked begins a line.
func (ln *link) startLocked(ctx context.Context, l *line, state api.LinkState, remotes []*config.Remote) {
	before := ln.line
	ln.line = l
	l.pins.pace, l.pins.guess = ln.pace, ln.guess
	l.shutdown, l.dials = ctx, state == api.LinkDialling
	ctx, l.end = context.WithCancelCause(ctx)
	for _, r := range remotes {
		l.addLocked(r)
	}
	log := ln.caller.log.With("link", ln.name, "interface", ln.iface, "calls", len(l.calls))
	switch state {
	case api.LinkUp:
		log.Info("link up")
	case api.LinkDialling:
		log.Info("link is being dialled")
	}
	ln.setLocked(state)
	ln.caller.lines.Go(func() { l.run(ctx, before) })
}

// lastConfig is the link's settings as its line has them.
func (ln *link) lastConfig() config.Link {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.line.cfg
}
