package call

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/socket"
)

// lookInterval is the least time between two looks at how the call stands.
const lookInterval = 50 * time.Millisecond

// call is one session with a remote. Its fields belong to its goroutine, which
// runs run; before and after that to its line.
type call struct {
	caller *Caller
	line   *line
	ref    api.CallRef
	remote config.Remote
	log    *slog.Logger
	made   time.Time // the call was asked for

	senders   *senders
	tally     *Tally
	states    func() []hold.State // of the push queues, whatever they are called now
	unfollow  func()
	before    hold.Left       // of them, when the call began
	gone      []string        // those that were in the configuration no more by then
	pushing   sync.Once       // releases the push queues
	pushed    time.Time       // when they were released
	dialogued chan struct{}   // closed when the remote was asked, or will not be
	questions []question      // that were put to the remote
	client    *odmr.Client    // the connection of the last one, for the next; nil: it has to be a new one
	doorstep  *doorstep       // what the local MTA says of mail that has not come yet; nil: it was not asked
	door      receive.Refusal // what it has said
	turned    *turned         // the last one; nil: none was
	earlier   Counts          // what came over those before
	moved     chan struct{}   // has an element when a turned connection has moved
	serving   sync.WaitGroup  // what goes on beside run

	waiting time.Time // since when there is nothing to do but wait
	asked   time.Time // when the remote was last asked while waiting
	still   stillness
	busy    busyTime
	came    time.Time // when the last message had come, at the last look
	coming  busyTime  // since then
	mtaGone time.Time // since when the local MTA has not been there; zero: it is
	stopped bool      // which has ended the call
	end     conclusion

	mu    sync.Mutex // guards shown and meter
	shown shown
	meter *socket.Meter // of the last connection to the remote; nil: none yet
}

// shown is what a call shows of itself to others.
type shown struct {
	began   time.Time // the link was up; zero: never
	phase   api.Phase
	waiting string
	in      api.Progress
	dups    int
	refused *api.Refused
	out     api.Progress
	onHold  int // messages that do not go, for that
	unsent  *api.Unsent
	clear   string // what is to be said of TLS that failed; empty: nothing
}

func newCall(l *line, r config.Remote) *call {
	id := l.caller.ledger.newID()
	return &call{
		caller: l.caller, line: l, remote: r, senders: newSenders(&r), made: time.Now(), moved: make(chan struct{}, 1), dialogued: make(chan struct{}),
		ref:   api.CallRef{Call: id, Remote: r.Name, Link: r.Link},
		log:   l.caller.log.With("call", id, "remote", r.Name),
		shown: shown{phase: api.PhaseDialling, in: api.Progress{Expected: -1}},
	}
}

// event is how the call stands. It may be asked by anybody.
func (cl *call) event() api.CallEvent {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	s := &cl.shown
	ev := api.CallEvent{CallRef: cl.ref, Time: time.Now(), Phase: s.phase, Waiting: s.waiting, In: s.in, Out: s.out, Refused: s.refused}
	if !s.began.IsZero() {
		ev.Line = api.Seconds(time.Since(s.began))
	}
	return ev
}

// show changes what the call shows, and tells those who watch.
func (cl *call) show(change func(*shown)) {
	cl.mu.Lock()
	change(&cl.shown)
	cl.mu.Unlock()
	cl.caller.ledger.notify()
}

func (cl *call) step(phase api.Phase, waiting string) {
	cl.show(func(s *shown) { s.phase, s.waiting = phase, waiting })
}

// result is the account of a call that has ended.
func (cl *call) result() api.CallResult {
	ev := cl.event()
	start := cl.shown.began
	if start.IsZero() {
		start = cl.made
	}
	replies := []api.Reply{}
	var unasked []string
	for i := range cl.questions {
		replies = append(replies, cl.questions[i].told(i == 0)...)
		if i == 0 {
			unasked = cl.questions[i].shut
		}
	}
	return api.CallResult{
		CallRef: cl.ref, RouterType: string(cl.remote.RouterType), Start: start, End: ev.Time, Line: ev.Line,
		In: ev.In, Out: ev.Out, Duplicates: cl.shown.dups, Unsent: cl.shown.unsent, OnHold: cl.shown.onHold, Refused: ev.Refused, Unasked: unasked, Replies: replies,
		Error: cl.end.err, Hint: cl.hint(cl.end.hint), Exit: cl.end.exit,
	}
}

// run is the whole call, from the link's being up until nothing is left to
// come or to go: it asks, pushes, and waits.
func (cl *call) run(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, cl.remote.Limit, fmt.Errorf("the limit of %v for one call was reached", cl.remote.Limit))
	defer cancel()
	defer cl.recovered()
	defer cl.caller.hold.Watch()()
	defer cl.line.pins.watch()()
	cl.tally = cl.caller.inbound.Tally(cl.senders.match, cl.remote.Wait)
	defer cl.tally.Close()
	defer cl.stopServing(cancel)
	cl.begin()
	defer cl.unfollow()
	cl.serving.Go(func() { cl.pushMeanwhile(ctx) })
	cl.pull(ctx)
	close(cl.dialogued)
	cl.push()
	cl.wait(ctx)
}

// recovered makes a panic the failure of this call alone.
func (cl *call) recovered() {
	if p := recover(); p != nil {
		cl.log.Error("panic in a call", "error", p, "stack", string(debug.Stack()))
		cl.end = conclusion{api.ExitTempFail, "internal error in the call", "this is a bug: the log has the details"}
	}
}

// stopServing ends what goes on beside run. What a turned connection had handed
// over in full by then counts.
func (cl *call) stopServing(cancel context.CancelFunc) {
	cancel()
	cl.leave()
	cl.serving.Wait()
	if cl.turned != nil {
		in := cl.inCounts()
		cl.show(func(s *shown) {
			s.in.Messages, s.in.Bytes, s.dups = in.Messages, in.Bytes, in.Duplicates
			s.refused = in.refusals()
		})
	}
}

// wait lasts until nothing is left to come or to go.
func (cl *call) wait(ctx context.Context) {
	cl.waiting = time.Now()
	for {
		reports, held := cl.caller.inbound.Changed(), cl.caller.hold.Changed()
		v := cl.look(ctx)
		switch {
		case v.over:
			cl.end = v.conclusion
			return
		case v.ask:
			cl.askAgain(ctx)
			cl.asked = time.Now()
			continue
		}
		// Reports come with every message: a look now and then is enough.
		select {
		case <-time.After(lookInterval):
		case <-ctx.Done():
		}
		timer := time.NewTimer(max(v.look-lookInterval, 0))
		select {
		case <-reports:
		case <-held:
		case <-cl.moved:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// look observes how everything stands, shows it, and judges.
func (cl *call) look(ctx context.Context) verdict {
	o := observed{remote: &cl.remote, ended: context.Cause(ctx), questions: cl.questions, waited: time.Since(cl.waiting)}
	if cl.turned != nil {
		o.turned = cl.seenTurned() // before its counts: when it is over, they are the last ones
	}
	o.in, o.pace, o.door = cl.inCounts(), cl.line.pins.shown(), cl.door
	o.quiet = time.Since(latest(cl.waiting, cl.asked, o.in.Active))
	o.stale = time.Since(latest(cl.waiting, o.in.Active))
	if !o.in.Came.Equal(cl.came) {
		cl.came, cl.coming = o.in.Came, busyTime{}
	}
	// What is coming in may take hours. What comes to nothing again and again is not
	// taken for that.
	comes := o.in.Busy > o.in.LikelyBusy && o.in.Broken < maxBroken
	o.vain = time.Since(latest(cl.waiting, o.in.Came)) - cl.coming.until(time.Now(), comes, 0)
	sent := cl.lookAtPush(&o)
	o.stopped = cl.goneFor(ctx, o.push.err != "")
	v := o.verdict()
	cl.stopped = v.over && o.stopped >= mtaGrace
	cl.show(func(s *shown) {
		s.in = api.Progress{Messages: o.in.Messages, Bytes: o.in.Bytes, Expected: o.expected()}
		if o.turned != nil && !v.over {
			s.in.Bytes += o.in.Coming
		}
		s.dups, s.refused, s.unsent = o.in.Duplicates, o.in.refusals(), o.push.unsent()
		s.out.Messages, s.out.Bytes = sent.Messages, sent.Bytes
		if n, known := o.toSend(); known {
			s.out.Expected, s.onHold = n, o.push.onHold
		}
		if !v.over {
			s.phase, s.waiting = v.phase, v.waiting
		}
	})
	return v
}

// goneFor is for how long the local MTA has not been there. One that lists its
// queue is there, and one that need not listen may be.
func (cl *call) goneFor(ctx context.Context, unlisted bool) time.Duration {
	if !unlisted || !cl.remote.RouterType.Pulls() || cl.line.mtaListens(ctx) {
		cl.mtaGone = time.Time{}
		return 0
	}
	if cl.mtaGone.IsZero() {
		cl.mtaGone = time.Now()
	}
	return time.Since(cl.mtaGone)
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// inCounts is what has come in.
func (cl *call) inCounts() Counts {
	if cl.turned == nil {
		return cl.tally.Counts()
	}
	in := cl.turned.counts(cl.tally)
	in.add(cl.earlier)
	return in
}
