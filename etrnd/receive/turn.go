package receive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/socket"
)

// turn is one turned connection, Serve's state. Two goroutines share it: the
// reader takes the provider's commands and gives them to the MTA, the replier
// brings the replies back in order.
type turn struct {
	*Server
	ctx context.Context
	log *slog.Logger

	provider *providerConn
	in       *esmtp.CommandReader // of provider; the reader's
	out      *bufio.Writer        // of provider; the replier's

	gather time.Duration // how long a reply waits for others to travel with

	scratch []byte // the replier's: a reply as it is written
	inVain  int    // the replier's: messages refused for a reason that concerns all, since one was taken

	answers chan *answer  // in the order of the commands
	dead    chan struct{} // closed when nothing more can be done
	done    chan struct{} // closed when run has ended
	once    sync.Once

	free chan *backend // idle connections to the MTA
	room chan struct{} // gets one when there may be room for a new connection

	mu       sync.Mutex
	backends map[*backend]bool
	cause    error // the first thing that went wrong

	// The reader's own:
	hello    string // the last EHLO or HELO, as sent to the MTA
	tx       *transaction
	offered  esmtp.Offers // by the MTA, of what is passed on
	errors   int          // commands refused
	rejected int          // addresses refused

	warnings, refusals *slog.Logger // for what is refused here, and by the MTA
}

// transaction is a message on its way.
type transaction struct {
	b     *backend
	from  string
	utf8  bool // SMTPUTF8 was said to the MTA
	to    int  // recipients passed on
	bytes atomic.Int64

	// Guarded by the server's mu:
	coming int64 // of Counts.Coming
	over   bool

	// The replier's own:
	no      esmtp.Reply // what the provider hears of a message that was refused as a whole; zero: it was not
	why     Refusal
	taken   int  // recipients that the MTA has taken
	refused bool // it has refused one
	vain    bool // for a reason that concerns all
}

func newTurn(ctx context.Context, s *Server, conn net.Conn) *turn {
	t := &turn{
		Server: s, ctx: ctx, log: s.o.Logger,
		answers: make(chan *answer, maxAnswers), dead: make(chan struct{}), done: make(chan struct{}),
		free: make(chan *backend, s.o.Connections), room: make(chan struct{}, 1), backends: map[*backend]bool{},
	}
	const more = "more of that is not logged for this connection"
	t.warnings, t.refusals = foreign.Quota(t.log, maxWarned, more), foreign.Quota(t.log, maxWarned, more)
	t.provider = &providerConn{conn: conn, silence: socket.Grace(conn, s.o.Silence), life: time.Now()}
	t.in = &esmtp.CommandReader{Reader: bufio.NewReaderSize(t.provider, 32<<10), Max: maxLine, UTF8: true}
	t.out = bufio.NewWriterSize(t.provider, 4<<10)
	t.gather = gatherTime(conn)
	return t
}

// maxAnswers is how many replies may be due: beyond it the provider is not read
// from until some have gone.
const maxAnswers = 1000

// abort ends every wait of the turn, but leaves the connection of the provider open
// for a last word.
func (t *turn) abort() {
	t.once.Do(func() {
		close(t.dead)
		t.provider.stop()
		t.mu.Lock()
		defer t.mu.Unlock()
		for b := range t.backends {
			b.conn.Close()
		}
	})
}

// failed notes why the turn ends: what comes later only follows from it.
func (t *turn) failed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause == nil {
		t.cause = err
	}
}

// guarded turns a panic into the end of this connection alone.
func (t *turn) guarded(half func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("panic in a turned connection", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("internal error")
			t.failed(err)
			t.abort()
		}
	}()
	return half()
}

func (t *turn) run() error {
	first, err := t.dial()
	var greeting string
	if err == nil {
		greeting, err = t.greeting(first)
	}
	if err != nil {
		io.WriteString(t.provider, t.noMTA()+"\r\n")
		t.abort()
		t.lingeringClose()
		return err
	}
	t.release(first)
	t.say(&answer{text: greeting})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := t.guarded(t.reply); err != nil {
			t.failed(err)
			t.abort()
		}
	})
	if err := t.guarded(t.read); err != errQuit {
		t.failed(err)
		defer t.lingeringClose()
	}
	close(t.answers)
	wg.Wait()
	t.abort()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cause
}

// noMTA is what the provider hears when the MTA fails: it keeps what it has, and
// tries again.
func (t *turn) noMTA() string {
	return "421 4.3.2 " + t.o.Hostname + " the mail server does not answer, try again later"
}

var (
	errQuit = errors.New("quit")
	errDead = errors.New("the other half has ended")
)

// answer is one reply that is due to the provider.
type answer struct {
	text string   // of our own; empty: what b says
	b    *backend // where the reply comes from
	tx   *transaction
	rcpt bool
	mail bool
	// final is the reply to a whole message, free to the last command of a
	// transaction: b can be used again.
	final, free bool
	silent      bool     // the provider is not told
	code        chan int // gets the reply's code, when the reader waits for it
}

// lingeringClose lets the last reply arrive: to close a socket with unread bytes in
// it resets the connection, and takes away what was on its way.
func (t *turn) lingeringClose() {
	conn := t.provider.conn
	conn.SetDeadline(time.Now().Add(time.Second))
	for _, c := range []net.Conn{conn, socket.Raw(conn)} {
		half, ok := c.(interface{ CloseWrite() error })
		if !ok || half.CloseWrite() != nil {
			return
		}
	}
	io.CopyN(io.Discard, socket.Raw(conn), 1<<20)
}
