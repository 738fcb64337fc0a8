package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// turned is a connection that was turned around by ATRN (RFC 2645). The
// caller's mu guards ended and err.
type turned struct {
	server *receive.Server
	ended  bool
	err    error
}

// counts is what has come, in the words of Inbound. The milter need not report
// for that; it only tells what came a second time.
func (t *turned) counts(tally *Tally) Counts {
	c := t.server.Counts()
	in := Counts{Connected: true, Messages: c.Messages, Bytes: c.Bytes, Busy: c.Busy, Any: true, Active: c.Active}
	if !t.ended {
		in.Open = 1
	}
	if tally != nil {
		in.Duplicates = tally.Again(t.server.Took)
	}
	return in
}

// turn asks by ATRN. ok is false when the remote is to be asked by ETRN.
func (cl *call) turn(ctx context.Context, client *odmr.Client, serving *sync.WaitGroup) (asked request, ok bool) {
	r := &cl.remote
	if r.Protocol == config.ProtocolAuto && (r.User == "" || !client.Offers("ATRN")) {
		return request{}, false
	}
	conn, reply, err := cl.atrn(ctx, client)
	if r.Protocol == config.ProtocolAuto && errors.Is(err, odmr.ErrNoATRN) {
		return request{}, false
	}
	if reply.Code != 0 {
		cl.set(func() {
			cl.replies = append(cl.replies, api.Reply{Name: reply.Name, Code: reply.Code, Text: reply.Text, Count: reply.Count})
		})
	}
	switch {
	case err != nil:
		cl.refused(ctx, err)
		return request{}, true
	case conn == nil: // 453: there is nothing
		return request{made: true, counted: true}, true
	}
	cl.serve(ctx, conn, client.Offers(odmr.Ahead), serving)
	return request{made: true}, true
}

const (
	// A remote may take a connection that was cut for a living one for a while,
	// and refuses (450) what it takes for a second one.
	staleFor   = 30 * time.Second
	staleRetry = 3 * time.Second
)

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
		cl.caller.mu.Lock()
		broke := cl.caller.broke[r.Name]
		cl.caller.mu.Unlock()
		if reply.Code != 450 || time.Since(broke) > staleFor {
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
func (cl *call) serve(ctx context.Context, conn net.Conn, ahead bool, serving *sync.WaitGroup) {
	r, cfg := &cl.remote, cl.caller.config()
	move := func() {
		select {
		case cl.moved <- struct{}{}:
		default:
		}
	}
	t := &turned{server: receive.New(receive.Options{
		Hostname: cfg.Hostname, Domains: r.Request, Dial: receive.Dialer(cfg.MTA.SMTP),
		Silence: max(r.Wait, r.RequestTimeout), Changed: move, Logger: cl.log,
		Ahead: ahead,
	})}
	cl.set(func() {
		cl.turned = t
		cl.phase, cl.waiting = api.PhaseReceiving, r.Host+" to send its mail"
	})
	serving.Go(func() {
		err := serveTurned(ctx, t.server, conn)
		c := t.server.Counts()
		cl.log.Info("turned connection ended", "messages", c.Messages, "bytes", c.Bytes, "refused", c.Refused, "rejected", c.Rejected, "error", err)
		cl.set(func() {
			t.ended, t.err = true, err
			if err == nil {
				cl.expectIn = c.Messages
			} else {
				cl.caller.broke[r.Name] = time.Now()
			}
		})
		move()
	})
}

// serveTurned is Serve, with a panic made an error: it must not cost the daemon
// its other calls.
func serveTurned(ctx context.Context, g *receive.Server, conn net.Conn) (err error) {
	defer func() {
		if p := recover(); p != nil {
			conn.Close()
			err = fmt.Errorf("internal error: %v: %s", p, debug.Stack())
		}
	}()
	return g.Serve(ctx, conn)
}

// turnedVerdict judges a turned connection: the remote ends it when it has no
// more. The caller holds mu.
func (cl *call) turnedVerdict() verdict {
	r, t := &cl.remote, cl.turned
	came := fmt.Sprintf("%d messages have come", cl.in.Messages)
	if cl.in.Messages == 1 {
		came = "1 message has come"
	}
	switch {
	case !t.ended && cl.in.Busy > 0:
		return verdict{waiting: fmt.Sprintf("%d messages that are coming in; %s", cl.in.Busy, came)}
	case !t.ended:
		return verdict{waiting: fmt.Sprintf("%s to send its mail or to say that it has no more; %s", r.Host, came)}
	case t.err == nil:
		// The milter tells in its own time what came a second time.
		c := t.server.Counts()
		late := time.Since(c.Active)
		if c.Last != "" && cl.tally != nil && !cl.tally.Saw(c.Last) && late < settle {
			return verdict{waiting: "etrn-milter to tell of the last message", recheck: settle - late}
		}
		return verdict{done: true}
	}
	v := verdict{done: true, problem: "the mail of " + r.Name + ": " + t.err.Error() + "; " + came, hint: "what has not come stays held there, and comes with the next call"}
	switch {
	case errors.Is(t.err, receive.ErrMTA):
		v.hint = "is the local mail server running? what has not come stays held there, and comes with the next call"
	case errors.Is(t.err, receive.ErrAbuse):
		v.hint = "the log has the details; tell the postmaster of " + r.Host
	}
	return v
}
