package odmr

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/users"
)

// command reads and answers one command. An error ends the dialogue.
func (d *dialogue) command(ctx context.Context) error {
	line, err := d.line()
	var bad esmtp.LineError
	if err != nil && !errors.As(err, &bad) {
		if decided(err) {
			d.log.Warn("session refused", "error", err, "line", d.shown(line))
		}
		return err
	}
	if d.commands++; d.commands > maxCommands {
		return closing("too many commands")
	}
	// shown notes what it sees of AUTH.
	shown := d.shown(line)
	if err != nil {
		return d.refuseLine(line, bad)
	}
	if d.who.User != "" && !d.srv.o.Users.Stands(d.grant) {
		d.log.Warn("session refused", "reason", "the user was removed or has another password")
		return closing("your login is not valid any more")
	}
	text := string(line)
	verb, arg, _ := strings.Cut(text, " ")
	verb, arg = strings.ToUpper(verb), strings.Trim(arg, " ")
	switch verb {
	case "EHLO", "HELO":
		return d.ehlo(verb, arg)
	case "STARTTLS":
		return d.starttls(ctx, arg)
	case "AUTH":
		return d.auth(ctx, arg)
	case "ETRN":
		return d.etrn(ctx, arg)
	case "ATRN":
		return d.atrn(ctx, arg)
	case "NOOP":
		d.reply(250, "OK")
	case "RSET":
		// There is no transaction to reset.
		d.reply(250, "OK")
	case "HELP":
		lines := []string{
			"This port is for asking for mail that is held (RFC 1985)",
			"ETRN domain    mail for that domain",
			"ETRN @domain   mail for that domain and all below it",
			"ETRN #queue    mail of that queue",
		}
		if d.srv.o.Turner != nil {
			lines = append(lines, "ATRN [domain[,domain...]]   the same over this connection (RFC 2645)")
		}
		d.replyLines(214, append(lines, "Others: EHLO HELO STARTTLS AUTH NOOP RSET HELP QUIT")...)
	case "QUIT":
		d.reply(221, "%s closes", d.srv.o.Hostname)
		if err := d.flush(); err != nil {
			return err
		}
		return errQuit
	case "MAIL", "RCPT", "DATA", "BDAT", "SEND", "SOML", "SAML", "VRFY", "EXPN":
		return d.refuse(502, text, "this port takes ETRN, not mail; send mail to port 25")
	case "TURN":
		// RFC 5321, appendix F.1: whoever says HELO with a name would get its mail.
		return d.refuse(502, text, "TURN is not supported, as it proves nobody's identity; use ETRN")
	case "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE":
		// A browser, tricked into talking to this port.
		d.errors++
		d.log.Warn("session refused", "reason", "HTTP request", "line", shown)
		return closing("this is not a web server")
	default:
		return d.refuse(500, shown, "unknown command; HELP lists the known ones")
	}
	return nil
}

// refuseLine answers a line that is no command.
func (d *dialogue) refuseLine(line []byte, bad esmtp.LineError) error {
	return d.refuse(500, d.shown(line), bad.Error())
}

// plain are commands that hold no secret, whoever they are meant for.
var plain = []string{
	"EHLO", "HELO", "STARTTLS", "ETRN", "ATRN", "NOOP", "RSET", "HELP", "QUIT", "MAIL", "RCPT", "DATA", "BDAT", "VRFY", "EXPN", "TURN",
	"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE",
}

// shown is a line as the log may have it: without what may be a password. Of a
// command that is not known it is the first word, as there are protocols in which
// a password follows, and after any talk of AUTH nothing.
func (d *dialogue) shown(line []byte) string {
	word, _, more := bytes.Cut(line, []byte(" "))
	if slices.Contains(plain, strings.ToUpper(string(word))) {
		return foreign.Clip(line, maxShown)
	}
	d.secret = d.secret || bytes.Contains(bytes.ToUpper(line), []byte("AUTH"))
	switch {
	case d.secret:
		return "(not shown)"
	case more:
		return foreign.Clip(word, maxShown) + " ..."
	}
	return foreign.Clip(word, maxShown)
}

func (d *dialogue) ehlo(verb, arg string) error {
	if arg == "" {
		return d.refuse(501, verb, verb+" needs your host name")
	}
	d.hello = true
	d.log.Debug("hello", "verb", verb, "name", foreign.Clip(arg, maxShown))
	if verb == "HELO" {
		d.reply(250, "%s", d.srv.o.Hostname)
		return nil
	}
	lines := []string{d.srv.o.Hostname, "PIPELINING", "ETRN"}
	if d.srv.o.Turner != nil {
		lines = append(lines, "ATRN", Ahead) // ATRN also before AUTH: RFC 2645, section 4
	}
	if d.srv.o.Certificate != nil && !d.secure {
		lines = append(lines, "STARTTLS")
	}
	if mechanisms := d.mechanisms(); len(mechanisms) > 0 {
		lines = append(lines, "AUTH "+strings.Join(mechanisms, " "))
	}
	d.replyLines(250, append(lines, "HELP")...)
	return nil
}

// mechanisms that are allowed now, best first.
func (d *dialogue) mechanisms() []string {
	if d.srv.o.Users == nil {
		return nil
	}
	all := []string{users.ScramSHA256}
	if d.secure {
		all = append(all, users.Plain, users.Login)
	}
	if d.srv.o.CramMD5 {
		all = append(all, users.CramMD5)
	}
	return all
}
