package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/socket"
)

// mtaTimeout bounds the wait for the MTA, which is on this machine, in the
// middle of a dialogue.
const mtaTimeout = 2 * time.Minute

// endpoint is where the MTA delivers the mail of one queue by LMTP.
type endpoint struct {
	t      *turn
	queue  string
	l      net.Listener
	server *smtp.Server // nil until serve
	done   chan struct{}

	open sync.WaitGroup // connections

	mu    sync.Mutex
	conns map[*mtaConn]struct{}
}

// newEndpoint makes the socket. Connections to it wait until serve.
func newEndpoint(ctx context.Context, t *turn, queue string) (*endpoint, error) {
	// Everybody who gets into the directory may connect, since the MTA delivers
	// as a user of its own; who is at the other end is looked at then.
	l, err := listen.Listen(ctx, "unix:"+t.agent.o.Socket(queue), listen.Options{Mode: 0o666, Logger: t.log})
	if err != nil {
		return nil, err
	}
	if may := t.agent.o.MTA; may != nil {
		l = listen.Only(l, may, t.log)
	}
	return &endpoint{t: t, queue: queue, l: l, done: make(chan struct{}), conns: map[*mtaConn]struct{}{}}, nil
}

// serve begins to answer. What the site offers is known by then, and offered to
// the MTA in turn: it knows best what to do with mail that the site cannot take.
func (e *endpoint) serve() {
	o := e.t.offers
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		conn, _ := c.Conn().(*mtaConn)
		return &delivery{e: e, conn: conn}, nil
	}))
	s.LMTP = true
	s.Domain = e.t.agent.o.Hostname
	// A site that knew only HELO may have had a filter in front of it for once.
	// SMTPUTF8 is then offered, so that the MTA does not give up, see objection.
	s.EnableSMTPUTF8 = o.utf8 || o.helo
	s.EnableDSN = o.dsn
	s.MaxMessageBytes = o.maxSize
	s.MaxLineLength = 16 << 20 // of a message too; the MTA has its own limit
	s.ErrorLog = errorLog{foreign.Quota(e.t.log, maxLogged, "more of that is not logged for this connection")}
	e.server = s
	go func() {
		defer close(e.done)
		if err := s.Serve(mtaListener{e.l, e}); err != nil && !errors.Is(err, net.ErrClosed) {
			e.t.log.Error("the socket for the MTA failed", "queue", e.queue, "error", err)
			e.t.fail(err)
		}
	}()
}

// shut takes the socket away.
func (e *endpoint) shut() { e.l.Close() }

// drain lets deliveries hear their answers, and returns when the last one is
// gone.
func (e *endpoint) drain() {
	if e.server == nil {
		return
	}
	<-e.done
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := e.server.Shutdown(ctx); err != nil {
		e.mu.Lock()
		for c := range e.conns {
			c.Conn.Close() // whoever reads there closes it for good
		}
		e.mu.Unlock()
	}
	e.open.Wait()
}

// delivery is one LMTP session of the MTA.
type delivery struct {
	e    *endpoint
	conn *mtaConn
	m    *message
}

var _ smtp.LMTPSession = (*delivery)(nil)

func (d *delivery) Mail(string, *smtp.MailOptions) error {
	c := d.conn.envelope
	if c.bad != nil {
		return unreadable(c.bad)
	}
	d.m = &message{from: c.path}
	for _, p := range c.parameters {
		d.m.option(p)
	}
	return nil
}

func (d *delivery) Rcpt(token string, _ *smtp.RcptOptions) error {
	c := d.conn.envelope
	if c.bad != nil {
		return unreadable(c.bad)
	}
	t := d.e.t
	set := t.agent.o.Hold.Queues()
	if refused := t.refusal(set, c.path); refused != nil {
		return refused
	}
	r := recipient{token: token, addr: c.path}
	for _, p := range c.parameters {
		r.option(p)
	}
	d.m.rcpts = append(d.m.rcpts, r)
	if len(d.m.rcpts) == 1 {
		d.m.set = set // the oldest by which any of them was let in
	}
	return nil
}

func (d *delivery) Data(io.Reader) error { return temporary("this socket speaks LMTP") }

// LMTPData passes a message on and returns when the site has answered for it.
func (d *delivery) LMTPData(_ io.Reader, status smtp.StatusCollector) error {
	m := d.m
	d.m = nil
	in := &mtaReader{r: d.conn.text}
	// The server reads what is left when this returns; nobody else may then.
	defer in.end()
	m.head = make([]byte, 0, 4096)
	var err error
	for len(m.head) < small && err == nil {
		if len(m.head) == cap(m.head) {
			grown := make([]byte, len(m.head), min(4*cap(m.head), small))
			copy(grown, m.head)
			m.head = grown
		}
		var n int
		n, err = in.Read(m.head[len(m.head):cap(m.head)])
		m.head = m.head[:len(m.head)+n]
	}
	switch {
	case err == nil:
		m.rest = in
		m.size = max(m.declared, small+1)
	case errors.Is(err, io.EOF):
		m.size = int64(len(m.head))
	default:
		return temporary("the message ended early: " + err.Error())
	}
	m.eightBit = eightBit(m.head)
	stated := headerPriority(m.head)
	m.priority, m.stated = stated.Value(), stated.Exact()
	m.gone = func() bool { return socket.HungUp(d.conn.Conn) }
	settled := make(chan struct{})
	m.done = func() { close(settled) }
	d.e.t.submit(m)
	<-settled
	for i := range m.rcpts {
		status.SetStatus(m.rcpts[i].token, m.rcpts[i].result)
	}
	return nil
}

func (d *delivery) Reset()        { d.m = nil }
func (d *delivery) Logout() error { return nil }

// mtaReader tells a message that the MTA has cut off from one that has ended. It
// may be ended while another goroutine reads.
type mtaReader struct {
	r    io.Reader
	mu   sync.Mutex
	over bool
}

var errCutOff = errors.New("the MTA closed the connection")

func (r *mtaReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return 0, errCutOff
	}
	n, err := r.r.Read(b)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errCutOff
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("the MTA has gone quiet")
	}
	return n, err
}

// end waits for the read that goes on, and makes all others fail.
func (r *mtaReader) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
}

// maxLogged is how many lines of one endpoint's go-smtp the log gets.
const maxLogged = 20

// errorLog is the log of go-smtp.
type errorLog struct{ log *slog.Logger }

func (l errorLog) Printf(format string, v ...any) { l.print(fmt.Sprintf(format, v...)) }

func (l errorLog) Println(v ...any) { l.print(fmt.Sprintln(v...)) }

func (l errorLog) print(text string) {
	l.log.Warn("LMTP dialogue with the MTA failed", "error", foreign.Clip(strings.TrimSpace(text), 2000))
}
