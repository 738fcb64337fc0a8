package deliver

import (
	"bufio"
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

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/socket"
)

// Ends of a turned connection.
var (
	errReplaced = errors.New("replaced by a newer connection of the same site")
	errClosed   = errors.New("the site closed the connection")
	errQuiet    = errors.New("the site has gone quiet")
	errNoMTA    = errors.New("the MTA brings no mail")
	errPanic    = errors.New("panic")
	// errCount: what the site says is no answer to what it was asked. Nothing
	// that it has said since a reply that was certain is believed.
	errCount = errors.New("replies and commands do not match")
	// errForbidden: the configuration has changed.
	errForbidden = errors.New("the site may not have this mail any more")
)

// turn is one turned connection.
//
// Three goroutines share the work: run waits for the end, write sends messages
// one behind the other, and read matches the replies, which come in the order
// of the commands, with what waits for them. Deliveries come in from the
// endpoint, on goroutines of their own.
type turn struct {
	agent  *Agent
	log    *slog.Logger
	conn   net.Conn
	in     *esmtp.ReplyReader
	out    *bufio.Writer
	who    etrn.Identity
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
	sent     int64      // bytes that were given to the connection
	unproved []*message // answered by the site, but see prove
	refused  []*message // of these, refused, and waiting for silence
	marks    int        // RSETs among expect
	noDSN    string     // how the site refused parameters that it offers to take
	inFlight int        // deliveries that the MTA waits for
	serial   int64
	err      error           // why the connection is of no use any more
	closing  bool            // nothing new is taken
	left     bool            // QUIT was said, or cannot be: the site may come back, and has only to wait until the MTA has its answers
	sending  bool            // write is at work on a message
	moved    time.Time       // the last sign that the site reads or answers
	doneAt   time.Time       // when the MTA last got an answer
	accepted map[string]bool // recipients that the site has taken on this connection
	kept     int             // answers 4xx

	last    *message      // the one whose envelope was sent last; owned by write
	current *message      // the one that write has taken and not yet given away
	wrote   chan struct{} // closed when write has ended

	delivered, failed int
	bytes             int64
}

// maxReplyLine is the buffer for replies. A longer line is cut.
const maxReplyLine = 4096

func newTurn(a *Agent, conn net.Conn, who etrn.Identity, sels []queue.Selection, log *slog.Logger) *turn {
	t := &turn{
		agent: a, log: log, conn: conn, who: who, sels: sels, queues: queuesOf(sels), began: time.Now(),
		gone: make(chan struct{}), wrote: make(chan struct{}), activity: make(chan struct{}, 1),
		accepted: map[string]bool{}, moved: time.Now(),
	}
	prepare(conn)
	t.wake = sync.NewCond(&t.mu)
	t.in = &esmtp.ReplyReader{Reader: bufio.NewReaderSize(conn, maxReplyLine)}
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
		t.conn.SetWriteDeadline(time.Now().Add(t.agent.o.WriteTimeout))
		t.sent += int64(len(b)) // before the site can have it
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
	failed, moved := t.err != nil || t.left, t.moved
	t.mu.Unlock()
	if failed {
		return false
	}
	if line, ok := socket.InfoOf(t.conn); ok {
		return line.Heard < d
	}
	return time.Since(moved) < d
}

// makeWay ends the turn for a newer connection of the same site, and reports
// whether it was over already, so that nothing is lost by that.
func (t *turn) makeWay() (over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	why := errReplaced
	if t.left {
		why = errClosed // the reply to QUIT is not worth a wait
	}
	t.failLocked(why)
	return t.left
}

// run delivers until nothing is left, the site is gone, or ctx ends.
func (t *turn) run(ctx context.Context) (err error) {
	ends, err := t.open(ctx)
	if err != nil {
		return err
	}
	unpin := t.agent.o.Hold.Pin(t.sels...)
	defer func() {
		t.mu.Lock()
		t.left = true
		t.mu.Unlock()
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
		if t.noDSN != "" { // nobody else is left to write it
			t.log.Warn("the site offers DSN and refuses its parameters; the next connection does without", "reply", t.noDSN)
			t.agent.avoidDSN(t.queues)
		}
		attrs := []any{"queues", t.queues, "delivered", t.delivered, "failed", t.failed, "bytes", t.bytes, "seconds", time.Since(t.began).Round(time.Millisecond).Seconds()}
		if err != nil {
			t.log.Warn("turned connection ended early", append(attrs, "error", err)...)
		} else {
			t.log.Info("turned connection done", attrs...)
		}
	}()

	if err := t.greet(ctx); err != nil {
		return err
	}
	if t.offers.dsn && t.agent.avoidsDSN(t.queues) {
		t.offers.dsn = false
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
