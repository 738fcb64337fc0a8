// Package milter tags mail that is held for a queue with the queue's name,
// and reports what passes through the MTA: the sessions, and the messages in
// them. It speaks the milter protocol, version 6, by way of go-milter.
//
// It changes nothing but its own headers (the tag, and a mark for messages
// that the MTA is to split), and refuses nothing but a message that is an
// attack on them. It asks the MTA for no more than it needs, and no bodies: a
// message costs two round trips over a local socket and one for each recipient, and
// a session one; where nobody waits for sessions (Settings.Late), a message one and
// recipients and a session none. Where
// messages are split, bodies are asked for to know how large the copies would
// be, mostly no more than the first piece: that is one more round trip. It
// neither routes nor holds mail: the MTA does that, with this milter or
// without it.
package milter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/listen"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// Settings are what a reload may change. Messages that are under way go on
// with those they began with.
type Settings struct {
	// Header is the name of the tag header.
	Header string
	// Queues decide which queue a recipient belongs to.
	Queues *queue.Set
	// Transport is the MTA's transport for held mail. Whether mail that only
	// "*" matches is held is read from it: the MTA tells by which transport
	// it will send a recipient's mail.
	Transport string
	// Local is asked instead where the MTA does not tell, as Postfix does not
	// for mail from the command line: whether this host is the destination of
	// a domain. The MTA waits for the answer. Nil: it is of none.
	Local func(domain string) bool
	// Delimiters are the characters that begin an address extension.
	Delimiters string
	// Split has a message with recipients in more than one queue marked, so
	// that the MTA splits it into one for each recipient, all of which pass
	// here again and get the tag of their own queue. A message of which the
	// copies would be very many or very large stays one.
	Split bool
	// Late lets sessions be reported only when their first message is complete, and
	// recipients that the MTA refuses not at all: nobody waits for them, as a site
	// does that has asked for its mail. It saves the MTA most round trips.
	Late bool
	// Mark is the name of the header for that. It is removed from whatever
	// comes in, also where nothing is split. Empty is none.
	Mark string
}

// holds reports whether a transport of the MTA is one for held mail: Transport,
// or one of those that the set-up of the MTA names after it, for queues that are
// delivered otherwise than by SMTP, and for those that are pushed with a login.
func (s *Settings) holds(transport string) bool {
	kind, ok := strings.CutPrefix(transport, s.Transport)
	return ok && (kind == "" || kind == "-turn" || kind == "-lmtp" || strings.HasPrefix(kind, "-to-"))
}

// Options of New. Settings and Report are required.
type Options struct {
	Settings Settings
	// Report is told of everything that passes. It must not wait for
	// anything: the MTA waits for it.
	Report func(report.Event)
	Logger *slog.Logger

	// DrainTimeout is how long messages that are under way may take when
	// Serve is told to end: 10 seconds unless set.
	DrainTimeout time.Duration
	// IdleTimeout is how long the MTA may say nothing: 24 hours unless set.
	// A milter connection lasts as long as its SMTP session, and is silent
	// while a message crosses a line that may be very thin, so this is no
	// place to be strict. The end of the MTA is noticed anyhow.
	IdleTimeout time.Duration
	// PacketTimeout is how long a packet may take that has begun: 30 seconds
	// unless set.
	PacketTimeout time.Duration
}

// maxConnections bounds the milter connections. There is one for each smtpd
// and cleanup process of Postfix, of which default_process_limit allows 100
// each. Beyond it Postfix goes on without tags.
const maxConnections = 4000

// Milter serves the milter protocol.
type Milter struct {
	o        Options
	log      *slog.Logger
	seldom   *slog.Logger // of connections that are no MTA's, perhaps
	settings atomic.Pointer[Settings]
	instance string
	n        atomic.Uint64 // sessions so far

	mu     sync.Mutex
	none   *sync.Cond // signalled when live falls to zero
	live   int
	guards map[*guard]struct{}
}

// New makes a Milter. It fails on settings that cannot work.
func New(o Options) (*Milter, error) {
	if o.Report == nil {
		return nil, errors.New("milter: no Report")
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = 10 * time.Second
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 24 * time.Hour
	}
	if o.PacketTimeout <= 0 {
		o.PacketTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	// Session names must not be repeated by another process, or by this one
	// after a restart.
	var b [5]byte
	rand.Read(b[:])
	m := &Milter{o: o, log: o.Logger, seldom: foreign.Seldom(o.Logger), instance: hex.EncodeToString(b[:]), guards: map[*guard]struct{}{}}
	m.none = sync.NewCond(&m.mu)
	return m, m.Reload(o.Settings)
}

// Reload puts new settings in force for messages that begin from now on. On
// an error the old ones stay.
func (m *Milter) Reload(s Settings) error {
	if !validHeader(s.Header) {
		return fmt.Errorf("milter: %s is no header name: letters, digits and \"-\", at most 60", foreign.Quote(s.Header))
	}
	if (s.Mark != "" || s.Split) && (!validHeader(s.Mark) || strings.EqualFold(s.Mark, s.Header)) {
		return fmt.Errorf("milter: %s cannot be the header that splits messages: it must be a header name other than %q", foreign.Quote(s.Mark), s.Header)
	}
	if s.Queues == nil {
		return errors.New("milter: no queues")
	}
	m.settings.Store(&s)
	return nil
}

func validHeader(s string) bool {
	return s != "" && len(s) <= 60 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
	})
}

// Serve serves until the context ends, and then lets messages that are under
// way finish, for at most DrainTimeout. It closes the listener, and returns
// nil after an orderly end.
func (m *Milter) Serve(ctx context.Context, ln net.Listener) error {
	limits := &listen.Limits{Max: maxConnections, Logger: m.log}
	gl := &guardListener{Listener: limits.Listener(ln), m: m}
	srv := gomilter.NewServer(
		gomilter.WithMilter(func() gomilter.Milter { return m.enter() }),
		gomilter.WithActions(actions),
		gomilter.WithProtocols(protocol),
		gomilter.WithNegotiationCallback(m.negotiate),
		// Asked for here, so that no milter_..._macros need be set in main.cf.
		gomilter.WithMacroRequest(gomilter.StageConnect, []gomilter.MacroName{gomilter.MacroDaemonAddr, gomilter.MacroDaemonPort}),
		// Nothing is needed here; one that is not known yet is the least.
		gomilter.WithMacroRequest(gomilter.StageMail, []gomilter.MacroName{gomilter.MacroQueueId}),
		gomilter.WithMacroRequest(gomilter.StageRcpt, []gomilter.MacroName{gomilter.MacroRcptMailer, gomilter.MacroRcptHost, gomilter.MacroRcptAddr}),
		gomilter.WithMacroRequest(gomilter.StageEOM, []gomilter.MacroName{gomilter.MacroQueueId}),
	)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(gl) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-served:
		err = fmt.Errorf("milter: %w", err)
	}
	gl.drain()
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.o.DrainTimeout)
	defer cancel()
	if e := srv.Shutdown(dctx); errors.Is(e, context.DeadlineExceeded) {
		m.log.Warn("messages were still under way at the end; the MTA goes on without tags", "waited", m.o.DrainTimeout)
	}
	if err == nil {
		<-served
	}
	// go-milter does not close a listener that it has not come to know of.
	ln.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.live > 0 {
		m.none.Wait()
	}
	return err
}

// What is asked of the MTA. Headers are needed to find forged tags; HELO,
// DATA, the end of headers, bodies and unknown commands tell nothing.
//
// A body is looked at only where messages are split, and only as far as that
// takes: the MTA is told to skip the rest.
//
// Headers are not answered. Clients that connect, MAIL and recipients are (unless
// Late), although the answer is always the same: Postfix keeps what needs no answer
// in its buffer until something does, and the daemon would learn of a session only
// when its first message is complete.
const (
	actions  = gomilter.OptAddHeader | gomilter.OptChangeHeader
	protocol = gomilter.OptNoHelo | gomilter.OptNoData | gomilter.OptNoEOH | gomilter.OptNoBody | gomilter.OptNoUnknown |
		gomilter.OptNoRcptReply | gomilter.OptNoHeaderReply
)

// negotiate takes what an MTA offers of the protocol options; without some of
// them it is only slower. Without the actions this milter is of no use.
func (m *Milter) negotiate(mtaVersion, ourVersion uint32, mtaActions, _ gomilter.OptAction, mtaProtocol, _ gomilter.OptProtocol, size gomilter.DataSize) (uint32, gomilter.OptAction, gomilter.OptProtocol, gomilter.DataSize, error) {
	if mtaVersion < 2 {
		return 0, 0, 0, 0, fmt.Errorf("the MTA speaks version %d of the milter protocol, at least 2 is needed", mtaVersion)
	}
	if mtaActions&actions != actions {
		return 0, 0, 0, 0, fmt.Errorf("the MTA does not let milters add and change headers")
	}
	options := protocol
	settings := m.settings.Load()
	if settings.Late {
		options |= gomilter.OptNoConnReply | gomilter.OptNoMailReply
	} else {
		// A site that asks for mail wants to know at once what becomes of it, even
		// if the session then idles.
		options = options&^gomilter.OptNoRcptReply | gomilter.OptRcptRej
	}
	if settings.Split {
		options = options&^gomilter.OptNoBody | gomilter.OptSkip
	}
	return min(mtaVersion, ourVersion), (actions | gomilter.OptSetMacros) & mtaActions, options & mtaProtocol, size, nil
}

func (m *Milter) enter() *session {
	m.mu.Lock()
	m.live++
	m.mu.Unlock()
	return &session{m: m}
}

func (m *Milter) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live--; m.live == 0 {
		m.none.Broadcast()
	}
}
