package deliver

import (
	"bufio"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/socket"
)

// Ends of a turned connection.
var (
	errReplaced = errors.New("replaced by a newer connection of the same site")
	errClosed   = errors.New("the site closed the connection")
	errQuiet    = errors.New("the site has gone quiet")
	errPanic    = errors.New("panic")
)

// turn is one turned connection.
//
// Three goroutines share the work: run waits for the end, write sends messages
// one behind the other, and read matches the replies, which come in the order
// of the commands, with what waits for them. Deliveries come in from the
// endpoint, on goroutines of their own.
type turn struct {
	c      *Agent
	log    *slog.Logger
	conn   net.Conn
	in     *bufio.Reader
	out    *bufio.Writer
	sels   []queue.Selection
	queues []string
	began  time.Time
	gone   chan struct{} // closed when nothing of it is left

	offers offers // set before write and read begin

	mu       sync.Mutex
	wake     *sync.Cond // for write: any of the below has changed
	activity chan struct{}
	waiting  order      // deliveries that are complete and not sent
	expect   []expected // replies to come, oldest first
	inFlight int        // deliveries that the MTA waits for
	serial   int64
	err      error           // why the connection is of no use any more
	closing  bool            // nothing new is taken
	sending  bool            // write is at work on a message
	moved    time.Time       // the last sign that the site reads or answers
	doneAt   time.Time       // when the MTA last got an answer
	accepted map[string]bool // recipients that the site has taken in this session
	kept     int             // answers 4xx

	last    *message      // the one whose envelope was sent last; owned by write
	current *message      // the one that write has taken and not yet given away
	wrote   chan struct{} // closed when write has ended

	delivered, failed int
	bytes             int64
}

// expected is what waits for one reply.
type expected struct {
	m    *message
	kind kind
	i    int // with isRcpt: which
}

type kind int

const (
	isHello kind = iota
	isRset
	isMail  // to MAIL
	isRcpt  // to RCPT
	isData  // to DATA
	isChunk // to BDAT
	isEnd   // to BDAT LAST, or to the end of DATA
	isQuit
)

// maxAccepted bounds the recipients that are remembered: a site has that many
// addresses at most, or is asked again.
const maxAccepted = 10000

func newTurn(c *Agent, conn net.Conn, sels []queue.Selection, log *slog.Logger) *turn {
	t := &turn{
		c: c, log: log, conn: conn, sels: sels, queues: queuesOf(sels), began: time.Now(),
		gone: make(chan struct{}), wrote: make(chan struct{}), activity: make(chan struct{}, 1),
		accepted: map[string]bool{}, moved: time.Now(),
	}
	prepare(conn)
	t.wake = sync.NewCond(&t.mu)
	t.in = bufio.NewReaderSize(conn, maxReplyLine)
	t.out = bufio.NewWriterSize(wireWriter{t}, 16<<10)
	return t
}

// wireWriter is the connection, with a deadline for every write.
type wireWriter struct{ t *turn }

func (w wireWriter) Write(b []byte) (int, error) {
	t := w.t
	t.mu.Lock()
	err := t.err
	if err == nil {
		t.conn.SetWriteDeadline(time.Now().Add(t.c.o.WriteTimeout))
	}
	t.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := t.conn.Write(b)
	t.mu.Lock()
	t.moved = time.Now()
	t.mu.Unlock()
	return n, err
}

// fail ends the turn at once. Only the first reason counts.
func (t *turn) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failLocked(err)
}

func (t *turn) failLocked(err error) {
	if t.err != nil {
		return
	}
	t.err = err
	t.closing = true
	t.conn.SetDeadline(time.Unix(1, 0)) // whoever reads or writes returns
	t.changed()
}

// changed wakes run and write. The caller holds mu.
func (t *turn) changed() {
	t.wake.Broadcast()
	select {
	case t.activity <- struct{}{}:
	default:
	}
}

// alive reports whether the site has shown a sign of life within d.
func (t *turn) alive(d time.Duration) bool {
	select {
	case <-t.gone:
		return false
	default:
	}
	t.mu.Lock()
	failed, moved := t.err != nil, t.moved
	t.mu.Unlock()
	if failed {
		return false
	}
	if line, ok := socket.InfoOf(t.conn); ok {
		return line.Heard < d
	}
	return time.Since(moved) < d
}

// decline ends a connection that was turned and is not wanted.
func (t *turn) decline() error {
	t.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := readReply(t.in); err != nil {
		return err
	}
	_, err := t.conn.Write([]byte("QUIT\r\n"))
	if err == nil {
		_, err = readReply(t.in)
	}
	return err
}

// run delivers until nothing is left, the site is gone, or ctx ends.
func (t *turn) run(ctx context.Context) (err error) {
	ends, err := t.open(ctx)
	if err != nil {
		return err
	}
	unpin := t.c.o.Hold.Pin(t.sels...)
	defer func() {
		// The sockets go first: what the MTA tries from now on fails at once,
		// and what it is trying gets an answer.
		for _, e := range ends {
			e.shut()
		}
		unpin()
		t.abandon(err)
		for _, e := range ends {
			e.drain()
		}
		attrs := []any{"queues", t.queues, "delivered", t.delivered, "failed", t.failed, "bytes", t.bytes, "seconds", time.Since(t.began).Round(time.Millisecond).Seconds()}
		if err != nil {
			t.log.Warn("turned connection ended early", append(attrs, "reason", err.Error())...)
		} else {
			t.log.Info("turned connection done", attrs...)
		}
	}()

	if err := t.greet(ctx); err != nil {
		return err
	}
	t.log.Info("turned", "queues", t.queues, "pipelining", t.offers.pipelining, "chunking", t.offers.chunking)
	for _, e := range ends {
		e.serve()
	}
	var wg sync.WaitGroup
	writeAll := func() error {
		defer close(t.wrote)
		return t.write()
	}
	for _, f := range []func() error{t.read, writeAll} {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					t.log.Error("panic in a turned connection", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
					t.fail(errPanic)
				}
			}()
			if err := f(); err != nil {
				t.fail(err)
			}
		})
	}
	err = t.wait(ctx)
	if err != nil {
		t.fail(err)
	} else {
		err = t.quit()
	}
	wg.Wait()
	return err
}

// open makes the sockets. They take connections from now on, and the MTA can
// begin to bring mail while the site is still being greeted.
func (t *turn) open(ctx context.Context) ([]*endpoint, error) {
	var ends []*endpoint
	for _, name := range t.queues {
		e, err := newEndpoint(ctx, t, name)
		if err != nil {
			for _, e := range ends {
				e.shut()
			}
			return nil, fmt.Errorf("socket for queue %s: %w", name, err)
		}
		ends = append(ends, e)
	}
	return ends, nil
}

// greet is the beginning of the session (RFC 2645, section 5.3): the site, now
// the server, speaks first.
func (t *turn) greet(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { t.fail(context.Cause(ctx)) })
	defer stop()
	ask := func(line string) (reply, error) {
		t.mu.Lock()
		err := t.err
		if err == nil {
			t.conn.SetDeadline(time.Now().Add(t.c.o.GreetTimeout))
		}
		t.mu.Unlock()
		if err == nil && line != "" {
			_, err = t.conn.Write([]byte(line + "\r\n"))
		}
		var r reply
		if err == nil {
			r, err = readReply(t.in)
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
	if r.code != 220 {
		ask("QUIT")
		return fmt.Errorf("the site greets with %v", r)
	}
	hello := "EHLO " + t.c.o.Hostname
	if o, ok := ahead(r.lines); ok {
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
	if r.ok() {
		t.offers = parseOffers(r.lines)
	} else if r, err = ask("HELO " + t.c.o.Hostname); err != nil || !r.ok() {
		if err == nil {
			ask("QUIT")
			err = fmt.Errorf("refused with %v", r)
		}
		return fmt.Errorf("HELO: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	t.conn.SetDeadline(time.Time{})
	return nil
}

// cause is why the turn was ended, where err is only what that led to.
func (t *turn) cause(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.err != nil:
		return t.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errQuiet
	}
	return err
}

// settleDelays are the pauses between listings that are asked for when all has
// been delivered: the MTA takes a moment to remove what it has an answer for.
var settleDelays = []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond}

// wait returns nil when there is nothing left to deliver, and an error when
// there is no use in going on.
func (t *turn) wait(ctx context.Context) error {
	held := t.c.o.Hold
	timer := time.NewTimer(0)
	defer timer.Stop()
	asked := 0
	var askedFor time.Time // doneAt that the listings asked for are about
	for {
		changed := held.Changed()
		t.mu.Lock()
		err, idle, doneAt, moved, waits := t.err, t.inFlight == 0, t.doneAt, t.moved, len(t.expect) > 0
		t.mu.Unlock()
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return t.finish()
		}
		if doneAt.IsZero() {
			doneAt = t.began
		}
		next := time.Minute
		if idle {
			if t.drained(doneAt) {
				return nil
			}
			if !askedFor.Equal(doneAt) {
				asked, askedFor = 0, doneAt
			}
			if asked < len(settleDelays) {
				if due := doneAt.Add(settleDelays[asked]); time.Until(due) <= 0 {
					asked++
					held.Relist()
				}
				if asked < len(settleDelays) {
					next = max(time.Until(doneAt.Add(settleDelays[asked])), time.Millisecond)
				}
			}
			if time.Since(doneAt) > t.c.o.IdleTimeout {
				t.log.Warn("the MTA brings no mail, though some is said to be under way")
				return nil
			}
			next = min(next, max(time.Until(doneAt.Add(t.c.o.IdleTimeout)), time.Millisecond))
		}
		if waits {
			left := time.Until(moved.Add(t.c.o.ReplyTimeout))
			if left <= 0 {
				return errQuiet
			}
			next = min(next, left)
		}
		timer.Reset(next)
		select {
		case <-changed:
		case <-t.activity:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// drained reports whether a listing from after the last answer shows that
// nothing is on its way any more.
func (t *turn) drained(doneAt time.Time) bool {
	listed, _, err := t.c.o.Hold.Listed()
	if err != nil || !listed.After(doneAt) {
		return false
	}
	t.mu.Lock()
	kept := t.kept
	t.mu.Unlock()
	for _, name := range t.queues {
		s, ok := t.c.o.Hold.State(name)
		if !ok {
			continue
		}
		// What the site itself does not take now is for another time. What
		// failed without it is tried once more, which takes seconds.
		if s.UnderWay > 0 || s.Retry > kept {
			return false
		}
	}
	return true
}

// finish ends a turn because the daemon ends: what was sent is waited for, the
// rest is kept.
func (t *turn) finish() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
	t.keepWaiting("shutting down")
	t.changed()
	stop := time.AfterFunc(8*time.Second, func() { t.fail(context.Canceled) })
	defer stop.Stop()
	for t.err == nil && (t.sending || len(t.waiting) > 0 || len(t.expect) > 0) {
		t.wake.Wait()
	}
	return t.err
}

// keepWaiting answers 4xx for what has not been sent. The caller holds mu.
func (t *turn) keepWaiting(why string) {
	for len(t.waiting) > 0 {
		m := heap.Pop(&t.waiting).(*message)
		t.resolve(m, temporary(why))
	}
}

// abandon answers 4xx for whatever is left.
func (t *turn) abandon(err error) {
	why := "the site's connection has ended"
	if err != nil {
		why = "the site's connection was lost: " + err.Error()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
	t.keepWaiting(why)
	for _, e := range t.expect {
		if e.m != nil {
			t.resolve(e.m, temporary(why))
		}
	}
	t.expect = nil
	for _, m := range []*message{t.last, t.current} {
		if m != nil {
			t.resolve(m, temporary(why))
		}
	}
}

// quit ends the session in order. From here on nothing new is taken, but what
// came in the last moment is still sent, and every reply is waited for: QUIT is
// the last thing on the line, and its reply is nobody else's.
func (t *turn) quit() error {
	t.mu.Lock()
	t.closing = true
	t.changed()
	t.mu.Unlock()
	defer t.patience()()
	<-t.wrote
	t.mu.Lock()
	for t.err == nil && len(t.expect) > 0 {
		t.wake.Wait()
	}
	err := t.err
	if err == nil {
		t.expect = append(t.expect, expected{kind: isQuit})
		t.conn.SetDeadline(time.Now().Add(quitPatience))
	}
	t.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := t.conn.Write([]byte("QUIT\r\n")); err != nil {
		t.fail(errClosed)
		return nil // all mail has been answered for
	}
	t.mu.Lock()
	for t.err == nil && len(t.expect) > 0 {
		t.wake.Wait()
	}
	t.mu.Unlock()
	t.fail(errClosed) // ends read
	return nil
}

// quitPatience bounds the wait for replies that no mail depends on.
const quitPatience = 10 * time.Second

// patience ends the turn when nothing has moved for too long, until the
// function that it returns is called: as long as a reply may take while a
// message depends on it, shortly otherwise.
func (t *turn) patience() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(min(time.Second, t.c.o.ReplyTimeout/4))
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			t.mu.Lock()
			limit := t.c.o.ReplyTimeout
			if t.inFlight == 0 {
				limit = min(limit, quitPatience)
			}
			if time.Since(t.moved) > limit {
				t.failLocked(errQuiet)
			}
			t.mu.Unlock()
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// submit takes a message that is complete, or begun and long, from the endpoint.
// m.done is called when it has been answered for.
func (t *turn) submit(m *message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight++
	t.serial++
	m.serial = t.serial
	// A long message is not sent on the chance that somebody wants it. The
	// question goes out early, and the message when the answer is here; others
	// may use the line meanwhile.
	m.asks = m.long() && t.offers.pipelining && t.offers.chunking
	if t.closing {
		t.resolve(m, temporary("the site's connection has ended"))
		return
	}
	heap.Push(&t.waiting, m)
	t.wake.Broadcast()
}

// resolve gives every recipient without a result this one, and lets the
// delivery go. The caller holds mu.
func (t *turn) resolve(m *message, e *smtp.SMTPError) {
	if m.settled {
		return
	}
	good := 0
	for i := range m.rcpts {
		r := &m.rcpts[i]
		if r.result == nil {
			r.result = e
		}
		switch r.result.Code / 100 {
		case 2:
			good++
		case 4:
			t.kept++
		}
	}
	if good > 0 {
		t.delivered++
		t.bytes += m.size
	} else {
		t.failed++
	}
	m.settled = true
	t.inFlight--
	t.doneAt = time.Now()
	m.done()
	t.changed()
}

// read matches replies with what waits for them until the connection ends.
func (t *turn) read() error {
	for {
		r, err := readReply(t.in)
		if err != nil {
			return t.cause(err)
		}
		if err := t.match(r); err != nil {
			return err
		}
	}
}

// match gives a reply to what waits for it.
func (t *turn) match(r reply) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = time.Now()
	switch {
	case t.err != nil:
		return t.err
	case len(t.expect) == 0:
		return fmt.Errorf("the site said %v to nothing", r)
	case r.code == 421:
		return fmt.Errorf("the site said %v", r)
	}
	e := t.expect[0]
	// A reply that cannot belong to its command means that the two sides have
	// lost count of each other. To go on would be to take one message's reply
	// for another's.
	if (r.code == 220 || r.code == 221) && e.kind != isQuit || r.code/100 == 3 && e.kind != isData && e.kind != isEnd {
		return fmt.Errorf("the site said %v, which is no reply to what it was sent", r)
	}
	t.expect = t.expect[1:]
	t.take(e, r)
	t.changed()
	return nil
}

// take does what a reply means for its message. The caller holds mu.
func (t *turn) take(e expected, r reply) {
	m := e.m
	switch e.kind {
	case isHello:
		if !r.ok() {
			t.failLocked(fmt.Errorf("EHLO: refused with %v", r))
		}
	case isMail:
		m.mailed = r
	case isRcpt:
		rc := &m.rcpts[e.i]
		m.open--
		switch {
		case r.ok():
			rc.accepted = true
			if len(t.accepted) < maxAccepted {
				t.accepted[rc.addr] = true
			}
		case m.mailed.ok():
			rc.result = r.result()
			delete(t.accepted, rc.addr)
		default:
			rc.result = m.mailed.result() // this reply only says that there was no MAIL
		}
		if m.open == 0 {
			t.asked(m)
		}
	case isRset:
		if !r.ok() {
			// Without it the next message could get the envelope of this one.
			t.failLocked(fmt.Errorf("the site said %v to RSET", r))
		}
	case isData:
		switch {
		case r.code == 354:
			m.goAhead = true
		case r.code/100 == 4 || r.code/100 == 5:
			t.resolve(m, r.result())
		default:
			t.resolve(m, temporary("the site said "+r.String()+" to DATA"))
		}
	case isChunk:
		if !r.ok() {
			t.resolve(m, r.result())
		}
	case isEnd:
		if r.ok() {
			m.closed = true
		}
		res := r.result()
		for i := range m.rcpts {
			if rc := &m.rcpts[i]; rc.result == nil && !rc.accepted {
				rc.result = temporary("no answer for this recipient")
			}
		}
		t.resolve(m, res)
	}
}

// asked is called when the replies to all of a message's recipients are there.
// The caller holds mu.
func (t *turn) asked(m *message) {
	if m.settled {
		return
	}
	if !m.pending() {
		t.resolve(m, nil)
		return
	}
	if m.asking && t.closing {
		t.resolve(m, temporary("the site's connection has ended"))
		return
	}
	if m.asking {
		m.asking, m.ready = false, true
		heap.Push(&t.waiting, m) // goes on when it is its turn
	}
}
