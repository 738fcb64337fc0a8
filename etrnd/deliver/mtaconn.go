package deliver

import (
	"bufio"
	"bytes"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// mtaListener gives every connection of the MTA its deadlines.
type mtaListener struct {
	net.Listener
	e *endpoint
}

func (l mtaListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &mtaConn{Conn: conn, e: l.e}
	c.in = bufio.NewReaderSize(timely{conn}, 4096)
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	l.e.conns[c] = struct{}{}
	l.e.open.Add(1)
	return c, nil
}

// mtaConn is a connection of the MTA. It has a deadline for every read and write
// of its own: go-smtp sets one for each command, which would be too soon for a
// message that is passed on as slowly as the line takes it. And as long as
// commands come, it mends what go-smtp does not read, see mend.
type mtaConn struct {
	net.Conn
	e       *endpoint
	in      *bufio.Reader
	line    []byte // what is left of a command
	content bool   // commands have ended
	once    sync.Once
}

// timely reads with a deadline.
type timely struct{ conn net.Conn }

func (t timely) Read(b []byte) (int, error) {
	t.conn.SetReadDeadline(time.Now().Add(mtaTimeout))
	return t.conn.Read(b)
}

func (c *mtaConn) Read(b []byte) (int, error) {
	if len(c.line) == 0 {
		if c.content {
			return c.in.Read(b)
		}
		line, err := c.in.ReadSlice('\n')
		if len(line) == 0 {
			return 0, err
		}
		// The MTA waits for the answer to DATA before it goes on. One message
		// is all that it has for a connection.
		c.content = len(line) >= 4 && bytes.EqualFold(line[:4], []byte("DATA"))
		c.line = mend(line)
	}
	n := copy(b, c.line)
	c.line = c.line[n:]
	return n, nil
}

func (c *mtaConn) Write(b []byte) (int, error) {
	c.Conn.SetWriteDeadline(time.Now().Add(mtaTimeout))
	return c.Conn.Write(b)
}

func (c *mtaConn) Close() error {
	c.once.Do(func() {
		c.e.mu.Lock()
		delete(c.e.conns, c)
		c.e.mu.Unlock()
		c.e.open.Done()
	})
	return c.Conn.Close()
}

// mend brings an original recipient that is not ASCII to the form that RFC 6533,
// section 3, has for it. Postfix writes the bytes of it in the older form of RFC
// 3461, which has only ASCII; go-smtp refuses that for good, and the mail would
// go back to its sender. What is no UTF-8 is left out.
func mend(line []byte) []byte {
	const param = " ORCPT=rfc822;"
	at := bytes.Index(line, []byte(param))
	if at < 0 || !bytes.EqualFold(line[:min(len(line), 5)], []byte("RCPT ")) {
		return line
	}
	value := line[at+len(param):]
	end := bytes.IndexAny(value, " \r\n")
	if end < 0 {
		return line // longer than any that makes sense
	}
	value, rest := value[:end], value[end:]
	var raw []byte
	for i := 0; i < len(value); i++ {
		if value[i] == '+' && i+2 < len(value) {
			if n, err := strconv.ParseUint(string(value[i+1:i+3]), 16, 8); err == nil {
				raw = append(raw, byte(n))
				i += 2
				continue
			}
		}
		raw = append(raw, value[i])
	}
	if !eightBit(raw) {
		return line
	}
	var b strings.Builder
	b.Write(line[:at])
	if utf8.Valid(raw) {
		b.WriteString(" ORCPT=utf-8;" + esmtp.UTF8Text(string(raw), false))
	}
	b.Write(rest)
	return []byte(b.String())
}
