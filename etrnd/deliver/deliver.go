// Package deliver delivers mail over connections that sites have opened: it is
// the provider's side of On-Demand Mail Relay (RFC 2645) from the turn on.
//
// While a site's connection is turned, each of its queues has a socket on which
// the MTA delivers by LMTP (RFC 2033). What comes in there goes out at once, as
// SMTP over the turned connection, and the MTA hears "250" for a recipient only
// after the site has said so. Nothing is stored on the way: a short message is
// in memory while it is under way, a long one is passed on as the line takes
// it, and whatever is unclear at the end is answered 4xx, so that the MTA keeps
// the mail. Without the socket the MTA keeps it too, which is what holding is.
//
// The package is made for bad lines: with PIPELINING (RFC 2920) and CHUNKING
// (RFC 3030) no round trip is waited for, within a message and across messages,
// and it falls back step by step where the site has less.
//
// What it does not do: it does not decide what is held and does not let it go
// (etrnd/hold does), it does not speak ATRN itself (etrnd/odmr does), and it
// changes nothing in a message, but for CR and LF that stand alone where the site
// lacks CHUNKING (see dots).
package deliver

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/queue"
)

// Holder is what the agent needs of hold.Manager.
type Holder interface {
	Queues() *queue.Set
	State(name string) (hold.State, bool)
	Count(ctx context.Context, sels ...queue.Selection) (messages int, ok bool)
	Pin(sels ...queue.Selection) (unpin func())
	Changed() <-chan struct{}
	Listed() (at time.Time, took time.Duration, err error)
	Relist()
}

// Options of an Agent. Hostname, Hold and Socket are needed, the rest has
// defaults, which zero values stand for.
type Options struct {
	Hostname string // in EHLO
	Hold     Holder
	// Socket is the path of the socket on which mail of a queue is taken, as
	// the MTA was told it. The MTA has to get at it, and nobody else should be
	// able to put one of his own there: he would be given the mail.
	Socket func(queue string) string
	// MTA reports whether a user of this machine is the MTA's, which alone may
	// deliver, beside root; nil lets in all who reach the socket.
	MTA    func(uid int) bool
	Logger *slog.Logger // default: discard

	// ReplyTimeout bounds the wait for a reply of the site while nothing else
	// moves either; default 10 min, which RFC 5321, section 4.5.3.2.6, has for
	// the reply to a message.
	ReplyTimeout time.Duration
	// GreetTimeout bounds the wait for the greeting and for the reply to EHLO;
	// default 5 min (section 4.5.3.2.1).
	GreetTimeout time.Duration
	// WriteTimeout bounds the wait for a site that does not read; default 3 min
	// (section 4.5.3.2.5).
	WriteTimeout time.Duration
	// IdleTimeout is how long the MTA may take to bring the next message of
	// those that it was asked for; default 2 min.
	IdleTimeout time.Duration
	// Dead is how long a turned connection has shown no sign of life before
	// another one of the same site takes its place; default 10 s.
	Dead time.Duration
}

// Agent is an odmr.Turner.
type Agent struct {
	o   Options
	log *slog.Logger

	mu     sync.Mutex
	turned map[string]*turn // by queue name
	plain  map[string]bool  // queues whose site offers DSN and refuses its parameters
}

var _ odmr.Turner = (*Agent)(nil)

// New returns an Agent.
func New(o Options) *Agent {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	or := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&o.ReplyTimeout, 10*time.Minute)
	or(&o.GreetTimeout, 5*time.Minute)
	or(&o.WriteTimeout, 3*time.Minute)
	or(&o.IdleTimeout, 2*time.Minute)
	or(&o.Dead, 10*time.Second)
	return &Agent{o: o, log: o.Logger, turned: map[string]*turn{}, plain: map[string]bool{}}
}

// Turn decides about an ATRN (RFC 2645, section 5.2.1).
func (a *Agent) Turn(ctx context.Context, who etrn.Identity, domains []string) (etrn.Answer, func(context.Context, net.Conn) error) {
	sels, answer := a.selections(who, domains)
	if sels == nil {
		return answer, nil
	}
	messages, ok := a.o.Hold.Count(ctx, sels...)
	if !ok {
		return etrn.Answer{Code: 451, Text: "unable to look into the queue now, try again"}, nil
	}
	if messages <= 0 {
		return etrn.Answer{Code: 453, Text: "you have no mail"}, nil
	}
	for _, name := range queuesOf(sels) {
		if t := a.holder(name); t != nil && t.alive(a.o.Dead) {
			return etrn.Answer{Code: 450, Text: "already turned: another connection of yours is taking this mail"}, nil
		}
	}
	if !a.mtaAnswers(ctx) {
		return etrn.Answer{Code: 451, Text: "the mail server is not available, try again later", Log: "the MTA's queue cannot be listed"}, nil
	}
	return etrn.Answer{Code: 250}, func(ctx context.Context, conn net.Conn) error {
		return a.run(ctx, conn, who, sels)
	}
}

func (a *Agent) holder(name string) *turn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.turned[name]
}

// avoidDSN notes that a site refuses parameters that it offers to take. Its mail
// stays with the MTA, and goes without them the next time.
func (a *Agent) avoidDSN(queues []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range queues {
		a.plain[name] = true
	}
}

func (a *Agent) avoidsDSN(queues []string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(queues, func(name string) bool { return a.plain[name] })
}

// run owns a connection that was turned around.
func (a *Agent) run(ctx context.Context, conn net.Conn, who etrn.Identity, sels []queue.Selection) error {
	t := newTurn(a, conn, who, sels, a.log.With("session", who.Session, "user", who.User))
	if !a.claim(ctx, t) {
		t.log.Info("turned connection given up: another one was faster")
		return t.decline()
	}
	defer a.disclaim(t)
	return t.run(ctx)
}

// claim makes t the turned connection of its queues. One that is there already
// is ended first if it shows no sign of life: its mail is answered 4xx, and goes
// again.
func (a *Agent) claim(ctx context.Context, t *turn) bool {
	for {
		a.mu.Lock()
		var old *turn
		for _, name := range t.queues {
			if h := a.turned[name]; h != nil {
				old = h
			}
		}
		if old == nil {
			for _, name := range t.queues {
				a.turned[name] = t
			}
			a.mu.Unlock()
			return true
		}
		a.mu.Unlock()
		if old.alive(a.o.Dead) {
			return false
		}
		if !old.makeWay() {
			t.log.Warn("the turned connection before this one shows no sign of life and is dropped")
		}
		select {
		case <-old.gone:
		case <-ctx.Done():
			return false
		}
	}
}

func (a *Agent) disclaim(t *turn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range t.queues {
		if a.turned[name] == t {
			delete(a.turned, name)
		}
	}
	close(t.gone)
}
