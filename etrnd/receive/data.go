package receive

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/etrnd/etrnd/internal/foreign"
)

// data waits for the MTA's word on DATA. Until then nobody knows what the bytes
// that follow are.
func (t *turn) data(arg, line string) error {
	switch {
	case arg != "":
		return t.refuse(line, badSyntax)
	case t.tx == nil:
		return t.refuse(line, "503 5.5.1 Send MAIL first")
	}
	code := make(chan int, 1)
	if err := t.pass("DATA", &answer{code: code}); err != nil {
		return err
	}
	if err := t.sendOff(); err != nil {
		return err
	}
	select {
	case c := <-code:
		if c != 354 {
			return nil
		}
	case <-t.dead:
		return errDead
	}
	tx := t.tx
	if err := t.say(&answer{b: tx.b, tx: tx, final: true, free: true}); err != nil {
		return err
	}
	t.provider.inText(true)
	defer t.provider.inText(false)
	var text body
	for end := false; !end; {
		p, err := t.some(tx.b, math.MaxInt64)
		if err != nil {
			return err
		}
		var n int
		// The replier waits for the answer since before the message.
		tx.b.bound(t.o.MTATimeout)
		n, end = text.write(tx.b.w, p)
		t.came(tx, int64(n))
		t.in.Discard(n)
	}
	if err := t.sendOff(); err != nil {
		return err
	}
	t.tx = nil
	return nil
}

// bdat passes a chunk on. The MTA reads it whatever it has to say, so nobody
// need wait.
func (t *turn) bdat(arg, line string) error {
	n, last, ok := chunk(arg)
	if !ok {
		t.refuse(line, badSyntax)
		return fmt.Errorf("%w: no telling how long a chunk is: %s", ErrAbuse, foreign.Quote(line))
	}
	t.provider.inText(true)
	defer t.provider.inText(false)
	if t.tx == nil || !t.offered.Has("CHUNKING") {
		if _, err := io.CopyN(io.Discard, t.in, n); err != nil {
			return err
		}
		if t.tx != nil {
			return t.refuse(line, "502 5.5.1 CHUNKING is not offered here")
		}
		return t.refuse(line, "503 5.5.1 Send MAIL first")
	}
	text := fmt.Sprintf("BDAT %d", n)
	if last {
		text += " LAST"
	}
	tx := t.tx
	if err := t.pass(text, &answer{final: last, free: last}); err != nil {
		return err
	}
	for n > 0 {
		p, err := t.some(tx.b, n)
		if err != nil {
			return err
		}
		tx.b.bound(t.o.MTATimeout)
		if _, err := tx.b.w.Write(p); err != nil {
			if err := t.broken(); err != nil {
				return err
			}
		}
		t.came(tx, int64(len(p)))
		t.in.Discard(len(p))
		n -= int64(len(p))
	}
	if last {
		if err := t.sendOff(); err != nil {
			return err
		}
		t.tx = nil
	}
	return nil
}

// some is what has come of a message, at least a byte and at most n. While there
// is nothing the MTA gets what it has not yet been given, the commands before
// the message above all: the provider may wait for the replies to them.
func (t *turn) some(b *backend, n int64) ([]byte, error) {
	if t.in.Buffered() == 0 && b.w.Buffered() > 0 {
		if err := t.sendOff(); err != nil {
			return nil, err
		}
	}
	if _, err := t.in.Peek(1); err != nil {
		return nil, err
	}
	return t.in.Peek(int(min(n, int64(t.in.Buffered()))))
}

// maxChunk bounds one chunk. No message is as long.
const maxChunk = 1 << 36

// chunk reads what stands behind BDAT (RFC 3030, section 2). Without a length
// there is no telling where the next command begins.
func chunk(arg string) (n int64, last, ok bool) {
	size, word, more := strings.Cut(arg, " ")
	if more && !strings.EqualFold(word, "LAST") || !digits(size) || len(size) > 12 {
		return 0, false, false
	}
	for _, c := range size {
		n = n*10 + int64(c-'0')
	}
	return n, more, n <= maxChunk
}

// came counts bytes of a message.
func (t *turn) came(tx *transaction, n int64) {
	tx.bytes.Add(n)
	t.count(func(c *Counts) {
		if !tx.over { // what the MTA has not waited for counts no more
			tx.coming += n
			c.Coming += n
		}
	})
}
