package call

import (
	"context"
	"time"

	"github.com/etrnd/etrnd/internal/api"
)

const (
	// hangUpTries is how often a line is hung up that stays up, and hangUpPause
	// the pause before the second try; the next one is longer.
	hangUpTries = 3
	hangUpPause = 2 * time.Second
	// goneTries is how often, every goneLook, an interface is looked at that
	// should go away.
	goneTries = 20
	goneLook  = 100 * time.Millisecond
)

// finish settles what becomes of the line when its calls have ended. From then
// on nobody may join, unless one has just done so.
func (l *line) finish(ctx context.Context) step {
	ln, why := l.link, context.Cause(ctx)
	ln.mu.Lock()
	defer ln.mu.Unlock()
	next := l.standingLocked(why).next()
	switch next {
	case hangUp:
		if ln.line == l {
			ln.setLocked(api.LinkHangingUp)
		}
	case leave, forgo:
		l.over = true
		if next == forgo && ln.line == l {
			ln.downLocked(why)
		}
	}
	return next
}

func (l *line) standingLocked(why error) standing {
	s := standing{command: len(l.cfg.HangUp) > 0, ordered: l.ordered != nil, latest: l.link.line == l, state: l.link.state, active: l.active, why: why}
	if l.ordered != nil {
		s.command = len(l.ordered.HangUp) > 0
	}
	return s
}

// hangUp runs the command. The line goes down under it, and its hook may end
// the line's context.
func (l *line) hangUp() {
	l.showAll(api.PhaseHangingUp, "link "+l.cfg.Name+" to go down")
	l.failed = l.cut()
	ln := l.link
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if l.failed != nil {
		for _, cl := range l.calls {
			cl.end = cl.end.notHungUp(l.failed)
		}
	}
	l.over = true
	if ln.line == l && ln.state == api.LinkHangingUp {
		ln.iface = ""
		ln.setLocked(api.LinkDown)
	}
}

// cut runs the link's command to hang up, again if it fails and the line may
// still be up, which costs money. It has no context, since a line is hung up
// whoever has gone. There is no second try once the line has come up for
// somebody else, or etrnd is to end.
func (l *line) cut() (err error) {
	cfg := &l.cfg
	l.link.mu.Lock()
	if l.ordered != nil {
		cfg = l.ordered
	}
	l.link.mu.Unlock()
	for try := range hangUpTries {
		if try > 0 {
			if !l.pause(time.Duration(try) * hangUpPause) {
				return err
			}
			if _, up := present(l.caller.modem, cfg); !up && len(cfg.Interfaces) > 0 {
				return nil
			}
		}
		if err = l.caller.modem.HangUp(cfg); err != nil {
			continue
		}
		// The command may return while the line still goes down: it must not
		// be taken for one that is up.
		for range goneTries {
			if iface, up := present(l.caller.modem, cfg); !up || iface == "" {
				break
			}
			time.Sleep(goneLook)
		}
		return nil
	}
	return err
}

// pause waits before the next try to hang up, and tells whether there is to be
// one.
func (l *line) pause(d time.Duration) bool {
	select {
	case <-l.shutdown.Done():
		return false
	case <-time.After(d):
	}
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	return l.link.line == l
}
