package hold

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/etrnd/etrnd/internal/queue"
)

// Identity is what a client has proved of itself.
type Identity struct {
	Addr netip.Addr
	User string // as authenticated by SASL; empty: not authenticated
	// Certificates are SHA-256 fingerprints, of the client's certificate and
	// of its public key: lower-case hex, no colons.
	Certificates []string
	TLS          bool
	Session      string // id of the session in the log
}

// Answer is the reply to an ETRN, with the codes of RFC 1985, section 5.
type Answer struct {
	Code  int
	Count int    // messages started, with 253
	Text  string // with 458 and 459: the reason, as the peer may know it
	Log   string // with 458 and 459: the reason, for the log
}

// May reports whether a client may ask for a queue: by network, by user or by
// certificate. A queue that lists none of them is nobody's.
func May(who Identity, q queue.Queue) bool {
	if who.Addr.IsValid() {
		addr := who.Addr.Unmap()
		for _, p := range q.Clients {
			if p.Contains(addr) {
				return true
			}
		}
	}
	if who.User != "" && slices.Contains(q.Users, who.User) {
		return true
	}
	return slices.ContainsFunc(who.Certificates, func(c string) bool { return slices.Contains(q.Certificates, c) })
}

// Ask answers an ETRN for a name as the client sent it: a domain, "@domain"
// or "#queue". The release that it starts goes on by itself: the answer is at
// hand however many messages wait.
func (k *Keeper) Ask(who Identity, name string) Answer {
	return k.ask(who, name, k.Queues().Resolve(name))
}

// AskStripped is Ask for a name that has lost its "@" or "#" on the way, as
// in Postfix's policy protocol.
func (k *Keeper) AskStripped(who Identity, name string) Answer {
	return k.ask(who, name, k.Queues().ResolveStripped(name))
}

func (k *Keeper) ask(who Identity, name string, sels []queue.Selection) Answer {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	// The peer hears the same of a queue that does not exist and of one that
	// is another's: the difference is nobody's business.
	denied := Answer{Code: 459, Text: "no queue of yours goes by that name"}
	if len(sels) == 0 {
		denied.Log = "no queue goes by that name"
		return denied
	}
	allowed := sels[:0:0]
	var interval, length time.Duration
	for i, sel := range sels {
		q, ok := k.set.ByName(sel.Queue)
		if !ok || !May(who, q) {
			if i == 0 {
				denied.Log = fmt.Sprintf("queue %s lists neither this address, nor this user, nor this certificate", sel.Queue)
				return denied
			}
			continue
		}
		allowed = append(allowed, sel)
		interval, length = max(interval, q.MinInterval), max(length, q.Window)
	}

	key := name + "\x00" + allowed[0].Queue
	if last, ok := k.asked[key]; ok && now.Sub(last) < interval {
		wait := interval - now.Sub(last)
		return Answer{Code: 458, Text: fmt.Sprintf("asked too often, try again in %d s", int(wait/time.Second)+1), Log: "asked too often"}
	}
	k.forget(now)
	k.asked[key] = now

	var started, underWay int
	for _, sel := range allowed {
		st := k.release(sel, now)
		started, underWay = started+st.Messages, underWay+st.UnderWay
		w := k.windowOf(sel.Queue)
		if !w.open(now) {
			w.sels = nil
		}
		if !slices.Contains(w.sels, sel) {
			w.sels = append(w.sels, sel)
		}
		w.until = now.Add(length)
	}
	// From now on new mail is looked for at short intervals.
	k.due(now.Add(time.Second))
	k.touched()
	switch {
	case k.listed.IsZero():
		// Nothing has been listed yet, so nothing can be counted; what the
		// first listing shows goes out, since the window is open.
		k.listAt = time.Time{}
		return Answer{Code: 250}
	case started == 0 && underWay > 0:
		return Answer{Code: 458, Text: fmt.Sprintf("already under way, %d pending", underWay), Log: "already under way"}
	case started == 0:
		return Answer{Code: 251}
	}
	return Answer{Code: 253, Count: started}
}

// forget drops old entries of asked, so that names cannot pile up. Only names
// that resolved to a queue of the client's get in at all.
func (k *Keeper) forget(now time.Time) {
	if len(k.asked) < 1000 {
		return
	}
	for key, last := range k.asked {
		if now.Sub(last) > time.Hour {
			delete(k.asked, key)
		}
	}
	if len(k.asked) >= 1000 {
		clear(k.asked)
	}
}
