package call

import (
	"net/netip"
	"slices"
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
	case report.Open, report.Mail, report.Message, report.Abort, report.Close:
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
		s.transaction, s.mailed, s.size = true, true, ev.Size
	case report.Message:
		s.transaction, s.mailed = false, true
		again := in.seen.before(ev, now)
		for t := range in.tallies {
			t.messageLocked(ev, again, t.sumsLocked(t.match(s.client, s.local)))
		}
	case report.Abort:
		s.transaction = false
	case report.Close:
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

// sumsLocked is where a session is counted, nil for one that is not.
func (t *Tally) sumsLocked(like likeness) *sums {
	switch like {
	case certain:
		return &t.certain
	case likely:
		return &t.likely
	}
	return nil
}

// messageLocked counts a message. again says that it has come before.
func (t *Tally) messageLocked(ev report.Event, again bool, s *sums) {
	if ev.QueueID != "" {
		t.latest[t.next%len(t.latest)] = ev.QueueID
		t.next++
	}
	if again && ev.QueueID != "" && len(t.again) < againMax {
		t.again = append(t.again, ev.QueueID)
	}
	if s != nil {
		s.message(ev, again)
	}
}

// sums are what has come from some senders.
type sums struct {
	messages, duplicates int
	parts                int             // of messages that had been counted before
	letters              map[string]bool // that have come
	wide                 bool            // one came that had many recipients
	bytes                int64
	any                  bool
	active               time.Time
	ended                time.Time     // the last message; zero: another has begun since
	gap                  time.Duration // the longest between two messages
}

func (s *sums) message(ev report.Event, again bool) {
	s.bytes += ev.Size
	s.wide = s.wide || ev.To >= wideFrom
	// What has come before, for the same recipients, is no part of anything.
	if s.letters[ev.Letter] && !again {
		s.parts++
		return
	}
	if ev.Letter != "" && len(s.letters) < againMax {
		if s.letters == nil {
			s.letters = map[string]bool{}
		}
		s.letters[ev.Letter] = true
	}
	s.messages++
	if again {
		s.duplicates++
	}
}

// wideFrom is from how many recipients on a message may be a part of one to
// more: Postfix sends 50 at a time, others and other settings fewer.
const wideFrom = 10

// lives notes a sign of life. Between the end of one message and the beginning of
// the next the line shows how long the other side takes for that.
func (s *sums) lives(now time.Time, kind report.Kind) {
	if kind == report.Mail && !s.ended.IsZero() {
		s.gap = max(s.gap, now.Sub(s.ended))
	}
	switch kind {
	case report.Mail:
		s.ended = time.Time{}
	case report.Message, report.Abort:
		s.ended = now
	}
	s.active = now
	s.any = true
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

// Tally counts the sessions that match from its creation on.
type Tally struct {
	in    *Inbound
	match func(client, local netip.Addr) likeness

	certain, likely sums
	trust           time.Duration // how long sessions that are likely the remote's are taken for that
	likelySince     time.Time     // zero: there was none
	stranger        netip.Addr    // whose it was
	blind           bool

	again  []string    // queue ids of all messages that came a second time, whoever sent them
	latest [100]string // queue ids of the latest messages, whoever sent them
	next   int         // in latest, round and round
}

// againMax bounds what a Tally remembers.
const againMax = 10000

// Counts is how a Tally stands.
type Counts struct {
	Connected  bool // a milter reports, so the rest can be believed
	Messages   int
	Seen       int   // messages and parts of messages, whoever may have sent them
	Parts      int   // of messages that went to many recipients, the first of each left out
	Wide       bool  // a message has come that may be a part of one to more recipients
	Bytes      int64 // as the senders declared them (RFC 1870), or as they have come over a turned connection
	Coming     int64 // bytes of the messages that are coming in, likewise
	Duplicates int
	Open       int           // sessions that are open
	Busy       int           // of these, sessions in the middle of a message
	Any        bool          // a session has been seen
	Blind      bool          // sessions may be open that nobody sees any more
	Active     time.Time     // the last sign of life; zero: none
	Gap        time.Duration // the longest between the end of a message and the beginning of the next
	Refused    int           // messages that the local MTA has refused over a turned connection
	Rejected   int           // recipients, likewise
	Likely     int           // of the messages, those of senders that may be strangers
	LikelyBusy int           // of Busy, likewise
	Stranger   netip.Addr    // the first of these; invalid: there was none
	Why        receive.Refusal
}

// sure is how many of the messages are the remote's for certain.
func (c Counts) sure() int { return c.Messages - c.Likely }

// Tally begins to count the sessions that match. Close it when done. Whoever
// comes over the link and is none of the remote's addresses may be a part of it
// or a stranger. He is taken for the remote until the remote itself has come, and
// for no longer than trust: he could else hold the line for as long as he likes.
func (in *Inbound) Tally(match func(client, local netip.Addr) likeness, trust time.Duration) *Tally {
	in.mu.Lock()
	defer in.mu.Unlock()
	t := &Tally{in: in, match: match, trust: trust}
	in.tallies[t] = true
	return t
}

// Close ends the count.
func (t *Tally) Close() {
	t.in.mu.Lock()
	defer t.in.mu.Unlock()
	delete(t.in.tallies, t)
}

// Counts tells how the tally stands.
func (t *Tally) Counts() Counts {
	t.in.mu.Lock()
	defer t.in.mu.Unlock()
	c := Counts{Connected: len(t.in.reporters) > 0, Blind: t.blind, Stranger: t.stranger}
	c.Seen = t.certain.messages + t.certain.parts + t.likely.messages + t.likely.parts
	c.sum(&t.certain, true)
	maybe := !c.Any
	trusted := maybe && (t.likelySince.IsZero() || time.Since(t.likelySince) < t.trust)
	if maybe {
		c.sum(&t.likely, trusted)
		c.Likely = t.likely.messages
	}
	for _, s := range t.in.sessions {
		like := t.match(s.client, s.local)
		if like == foreign || like == likely && (!s.mailed || !trusted) {
			continue
		}
		c.Open++
		c.Any = true
		if s.transaction {
			c.Busy++
			c.Coming += s.size
			if like == likely {
				c.LikelyBusy++
			}
		}
	}
	return c
}

// sum adds what has come from some senders. That they live counts only if they
// are trusted to be the remote.
func (c *Counts) sum(s *sums, trusted bool) {
	c.Messages += s.messages
	c.Parts += s.parts
	c.Wide = c.Wide || s.wide
	c.Bytes += s.bytes
	c.Duplicates += s.duplicates
	if trusted {
		c.Any = c.Any || s.any
		c.Active = latest(c.Active, s.active)
		c.Gap = max(c.Gap, s.gap)
	}
}

// Again counts the messages that came a second time, by the MTA's names of
// them.
func (t *Tally) Again(ours func(queueID string) bool) (n int) {
	t.in.mu.Lock()
	again := t.again // only ever appended to
	t.in.mu.Unlock()
	for _, id := range again {
		if ours(id) {
			n++
		}
	}
	return n
}

// Saw reports whether one of the latest messages had that name, or no milter
// tells of any.
func (t *Tally) Saw(queueID string) bool {
	t.in.mu.Lock()
	defer t.in.mu.Unlock()
	return len(t.in.reporters) == 0 || slices.Contains(t.latest[:], queueID)
}

// seen remembers messages for a while, to tell one that comes a second time:
// when a line is cut between our 250 and its arrival, the other side has to
// send the message again, and nothing in SMTP can tell it not to (RFC 5321,
// section 4.5.3.2.6 and RFC 1047).
type seen struct {
	at map[string]time.Time
}

const (
	seenFor = 48 * time.Hour
	seenMax = 50000
)

// before reports whether a message with the same Message-ID for the same
// recipients has come before, and remembers this one.
func (s *seen) before(ev report.Event, now time.Time) bool {
	key := ev.Digest
	if key == "" {
		return false
	}
	if s.at == nil {
		s.at = map[string]time.Time{}
	}
	last, ok := s.at[key]
	if len(s.at) >= seenMax {
		for k, at := range s.at {
			if now.Sub(at) > seenFor {
				delete(s.at, k)
			}
		}
		if len(s.at) >= seenMax {
			clear(s.at)
		}
	}
	s.at[key] = now
	return ok && now.Sub(last) < seenFor
}
