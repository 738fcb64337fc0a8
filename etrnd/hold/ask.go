package hold

import (
	"context"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/queue"
)

// Ask answers an ETRN for a name as the client sent it: a domain, "@domain"
// or "#queue". The release that it starts goes on by itself: the answer is at
// hand however many messages wait. Only before it says that there are none, it
// may wait for a listing, and keeps nobody else waiting.
func (m *Manager) Ask(ctx context.Context, who etrn.Identity, name string) etrn.Answer {
	return m.ask(ctx, who, func(set *queue.Set) []queue.Selection { return set.Resolve(name) })
}

// AskStripped is Ask for a name that has lost its "@" or "#" on the way, as
// in Postfix's policy protocol. It waits for nothing: whether there is any mail
// cannot be told by that way, and one of Postfix's processes would wait with it.
// Mail of which nobody has told goes when it is found, as the queue is open.
func (m *Manager) AskStripped(who etrn.Identity, name string) etrn.Answer {
	answer, _ := m.answer(who, m.Queues().ResolveStripped(name), nil, true, false)
	return answer
}

func (m *Manager) ask(ctx context.Context, who etrn.Identity, resolve func(*queue.Set) []queue.Selection) etrn.Answer {
	asked := time.Now()
	// Resolving may ask the MTA, so it is done before the lock is taken.
	set := m.Queues()
	sels := resolve(set)
	down := m.Up(ctx)
	answer, sure := m.answer(who, sels, down, true, true)
	if sure {
		return answer
	}
	known := m.lookFor(ctx, sels, asked)
	if now := m.Queues(); now != set {
		sels = resolve(now)
	}
	answer, _ = m.answer(who, sels, down, false, false)
	if !known && answer.Code == 251 {
		// Mail will come if there is any.
		answer = etrn.Answer{Code: 250}
	}
	return answer
}

// answer is what is said by what the index knows, and does it. Not sure means
// that a listing has to be looked at first, if there is time to look: nothing has
// been done then. What is asked for the first time may be asked for too soon.
func (m *Manager) answer(who etrn.Identity, sels []queue.Selection, down error, first, look bool) (a etrn.Answer, sure bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	allowed, interval, length, denied := m.allowedLocked(who, sels)
	if denied != "" {
		// The peer hears the same of a queue that does not exist and of one
		// that is another's: the difference is nobody's business.
		return etrn.Answer{Code: 459, Text: "no queue of yours goes by that name", Log: denied}, true
	}
	if m.listErr != nil || down != nil {
		// What is held now nobody knows, and it could not be let go.
		why := "the MTA's queue cannot be listed"
		if down != nil {
			why = down.Error()
		}
		return etrn.Answer{Code: 458, Text: "the mail server is not available, try again later", Log: why}, true
	}
	if first {
		if wait := m.recent.tooSoon(who, allowed, interval, now); wait > 0 {
			return etrn.Answer{Code: 458, Text: fmt.Sprintf("asked too often, try again in %d s", (wait+time.Second-1)/time.Second), Log: "asked too often"}, true
		}
		if look && m.sight.running && (m.listed.IsZero() || !m.plainLocked(allowed)) {
			return etrn.Answer{}, false
		}
	}
	return m.startLocked(who, allowed, length, now), true
}

// Up is nil unless it is easily seen that the MTA could let nothing go.
func (m *Manager) Up(ctx context.Context) error {
	m.mu.Lock()
	running := m.sight.running
	m.mu.Unlock()
	if !running {
		return nil
	}
	return m.mta.Up(ctx)
}

// startLocked releases what was asked for, and opens its windows.
func (m *Manager) startLocked(who etrn.Identity, allowed []queue.Selection, length time.Duration, now time.Time) etrn.Answer {
	unknown := m.listed.IsZero()
	if unknown {
		// Nothing has been listed yet, so nothing can be counted; what the
		// first listing shows goes out, since the window is open.
		m.listAt = time.Time{}
		length = max(length, time.Minute)
	}
	var started, others, underWay int
	for _, sel := range allowed {
		news, older := m.untoldLocked(sel, who.Session)
		started, others = started+news, others+older
		m.index.queue(sel.Queue).flow.line = who.AtATime
		st := m.releaseLocked(sel, now, true)
		// What only the milter has told of the MTA may not have stored, nor ever
		// store. It goes if it does, and is not promised.
		started, underWay = started+st.Messages-st.Unlisted, underWay+st.UnderWay
		m.windowLocked(sel.Queue).ask(sel, now.Add(length), now)
	}
	if started > 0 {
		for _, sel := range allowed {
			m.toldLocked(sel, who.Session)
		}
	}
	// From now on new mail is looked for at short intervals.
	m.listByLocked(now.Add(time.Second))
	m.touchedLocked()
	switch {
	case unknown:
		return etrn.Answer{Code: 250}
	case started == 0 && underWay > 0:
		return etrn.Answer{Code: 458, Text: fmt.Sprintf("already under way, %d pending", underWay), Log: "already under way"}
	case started == 0:
		return etrn.Answer{Code: 251}
	}
	// What is under way from an earlier request comes as well, to a client
	// that has not been told of it: it may have lost its line meanwhile.
	return etrn.Answer{Code: 253, Count: started + others}
}

// plainLocked reports whether the index is enough to answer: there is something,
// and a listing has shown all of it.
func (m *Manager) plainLocked(sels []queue.Selection) bool {
	some := false
	for _, sel := range sels {
		q := m.index.queues[sel.Queue]
		if q == nil {
			continue
		}
		if q.unlisted > 0 {
			return false
		}
		if some || len(q.messages) <= q.count[classOnHold] {
			continue
		}
		if sel.Domain == "" {
			some = true
			continue
		}
		for msg := range m.index.covered(sel) {
			if some = msg.place != onHold; some {
				break
			}
		}
	}
	return some
}

// fresh is how long a message is waited for that the milter has told of just now:
// the MTA stores it after that, if it does.
const fresh = time.Second

// lookFor looks until the index is as new as a question about selections, and
// nothing that only the milter has told of is so new that a listing may just
// have missed it.
func (m *Manager) lookFor(ctx context.Context, sels []queue.Selection, asked time.Time) bool {
	for since, cheap := asked, true; ; since, cheap = time.Now(), false {
		if !m.look(ctx, since, cheap) {
			return false
		}
		if !m.expected(sels, asked) {
			return true
		}
		select {
		case <-time.After(fresh / 4):
		case <-ctx.Done():
			return false
		}
	}
}

// expected reports whether a message was reported that listings have not shown,
// and that they may still show. What comes after the question is another matter.
func (m *Manager) expected(sels []queue.Selection, asked time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.sight.running {
		return false
	}
	for _, sel := range sels {
		q := m.index.queues[sel.Queue]
		if q == nil || q.unlisted == 0 {
			continue
		}
		for msg := range m.index.covered(sel) {
			since := time.UnixMicro(msg.since)
			if msg.place == unlisted && !since.After(asked) && m.listed.Sub(since) < fresh && m.listed.Sub(asked) < fresh {
				return true
			}
		}
	}
	return false
}

// Count is how many messages wait in selections, on hold aside. Before it says
// that there are none, it looks; it is not ok if it could not, or if the MTA could
// not let them go.
func (m *Manager) Count(ctx context.Context, sels ...queue.Selection) (n int, ok bool) {
	count := func() (n int, doubt bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, sel := range sels {
			for msg := range m.index.covered(sel) {
				switch msg.place {
				case unlisted:
					doubt = true
				case onHold:
				default:
					n++
				}
			}
		}
		return n, doubt || m.listed.IsZero() || m.listErr != nil
	}
	asked := time.Now()
	if m.Up(ctx) != nil {
		return 0, false
	}
	if n, doubt := count(); n > 0 && !doubt {
		return n, true
	}
	if !m.lookFor(ctx, sels, asked) {
		return 0, false
	}
	n, _ = count()
	return n, true
}

// allowedLocked is what of the selections that a name stands for somebody may
// have, with the least time between two requests and the time that the queues
// stay open. A reason for the log means that he may have none: whoever may not
// ask for the first selection may not ask for the name.
func (m *Manager) allowedLocked(who etrn.Identity, sels []queue.Selection) (allowed []queue.Selection, interval, length time.Duration, denied string) {
	if len(sels) == 0 {
		return nil, 0, 0, "no queue goes by that name"
	}
	for i, sel := range sels {
		q, ok := m.set.ByName(sel.Queue)
		if !ok || !q.MayAsk(who) {
			if i == 0 {
				return nil, 0, 0, fmt.Sprintf("queue %s lists neither this address, nor this user, nor this certificate", sel.Queue)
			}
			continue
		}
		allowed = append(allowed, sel)
		interval, length = max(interval, q.MinInterval), max(length, q.Window)
	}
	return allowed, interval, length, ""
}

// untoldLocked counts what a selection has under way that the client of a
// session has not been told of: news is what nobody has, since it goes because
// the queue is open, and others what another session was told of.
func (m *Manager) untoldLocked(sel queue.Selection, session string) (news, others int) {
	q := m.index.queues[sel.Queue]
	if q == nil || q.count[classUnderWay] == 0 {
		return 0, 0
	}
	for msg := range m.eachLocked(sel) {
		switch {
		case msg.place == onHold || msg.place == unlisted || !msg.wantedFor(q):
		case !msg.attempt.told:
			news++
		case msg.attempt.session != session:
			others++
		}
	}
	return news, others
}

// toldLocked notes that the client of a session has been told of a selection.
func (m *Manager) toldLocked(sel queue.Selection, session string) {
	for msg := range m.eachLocked(sel) {
		if msg.wanted() && msg.place != unlisted {
			msg.attempt.session, msg.attempt.told = session, true
		}
	}
}
