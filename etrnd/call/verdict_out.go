package call

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// pushes tells whether anything may go out in this call.
func (o *observed) pushes() bool {
	return len(o.remote.PushQueues) > 0 && o.remote.RouterType != config.PullOnly
}

// toSend is how many messages go out in this call, as far as that is known.
func (o *observed) toSend() (n int, known bool) {
	return o.sent + o.push.held + o.push.away, o.pushes() && o.push.err == "" && o.push.listed
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
	v := o.going()
	if v.over {
		v.conclusion = firstBad(v.conclusion, o.changed())
	}
	return v
}

// changed is the conclusion when the configuration is not what it was when the call
// was made, and mail has not gone for that.
func (o *observed) changed() conclusion {
	const hint = "what was to go stays held: etrnctl queues shows for whom, and with --nobody what is held for nobody"
	switch {
	case !o.pushes():
	case o.push.away > 0:
		return conclusion{api.ExitTempFail, fmt.Sprintf("%s not sent: no longer for %s since the configuration was changed during the call", nMessages(o.push.away), o.remote.Name), hint}
	case len(o.gone) > 0:
		return conclusion{api.ExitTempFail, fmt.Sprintf("nothing sent of queue %s: the configuration was changed before the link was up, and has it no longer", strings.Join(o.gone, ", ")), hint}
	}
	return conclusion{}
}

// going judges it by the queues.
func (o *observed) going() verdict {
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
	case p.underWay > 0 && o.unheard && o.still > stillMax:
		return verdict{over: true, conclusion: conclusion{
			api.ExitTempFail, fmt.Sprintf("%s could not be sent: nobody answers any more on the connections on which the mail server has them", nMessages(p.underWay)),
			"they stay held and go with a later call, when the mail server has given up those connections, of an earlier line perhaps",
		}}
	case p.underWay > 0 || p.retry > 0:
	case p.failed > 0:
		hint := "they stay held and go with the next call"
		if p.reason == hold.ReasonNobody {
			hint = "they stay held; is etrnd to be reloaded, or Postfix to be set up? etrnctl status tells"
		}
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
