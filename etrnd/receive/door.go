package receive

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// maxProbed bounds the domains for which the MTA is asked, and maxShut how often
// it may refuse: Postfix becomes slow after ten refusals.
const (
	maxProbed = 100
	maxShut   = 5
)

// Door tells whether the local MTA takes mail from this host's gate for domains,
// before there is any: it has the dialogue that a provider would have, as far as
// it can be had without a message. hello is the name that the provider may greet
// with. dial connects as a Server does.
//
// Nobody here knows a recipient. "postmaster" is asked for, and only a no that
// concerns the gate, or the MTA as a whole, counts: that a recipient is unknown,
// cannot be verified now, or is put off because nobody has seen the sender before
// says nothing about others. Nor does it say anything that a name is not found
// for now, or that there is no answer in time: before the line is up there may be
// no name service, and Postfix waits for it.
//
// The error is an ErrMTA: nothing can be handed over now. Otherwise why is zero
// if the door is open as far as that can be told, and all tells whether it is shut
// for all of the domains.
func Door(ctx context.Context, dial func(context.Context) (net.Conn, error), hello string, domains []string) (why Refusal, all bool, err error) {
	conn, err := dial(ctx)
	if err != nil {
		return why, false, fmt.Errorf("%w: %w", ErrMTA, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	d := doorbell{conn: conn, in: &esmtp.ReplyReader{Reader: bufio.NewReaderSize(conn, maxReplyLine), UTF8: true}}
	if ip, err := netip.ParseAddr(hello); err == nil { // RFC 5321, section 4.1.3
		hello = "[" + ip.String() + "]"
		if ip.Is6() {
			hello = "[IPv6:" + ip.String() + "]"
		}
	}
	why, all, err = d.ring(hello, domains[:min(len(domains), maxProbed)])
	if ctx.Err() != nil {
		return Refusal{}, false, nil
	}
	if err == nil {
		conn.Write([]byte("QUIT\r\n"))
	}
	return why, all, err
}

// notFound is how Postfix says that a name service does not know, or does not
// answer, which name it greets with.
var notFound = regexp.MustCompile(`(?i)helo command rejected`)

// unsure tells whether a refusal may be another one in a moment, or for the name
// that the provider greets with.
func unsure(r esmtp.Reply) bool { return r.Code/100 == 4 && notFound.MatchString(r.Text()) }

type doorbell struct {
	conn net.Conn
	in   *esmtp.ReplyReader
}

// ask sends a command, if there is one, and reads a reply. That the MTA has no
// time or no room is an error.
func (d *doorbell) ask(command string) (esmtp.Reply, error) {
	if command != "" {
		if _, err := d.conn.Write([]byte(command + "\r\n")); err != nil {
			return esmtp.Reply{}, fmt.Errorf("%w: %w", ErrMTA, err)
		}
	}
	r, err := d.in.ReadReply()
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrMTA, err)
	}
	status, _ := esmtp.CutStatus(r.Text())
	if r.Code == 421 || r.Code == 452 || r.Code/100 == 4 && status[1] == 3 {
		if classify(r) != Gate {
			return r, fmt.Errorf("%w: it says %q", ErrMTA, r)
		}
	}
	return r, nil
}

func (d *doorbell) ring(hello string, domains []string) (why Refusal, all bool, err error) {
	r, err := d.ask("")
	switch {
	case err != nil:
		return why, false, err
	case r.Code/100 == 4:
		return why, false, fmt.Errorf("%w: it greets with %q", ErrMTA, r)
	case r.Code != 220:
		return Refusal{Gate, r.String()}, true, nil
	}
	if r, err = d.ask("EHLO " + hello); err == nil && (r.Code == 500 || r.Code == 502) {
		r, err = d.ask("HELO " + hello)
	}
	if err == nil && r.Code/100 == 5 {
		return Refusal{Gate, r.String()}, true, nil
	}
	if err == nil {
		r, err = d.ask("MAIL FROM:<>")
	}
	if err != nil || r.Code != 250 {
		// One who takes no mail without a sender is not asked further.
		if err == nil && classify(r) == Gate && !unsure(r) {
			return refusalOf(r), true, nil
		}
		return why, false, err
	}
	shut, asked := 0, 0
	for _, domain := range domains {
		if shut == maxShut {
			break
		}
		r, err := d.ask("RCPT TO:<postmaster@" + domain + ">")
		if err != nil {
			return why, false, err
		}
		asked++
		if r.Code/100 >= 4 && classify(r) == Gate && !unsure(r) {
			shut++
			why = why.Graver(refusalOf(r))
		}
	}
	if shut < maxShut { // else it may take its time
		if _, err := d.ask("RSET"); err != nil {
			return why, false, err
		}
	}
	return why, shut > 0 && shut == asked, nil
}
