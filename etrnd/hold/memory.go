package hold

import (
	"container/list"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/queue"
)

// memory is of who asked for what, and until when he must not ask again. It is
// kept for each of those who ask, so that nobody fills that of another. Whatever
// is forgotten before its time may merely be asked for again too soon.
type memory struct {
	of    map[string]*list.Element // of *remembered, by who asked
	order list.List                // who has not asked for the longest time is first
}

// remembered is what one has asked for.
type remembered struct {
	who   string
	asked []request // in the order in which they came
}

type request struct {
	sels  string
	until time.Time
}

const (
	// maxRequests bounds what is remembered of one.
	maxRequests = 100
	// maxRequesters bounds those of whom anything is remembered.
	maxRequesters = 10000
)

// tooSoon is how long somebody has to wait before he may make a request again;
// zero: he may make it now, and it is remembered.
func (m *memory) tooSoon(who etrn.Identity, sels []queue.Selection, interval time.Duration, now time.Time) time.Duration {
	if m.of == nil {
		m.of = map[string]*list.Element{}
	}
	r := m.requester(requester(who), now)
	r.asked = slices.DeleteFunc(r.asked, func(q request) bool { return !now.Before(q.until) })
	key := fmt.Sprint(sels, who.Addr)
	if i := slices.IndexFunc(r.asked, func(q request) bool { return q.sels == key }); i >= 0 {
		return r.asked[i].until.Sub(now)
	}
	if len(r.asked) >= maxRequests {
		r.asked = slices.Delete(r.asked, 0, 1)
	}
	r.asked = append(r.asked, request{key, now.Add(interval)})
	return 0
}

// requester finds what is remembered of one, or makes room for him.
func (m *memory) requester(who string, now time.Time) *remembered {
	if e := m.of[who]; e != nil {
		m.order.MoveToBack(e)
		return e.Value.(*remembered)
	}
	for e := m.order.Front(); e != nil; e = m.order.Front() {
		r := e.Value.(*remembered)
		if len(m.of) < maxRequesters && slices.ContainsFunc(r.asked, func(q request) bool { return now.Before(q.until) }) {
			break
		}
		m.order.Remove(e)
		delete(m.of, r.who)
	}
	r := &remembered{who: who}
	m.of[who] = m.order.PushBack(r)
	return r
}

// requester names who asks: by his login, or else by his certificate, or else by
// where he is, which with IPv6 is a network of which any address may be his.
func requester(who etrn.Identity) string {
	switch {
	case who.User != "":
		return "user " + who.User
	case len(who.Certificates) > 0:
		return "certificate " + who.Certificates[0]
	}
	addr := who.Addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	if p, err := addr.Prefix(bits); err == nil {
		return p.String()
	}
	return netip.Addr{}.String()
}
