package hold

import (
	"cmp"
	"iter"
	"slices"
	"time"
	"unique"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// message is one message of the MTA's queue that has a recipient in a queue of
// ours. There may be a hundred thousand: what most of them lack is in attempt.
type message struct {
	id      string
	arrived int64 // microseconds since 1970: a time.Time takes three times the room
	size    int64
	// since is when the milter reported the message, until a listing shows it;
	// from there on when the first listing that showed it had ended.
	since   int64
	one     [1]part  // the only part, as most messages have; see parts
	more    *[]part  // all of them, if there are several
	attempt *attempt // what a release has made of it; nil: nothing
	listing uint16   // the number of the last listing that showed it
	place   place
	missing bool  // absent from the last listing; a second absence means gone
	tallied uint8 // the marks that the index has counted
	setAge  uint8 // the Manager's when its recipients were sorted into queues
	urgent  int8  // 1, 0 or -1: as its sender stated it, as far as the milter told
}

// place is the MTA's queue that a message is in.
type place uint8

const (
	unlisted place = iota // no listing has shown it yet
	incoming
	active
	deferred
	onHold
	requeued // in maildrop, where it was moved by an administrator
	elsewhere
)

var places = map[string]place{"incoming": incoming, "active": active, "deferred": deferred, "hold": onHold, "maildrop": requeued}

func placeOf(m mta.Message) place {
	if p, ok := places[m.Queue]; ok {
		return p
	}
	return elsewhere
}

// part is the recipients of a message who are in one domain of one queue.
type part struct {
	message *message
	domain  *domainIndex
	reason  unique.Handle[string] // why the MTA has not delivered, see group
	n       int32                 // recipients

	inDomain int32 // where it is in domain.parts
	inQueue  int32 // in domain.queue.messages; -1: an earlier part stands for the message
	inFailed int32 // in domain.queue.failed; -1: not
	inReady  int32 // in domain.queue.ready; -1: not
	class    class
}

// first reports whether the part is the first of its message in its queue,
// and so stands for it there.
func (p *part) first() bool { return p.inQueue >= 0 }

// parts are all parts of a message, in the place where they are.
func (msg *message) parts() []part {
	switch {
	case msg.more != nil:
		return *msg.more
	case msg.one[0].message == nil:
		return nil
	}
	return msg.one[:]
}

// makeParts makes room for n parts, in place of those that there were.
func (msg *message) makeParts(n int) []part {
	msg.one, msg.more = [1]part{}, nil
	if n == 1 {
		return msg.one[:]
	}
	if n > 1 {
		list := make([]part, n)
		msg.more = &list
		return list
	}
	return nil
}

// group is a part before the index has it.
type group struct {
	queue, domain string // queue is empty for recipients in no queue of ours
	// reason of one that was tried, if any was; mta.ReasonHeld, or empty
	// while there is none.
	reason unique.Handle[string]
	n      int32
}

func recipients(groups []group) (n int) {
	for _, g := range groups {
		n += int(g.n)
	}
	return n
}

var (
	noReason = unique.Make("")
	held     = unique.Make(mta.ReasonHeld) // waits for its release, and for nothing else
	astray   = unique.Make(mta.ReasonNobody)
)

// ReasonNobody is the Reason of a State when the MTA keeps the mail for nobody, as it
// is set up: for another configuration than the present one.
const ReasonNobody = mta.ReasonNobody

// waits reports whether mail waits on our account, and was not tried.
func waits(reason unique.Handle[string]) bool { return reason == held || reason == astray }

func tried(reason unique.Handle[string]) bool { return reason != noReason && reason != held }

// attempt is a release of a message and what became of it.
type attempt struct {
	want queueList // for which the message is to go; nil: none, or it has ended
	// due is when to flush (again) what is wanted, and when to try again what
	// failed, if a queue of it is pinned then. Zero: what a listing shows
	// will tell.
	due     time.Time
	flushed time.Time // when the last flush was done
	flushes int32     // of this release
	nudges  int8      // flushes since then of what the MTA has put by
	again   bool      // asked for once more while under way: if it fails, try at once
	asked   bool      // released by request, not only because a queue was open
	last    bool      // nobody wants it any more: not to be flushed again
	inHand  bool      // the MTA tries it, as far as is known, or is about to
	begun   bool      // it may have tried it for this release
	told    bool      // to a client, in a count
	session string    // of the client that was last told

	failed   string // the MTA's reason; empty: not tried, or under way
	failures int32

	// Of the index.
	filed   time.Time   // the due time under which it is in a heap; zero: in none
	turn    int32       // the flushes under which it is in one
	at      int32       // where in that of later
	ready   bool        // in those of what is ready, of its queues
	by      *queueIndex // whose place it was taken for; nil: for those of all its queues
	charged queueList   // of which it takes a place while it is in the MTA's hand
}

// queueList are queues in the order of their making: there may be a thousand for
// one message, and each is looked for again and again.
type queueList []*queueIndex

func (l queueList) find(q *queueIndex) (i int, ok bool) {
	return slices.BinarySearchFunc(l, q, func(a, b *queueIndex) int { return cmp.Compare(a.made, b.made) })
}

func (l queueList) has(q *queueIndex) bool {
	_, ok := l.find(q)
	return ok
}

// with is the list and a queue that is not in it.
func (l queueList) with(q *queueIndex) queueList {
	i, _ := l.find(q)
	return slices.Insert(l, i, q)
}

// over reports whether nothing is left to remember.
func (a *attempt) over() bool {
	return a != nil && a.want == nil && a.due.IsZero() && a.failed == "" && a.failures == 0 && !a.told && a.charged == nil
}

// stop ends a release.
func (a *attempt) stop() {
	a.want, a.due, a.again, a.asked, a.inHand, a.begun = nil, time.Time{}, false, false, false, false
}

func (msg *message) wanted() bool { return msg.attempt != nil && msg.attempt.want != nil }

func (msg *message) wantedFor(q *queueIndex) bool {
	return msg.attempt != nil && msg.attempt.want.has(q)
}

// stillFor are the queues for which it is to go and has recipients left.
func (msg *message) stillFor() queueList {
	want, n := msg.attempt.want, 0
	for q := range msg.all() {
		if want.has(q) {
			n++
		}
	}
	if n == len(want) {
		return want
	}
	left := make(queueList, 0, n)
	for q := range msg.all() {
		if want.has(q) {
			left = left.with(q)
		}
	}
	return left
}

// begun reports whether the MTA may have tried what was released.
func (msg *message) begun() bool {
	switch msg.place {
	case requeued:
		return false
	case active, incoming:
		return true
	case unlisted:
		return !msg.flushed().IsZero()
	}
	return msg.attempt.begun
}

// flushed is when the last flush was done; zero: never.
func (msg *message) flushed() time.Time {
	if msg.attempt == nil {
		return time.Time{}
	}
	return msg.attempt.flushed
}

// classIn is what the message counts as in a queue.
func (msg *message) classIn(q *queueIndex) class {
	a := msg.attempt
	switch {
	case msg.wantedFor(q):
		return classUnderWay
	case msg.place == onHold:
		return classOnHold
	case a == nil || a.failed == "":
		return classWaiting
	case a.failures == 1 && !a.due.IsZero():
		return classRetry
	}
	return classFailed
}

func (msg *message) marks() (marks uint8) {
	if msg.place == unlisted {
		marks |= markUnlisted
	}
	if msg.missing {
		marks |= markMissing
	}
	if msg.wanted() {
		marks |= markUnderWay
	}
	return marks
}

// queues yields the message's queues, each once.
func (msg *message) queues() iter.Seq[*queueIndex] {
	return func(yield func(*queueIndex) bool) {
		for q := range msg.all() {
			if q.name != "" && !yield(q) {
				return
			}
		}
	}
}

// all are its queues, and that of the recipients who are in none.
func (msg *message) all() iter.Seq[*queueIndex] {
	return func(yield func(*queueIndex) bool) {
		for i := range msg.parts() {
			if p := &msg.parts()[i]; p.first() && !yield(p.domain.queue) {
				return
			}
		}
	}
}

// domains yields the domains of its recipients. One may come twice, if it is
// in two queues.
func (msg *message) domains() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range msg.parts() {
			if !yield(msg.parts()[i].domain.name) {
				return
			}
		}
	}
}

// in reports whether the message has a recipient in a queue.
func (msg *message) in(q *queueIndex) bool {
	return slices.ContainsFunc(msg.parts(), func(p part) bool { return p.domain.queue == q })
}

// inheritsFrom reports whether recipients that were in a queue are in another
// one now, as after a reload that has moved their domain (resorted), or are in
// none, as when their domain has turned out to be this host's own.
func (msg *message) inheritsFrom(was []part, q *queueIndex, resorted bool) bool {
	inNone := func(parts []part, domain string) bool {
		return slices.ContainsFunc(parts, func(p part) bool { return p.domain.name == domain && p.domain.queue.name == "" })
	}
	return slices.ContainsFunc(was, func(old part) bool {
		if old.domain.queue != q {
			return false
		}
		if !resorted {
			return inNone(msg.parts(), old.domain.name) && !inNone(was, old.domain.name)
		}
		return slices.ContainsFunc(msg.parts(), func(p part) bool { return p.domain.name == old.domain.name })
	})
}

// recipients is how many it has.
func (msg *message) recipients() (n int) {
	for i := range msg.parts() {
		n += int(msg.parts()[i].n)
	}
	return n
}

// consistsOf reports whether the message has just these parts.
func (msg *message) consistsOf(groups []group) bool {
	return slices.EqualFunc(msg.parts(), groups, func(p part, g group) bool {
		return p.n == g.n && p.reason == g.reason && p.domain.name == g.domain && p.domain.queue.name == g.queue
	})
}

func (msg *message) covered(sel queue.Selection) bool { return msg.firstCovered(sel) != nil }

// firstCovered is the first part that a selection means.
func (msg *message) firstCovered(sel queue.Selection) *part {
	for i := range msg.parts() {
		if d := msg.parts()[i].domain; d.queue.name == sel.Queue && sel.CoversDomain(d.name) {
			return &msg.parts()[i]
		}
	}
	return nil
}

// release asks for the message to go for one queue, and reports whether that
// was not under way already.
func (msg *message) release(q *queueIndex, now time.Time) bool {
	if msg.attempt == nil {
		msg.attempt = &attempt{}
	}
	a := msg.attempt
	if a.want.has(q) {
		a.again, a.last = true, false
		return false
	}
	a.want = a.want.with(q)
	a.due, a.flushed, a.flushes, a.nudges, a.inHand = now, time.Time{}, 0, 0, false
	a.failed, a.again, a.last = "", false, false
	return true
}

// end closes a release; an empty reason means that nothing is left to go.
func (a *attempt) end(msg *message, reason string, now time.Time) {
	again, want, asked := a.again && reason != "", a.want, a.asked
	a.stop()
	a.failed = reason
	if reason == "" {
		a.failures = 0
		return
	}
	if again {
		// The try that follows at once is not the second one.
		a.asked = asked
		for _, q := range want {
			msg.release(q, now)
		}
		return
	}
	if a.failures++; reason == mta.ReasonNobody {
		a.failures = max(a.failures, 2) // at once it would be the same
	}
	a.due = now.Add(retryDelay(int(a.failures)))
}

// retryDelay is how long a message that failed while its queue is pinned open
// waits: short at first, since a link that has just come up may lack a route
// for a moment, and longer each time, since line time is paid.
func retryDelay(failures int) time.Duration {
	return min(5*time.Second*time.Duration(1<<min(2*(failures-1), 10)), 5*time.Minute)
}

// drop takes back a release for one queue. What the MTA is trying at this
// moment is followed to its end, but not flushed again. kept says that another
// call or turn still wants the message.
func (msg *message) drop(q *queueIndex, kept bool) {
	a := msg.attempt
	if a == nil {
		return
	}
	if !kept {
		a.again = false
		if a.want == nil {
			a.due = time.Time{} // not tried again
		}
	}
	begun := !a.flushed.IsZero() && msg.place != deferred
	if a.want.has(q) && begun && len(a.want) == 1 {
		a.due, a.last = time.Time{}, true
		return
	}
	a.unwant(q)
}

// unwant ends a release for one queue.
func (a *attempt) unwant(q *queueIndex) {
	if !a.want.has(q) {
		return
	}
	a.want = slices.DeleteFunc(a.want, func(w *queueIndex) bool { return w == q })
	if len(a.want) == 0 {
		a.stop()
	}
}

// Delays between the flushes of a message that has just arrived: it is in
// Postfix's active queue for a moment, where a flush does not find it, before
// it is deferred.
var arrivalDelays = []time.Duration{150 * time.Millisecond, 450 * time.Millisecond, 900 * time.Millisecond, 2 * time.Second, 4 * time.Second}

// nudgeDelay is how long what was flushed may be in the incoming queue before it is
// flushed once more, after so many times. It passes that queue within moments, unless
// the MTA has no place for it, or was reloaded while it tried the message: Postfix's
// new queue manager finds that the old one's delivery still goes on, and puts the
// message by for minimal_backoff_time, five minutes, however soon that delivery ends
// ("skipped, still being delivered"). A flush makes it look again. Deliveries may
// take long, so the number of these flushes has no bound; the time that they take
// has one, however many messages there are.
func nudgeDelay(nudges int8, messages int) time.Duration {
	return min(firstNudge<<nudges, lastNudge) + time.Duration(messages)*perNudge
}

const (
	firstNudge = 2 * time.Second
	lastNudge  = 15 * time.Second
	perNudge   = 50 * time.Millisecond // some ten times what a flush takes
)

// putBy reports whether a message that is due is to be flushed for that: it has its
// place among what the MTA has in hand.
func (msg *message) putBy() bool { return msg.wanted() && msg.attempt.inHand && msg.place == incoming }

// maxTries bounds the flushes of one release that have no effect.
const maxTries = 12

// judge looks at a message whose release is under way, as a listing that began
// at listed shows it; putBy is how many the one before has shown to be put by.
func (msg *message) judge(listed time.Time, putBy int) {
	if !msg.wanted() {
		return
	}
	a := msg.attempt
	var left bool
	var reason string
	for i := range msg.parts() {
		p := &msg.parts()[i]
		if !a.want.has(p.domain.queue) {
			continue
		}
		left = true
		if tried(p.reason) {
			reason = p.reason.Value()
		}
	}
	if left {
		a.want = msg.stillFor()
	}
	switch {
	case !left:
		// All recipients of the released queues have their mail.
		a.end(msg, "", listed)
	case msg.place == onHold:
		// An administrator's doing; it counts as such, not as a failure.
		a.stop()
	case msg.place == requeued:
		// It goes under its new id.
		a.due, a.flushed, a.inHand = time.Time{}, time.Time{}, false
	case a.flushed.IsZero() || listed.Before(a.flushed):
		// Not flushed yet, or the listing is older than the flush.
	case msg.place == incoming && !a.last && !listed.Before(a.flushed.Add(nudgeDelay(a.nudges, putBy))):
		// It has been seen to stay there by the MTA, if that has been started
		// anew meanwhile.
		a.due = listed
	case msg.place != deferred:
		// Being tried, or about to be: a further flush would find nothing.
		a.due = time.Time{}
	case reason != "":
		a.end(msg, reason, listed)
	case a.last:
		// Not tried after all, and not wanted any more.
		a.stop()
	case a.flushes >= maxTries:
		a.end(msg, "the MTA does not let it go", listed)
	case a.due.IsZero():
		// Deferred, and for no other reason than its transport: the flush
		// came too early to find it.
		a.due, a.inHand = listed, false
	}
}
