package postfix

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/mta"
)

// List asks showq(8) through postqueue -j. While Postfix is stopped it still
// works for root, who reads the queue directory; for others it is mta.ErrDown.
//
// A message that moves while the queues are read shows up twice. They are read
// in the order in which a message moves, so the later one is the newer.
func (p *Instance) List(ctx context.Context, each func(mta.Message)) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	var badLines int
	var firstBad error
	bad := func(err error) {
		if badLines++; firstBad == nil {
			firstBad = err
		}
	}
	err = p.run(ctx, func(out io.Reader) error { return parseListing(out, each, bad) }, nil, "postqueue", append(args, "-j")...)
	if err != nil {
		return fmt.Errorf("list the mail queue: %w", err)
	}
	if badLines > 0 {
		p.o.Logger.WarnContext(ctx, "queue listing has lines that are no messages", "lines", badLines, "error", firstBad)
	}
	return nil
}

const (
	// maxListingLine bounds one message of a listing. A recipient takes some
	// 150 bytes, so this is a message to 200,000 of them.
	maxListingLine = 32 << 20
	// maxListing bounds a whole listing: several million messages.
	maxListing = 2 << 30
	// maxReason cuts the reasons, which hold text of remote servers.
	maxReason = 256
	// maxID is far above the longest queue id of any Postfix (about 20).
	maxID = 64
)

// deferredTransport is what qmgr(8) gives as the reason for a recipient whose
// transport is in defer_transports.
const deferredTransport = "deferred transport"

// A listed is one line of postqueue -j. Numbers are decoded as they are
// written; keys that are not named here are skipped, because postqueue(1)
// says that there will be more of them.
type listed struct {
	Queue      string      `json:"queue_name"`
	ID         string      `json:"queue_id"`
	Arrived    json.Number `json:"arrival_time"`
	Size       json.Number `json:"message_size"`
	Sender     string      `json:"sender"`
	Recipients []struct {
		Address string `json:"address"`
		Reason  string `json:"delay_reason"`
	} `json:"recipients"`
}

// parseListing reads the output of postqueue -j and calls each for every
// message. A line that cannot be read costs that line only: bad is called
// with the reason, and the listing goes on. The error is for a listing that
// could not be read to its end.
func parseListing(r io.Reader, each func(mta.Message), bad func(error)) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	var total int64
	var last mta.Message
	for n := 1; ; n++ {
		var long bool
		var err error
		line, long, err = readLine(in, line[:0], &total)
		if total > maxListing {
			return fmt.Errorf("queue listing is longer than %d bytes", int64(maxListing))
		}
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("read queue listing: %w", err)
		case long:
			bad(fmt.Errorf("line %d is longer than %d bytes", n, maxListingLine))
		case len(line) > 0:
			if cap(last.Recipients) > 1000 {
				last.Recipients = nil // of a message to very many
			}
			m, ok := quick(line, last)
			if ok {
				last = m
				each(m)
			} else if m, perr := parseMessage(line); perr != nil {
				bad(fmt.Errorf("line %d: %w", n, perr))
			} else {
				each(m)
			}
		}
		if err != nil {
			return nil
		}
	}
}

// readLine appends the next line to buf, without its newline. Of a line that
// is too long it keeps nothing and reads on to its end.
func readLine(in *bufio.Reader, buf []byte, total *int64) (line []byte, long bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		*total += int64(len(part))
		if !long && len(buf)+len(part) > maxListingLine {
			long, buf = true, buf[:0]
		}
		if !long {
			buf = append(buf, part...)
		}
		if *total > maxListing {
			return buf[:0], long, nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if n := len(buf); n > 0 && buf[n-1] == '\n' {
			buf = buf[:n-1]
		}
		return buf, long, err
	}
}

func parseMessage(line []byte) (mta.Message, error) {
	var l listed
	if err := json.Unmarshal(line, &l); err != nil {
		return mta.Message{}, fmt.Errorf("not a message: %w", err)
	}
	if err := checkID(l.ID); err != nil {
		return mta.Message{}, err
	}
	m := mta.Message{ID: l.ID, Queue: strings.ToLower(l.Queue), Sender: l.Sender}
	// A message in maildrop has no size or time yet; absent is zero.
	if l.Arrived != "" {
		sec, err := l.Arrived.Int64()
		if err != nil || sec < 0 || sec > 1<<40 {
			return mta.Message{}, fmt.Errorf("%s: arrival_time %s is not a time", l.ID, foreign.Quote(l.Arrived.String()))
		}
		m.Arrived = time.Unix(sec, 0)
	}
	if l.Size != "" {
		size, err := l.Size.Int64()
		if err != nil || size < 0 {
			return mta.Message{}, fmt.Errorf("%s: message_size %s is not a size", l.ID, foreign.Quote(l.Size.String()))
		}
		m.Size = size
	}
	if len(l.Recipients) > 0 {
		m.Recipients = make([]mta.Recipient, 0, len(l.Recipients))
	}
	for _, r := range l.Recipients {
		m.Recipients = append(m.Recipients, mta.Recipient{Address: r.Address, Reason: reasonFor(r.Reason)})
	}
	return m, nil
}

// reasonFor is why a recipient waits, by the reason that Postfix gives.
func reasonFor(said string) string {
	switch {
	case said == deferredTransport:
		return mta.ReasonHeld
	case forNobody(said):
		return mta.ReasonNobody
	case len(said) > maxReason:
		return strings.ToValidUTF8(said[:maxReason], "")
	}
	return said
}

// checkID refuses what Postfix would not take for a queue id either. An id
// becomes an argument of a command, so it may not look like an option.
func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("%s is not a queue id", foreign.Quote(id))
	}
	for _, c := range []byte(id) {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return fmt.Errorf("%s is not a queue id", foreign.Quote(id))
		}
	}
	return nil
}
