package deliver

import (
	"context"
	"sync"
	"time"
)

// settleDelays are the pauses between listings that are asked for when all has
// been delivered: the MTA takes a moment to remove what it has an answer for.
var settleDelays = []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond}

// wait returns nil when there is nothing left to deliver, and an error when
// there is no use in going on.
func (t *turn) wait(ctx context.Context) error {
	held := t.agent.o.Hold
	timer := time.NewTimer(0)
	defer timer.Stop()
	asked := 0
	var down time.Time     // since when the MTA has not listed its queue
	var askedFor time.Time // doneAt that the listings asked for are about
	for {
		changed := held.Changed()
		t.mu.Lock()
		err, idle, doneAt, moved, waits := t.err, t.inFlight == 0, t.doneAt, t.moved, len(t.expect) > 0
		t.mu.Unlock()
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return t.finish(context.Cause(ctx))
		}
		if !t.allowed() {
			return t.finish(errForbidden)
		}
		if doneAt.IsZero() {
			doneAt = t.began
		}
		next := time.Minute
		if idle {
			if t.drained(doneAt) {
				return nil
			}
			if !askedFor.Equal(doneAt) {
				asked, askedFor = 0, doneAt
			}
			if asked < len(settleDelays) {
				if due := doneAt.Add(settleDelays[asked]); time.Until(due) <= 0 {
					asked++
					held.Relist()
				}
				if asked < len(settleDelays) {
					next = max(time.Until(doneAt.Add(settleDelays[asked])), time.Millisecond)
				}
			}
			if _, _, err := held.Listed(); err == nil {
				down = time.Time{}
			} else {
				if down.IsZero() {
					down = time.Now() // for a moment, it may be: a reload
				}
				left := time.Until(down.Add(listWait))
				if left <= 0 {
					// Not by QUIT: that would be to say that there is no more.
					t.log.Warn("the MTA is down, so nothing is brought", "error", err)
					return errNoMTA
				}
				next = min(next, left)
			}
			if time.Since(doneAt) > t.agent.o.IdleTimeout {
				t.log.Warn("the MTA brings no mail, though some is said to be under way")
				return errNoMTA
			}
			next = min(next, max(time.Until(doneAt.Add(t.agent.o.IdleTimeout)), time.Millisecond))
		}
		if waits {
			left := time.Until(moved.Add(t.agent.o.ReplyTimeout))
			if left <= 0 {
				return errQuiet
			}
			next = min(next, left)
		}
		timer.Reset(next)
		select {
		case <-changed:
		case <-t.activity:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// drained reports whether a listing from after the last answer shows that
// nothing is on its way any more.
func (t *turn) drained(doneAt time.Time) bool {
	listed, _, err := t.agent.o.Hold.Listed()
	if err != nil || !listed.After(doneAt) {
		return false
	}
	t.mu.Lock()
	kept := t.kept
	t.mu.Unlock()
	for _, name := range t.queues {
		s, ok := t.agent.o.Hold.State(name)
		if !ok {
			continue
		}
		// What the site itself does not take now is for another time. What
		// failed without it is tried once more, which takes seconds.
		if s.UnderWay > 0 || s.Retry > kept {
			return false
		}
	}
	return true
}

// finish ends a turn because the daemon ends, or since the site may have no more:
// what was sent is waited for, the rest is kept.
func (t *turn) finish(why error) error {
	t.log.Info("turned connection is being ended", "reason", why.Error())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
	t.keepWaiting("the site's connection is being ended")
	t.changed()
	stop := time.AfterFunc(8*time.Second, func() { t.fail(context.Canceled) })
	defer stop.Stop()
	for t.err == nil && (t.sending || len(t.waiting) > 0 || len(t.expect) > 0) {
		t.wake.Wait()
	}
	return t.err
}

// quit ends the session in order. From here on nothing new is taken, but what
// came in the last moment is still sent, and every reply is waited for: QUIT is
// the last thing on the line, and its reply is nobody else's.
func (t *turn) quit() error {
	t.mu.Lock()
	t.closing = true
	t.changed()
	t.mu.Unlock()
	defer t.patience()()
	<-t.wrote
	t.mu.Lock()
	for t.err == nil && len(t.expect) > 0 {
		t.wake.Wait()
	}
	err := t.err
	if err == nil {
		t.expect = append(t.expect, expected{kind: isQuit})
		t.left = true
		t.conn.SetDeadline(time.Now().Add(quitPatience))
	}
	t.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := t.conn.Write([]byte("QUIT\r\n")); err != nil {
		t.fail(errClosed)
		return nil // all mail has been answered for
	}
	t.mu.Lock()
	for t.err == nil && len(t.expect) > 0 {
		t.wake.Wait()
	}
	t.mu.Unlock()
	t.fail(errClosed) // ends read
	return nil
}

// quitPatience bounds the wait for replies that no mail depends on.
const quitPatience = 10 * time.Second

// patience ends the turn when nothing has moved for too long, until the
// function that it returns is called: as long as a reply may take while a
// message depends on it, shortly otherwise.
func (t *turn) patience() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(min(time.Second, t.agent.o.ReplyTimeout/4))
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			t.mu.Lock()
			limit := t.agent.o.ReplyTimeout
			if t.inFlight == 0 {
				limit = min(limit, quitPatience)
			}
			if time.Since(t.moved) > limit {
				t.failLocked(errQuiet)
			}
			t.mu.Unlock()
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
