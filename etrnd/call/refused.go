package call

import (
	"fmt"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
)

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
	case receive.Form:
		text = fmt.Sprintf("mail of %s was refused for the form of an address or of the message: %q; %s", o.remote.Name, o.in.Why.Reply, o.came())
		return conclusion{api.ExitUnavailable, text, "it cannot be passed on to the local mail server in this form without a risk, or not at all; what was refused stays held at " + o.remote.Host + ", and etrnd's log tells which: its postmaster has to deal with it"}
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

// vanished is the conclusion when messages came to nothing here, and the remote has
// nothing left of what it had announced, not all of which has come, or never said how
// much there is: the milter does not see that the local MTA refuses a message after
// its recipients.
func (o *observed) vanished() conclusion {
	hint := "the log of the local mail server tells why; what it refused for good (5xx) " + o.remote.Host + " has returned to the senders"
	switch _, counted, n := o.questions[0].accepted(); {
	case !counted && o.in.Broken > 0:
		return conclusion{api.ExitTempFail, fmt.Sprintf("at the end %s of %s came to nothing here; %s", nMessages(o.in.Broken), o.remote.Name, o.came()), hint}
	case counted && o.in.Vanished > 0 && o.in.Messages+o.in.Refused < n && o.in.To < n:
		return conclusion{api.ExitTempFail, fmt.Sprintf("of %s that %s announced %d came; %d came to nothing here, and it has no more", nMessages(n), o.remote.Name, o.in.Messages, o.in.Vanished), hint}
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
