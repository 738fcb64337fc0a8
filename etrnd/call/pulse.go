package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/socket"
)

const (
	// pulseLook is how often a line is looked at.
	pulseLook = 2 * time.Second
	// A line that is silent although something is asked over it is left alone by the
	// push after this part of the time after which it is dead, and asked by us after
	// that one: the sooner, the more questions of ours a living one pays for.
	hushPart  = 5
	probePart = 2
)

// pulse tells whether the line lives, while there are calls. An interface stays up
// when the line ends without a word, and whatever waits for an answer then waits
// for as long as it was told: the MTA's connections for minutes, and one of its
// servers that is sent a message for five. So no single connection is looked at
// but all that cross the line, by what the kernel knows of them, whosever they
// are. A line over which anything is heard lives, however slow it is. One that has
// been silent for as long as a connection of ours may be is dead, if something has
// been asked meanwhile that a living one would have answered: what the MTA has
// sent; else we knock where somebody has answered before, so that a line over
// which there is just nothing to say is not taken for dead.
type pulse struct {
	line *line

	wake chan struct{} // has an element when there are calls again

	// What follows belongs to the goroutine of feel.
	asking time.Time      // since when something is asked and not answered; zero: nothing is
	rtt    time.Duration  // the shortest of a connection: longer ones wait behind others
	knocks chan time.Time // when somebody has answered, zero if nobody has; nil: we do not knock
	hush   func()         // lets the push go on; nil: it does
	blind  bool           // the kernel tells nothing, which has been logged

	mu       sync.Mutex // guards the rest
	calls    bool       // there are some
	local    map[netip.Addr]bool
	peer     map[netip.Addr]bool
	answered netip.AddrPort // takes connections; invalid: nobody has shown that
	heard    time.Time      // the last sign of life; before the first when we began to look
	vain     bool           // no connection of the MTA over which something goes out is answered any more
}

// deadError is why a line ends that is dead.
type deadError struct {
	silence time.Duration
	always  bool // nobody has answered since the line came up
}

func (e deadError) Error() string {
	return fmt.Sprintf("the line is dead: nothing came over it for %v", e.silence.Round(time.Second))
}

// connected notes a connection to a remote, which has answered.
func (p *pulse) connected(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		add(&p.local, a.Addr())
	}
	if a, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		add(&p.peer, a.Addr())
		p.answered = a
	}
	p.heard = time.Now()
}

func add(set *map[netip.Addr]bool, a netip.Addr) {
	if *set == nil {
		*set = map[netip.Addr]bool{}
	}
	(*set)[a.Unmap().WithZone("")] = true
}

// inVain tells whether what is going out goes into nothing.
func (p *pulse) inVain() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vain
}

// silence is for how long nothing has come.
func (p *pulse) silence() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.heard)
}

// silentAlways tells whether nobody has answered so far.
func (p *pulse) silentAlways() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.answered.IsValid()
}

// begin has the pulse felt from now on: there are calls.
func (p *pulse) begin() {
	p.mu.Lock()
	p.calls, p.vain, p.heard = true, false, time.Now()
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// rest notes that there are no calls any more.
func (p *pulse) rest() {
	p.mu.Lock()
	p.calls = false
	p.mu.Unlock()
}

// wanted tells whether the pulse is to be felt.
func (p *pulse) wanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// feel ends the calls and the line when it is dead. It lasts until ctx, the line's
// own, ends.
func (p *pulse) feel(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		if p.knocks != nil {
			<-p.knocks
		}
	}()
	look := time.NewTicker(pulseLook)
	defer look.Stop()
	for ctx.Err() == nil {
		if !p.wanted() {
			p.letGo()
			p.line.pins.lose(0)
			select {
			case <-ctx.Done():
			case <-p.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
		case answered := <-p.knocks:
			p.knocks = nil
			p.lives(answered)
		case <-look.C:
			p.beat(ctx, time.Now())
		}
	}
}

// beat looks how the line is, and does what follows.
func (p *pulse) beat(ctx context.Context, now time.Time) {
	p.look(now)
	silence, limit := p.silence(), p.limit()
	if silence >= limit/probePart && p.knock(ctx) && p.asking.IsZero() {
		p.asking = now
	}
	switch {
	case p.asking.IsZero() || silence < limit/hushPart:
		p.letGo()
	case p.hush == nil:
		p.hush = p.line.pins.hush()
	}
	if !p.asking.IsZero() && silence >= limit && now.Sub(p.asking) >= limit/probePart {
		p.line.caller.log.Warn("the line is dead", "link", p.line.cfg.Name, "silence", silence.Round(time.Second))
		p.line.died(ctx, deadError{silence, p.silentAlways()})
		p.lives(time.Now()) // if the line is kept, it has the same time again
	}
}

// letGo lets the push go on.
func (p *pulse) letGo() {
	if p.hush != nil {
		p.hush()
		p.hush = nil
	}
}

// knock asks whether somebody is there who was, if nobody does yet, and reports
// whether that is known of anybody.
func (p *pulse) knock(ctx context.Context) bool {
	p.mu.Lock()
	at := p.answered
	p.mu.Unlock()
	if p.knocks != nil || !at.IsValid() {
		return at.IsValid()
	}
	answered := make(chan time.Time, 1)
	p.knocks = answered
	go func() { // feel waits for it
		conn, err := p.line.caller.network.DialContext(ctx, "tcp", at.String())
		if err == nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				tcp.SetLinger(0) // one packet less
			}
			conn.Close()
		}
		if err == nil || errors.Is(err, syscall.ECONNREFUSED) {
			answered <- time.Now()
		} else {
			answered <- time.Time{}
		}
	}()
	return true
}

// limit is after how long a silence the line is dead.
func (p *pulse) limit() time.Duration {
	return socket.Pace{RTT: max(p.rtt, p.line.pins.shown().RTT)}.Grace(socket.Dead)
}

// lives notes a sign of life.
func (p *pulse) lives(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = latest(p.heard, at)
	if p.heard.After(p.asking) {
		p.asking = time.Time{}
	}
}

// look asks the kernel how the connections are.
func (p *pulse) look(now time.Time) {
	list, err := p.line.caller.network.Connections()
	if err != nil && !p.blind {
		p.line.caller.log.Info("whether the line lives shows only by knocking", "link", p.line.cfg.Name, "error", err)
	}
	p.blind = err != nil
	ifaces, limit := p.line.caller.modem.Interfaces(&p.line.cfg), p.limit()
	p.mu.Lock()
	for _, i := range ifaces {
		for _, a := range i.Addrs {
			add(&p.local, a)
		}
	}
	heard, asking, goes, vain := p.heard, false, false, 0
	for i := range list {
		c := &list[i]
		if !p.crossesLocked(c) {
			continue
		}
		asking = asking || c.Asking
		if c.Established {
			heard = latest(heard, now.Add(-c.Heard))
			if c.MinRTT > 0 && (p.rtt == 0 || c.MinRTT < p.rtt) {
				p.rtt = c.MinRTT
			}
			if c.Outgoing && !p.answered.IsValid() {
				p.answered = c.Peer
			}
		}
		switch {
		case !c.Outgoing || c.Ours:
		case c.Asking && c.Established && c.Heard >= limit:
			vain++
		default:
			goes = true
		}
	}
	if now.Sub(heard) >= limit/hushPart {
		vain = 0 // it may be the line
	}
	p.vain = vain > 0 && !goes
	p.mu.Unlock()
	p.line.pins.lose(vain)
	p.lives(heard)
	if asking && p.asking.IsZero() && now.Sub(heard) >= pulseLook {
		p.asking = now
	}
}

// crossesLocked tells whether a connection is one over the line: with a remote, or
// from the line's own address to anybody who is not near. One whose address is gone
// was over an earlier line, and what goes out by it is waited for as well.
func (p *pulse) crossesLocked(c *socket.Connection) bool {
	return p.peer[c.Peer.Addr()] || p.local[c.Local.Addr()] && !c.Near || c.Stray && c.Outgoing && !c.Near
}
