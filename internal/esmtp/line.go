package esmtp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"unicode/utf8"
)

// LineError is an error of one command line. The next line can be read.
type LineError string

func (e LineError) Error() string { return string(e) }

const (
	ErrLong    LineError = "line too long"
	ErrBareLF  LineError = "lines end with CR and LF"
	ErrASCII   LineError = "only printable ASCII is allowed"
	ErrControl LineError = "control characters are not allowed, nor anything that is not UTF-8"
)

// Errors after which there is no line to be found.
var (
	ErrFlood    = errors.New("no end of line in sight")
	ErrTLSHello = errors.New("TLS handshake instead of a command")
)

// maxSkipped is how much of a line that is too long is read to find its end.
const maxSkipped = 64 << 10

// recordHandshake is how a TLS handshake begins (RFC 8446, section 5.1).
const recordHandshake = 0x16

// CommandReader reads command lines. It buffers as much as the bufio.Reader in it
// does, which has room for a line.
type CommandReader struct {
	*bufio.Reader
	// Max is the longest line, with CRLF, in bytes. RFC 5321, section 4.5.3.1.4,
	// has 512, and extensions add to it.
	Max int
	// UTF8 takes what RFC 6531 allows beyond ASCII.
	UTF8 bool
}

// Ready reports whether ReadCommand would return without waiting.
func (r *CommandReader) Ready() bool {
	b, _ := r.Peek(r.Buffered())
	return bytes.IndexByte(b, '\n') >= 0
}

// ReadCommand reads one line and takes CRLF off. The slice is valid until the
// next read, and with an error it holds the beginning of the line, for the log.
// The end of the connection is io.EOF between two lines, and
// io.ErrUnexpectedEOF within one.
func (r *CommandReader) ReadCommand() ([]byte, error) {
	first, err := r.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] == recordHandshake {
		// There is no end of line in it: without this the client would learn
		// nothing before a deadline has passed.
		return nil, ErrTLSHello
	}
	b, err := r.ReadSlice('\n')
	switch {
	case err == bufio.ErrBufferFull:
		return r.skip(b)
	case err == io.EOF:
		return b, io.ErrUnexpectedEOF
	case err != nil:
		return b, err
	case len(b) > r.Max:
		return b, ErrLong
	}
	// Only CRLF ends a line (RFC 5321, section 2.3.8).
	b = b[:len(b)-1]
	if len(b) == 0 || b[len(b)-1] != '\r' {
		return b, ErrBareLF
	}
	b = b[:len(b)-1]
	return b, r.check(b)
}

// skip reads the rest of a line that the buffer cannot hold.
func (r *CommandReader) skip(b []byte) ([]byte, error) {
	start := bytes.Clone(b[:min(len(b), 200)])
	err := bufio.ErrBufferFull
	for skipped := len(b); err == bufio.ErrBufferFull; skipped += len(b) {
		if skipped > maxSkipped {
			return start, ErrFlood
		}
		b, err = r.ReadSlice('\n')
	}
	switch err {
	case nil:
		return start, ErrLong
	case io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return start, err
}

// check refuses control characters, TAB among them: it separates nothing in
// SMTP, but does in some servers.
func (r *CommandReader) check(b []byte) error {
	ascii := true
	for _, c := range b {
		if c >= ' ' && c <= '~' {
			continue
		}
		if !r.UTF8 {
			return ErrASCII
		}
		if c < utf8.RuneSelf {
			return ErrControl
		}
		ascii = false
	}
	if !ascii && !utf8.Valid(b) {
		return ErrControl
	}
	return nil
}
