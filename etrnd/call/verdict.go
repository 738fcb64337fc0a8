package call

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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
	sent     int           // messages that have left the push queues
	unlisted time.Duration // of waited, since the MTA last listed its queue
	stopped  time.Duration // of waited, for how long the MTA has neither listed its queue nor listened
	still    time.Duration // since push or sent was another
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

// inbound judges whether mail is still coming.
func (o *observed) inbound() verdict {
	if len(o.questions) == 0 {
		return verdict{over: true}
	}
	if o.turned != nil {
		return o.overTurned()
	}
	v := o.overOthers()
	if v.over {
		// What was refused here explains that nothing more has come.
		v.conclusion = firstBad(o.refused(), v.conclusion)
	}
	return v
}

// overOthers judges connections that the remote makes.
func (o *observed) overOthers() verdict {
	a := o.answers()
	if !a.made || o.full() && o.in.Busy == 0 {
		return verdict{over: true}
	}
	wait := o.remote.Wait
	switch {
	case a.nothing() && o.in.Busy == o.in.LikelyBusy && o.proven():
		return o.silent()
	case o.in.InVain >= receive.MaxInVain && o.in.Busy == o.in.Doomed:
		return verdict{over: true} // the rest would be refused, too
	case !o.in.Connected:
		// Nobody tells what comes in, so only time can.
		return verdict{waiting: "mail to come in, unseen: etrn-milter does not report", look: wait - o.quiet}.unless(o.quiet >= wait, conclusion{
			api.ExitTempFail, fmt.Sprintf("nobody could see whether mail came: etrn-milter did not report, so the line was kept for wait = %v", wait),
			"start etrn-milter, and see that smtpd_milters names its socket (etrnctl setup postfix)",
		})
	case o.in.Busy > 0:
		return verdict{waiting: o.comingIn()}
	case len(a.busy) > 0:
		return o.putOff(a)
	case a.counted && o.in.Messages+o.in.Refused >= a.total:
		return o.settled()
	case a.counted && o.recipientsCounted():
		return o.idle()
	case a.counted || !o.in.Any:
		return o.missing(a)
	}
	return o.idle()
}

// idle judges inbound when nobody says how much is to come.
func (o *observed) idle() verdict {
	patience := o.patience()
	v := verdict{waiting: "more mail to come in; " + o.came(), look: patience - o.quiet}
	if o.in.Broken >= maxBroken && o.vain >= max(o.remote.Wait, patience) {
		return v.unless(true, conclusion{
			api.ExitTempFail, fmt.Sprintf("%s, and no more within wait = %v: %s begins messages, and none of them is taken whole", o.came(), o.remote.Wait, o.remote.Host),
			"the log of the local mail server tells why; what has not come stays held there",
		})
	}
	return v.unless(o.quiet >= patience, conclusion{})
}

// silent judges inbound when the remote has said that it has nothing more, or when
// all has come that it had announced.
func (o *observed) silent() verdict {
	need := time.Duration(0)
	last := &o.questions[len(o.questions)-1]
	if _, counted, n := last.accepted(); last.loose && counted && n == 0 && o.in.Connected {
		need = sameSecond + o.pace.Trips(settleTrips)
		if o.in.Open > 0 {
			need = max(need, settleOpen+o.pace.Trips(settleTrips))
		}
	}
	return verdict{waiting: "what may be on its way already", look: need - o.quiet}.unless(o.quiet >= need, conclusion{})
}

// recipientsCounted tells whether a remote that has announced more than has come has
// most likely counted recipients and not messages: as many have come, and asked
// again it tells of no more.
func (o *observed) recipientsCounted() bool {
	last := &o.questions[len(o.questions)-1]
	made, _, n := last.accepted()
	return len(o.questions) > 1 && last.seen == o.in.Seen && made && n == 0 && !last.putOff() &&
		o.in.To+o.in.Refused+o.in.Rejected >= o.answers().total
}

// full tells whether the local MTA took nothing when the remote was to be asked
// again: what it is asked for would find that too.
func (o *observed) full() bool {
	_, full := o.questions[len(o.questions)-1].err.(fullError)
	return full
}

// patience is how long inbound must be quiet before it is asked after, or taken
// to be over. A new connection takes the other side some round trips, and what
// is lost on the way some more; beyond that the line has shown how far apart
// messages are.
func (o *observed) patience() time.Duration {
	d := o.remote.Idle + o.pace.Trips(patienceTrips)
	d = max(d, min(2*o.in.Gap, 3*d))
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

// settled judges inbound when as many messages have come as were announced. The
// number is one of messages and says nothing of the parts in which an MTA sends
// one to many recipients, nor of what has come to the other side meanwhile: where
// there is reason to think of that, the remote has to say that this was all.
func (o *observed) settled() verdict {
	need := settle
	if o.in.Open > 0 {
		need = settleOpen
	}
	// By then the other side has had our last reply, and has begun what it has
	// to begin: the first segment of that takes another round trip to arrive,
	// and the dialogue up to the first sign of mail three more.
	need += o.pace.Trips(settleTrips)
	switch {
	case o.stale < need:
		return verdict{waiting: "the last message to settle", look: need - o.stale}
	case o.in.Refused > 0:
		// What was refused would be sent again, and refused again.
		return o.idle()
	case o.proven():
		return o.silent()
	case o.evaded():
		return o.idle()
	}
	return o.again(need, "the remote to say that this was all", conclusion{
		api.ExitTempFail, fmt.Sprintf("%s, and %s does not say that this was all", o.came(), o.remote.Name), "the next call asks again",
	})
}

// proven tells whether what has come is all for certain: it was whole, or the
// remote has said since that it has nothing more.
func (o *observed) proven() bool {
	last := &o.questions[len(o.questions)-1]
	if _, counted, n := last.accepted(); counted && n == 0 && last.seen == o.in.Seen {
		return true
	}
	doubt := o.in.Parts > 0 || o.in.Wide || o.in.Likely > 0 || o.answers().total < o.in.Messages
	return !doubt
}

// evaded tells whether the remote was asked whether this was all, and has said
// something that is no answer to that.
func (o *observed) evaded() bool {
	last := &o.questions[len(o.questions)-1]
	_, counted, _ := last.accepted()
	return len(o.questions) > 1 && last.seen == o.in.Seen && !counted && !last.putOff()
}

// missing judges inbound when fewer messages have come than were announced, or
// none where nobody said how many there are, and none is coming. The remote may
// have tried in vain: a firewall that opens late, an MTA that was full.
func (o *observed) missing(a answers) verdict {
	wait, end, waiting := o.remote.Wait, conclusion{}, "mail to begin to come in"
	if a.counted {
		end = conclusion{
			api.ExitTempFail, fmt.Sprintf("%s, and no more within wait = %v", o.came(), wait),
			"can " + o.remote.Host + " reach this host's port 25? its log tells where it tried to deliver",
		}
		if o.in.Any && o.in.Seen == 0 {
			end.hint = o.remote.Host + " connects, but no message was taken from it: the log of the local mail server tells why"
		}
		if o.in.Stranger.IsValid() {
			end.hint = fmt.Sprintf("mail came over the line from %v, which is no address of %s: if it is its mail server, list it in senders", o.in.Stranger, o.remote.Host)
		}
		waiting = "mail to come in; " + o.came()
	}
	v := o.again(o.patience(), "the remote to say what it still has", end)
	if !v.over && !v.ask {
		v.waiting = waiting
	}
	return v
}

// putOff judges inbound when the remote has answered 458 for names: it has not
// done anything about them, now.
func (o *observed) putOff(a answers) verdict {
	return o.again(busyPause+o.pace.Trips(busyTrips), fmt.Sprintf("%s to take a request for %s (458)", o.remote.Name, strings.Join(a.busy, ", ")), conclusion{
		api.ExitTempFail,
		fmt.Sprintf("%s took no request for %s within wait = %v: 458 %s", o.remote.Name, strings.Join(a.busy, ", "), o.remote.Wait, a.why),
		"it may be asked too often, or have no time; what it holds stays held there, and the next call asks again",
	})
}

// again has the remote asked once more when inbound has been quiet for a while,
// and after twice that time the next time, until it has been quiet for wait. What
// a dialogue costs on this line is no more than a part of it.
func (o *observed) again(pause time.Duration, waiting string, end conclusion) verdict {
	n := 0 // asked since anything has come
	for i := range o.questions {
		if o.questions[i].seen == o.in.Seen {
			n++
		}
	}
	last := &o.questions[len(o.questions)-1]
	if last.putOff() {
		pause = max(pause, busyPause+o.pace.Trips(busyTrips))
	}
	pause = max(pause<<min(max(n-1, 0), 16), 4*last.took)
	left := o.remote.Wait - o.vain
	switch {
	case left <= 0:
		return verdict{over: true, conclusion: end}
	case left <= last.took:
		return verdict{waiting: waiting, look: left} // the answer would be late
	case o.quiet >= pause:
		return verdict{ask: true, waiting: waiting}
	}
	return verdict{waiting: waiting, look: min(left, pause-o.quiet)}
}

// overTurned judges turned connections: the remote ends one when it has no more,
// or when it has sent what it sends over one.
func (o *observed) overTurned() verdict {
	t := o.turned
	switch {
	case !t.over && o.in.Busy > 0:
		return verdict{waiting: o.comingIn()}
	case !t.over:
		return verdict{waiting: fmt.Sprintf("%s to send its mail or to say that it has no more; %s", o.remote.Host, o.came())}
	case t.err == nil && t.untold && t.since < settle:
		// The milter tells in its own time what came a second time.
		return verdict{waiting: "etrn-milter to tell of the last message", look: settle - t.since}
	case t.err == nil && t.more:
		return verdict{ask: true, waiting: "the remote to say what it still has"}
	case t.err == nil:
		return verdict{over: true, conclusion: firstBad(o.refused(), o.shutOut())}
	}
	if c := o.refused(); c.exit == api.ExitUnavailable {
		return verdict{over: true, conclusion: c}
	}
	hint := "what has not come stays held there, and comes with the next call"
	switch {
	case errors.Is(t.err, receive.ErrMTA):
		hint = "is the local mail server running? " + hint
	case errors.Is(t.err, receive.ErrDoor):
		hint = "the log of the local mail server tells why; " + hint
	case errors.Is(t.err, receive.ErrAbuse):
		hint = "the log has the details; tell the postmaster of " + o.remote.Host
	}
	return verdict{over: true, conclusion: conclusion{api.ExitTempFail, "the mail of " + o.remote.Name + ": " + t.err.Error() + "; " + o.came(), hint}}
}

// refused is the conclusion when the local MTA has refused some of what came. A
// refusal that is the recipient's or the message's has gone to the sender, and
// nothing is left to be done.
func (o *observed) refused() conclusion {
	text := fmt.Sprintf("the local mail server refused mail of %s%s: %q; %s", o.remote.Name, o.refusedFor(), o.in.Why.Reply, o.came())
	if o.turned == nil {
		return o.refusedToOthers(text)
	}
	switch o.in.Why.Class {
	case receive.Gate:
		return conclusion{api.ExitUnavailable, text, receive.GateHint + "; what was refused stays held at " + o.remote.Host}
	case receive.Own:
		text = fmt.Sprintf("mail of %s that this site has not asked for was refused: %q; %s", o.remote.Name, o.in.Why.Reply, o.came())
		return conclusion{api.ExitUnavailable, text, "if it is for this site, its domain belongs into request; what was refused stays held at " + o.remote.Host + ", and etrnd's log tells which"}
	case receive.Temporary:
		return conclusion{api.ExitTempFail, text, "what was refused stays held at " + o.remote.Host + " and comes with the next call; the log of the local mail server tells why"}
	}
	return conclusion{}
}

// refusedToOthers is the conclusion when the local MTA has refused some of what
// came over a connection that the remote had made. What it has refused for good has
// gone back to the senders.
func (o *observed) refusedToOthers(text string) conclusion {
	kept := "what was refused stays held at " + o.remote.Host
	if o.in.Why.Lasting() {
		kept = "what is refused for good (5xx) " + o.remote.Host + " returns to the senders"
	}
	switch o.in.Why.Class {
	case receive.Gate:
		return conclusion{api.ExitUnavailable, text, fmt.Sprintf("let the local mail server take this mail from %s: the domain must be its own or one that it relays for (mydestination, relay_domains), and no list of clients, names or networks may refuse %[1]s; %s", o.remote.Host, kept)}
	case receive.Temporary:
		return conclusion{api.ExitTempFail, text, kept + " and comes with a later call; the log of the local mail server tells why"}
	}
	return conclusion{}
}

// refusedFor says which mail was refused: for which domains, and under which names
// it was asked for.
func (o *observed) refusedFor() string {
	if len(o.in.For) == 0 {
		return ""
	}
	text := " for " + strings.Join(o.in.For, ", ")
	var names []string
	for _, name := range o.remote.Request {
		if len(o.remote.Request) > 1 && slices.ContainsFunc(o.in.For, func(domain string) bool { return asksFor(name, domain) }) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		text += " (asked for as " + strings.Join(names, ", ") + ")"
	}
	return text
}

// asksFor tells whether a name that is asked for stands for a domain. What a queue
// of the remote has in it, nobody here knows.
func asksFor(name, domain string) bool {
	if below, ok := strings.CutPrefix(name, "@"); ok {
		return strings.EqualFold(below, domain) || strings.HasSuffix(strings.ToLower(domain), "."+strings.ToLower(below))
	}
	return strings.EqualFold(name, domain)
}

// shutOut is the conclusion when the local MTA had said beforehand that it would
// refuse the mail of some domains.
func (o *observed) shutOut() conclusion {
	if o.door.Class == receive.Nothing {
		return conclusion{}
	}
	return conclusion{api.ExitUnavailable, fmt.Sprintf("the local mail server refuses mail of %s for some domains: %q", o.remote.Name, o.door.Reply), receive.GateHint}
}

// pushes tells whether anything may go out in this call.
func (o *observed) pushes() bool {
	return len(o.remote.PushQueues) > 0 && o.remote.RouterType != config.PullOnly
}

// toSend is how many messages go out in this call, as far as that is known.
func (o *observed) toSend() (n int, known bool) {
	return o.sent + o.push.held, o.pushes() && o.push.err == "" && o.push.listed
}

// doorClosed tells whether the local MTA was not there for what would come in: a
// second sign of the same need not be waited for.
func (o *observed) doorClosed() bool {
	return slices.ContainsFunc(o.questions, func(q question) bool {
		_, closed := q.err.(listenerError)
		return closed
	})
}

// outbound judges whether mail is still going.
func (o *observed) outbound() verdict {
	p, r := &o.push, o.remote
	asked := !r.RouterType.Pushes() // what is held goes when the other side asks for it
	switch {
	case !o.pushes():
		return verdict{over: true}
	case p.err != "":
		return verdict{waiting: "the mail server to list its queue", look: maxLook}.unless(o.unlisted > unlistedMax || o.doorClosed(), conclusion{
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
		hint := "they stay held and go with the next call"
		if strings.HasPrefix(p.reason, "SASL authentication failed") {
			// Postfix logs in with its copy, which the call does not use.
			hint = "they stay held; check user and password-file, and run etrnctl setup postfix --apply after a change: Postfix has a copy"
		}
		return verdict{over: true, conclusion: conclusion{api.ExitTempFail, fmt.Sprintf("%s could not be sent: %s", nMessages(p.failed), p.reason), hint}}
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
	var text string
	switch {
	case o.turned == nil && expected >= 0:
		text = fmt.Sprintf("%d of %s have come", n, nMessages(expected))
		if expected == 1 {
			text = fmt.Sprintf("%d of 1 message has come", n)
		}
	case n == 1:
		text = "1 message has come"
	default:
		text = nMessages(n) + " have come"
	}
	if o.in.Refused > 0 {
		text += fmt.Sprintf(", %d refused here", o.in.Refused)
	}
	if o.in.Rejected > 0 {
		text += fmt.Sprintf(", %s refused here", nOf(o.in.Rejected, "recipient"))
	}
	return text
}

// comingIn says what is coming in at the moment.
func (o *observed) comingIn() string {
	size := ""
	switch n := o.in.Coming; {
	case o.turned != nil || n == 0: // it is counted as it comes, or nobody has told
	case n < 1000:
		size = fmt.Sprintf(" of %d bytes", n)
	default:
		size = fmt.Sprintf(" of %d kB", (n+500)/1000)
	}
	return fmt.Sprintf("%s%s coming in; %s", nMessages(o.in.Busy), size, o.came())
}

// nMessages counts messages in words.
func nMessages(n int) string { return nOf(n, "message") }

func nOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
