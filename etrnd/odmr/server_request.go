package odmr

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/socket"
)

// maxReason is how much of an answer's text the client is told, in bytes.
const maxReason = 400

// etrn is RFC 1985.
func (d *dialogue) etrn(ctx context.Context, name string) error {
	line, name := "ETRN "+name, etrn.ASCII(name)
	switch {
	case !d.hello:
		// RFC 1985 has ETRN behind EHLO, which is where it is offered; Postfix
		// asks for it too.
		return d.refuse(503, line, "send EHLO first")
	case name == "":
		return d.refuse(500, line, "ETRN needs a name: domain, @domain or #queue") // erratum 4130
	case strings.Contains(name, " "):
		return d.refuse(501, line, "ETRN takes one name")
	}
	if err := etrn.CheckName(name); err != nil {
		return d.refuse(501, line, err.Error())
	}
	ask, cancel := context.WithTimeout(ctx, d.srv.o.AskTimeout)
	defer cancel()
	d.who.AtATime = atATime(d.meter.Pace())
	a := d.srv.o.Asker.Ask(ask, d.who, name)
	text := foreign.Printable(a.Text, maxReason)
	switch {
	case a.Code == 253 && a.Count > 0:
		d.reply(253, "OK, %d pending messages for node %s started", a.Count, name)
	case a.Code == 251, a.Code == 253:
		a.Code = 251
		d.reply(251, "OK, no messages waiting for node %s", name)
	case a.Code == 250:
		d.reply(250, "OK, queuing for node %s started", name)
	case a.Code == 252:
		d.reply(252, "OK, pending messages for node %s started", name)
	case a.Code == 458:
		d.reply(458, "Unable to queue messages for node %s%s", name, reason(text))
	case a.Code == 459:
		d.reply(459, "Node %s not allowed%s", name, reason(text))
	default:
		if a.Code != 451 {
			d.log.Error("answer to ETRN is none of RFC 1985", "name", name, "code", a.Code)
			a.Code, text = 451, "internal error"
		}
		d.reply(451, "Unable to process node %s now%s", name, reason(text))
	}
	level := slog.LevelInfo
	if a.Code >= 400 {
		level = slog.LevelWarn
	} else {
		d.known.Store(true)
	}
	d.log.Log(ctx, level, "etrn", "name", name, "code", a.Code, "messages", a.Count, "reason", cmp.Or(a.Log, text))
	if a.Code == 459 {
		return d.deny()
	}
	return nil
}

const (
	// usualConnections are those with which an MTA begins.
	usualConnections = 5
	// leastAtATime fill a line whose round trips are long: one message moves while
	// another waits for an answer.
	leastAtATime = 2
)

// atATime is how many messages may come at a time over the line of a client. On a
// thin one the connections that an MTA opens keep each other from coming about:
// what one has to say waits for half a minute behind what the others have, and
// the MTA takes the host for dead.
func atATime(pace socket.Pace) int {
	if n := pace.Connections(); n > 0 && n < usualConnections {
		return max(n, leastAtATime)
	}
	return 0
}

func reason(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// atrn is the provider's side of RFC 2645 up to the turn.
func (d *dialogue) atrn(ctx context.Context, arg string) error {
	line := "ATRN " + arg
	switch {
	case d.srv.o.Turner == nil:
		return d.refuse(502, line, "ATRN is not implemented; use ETRN")
	case !d.hello:
		return d.refuse(503, line, "send EHLO first")
	case d.who.User == "":
		return d.refuse(530, line, "authenticate first")
	}
	var domains []string
	if arg != "" {
		domains = strings.Split(arg, ",")
	}
	for i, domain := range domains {
		domain = etrn.ASCII(domain)
		domains[i] = domain
		if err := etrn.CheckNode(domain); err != nil {
			return d.refuse(501, line, err.Error())
		}
	}
	if n := d.in.Buffered(); n > 0 {
		// The next bytes of the peer are those of a server that greets. What
		// came before our answer was written without knowing it.
		d.errors++
		d.in.Discard(n)
		d.log.Warn("session refused", "reason", "data sent ahead of the turn", "bytes", n)
		return closing("nothing may follow ATRN before its reply")
	}
	ask, cancelAsk := context.WithTimeout(ctx, d.srv.o.AskTimeout)
	a, turned := d.srv.o.Turner.Turn(ask, d.who, domains)
	cancelAsk()
	if a.Code != 250 || turned == nil {
		d.log.Info("atrn", "code", a.Code, "reason", a.Text)
		d.reply(a.Code, "%s", foreign.Printable(a.Text, maxReason))
		if a.Code == 450 {
			return d.deny()
		}
		return nil
	}
	d.reply(250, "OK, now reversing the connection")
	if err := d.flush(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	d.mu.Lock()
	draining := d.draining
	d.turned = func() { cancel(errDraining) }
	d.conn.SetDeadline(time.Time{})
	d.mu.Unlock()
	if draining {
		cancel(errDraining)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { d.watch(ctx, cancel) })
	// From here on the peer is a server: there is no farewell to be said to it.
	if err := turned(ctx, d.conn); err != nil {
		return fmt.Errorf("turned: %v", err)
	}
	return errQuit
}

// watch ends a turned connection when the login that it rests on has gone.
func (d *dialogue) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		changed := d.srv.o.Users.Changed()
		if !d.srv.o.Users.Stands(d.grant) {
			cancel(errRevoked)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
