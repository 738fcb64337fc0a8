package call

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// drainMax bounds the wait for mail that goes out for a call that has ended.
const drainMax = 30 * time.Second

// line is one life of a link: from dialling it, or from its coming up, to its
// going down or being hung up. Its goroutine runs run; the others only add
// calls, end its context, or order it to hang up.
type line struct {
	link     *link
	caller   *Caller
	cfg      config.Link             // as it was when the line began
	dials    bool                    // it begins by dialling
	untried  bool                    // but would have been of no use
	shutdown context.Context         // ends with etrnd
	end      context.CancelCauseFunc // of run's context
	hooked   chan struct{}           // closed when the link's hook says that it is up
	left     chan struct{}           // has an element when a call has ended
	calling  sync.WaitGroup          // the goroutines of calls
	dialling sync.WaitGroup          // that of the command to dial
	pins     pins
	pulse    pulse
	ended    chan struct{} // closed when nothing of the line goes on
	failed   error         // why it could not be hung up; for those who have seen ended

	// The link's mu guards the rest.
	begun   context.Context         // of the calls; nil before there may be any
	endThem context.CancelCauseFunc // of begun
	later   context.Context         // of those who wait to call again; set before begun
	calls   []*call                 // that are not filed
	active  int                     // calls that run
	ordered *config.Link            // an operator has said to hang up, by this command
	over    bool                    // it takes no order any more
}

func newLine(ln *link, cfg config.Link) *line {
	l := &line{
		link: ln, caller: ln.caller, cfg: cfg, hooked: make(chan struct{}), left: make(chan struct{}, 1),
		pins: pins{hold: ln.caller.hold, link: ln, open: map[string]*pin{}}, ended: make(chan struct{}),
	}
	l.pulse.line, l.pulse.wake = l, make(chan struct{}, 1)
	return l
}

// run is the life of the line. One without a command to hang up stays, and its
// push queues stay open, until somebody says that it is down. before is the
// link's last line, which has to have ended.
func (l *line) run(ctx context.Context, before *line) {
	defer close(l.ended)
	defer l.dialling.Wait()
	defer l.end(nil)
	if before != nil {
		<-before.ended
	}
	err := l.prepare(ctx)
	if err == nil {
		err = l.dial(ctx)
	}
	if err != nil {
		l.giveUp(err)
		return
	}
	ctx, cancel := l.limited(ctx)
	defer cancel()
	later, never := context.WithCancel(ctx)
	defer never()
	l.later = later
	l.begin(ctx)
	next := goOn
	for next == goOn { // a call may join in the drain
		l.waitForCalls(ctx)
		l.drain(ctx)
		next = l.finish(ctx)
	}
	never()
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
	l.begun, l.endThem = context.WithCancelCause(ctx)
	l.calling.Go(func() { l.pulse.feel(l.later) })
	for _, cl := range l.calls {
		l.launchLocked(cl)
	}
}

func (l *line) launchLocked(cl *call) {
	ctx := l.begun
	if l.active++; l.active == 1 {
		l.pulse.begin()
	}
	l.calling.Go(func() {
		cl.run(ctx)
		l.callEnded(ctx, cl)
	})
}

func (l *line) callEnded(ctx context.Context, cl *call) {
	l.link.mu.Lock()
	if l.active--; l.active == 0 {
		l.pulse.rest()
	}
	keep := l.standingLocked(context.Cause(ctx)).keeps()
	if !keep {
		l.calls = slices.DeleteFunc(l.calls, func(other *call) bool { return other == cl })
	}
	l.link.mu.Unlock()
	if !keep {
		l.caller.ledger.file(cl.result())
	}
	if cl.doorWasClosed() {
		l.calling.Go(func() { l.callWhenOpen(l.later, cl) })
	}
	select {
	case l.left <- struct{}{}:
	default:
	}
}

// died ends the calls of a line that is dead, and the line, if it is to be hung up.
// One that nobody hangs up may live again, and nobody would say so: what is held goes
// on being tried over it, now and then.
func (l *line) died(ctx context.Context, why deadError) {
	if len(l.cfg.HangUp) > 0 {
		l.end(why)
		return
	}
	l.link.mu.Lock()
	end := l.endThem
	l.begun, l.endThem = context.WithCancelCause(ctx)
	l.link.mu.Unlock()
	end(why)
}

// callWhenOpen makes a call again that could not ask for mail, since the local
// MTA did not answer, if the line is still there when it does.
func (l *line) callWhenOpen(ctx context.Context, ended *call) {
	addr := l.caller.config().MTA.SMTP
	for pause := mtaGrace; ; pause = min(2*pause, time.Minute) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		bound, cancel := context.WithTimeout(ctx, ended.remote.RequestTimeout)
		err := ended.greets(bound, addr)
		cancel()
		if err == nil {
			break
		}
	}
	ln := l.link
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.line == l && ln.state == api.LinkUp && !l.over && ctx.Err() == nil && l.callLocked(ended.remote.Name) == nil {
		ended.log.Info("the local mail server answers: calling again")
		l.joinLocked(&ended.remote)
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
	limit := time.NewTimer(l.pins.shown().Grace(drainMax))
	defer limit.Stop()
	for ctx.Err() == nil {
		changed := l.caller.hold.Changed()
		if !l.pins.moving() || l.pulse.inVain() {
			return
		}
		if at, _, err := l.caller.hold.Listed(); err != nil && time.Since(at) >= mtaGrace && !l.mtaListens(ctx) {
			return // there is no MTA that could send it
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-limit.C:
			return
		}
	}
}

// mtaListens tells whether somebody takes connections where the local MTA does.
func (l *line) mtaListens(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, mtaListen)
	defer cancel()
	conn, err := l.caller.network.DialContext(ctx, "tcp", l.caller.config().MTA.SMTP)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// showAll says of all calls what is waited for.
func (l *line) showAll(phase api.Phase, waiting string) {
	l.link.mu.Lock()
	defer l.link.mu.Unlock()
	for _, cl := range l.calls {
		cl.show(func(s *shown) { s.phase, s.waiting = phase, waiting })
	}
}
