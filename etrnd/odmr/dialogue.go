package odmr

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/socket"
	"github.com/etrnd/etrnd/internal/users"
)

const (
	// maxLine is the longest line, with CRLF. RFC 5321, section 4.5.3.1.4, has
	// 512 for commands; the longest thing that makes sense here is an AUTH with
	// a password of 255 bytes. RFC 4954 lets a server bound its lines by the
	// mechanisms it has. Every idle dialogue keeps a buffer of this size.
	maxLine = 1024
	// maxDiscarded is how much of what the client still sends is read at the end.
	maxDiscarded = 256 << 10
	// maxShown is how much of a foreign text the log shows, in bytes.
	maxShown = 80
	// maxLogged is how many lines the log has of one session, beside its end.
	maxLogged = 100
)

// Ends of a dialogue.
var (
	errQuit     = errors.New("quit") // the last reply is written
	errDraining = errors.New("shutting down")
	errPanic    = errors.New("panic")
	errRevoked  = errors.New("the user was removed or has another password")
)

// closing is an end that the server decides on; the client is told why.
type closing string

func (c closing) Error() string { return string(c) }

// dialogue is what is said on one connection, the server's side of it. One
// goroutine runs it; only drain is called from elsewhere.
type dialogue struct {
	srv   *Server
	all   *slog.Logger  // where the lines of strangers are bounded together
	log   *slog.Logger  // the same, with a bound of its own
	raw   net.Conn      // the socket
	meter *socket.Meter // the same
	conn  net.Conn      // the socket, or TLS over it
	in    *esmtp.CommandReader
	out   *bufio.Writer
	stop  <-chan struct{} // closed when the server shuts down

	who      etrn.Identity
	secure   bool        // TLS is on
	known    atomic.Bool // it has shown that it may do something here
	hello    bool        // HELO or EHLO was sent
	ends     time.Time
	errors   int
	failures int // of AUTH
	commands int
	denied   int // requests that were refused by whoever decides
	grant    users.Grant
	// Something was said of AUTH: a line that is no command may from now on be the
	// secret of a client that did not wait, or was not understood, and is kept out
	// of the log.
	secret bool

	mu       sync.Mutex // guards draining against setting a deadline after drain has
	draining bool
	turned   func() // ends what the Turner does; set once the connection is the Turner's
}

func newDialogue(srv *Server, conn net.Conn, addr netip.Addr, stop <-chan struct{}) *dialogue {
	id := sessionID()
	meter := socket.NewMeter(conn)
	conn = meter
	d := &dialogue{
		srv:   srv,
		raw:   conn,
		meter: meter,
		conn:  conn,
		in:    &esmtp.CommandReader{Reader: bufio.NewReaderSize(conn, maxLine), Max: maxLine, UTF8: true}, // for domains
		out:   bufio.NewWriterSize(conn, maxLine),
		stop:  stop,
		who:   etrn.Identity{Addr: addr, Session: id},
	}
	d.all = foreign.Unless(srv.seldom, &d.known)
	d.log = foreign.Quota(d.all, maxLogged, "more of this session is not logged").With("session", id, "client", conn.RemoteAddr().String())
	return d
}

// drain ends the dialogue at once if it waits for a command, and otherwise after
// the command it is busy with.
func (d *dialogue) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	if d.turned != nil {
		d.turned() // the deadlines are the Turner's own
		return
	}
	d.raw.SetReadDeadline(time.Unix(1, 0))
}

// run owns the connection until it is closed.
func (d *dialogue) run(ctx context.Context) {
	began := time.Now()
	d.ends = began.Add(d.srv.o.SessionTimeout)
	d.log.Debug("session opened")
	err := d.guarded(ctx)
	d.farewell(err)
	d.lingeringClose(err)
	d.conn.Close()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	attrs := []any{"session", d.who.Session, "client", d.raw.RemoteAddr().String()}
	if d.who.User != "" {
		attrs = append(attrs, "user", d.who.User)
	}
	attrs = append(attrs, "commands", d.commands, "refused", d.errors+d.failures+d.denied, "seconds", time.Since(began).Round(time.Millisecond).Seconds())
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	d.all.Info("session closed", attrs...)
}

// guarded turns a panic into the end of this dialogue alone.
func (d *dialogue) guarded(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("panic in a session", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errPanic
		}
	}()
	d.reply(220, "%s %s", d.srv.o.Hostname, greeting)
	for {
		if err := d.command(ctx); err != nil {
			if err == errQuit {
				return nil
			}
			return err
		}
	}
}

// farewell says 421 where there is somebody to hear it.
func (d *dialogue) farewell(err error) {
	host := d.srv.o.Hostname
	switch {
	case err == nil:
	case err == errDraining:
		d.reply(421, "%s closes for now, try again later", host)
	case decided(err):
		d.reply(421, "%s closes: %s", host, err.Error())
	case errors.Is(err, os.ErrDeadlineExceeded):
		d.reply(421, "%s closes: you took too long", host)
	case err == errPanic:
		d.reply(421, "%s closes: internal error, try again later", host)
	default:
		return // the peer has gone
	}
	d.flush()
}

// decided reports whether an error is an end that the server has decided on,
// maybe while the client goes on sending.
func decided(err error) bool {
	var c closing
	return errors.As(err, &c) || errors.Is(err, esmtp.ErrFlood) || errors.Is(err, esmtp.ErrTLSHello)
}

// lingeringClose lets the last reply arrive. Closing a socket with unread bytes
// in it resets the connection, and takes away what was on its way to the client.
func (d *dialogue) lingeringClose(err error) {
	half, ok := d.raw.(interface{ CloseWrite() error })
	if !ok || !decided(err) {
		return
	}
	if conn, ok := d.conn.(*tls.Conn); ok {
		d.raw.SetWriteDeadline(time.Now().Add(time.Second))
		conn.CloseWrite() // says that nothing was cut off
	}
	if half.CloseWrite() == nil && d.arm(time.Second) {
		io.CopyN(io.Discard, d.raw, maxDiscarded)
	}
}

// line waits for a line. Replies go out before it has to wait.
func (d *dialogue) line() ([]byte, error) {
	if !d.in.Ready() {
		if err := d.flush(); err != nil {
			return nil, err
		}
	}
	left := time.Until(d.ends)
	if left <= 0 {
		return nil, closing("the session has lasted too long")
	}
	// One deadline for the whole line: a byte now and then does not move it.
	if !d.arm(min(left, d.srv.o.CommandTimeout)) {
		return nil, errDraining
	}
	line, err := d.in.ReadCommand()
	if err != nil && d.isDraining() {
		return nil, errDraining
	}
	return line, err
}

func (d *dialogue) arm(wait time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		return false
	}
	d.raw.SetReadDeadline(time.Now().Add(wait))
	return true
}

func (d *dialogue) isDraining() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining
}

// deny counts a request that was refused by whoever decides. A site asks for its
// names, some of which may be wrong; one who asks for all that he can think of is
// sent away.
func (d *dialogue) deny() error {
	if d.denied++; d.denied >= maxDenied {
		return closing("too many refused requests")
	}
	return nil
}

// refuse answers a command that is wrong in syntax or order. After too many of
// them the dialogue ends.
func (d *dialogue) refuse(code int, line, why string) error {
	d.errors++
	d.log.Info("command refused", "line", foreign.Clip(line, maxShown), "code", code, "reason", why)
	d.reply(code, "%s", why)
	if d.errors >= maxErrors {
		return closing("too many errors")
	}
	return nil
}

func (d *dialogue) reply(code int, format string, args ...any) {
	d.replyLines(code, fmt.Sprintf(format, args...))
}

// replyLines puts a reply into the buffer. An error of the connection stays in
// the bufio.Writer and comes back from the next flush.
func (d *dialogue) replyLines(code int, lines ...string) {
	b := esmtp.Reply{Code: code, Lines: lines}.AppendTo(nil)
	if d.out.Available() < len(b) {
		d.flush() // which sets the deadline
	}
	d.out.Write(b)
}

func (d *dialogue) flush() error {
	if d.out.Buffered() == 0 {
		return nil
	}
	d.raw.SetWriteDeadline(time.Now().Add(d.srv.o.WriteTimeout))
	if err := d.out.Flush(); err != nil {
		// Not wrapped: farewell must not try to write again.
		return fmt.Errorf("cannot write: %v", err)
	}
	return nil
}
