// Package report carries what the milter sees to the daemon: SMTP sessions
// that open, deliver and close, and the messages in them. It speaks
// newline-delimited JSON over a local stream socket.
//
// Reports are hints. None is acknowledged, and they may be lost when either
// side dies or the daemon is slow; the queue listing of the MTA is the truth.
// A stream therefore begins, and begins again after every gap, with a
// picture of the sessions that are open now, and says when messages may have
// gone unreported.
//
// A stream is: hello, then lost if messages went unreported, then messages
// that waited, then an open for every session that is open now, then ready;
// and from there on events as they happen. After a gap it starts over with a
// hello on the same connection.
package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
)

// Version is that of the protocol. A server refuses any other. New kinds and
// new fields do not change it: whoever does not know them ignores them.
const Version = 1

// Kind says what an event is about.
type Kind string

const (
	// Hello begins a picture of the reporter's sessions: all that were known
	// before from the same reporter are void.
	Hello Kind = "hello"
	// Ready ends that picture.
	Ready Kind = "ready"
	// Lost says that messages may have gone unreported (Event.Count of them,
	// as far as that is known): compare with the MTA's listing.
	Lost Kind = "lost"
	// Open is a session that a client opened. With Transaction set, it is
	// part of a picture, and the session is in the middle of a message.
	Open Kind = "open"
	// Mail is a transaction that began. After a RSET Postfix tells the milter
	// that it was given up only with the next command that concerns milters:
	// a session that idles after RSET looks as if it were in a transaction.
	Mail Kind = "mail"
	// Message ends a transaction: the milter has let a whole message pass.
	// The MTA may still fail to store it, and does so only after this report.
	Message Kind = "message"
	// Refused is a recipient that the MTA has refused; the transaction goes on.
	Refused Kind = "refused"
	// Abort ends a transaction without a message.
	Abort Kind = "abort"
	// Close is the end of a session, and of the transaction in it.
	Close Kind = "close"
	// Gone is made up by the server when a reporter disconnects: nothing is
	// known of its sessions any more. It never crosses the wire.
	Gone Kind = "gone"

	ping Kind = "ping" // a sign of life, not handed on
)

// Priority of a message as its sender stated it.
type Priority string

const (
	PriorityUnstated Priority = ""
	PriorityLow      Priority = "low"
	PriorityNormal   Priority = "normal"
	PriorityHigh     Priority = "high"
)

// Limits of what an event may hold. A Reporter cuts to them; a Server closes
// the stream of whoever exceeds them.
const (
	MaxLine       = 128 << 10 // bytes of a line, its newline included
	MaxRecipients = 100       // addresses of one message
	MaxAddress    = 512       // bytes of an address
	MaxReply      = 512       // bytes of a reply
	maxName       = 128       // bytes of session, queue id, digest
)

// Event is one report. Which fields are set depends on the kind; those about
// the session (Session, Client, Local) are set in all of open, mail, message,
// refused, abort and close, so that each can be understood alone.
type Event struct {
	Kind Kind      `json:"kind"`
	Time time.Time `json:"time"`

	Version int `json:"version,omitempty"` // of hello
	// Config, of hello, is a digest of what the milter runs by; empty: it does not
	// say.
	Config string `json:"config,omitempty"`
	Count  int    `json:"count,omitempty"` // of lost: messages

	// Session names an SMTP session; no two, of any reporter, have the same.
	Session string `json:"session,omitempty"`
	// Client is the address that connected, Local the address and port it
	// connected to. Either may be invalid when the MTA did not say: mail from
	// the command line has the client 127.0.0.1 or ::1 and no Local.
	Client netip.Addr     `json:"client,omitzero"`
	Local  netip.AddrPort `json:"local,omitzero"`
	// Transaction is set in an open that is part of a picture when the
	// session is in the middle of a message.
	Transaction bool `json:"transaction,omitempty"`

	// Of message:

	// QueueID is the MTA's name of the message. Empty when it did not say.
	QueueID string `json:"queue_id,omitempty"`
	// Recipients are the addresses that are held in some queue, at most
	// MaxRecipients; none for mail that is not held, nor for a message that the
	// MTA will split: the milter sees and reports its parts, which the MTA sends
	// itself.
	Recipients []string `json:"recipients,omitempty"`
	// Size is what the client declared (RFC 1870), in bytes; 0 is unknown. It
	// is set in mail, too.
	Size     int64    `json:"size,omitempty"`
	Priority Priority `json:"priority,omitempty"`
	// Digest is the same for two messages with the same Message-ID header and
	// the same recipients, in hex; empty when there is no Message-ID.
	Digest string `json:"digest,omitempty"`
	// Letter is the same for two messages with the same Message-ID header,
	// whoever they are for: an MTA sends a message to many recipients in parts.
	// Empty when there is no Message-ID. To is how many recipients this part
	// has; of refused, how many the MTA has taken before.
	Letter string `json:"letter,omitempty"`
	To     int    `json:"to,omitempty"`

	// Of refused:

	// Domain is that of the recipient, in lower case. Empty when there is none, or
	// one that is too long.
	Domain string `json:"domain,omitempty"`
	// Reply is what the MTA has said, without the code: the enhanced status
	// (RFC 3463) and the text, cut to MaxReply bytes and without control
	// characters.
	Reply string `json:"reply,omitempty"`

	// Reporter names the stream that an event came in by. The server sets it.
	Reporter string `json:"-"`
}

// readEvent reads one line of a stream, with a buffer of MaxLine bytes. The
// error at the end of the stream between two lines is io.EOF.
func readEvent(br *bufio.Reader) (Event, error) {
	line, err := br.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return Event{}, fmt.Errorf("a line longer than %d bytes: %s", MaxLine, foreign.Quote(line))
	case errors.Is(err, io.EOF) && len(line) > 0:
		return Event{}, fmt.Errorf("the stream ends in the middle of a line: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return Event{}, err
	}
	line = line[:len(line)-1]
	e, err := parse(line)
	if err != nil {
		return Event{}, fmt.Errorf("bad line %q: %w", foreign.Clip(line, 200), err)
	}
	return e, nil
}

// parse reads one line, without its newline.
func parse(line []byte) (Event, error) {
	var e Event
	dec := json.NewDecoder(bytes.NewReader(line))
	if err := dec.Decode(&e); err != nil {
		return Event{}, fmt.Errorf("not an event: %w", err)
	}
	if dec.InputOffset() != int64(len(bytes.TrimRight(line, " \t\r"))) {
		return Event{}, errors.New("something follows the event")
	}
	return e, e.check()
}

// check holds a foreign event to the limits.
func (e *Event) check() error {
	switch {
	case e.Kind == "" || len(e.Kind) > 16:
		return errors.New("it has no kind")
	case e.Kind == Gone:
		return errors.New(`kind "gone" is not for the wire`)
	case e.Count < 0 || e.Size < 0 || e.To < 0:
		return errors.New("a number in it is negative")
	case len(e.Recipients) > MaxRecipients:
		return fmt.Errorf("%d recipients, at most %d", len(e.Recipients), MaxRecipients)
	}
	for _, s := range []string{e.Session, e.QueueID, e.Digest, e.Letter, e.Config, string(e.Priority), e.Client.Zone(), e.Local.Addr().Zone()} {
		if err := checkWord(s, maxName); err != nil {
			return err
		}
	}
	for _, s := range e.Recipients {
		if err := checkWord(s, MaxAddress); err != nil {
			return err
		}
	}
	if err := checkWord(e.Domain, MaxAddress); err != nil {
		return err
	}
	if err := checkWord(e.Reply, MaxReply); err != nil {
		return err
	}
	switch e.Kind {
	case Open, Mail, Message, Refused, Abort, Close:
		if e.Session == "" {
			return fmt.Errorf("kind %q without a session", e.Kind)
		}
	}
	return nil
}

// checkWord refuses what is too long, and control characters: these words go
// on to logs, tables and command lines.
func checkWord(s string, n int) error {
	if len(s) > n {
		return fmt.Errorf("%s is longer than %d bytes", foreign.Quote(s), n)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s holds a control character", foreign.Quote(s))
	}
	return nil
}

// format makes an event a line that every Server takes: it cuts what is
// too long and leaves out what no Server would accept.
func (e Event) format() []byte {
	e.Session, e.QueueID, e.Digest, e.Letter = word(e.Session), word(e.QueueID), word(e.Digest), word(e.Letter)
	if len(e.Recipients) > 0 {
		kept := make([]string, 0, min(len(e.Recipients), MaxRecipients))
		for _, r := range e.Recipients {
			if len(kept) < MaxRecipients && checkWord(r, MaxAddress) == nil {
				kept = append(kept, r)
			}
		}
		e.Recipients = kept
	}
	if checkWord(e.Domain, MaxAddress) != nil {
		e.Domain = ""
	}
	e.Reply = foreign.Printable(e.Reply, MaxReply)
	line, err := json.Marshal(e)
	if err != nil || len(line) >= MaxLine {
		// Names escaped to six times their length can get here. What matters
		// most is that the daemon looks for itself.
		line, _ = json.Marshal(Event{Kind: Lost, Time: e.Time, Count: 1})
	}
	return append(line, '\n')
}

// word leaves out a name that would break the stream; it is better unknown
// than wrong.
func word(s string) string {
	if checkWord(s, maxName) != nil {
		return ""
	}
	return s
}
