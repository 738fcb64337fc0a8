package call

import (
	"net/netip"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/report"
)

// Inbound is the milter's view of the SMTP sessions in which mail comes in.
// Handle feeds it; a Tally counts what concerns one call.
type Inbound struct {
	mu        sync.Mutex
	reporters map[string]bool // those whose picture is complete
	sessions  map[string]*smtpSession
	tallies   map[*Tally]bool
	since     time.Time // when the milter was connected or lost; zero: never seen
	seen      seen
	changed   chan struct{}
}

// smtpSession is a session as the milter sees it.
type smtpSession struct {
	reporter    string
	client      netip.Addr
	local       netip.Addr
	transaction bool
	size        int64 // of the message that is coming in, as declared
	mailed      bool  // has had a transaction
	refused     int   // recipients that the MTA has refused in this transaction
	doomed      bool  // it has taken none of this transaction, as far as is known
	streak      int   // messages in a row that it has refused as a whole
}

// NewInbound returns an empty view.
func NewInbound() *Inbound {
	return &Inbound{
		reporters: map[string]bool{}, sessions: map[string]*smtpSession{}, tallies: map[*Tally]bool{},
		changed: make(chan struct{}),
	}
}

// Handle takes one report.
func (in *Inbound) Handle(ev report.Event) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch ev.Kind {
	case report.Hello, report.Gone:
		// Until the picture is complete, it cannot be believed.
		in.forgetLocked(ev.Reporter, ev.Kind == report.Gone)
		if _, ok := in.reporters[ev.Reporter]; ok {
			delete(in.reporters, ev.Reporter)
			if len(in.reporters) == 0 {
				in.since = time.Now()
			}
		}
	case report.Ready:
		if len(in.reporters) == 0 {
			in.since = time.Now()
		}
		in.reporters[ev.Reporter] = true
	case report.Open, report.Mail, report.Message, report.Refused, report.Abort, report.Close:
		in.sessionLocked(ev)
	default:
		return
	}
	close(in.changed)
	in.changed = make(chan struct{})
}

// forgetLocked drops the sessions of a reporter. When it is gone for good, they
// may go on unseen: the MTA does without a milter that has died.
func (in *Inbound) forgetLocked(reporter string, gone bool) {
	now := time.Now()
	for id, s := range in.sessions {
		if s.reporter != reporter {
			continue
		}
		delete(in.sessions, id)
		for t := range in.tallies {
			sums := t.sumsLocked(t.match(s.client, s.local))
			if sums == nil {
				continue
			}
			// A long message gives no other sign of life.
			sums.active = now
			t.blind = t.blind || gone
		}
	}
}

// maxSessions bounds the sessions that are followed. An MTA has some hundreds.
const maxSessions = 20000

func (in *Inbound) sessionLocked(ev report.Event) {
	s := in.sessions[ev.Session]
	if s == nil {
		if len(in.sessions) >= maxSessions {
			return
		}
		s = &smtpSession{reporter: ev.Reporter, client: ev.Client.Unmap(), local: ev.Local.Addr().Unmap()}
		in.sessions[ev.Session] = s
	}
	now := time.Now()
	switch ev.Kind {
	case report.Open:
		s.transaction, s.size = ev.Transaction, 0
		s.mailed = s.mailed || ev.Transaction
	case report.Mail:
		in.takenLocked(s) // after refusals in the same transaction
		s.transaction, s.mailed, s.size = true, true, ev.Size
	case report.Message:
		in.takenLocked(s)
		s.transaction, s.mailed, s.refused, s.streak = false, true, 0, 0
		again := in.seen.before(ev, now)
		for t := range in.tallies {
			t.messageLocked(ev, again, t.sumsLocked(t.match(s.client, s.local)), now)
		}
	case report.Refused:
		in.refusedLocked(s, ev)
	case report.Abort:
		in.brokenLocked(s)
		s.transaction, s.refused, s.doomed = false, 0, false
	case report.Close:
		in.brokenLocked(s)
		delete(in.sessions, ev.Session)
	}
	for t := range in.tallies {
		// That somebody connects over the link, and leaves, is no sign of the
		// remote's mail: it may be a port scan.
		like := t.match(s.client, s.local)
		if like == certain || like == likely && ev.Kind != report.Open && ev.Kind != report.Close {
			t.sumsLocked(like).lives(now, ev.Kind)
			if like == likely && t.likelySince.IsZero() {
				t.likelySince, t.stranger = now, s.client
			}
		}
	}
}

// refusedLocked notes a recipient that the MTA has refused. A message of which it
// has taken none so far is refused as a whole: that it is over shows only when the
// session goes on.
func (in *Inbound) refusedLocked(s *smtpSession, ev report.Event) {
	s.mailed = true
	s.refused++
	if s.refused == 1 && ev.To == 0 {
		s.doomed = true
		s.streak++
	}
	why, all := receive.RefusalOf(ev.Reply)
	for t := range in.tallies {
		if sums := t.sumsLocked(t.match(s.client, s.local)); sums != nil {
			sums.refuse(why, all, ev.Domain, s.doomed, s.refused == 1)
		}
	}
}

// brokenLocked notes a message that comes to nothing, if there is one.
func (in *Inbound) brokenLocked(s *smtpSession) {
	if !s.transaction || s.doomed {
		return
	}
	for t := range in.tallies {
		if sums := t.sumsLocked(t.match(s.client, s.local)); sums != nil {
			sums.broken++
			sums.vanished++
		}
	}
}

// takenLocked notes that the MTA takes a message after all that it had refused to
// some.
func (in *Inbound) takenLocked(s *smtpSession) {
	if !s.doomed {
		return
	}
	for t := range in.tallies {
		if sums := t.sumsLocked(t.match(s.client, s.local)); sums != nil {
			sums.taken(s.refused)
		}
	}
	s.doomed, s.streak = false, 0
}

// Connected reports whether a milter reports at present, since when that is
// so, and how many sessions it sees.
func (in *Inbound) Connected() (ok bool, since time.Time, sessions int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.reporters) > 0, in.since, len(in.sessions)
}

// Changed returns a channel that is closed at the next report.
func (in *Inbound) Changed() <-chan struct{} {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.changed
}
