package deliver

import (
	"context"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/esmtp"
)

// greet is the beginning of the dialogue (RFC 2645, section 5.3): the site, now
// the server, speaks first.
func (t *turn) greet(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { t.fail(context.Cause(ctx)) })
	defer stop()
	ask := func(line string) (esmtp.Reply, error) {
		t.mu.Lock()
		err := t.err
		if err == nil {
			t.conn.SetDeadline(time.Now().Add(t.agent.o.GreetTimeout))
		}
		t.mu.Unlock()
		if err == nil && line != "" {
			_, err = t.conn.Write([]byte(line + "\r\n"))
		}
		var r esmtp.Reply
		if err == nil {
			r, err = t.in.ReadReply()
		}
		if err != nil {
			return r, t.cause(err)
		}
		t.mu.Lock()
		t.moved = time.Now()
		t.mu.Unlock()
		return r, nil
	}
	r, err := ask("")
	if err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	if r.Code != 220 {
		ask("QUIT")
		return fmt.Errorf("the site greets with %v", r)
	}
	hello := "EHLO " + t.agent.o.Hostname
	if o, ok := ahead(r.Lines); ok {
		t.offers = o
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.err != nil {
			return t.err
		}
		t.conn.SetDeadline(time.Time{})
		t.expect = append(t.expect, expected{kind: isHello})
		_, err := t.out.WriteString(hello + "\r\n") // goes with the first mail
		return err
	}
	if r, err = ask(hello); err != nil {
		return fmt.Errorf("EHLO: %w", err)
	}
	switch {
	case r.OK():
		t.offers = parseOffers(r.Lines[1:])
	case r.Code/100 != 5:
		// Not now: HELO would only get mail refused that the site can take.
		ask("QUIT")
		return fmt.Errorf("EHLO: refused with %v", r)
	default:
		if r, err = ask("HELO " + t.agent.o.Hostname); err != nil || !r.OK() {
			if err == nil {
				ask("QUIT")
				err = fmt.Errorf("refused with %v", r)
			}
			return fmt.Errorf("HELO: %w", err)
		}
		t.offers.helo = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	t.conn.SetDeadline(time.Time{})
	return nil
}

// ahead reads the offers from a greeting by which a site of ours takes mail in
// one burst with EHLO (odmr.Ahead).
func ahead(lines []string) (offers, bool) {
	if len(lines) < 2 || lines[1] != odmr.Ahead {
		return offers{}, false
	}
	o := parseOffers(lines[2:])
	return o, o.pipelining && o.chunking
}

// decline ends a connection that was turned and is not wanted.
func (t *turn) decline() error {
	t.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := t.in.ReadReply(); err != nil {
		return err
	}
	_, err := t.conn.Write([]byte("QUIT\r\n"))
	if err == nil {
		_, err = t.in.ReadReply()
	}
	return err
}
