package hold

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/queue"
)

// Ask answers an ETRN for a name as the client sent it: a domain, "@domain"
// or "#queue". The release that it starts goes on by itself: the answer is at
// hand however many messages wait.
func (k *Manager) Ask(_ context.Context, who etrn.Identity, name string) etrn.Answer {
	return k.ask(who, name, k.Queues().Resolve(name))
}

// AskStripped is Ask for a name that has lost its "@" or "#" on the way, as
// in Postfix's policy protocol.
func (k *Manager) AskStripped(who etrn.Identity, name string) etrn.Answer {
	return k.ask(who, name, k.Queues().ResolveStripped(name))
}

func (k *Manager) ask(who etrn.Identity, name string, sels []queue.Selection) etrn.Answer {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	// The peer hears the same of a queue that does not exist and of one that
	// is another's: the difference is nobody's business.
	denied := etrn.Answer{Code: 459, Text: "no queue of yours goes by that name"}
	if len(sels) == 0 {
		denied.Log = "no queue goes by that name"
		return denied
	}
	allowed := sels[:0:0]
	var interval, length time.Duration
	for i, sel := range sels {
		q, ok := k.set.ByName(sel.Queue)
		if !ok || !q.MayAsk(who) {
			if i == 0 {
				denied.Log = fmt.Sprintf("queue %s lists neither this address, nor this user, nor this certificate", sel.Queue)
				return denied
			}
			continue
		}
		allowed = append(allowed, sel)
		interval, length = max(interval, q.MinInterval), max(length, q.Window)
	}

	if k.listErr != nil {
		// What is held now nobody knows, and it could not be let go.
		return etrn.Answer{Code: 458, Text: "the mail server is not available, try again later", Log: "the MTA's queue cannot be listed"}
	}
	key := fmt.Sprint(allowed, who.User, who.Addr)
	k.forget(now)
	if until, ok := k.recent[key]; ok && now.Before(until) || len(k.recent) >= maxRecent {
		wait := max(until.Sub(now), time.Second)
		return etrn.Answer{Code: 458, Text: fmt.Sprintf("asked too often, try again in %d s", (wait+time.Second-1)/time.Second), Log: "asked too often"}
	}
	k.recent[key] = now.Add(interval)

	unknown := k.listed.IsZero()
	if unknown {
		// Nothing has been listed yet, so nothing can be counted; what the
		// first listing shows goes out, since the window is open.
		k.listAt = time.Time{}
		length = max(length, time.Minute)
	}
	var started, others, underWay int
	for _, sel := range allowed {
		others += k.tell(sel, who.Session)
		st := k.release(sel, now, true)
		started, underWay = started+st.Messages, underWay+st.UnderWay
		k.windowOf(sel.Queue).ask(sel, now.Add(length), now)
	}
	if started > 0 {
		for _, sel := range allowed {
			k.told(sel, who.Session)
		}
	}
	// From now on new mail is looked for at short intervals.
	k.due(now.Add(time.Second))
	k.touched()
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

// tell counts what a selection has under way that the client of a session has
// not been told of. The caller holds mu.
func (k *Manager) tell(sel queue.Selection, session string) (n int) {
	for _, e := range k.entries {
		if !e.held() && e.covered(sel) && slices.Contains(e.want, sel.Queue) && e.session != session {
			n++
		}
	}
	return n
}

// told notes that the client of a session has been told of a selection. The
// caller holds mu.
func (k *Manager) told(sel queue.Selection, session string) {
	for _, e := range k.entries {
		if e.covered(sel) {
			e.session = session
		}
	}
}

// maxRecent bounds the requests that are remembered. They are forgotten as
// soon as they may come again, so that only a flood gets there.
const maxRecent = 10000

// forget drops what may come again, once a second. The caller holds mu.
func (k *Manager) forget(now time.Time) {
	if now.Sub(k.forgot) < time.Second {
		return
	}
	k.forgot = now
	for key, until := range k.recent {
		if !now.Before(until) {
			delete(k.recent, key)
		}
	}
}
