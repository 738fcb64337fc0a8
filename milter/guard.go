package milter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// maxPacket bounds a packet of the MTA. The longest that is asked for is
	// a header; Postfix cuts those at 100 kB (header_size_limit).
	maxPacket = 1 << 20
	// handshakeTimeout bounds the wait for the first packet, which an MTA
	// sends at once.
	handshakeTimeout = 30 * time.Second
)

// guardListener puts a guard on every connection.
type guardListener struct {
	net.Listener
	m *Milter

	mu       sync.Mutex
	draining bool
}

func (l *guardListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &guard{Conn: c, m: l.m, br: bufio.NewReaderSize(c, 4096), first: true}
	l.m.mu.Lock()
	l.m.guards[g] = struct{}{}
	l.m.mu.Unlock()
	l.mu.Lock()
	draining := l.draining
	l.mu.Unlock()
	if draining {
		g.drain()
	}
	return g, nil
}

func (l *guardListener) drain() {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	for g := range l.m.guards {
		g.drain()
	}
}

// guard is a connection that hands on only whole and well-formed packets.
// go-milter trusts the MTA: it panics, outside of any callback, on an empty
// packet and on strings without their NUL, and takes packets of 512 MB. The
// guard also keeps the deadlines, and knows whether a message is under way.
type guard struct {
	net.Conn
	m     *Milter
	br    *bufio.Reader
	buf   []byte // of the packet, reused
	rest  []byte // what of it is not read yet
	first bool

	mu       sync.Mutex
	inside   bool // a transaction
	draining bool
}

// Read hands on bytes of a packet that has been checked. Every failure is an
// io.EOF to the caller, which is logged here and ends the connection quietly
// there.
func (g *guard) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if err := g.next(); err != nil {
			if !errors.Is(err, io.EOF) {
				g.mu.Lock()
				draining := g.draining
				g.mu.Unlock()
				if !draining {
					g.m.seldom.Warn("milter connection ends", "peer", g.RemoteAddr().String(), "error", err)
				}
			}
			return 0, io.EOF
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// next reads one packet.
func (g *guard) next() error {
	wait := g.m.o.IdleTimeout
	if g.first {
		wait = handshakeTimeout
	}
	g.mu.Lock()
	if g.draining && !g.inside {
		g.mu.Unlock()
		return io.EOF
	}
	g.Conn.SetReadDeadline(time.Now().Add(wait))
	g.mu.Unlock()
	if _, err := g.br.Peek(1); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("silent for %v", wait)
		}
		return err
	}
	g.Conn.SetReadDeadline(time.Now().Add(g.m.o.PacketTimeout))
	var head [4]byte
	if _, err := io.ReadFull(g.br, head[:]); err != nil {
		return torn(err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxPacket {
		return fmt.Errorf("a packet of %d bytes; 1 to %d are allowed", n, maxPacket)
	}
	if cap(g.buf) < int(n)+4 {
		g.buf = make([]byte, max(int(n)+4, 512))
	}
	g.buf = g.buf[:n+4]
	copy(g.buf, head[:])
	if _, err := io.ReadFull(g.br, g.buf[4:]); err != nil {
		return torn(err)
	}
	if err := g.check(g.buf[4], g.buf[5:]); err != nil {
		return err
	}
	g.rest = g.buf
	return nil
}

// torn is the error of a packet that is not whole.
func torn(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("in the middle of a packet: %w", err)
}

// Codes of packets, as in libmilter's mfdef.h.
const (
	codeAbort   = 'A'
	codeConnect = 'C'
	codeEOM     = 'E'
	codeMail    = 'M'
	codeNegot   = 'O'
	codeQuit    = 'Q'
	codeQuitNC  = 'K'
	codeRcpt    = 'R'
)

// check refuses what go-milter cannot stand, and follows transactions.
func (g *guard) check(code byte, data []byte) error {
	if g.first && code != codeNegot {
		return fmt.Errorf("the first packet is %q, not a negotiation", code)
	}
	g.first = false
	switch code {
	case codeConnect:
		// Host name, NUL, family.
		if i := bytes.IndexByte(data, 0); i < 0 || i+1 >= len(data) {
			return fmt.Errorf("malformed packet %q", code)
		}
	case codeMail, codeRcpt:
		if bytes.IndexByte(data, 0) < 0 {
			return fmt.Errorf("malformed packet %q", code)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch code {
	case codeMail:
		g.inside = true
	case codeEOM, codeAbort, codeQuit, codeQuitNC:
		g.inside = false
	}
	return nil
}

// drain ends the connection as soon as no message is under way.
func (g *guard) drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draining = true
	if !g.inside {
		g.Conn.SetReadDeadline(time.Now())
	}
}

// SetReadDeadline does nothing: the guard keeps its own, by packet.
func (g *guard) SetReadDeadline(time.Time) error { return nil }

func (g *guard) Close() error {
	g.m.mu.Lock()
	delete(g.m.guards, g)
	g.m.mu.Unlock()
	return g.Conn.Close()
}
