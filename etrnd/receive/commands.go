package receive

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
)

const (
	// maxLine is the longest command, with CRLF. RFC 5321 has 512, and
	// extensions add to it: Postfix takes 2048, and encodes some of it anew.
	maxLine = 8192
	// maxRefused is how many commands are refused before the connection ends.
	maxRefused = 100
	// maxRejected is how many addresses are refused here before the connection ends.
	// A provider who has mail for somebody else may have a lot of it.
	maxRejected = 10000
	// maxWarned is how many refusals are logged, of ours and of the MTA's.
	maxWarned = 100
	// maxShown is how much of a foreign text the log shows, in bytes.
	maxShown = 200
)

// read takes commands until there are no more.
func (t *turn) read() error {
	for {
		line, err := t.line()
		var bad esmtp.LineError
		switch {
		case err == nil:
			err = t.command(line)
		case errors.As(err, &bad):
			code := "500 5.5.2 "
			if verb := strings.ToUpper(line[:min(5, len(line))]); verb == "MAIL " || verb == "RCPT " {
				code = "451 4.5.2 " // see refusal
			}
			err = t.refuse(line, refusal(code+bad.Error()))
		case err == esmtp.ErrFlood, err == esmtp.ErrTLSHello:
			err = fmt.Errorf("%w: %w", ErrAbuse, err)
		}
		if err == nil {
			continue
		}
		t.forget()
		word := ""
		switch {
		case err == errQuit, err == errDead:
		case errors.Is(err, ErrSilent):
			word = "421 4.4.2 " + t.o.Hostname + " closes: nothing has come for " + t.provider.silence.Round(time.Second).String()
			err = fmt.Errorf("%w: nothing has come for %v", err, t.provider.silence.Round(time.Second))
		case errors.Is(err, ErrAbuse):
			word = "421 4.7.0 " + t.o.Hostname + " closes: this is not how mail is sent"
		case errors.Is(err, ErrMTA):
			word = t.noMTA()
		default:
			err = gone(err)
		}
		if word != "" {
			t.own(word)
		}
		return err
	}
}

// forget makes the MTA drop what is half done: it sees the connection end. The
// replies to the commands before that still come.
func (t *turn) forget() {
	if t.tx == nil {
		return
	}
	b := t.tx.b
	t.tx = nil
	b.gone.Store(true)
	// For the replier too, which may be in the middle of a wait, and not by
	// flush, which would take its time.
	b.bound(min(t.o.MTATimeout, maxGone))
	b.w.Flush()
	half, ok := b.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		b.conn.Close()
	}
}

// line reads one line. What is no command no MTA gets to see.
func (t *turn) line() (string, error) {
	if t.provider.over() {
		return "", errDead // what is left in the buffer has nobody to be answered
	}
	t.idle()
	line, err := t.in.ReadCommand()
	return string(line), err
}

// idle sends off what the MTA has to answer before the provider goes on.
func (t *turn) idle() {
	if t.tx == nil || t.tx.b.w.Buffered() == 0 || t.in.Ready() {
		return
	}
	// An error comes back with the reply.
	t.flush(t.tx.b)
}

// say makes a reply due.
func (t *turn) say(a *answer) error {
	if !a.silent {
		t.provider.owe(1)
	}
	select {
	case t.answers <- a:
		return nil
	case <-t.dead:
		return errDead
	}
}

func (t *turn) own(text string) error { return t.say(&answer{text: text + "\r\n"}) }

// refuse answers a command with a no of our own.
func (t *turn) refuse(line string, no refusal) error {
	t.warnings.Warn("command of the remote refused", "line", foreign.Clip(line, maxShown), "reply", string(no))
	if t.errors++; t.errors > maxRefused {
		return fmt.Errorf("%w: more than %d commands refused", ErrAbuse, maxRefused)
	}
	return t.own(string(no))
}

// reject answers a command whose address is not passed on.
func (t *turn) reject(what, line string, no refusal) error {
	t.warnings.Warn("address refused", "what", what, "line", foreign.Clip(line, maxShown), "reply", string(no))
	if t.rejected++; t.rejected > maxRejected {
		return fmt.Errorf("%w: more than %d addresses refused", ErrAbuse, maxRejected)
	}
	return t.own(string(no))
}

// command understands one command.
func (t *turn) command(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	arg = strings.Trim(arg, " ")
	switch verb {
	case "EHLO", "HELO":
		return t.greet(verb, arg, line)
	case "MAIL":
		return t.mail(arg, line)
	case "RCPT":
		return t.rcpt(arg, line)
	case "DATA":
		return t.data(arg, line)
	case "BDAT":
		return t.bdat(arg, line)
	case "RSET":
		if arg != "" {
			return t.refuse(line, badSyntax)
		}
		if t.tx == nil {
			return t.own("250 2.0.0 Ok")
		}
		return t.reset(false)
	case "NOOP":
		return t.own("250 2.0.0 Ok")
	case "QUIT":
		if arg != "" {
			return t.refuse(line, badSyntax)
		}
		if err := t.reset(true); err != nil {
			return err
		}
		t.own("221 2.0.0 Bye")
		return errQuit
	}
	return t.refuse(line, "502 5.5.1 Unknown command; this connection takes mail only")
}

// greet asks one connection to the MTA and remembers for the others.
func (t *turn) greet(verb, name, line string) error {
	if !helloName(name) {
		return t.refuse(line, badSyntax)
	}
	// RFC 5321, section 4.1.4: as if RSET had been said.
	if err := t.reset(true); err != nil {
		return err
	}
	hello := verb + " " + name
	var b *backend
	var r esmtp.Reply
	for {
		var err error
		if b, err = t.next(); err != nil {
			return err
		}
		if r, err = t.ask(b, hello); err == nil && r.Code != 421 {
			break
		}
		t.drop(b)
		if b.tired(r, err) {
			continue
		}
		if err == nil {
			err = fmt.Errorf("%w: to %q it says %q", ErrMTA, hello, r)
		}
		return err
	}
	if r.Code == 250 {
		b.hello, b.dirty, t.hello = hello, false, hello
		t.offered = nil
		if verb == "EHLO" {
			t.offered = offered(r.Lines[1:])
		}
	} else {
		b.errors++
	}
	t.release(b)
	switch {
	case r.Code != 250:
		return t.say(&answer{text: string(t.unwelcome(verb, r).AppendTo(nil))})
	case verb == "HELO":
		return t.own("250 " + t.o.Hostname)
	}
	r.Lines = offer(r.Lines)
	return t.say(&answer{text: string(r.AppendTo(nil))})
}

// open counts transactions.
func (t *turn) open(n int) { t.count(func(c *Counts) { c.Busy += n }) }

// pass gives a command to the MTA.
func (t *turn) pass(line string, a *answer) error {
	a.b, a.tx = t.tx.b, t.tx
	if err := t.say(a); err != nil {
		return err
	}
	// The replier learns of an error by itself, and may find the MTA's reason
	// before it: that is worth more than what can be said here.
	if err := t.send(t.tx.b, line+"\r\n"); err != nil {
		return t.broken()
	}
	return nil
}

// broken waits for what the replier makes of a connection that has failed. When
// it was lost the rest of the transaction goes nowhere.
func (t *turn) broken() error {
	b := t.tx.b
	// One reply more than there will be.
	if err := t.say(&answer{b: b, tx: t.tx, silent: true}); err != nil {
		return err
	}
	select {
	case <-b.lost:
		b.w.Reset(io.Discard)
		return nil
	case <-t.dead:
		return errDead
	}
}

// sendOff sends off what the transaction has for the MTA.
func (t *turn) sendOff() error {
	if t.flush(t.tx.b) != nil {
		return t.broken()
	}
	return nil
}

func (t *turn) mail(arg, line string) error {
	if t.hello == "" {
		return t.refuse(line, "503 5.5.1 Send EHLO first")
	}
	text, from, no := mail(arg, t.offered)
	if no != "" {
		t.refuses(no.why(), func(c *Counts) { c.Refused++ })
		return t.reject("sender refused", line, no)
	}
	if t.tx != nil && t.tx.b.isLost() {
		if err := t.reset(true); err != nil {
			return err
		}
	}
	if t.tx == nil {
		b, err := t.acquire()
		if err != nil {
			return err
		}
		t.tx = &transaction{b: b, from: from, utf8: strings.Contains(text, "> SMTPUTF8") || strings.Contains(text, " SMTPUTF8 ")}
		t.open(1)
	}
	return t.pass(text, &answer{mail: true})
}

func (t *turn) rcpt(arg, line string) error {
	if t.tx == nil {
		return t.refuse(line, "503 5.5.1 Send MAIL first")
	}
	text, _, no := t.recipient(arg, t.offered, t.tx.utf8)
	if no != "" {
		t.refuses(no.why(), func(c *Counts) { c.Rejected++ })
		return t.reject("recipient refused", line, no)
	}
	t.tx.to++
	return t.pass(text, &answer{rcpt: true})
}

// reset ends a transaction, if there is one.
func (t *turn) reset(silent bool) error {
	if t.tx == nil {
		return nil
	}
	if err := t.pass("RSET", &answer{free: true, silent: silent}); err != nil {
		return err
	}
	if err := t.sendOff(); err != nil {
		return err
	}
	t.tx = nil
	return nil
}
