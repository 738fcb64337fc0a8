package deliver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/emersion/go-smtp"
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

	mailed  reply // to MAIL
	open    int   // replies to RCPT that are still to come
	asks    bool  // it is to be asked first whether it may come
	asking  bool  // the envelope was sent only to learn that
	ready   bool  // that is known
	goAhead bool  // DATA was answered 354
	closed  bool  // the site has ended the transaction: nothing of it is open
	settled bool  // done was called
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
	b.WriteString("MAIL FROM:<" + quote(m.from) + ">")
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
			b.WriteString(" ENVID=" + xtext(m.opts.EnvelopeID))
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
	b.WriteString("RCPT TO:<" + quote(r.addr) + ">")
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
		if a := r.opts.OriginalRecipient; a != "" && (a != r.addr && a != quote(r.addr) || len(r.opts.Notify) > 0) {
			b.WriteString(" ORCPT=" + strings.ToLower(string(r.opts.OriginalRecipientType)) + ";")
			if r.opts.OriginalRecipientType == smtp.DSNAddressTypeUTF8 {
				b.WriteString(utf8text(a, o.utf8 && m.opts.UTF8))
			} else {
				b.WriteString(xtext(a))
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

// quote makes an address fit for a command: go-smtp has taken the quotation
// marks off the local part (RFC 5321, section 4.1.2).
func quote(addr string) string {
	at := strings.LastIndexByte(addr, '@')
	if at < 0 {
		return addr
	}
	local := addr[:at]
	atom, dot := true, true // dot: the last one was a dot, or there is none yet
	for _, c := range []byte(local) {
		if c == '.' {
			atom, dot = atom && !dot, true
			continue
		}
		dot = false
		if c <= ' ' || c == 0x7f || strings.IndexByte(`()<>[]:;@\,"`, c) >= 0 {
			atom = false
		}
	}
	if atom && !dot {
		return addr
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(local) {
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
	return b.String() + addr[at:]
}

// checkAddress refuses what could end a command or begin another one.
func checkAddress(addr string) error {
	if len(addr) > 1000 {
		return fmt.Errorf("address longer than 1000 bytes")
	}
	for _, c := range []byte(addr[strings.LastIndexByte(addr, '@')+1:]) {
		if c <= ' ' || c == 0x7f || c == '<' || c == '>' {
			return fmt.Errorf("control character or bracket in a domain")
		}
	}
	for _, c := range []byte(addr) {
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("control character in an address")
		}
	}
	return nil
}

const hexDigits = "0123456789ABCDEF"

// xtext encodes as RFC 3461, section 4, has it.
func xtext(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > ' ' && c <= '~' && c != '+' && c != '=' {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'+', hexDigits[c>>4], hexDigits[c&15]})
	}
	return b.String()
}

// utf8text encodes as RFC 6533, section 3, has it: raw where the transaction
// may hold UTF-8, else in ASCII.
func utf8text(s string, raw bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r > ' ' && r <= '~' && r != '+' && r != '=' && r != '\\', raw && r > '~' && r != 0x7f:
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\x{%02X}", r)
		}
	}
	return b.String()
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

// headerPriority looks for what senders and mail programs say about the
// priority, in a range of -9 to 9 (RFC 6710). The registered headers go before
// those that programs made up, as in the milter's report.
func headerPriority(head []byte) (value int, stated bool) {
	rank := 0
	for len(head) > 0 {
		line, rest, _ := bytes.Cut(head, []byte("\n"))
		head = rest
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 {
			break
		}
		name, text, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) > len("X-MSMail-Priority") {
			continue
		}
		word := firstWord(string(text))
		state := func(r, v int, ok bool) {
			if ok && r > rank {
				rank, value = r, v
			}
		}
		switch strings.ToLower(string(bytes.TrimRight(name, " \t"))) {
		case "mt-priority":
			n, err := strconv.Atoi(word)
			state(5, n, err == nil && n >= -9 && n <= 9)
		case "importance":
			v, ok := priorityWord(word)
			state(4, v, ok)
		case "priority":
			v, ok := priorityWord(word)
			state(3, v, ok)
		case "x-priority":
			n, err := strconv.Atoi(word)
			state(2, (3-n)*2, err == nil && n >= 1 && n <= 5)
		case "x-msmail-priority":
			v, ok := priorityWord(word)
			state(1, v, ok)
		}
	}
	return value, rank == 5
}

func firstWord(s string) string {
	f := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '(' || r == ';' })
	if len(f) == 0 {
		return ""
	}
	return strings.ToLower(f[0])
}

func priorityWord(w string) (int, bool) {
	switch w {
	case "high", "urgent", "highest":
		return 4, true
	case "normal", "medium":
		return 0, true
	case "low", "non-urgent", "lowest":
		return -4, true
	}
	return 0, false
}
