// Package etrn is the words of a request for mail: who asks, by which names, and
// what is answered to ETRN (RFC 1985) and ATRN (RFC 2645). The listeners prove
// the one and speak the others; package queue says who may ask and what a name
// stands for, etrnd/hold and etrnd/deliver do what was asked for.
package etrn

import "net/netip"

// Identity is what the peer of a session has proved of itself.
type Identity struct {
	Addr netip.Addr // invalid when the peer has no IP address
	User string     // as authenticated by SASL; empty: not authenticated
	// Certificates are SHA-256 fingerprints, of the client's certificate and
	// of its public key (SPKI): lower-case hex, no colons. Nobody has verified
	// the chain.
	Certificates []string
	// Session is the id of the session in the log. What one session has been
	// told of is not announced to it a second time.
	Session string
	// AtATime is how many messages at a time the line of the peer has shown to
	// carry; 0: that is not known, or as many as anybody wants.
	AtATime int
}

// Answer is the reply to a request, with the codes of RFC 1985, section 5, or
// RFC 2645, section 5.2.1.
type Answer struct {
	Code  int    // for ETRN 250 to 253, 451, 458 or 459; for ATRN 250, 450, 451 or 453
	Count int    // messages started, with 253
	Text  string // with a refusal: the reason, as the peer may know it
	Log   string // with a refusal: what the log says beyond Text; may be empty
}
