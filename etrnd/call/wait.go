package call

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/api"
)

const (
	// lookInterval is the least time between two looks at how the call stands.
	lookInterval = 50 * time.Millisecond
	// settle is how long inbound must be quiet after the last of a known
	// number of messages: long enough for the reply to it to leave. While a
	// session is open it is longer, since the other side may count one message
	// that it sends in parts, to some of its recipients each.
	settle     = 500 * time.Millisecond
	settleOpen = 2 * time.Second
	// stillMax is how long messages may be held in an open queue without
	// anything happening to them before they are no reason to keep the line.
	stillMax = 30 * time.Second
	// maxAgain is how often a remote that counts is asked again when fewer
	// messages have come than it announced and nothing moves.
	maxAgain = 3
)

// verdict is what one direction still needs.
type verdict struct {
	done    bool
	waiting string        // the end of "waiting for ..."
	recheck time.Duration // when time alone may change the verdict
	problem string        // why it ends without all being well
	hint    string
	askMore bool // ask the remote again what it has
}

// wait lasts until nothing is left to come or to go.
func (cl *call) wait(ctx context.Context, asked request, serving *sync.WaitGroup) {
	start := time.Now()
	cl.set(func() {
		if asked.counted && asked.made {
			cl.expectIn = asked.before + asked.announce
		}
	})
	again, pushOver := 0, false
	var still stillness
	var lastAsk time.Time
	for ctx.Err() == nil {
		reports, held := cl.caller.inbound.Changed(), cl.caller.hold.Changed()
		var in, out verdict
		cl.set(func() {
			cl.measure()
			in = cl.inbound(asked, start, lastAsk, again)
			out = cl.outbound(start, &pushOver, &still)
			switch {
			case !in.done:
				cl.phase, cl.waiting = api.PhaseReceiving, in.waiting
			case !out.done:
				cl.phase, cl.waiting = api.PhasePushing, out.waiting
			}
			if in.done && out.done {
				for _, v := range []verdict{in, out} {
					if v.problem != "" {
						cl.fail(api.ExitTempFail, v.problem, v.hint)
					}
				}
			}
		})
		if in.done && out.done {
			return
		}
		if in.askMore {
			again++
			more := cl.ask(ctx, serving, true)
			lastAsk = time.Now()
			cl.set(func() {
				if more.made && more.counted {
					cl.expectIn = more.before + more.announce
				}
			})
			continue
		}
		recheck := time.Second
		for _, v := range []verdict{in, out} {
			if !v.done && v.recheck > 0 {
				recheck = min(recheck, v.recheck)
			}
		}
		// Reports come with every message: a look now and then is enough.
		select {
		case <-time.After(lookInterval):
		case <-ctx.Done():
		}
		timer := time.NewTimer(max(recheck-lookInterval, 0))
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

// inbound judges whether mail is still coming. The caller holds mu.
func (cl *call) inbound(asked request, start, lastAsk time.Time, again int) verdict {
	if !asked.made {
		return verdict{done: true}
	}
	if cl.turned != nil {
		return cl.turnedVerdict()
	}
	c, r := cl.in, &cl.remote
	last := start
	for _, t := range []time.Time{c.Active, lastAsk} {
		if t.After(last) {
			last = t
		}
	}
	quiet := time.Since(last)
	known := cl.expectIn >= 0
	came := fmt.Sprintf("%d messages have come", c.Messages)
	if known {
		came = fmt.Sprintf("%d of %d messages have come", c.Messages, cl.expectIn)
	}
	if known && cl.expectIn == 0 && c.Busy == 0 {
		return verdict{done: true}
	}
	if !c.Connected {
		// Nobody tells what comes in, so only time can.
		v := verdict{waiting: "mail to come in, unseen: etrn-milter does not report", recheck: r.Wait - quiet}
		if quiet >= r.Wait {
			v.done = true
			v.problem = fmt.Sprintf("nobody could see whether mail came: etrn-milter did not report, so the line was kept for wait = %v", r.Wait)
			v.hint = "start etrn-milter, and see that smtpd_milters names its socket (etrnctl setup postfix)"
		}
		return v
	}
	if c.Busy > 0 {
		return verdict{waiting: fmt.Sprintf("%d messages that are coming in; %s", c.Busy, came)}
	}
	if known && c.Messages >= cl.expectIn {
		need := settle
		if c.Open > 0 {
			need = settleOpen
		}
		return verdict{done: quiet >= need, waiting: "the last message to settle", recheck: need - quiet}
	}
	// Sessions without a transaction may be about to begin the next one: most
	// senders keep a connection for a moment. They get twice the time.
	patience := r.Idle
	if c.Open > 0 {
		patience *= 2
	}
	if c.Blind {
		patience = max(patience, r.Wait)
	}
	switch {
	case known:
		if c.Any && quiet >= patience && again < maxAgain {
			return verdict{askMore: true, waiting: "the remote to say what it still has"}
		}
		v := verdict{waiting: came, recheck: min(r.Wait-quiet, max(patience-quiet, settle))}
		if quiet >= r.Wait {
			v.done = true
			v.problem = fmt.Sprintf("%s, and then nothing for wait = %v", came, r.Wait)
			v.hint = "can " + r.Host + " reach this host's port 25? its log tells where it tried to deliver"
		}
		return v
	case !c.Any:
		if quiet >= r.Wait {
			return verdict{done: true}
		}
		return verdict{waiting: "mail to begin to come in", recheck: r.Wait - quiet}
	default:
		if quiet >= patience {
			return verdict{done: true}
		}
		return verdict{waiting: "more mail to come in; " + came, recheck: patience - quiet}
	}
}

// outbound judges whether mail is still going. pushOver is set once a push
// that waits for the other side has been waited for in vain. The caller holds
// mu.
func (cl *call) outbound(start time.Time, pushOver *bool, still *stillness) verdict {
	r := &cl.remote
	if len(r.PushQueues) == 0 || r.RouterType.Pulls() && !r.RouterType.Pushes() {
		return verdict{done: true}
	}
	listed, _, err := cl.caller.hold.Listed()
	if err != nil {
		v := verdict{waiting: "the mail server to list its queue", recheck: time.Second}
		since := start
		if listed.After(since) {
			since = listed
		}
		if time.Since(since) > 30*time.Second {
			v.done, v.problem, v.hint = true, "the mail server's queue cannot be listed: "+err.Error(), "what is held stays held; is the mail server running?"
		}
		return v
	}
	if listed.Before(cl.began) {
		return verdict{waiting: "the mail server to list its queue", recheck: 100 * time.Millisecond}
	}
	var sum hold.State
	for _, name := range r.PushQueues {
		s, ok := cl.caller.hold.State(name)
		if !ok {
			continue
		}
		sum.Messages += s.Messages - s.OnHold
		sum.UnderWay += s.UnderWay
		sum.Failed += s.Failed
		sum.Retry += s.Retry
		sum.Open = sum.Open || s.Open
		if s.Reason != "" {
			sum.Reason = s.Reason
		}
	}
	cl.out.Expected = cl.out.Messages + sum.Messages
	if sum.Messages == 0 {
		return verdict{done: true}
	}
	if !r.RouterType.Pushes() {
		// The other side asks for it.
		if !sum.Open && sum.UnderWay == 0 && cl.out.Messages == 0 {
			waited := time.Since(start)
			if *pushOver = *pushOver || waited >= r.Wait; *pushOver {
				return verdict{done: true, problem: fmt.Sprintf("%s did not ask for the %d messages that wait for it within wait = %v", r.Name, sum.Messages, r.Wait), hint: "router-type push-wait holds mail until the other side sends ETRN; push-only sends it at once"}
			}
			return verdict{waiting: fmt.Sprintf("%s to ask for %d messages", r.Name, sum.Messages), recheck: r.Wait - waited}
		}
	}
	if sum.UnderWay > 0 || sum.Retry > 0 {
		return verdict{waiting: fmt.Sprintf("%d messages to go out", sum.Messages)}
	}
	if !r.RouterType.Pushes() && sum.Failed == 0 {
		// What is left was not asked for.
		return verdict{done: true}
	}
	if sum.Failed > 0 {
		return verdict{done: true, problem: fmt.Sprintf("%d messages could not be sent: %s", sum.Failed, sum.Reason), hint: "they stay held and go with the next call"}
	}
	// Held, and not under way: it has just arrived and is about to be
	// released.
	if still.since(sum.Messages, cl.out.Messages) > stillMax {
		return verdict{done: true, problem: fmt.Sprintf("%d messages do not go out, and the mail server does not say why", sum.Messages), hint: "they stay held; look at mailq and at the mail server's log"}
	}
	return verdict{waiting: fmt.Sprintf("%d messages to go out", sum.Messages)}
}

// stillness is how long nothing has happened.
type stillness struct {
	held, gone int
	at         time.Time
}

func (s *stillness) since(held, gone int) time.Duration {
	if s.at.IsZero() || s.held != held || s.gone != gone {
		*s = stillness{held, gone, time.Now()}
	}
	return time.Since(s.at)
}
