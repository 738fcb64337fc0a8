package postfix

import (
	"bytes"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
)

// quick reads a line of a listing as Postfix writes nearly all of them, in a
// tenth of the time that encoding/json takes, and without its garbage: there may
// be a hundred thousand lines. Whatever is not exactly of that form (escapes,
// bytes beyond ASCII, other keys) is left to encoding/json, which decides alone
// what is a message: this only agrees with it, as a fuzz test makes sure. The room
// that the message before took is used again.
func quick(line []byte, before mta.Message) (m mta.Message, ok bool) {
	s := scanner{rest: line}
	m.Recipients = before.Recipients[:0]
	s.take(`{"queue_name": `)
	m.Queue = queueName(s.text())
	s.take(`, "queue_id": `)
	id := s.text()
	s.take(`, "arrival_time": `)
	sec := s.number()
	s.take(`, "message_size": `)
	m.Size = s.number()
	if s.has(`, "forced_expire": `) && !s.has("false") {
		s.take("true")
	}
	s.take(`, "sender": `)
	sender := s.text()
	s.take(`, "recipients": [`)
	for more := !s.has("]"); more && !s.bad; more = s.has(", ") {
		s.take(`{"address": `)
		r := mta.Recipient{Address: string(s.text())}
		if s.has(`, "delay_reason": `) {
			if reason := s.text(); string(reason) == deferredTransport { // most are, and take no room
				r.Reason = mta.ReasonHeld
			} else {
				r.Reason = reasonFor(string(reason))
			}
		}
		s.take("}")
		m.Recipients = append(m.Recipients, r)
	}
	if len(m.Recipients) > 0 {
		s.take("]")
	}
	s.take("}")
	if s.bad || len(s.rest) > 0 || m.Queue == "" || sec > 1<<40 || !plainID(id) {
		return mta.Message{}, false
	}
	m.ID, m.Sender, m.Arrived = string(id), before.Sender, time.Unix(sec, 0)
	if string(sender) != before.Sender {
		m.Sender = string(sender)
	}
	return m, true
}

// queueName is the name of a queue, without taking room for it each time; empty
// for one that is not known.
func queueName(b []byte) string {
	for _, name := range []string{"deferred", "active", "incoming", "hold", "maildrop"} {
		if string(b) == name {
			return name
		}
	}
	return ""
}

func plainID(id []byte) bool {
	for _, c := range id {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return false
		}
	}
	return len(id) > 0 && len(id) <= maxID
}

// scanner takes a line apart. Once bad, it stays so.
type scanner struct {
	rest []byte
	bad  bool
}

func (s *scanner) has(what string) bool {
	if s.bad || len(s.rest) < len(what) || string(s.rest[:len(what)]) != what {
		return false
	}
	s.rest = s.rest[len(what):]
	return true
}

func (s *scanner) take(what string) {
	if !s.has(what) {
		s.bad = true
	}
}

// text is a string in which nothing is escaped, nor would have to be.
func (s *scanner) text() []byte {
	if !s.has(`"`) {
		s.bad = true
		return nil
	}
	end := bytes.IndexByte(s.rest, '"')
	if end < 0 {
		s.bad = true
		return nil
	}
	t := s.rest[:end]
	for _, c := range t {
		if c < ' ' || c > '~' || c == '\\' {
			s.bad = true
			return nil
		}
	}
	s.rest = s.rest[end+1:]
	return t
}

// number is one of so few digits that it fits, without a sign.
func (s *scanner) number() (n int64) {
	i := 0
	for ; i < len(s.rest) && s.rest[i] >= '0' && s.rest[i] <= '9'; i++ {
		n = 10*n + int64(s.rest[i]-'0')
	}
	if i == 0 || i > 15 || i > 1 && s.rest[0] == '0' {
		s.bad = true
		return 0
	}
	s.rest = s.rest[i:]
	return n
}
