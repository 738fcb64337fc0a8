package call

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/queue"
)

const (
	// drainMax bounds the wait for mail that goes out for a call that has ended.
	drainMax = 30 * time.Second
	// dialLook is how often a line that dials looks for its interface.
	dialLook = 200 * time.Millisecond
	// hangUpTries is how often a line is hung up that stays up, and hangUpPause
	// the pause before the second try; the next one is longer.
	hangUpTries = 3
	hangUpPause = 2 * time.Second
	// goneTries is how often, every goneLook, an interface is looked at that
	// should go away.
	goneTries = 20
	goneLook  = 100 * time.Millisecond
)

// line is one life of a link: from dialling it, or from its coming up, to its
// going down or being hung up. Its goroutine runs run; the others only add
// calls, end its context, or order it to hang up.
type line struct {
	link     *link
	caller   *Caller
	cfg      config.Link             // as it was when the line began
	dials    bool                    // it begins by dialling
	shutdown context.Context         // ends with etrnd
	end      context.CancelCauseFunc // of run's context
	hooked   chan struct{}           // closed when the link's hook says that it is up
	left     chan struct{}           // has an element when a call has ended
	calling  sync.WaitGroup          // the goroutines of calls
	pins     pins
	ended    chan struct{} // closed when nothing of the line goes on
	failed   error         // why it could not be hung up; for those who have seen ended

	// The link's mu guards the rest.
	begun   context.Context // of the calls; nil before there may be any
	calls   []*call         // that are not filed
	active  int             // calls that run
	ordered *config.Link    // an operator has said to hang up, by this command
	over    bool            // it takes no order any more
}

func newLine(ln *link, cfg config.Link) *line {
	return &line{
		link: ln, caller: ln.caller, cfg: cfg, hooked: make(chan struct{}), left: make(chan struct{}, 1),
		pins: pins{hold: ln.caller.hold, open: map[string]func(){}}, ended: make(chan struct{}),
	}
}

// run is the life of the line. One without a command to hang up stays, and its
// push queues stay open, until somebody says that it is down. before is the
// link's last line, which has to have ended.
func (l *line) run(ctx context.Context, before *line) {
	defer close(l.ended)
	defer l.end(nil)
	if before != nil {
		<-before.ended
	}
	if err := l.dial(ctx); err != nil {
		l.giveUp(err)
		return
	}
	ctx, cancel := l.limited(ctx)
	defer cancel()
	l.begin(ctx)
	next := goOn
	for next == goOn { // a call may join in the drain
		l.waitForCalls(ctx)
		l.drain(ctx)
		next = l.finish(ctx)
	}
	l.calling.Wait()
	l.pins.shut()
	if next == hangUp {
		l.hangUp()
	}
	l.fileAll()
}

// Calls of the line.

// addLocked makes a call, which does not begin yet.
func (l *line) addLocked(r *config.Remote) *call {
	cl := newCall(l, *r)
	l.calls = append(l.calls, cl)
	l.caller.ledger.open(cl)
	return cl
}

// joinLocked adds a call to a line that has not come to its end.
func (l *line) joinLocked(r *config.Remote) {
	cl := l.addLocked(r)
	if l.begun != nil {
		l.launchLocked(cl)
	}
}

func (l *line) callLocked(remote string) *call {
	for _, cl := range slices.Backward(l.calls) {
		if cl.remote.Name == remote {
			return cl
		}
	}
	return nil
}

// refsLocked names the calls, which are in the order in which they were made.
func (l *line) refsLocked() []api.CallRef {
	refs := []api.CallRef{}
	for _, cl := range l.calls {
		refs = append(refs, cl.ref)
	}
	return refs
}

// begin lets the calls run.
func (l *line) begin(ctx context.Context) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	l.begun = ctx
	for _, cl := range l.calls {
		l.launchLocked(cl)
	}
}

func (l *line) launchLocked(cl *call) {
	ctx := l.begun
	l.active++
	l.calling.Go(func() {
		cl.run(ctx)
		l.callEnded(ctx, cl)
	})
}

func (l *line) callEnded(ctx context.Context, cl *call) {
	l.link.mu.Lock()
	l.active--
	keep := l.standingLocked(context.Cause(ctx)).keeps()
	if !keep {
		l.calls = slices.DeleteFunc(l.calls, func(other *call) bool { return other == cl })
	}
	l.link.mu.Unlock()
	if !keep {
		l.caller.ledger.file(cl.result())
	}
	select {
	case l.left <- struct{}{}:
	default:
	}
}

// fileAll files the calls that are left.
func (l *line) fileAll() {
	l.link.mu.Lock()
	calls := l.calls
	l.calls = nil
	l.link.mu.Unlock()
	for _, cl := range calls {
		l.caller.ledger.file(cl.result())
	}
}

// The steps of run.

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
	l.caller.goroutines.Go(func() { ran <- l.caller.modem.Dial(ctx, &l.cfg) })
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

// giveUp ends a line that did not come up.
func (l *line) giveUp(why error) {
	l.link.mu.Lock()
	next := l.standingLocked(why).undialled()
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

// limited bounds the use of the line.
func (l *line) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.cfg.Limit == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, l.cfg.Limit, fmt.Errorf("the limit of %v of link %s was reached", l.cfg.Limit, l.cfg.Name))
}

// waitForCalls waits until no call runs. A line that is not going to be hung up
// waits for more of them until ctx ends.
func (l *line) waitForCalls(ctx context.Context) {
	for {
		l.link.mu.Lock()
		active := l.active
		l.link.mu.Unlock()
		done := ctx.Done()
		switch {
		case active > 0:
			done = nil // they end with ctx, in their own time
		case len(l.cfg.HangUp) > 0 || ctx.Err() != nil:
			return
		}
		select {
		case <-l.left:
		case <-done:
		}
	}
}

// drain waits until nothing moves in the queues that are open: a call that has
// ended leaves its queue open until the last one ends, and mail that came
// meanwhile is on its way.
func (l *line) drain(ctx context.Context) {
	if len(l.cfg.HangUp) == 0 {
		return
	}
	limit := time.NewTimer(drainMax)
	defer limit.Stop()
	for ctx.Err() == nil {
		changed := l.caller.hold.Changed()
		if !l.pins.moving() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-limit.C:
			return
		}
	}
}

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

// showAll says of all calls what is waited for.
func (l *line) showAll(phase api.Phase, waiting string) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	for _, cl := range l.calls {
		cl.show(func(s *shown) { s.phase, s.waiting = phase, waiting })
	}
}

// pins keeps the push queues of a line open: what is held goes, and what
// arrives goes at once, until the line has nothing more to do.
type pins struct {
	hold Holder
	mu   sync.Mutex // guards open
	open map[string]func()
}

// add opens queues, or releases them once more.
func (p *pins) add(queues []string) {
	for _, q := range queues {
		unpin := p.hold.Pin(queue.Selection{Queue: q})
		p.mu.Lock()
		old := p.open[q]
		p.open[q] = unpin
		p.mu.Unlock()
		if old != nil {
			old()
		}
	}
}

// moving tells whether anything is under way in them.
func (p *pins) moving() bool {
	for _, q := range p.names() {
		if st, ok := p.hold.State(q); ok && st.UnderWay > 0 {
			return true
		}
	}
	return false
}

func (p *pins) names() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for q := range p.open {
		list = append(list, q)
	}
	return list
}

// shut closes them: what is still held stays held.
func (p *pins) shut() {
	p.mu.Lock()
	open := p.open
	p.open = map[string]func(){}
	p.mu.Unlock()
	for _, unpin := range open {
		unpin()
	}
}
