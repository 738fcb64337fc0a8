package hold

import (
	"container/heap"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/queue"
)

// index is what the MTA has for each queue: sums that are kept as messages
// change, so that no question counts anything, and lists for each domain of a
// queue, so that a release looks at what it moves and at nothing else.
//
// It is data only: it calls nobody, and the Manager's mu guards it. Whoever
// changes a message's place, absence or attempt calls settle afterwards.
type index struct {
	messages map[string]*message // by the MTA's id
	queues   map[string]*queueIndex
	domains  map[domainKey]*domainIndex

	later  byDue         // what is to be flushed or tried again at a time to come
	rounds []*queueIndex // those that have something to be flushed now
	next   int           // in rounds: whose turn it is

	ready    int // messages to be flushed now
	unlisted int // messages that no listing has shown yet
	missing  int // messages that were absent from the last listing, once
	underWay int // messages that are to go and have not gone
	inHand   int // of these, those that the MTA tries

	moving map[*queueIndex]struct{} // those with something in the MTA's hand

	links uint32 // counts calls of link
	made  int    // counts queues, those included that are gone
}

// queueIndex is one queue. That of the name "" is of the recipients who are in
// no queue of ours, next to others of the same message who are.
type queueIndex struct {
	name     string
	made     int   // its number, in the order in which they were made
	messages byAge // one part for each message: the first in this queue
	domains  []*domainIndex
	failed   []*part // of those, what was tried and has come back
	bytes    int64
	count    [classes]int
	unlisted int // messages that no listing has shown yet

	ready   byTurn // what is to be flushed now for this queue; see refile
	inRound int    // where it is in index.rounds, while anything is ready
	flow    flow

	window *window // nil: shut
	// followers are those who follow the queue, and away what has left it meanwhile
	// undelivered: sizes of messages, by the MTA's id.
	followers int
	away      map[string]int64
	left      Left
	released  time.Time // the last release
	linked    uint32    // the call of link that saw this queue last
}

// domainIndex is one domain of a queue. The empty domain stands for what no
// request can name.
type domainIndex struct {
	queue *queueIndex
	name  string
	parts []*part // one for each message
	at    int     // in queue.domains
}

// domainKey is the name of a domainIndex: one map for all queues, since most
// have a domain or two.
type domainKey struct {
	queue  *queueIndex
	domain string
}

// class is what a message counts as in a queue.
type class uint8

const (
	classWaiting  class = iota
	classUnderWay       // released, and neither gone nor back
	classOnHold         // put on hold by an administrator
	classFailed
	classRetry // failed, and about to be tried a second time if the queue is pinned
	classes    = iota
)

func newIndex() index {
	return index{
		messages: map[string]*message{}, queues: map[string]*queueIndex{}, domains: map[domainKey]*domainIndex{},
		moving: map[*queueIndex]struct{}{},
	}
}

// queue returns a queue's index, and makes it at first.
func (ix *index) queue(name string) *queueIndex {
	q := ix.queues[name]
	if q == nil {
		q = &queueIndex{name: name, made: ix.made}
		ix.made++
		ix.queues[name] = q
	}
	return q
}

func (ix *index) domain(g group) *domainIndex {
	q := ix.queue(g.queue)
	d := ix.domains[domainKey{q, g.domain}]
	if d == nil {
		// The name may be a part of an address, which nobody needs to keep.
		name := strings.Clone(g.domain)
		d = &domainIndex{queue: q, name: name, at: len(q.domains)}
		q.domains = append(q.domains, d)
		ix.domains[domainKey{q, name}] = d
	}
	return d
}

// covered yields the messages of a selection, each once. They may be released
// and taken back meanwhile, but not put in or taken out.
func (ix *index) covered(sel queue.Selection) iter.Seq[*message] {
	return func(yield func(*message) bool) {
		q := ix.queues[sel.Queue]
		switch {
		case q == nil:
		case sel.Domain == "":
			for _, p := range q.messages {
				if !yield(p.message) {
					return
				}
			}
		case !sel.Below:
			if d := ix.domains[domainKey{q, sel.Domain}]; d != nil {
				for _, p := range d.parts {
					if !yield(p.message) {
						return
					}
				}
			}
		default:
			for _, d := range q.domains {
				if !sel.CoversDomain(d.name) {
					continue
				}
				for _, p := range d.parts {
					if p.message.firstCovered(sel) == p && !yield(p.message) {
						return
					}
				}
			}
		}
	}
}

// put makes msg what the index knows under its id. The message may be there
// already, or be new, and in the place of another.
func (ix *index) put(msg *message, groups []group, arrived, size int64, now time.Time) {
	switch old := ix.messages[msg.id]; old {
	case nil:
	case msg:
		ix.unlink(msg)
	default:
		ix.remove(old)
	}
	was := slices.Clone(msg.parts())
	msg.arrived, msg.size = arrived, size
	parts := msg.makeParts(len(groups))
	for i, g := range groups {
		parts[i] = part{message: msg, domain: ix.domain(g), reason: g.reason, n: g.n}
	}
	ix.messages[msg.id] = msg
	ix.link(msg, now)
	ix.prune(was)
}

// remove takes a message out.
func (ix *index) remove(msg *message) {
	ix.unlink(msg)
	delete(ix.messages, msg.id)
	ix.prune(msg.parts())
}

// has reports whether a message is still in the index: another may have come
// in its place.
func (ix *index) has(msg *message) bool { return ix.messages[msg.id] == msg }

// link enters a message into all lists and sums.
func (ix *index) link(msg *message, now time.Time) {
	ix.links++
	for i := range msg.parts() {
		p := &msg.parts()[i]
		d, q := p.domain, p.domain.queue
		p.inDomain = int32(len(d.parts))
		d.parts = push(d.parts, p)
		p.inQueue, p.inFailed, p.inReady, p.class = -1, -1, -1, classWaiting
		if q.linked == ix.links {
			continue // the message has a part in this queue already
		}
		q.linked = ix.links
		heap.Push(&q.messages, p)
		delete(q.away, msg.id)
		q.bytes += msg.size
		q.count[classWaiting]++
	}
	ix.settle(msg, now)
}

// unlink takes it out of them.
func (ix *index) unlink(msg *message) {
	for i := range msg.parts() {
		p := &msg.parts()[i]
		d, q := p.domain, p.domain.queue
		last := d.parts[len(d.parts)-1]
		d.parts[p.inDomain], last.inDomain = last, p.inDomain
		d.parts = cut(d.parts)
		if p.first() {
			q.classify(p, classWaiting)
			q.count[classWaiting]--
			if msg.tallied&markUnlisted != 0 {
				q.unlisted--
			}
			q.bytes -= msg.size
			heap.Remove(&q.messages, int(p.inQueue))
		}
	}
	ix.unfile(msg)
	ix.charge(msg, nil)
	ix.tally(msg, 0)
}

// prune forgets domains of which nothing is left.
func (ix *index) prune(parts []part) {
	for i := range parts {
		d := parts[i].domain
		if len(d.parts) > 0 || d.at < 0 {
			continue
		}
		q := d.queue
		last := q.domains[len(q.domains)-1]
		q.domains[d.at], last.at = last, d.at
		q.domains = cut(q.domains)
		d.at = -1
		delete(ix.domains, domainKey{q, d.name})
	}
}

// push puts an element at the end. Short lists, as most are, get a quarter of
// their length to spare, where append would double them.
func push[E any](s []E, e E) []E {
	if len(s) == cap(s) {
		s = append(make([]E, 0, len(s)+len(s)/4+2), s...)
	}
	return append(s, e)
}

// cut takes the last element off, and gives memory back when most of it is
// unused: a queue that has been emptied stays configured.
func cut[E any](s []*E) []*E {
	s[len(s)-1] = nil
	s = s[:len(s)-1]
	if cap(s) >= 32 && len(s) <= cap(s)/4 {
		s = slices.Clone(s)
	}
	return s
}

// settle brings sums and time tables in line with a message whose place,
// absence or attempt has changed.
func (ix *index) settle(msg *message, now time.Time) {
	for i := range msg.parts() {
		if p := &msg.parts()[i]; p.first() {
			p.domain.queue.classify(p, msg.classIn(p.domain.queue))
		}
	}
	ix.tally(msg, msg.marks())
	if a := msg.attempt; a != nil {
		ix.charge(msg, msg.places())
	}
	ix.refile(msg, now)
	if msg.attempt.over() {
		msg.attempt = nil
	}
}

func (q *queueIndex) classify(p *part, to class) {
	if p.class == to {
		return
	}
	q.count[p.class]--
	q.count[to]++
	p.class = to
	switch back := to == classFailed || to == classRetry; {
	case back && p.inFailed < 0:
		p.inFailed = int32(len(q.failed))
		q.failed = append(q.failed, p)
	case !back && p.inFailed >= 0:
		last := q.failed[len(q.failed)-1]
		q.failed[p.inFailed], last.inFailed = last, p.inFailed
		q.failed = cut(q.failed)
		p.inFailed = -1
	}
}

// Marks of a message that the sums over all queues count.
const (
	markUnlisted = 1 << iota
	markMissing
	markUnderWay
)

func (ix *index) tally(msg *message, marks uint8) {
	if marks == msg.tallied {
		return
	}
	// A message that is being taken out has been taken off its queues before.
	if n := int(marks&markUnlisted) - int(msg.tallied&markUnlisted); n != 0 {
		for q := range msg.all() {
			q.unlisted += n
		}
	}
	count := func(n *int, mark uint8) { *n += int(marks&mark/mark) - int(msg.tallied&mark/mark) }
	count(&ix.unlisted, markUnlisted)
	count(&ix.missing, markMissing)
	count(&ix.underWay, markUnderWay)
	msg.tallied = marks
}

// byAge is a heap of parts, the oldest message first.
type byAge []*part

func (h byAge) Len() int           { return len(h) }
func (h byAge) Less(i, j int) bool { return h[i].message.arrived < h[j].message.arrived }
func (h byAge) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].inQueue, h[j].inQueue = int32(i), int32(j)
}
func (h *byAge) Push(x any) {
	p := x.(*part)
	p.inQueue = int32(len(*h))
	*h = push(*h, p)
}
func (h *byAge) Pop() any {
	p := (*h)[len(*h)-1]
	*h = cut(*h)
	p.inQueue = -1
	return p
}

// rebuilt is an index of the same messages whose sums and lists are made anew.
func (ix *index) rebuilt(now time.Time) index {
	fresh := newIndex()
	fresh.made = ix.made
	for name, q := range ix.queues {
		// The same place in memory: attempts know their queues by it.
		*q = queueIndex{name: name, made: q.made, window: q.window, followers: q.followers, away: q.away, left: q.left, released: q.released, flow: flow{limits: q.flow.limits, line: q.flow.line}}
		fresh.queues[name] = q
	}
	for _, msg := range ix.messages {
		groups := make([]group, len(msg.parts()))
		for i, p := range msg.parts() {
			groups[i] = group{queue: p.domain.queue.name, domain: p.domain.name, reason: p.reason, n: p.n}
		}
		msg.makeParts(0)
		msg.tallied = 0
		if a := msg.attempt; a != nil {
			a.filed, a.ready, a.charged, a.by = time.Time{}, false, nil, nil
		}
		fresh.put(msg, groups, msg.arrived, msg.size, now)
	}
	return fresh
}
