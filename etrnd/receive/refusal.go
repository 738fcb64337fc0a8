package receive

import (
	"regexp"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
)

// Class says whom a refusal concerns, and so what becomes of the message. The
// graver one is the greater.
type Class int

const (
	Nothing   Class = iota // was refused
	Permanent              // the recipient or the message: it goes back to its sender
	Own                    // the gate has refused it, as it is not for here: it stays with the provider
	Form                   // the gate has refused how it is written, as it would be unsafe here: likewise
	Temporary              // it stays with the provider, and comes again
	// Gate is a refusal of this connection to the local MTA, whatever the mail:
	// a list of clients or networks, a name that is not found, a domain that the
	// MTA does not take for its own. No sender could do anything about it, so
	// that the provider hears of something temporary; and nothing changes until
	// somebody changes the settings of the MTA.
	Gate
)

// Refusal is a no of the local MTA or, to what it shall not see, of the gate.
type Refusal struct {
	Class Class
	Reply string // with its code, made printable
}

// Lasting tells whether a refusal says of itself that it is none of the moment.
func (r Refusal) Lasting() bool { return strings.HasPrefix(r.Reply, "5") }

// why is what a refusal of our own means for the mail.
func (r refusal) why() Refusal {
	switch {
	case strings.HasPrefix(string(r), "5"):
		return Refusal{Permanent, string(r)}
	case r == notAsked:
		return Refusal{Own, string(r)}
	}
	return Refusal{Form, string(r)}
}

// Graver is which of two refusals tells more: the first of the graver class.
func (r Refusal) Graver(other Refusal) Refusal {
	if other.Class > r.Class {
		return other
	}
	return r
}

// MaxInVain is how many messages in a row the MTA may refuse for a reason that
// concerns all before the line is no longer used for them.
const MaxInVain = 3

// aboutRelay tells, of refusals that concern the gate, those that may concern one
// domain only.
var aboutRelay = regexp.MustCompile(`(?i)relay`)

// forAll tells whether a refusal is to be expected for all other mail too: the
// MTA does not like this client, or has no room.
func forAll(r esmtp.Reply) bool {
	status, _ := esmtp.CutStatus(r.Text())
	switch classify(r) {
	case Gate:
		return !aboutRelay.MatchString(bracketed.ReplaceAllString(r.Text(), ""))
	case Temporary:
		return r.Code == 452 && status[1] != 2 && status[1] != 5 || status[1] == 3
	}
	return false
}

var (
	bracketed = regexp.MustCompile(`<[^>]*>`)
	// aboutGate is how Postfix, Exim, Sendmail and filters behind them speak of
	// the client, its greeting, its login, and of relaying. What stands in
	// angle brackets is taken out before: it may be anybody's choice.
	aboutGate = regexp.MustCompile(`(?i)client host|helo command rejected|\behlo\b.*(rejected|denied)|` +
		`relay(ing)? (access )?(is )?(denied|not (permitted|allowed))|unable to relay|not (permitted|allowed|authori[sz]ed) to relay|` +
		`starttls|encryption (is )?required|authentication (is )?required|not logged in|` +
		`reverse (dns|hostname|lookup|name)|cannot find your (reverse )?hostname|ip name lookup failed|` +
		`^\W*(access denied|you are not (welcome|allowed|authori[sz]ed))|` +
		regexp.QuoteMeta(Source.String()))
)

// classify tells whom a reply concerns that is a no.
func classify(r esmtp.Reply) Class {
	text := r.Text()
	status, text := esmtp.CutStatus(text)
	switch {
	case r.Code == 530, r.Code == 538, r.Code == 521:
		return Gate
	case status[1] == 7:
		switch status[2] {
		// RFC 4954, 7372 and the registry: login, encryption, SPF and reverse
		// lookup, all of them about the address or the greeting of the gate.
		case 8, 9, 10, 11, 14, 23, 24, 25:
			return Gate
		}
	}
	switch {
	case aboutGate.MatchString(bracketed.ReplaceAllString(text, "")):
		return Gate
	case r.Code/100 == 4:
		return Temporary
	}
	return Permanent
}

// GateHint is what to do about a refusal that concerns the gate.
var GateHint = "let it take mail for these domains from " + Source.String() + ", the address that the mail of remotes comes from here: no list of clients, names, networks or logins may refuse it, and the domains must be its own (mydestination; see ATRN in howto.md)"

// RefusalOf is what the MTA has said to others than a Server when it refused a
// recipient: the enhanced status (RFC 3463) and the text, without the code. all
// tells whether the same is to be expected for other mail of that client: what
// concerns the client counts for that, and relaying, too, as long as nothing else
// is taken.
func RefusalOf(said string) (why Refusal, all bool) {
	r := esmtp.Reply{Code: 550, Lines: []string{said}}
	if strings.HasPrefix(said, "4") {
		r.Code = 450
	}
	why = Refusal{classify(r), foreign.Clip(said, maxShown)}
	return why, why.Class == Gate || forAll(r)
}

func refusalOf(r esmtp.Reply) Refusal {
	return Refusal{classify(r), foreign.Clip(r.String(), maxShown)}
}

// soften makes of a refusal that concerns the gate something temporary.
func (t *turn) soften(r esmtp.Reply) esmtp.Reply {
	if r.Code/100 != 5 || classify(r) != Gate {
		return r
	}
	return esmtp.Reply{Code: 451, Lines: []string{"4.7.1 The mail server here refuses " + t.o.Hostname + " and not this mail, its postmaster is told"}}
}

// refuses notes why something of the provider's was refused.
func (s *Server) refuses(why Refusal, change func(*Counts)) {
	s.count(func(c *Counts) {
		c.Why = c.Why.Graver(why)
		change(c)
	})
}

// weigh notes a reply that belongs to a transaction, and returns what the
// provider is to hear. With PIPELINING a refusal of MAIL is followed by "503
// need MAIL" to all that was sent behind it; the first no is what says why, to
// the provider, in the log and in the account. Only for the replier.
func (t *turn) weigh(a *answer, r esmtp.Reply) esmtp.Reply {
	tx := a.tx
	if tx == nil || a.silent && !a.free {
		return r
	}
	if a.mail {
		t.settle(tx)
	}
	bad := r.Code/100 >= 4
	if bad && tx.no.Code != 0 {
		r = tx.no
	} else if bad {
		why := refusalOf(r)
		tx.vain = tx.vain || forAll(r)
		log := t.refusals.With("reply", why.Reply)
		if why.Class == Gate {
			log = log.With("hint", GateHint)
		}
		r = t.soften(r)
		switch {
		case a.rcpt:
			tx.refused = true
			log.Warn("recipient refused by the local mail server")
			t.refuses(why, func(c *Counts) { c.Rejected++ })
		case a.mail:
			log.Warn("sender refused by the local mail server", "from", foreign.Clip(tx.from, maxShown))
			tx.no, tx.why = r, why
		case tx.taken == 0 && tx.refused:
			// No recipient is left, which has been said.
		default:
			log.Warn("message refused by the local mail server", "from", foreign.Clip(tx.from, maxShown))
			tx.no, tx.why = r, why
		}
	} else if a.rcpt {
		tx.taken++
	}
	if a.final || a.free {
		t.settle(tx)
	}
	return r
}

// settle counts a message that has been refused as a whole.
func (t *turn) settle(tx *transaction) {
	if tx.no.Code != 0 {
		t.refuses(tx.why, func(c *Counts) { c.Refused++ })
	}
	if tx.vain && tx.taken == 0 || tx.no.Code != 0 && tx.vain {
		t.inVain++
	}
	tx.no, tx.why, tx.taken, tx.refused, tx.vain = esmtp.Reply{}, Refusal{}, 0, false, false
}

// unwelcome is what the provider hears when the MTA refuses its greeting. That
// it does not know EHLO is no refusal.
func (t *turn) unwelcome(verb string, r esmtp.Reply) esmtp.Reply {
	if verb == "EHLO" && (r.Code == 500 || r.Code == 502) {
		return r
	}
	why := refusalOf(r)
	if r.Code/100 == 5 {
		why.Class = Gate
		r = esmtp.Reply{Code: 450, Lines: []string{"4.7.1 The mail server here refuses the greeting, its postmaster is told"}}
	}
	t.log.Warn("greeting refused by the local mail server", "reply", why.Reply)
	t.refuses(why, func(*Counts) {})
	return r
}
