package call

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
)

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
		v.conclusion = firstBad(o.refused(), v.conclusion, o.vanished())
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
	case a.counted || !o.in.Any || o.short(a):
		return o.missing(a)
	}
	return o.idle()
}

// short tells whether less has come than the remote has said that there is.
func (o *observed) short(a answers) bool {
	return o.in.Messages+o.in.Refused < a.least() && o.in.To+o.in.Refused+o.in.Rejected < a.least()
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
	case o.in.Refused > 0 && !o.in.Why.Lasting():
		// What was refused for the moment would be sent again, and refused again;
		// and it may count twice, where the other side has tried two addresses.
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
	if a.counted || o.short(a) {
		text := fmt.Sprintf("%s, and no more within wait = %v", o.came(), wait)
		switch {
		case a.counted:
		case a.total > 0:
			text = fmt.Sprintf("%s of at least %d, and no more within wait = %v", o.came(), a.total, wait)
		default:
			text = fmt.Sprintf("%s has said that it has mail, and not how much (%s), and none has come within wait = %v", o.remote.Name, a.pending, wait)
		}
		end = conclusion{
			api.ExitTempFail, text,
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
