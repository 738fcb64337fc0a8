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
// hand however many messages wait.
func (m *Manager) Ask(_ context.Context, who etrn.Identity, name string) etrn.Answer {
	return m.ask(who, m.Queues().Resolve(name))
}

// AskStripped is Ask for a name that has lost its "@" or "#" on the way, as
// in Postfix's policy protocol.
func (m *Manager) AskStripped(who etrn.Identity, name string) etrn.Answer {
	return m.ask(who, m.Queues().ResolveStripped(name))
}

func (m *Manager) ask(who etrn.Identity, sels []queue.Selection) etrn.Answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	allowed, interval, length, denied := m.allowedLocked(who, sels)
	if denied != "" {
		// The peer hears the same of a queue that does not exist and of one
		// that is another's: the difference is nobody's business.
		return etrn.Answer{Code: 459, Text: "no queue of yours goes by that name", Log: denied}
	}
	if m.listErr != nil {
		// What is held now nobody knows, and it could not be let go.
		return etrn.Answer{Code: 458, Text: "the mail server is not available, try again later", Log: "the MTA's queue cannot be listed"}
	}
	if wait := m.tooSoonLocked(who, allowed, interval, now); wait > 0 {
		return etrn.Answer{Code: 458, Text: fmt.Sprintf("asked too often, try again in %d s", (wait+time.Second-1)/time.Second), Log: "asked too often"}
	}

	unknown := m.listed.IsZero()
	if unknown {
		// Nothing has been listed yet, so nothing can be counted; what the
		// first listing shows goes out, since the window is open.
		m.listAt = time.Time{}
		length = max(length, time.Minute)
	}
	var started, others, underWay int
	for _, sel := range allowed {
		others += m.untoldLocked(sel, who.Session)
		st := m.releaseLocked(sel, now, true)
		started, underWay = started+st.Messages, underWay+st.UnderWay
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
// session has not been told of.
func (m *Manager) untoldLocked(sel queue.Selection, session string) (n int) {
	q := m.index.queues[sel.Queue]
	if q == nil || q.count[classUnderWay] == 0 {
		return 0
	}
	for msg := range m.index.covered(sel) {
		if msg.place != onHold && msg.wantedFor(q) && msg.attempt.session != session {
			n++
		}
	}
	return n
}

// toldLocked notes that the client of a session has been told of a selection.
func (m *Manager) toldLocked(sel queue.Selection, session string) {
	for msg := range m.index.covered(sel) {
		if msg.wanted() {
			msg.attempt.session = session
		}
	}
}

// maxRecent bounds the requests that are remembered. They are forgotten as
// soon as they may come again, so that only a flood gets there.
const maxRecent = 10000

// tooSoonLocked is how long somebody has to wait before he may make a request
// again; zero: he may make it now, and it is remembered.
func (m *Manager) tooSoonLocked(who etrn.Identity, sels []queue.Selection, interval time.Duration, now time.Time) time.Duration {
	if now.Sub(m.forgot) >= time.Second {
		m.forgot = now
		for key, until := range m.recent {
			if !now.Before(until) {
				delete(m.recent, key)
			}
		}
	}
	key := fmt.Sprint(sels, who.User, who.Addr)
	if until, ok := m.recent[key]; ok && now.Before(until) || len(m.recent) >= maxRecent {
		return max(until.Sub(now), time.Second)
	}
	m.recent[key] = now.Add(interval)
	return 0
}
