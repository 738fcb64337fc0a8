package deliver

import (
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// small is the longest message that is read as a whole before it is sent. Of a
// longer one this much is in memory while it waits for its turn.
const small = 64 << 10

// message is one transaction that the MTA has begun with us and waits for.
type message struct {
	from  string
	opts  smtp.MailOptions
	rcpts []recipient

	head     []byte    // all of a short message, the beginning of a long one
	rest     io.Reader // what follows head; nil: nothing
	size     int64     // bytes, as far as known: exact for a short one
	eightBit bool      // seen in head

	priority int  // -9 to 9, RFC 6710
	stated   bool // the priority is the sender's MT-Priority, to be passed on
	serial   int64

	// gone reports whether the MTA has given the transaction up.
	gone func() bool
	// done is called once, with the results in rcpts. It must not wait.
	done func()

	// The rest belongs to the turn and is guarded by its lock.

	mailed  esmtp.Reply // to MAIL
	open    int         // replies to RCPT that are still to come
	asks    bool        // it is to be asked first whether it may come
	asking  bool        // the envelope was sent only to learn that
	ready   bool        // that is known
	goAhead bool        // DATA was answered 354
	closed  bool        // the site has ended the transaction: nothing of it is open
	settled bool        // done was called
}

type recipient struct {
	addr string
	opts smtp.RcptOptions

	accepted bool            // by the site's reply to RCPT
	result   *smtp.SMTPError // nil: not known yet; a code 2xx is a success
}

// mail is the MAIL command. Parameters that say nothing are left out: on a thin
// line they are paid for with every message.
func (m *message) mail(o offers) string {
	var b strings.Builder
	b.WriteString("MAIL FROM:<" + esmtp.QuoteLocalPart(m.from) + ">")
	if o.size && m.size > small {
		b.WriteString(" SIZE=" + strconv.FormatInt(m.size, 10))
	}
	if o.eightBit && (m.eightBit || m.long() && m.opts.Body == smtp.Body8BitMIME) {
		b.WriteString(" BODY=8BITMIME")
	}
	if o.utf8 && m.opts.UTF8 {
		b.WriteString(" SMTPUTF8")
	}
	if o.dsn {
		if m.opts.Return != "" {
			b.WriteString(" RET=" + string(m.opts.Return))
		}
		if m.opts.EnvelopeID != "" {
			b.WriteString(" ENVID=" + esmtp.XText(m.opts.EnvelopeID))
		}
	}
	if o.priority && m.stated {
		b.WriteString(" MT-PRIORITY=" + strconv.Itoa(m.priority))
	}
	b.WriteString("\r\n")
	return b.String()
}

// rcpt is the RCPT command for a recipient.
func (m *message) rcpt(i int, o offers) string {
	r := &m.rcpts[i]
	var b strings.Builder
	b.WriteString("RCPT TO:<" + esmtp.QuoteLocalPart(r.addr) + ">")
	if o.dsn {
		for i, n := range r.opts.Notify {
			if i == 0 {
				b.WriteString(" NOTIFY=")
			} else {
				b.WriteByte(',')
			}
			b.WriteString(string(n))
		}
		// Without NOTIFY, and where it says nothing new, it would only cost.
		if a := r.opts.OriginalRecipient; a != "" && (a != r.addr && a != esmtp.QuoteLocalPart(r.addr) || len(r.opts.Notify) > 0) {
			b.WriteString(" ORCPT=" + strings.ToLower(string(r.opts.OriginalRecipientType)) + ";")
			if r.opts.OriginalRecipientType == smtp.DSNAddressTypeUTF8 {
				b.WriteString(esmtp.UTF8Text(a, o.utf8 && m.opts.UTF8))
			} else {
				b.WriteString(esmtp.XText(a))
			}
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// pending reports whether a recipient still waits for its result.
func (m *message) pending() bool {
	for i := range m.rcpts {
		if m.rcpts[i].result == nil {
			return true
		}
	}
	return false
}

// eightBit reports whether there is something that 7BIT does not allow.
func eightBit(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

var errEightBit = errors.New("8-bit content")

// sevenBit stops at what a site without 8BITMIME must not be sent.
type sevenBit struct{ r io.Reader }

func (s sevenBit) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if eightBit(b[:n]) {
		return 0, errEightBit
	}
	return n, err
}
