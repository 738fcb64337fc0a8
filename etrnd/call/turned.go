package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

const (
	// A remote may take a connection that was cut for a living one for a while,
	// and refuses (450) what it takes for a second one.
	staleFor   = 30 * time.Second
	staleRetry = 3 * time.Second
)

// Receiver is what a call needs of a receive.Server.
type Receiver interface {
	Serve(ctx context.Context, conn net.Conn) error
	Counts() receive.Counts
	Took(queueID string) bool
}

// turned is a connection that was turned around by ATRN (RFC 2645).
type turned struct {
	server Receiver
	whole  bool          // the remote sends all that it has over one connection
	asked  int           // questions that had been put when it was turned, its own included
	over   chan struct{} // closed when it has ended
	err    error         // for those who have seen over
}

// hasEnded tells whether the connection has ended, and why if not by QUIT.
func (t *turned) hasEnded() (bool, error) {
	select {
	case <-t.over:
		return true, t.err
	default:
		return false, nil
	}
}

// counts is what has come, in the words of Inbound. The milter need not report
// for that; it only tells what came a second time.
func (t *turned) counts(tally *Tally) Counts {
	c := t.server.Counts()
	in := Counts{Connected: true, Messages: c.Messages, Bytes: c.Bytes, Coming: c.Coming, Busy: c.Busy, Any: true, Active: c.Active, Came: c.Active}
	in.Refused, in.Rejected, in.Why = c.Refused, c.Rejected, c.Why
	if over, _ := t.hasEnded(); !over {
		in.Open = 1
	}
	in.Duplicates = tally.Again(t.server.Took)
	return in
}

// add takes in what came over an earlier connection.
func (c *Counts) add(before Counts) {
	c.Messages += before.Messages
	c.Bytes += before.Bytes
	c.Duplicates += before.Duplicates
	c.Refused += before.Refused
	c.Rejected += before.Rejected
	if before.Why.Class >= c.Why.Class {
		c.Why = before.Why
	}
}

// refusals is what was refused here, for the account of the call; nil: nothing.
func (c Counts) refusals() *api.Refused {
	if c.Why.Class == receive.Nothing {
		return nil
	}
	return &api.Refused{Messages: c.Refused, Recipients: c.Rejected, Reply: c.Why.Reply, Domains: c.For}
}

// seenTurned observes the last turned connection. Exim as a provider ends one
// over TLS after each message, and others after a number of them: QUIT says that
// there is no more only of those who are known to mean it.
func (cl *call) seenTurned() *turnedSeen {
	t := cl.turned
	over, err := t.hasEnded()
	c := t.server.Counts()
	return &turnedSeen{
		over: over, err: err, untold: c.Last != "" && !cl.tally.Saw(c.Last), since: time.Since(c.Active),
		more: !t.whole && c.Messages > 0 && len(cl.questions) == t.asked,
	}
}

// turn asks by ATRN. ok is false when the remote is to be asked by ETRN.
func (cl *call) turn(ctx context.Context, client *odmr.Client, door *doorstep) (q question, ok bool) {
	r := &cl.remote
	auto := r.Protocol == config.ProtocolAuto
	if auto && (r.User == "" || !client.Offers("ATRN")) {
		return question{}, false
	}
	if err := door.shut(r); err != nil {
		return question{atrn: true, err: err}, true
	}
	conn, reply, err := cl.atrn(ctx, client)
	if auto && errors.Is(err, odmr.ErrNoATRN) {
		return question{}, false
	}
	q = question{atrn: true, err: err}
	if reply.Code != 0 {
		q.replies = []odmr.Reply{reply}
	}
	if conn != nil {
		cl.serve(ctx, conn, client.Offers(odmr.Ahead))
	}
	return q, true
}

// atrn sends ATRN, and again after a 450 when the last turned connection broke a
// moment ago: else a line that drops and comes back would fetch nothing until
// it drops the next time.
func (cl *call) atrn(ctx context.Context, client *odmr.Client) (net.Conn, odmr.Reply, error) {
	r := &cl.remote
	for {
		conn, reply, err := client.Turn(ctx, r.Request)
		if reply.Code != 0 {
			cl.log.Info("reply to ATRN", "domains", reply.Name, "code", reply.Code, "text", reply.Text)
		}
		if reply.Code != 450 || time.Since(cl.caller.ledger.lastTurnBroke(r.Name)) > staleFor {
			return conn, reply, err
		}
		cl.step(api.PhaseRequest, r.Host+" to notice that the connection of the last call is gone")
		select {
		case <-ctx.Done():
			return conn, reply, err
		case <-time.After(staleRetry):
		}
	}
}

// serve lets the remote's mail in while the call goes on.
func (cl *call) serve(ctx context.Context, conn net.Conn, ahead bool) {
	r, cfg := &cl.remote, cl.caller.config()
	move := func() {
		select {
		case cl.moved <- struct{}{}:
		default:
		}
	}
	if cl.turned != nil {
		cl.earlier = cl.inCounts()
	}
	t := &turned{over: make(chan struct{}), whole: ahead, asked: len(cl.questions) + 1, server: cl.caller.receive(receive.Options{
		Hostname: cfg.Hostname, Domains: r.Request, Dial: receive.Dialer(cfg.MTA.SMTP),
		Silence: max(r.Wait, r.RequestTimeout), Changed: move, Logger: cl.log,
		Ahead: ahead,
	})}
	cl.turned = t
	cl.step(api.PhaseReceiving, r.Host+" to send its mail")
	cl.serving.Go(func() {
		t.err = serveTurned(ctx, t.server, conn)
		c := t.server.Counts()
		log := cl.log.With("messages", c.Messages, "bytes", c.Bytes, "refused", c.Refused, "rejected", c.Rejected)
		if t.err != nil {
			log.Info("turned connection broke", "error", t.err)
			cl.caller.ledger.turnBroke(r.Name)
		} else {
			log.Info("turned connection ended")
		}
		close(t.over)
		move()
	})
}

// serveTurned is Serve, with a panic made an error: it must not cost the daemon
// its other calls.
func serveTurned(ctx context.Context, s Receiver, conn net.Conn) (err error) {
	defer func() {
		if p := recover(); p != nil {
			conn.Close()
			err = fmt.Errorf("internal error: %v: %s", p, debug.Stack())
		}
	}()
	return s.Serve(ctx, conn)
}
