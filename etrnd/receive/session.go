package receive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/etrnd/etrnd/internal/socket"
)

const (
	// maxLine is the longest command, with CRLF. RFC 5321 has 512, and
	// extensions add to it: 2048 is what Postfix takes.
	maxLine = 2048
	// maxJunk is how much of a line that is too long is read to find its end.
	maxJunk = 64 << 10
	// maxRefused is how many commands are refused before the session ends.
	maxRefused = 100
	// maxWarned is how many refusals are logged.
	maxWarned = 100
)

// answer is one reply that is due to the provider.
type answer struct {
	text string   // of our own; empty: what b says
	b    *backend // where the reply comes from
	tx   *transaction
	rcpt bool
	// final is the reply to a whole message, free to the last command of a
	// transaction: b can be used again.
	final, free bool
	silent      bool     // the provider is not told
	code        chan int // gets the reply's code, when the reader waits for it
}

// read takes commands until there are no more.
func (s *session) read() error {
	for {
		line, err := s.line()
		if err == nil {
			err = s.command(line)
		}
		if errors.Is(err, errLine) {
			err = s.refuse("", refusal("500 5.5.2 "+err.Error()))
		}
		if err == nil {
			continue
		}
		s.forget()
		word := ""
		switch {
		case err == errQuit, err == errDead:
		case errors.Is(err, ErrSilent):
			word = "421 4.4.2 " + s.o.Hostname + " closes: nothing has come for " + s.o.Silence.String()
			err = fmt.Errorf("%w: nothing has come for %v", err, s.o.Silence)
		case errors.Is(err, ErrAbuse):
			word = "421 4.7.0 " + s.o.Hostname + " closes: this is not how mail is sent"
		case errors.Is(err, ErrMTA):
			word = "421 4.3.2 " + s.o.Hostname + " the mail server does not answer, try again later"
		default:
			err = gone(err)
		}
		if word != "" {
			s.own(word)
		}
		return err
	}
}

// forget makes the MTA drop what is half done: it sees the connection end. The
// replies to the commands before that still come.
func (s *session) forget() {
	if s.tx == nil {
		return
	}
	b := s.tx.b
	s.tx = nil
	b.gone.Store(true)
	// For the replier too, which may be in the middle of a wait, and not by
	// flush, which would take its time.
	b.bound(min(s.o.MTATimeout, maxGone))
	b.w.Flush()
	half, ok := b.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		b.conn.Close()
	}
}

// errLine is wrapped by errors of one line, after which the next can be read.
var errLine = errors.New("not a command")

// line reads one line. Nothing but CRLF ends it, and what holds other control
// characters is no command: no MTA gets to see it.
func (s *session) line() (string, error) {
	if s.hub.over() {
		return "", errDead // what is left in the buffer has nobody to be answered
	}
	s.idle()
	b, err := s.in.ReadSlice('\n')
	long := 0
	for err == bufio.ErrBufferFull {
		if long += len(b); long > maxJunk {
			return "", fmt.Errorf("%w: a line without an end", ErrAbuse)
		}
		b, err = s.in.ReadSlice('\n')
	}
	switch {
	case err != nil:
		return "", err
	case long > 0 || len(b) > maxLine:
		return "", fmt.Errorf("%w: line too long", errLine)
	case !bytes.HasSuffix(b, []byte("\r\n")):
		return "", fmt.Errorf("%w: line ends with LF alone", errLine)
	}
	b = b[:len(b)-2]
	if bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' || r == 0x7f }) || !utf8.Valid(b) {
		return "", fmt.Errorf("%w: it holds a character that is not allowed", errLine)
	}
	return string(b), nil
}

// idle sends off what the MTA has to answer before the provider goes on.
func (s *session) idle() {
	if s.tx == nil || s.tx.b.w.Buffered() == 0 {
		return
	}
	if b, _ := s.in.Peek(s.in.Buffered()); bytes.IndexByte(b, '\n') >= 0 {
		return
	}
	// An error comes back with the reply.
	s.flush(s.tx.b)
}

// say makes a reply due.
func (s *session) say(a *answer) error {
	if !a.silent {
		s.hub.owe(1)
	}
	select {
	case s.answers <- a:
		return nil
	case <-s.dead:
		return errDead
	}
}

func (s *session) own(text string) error { return s.say(&answer{text: text + "\r\n"}) }

// refuse answers a command with a no of our own.
func (s *session) refuse(line string, no refusal) error {
	s.warn("command of the remote refused", "line", clip(line), "reply", string(no))
	if s.errors++; s.errors > maxRefused {
		return fmt.Errorf("%w: more than %d commands refused", ErrAbuse, maxRefused)
	}
	return s.own(string(no))
}

// warn logs what the provider does wrong, until there is too much of it.
func (s *session) warn(msg string, attrs ...any) {
	if s.warned++; s.warned <= maxWarned {
		s.log.Warn(msg, attrs...)
	}
	if s.warned == maxWarned {
		s.log.Warn("more of that is not logged for this connection")
	}
}

// clip makes foreign text fit for the log, which quotes it.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}

func (s *session) command(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	arg = strings.Trim(arg, " ")
	switch verb {
	case "EHLO", "HELO":
		return s.greet(verb, arg, line)
	case "MAIL":
		return s.mail(arg, line)
	case "RCPT":
		return s.rcpt(arg, line)
	case "DATA":
		return s.data(arg, line)
	case "BDAT":
		return s.bdat(arg, line)
	case "RSET":
		if arg != "" {
			return s.refuse(line, badSyntax)
		}
		if s.tx == nil {
			return s.own("250 2.0.0 Ok")
		}
		return s.reset(false)
	case "NOOP":
		return s.own("250 2.0.0 Ok")
	case "QUIT":
		if arg != "" {
			return s.refuse(line, badSyntax)
		}
		if err := s.reset(true); err != nil {
			return err
		}
		s.own("221 2.0.0 Bye")
		return errQuit
	}
	return s.refuse(line, "502 5.5.1 This connection takes mail and nothing else")
}

// greet asks one connection to the MTA and remembers for the others.
func (s *session) greet(verb, name, line string) error {
	if !helloName(name) {
		return s.refuse(line, badSyntax)
	}
	// RFC 5321, section 4.1.4: as if RSET had been said.
	if err := s.reset(true); err != nil {
		return err
	}
	hello := verb + " " + name
	var b *backend
	var code int
	var lines []string
	for {
		var err error
		if b, err = s.next(); err != nil {
			return err
		}
		if code, lines, err = s.ask(b, hello); err == nil && code != 421 {
			break
		}
		s.drop(b)
		if b.tired(code, err) {
			continue
		}
		if err == nil {
			err = fmt.Errorf("%w: to %q it says %q", ErrMTA, hello, lines[0])
		}
		return err
	}
	if code == 250 {
		b.hello, b.dirty, s.hello = hello, false, hello
	} else {
		b.errors++
	}
	s.release(b)
	switch {
	case code != 250:
		return s.own(lines[len(lines)-1])
	case verb == "HELO":
		return s.own("250 " + s.o.Hostname)
	}
	return s.say(&answer{text: offer("250", lines)})
}

// open counts transactions.
func (s *session) open(n int) { s.count(func(c *Counts) { c.Busy += n }) }

// pass gives a command to the MTA.
func (s *session) pass(line string, a *answer) error {
	a.b, a.tx = s.tx.b, s.tx
	if err := s.say(a); err != nil {
		return err
	}
	// The replier learns of an error by itself, and may find the MTA's reason
	// before it: that is worth more than what can be said here.
	if err := s.send(s.tx.b, line+"\r\n"); err != nil {
		return s.broken()
	}
	return nil
}

// broken waits for what the replier makes of a connection that has failed. When
// it was lost the rest of the transaction goes nowhere.
func (s *session) broken() error {
	b := s.tx.b
	// One reply more than there will be.
	if err := s.say(&answer{b: b, tx: s.tx, silent: true}); err != nil {
		return err
	}
	select {
	case <-b.lost:
		b.w.Reset(io.Discard)
		return nil
	case <-s.dead:
		return errDead
	}
}

// deliver sends off what the transaction has for the MTA.
func (s *session) deliver() error {
	if s.flush(s.tx.b) != nil {
		return s.broken()
	}
	return nil
}

func (s *session) mail(arg, line string) error {
	if s.hello == "" {
		return s.refuse(line, "503 5.5.1 EHLO comes first")
	}
	text, from, no := mail(arg)
	if no != "" {
		return s.refuse(line, no)
	}
	if s.tx != nil && s.tx.b.isLost() {
		if err := s.reset(true); err != nil {
			return err
		}
	}
	if s.tx == nil {
		b, err := s.acquire()
		if err != nil {
			return err
		}
		s.tx = &transaction{b: b, from: from}
		s.open(1)
	}
	return s.pass(text, &answer{})
}

func (s *session) rcpt(arg, line string) error {
	if s.tx == nil {
		return s.refuse(line, "503 5.5.1 MAIL comes first")
	}
	text, _, no := s.recipient(arg)
	if no != "" {
		s.count(func(c *Counts) { c.Rejected++ })
		s.warn("recipient refused", "line", clip(line), "reply", string(no))
		return s.own(string(no))
	}
	s.tx.to++
	return s.pass(text, &answer{rcpt: true})
}

// reset ends a transaction, if there is one.
func (s *session) reset(silent bool) error {
	if s.tx == nil {
		return nil
	}
	if err := s.pass("RSET", &answer{free: true, silent: silent}); err != nil {
		return err
	}
	if err := s.deliver(); err != nil {
		return err
	}
	s.tx = nil
	return nil
}

// data waits for the MTA's word on DATA. Until then nobody knows what the bytes
// that follow are.
func (s *session) data(arg, line string) error {
	switch {
	case arg != "":
		return s.refuse(line, badSyntax)
	case s.tx == nil:
		return s.refuse(line, "503 5.5.1 MAIL comes first")
	}
	code := make(chan int, 1)
	if err := s.pass("DATA", &answer{code: code}); err != nil {
		return err
	}
	if err := s.deliver(); err != nil {
		return err
	}
	select {
	case c := <-code:
		if c != 354 {
			return nil
		}
	case <-s.dead:
		return errDead
	}
	tx := s.tx
	if err := s.say(&answer{b: tx.b, tx: tx, final: true, free: true}); err != nil {
		return err
	}
	s.hub.inText(true)
	defer s.hub.inText(false)
	var t body
	for end := false; !end; {
		p, err := s.some(tx.b, math.MaxInt64)
		if err != nil {
			return err
		}
		var n int
		// The replier waits for the answer since before the message.
		tx.b.bound(s.o.MTATimeout)
		n, end = t.write(tx.b.w, p)
		tx.bytes.Add(int64(n))
		s.in.Discard(n)
	}
	if err := s.deliver(); err != nil {
		return err
	}
	s.tx = nil
	return nil
}

// bdat passes a chunk on. The MTA reads it whatever it has to say, so nobody
// need wait.
func (s *session) bdat(arg, line string) error {
	n, last, ok := chunk(arg)
	if !ok {
		s.refuse(line, badSyntax)
		return fmt.Errorf("%w: no telling how long a chunk is: %q", ErrAbuse, clip(line))
	}
	s.hub.inText(true)
	defer s.hub.inText(false)
	if s.tx == nil {
		if _, err := io.CopyN(io.Discard, s.in, n); err != nil {
			return err
		}
		return s.refuse(line, "503 5.5.1 MAIL comes first")
	}
	text := fmt.Sprintf("BDAT %d", n)
	if last {
		text += " LAST"
	}
	tx := s.tx
	tx.bytes.Add(n)
	if err := s.pass(text, &answer{final: last, free: last}); err != nil {
		return err
	}
	for n > 0 {
		p, err := s.some(tx.b, n)
		if err != nil {
			return err
		}
		tx.b.bound(s.o.MTATimeout)
		if _, err := tx.b.w.Write(p); err != nil {
			if err := s.broken(); err != nil {
				return err
			}
		}
		s.in.Discard(len(p))
		n -= int64(len(p))
	}
	if last {
		if err := s.deliver(); err != nil {
			return err
		}
		s.tx = nil
	}
	return nil
}

// some is what has come of a message, at least a byte and at most n. While there
// is nothing the MTA gets what it has not yet been given, the commands before
// the message above all: the provider may wait for the replies to them.
func (s *session) some(b *backend, n int64) ([]byte, error) {
	if s.in.Buffered() == 0 && b.w.Buffered() > 0 {
		if err := s.deliver(); err != nil {
			return nil, err
		}
	}
	if _, err := s.in.Peek(1); err != nil {
		return nil, err
	}
	return s.in.Peek(int(min(n, int64(s.in.Buffered()))))
}

// reply brings the replies to the provider until no more are due. A provider
// that has gone does not end it: what the MTA has taken is to be counted.
func (s *session) reply() error {
	for {
		a, ok := s.due()
		if !ok {
			return nil
		}
		if a.b == nil {
			s.write(a.text)
		} else if err := s.bring(a); err != nil {
			return err
		}
		if !a.silent {
			s.hub.owe(-1)
		}
	}
}

// write sends to the provider, when it will be flushed. Once that fails nothing
// more can be read either.
func (s *session) write(text string) {
	if _, err := s.out.WriteString(text); err != nil {
		s.failed(gone(err))
		s.hub.stop()
	}
}

func (s *session) push() {
	if err := s.out.Flush(); err != nil {
		s.failed(gone(err))
		s.hub.stop()
	}
}

func gone(err error) error {
	if err == io.EOF {
		return ErrClosed
	}
	if errors.Is(err, ErrSilent) {
		return fmt.Errorf("%w: it does not read its replies", err)
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}

// due is the next reply. What has been written is sent off when there is none
// soon: replies travel together as long as that costs next to no time.
func (s *session) due() (*answer, bool) {
	select {
	case a, ok := <-s.answers:
		if !ok {
			s.push()
		}
		return a, ok
	default:
	}
	if s.linger > 0 && s.out.Buffered() > 0 {
		timer := time.NewTimer(s.linger)
		defer timer.Stop()
		select {
		case a, ok := <-s.answers:
			if !ok {
				s.push()
			}
			return a, ok
		case <-timer.C:
		}
	}
	s.push()
	a, ok := <-s.answers
	return a, ok
}

// lingering is how long a reply waits for others to travel with, on this
// connection: nothing next to its round trip. A packet costs 52 bytes each way,
// as its acknowledgement often goes alone, and the reply to MAIL has 14.
func lingering(conn net.Conn) time.Duration {
	line, _ := socket.InfoOf(conn)
	return min(line.RTT/30, 20*time.Millisecond)
}

// bring reads a reply of the MTA and passes it on.
func (s *session) bring(a *answer) error {
	code, lines, err := s.told(a)
	if err != nil {
		if a.b.gone.Load() {
			a.b.conn.Close() // the next reply is not waited for
			return nil
		}
		s.write("421 4.3.2 " + s.o.Hostname + " the mail server does not answer, try again later\r\n")
		s.push()
		return err
	}
	if !a.silent {
		for _, line := range lines {
			s.write(line + "\r\n")
		}
	}
	s.note(a, code, lines[len(lines)-1])
	if a.code != nil {
		// The reader waits, and so does the provider.
		s.push()
		a.code <- code
	}
	if a.free && !a.b.isLost() {
		s.release(a.b)
	}
	return nil
}

// told is what the MTA replies. 421 is about one connection only, and from
// there on every answer but that to RSET is a temporary no.
func (s *session) told(a *answer) (code int, lines []string, err error) {
	if !a.b.isLost() {
		if a.b.r.Buffered() == 0 {
			if s.linger > 0 && s.out.Buffered() > 0 {
				a.b.linger(s.linger)
			}
			if a.b.r.Buffered() == 0 {
				s.push()
			}
		}
		code, lines, err = s.receive(a.b)
		if err != nil || code != 421 {
			return code, lines, err
		}
		s.lose(a.b, lines[len(lines)-1])
	}
	if a.free && !a.final {
		return 250, []string{"250 2.0.0 Ok"}, nil
	}
	return 451, []string{"451 4.3.2 The mail server has ended the connection, try again later"}, nil
}

// queued is how Postfix, Exim and Sendmail name what they have taken.
var queued = regexp.MustCompile(`(?i)(?:queued as |id=|^250 2\.0\.0 )([A-Za-z0-9.-]{5,60})`)

// note keeps the counts.
func (s *session) note(a *answer, code int, text string) {
	b := a.b
	switch {
	case code/100 >= 4:
		b.errors++
		if a.rcpt {
			s.log.Warn("recipient refused by the local mail server", "reply", clip(text))
		}
	case a.final:
		b.errors, b.dirty = 0, false
	case a.free: // RSET
		b.dirty = false
	}
	switch {
	case a.final && code/100 == 2:
		id := ""
		if m := queued.FindStringSubmatch(text); m != nil {
			id = m[1]
		}
		s.log.Info("message taken", "from", clip(a.tx.from), "recipients", a.tx.to, "bytes", a.tx.bytes.Load(), "queue-id", id)
		s.count(func(c *Counts) {
			c.Messages++
			c.Bytes += a.tx.bytes.Load()
			c.Busy--
			c.Last = id
			if id != "" && len(s.took) < maxTook {
				s.took[id] = true
			}
		})
	case a.final:
		s.log.Warn("message refused by the local mail server", "from", clip(a.tx.from), "reply", clip(text))
		s.count(func(c *Counts) { c.Refused++; c.Busy-- })
	case a.free:
		s.count(func(c *Counts) { c.Busy-- })
	case a.rcpt && code/100 >= 4:
		s.count(func(c *Counts) { c.Rejected++ })
	}
}

// farewell lets the last reply arrive: to close a socket with unread bytes in it
// resets the connection, and takes away what was on its way.
func (s *session) farewell() {
	conn := s.hub.conn
	conn.SetDeadline(time.Now().Add(time.Second))
	for _, c := range []net.Conn{conn, socket.Raw(conn)} {
		half, ok := c.(interface{ CloseWrite() error })
		if !ok || half.CloseWrite() != nil {
			return
		}
	}
	io.CopyN(io.Discard, socket.Raw(conn), 1<<20)
}
