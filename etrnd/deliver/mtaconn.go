package deliver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

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
	c.in = bufio.NewReaderSize(timely{conn}, maxMTALine)
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	l.e.conns[c] = struct{}{}
	l.e.open.Add(1)
	return c, nil
}

// mtaConn is a connection of the MTA, between it and go-smtp's server, which has
// the order of commands and replies. What that server does not read, or not as the
// MTA means it, is kept from it:
//
//   - The envelope. It refuses for good what the MTA has accepted: original
//     recipients of other types than rfc822, addresses that are quoted in some
//     ways, and more. It gets "<1@envelope>" in place of each path, and no
//     parameters; its session asks envelope what stood there.
//   - The reply to LHLO. It always lists 8BITMIME and CHUNKING. What the site does
//     not list the MTA is not offered: it knows how to convert.
//   - The content. It misses the end of a message behind a line that ends in CR CR
//     LF, and waits for it until somebody has had enough. It gets an empty message;
//     its session reads text.
//
// There is a deadline for every read and write of its own, since go-smtp sets one
// for each command, which would be too soon for a message that is passed on as
// slowly as the line takes it.
type mtaConn struct {
	net.Conn
	e    *endpoint
	in   *bufio.Reader
	line []byte // what go-smtp has not yet read of what stands for a command
	once sync.Once

	// One goroutine of go-smtp's at a time has these.
	envelope command    // what the MTA's last MAIL or RCPT said
	paths    []string   // of RCPT in this transaction, by number
	hello    bool       // the reply to LHLO is being written
	asked    bool       // DATA is being answered
	text     *dotReader // the content, once DATA was answered 354; nil: none
	empty    bool       // go-smtp has not yet had the end that stands for text
}

// maxMTALine is the longest command of the MTA. Postfix takes 2048 bytes, and what
// it encodes may become three times as long.
const maxMTALine = 16 << 10

// command is MAIL or RCPT as the MTA has it.
type command struct {
	path       string // without "<" and ">"
	parameters []esmtp.Parameter
	bad        error // there is no telling what it means
}

// timely reads with a deadline.
type timely struct{ conn net.Conn }

func (t timely) Read(b []byte) (int, error) {
	t.conn.SetReadDeadline(time.Now().Add(mtaTimeout))
	return t.conn.Read(b)
}

func (c *mtaConn) Read(b []byte) (int, error) {
	if len(c.line) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.line)
	c.line = c.line[n:]
	return n, nil
}

// next gets something for go-smtp to read.
func (c *mtaConn) next() error {
	if c.text != nil {
		if c.empty {
			c.empty = false
			c.line = []byte(".\r\n")
			return nil
		}
		// Answered, and not read to its end.
		if err := c.text.skip(); err != nil {
			return err
		}
		c.text = nil
	}
	line, err := c.in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		start := bytes.Clone(line[:4])
		for err == bufio.ErrBufferFull {
			_, err = c.in.ReadSlice('\n')
		}
		line = append(start, '\n') // no path is in it
	}
	if err != nil {
		return err
	}
	c.line = c.translate(line)
	return nil
}

// translate is what go-smtp gets for a command.
func (c *mtaConn) translate(line []byte) []byte {
	if len(line) < 5 {
		return line
	}
	switch verb := strings.ToUpper(string(line[:4])); verb {
	case "LHLO":
		c.hello = true
		c.paths = nil
	case "MAIL":
		c.paths = nil
		c.envelope = parseCommand(line[4:], "FROM:")
		return []byte("MAIL FROM:<" + tokenOf(0) + ">\r\n")
	case "RCPT":
		c.envelope = parseCommand(line[4:], "TO:")
		c.paths = append(c.paths, c.envelope.path)
		return []byte("RCPT TO:<" + tokenOf(len(c.paths)) + ">\r\n")
	case "DATA":
		c.asked = true
	case "BDAT":
		return []byte("XBDAT\r\n") // it was not offered
	}
	return line
}

const tokenDomain = "@envelope"

func tokenOf(n int) string { return strconv.Itoa(n) + tokenDomain }

var errMTACommand = errors.New("a control character, or no path, in the command")

// parseCommand reads what stands behind MAIL or RCPT.
func parseCommand(arg []byte, prefix string) (c command) {
	text := strings.TrimLeft(strings.TrimRight(string(arg), "\r\n"), " ")
	path, rest, ok := esmtp.CutPath(text, prefix)
	if !ok || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return command{bad: errMTACommand}
	}
	return command{path: path, parameters: esmtp.Parameters(rest)}
}

// Write passes on replies, each of them a line, as go-smtp writes them.
func (c *mtaConn) Write(b []byte) (int, error) {
	c.Conn.SetWriteDeadline(time.Now().Add(mtaTimeout))
	out := make([]byte, 0, len(b)+64)
	for line := range bytes.Lines(b) {
		out = c.reply(out, line)
	}
	if len(out) == 0 {
		return len(b), nil
	}
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// reply appends a line of a reply as the MTA gets it.
func (c *mtaConn) reply(out, line []byte) []byte {
	more := len(line) > 3 && line[3] == '-'
	if c.hello {
		keyword, _ := esmtp.CutKeyword(strings.TrimSpace(string(line[min(4, len(line)):])))
		c.hello = more
		switch keyword {
		case "8BITMIME":
			if !c.e.t.offers.eightBit && more {
				return out
			}
		case "CHUNKING", "BINARYMIME":
			if more {
				return out
			}
		}
		return append(out, line...)
	}
	if c.asked {
		c.asked = false
		if bytes.HasPrefix(line, []byte("354")) {
			c.text, c.empty = &dotReader{r: c.in}, true
		}
		return append(out, line...)
	}
	// The reply for a recipient begins with its path.
	if before, rest, ok := bytes.Cut(line, []byte(tokenDomain+">")); ok {
		if i := bytes.LastIndexByte(before, '<'); i >= 0 {
			if n, err := strconv.Atoi(string(before[i+1:])); err == nil && n > 0 && n <= len(c.paths) {
				return fmt.Appendf(out, "%s<%s>%s", before[:i], c.paths[n-1], rest)
			}
		}
	}
	return append(out, line...)
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

// unreadable is the answer to an envelope that cannot be passed on as it is. It is
// the MTA's own and nobody has refused the mail, which stays where it is.
func unreadable(err error) *smtp.SMTPError {
	return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 5, 2}, Message: "cannot be passed on as it is: " + err.Error()}
}
