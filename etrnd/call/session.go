package call

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/queue"
)

// session is the time from a link's coming up, or from dialling it, to its
// going down. The caller's mu guards what changes in it.
type session struct {
	caller *Caller
	line   *line
	link   config.Link
	before *session // the one that has to end first
	end    context.CancelCauseFunc
	ended  chan struct{} // closed when everything has ended

	dialled chan struct{}   // while dialling: closed when the link is up
	begun   context.Context // when calls may run; nil before
	calls   []*call         // all that are not filed
	active  int             // calls that run
	left    chan struct{}   // has an element when active has become less
	pins    map[string]func()
}

// add makes a call of the session. The caller holds mu.
func (s *session) add(r *config.Remote) *call {
	c := s.caller
	cl := newCall(c, s, *r)
	s.calls = append(s.calls, cl)
	s.line.calls[r.Name] = cl
	c.calls[cl.ref.Call] = cl
	return cl
}

// join adds a call to a session that has not come to hanging up. The caller
// holds mu.
func (s *session) join(r *config.Remote) {
	cl := s.add(r)
	if s.begun != nil {
		s.launch(cl)
	}
	s.caller.notify()
}

// launch runs a call. The caller holds mu.
func (s *session) launch(cl *call) {
	cl.began = time.Now()
	cl.leftBefore = cl.outCounts()
	if cl.remote.RouterType.Pushes() {
		for _, q := range cl.remote.PushQueues {
			unpin := s.caller.hold.Pin(queue.Selection{Queue: q})
			if old := s.pins[q]; old != nil {
				old()
			}
			s.pins[q] = unpin
		}
	}
	s.active++
	ctx := s.begun
	s.caller.wg.Go(func() {
		cl.run(ctx)
		c := s.caller
		c.mu.Lock()
		defer c.mu.Unlock()
		s.active--
		// The last call of a line that is going to be hung up is filed after
		// that, so that whoever watches sees the line go down.
		if s.active > 0 || len(s.link.HangUp) == 0 || notOurs(context.Cause(ctx)) {
			s.file(cl)
		}
		select {
		case s.left <- struct{}{}:
		default:
		}
	})
}

// file puts the result of a call into the history. The caller holds mu.
func (s *session) file(cl *call) {
	c := s.caller
	result := cl.finish()
	delete(c.calls, cl.ref.Call)
	if s.line.calls[cl.remote.Name] == cl {
		delete(s.line.calls, cl.remote.Name)
	}
	for i, other := range s.calls {
		if other == cl {
			s.calls = append(s.calls[:i:i], s.calls[i+1:]...)
			break
		}
	}
	c.history = append(c.history, result)
	if len(c.history) > historyLength {
		c.history = c.history[len(c.history)-historyLength:]
	}
	log := c.log.With("call", cl.ref.Call, "remote", cl.ref.Remote, "link", cl.ref.Link, "exit", result.Exit,
		"in", result.In.Messages, "out", result.Out.Messages, "duplicates", result.Duplicates, "line", time.Duration(result.Line).Round(100*time.Millisecond))
	if result.Error != "" {
		log.Warn("call ended", "error", result.Error)
	} else {
		log.Info("call ended")
	}
	c.notify()
}

// unpin closes the push queues: what is still held stays held. The caller
// holds mu.
func (s *session) unpin() {
	for q, unpin := range s.pins {
		unpin()
		delete(s.pins, q)
	}
}

// run makes the session's calls and hangs up. A link without a command to
// hang up stays up, and its push queues stay open, until somebody says that
// it is down.
func (s *session) run(ctx context.Context) {
	c := s.caller
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		s.unpin()
		for len(s.calls) > 0 {
			s.file(s.calls[0])
		}
	}()
	if s.dialled != nil {
		if err := s.dial(ctx); err != nil {
			if len(s.link.HangUp) > 0 && !errors.Is(err, errHungUp) && !errors.Is(err, errShutdown) {
				// It may be coming up still, and nobody would use it.
				if err := c.hangUp(&s.link, s); err != nil {
					c.log.Error("a line that did not come up in time could not be hung up", "link", s.link.Name, "error", err)
				}
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, cl := range s.calls {
				cl.fail(api.ExitTempFail, err.Error(), "the line was not used; look at the dial command, and try again")
			}
			if s.line.last == s {
				c.goesDown(s.line, err)
			}
			return
		}
	}
	if s.link.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.link.Limit, fmt.Errorf("the limit of %v of link %s was reached", s.link.Limit, s.link.Name))
		defer cancel()
	}
	c.mu.Lock()
	s.begun = ctx
	for _, cl := range s.calls {
		s.launch(cl)
	}
	for again := true; again; again = s.active > 0 { // one may join in the drain
		for s.active > 0 || len(s.link.HangUp) == 0 && ctx.Err() == nil {
			// Calls end with ctx; between calls, so does the waiting.
			done := ctx.Done()
			if s.active > 0 {
				done = nil
			}
			c.mu.Unlock()
			select {
			case <-s.left:
			case <-done:
			}
			c.mu.Lock()
		}
		s.drain(ctx)
	}
	s.unpin()
	if why := context.Cause(ctx); len(s.link.HangUp) == 0 || s.line.last != s || s.line.state != api.LinkUp ||
		notOurs(why) {
		if len(s.link.HangUp) == 0 && s.line.last == s && s.line.state == api.LinkUp {
			// The limit of the link has been reached. The line is up, but is
			// not used until somebody says so.
			c.goesDown(s.line, why)
		}
		c.mu.Unlock()
		return
	}
	// From here on nobody may join.
	s.line.state, s.line.since = api.LinkHangingUp, time.Now()
	for _, cl := range s.calls {
		cl.phase, cl.waiting = api.PhaseHangingUp, "link "+s.link.Name+" to go down"
	}
	c.notify()
	c.mu.Unlock()

	// The line goes down under the command, and its hook may end ctx.
	err := c.hangUp(&s.link, s)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range s.calls {
		if err == nil {
			break
		}
		if cl.err != "" {
			err = fmt.Errorf("%s; %w", cl.err, err)
		}
		// Said whatever else went wrong: this one costs money.
		cl.exit, cl.err, cl.hint = api.ExitTempFail, err.Error(), "the line may still be up: hang up by hand"
	}
	if s.line.last == s && s.line.state == api.LinkHangingUp {
		s.line.state, s.line.since, s.line.iface = api.LinkDown, time.Now(), ""
		c.notify()
	}
}

// notOurs reports whether a session has ended in a way that leaves nothing to
// hang up.
func notOurs(why error) bool {
	return errors.Is(why, errLinkDown) || errors.Is(why, errHungUp) || errors.Is(why, errShutdown)
}

// drainMax bounds the wait for mail that went out for a call that had ended.
const drainMax = 30 * time.Second

// drain waits until nothing moves in the queues that are open: a call that has
// ended leaves its queue open until the last one ends, and mail that came
// meanwhile is on its way. The caller holds mu, which is given up meanwhile.
func (s *session) drain(ctx context.Context) {
	c := s.caller
	if len(s.link.HangUp) == 0 {
		return
	}
	limit := time.NewTimer(drainMax)
	defer limit.Stop()
	for ctx.Err() == nil {
		changed := c.hold.Changed()
		moving := false
		for q := range s.pins {
			st, ok := c.hold.State(q)
			moving = moving || ok && st.UnderWay > 0
		}
		if !moving {
			return
		}
		c.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-ctx.Done():
		case <-limit.C:
			over = true
		}
		c.mu.Lock()
		if over {
			return
		}
	}
}

// dial runs the command and waits until the link is up: its hook says so, or
// an interface of it has come up with an address. A command that is still
// running then is left to end by itself, within the same limit: to kill it
// could be to drop the line.
func (s *session) dial(ctx context.Context) error {
	c := s.caller
	dctx, cancel := context.WithTimeoutCause(ctx, s.link.DialTimeout, fmt.Errorf("link %s did not come up within %v", s.link.Name, s.link.DialTimeout))
	defer cancel()
	c.mu.Lock()
	for _, cl := range s.calls {
		cl.phase, cl.waiting = api.PhaseDialling, "link "+s.link.Name+" to come up"
	}
	c.notify()
	c.mu.Unlock()
	ran := make(chan error, 1)
	c.wg.Go(func() { ran <- c.command(ctx, s.link.Name, "dial", s.link.Dial, s.link.DialTimeout) })
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-dctx.Done():
			return context.Cause(dctx)
		case err := <-ran:
			if err != nil {
				return err
			}
			if len(s.link.Interfaces) == 0 {
				// Nothing else can tell: a command that has ended well has
				// done its work.
				s.up("")
				return nil
			}
		case <-s.dialled:
			s.up("")
			return nil
		case <-look.C:
			if iface, up := present(&s.link); up && iface != "" {
				s.up(iface)
				return nil
			}
		}
	}
}

// cameUp tells the session that its dialling has succeeded. The caller holds
// mu.
func (s *session) cameUp() {
	select {
	case <-s.dialled:
	default:
		close(s.dialled)
	}
}

// up notes that the dialled link is up, and adds the link's other remotes: a
// line that is paid for is used for all of them.
func (s *session) up(iface string) {
	c := s.caller
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.line.last != s || s.line.state != api.LinkDialling {
		return
	}
	s.line.state, s.line.since = api.LinkUp, time.Now()
	if iface != "" {
		s.line.iface = iface
	}
	for _, r := range c.cfg.RemotesOf(s.line.name) {
		if s.line.calls[r.Name] == nil {
			s.add(r)
		}
	}
	c.log.Info("link up", "link", s.line.name, "interface", s.line.iface, "calls", len(s.calls))
	c.notify()
}
