package call

import (
	"errors"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

const (
	// settle is how long inbound must be quiet after the last of a known
	// number of messages: long enough for the reply to it to leave. While a
	// session is open it is longer, since the other side may count one message
	// that it sends in parts, to some of its recipients each.
	settle     = 500 * time.Millisecond
	settleOpen = 2 * time.Second
	// stillMax is how long messages may be held in an open queue without
	// anything happening to them before they are no reason to keep the line.
	stillMax = 30 * time.Second
	// unlistedMax is how long the MTA may fail to list its queue.
	unlistedMax = 30 * time.Second
	// maxAgain is how often a remote that counts is asked again when fewer
	// messages have come than it announced and nothing moves.
	maxAgain = 3
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
	in        Counts
	turned    *turnedSeen // nil: no connection was turned around

	push     pushSeen
	sent     int           // messages that have left the push queues
	unlisted time.Duration // of waited, since the MTA last listed its queue
	still    time.Duration // since push or sent was another
}

// turnedSeen is how a turned connection stands.
type turnedSeen struct {
	over   bool
	err    error         // why it is over; nil: the remote has said QUIT
	untold bool          // the milter has not told of the last message
	since  time.Duration // the last sign of life
}

// pushSeen sums up the push queues. It can be compared, to see whether anything
// happens.
type pushSeen struct {
	listed bool   // the MTA has listed its queue since the call began
	err    string // why the last listing failed

	held     int // messages, those that an administrator put on hold left out
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

// dialError is why a line did not come up.
type dialError struct{ error }

// cutOff is the conclusion of a call that was ended from outside.
func cutOff(why error) conclusion {
	hint := "what has not gone stays held and goes with the next call"
	if _, ok := why.(dialError); ok {
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
	if o.turned != nil && o.turned.over && o.turned.err == nil {
		return o.in.Messages
	}
	n := -1
	for i := range o.questions {
		if _, counted, announced := o.questions[i].accepted(); counted {
			n = o.questions[i].before + announced
		}
	}
	return n
}

// request is what the questions alone say about the end of the call.
func (o *observed) request() conclusion {
	for i := range o.questions {
		q := &o.questions[i]
		var c conclusion
		switch {
		case q.err != nil && !q.cut:
			c = q.failed(o.remote)
		case q.err == nil && !q.atrn && i == 0:
			// What is asked again was answered before.
			c = q.refused(o.remote)
		}
		if c.bad() {
			return c
		}
	}
	return conclusion{}
}

// inbound judges whether mail is still coming.
func (o *observed) inbound() verdict {
	if len(o.questions) == 0 {
		return verdict{over: true}
	}
	if made, _, _ := o.questions[0].accepted(); !made {
		return verdict{over: true}
	}
	if o.turned != nil {
		return o.overTurned()
	}
	expected, wait := o.expected(), o.remote.Wait
	switch {
	case expected == 0 && o.in.Busy == 0:
		return verdict{over: true}
	case !o.in.Connected:
		// Nobody tells what comes in, so only time can.
		return verdict{waiting: "mail to come in, unseen: etrn-milter does not report", look: wait - o.quiet}.unless(o.quiet >= wait, conclusion{
			api.ExitTempFail, fmt.Sprintf("nobody could see whether mail came: etrn-milter did not report, so the line was kept for wait = %v", wait),
			"start etrn-milter, and see that smtpd_milters names its socket (etrnctl setup postfix)",
		})
	case o.in.Busy > 0:
		return verdict{waiting: fmt.Sprintf("%s coming in; %s", nMessages(o.in.Busy), o.came())}
	case expected >= 0 && o.in.Messages >= expected:
		need := settle
		if o.in.Open > 0 {
			need = settleOpen
		}
		return verdict{waiting: "the last message to settle", look: need - o.quiet}.unless(o.quiet >= need, conclusion{})
	case expected >= 0:
		return o.missing()
	case !o.in.Any:
		return verdict{waiting: "mail to begin to come in", look: wait - o.quiet}.unless(o.quiet >= wait, conclusion{})
	}
	patience := o.patience()
	return verdict{waiting: "more mail to come in; " + o.came(), look: patience - o.quiet}.unless(o.quiet >= patience, conclusion{})
}

// patience is how long inbound must be quiet before it is asked after, or taken
// to be over.
func (o *observed) patience() time.Duration {
	d := o.remote.Idle
	// Sessions without a transaction may be about to begin the next one: most
	// senders keep a connection for a moment. They get twice the time.
	if o.in.Open > 0 {
		d *= 2
	}
	if o.in.Blind {
		d = max(d, o.remote.Wait)
	}
	return d
}

// missing judges inbound when fewer messages have come than were announced and
// none is coming.
func (o *observed) missing() verdict {
	patience, wait := o.patience(), o.remote.Wait
	if o.in.Any && o.quiet >= patience && len(o.questions) <= maxAgain {
		return verdict{ask: true, waiting: "the remote to say what it still has"}
	}
	return verdict{waiting: o.came(), look: min(wait-o.quiet, max(patience-o.quiet, settle))}.unless(o.quiet >= wait, conclusion{
		api.ExitTempFail, fmt.Sprintf("%s, and then nothing for wait = %v", o.came(), wait),
		"can " + o.remote.Host + " reach this host's port 25? its log tells where it tried to deliver",
	})
}

// overTurned judges a turned connection: the remote ends it when it has no more.
func (o *observed) overTurned() verdict {
	t := o.turned
	switch {
	case !t.over && o.in.Busy > 0:
		return verdict{waiting: fmt.Sprintf("%s coming in; %s", nMessages(o.in.Busy), o.came())}
	case !t.over:
		return verdict{waiting: fmt.Sprintf("%s to send its mail or to say that it has no more; %s", o.remote.Host, o.came())}
	case t.err == nil && t.untold && t.since < settle:
		// The milter tells in its own time what came a second time.
		return verdict{waiting: "etrn-milter to tell of the last message", look: settle - t.since}
	case t.err == nil:
		return verdict{over: true}
	}
	hint := "what has not come stays held there, and comes with the next call"
	switch {
	case errors.Is(t.err, receive.ErrMTA):
		hint = "is the local mail server running? " + hint
	case errors.Is(t.err, receive.ErrAbuse):
		hint = "the log has the details; tell the postmaster of " + o.remote.Host
	}
	return verdict{over: true, conclusion: conclusion{api.ExitTempFail, "the mail of " + o.remote.Name + ": " + t.err.Error() + "; " + o.came(), hint}}
}

// pushes tells whether anything may go out in this call.
func (o *observed) pushes() bool {
	return len(o.remote.PushQueues) > 0 && o.remote.RouterType != config.PullOnly
}

// toSend is how many messages go out in this call, as far as that is known.
func (o *observed) toSend() (n int, known bool) {
	return o.sent + o.push.held, o.pushes() && o.push.err == "" && o.push.listed
}

// outbound judges whether mail is still going.
func (o *observed) outbound() verdict {
	p, r := &o.push, o.remote
	asked := !r.RouterType.Pushes() // what is held goes when the other side asks for it
	switch {
	case !o.pushes():
		return verdict{over: true}
	case p.err != "":
		return verdict{waiting: "the mail server to list its queue", look: maxLook}.unless(o.unlisted > unlistedMax, conclusion{
			api.ExitTempFail, "the mail server's queue cannot be listed: " + p.err, "what is held stays held; is the mail server running?",
		})
	case !p.listed:
		return verdict{waiting: "the mail server to list its queue", look: 100 * time.Millisecond}
	case p.held == 0:
		return verdict{over: true}
	case asked && !p.open && p.underWay == 0 && o.sent == 0:
		return verdict{waiting: fmt.Sprintf("%s to ask for %s", r.Name, nMessages(p.held)), look: r.Wait - o.waited}.unless(o.waited >= r.Wait, conclusion{
			api.ExitTempFail, fmt.Sprintf("%s did not ask for the %s held for it within wait = %v", r.Name, nMessages(p.held), r.Wait),
			"router-type push-wait holds mail until the other side sends ETRN; push-only sends it at once",
		})
	case p.underWay > 0 || p.retry > 0:
	case p.failed > 0:
		return verdict{over: true, conclusion: conclusion{api.ExitTempFail, fmt.Sprintf("%s could not be sent: %s", nMessages(p.failed), p.reason), "they stay held and go with the next call"}}
	case asked:
		// What is left was not asked for.
		return verdict{over: true}
	case o.still > stillMax:
		return verdict{over: true, conclusion: conclusion{api.ExitTempFail, fmt.Sprintf("%s held, not sent, and the mail server does not say why", nMessages(p.held)), "they stay held; look at mailq and at the mail server's log"}}
	}
	// Under way; or held and not under way: it has just arrived and is about
	// to be released.
	return verdict{waiting: nMessages(p.held) + " to go out"}
}

// came says what has come so far.
func (o *observed) came() string {
	n, expected := o.in.Messages, o.expected()
	have := "have"
	switch {
	case o.turned == nil && expected >= 0:
		return fmt.Sprintf("%d of %d messages have come", n, expected)
	case n == 1:
		have = "has"
	}
	return fmt.Sprintf("%s %s come", nMessages(n), have)
}

// nMessages counts messages in words.
func nMessages(n int) string {
	if n == 1 {
		return "1 message"
	}
	return fmt.Sprintf("%d messages", n)
}
