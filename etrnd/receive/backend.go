package receive

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/etrnd/odmr"
)

const (
	// maxErrors is how many refusals in a row one connection to the MTA sees:
	// Postfix becomes slow after 10 and hangs up after 20, for which a
	// provider with mail for users who have left is not to be blamed.
	maxErrors = 8
	// maxIdle is how long a connection may have been idle to be used again.
	maxIdle = time.Minute

	// maxGone is how long the last replies of a connection that was given up
	// are waited for.
	maxGone = 5 * time.Second

	maxReplyLine  = 4096
	maxReplyLines = 100
)

// backend is a connection to the local MTA. The reader has it for the length of
// a transaction, and then the replier until the last reply has come.
type backend struct {
	conn  net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	hello string // what it was greeted with
	used  time.Time

	errors int         // refusals since the last success
	dirty  bool        // there may be something to reset
	gone   atomic.Bool // closed by us: no replies are due any more

	// lost is closed by the replier when the MTA has said 421: nothing more is
	// read from it, and what is due from it is answered by us.
	lost chan struct{}

	mu      sync.Mutex // between a deadline and this
	lingers bool       // the replier waits for a moment only
}

// bound sets how long what is under way with the MTA may take, the replier's
// wait included. Only for the reader.
func (b *backend) bound(wait time.Duration) {
	b.conn.SetWriteDeadline(time.Now().Add(wait))
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.lingers { // else receive will set it, and sees gone
		b.conn.SetReadDeadline(time.Now().Add(wait))
	}
}

// linger waits a little for a reply. An error comes back with the reply.
func (b *backend) linger(wait time.Duration) {
	b.mu.Lock()
	b.lingers = true
	b.conn.SetReadDeadline(time.Now().Add(wait))
	b.mu.Unlock()
	b.r.Peek(1)
	b.mu.Lock()
	b.lingers = false
	b.mu.Unlock()
}

func (b *backend) isLost() bool {
	select {
	case <-b.lost:
		return true
	default:
		return false
	}
}

// stale reports whether the MTA has said something, or hung up, while nothing
// was due from it: 421, since it does not wait for ever.
func (b *backend) stale() bool {
	if b.r.Buffered() > 0 {
		return true
	}
	c, ok := b.conn.(syscall.Conn)
	if !ok {
		return false
	}
	sc, err := c.SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	err = sc.Control(func(fd uintptr) {
		for {
			_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			quiet = err == unix.EAGAIN
			return
		}
	})
	return err != nil || !quiet
}

// dial connects to the MTA and waits for its greeting.
func (s *session) dial() (*backend, error) {
	conn, err := s.o.Dial(s.ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMTA, err)
	}
	b := &backend{conn: conn, r: bufio.NewReaderSize(conn, maxReplyLine), w: bufio.NewWriterSize(conn, 32<<10), lost: make(chan struct{})}
	s.mu.Lock()
	s.backends[b] = true
	s.mu.Unlock()
	select {
	case <-s.dead: // abort may have been before
		s.drop(b)
		return nil, errDead
	default:
	}
	code, lines, err := s.receive(b)
	if err == nil && code != 220 {
		err = fmt.Errorf("%w: it greets with %q", ErrMTA, lines[0])
	}
	if err != nil {
		s.drop(b)
		return nil, err
	}
	return b, nil
}

func (s *session) drop(b *backend) {
	b.gone.Store(true)
	b.conn.Close()
	s.mu.Lock()
	delete(s.backends, b)
	s.mu.Unlock()
	select {
	case s.room <- struct{}{}:
	default:
	}
}

// lose gives up a connection that the MTA ends. The others go on: what they have
// taken would come again if the whole session ended. Only for the replier.
func (s *session) lose(b *backend, text string) {
	s.log.Warn("the local mail server ends a connection", "reply", clip(text))
	close(b.lost)
	s.drop(b)
}

// receive reads one reply, its lines without their ends.
func (s *session) receive(b *backend) (code int, lines []string, err error) {
	b.conn.SetReadDeadline(time.Now().Add(s.o.MTATimeout))
	// In this order, so that the deadline of forget is not lengthened.
	if b.gone.Load() {
		b.conn.SetReadDeadline(time.Now().Add(min(s.o.MTATimeout, maxGone)))
	}
	for {
		line, err := b.r.ReadSlice('\n')
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, fmt.Errorf("%w: no reply: %w", ErrMTA, err)
		}
		text := strings.TrimRight(string(line), "\r\n")
		if len(text) < 3 || text[0] < '2' || text[0] > '5' || !digits(text[:3]) || len(text) > 3 && text[3] != ' ' && text[3] != '-' || len(lines) == maxReplyLines {
			return 0, nil, fmt.Errorf("%w: %.80q is not a reply of SMTP", ErrMTA, text)
		}
		code = int(text[0]-'0')*100 + int(text[1]-'0')*10 + int(text[2]-'0')
		lines = append(lines, text)
		if len(text) == 3 || text[3] == ' ' {
			return code, lines, nil
		}
	}
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// ask sends a command and reads the reply. Only for the reader, while nothing
// else is due from b.
func (s *session) ask(b *backend, line string) (code int, lines []string, err error) {
	if err := s.send(b, line+"\r\n"); err != nil {
		return 0, nil, err
	}
	if err := s.flush(b); err != nil {
		return 0, nil, err
	}
	return s.receive(b)
}

func (s *session) send(b *backend, text string) error {
	b.conn.SetWriteDeadline(time.Now().Add(s.o.MTATimeout))
	if _, err := b.w.WriteString(text); err != nil {
		return fmt.Errorf("%w: %w", ErrMTA, err)
	}
	return nil
}

func (s *session) flush(b *backend) error {
	b.conn.SetWriteDeadline(time.Now().Add(s.o.MTATimeout))
	if err := b.w.Flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrMTA, err)
	}
	return nil
}

// acquire gets a connection that is ready for a transaction: an idle one, a new
// one, or the next that becomes idle.
func (s *session) acquire() (*backend, error) {
	for {
		b, err := s.next()
		if err != nil {
			return nil, err
		}
		if b.hello != s.hello {
			if code, lines, err := s.ask(b, s.hello); err != nil || code != 250 {
				s.drop(b)
				if b.tired(code, err) {
					continue
				}
				if err == nil {
					err = fmt.Errorf("%w: to %q it says %q", ErrMTA, s.hello, lines[0])
				}
				return nil, err
			}
			b.hello, b.dirty = s.hello, false
		}
		if b.dirty {
			if code, _, err := s.ask(b, "RSET"); err != nil || code != 250 {
				s.drop(b)
				continue
			}
		}
		b.dirty = true
		return b, nil
	}
}

// tired reports whether a reply only means that the MTA has had enough of this
// connection, which was idle: another may do.
func (b *backend) tired(code int, err error) bool {
	return !b.used.IsZero() && (err != nil || code == 421)
}

func (s *session) next() (*backend, error) {
	for {
		var b *backend
		select {
		case b = <-s.free:
		default:
			s.mu.Lock()
			more := len(s.backends) < cap(s.free)
			s.mu.Unlock()
			if more {
				return s.dial()
			}
			select {
			case b = <-s.free:
			case <-s.room: // one was lost, or it is known already
				continue
			case <-s.dead:
				return nil, errDead
			}
		}
		if b.stale() {
			s.drop(b)
			continue
		}
		if b.errors < maxErrors && (b.used.IsZero() || time.Since(b.used) < maxIdle) {
			return b, nil
		}
		// Its reply to QUIT is of no interest.
		if s.send(b, "QUIT\r\n") == nil {
			s.flush(b)
		}
		s.drop(b)
	}
}

// release gives a connection back after its transaction.
func (s *session) release(b *backend) {
	b.used = time.Now()
	s.free <- b // there is room: no more than its capacity exist
}

// keywords of EHLO that are passed on. What an MTA offers to loopback may go
// far: XCLIENT lets a client say where it comes from, XVERP changes senders.
var keywords = []string{
	"PIPELINING", "SIZE", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN",
	"ENHANCEDSTATUSCODES", "MT-PRIORITY", "LIMITS",
}

// greeting is what the provider hears first.
func (s *session) greeting(b *backend) (string, error) {
	plain := "220 " + s.o.Hostname + " ESMTP\r\n"
	if !s.o.Ahead {
		return plain, nil
	}
	hello := "EHLO " + s.o.Hostname
	code, lines, err := s.ask(b, hello)
	if err != nil {
		s.drop(b)
		return "", err
	}
	if code != 250 {
		return plain, nil
	}
	b.hello = hello
	// In place of the MTA's name, which is the first line.
	lines[0] = "250-" + odmr.Ahead
	return "220-" + s.o.Hostname + " ESMTP\r\n" + offer("220", lines), nil
}

// offer is the MTA's reply to EHLO as the provider sees it, under this code.
func offer(code string, lines []string) string {
	var kept []string
	for i, line := range lines {
		text := line[min(len(line), 4):]
		word, _, _ := strings.Cut(text, " ")
		if i == 0 {
			kept = append(kept, word)
		} else if slices.Contains(keywords, strings.ToUpper(word)) {
			kept = append(kept, text)
		}
	}
	var b strings.Builder
	for i, text := range kept {
		sep := "-"
		if i == len(kept)-1 {
			sep = " "
		}
		b.WriteString(code + sep + text + "\r\n")
	}
	return b.String()
}
