package call

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// dialLook is how often a line that dials looks for its interface.
const dialLook = 200 * time.Millisecond

// prepare sees to it, before a line is dialled that costs money, that the local
// MTA is there, where its calls need it.
func (l *line) prepare(ctx context.Context) error {
	if !l.dials || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.link.mu.Lock()
	calls := slices.Clone(l.calls)
	l.link.mu.Unlock()
	var err error
	for _, cl := range calls {
		if !cl.remote.RouterType.Pulls() {
			return nil
		}
		if err = cl.prepare(ctx, api.PhaseDialling); err != nil {
			err = listenerError{err}
		} else if !cl.remote.RouterType.Pushes() {
			err = cl.foresee(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			return nil
		}
	}
	l.untried = true
	return err
}

// foresee asks the local MTA before there is a line, and is why the line would be
// of no use to a call that only fetches. What is said for the moment may have to
// do with there being no line.
func (cl *call) foresee(ctx context.Context) error {
	cl.knock(ctx)
	<-cl.doorstep.asked
	d := cl.doorstep
	if err := d.full(); err != nil {
		return err
	}
	switch cl.remote.Protocol {
	case config.ProtocolATRN:
		if d.why.Lasting() {
			return d.shut(&cl.remote)
		}
	case config.ProtocolETRN:
		if open, shut := cl.shut(ctx, cl.remote.Request); len(open) == 0 {
			return shutOf(shut)
		}
	}
	return nil
}

// dial runs the command, if the line is to be dialled, and waits until the link
// is up: its hook says so, or an interface of it has come up with an address. A
// command that is still running then is left to end by itself, within the same
// limit: to kill it could be to drop the line.
func (l *line) dial(ctx context.Context) error {
	switch {
	case !l.dials:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	l.showAll(api.PhaseDialling, "link "+l.cfg.Name+" to come up")
	limit, cancel := context.WithTimeoutCause(ctx, l.cfg.DialTimeout, fmt.Errorf("link %s did not come up within %v", l.cfg.Name, l.cfg.DialTimeout))
	defer cancel()
	ran := make(chan error, 1)
	l.dialling.Go(func() { ran <- l.caller.modem.Dial(ctx, &l.cfg) })
	look := time.NewTicker(dialLook)
	defer look.Stop()
	for {
		select {
		case <-limit.Done():
			return context.Cause(limit)
		case err := <-ran:
			switch {
			case limit.Err() != nil:
				return context.Cause(limit) // which is why the command has ended
			case err != nil:
				return err
			case len(l.cfg.Interfaces) == 0:
				// Nothing else can tell: a command that has ended well has
				// done its work.
				l.cameUp("")
				return nil
			}
		case <-l.hooked:
			l.cameUp("")
			return nil
		case <-look.C:
			if iface, up := present(l.caller.modem, &l.cfg); up && iface != "" {
				l.cameUp(iface)
				return nil
			}
		}
	}
}

// hookLocked tells a line that dials that its hook has fired.
func (l *line) hookLocked() {
	select {
	case <-l.hooked:
	default:
		close(l.hooked)
	}
}

// cameUp notes that the dialled link is up, and adds the link's other remotes:
// a line that is paid for is used for all of them.
func (l *line) cameUp(iface string) {
	remotes := l.caller.config().RemotesOf(l.cfg.Name)
	ln := l.link
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.line != l || ln.state != api.LinkDialling {
		return
	}
	if iface != "" {
		ln.iface = iface
	}
	for _, r := range remotes {
		if l.callLocked(r.Name) == nil {
			l.addLocked(r)
		}
	}
	l.caller.log.Info("link up", "link", ln.name, "interface", ln.iface, "calls", len(l.calls))
	ln.setLocked(api.LinkUp)
}

// giveUp ends a line that did not come up. The command to hang up does not run
// into the one to dial, which ends with the line.
func (l *line) giveUp(why error) {
	l.end(why)
	l.dialling.Wait()
	l.link.mu.Lock()
	s := l.standingLocked(why)
	s.untried = l.untried
	next := s.undialled()
	l.link.mu.Unlock()
	if next == hangUp {
		if l.failed = l.cut(); l.failed != nil {
			l.caller.log.Error("a line that did not come up could not be hung up", "link", l.cfg.Name, "error", l.failed)
		}
	}
	l.link.mu.Lock()
	for _, cl := range l.calls {
		cl.end = cutOff(dialError{why})
	}
	l.over = true
	if l.link.line == l {
		l.link.downLocked(why)
	}
	l.link.mu.Unlock()
	l.fileAll()
}
