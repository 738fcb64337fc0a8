// Package odmr speaks the command dialogue in which a site asks for its mail:
// ETRN (RFC 1985) and ATRN (RFC 2645) on the port of the latter, 366 by default.
// It has the server of the hub, the client of the site, and a probe that tells
// what a remote offers.
//
// The dialogue is SMTP's (RFC 5321) with STARTTLS (RFC 3207) and AUTH (RFC
// 4954), but no mail is taken here. The package knows neither queues nor the
// MTA: an Asker answers each ETRN, and a Turner takes over a connection that
// ATRN has turned.
//
// Both roles of RFC 2645 have their place: the provider is Server with a Turner,
// the customer is a Client that gives away its connection once ATRN is answered.
//
// Enhanced status codes (RFC 2034) are not offered: peers look for the count of
// a 253 reply as the first number in its text, where "2.0.0" would be in the way.
package odmr

import (
	"context"
	"net"

	"github.com/etrnd/etrnd/internal/etrn"
)

// Asker decides about one ETRN and has begun what it answers: after 253 the
// messages go without being asked for again. It is called from many dialogues at
// once, and has to return when ctx ends.
type Asker interface {
	// Ask gets the name as sent: "acme.example", "@acme.example" or "#acme".
	// Its syntax has been checked.
	Ask(ctx context.Context, who etrn.Identity, name string) etrn.Answer
}

// Ahead is an extension between two etrnds that saves a round trip where it is
// worth most, after the turn. RFC 5321 makes a client wait for the reply to EHLO
// before it sends mail. A hub that lists this word in its reply to EHLO may be
// greeted, once the connection is turned, with lines that hold this word and then
// what the reply to EHLO will have; it then sends EHLO and mail in one burst. Who
// does not know the word never sees it in a greeting.
const Ahead = "X-ETRN-AHEAD"

// greeting is what a hub of ours says of itself. It takes several ETRN at a time,
// which nobody else can be trusted to.
const greeting = "ESMTP on-demand mail relay, send EHLO"

// Turner takes over the connections that are turned around by ATRN. A Server
// without a Turner answers 502 and does not list ATRN.
type Turner interface {
	// Turn decides about an ATRN of an authenticated user. domains is empty when
	// all of the user's are asked for. With code 250 turned is called after the
	// reply has left, and owns the connection until it returns; conn has its
	// deadlines cleared, and is closed by the server. When ctx ends, turned has
	// ServerOptions.DrainTimeout to come to an end.
	Turn(ctx context.Context, who etrn.Identity, domains []string) (a etrn.Answer, turned func(ctx context.Context, conn net.Conn) error)
}
