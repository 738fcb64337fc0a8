package deliver

import (
	"io"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/queue"
)

// small is the longest message that is read as a whole before it is sent. Of a
// longer one this much is in memory while it waits for its turn.
const small = 64 << 10

// message is one transaction that the MTA has begun with us and waits for.
type message struct {
	from        string // the path, as the MTA wrote it
	ret, envid  string // DSN parameters (RFC 3461), to be passed on
	body8, utf8 bool   // BODY=8BITMIME and SMTPUTF8
	declared    int64  // SIZE
	rcpts       []recipient
	set         *queue.Set // by which the recipients were let in

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
	// answered: all results are there, and wait for the proof that they are the
	// right ones.
	answered bool
	settled  bool // done was called
}

type recipient struct {
	token         string // what go-smtp has for the path
	addr          string // the path, as the MTA wrote it
	notify, orcpt string // DSN parameters, to be passed on

	accepted bool            // by the site's reply to RCPT
	result   *smtp.SMTPError // nil: not known yet; a code 2xx is a success
}

// option takes a parameter of MAIL. Others are the MTA's own affair.
func (m *message) option(p esmtp.Parameter) {
	switch p.Key {
	case "SIZE":
		if n, err := strconv.ParseInt(p.Value, 10, 64); err == nil && n > 0 {
			m.declared = n
		}
	case "BODY":
		m.body8 = strings.EqualFold(p.Value, "8BITMIME")
	case "SMTPUTF8":
		m.utf8 = true
	case "RET":
		if v := strings.ToUpper(p.Value); v == "FULL" || v == "HDRS" {
			m.ret = v
		}
	case "ENVID":
		m.envid = esmtp.EnvelopeID(p.Value)
	}
}

// option takes a parameter of RCPT.
func (r *recipient) option(p esmtp.Parameter) {
	switch p.Key {
	case "NOTIFY":
		r.notify = esmtp.Notify(p.Value)
	case "ORCPT":
		r.orcpt = p.Value
	}
}

// mail is the MAIL command. Parameters that say nothing are left out: on a thin
// line they are paid for with every message.
func (m *message) mail(o offers) string {
	var b strings.Builder
	b.WriteString("MAIL FROM:<" + m.from + ">")
	if o.size && m.size > small {
		b.WriteString(" SIZE=" + strconv.FormatInt(m.size, 10))
	}
	if o.eightBit && (m.eightBit || m.long() && m.body8) {
		b.WriteString(" BODY=8BITMIME")
	}
	if o.utf8 && m.utf8 {
		b.WriteString(" SMTPUTF8")
	}
	if o.dsn && m.ret != "" {
		b.WriteString(" RET=" + m.ret)
	}
	if o.dsn && m.envid != "" {
		b.WriteString(" ENVID=" + m.envid)
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
	b.WriteString("RCPT TO:<" + r.addr + ">")
	if o.dsn {
		if r.notify != "" {
			b.WriteString(" NOTIFY=" + r.notify)
		}
		// Without NOTIFY, and where it says nothing new, it would only cost.
		orcpt := esmtp.OriginalRecipient(r.orcpt, o.utf8 && m.utf8)
		if orcpt != "" && (r.notify != "" || orcpt != esmtp.OriginalRecipient("rfc822;"+esmtp.XText(r.addr), o.utf8 && m.utf8)) {
			b.WriteString(" ORCPT=" + orcpt)
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
