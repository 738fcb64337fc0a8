package call

import (
	"net/netip"
	"slices"
	"time"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/report"
)

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
	Came       time.Time     // a message came that had not come before; zero: none
	To         int           // recipients of the messages, those of messages that came again left out
	Refused    int           // messages that the local MTA has refused, as a whole
	Rejected   int           // recipients that it has refused of others
	InVain     int           // messages in a row that it has refused as it does whatever the mail
	Broken     int           // messages in a row that have come to nothing, those that it has refused left out
	Vanished   int           // of these and earlier ones, all
	Doomed     int           // of Busy, sessions whose last message it has refused
	For        []string      // domains that it has refused mail for, a few
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
	// What strangers try here is refused every day.
	c.Refused, c.Rejected, c.InVain, c.Why, c.For = t.certain.refused, t.certain.rejected, t.certain.vain, t.certain.why, t.certain.refusedFor
	c.Broken, c.Vanished = t.certain.broken, t.certain.vanished
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
		if s.transaction && !s.doomed {
			c.Busy++
			c.Coming += s.size
			if s.streak > 0 {
				c.Doomed++
			}
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
	c.To += s.to
	if trusted {
		c.Came = latest(c.Came, s.came)
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
func (t *Tally) messageLocked(ev report.Event, again bool, s *sums, now time.Time) {
	if ev.QueueID != "" {
		t.latest[t.next%len(t.latest)] = ev.QueueID
		t.next++
	}
	if again && ev.QueueID != "" && len(t.again) < againMax {
		t.again = append(t.again, ev.QueueID)
	}
	if s != nil {
		s.message(ev, again, now)
	}
}

// sums are what has come from some senders.
type sums struct {
	messages, duplicates int
	parts                int             // of messages that had been counted before
	letters              map[string]bool // that have come
	wide                 bool            // one came that had many recipients
	bytes                int64
	to                   int // recipients
	any                  bool
	active               time.Time
	came                 time.Time     // a message that had not come before
	ended                time.Time     // the last message; zero: another has begun since
	gap                  time.Duration // the longest between two messages

	refused, rejected int // messages, and recipients of others, that the MTA has refused
	vain              int // messages in a row, whatever the mail
	broken, vanished  int // messages that came to nothing for another reason: in a row, and all
	why               receive.Refusal
	refusedFor        []string
}

// maxRefusedFor bounds the domains that are named of refused mail.
const maxRefusedFor = 5

// refuse counts a recipient that the MTA has refused. whole says that it has taken
// none of this message so far, and first that it has refused none before.
func (s *sums) refuse(why receive.Refusal, all bool, domain string, whole, first bool) {
	s.why = s.why.Graver(why)
	if domain != "" {
		s.refusedFor = unite(s.refusedFor, []string{domain})
	}
	switch {
	case !whole:
		s.rejected++
	case first:
		s.refused++
		s.vain++
		if !all {
			s.vain = 0
		}
	}
}

// taken corrects the count of a message that is not refused as a whole.
func (s *sums) taken(recipients int) {
	s.refused--
	s.rejected += recipients
	s.vain = 0
}

// unite adds to a short list what is not in it.
func unite(list, more []string) []string {
	for _, one := range more {
		if len(list) < maxRefusedFor && !slices.Contains(list, one) {
			list = append(slices.Clip(list), one)
		}
	}
	return list
}

func (s *sums) message(ev report.Event, again bool, now time.Time) {
	s.bytes += ev.Size
	s.vain = 0
	if !again {
		s.to += ev.To
		s.came, s.broken = now, 0
	}
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
