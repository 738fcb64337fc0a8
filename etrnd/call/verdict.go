package call

import (
	"time"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/socket"
)

const (
	// settle is how long inbound must be quiet after the last of a known
	// number of messages: long enough for the reply to it to leave. While a
	// session is open it is longer, since the other side may count one message
	// that it sends in parts, to some of its recipients each.
	settle     = 500 * time.Millisecond
	settleOpen = 2 * time.Second
	// sameSecond is how long a line is kept after a remote has said that it has
	// nothing, if it is none of ours: some have sent something at that moment.
	sameSecond = time.Second
	// maxBroken is how many messages in a row may come to nothing before their time
	// counts as one in which nothing comes.
	maxBroken = 3
	// stillMax is how long messages may be held in an open queue without
	// anything happening to them before they are no reason to keep the line.
	stillMax = 30 * time.Second
	// unlistedMax is how long the MTA may fail to list its queue.
	unlistedMax = 10 * time.Second
	// busyPause is how long a remote is left alone that has answered 458; it
	// doubles.
	busyPause = 2 * time.Second
	// patienceTrips, settleTrips and busyTrips are round trips of the line that
	// are added to the quiet after which inbound is asked after, is taken to have
	// settled, and is asked for again.
	patienceTrips = 10
	settleTrips   = 4
	busyTrips     = 2
	// maxLook is the longest time between two looks at how a call stands.
	maxLook = time.Second
)

// observed is all that the decision about a call depends on: what has been seen
// at one moment, and the settings of the remote. The methods that decide read
// no clock, take no lock and ask nobody.
type observed struct {
	remote *config.Remote
	ended  error // why the call has to end now; nil: it may go on

	questions []question    // in the order in which they were put; none: the remote is not asked
	waited    time.Duration // since there has been nothing to do but wait
	quiet     time.Duration // of that, since the last sign of mail that comes in, or the last question
	stale     time.Duration // of waited, since the last sign of mail that comes in
	vain      time.Duration // of waited, since a message has come that had not come before; while one is coming in it stands still
	pace      socket.Pace   // of the line
	in        Counts
	turned    *turnedSeen     // the last connection that was turned around; nil: none was
	door      receive.Refusal // what the local MTA said of mail that had not come yet

	push     pushSeen
	gone     []string      // push queues that were in the configuration no more when the call began
	sent     int           // messages that have left the push queues
	unlisted time.Duration // of waited, since the MTA last listed its queue
	stopped  time.Duration // of waited, for how long the MTA has neither listed its queue nor listened
	still    time.Duration // since push or sent was another
	unheard  bool          // no connection over which something goes out is answered any more
}

// turnedSeen is how a turned connection stands.
type turnedSeen struct {
	over   bool
	err    error         // why it is over; nil: the remote has said QUIT
	untold bool          // the milter has not told of the last message
	more   bool          // the remote may have more: it has brought something, may end a connection early, and has not been asked since
	since  time.Duration // the last sign of life
}

// pushSeen sums up the push queues. It can be compared, to see whether anything
// happens.
type pushSeen struct {
	listed bool   // the MTA has listed its queue since the call began
	err    string // why the last listing failed

	held     int // messages, those that an administrator put on hold left out
	onHold   int // those
	away     int // messages that a change of the configuration has taken out of the queues
	underWay int // of these, released and being tried
	failed   int // of these, tried and back
	retry    int // of failed, about to be tried a second time
	reason   string
	open     bool // what arrives goes at once
}

// verdict is what follows from what has been observed.
type verdict struct {
	over       bool // nothing more is to come or to go
	conclusion      // if it is over

	// Otherwise:
	ask     bool // ask the remote again what it has
	phase   api.Phase
	waiting string        // the end of "waiting for ..."
	look    time.Duration // when time alone may change the verdict; 0: time alone does not
}

// unless returns v, or the end of it all with a conclusion.
func (v verdict) unless(over bool, c conclusion) verdict {
	if over {
		return verdict{over: true, conclusion: c}
	}
	return v
}

// conclusion is how a call ended, for scripts and for people. Zero is success.
type conclusion struct {
	exit      int
	err, hint string
}

func (c conclusion) bad() bool { return c.exit != api.ExitOK }

// firstBad returns the first of several reasons for which a call did not do all
// that it should: what comes later mostly follows from it.
func firstBad(list ...conclusion) conclusion {
	for _, c := range list {
		if c.bad() {
			return c
		}
	}
	return conclusion{}
}

// verdict judges the whole call.
func (o *observed) verdict() verdict {
	if o.ended != nil {
		return verdict{over: true, conclusion: firstBad(o.request(), cutOff(o.ended))}
	}
	in, out := o.inbound(), o.outbound()
	if o.stopped >= mtaGrace {
		// Nothing can come or go any more, and what came of it is known.
		return verdict{over: true, conclusion: firstBad(o.request(), in.conclusion, o.mtaStopped())}
	}
	if in.over && out.over {
		return verdict{over: true, conclusion: firstBad(o.request(), in.conclusion, out.conclusion)}
	}
	v := verdict{ask: in.ask, phase: api.PhaseReceiving, waiting: in.waiting, look: maxLook}
	if in.over {
		v.phase, v.waiting = api.PhasePushing, out.waiting
	}
	for _, d := range []verdict{in, out} {
		if !d.over && d.look > 0 {
			v.look = min(v.look, d.look)
		}
	}
	return v
}

// mtaStopped is the conclusion when the local MTA has stopped in the middle.
func (o *observed) mtaStopped() conclusion {
	text := "the local mail server does not answer any more"
	if len(o.questions) > 0 {
		text += "; " + o.came()
	}
	return conclusion{api.ExitTempFail, text, "what has not come or gone stays held; " + o.remote.Name + " is called again when it answers, if the line is still up then"}
}

// dialError is why a line did not come up.
type dialError struct{ error }

// cutOff is the conclusion of a call that was ended from outside.
func cutOff(why error) conclusion {
	hint := "what has not gone stays held and goes with the next call"
	if dead, ok := why.(deadError); ok {
		hint = "what has not come or gone stays held, for the next call"
		if dead.always {
			hint = "nobody has answered since the line came up: does it carry anything, and are the host of the remote and where its mail goes right? " + hint
		}
	}
	if dial, ok := why.(dialError); ok {
		switch dial.error.(type) {
		case listenerError:
			return conclusion{api.ExitTempFail, why.Error(), "is the local mail server running? the line was not dialled, since the mail of the remote would have found the door closed"}
		case fullError:
			return conclusion{api.ExitTempFail, why.Error(), "has its disk room? its log tells why; the line was not dialled"}
		case doorError:
			return conclusion{api.ExitUnavailable, why.Error(), receive.GateHint + "; the line was not dialled"}
		case shutError:
			return conclusion{api.ExitUnavailable, why.Error(), shutHint + "; the line was not dialled"}
		}
		hint = "the line was not used; look at the dial command, and try again"
	}
	return conclusion{api.ExitTempFail, why.Error(), hint}
}

// notHungUp is the conclusion when the line could not be hung up. It is told
// whatever else went wrong: this costs money.
func (c conclusion) notHungUp(err error) conclusion {
	text := err.Error()
	if c.err != "" {
		text = c.err + "; " + text
	}
	return conclusion{api.ExitTempFail, text, "the line may still be up: hang up by hand"}
}

// expected is how many messages the remote has announced, -1 if that is
// unknown.
func (o *observed) expected() int {
	if o.turned != nil {
		if o.turned.over && o.turned.err == nil {
			return o.in.Messages
		}
		return -1
	}
	if a := o.answers(); a.made && a.counted {
		if o.in.Messages < a.total && o.recipientsCounted() {
			return o.in.Messages
		}
		return a.total
	}
	return -1
}

// request is what the questions alone say about the end of the call.
func (o *observed) request() conclusion {
	last := len(o.questions) - 1
	for i := range o.questions {
		q := &o.questions[i]
		var c conclusion
		switch {
		case q.err != nil && !q.cut && i > 0 && (i < last || q.refusedAgain()):
			// It was asked once more after that, or had said all before.
		case q.err != nil && !q.cut:
			c = q.failed(o.remote)
		case q.err == nil && !q.atrn && i == 0:
			// What is asked again was answered before.
			c = firstBad(q.refused(o.remote), q.unasked())
		}
		if c.bad() {
			return c
		}
	}
	return conclusion{}
}
