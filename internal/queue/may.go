package queue

import (
	"slices"

	"github.com/etrnd/etrnd/internal/etrn"
)

// MayAsk reports whether somebody may have the queue released by ETRN: by
// network, by user or by certificate. A queue that lists none of them is
// nobody's.
func (q Queue) MayAsk(who etrn.Identity) bool {
	if who.Addr.IsValid() {
		addr := who.Addr.Unmap()
		for _, p := range q.Clients {
			if p.Contains(addr) {
				return true
			}
		}
	}
	return q.lists(who.User) ||
		slices.ContainsFunc(who.Certificates, func(c string) bool { return slices.Contains(q.Certificates, c) })
}

// MayTurn reports whether somebody may have the queue delivered over his own
// connection by ATRN. Only its users may: networks and certificates are for
// ETRN, where the mail goes to the host that the queue names. Here it goes to
// whoever asks.
func (q Queue) MayTurn(who etrn.Identity) bool { return q.Deliver.Turn && q.lists(who.User) }

func (q Queue) lists(user string) bool { return user != "" && slices.Contains(q.Users, user) }
