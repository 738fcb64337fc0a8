// Package mta is what the rest of the program knows of the mail server: what
// it holds, how to make it try, and which domains are its own. No mail server
// in particular is in it.
//
// Postfix is the one implementation. To put another server beside it, write
// anew what stands for internal/postfix (its commands, as an MTA) and for
// internal/postfix/setup (its files, so that it holds and releases what the
// configuration says), and choose between them by [mta] type in etrnd and in
// etrnctl. The queues, the milter, the calls and the listeners stay as they
// are: they see this package only.
//
// Holding must need no daemon of ours: an MTA that is suitable keeps mail for
// some destinations by its own configuration until it is told to try them.
package mta

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// MTA is a mail server that holds mail until it is told to let it go.
//
// A listing is no snapshot: a message that moves between two queues while
// they are read can be missed. Whoever keeps an index should believe that a
// message is gone only when two listings in a row, or a listing and another
// sign, say so.
type MTA interface {
	// List calls each for every message that the server has, as its listing is
	// read, so that nobody has to keep all of it. A message that moves meanwhile
	// may come twice; the later one is the newer. Recipients are the caller's
	// only until each returns. After an error the listing is not complete.
	List(ctx context.Context, each func(Message)) error

	// Up is ErrDown while the server does not run, as far as that can be seen at
	// next to no cost: nil says little.
	Up(ctx context.Context) error

	// Stamp is a cheap sign of what has gone on in the queue, without a listing.
	Stamp(ctx context.Context) Stamp

	// ActiveLimit is how many messages the server delivers, or means to deliver
	// next, at one time. What is beyond that waits for a place, whosoever it is.
	ActiveLimit(ctx context.Context) (int, error)

	// Release makes the server try now: all that it has noted as deferred
	// for whole recipient domains, and single messages by id. It returns
	// when the requests are accepted, which is before anything is delivered.
	//
	// A message that is gone, or is being tried at this moment, is no error
	// and not moved: look at a listing, and ask again while the reason is
	// still ReasonHeld. The error joins one error for each domain or id that
	// was refused, and is ErrDown or ErrPermission (errors.Is) when there was
	// no use in going on.
	Release(ctx context.Context, domains, ids []string) error

	// IsLocal reports whether the server is itself the destination of mail
	// for domain, so that it is never held by a queue of "*".
	IsLocal(ctx context.Context, domain string) (bool, error)

	// Refuses tells whether the server is certain to refuse mail for domain, since
	// it is neither its destination nor passes it on, from a host that has an
	// address in one of these networks and has not logged in; none are any other
	// host. False says little.
	Refuses(ctx context.Context, domain string, from []netip.Prefix) (bool, error)

	// RecipientDelimiter is the set of characters that separate a user from
	// an address extension (user+folder@...), or "".
	RecipientDelimiter(ctx context.Context) (string, error)

	// Lifetime is how long the server keeps a message that waits for its
	// release, or cannot be delivered, before it returns it to its sender.
	Lifetime(ctx context.Context) (time.Duration, error)

	// Refresh forgets what IsLocal, Refuses, RecipientDelimiter, Stamp and
	// ActiveLimit remember of the server's configuration. A change of its files they
	// notice by themselves within a few seconds.
	Refresh()
}

// Stamp tells whether anything has gone on in a server's queue between two
// moments. The zero Stamp tells nothing.
type Stamp struct {
	Entered uint64 // differs when a message has entered the queue, or came off hold
	Moved   uint64 // differs when one has moved in it, as for an attempt to deliver
	// Settled says that a while had passed since either: what came next was bound
	// to leave another stamp.
	Settled struct{ Entered, Moved bool }
}

// NothingEntered reports that no message has entered the queue between the
// moment of s and that of later. False says nothing.
func (s Stamp) NothingEntered(later Stamp) bool {
	return s.Settled.Entered && s.Entered != 0 && s.Entered == later.Entered
}

// NothingMoved reports the same, and that none has moved in it.
func (s Stamp) NothingMoved(later Stamp) bool {
	return s.NothingEntered(later) && s.Settled.Moved && s.Moved == later.Moved
}

// All is a whole listing, each id once, for those who look once and at little.
func All(ctx context.Context, m MTA) ([]Message, error) {
	var list []Message
	at := map[string]int{}
	err := m.List(ctx, func(msg Message) {
		msg.Recipients = slices.Clone(msg.Recipients)
		if i, ok := at[msg.ID]; ok {
			list[i] = msg
			return
		}
		at[msg.ID] = len(list)
		list = append(list, msg)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Message is a message in the server's queue.
type Message struct {
	ID    string
	Queue string // active, incoming, deferred, hold, maildrop
	// Arrived has a resolution of one second.
	Arrived time.Time
	// Size is header and body in bytes, about what SMTP transfers.
	Size int64
	// Sender is empty for a bounce, as in MAIL FROM:<>.
	Sender string
	// Recipients are those still to be delivered to. The list is empty for
	// a message in maildrop, which the server has not read yet.
	Recipients []Recipient
}

// Recipient is one that a message has not yet been delivered to.
type Recipient struct {
	Address string
	// Reason is why the last attempt failed, or empty when there was none or
	// one is under way. ReasonHeld if the mail waits for its release.
	Reason string
}

// ReasonHeld is the Reason of a recipient whose mail is deferred by
// configuration, as opposed to one that was tried and failed.
const ReasonHeld = "deferred transport"

// ReasonNobody is the Reason of a recipient whose mail the MTA keeps for nobody, as
// it is set up: that for its queue has been taken out. A release does not change it.
const ReasonNobody = "held for nobody: the mail server is not set up for its queue any more"

// SplitHeader is the field with which the milter marks a message that has
// recipients in more than one queue, for an MTA that is set up to make it one
// message for each recipient. The milter removes it from whatever comes in.
const SplitHeader = "X-ETRN-Split"

var (
	// ErrDown says that the mail system is not running.
	ErrDown = errors.New("the mail system is down")
	// ErrPermission says that this process may not talk to the mail system.
	ErrPermission = errors.New("no permission to use the mail queue")
	// ErrNotFlushable says that the server keeps no list of deferred mail
	// for a domain.
	ErrNotFlushable = errors.New("the server keeps no record of deferred mail for it")
)
