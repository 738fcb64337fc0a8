package hold

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// Arrived takes the milter's report of a message that the MTA is about to
// accept. The listing that follows corrects it: the MTA may rewrite
// recipients, or refuse the message after all.
func (m *Manager) Arrived(ev report.Event) {
	if !plainID(ev.QueueID) {
		return
	}
	// Matching may ask the MTA, so it is done before the lock is taken.
	rcpts := make([]mta.Recipient, len(ev.Recipients))
	for i, address := range ev.Recipients {
		rcpts[i].Address = address
	}
	m.mu.Lock()
	set, setAge := m.set, m.setAge
	m.mu.Unlock()
	groups := newSorter(set).sort(nil, rcpts)
	if !ours(groups) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if ev.Time.IsZero() || ev.Time.After(now) {
		ev.Time = now
	}
	m.listByLocked(now.Add(time.Second))
	m.touchedLocked()
	// Reports may come late, when nobody listened at first. What a listing has
	// said since is newer.
	old := m.index.messages[ev.QueueID]
	switch {
	case old == nil && m.listed.After(ev.Time.Add(believed)):
		return
	case old == nil && m.index.unlisted >= maxUnlisted:
		return
	case old != nil && old.place != unlisted && old.since >= ev.Time.UnixMicro():
		return
	}
	// An id may be used again: the MTA has just given this one to a new
	// message, so what was known under it is gone.
	msg := &message{id: ev.QueueID, since: ev.Time.UnixMicro(), setAge: setAge, urgent: urgency(ev.Priority)}
	m.index.put(msg, groups, ev.Time.UnixMicro(), ev.Size, now)
	m.openLocked(msg, now)
	m.index.settle(msg, now)
}

func urgency(p report.Priority) int8 {
	switch p {
	case report.PriorityHigh:
		return 1
	case report.PriorityLow:
		return -1
	}
	return 0
}

// believed is how long a message that the milter reported may be absent from
// listings before it is given up: the MTA may still be writing it.
const believed = 3 * time.Second

// maxUnlisted bounds the messages that only the milter has told of: beyond it
// the listing has to do.
const maxUnlisted = 10000

// plainID reports whether a queue id looks like one: it goes on to commands.
func plainID(id string) bool {
	return id != "" && len(id) <= 64 && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
	})
}

// sorter finds the queues of recipients.
type sorter struct {
	set *queue.Set
	at  map[group]int // scratch: of the parts of one message
}

func newSorter(set *queue.Set) *sorter { return &sorter{set: set, at: map[group]int{}} }

// sort puts recipients together who are in one domain of one queue, and appends
// what comes of it to list. It may ask the MTA.
func (s *sorter) sort(list []group, rcpts []mta.Recipient) []group {
	first := len(list)
	if len(s.at) > 50 {
		s.at = map[group]int{} // clearing takes as long as there is room in it
	}
	clear(s.at)
	for _, r := range rcpts {
		name, _ := s.set.Match(r.Address)
		key := group{queue: name, domain: domainOf(r.Address)}
		reason := held
		if r.Reason != mta.ReasonHeld {
			reason = unique.Make(r.Reason)
		}
		i, ok := first, len(list) > first && list[first].queue == key.queue && list[first].domain == key.domain
		if !ok && len(list) > first {
			i, ok = s.at[key]
		}
		if !ok {
			i = len(list)
			s.at[key] = i
			key.reason = reason
			list = append(list, key)
		}
		g := &list[i]
		g.n++
		if tried(reason) || g.reason == noReason {
			g.reason = reason
		}
	}
	return list
}

// domainOf is the domain of an address in the form that requests are compared
// with; empty if it has none that a request can name.
func domainOf(address string) string {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return ""
	}
	d, err := queue.Domain(address[i+1:])
	if err != nil {
		return ""
	}
	return d
}

// ours reports whether any recipient is in a queue of ours.
func ours(groups []group) bool {
	return slices.ContainsFunc(groups, func(g group) bool { return g.queue != "" })
}

// Listed returns when the last good listing began, how long it took, and the
// error of the last try if that failed.
func (m *Manager) Listed() (at time.Time, took time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listed, m.listTook, m.listErr
}

// Relist asks for a listing now, without waiting for it.
func (m *Manager) Relist() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listAt = time.Time{}
	m.touchedLocked()
}

// Watch makes the Manager look at short intervals, for somebody who waits for
// what becomes of the queue, until the function that it returns is called.
func (m *Manager) Watch() (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers++
	m.listByLocked(time.Now())
	m.touchedLocked()
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.watchers--
	})
}

// listByLocked moves the next listing forward, but never too far.
func (m *Manager) listByLocked(at time.Time) {
	m.listAfterLocked(at, m.pauseLocked())
}

// listAfterLocked is listByLocked with a pause after the listing before.
func (m *Manager) listAfterLocked(at time.Time, pause time.Duration) {
	ended := m.listEnded
	if m.sight.on { // it will, when it takes as long as the one before
		ended = m.sight.began.Add(m.listTook)
	}
	if soonest := ended.Add(pause); at.Before(soonest) {
		at = soonest
	}
	if at.Before(m.listAt) {
		m.listAt = at
	}
}

// pauseLocked bounds the share of time that goes into listing, however long
// the queue is: to a tenth at most, to a quarter while mail is under way, and
// to half of it when a listing is needed to complete the one before, or while
// somebody waits whose line is paid by the minute. That a listing takes long need
// not mean that it is work: Postfix's programs wait when main.cf is new.
func (m *Manager) pauseLocked() time.Duration {
	times := 9
	switch {
	case m.doubt, m.watchers > 0:
		times = 1
	case m.moving:
		times = 3
	}
	return min(time.Duration(times)*m.listTook, m.reconcile)
}

// cadenceLocked is how long until the next listing: short while something is
// expected to move.
func (m *Manager) cadenceLocked(now time.Time) time.Duration {
	d := m.reconcile
	if m.watchers > 0 {
		d = min(d, 500*time.Millisecond)
	}
	for q := range m.open {
		switch {
		case !q.window.open(now):
			m.shutLocked(q)
		case q.window.pinned():
			d = min(d, 500*time.Millisecond)
		default:
			d = min(d, time.Second)
		}
	}
	m.moving = m.index.underWay > 0
	if m.moving {
		// Slower the longer nothing has moved: a connection to a place that
		// has gone quiet takes minutes to time out.
		d = min(d, 500*time.Millisecond*time.Duration(1+min(m.quiet/4, 9)))
	}
	if m.index.missing > 0 {
		d = min(d, 200*time.Millisecond)
	}
	if m.index.unlisted > 0 {
		d = min(d, time.Second)
	}
	return d
}

func (m *Manager) listingDue() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !time.Now().Before(m.listAt)
}

// list compares the index with the MTA's queue.
func (m *Manager) list(ctx context.Context) {
	lctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stamp := m.mta.Stamp(lctx)
	start := time.Now()
	c := m.compare(m.beginListing(start, stamp), start)
	err := m.mta.List(lctx, c.add)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		c.end()
	}
	before := m.endListing(c, stamp, err)
	switch {
	case err != nil && before == nil:
		m.log.Error("cannot list the MTA's queue", "error", err)
	case err == nil && before != nil:
		m.log.Info("the MTA's queue can be listed again")
	}
}

func (m *Manager) beginListing(start time.Time, stamp mta.Stamp) *queue.Set {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sight.begin(start, stamp)
	// Whoever asks for a listing while this one runs wants a newer one.
	m.listAt = start.Add(m.reconcile)
	return m.set
}

// endListing notes how a listing went, and returns the error of the one
// before it.
func (m *Manager) endListing(c *comparison, stamp mta.Stamp, err error) (before error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	before = m.listErr
	m.listTook, m.listEnded, m.listErr = now.Sub(c.start), now, err
	m.sight.end()
	switch {
	case err != nil:
		m.listTook = 0 // says nothing about the next one
		m.listByLocked(now.Add(2 * time.Second))
	case m.set != c.set:
		m.listAt = time.Time{} // the queues have changed meanwhile: once more
		return before
	default:
		m.total, m.listed = c.total, c.start
		m.sight.last = stamp
		if c.moved {
			m.quiet = 0
		} else {
			m.quiet++
		}
		m.adjustLocked()
		m.listByLocked(now.Add(m.cadenceLocked(now)))
	}
	m.notifyLocked()
	return before
}

// compareChunk is how many messages are compared before others get at the
// index.
const compareChunk = 500

// comparison makes the index equal to a listing, as it comes in. It stops when
// the queues change on the way.
type comparison struct {
	m      *Manager
	set    *queue.Set
	start  time.Time // when the listing began
	sorter *sorter
	rest   *nobody // what is in no queue
	chunk  []entry
	groups []group // of the chunk
	total  int     // messages so far
	moved  bool    // anything did
	void   bool    // the queues have changed
}

// entry is a message of a listing, sorted into queues.
type entry struct {
	id      string
	place   place
	arrived int64
	size    int64
	groups  int // where its groups end
}

func (m *Manager) compare(set *queue.Set, start time.Time) *comparison {
	m.listings++
	m.putBy.before, m.putBy.now = m.putBy.now, 0
	return &comparison{m: m, set: set, start: start, sorter: newSorter(set), rest: newNobody(m.routed)}
}

// add takes one message. Matching may ask the MTA, so it is done before the lock
// is taken.
func (c *comparison) add(l mta.Message) {
	c.total++
	if c.void {
		return
	}
	from := len(c.groups)
	c.groups = c.sorter.sort(c.groups, l.Recipients)
	c.rest.add(l, c.groups[from:])
	c.chunk = append(c.chunk, entry{l.ID, placeOf(l), l.Arrived.UnixMicro(), l.Size, len(c.groups)})
	if len(c.chunk) == compareChunk {
		c.present()
	}
}

// end looks for what the listing has not shown.
func (c *comparison) end() {
	c.present()
	if !c.void {
		c.moved = c.m.compareAbsent(c.set, c.start) || c.moved
		c.m.nobodyIs(c.set, c.rest.done())
	}
}

func (c *comparison) present() {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.void = c.void || m.set != c.set; !c.void {
		now := time.Now()
		from := 0
		for _, e := range c.chunk {
			c.moved = m.compareLocked(e, c.groups[from:e.groups], c.start, now) || c.moved
			from = e.groups
		}
	}
	clear(c.chunk)
	clear(c.groups)
	c.chunk, c.groups = c.chunk[:0], c.groups[:0]
}

// compareLocked compares one message of a listing.
func (m *Manager) compareLocked(l entry, groups []group, start, now time.Time) (moved bool) {
	arrived := l.arrived
	msg := m.index.messages[l.id]
	if msg != nil && msg.place != unlisted && msg.arrived != arrived {
		// The id was used again for another message.
		m.goneLocked(msg)
		msg = nil
	}
	if l.place == requeued && (msg == nil || msg.arrived != arrived) {
		return false // it is about to be taken in, and is seen then
	}
	if !ours(groups) && (msg == nil || !msg.wanted() && msg.setAge == m.setAge) {
		return false // none of ours, or its recipients have all been served
	}
	if msg == nil {
		msg = &message{id: l.id}
		m.backLocked(l.id, arrived, l.size, groups, now)
	}
	resorted := msg.setAge != m.setAge
	stays := resorted && m.resortLocked(msg, l.place, groups, start)
	if !stays {
		msg.setAge = m.setAge
	}
	if !ours(groups) && !msg.wanted() {
		m.index.remove(msg) // another configuration has it for nobody
		return true
	}
	moved = msg.place != l.place || msg.recipients() != recipients(groups)
	if msg.place == unlisted {
		msg.since = now.UnixMicro()
		if a := msg.attempt; a != nil && a.want != nil && a.flushes == 0 {
			// It was waited for. One that is still active a flush would not find.
			if a.due = now; l.place != deferred {
				a.due = now.Add(arrivalDelays[0])
			}
		}
	}
	msg.place, msg.missing, msg.listing = l.place, false, m.listings
	if !msg.consistsOf(groups) || msg.arrived != arrived || msg.size != l.size {
		m.replaceLocked(msg, groups, arrived, l.size, resorted, now)
	}
	msg.judge(start, m.putBy.before)
	if msg.putBy() {
		m.putBy.now++
	}
	if msg.place == requeued {
		m.leavesLocked(msg, now)
		m.keepOpenLocked(msg, now)
	}
	// Not only what is new: a message may come off hold, or get under an open
	// window by a reload.
	if a := msg.attempt; !stays && (a == nil || a.want == nil && a.failed == "") {
		m.openLocked(msg, now)
	}
	if !ours(groups) && !msg.wanted() {
		m.index.remove(msg)
		return moved
	}
	m.index.settle(msg, now)
	return moved
}

// replaceLocked changes what is known of a message, and counts what has left
// a queue by that. resorted says that the queues have changed since the
// message was last sorted into them.
func (m *Manager) replaceLocked(msg *message, groups []group, arrived, size int64, resorted bool, now time.Time) {
	before := slices.Collect(msg.queues())
	was := slices.Clone(msg.parts())
	m.index.put(msg, groups, arrived, size, now)
	if !msg.wanted() {
		return
	}
	for _, q := range before {
		if !msg.in(q) && !msg.inheritsFrom(was, q, resorted) {
			q.left.add(msg)
			msg.through(q)
		}
	}
}

// compareAbsent looks for what the listing has not shown.
func (m *Manager) compareAbsent(set *queue.Set, start time.Time) (moved bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	doubt, n := false, 0
	for _, msg := range m.index.messages {
		if n++; n%compareChunk == 0 {
			m.mu.Unlock()
			m.mu.Lock()
		}
		if m.set != set {
			return moved
		}
		if msg.listing == m.listings || !m.index.has(msg) {
			continue
		}
		age, flushed := start.Sub(time.UnixMicro(msg.since)), msg.flushed()
		switch {
		case msg.place == unlisted && age < believed && age > -time.Minute && (age < time.Second || flushed.IsZero() || !start.After(flushed)):
			// Reported by the milter a moment ago. (One that was flushed, and
			// that a listing after that does not show, is gone.)
		case msg.place != unlisted && msg.place != active && !msg.missing:
			// The MTA moves messages from one directory to another while it
			// lists them, so one absence proves nothing. It does for one that
			// was active: showq(8) reads that directory before those to which
			// the message could have gone.
			msg.missing, doubt = true, true
			m.index.settle(msg, now)
		default:
			m.goneLocked(msg)
			moved = true
		}
	}
	m.doubt = doubt
	return moved
}

// goneLocked takes out a message that has left the MTA's queue, and counts it
// if it was released and tried: what waited for its turn was deleted.
func (m *Manager) goneLocked(msg *message) {
	if msg.wanted() && msg.begun() && !m.isBackLocked(msg, time.Now()) {
		for q := range msg.queues() {
			q.left.add(msg)
			msg.through(q)
		}
	}
	m.index.remove(msg)
}
