package hold

import (
	"slices"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// Names of the MTA's queues that matter here.
const (
	deferred = "deferred"
	onHold   = "hold"
)

// entry is one message of the MTA's queue that has a recipient in a queue of
// ours.
type entry struct {
	id      string
	arrived time.Time
	size    int64
	where   string // the MTA's queue it was listed in; empty until a listing shows it
	rcpts   []recipient
	missing bool // absent from the last listing; a second absence means gone

	reported time.Time // when the milter saw it; zero once a listing showed it
	seen     time.Time // when the first listing that showed it had ended

	// A release that was asked for and has not ended.
	want    []string  // queues for which the message is to go; nil: none
	flushAt time.Time // when to flush (again); zero: wait for what a listing shows
	flushed time.Time // when the last flush was done
	tries   int       // flushes of this release
	again   bool      // asked for once more while under way: if it fails, try at once
	asked   bool      // released by request, not only because a queue was open
	last    bool      // nobody wants it any more: not to be flushed again
	session string    // of the client that was last told of it in a count

	// What became of the last release.
	failed   string // the MTA's reason; empty: not tried, or under way
	failures int
	retryAt  time.Time // when to try again while a queue of it is pinned
}

type recipient struct {
	address string
	queue   string // empty: no queue of ours
	reason  string // why the MTA has not delivered; empty: no reason yet
}

func (e *entry) in(name string) bool {
	for _, r := range e.rcpts {
		if r.queue == name {
			return true
		}
	}
	return false
}

func (e *entry) covered(sel queue.Selection) bool {
	for _, r := range e.rcpts {
		if r.queue == sel.Queue && sel.Covers(r.address) {
			return true
		}
	}
	return false
}

// queues returns the names of the entry's queues, each once.
func (e *entry) queues() []string {
	var names []string
	for _, r := range e.rcpts {
		if r.queue != "" && !slices.Contains(names, r.queue) {
			names = append(names, r.queue)
		}
	}
	return names
}

// held reports whether an administrator has put the message on hold: such a
// message is counted, and left alone.
func (e *entry) held() bool { return e.where == onHold }

// release asks for the entry to go for one queue, and reports whether that
// was not under way already.
func (e *entry) release(name string, now time.Time) bool {
	if slices.Contains(e.want, name) {
		e.again = true
		return false
	}
	e.want = append(e.want, name)
	e.flushAt, e.flushed, e.tries = now, time.Time{}, 0
	e.failed, e.retryAt, e.again, e.last = "", time.Time{}, false, false
	return true
}

// end closes a release; an empty reason means that nothing is left to go.
func (e *entry) end(reason string, now time.Time) {
	again := e.again && reason != ""
	want := e.want
	e.want, e.flushAt, e.again, e.asked, e.failed = nil, time.Time{}, false, false, reason
	if reason == "" {
		e.failures = 0
		return
	}
	e.failures++
	if again {
		e.failures-- // the try that follows at once is not the second one
		for _, name := range want {
			e.release(name, now)
		}
		return
	}
	e.retryAt = now.Add(retryDelay(e.failures))
}

// retryDelay is how long a message that failed while its queue is pinned open
// waits: short at first, since a link that has just come up may lack a route
// for a moment, and longer each time, since line time is paid.
func retryDelay(failures int) time.Duration {
	return min(5*time.Second*time.Duration(1<<min(2*(failures-1), 10)), 5*time.Minute)
}

// drop takes back a release for one queue. What the MTA is trying at this
// moment is followed to its end, but not flushed again. kept says that another
// call or turn still wants the message.
func (e *entry) drop(name string, kept bool) {
	if !kept {
		e.retryAt, e.again = time.Time{}, false
	}
	if !slices.Contains(e.want, name) {
		return
	}
	begun := !e.flushed.IsZero() && e.where != deferred
	if begun && len(e.want) == 1 {
		e.flushAt, e.last = time.Time{}, true
		return
	}
	e.want = slices.DeleteFunc(e.want, func(w string) bool { return w == name })
	if len(e.want) == 0 {
		e.want, e.flushAt = nil, time.Time{}
	}
}

// Delays between the flushes of a message that has just arrived: it is in
// Postfix's active queue for a moment, where a flush does not find it, before
// it is deferred.
var arrivalDelays = []time.Duration{150 * time.Millisecond, 450 * time.Millisecond, 900 * time.Millisecond, 2 * time.Second, 4 * time.Second}

// maxTries bounds the flushes of one release that have no effect.
const maxTries = 12

// judge looks at a message whose release is under way, as a listing that began
// at listed shows it.
func (e *entry) judge(listed time.Time) {
	if e.want == nil {
		return
	}
	var left, tried bool
	var reason string
	for _, r := range e.rcpts {
		if !slices.Contains(e.want, r.queue) {
			continue
		}
		left = true
		if r.reason != "" && r.reason != mta.ReasonHeld {
			tried, reason = true, r.reason
		}
	}
	switch {
	case !left:
		// All recipients of the released queues have their mail.
		e.end("", listed)
	case e.held():
		// An administrator's doing; it counts as such, not as a failure.
		e.want, e.flushAt, e.again = nil, time.Time{}, false
	case e.flushed.IsZero() || listed.Before(e.flushed):
		// Not flushed yet, or the listing is older than the flush.
	case e.where != deferred:
		// Being tried, or about to be: a further flush would find nothing.
		e.flushAt = time.Time{}
	case tried:
		e.end(reason, listed)
	case e.last:
		// Not tried after all, and not wanted any more.
		e.want = nil
	case e.tries >= maxTries:
		e.end("the MTA does not let it go", listed)
	case e.flushAt.IsZero():
		// Deferred, and for no other reason than its transport: the flush
		// came too early to find it.
		e.flushAt = listed
	}
}
