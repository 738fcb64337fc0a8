package milter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/priority"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// maxForged bounds the tag headers that are taken out of one message. The MTA
// reads the message again for each, so a message of nothing but tags would
// keep it busy for hours. Mail that went through a few hubs has a handful.
const maxForged = 100

// A message is split into at most so many, which take up at most so many
// bytes together; beyond that it stays one. Where neither the sender has
// declared a size nor a body was seen, it is taken to be more than most have.
const (
	maxCopies     = 1000
	maxCopiedSize = 64 << 20
	unknownSize   = 1 << 20
)

// maxTags bounds the tags of one message: it must not have more of them than
// the milter of the next host puts up with (maxForged).
const maxTags = 50

// session is one milter connection, and so one SMTP session.
type session struct {
	gomilter.NoOpMilter
	m      *Milter
	id     string
	client netip.Addr
	local  netip.AddrPort
	opened bool // reported
	tx     *transaction
	broken bool // a callback of this transaction panicked
}

// transaction is one message.
type transaction struct {
	settings   *Settings
	size       int64
	priority   priority.Stated
	queues     []string
	recipients []string
	count      int   // recipients in queues
	forged     int   // tags that came in
	marks      int   // split headers that came in
	seen       int64 // bytes of the header and the body, as far as asked for
	body       bool  // a piece of the body has come
	messageID  string
	all        int               // recipients, in queues or not
	refused    int               // recipients that the MTA has not taken
	mix        [sha256.Size]byte // of all of them, whatever their order
}

// split reports whether the message is to become one for each recipient: the
// MTA lets a message go as a whole, so those of two queues must be two. Large
// says that it should, but the copies would be too many or too large.
func (tx *transaction) split() (split, large bool) {
	if !tx.settings.Split || len(tx.queues) < 2 {
		return false, false
	}
	// The senders' word is good only where it is the larger: a small SIZE and
	// many recipients would fill the disk.
	size := max(tx.size, tx.seen)
	if tx.size == 0 && !tx.body {
		size = max(size, unknownSize)
	}
	large = tx.all > maxCopies || size > maxCopiedSize/int64(tx.all)
	return !large, large
}

// digest is what report.Event says of Digest.
func (tx *transaction) digest() string {
	if tx.messageID == "" {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d %x %s", tx.all, tx.mix, tx.messageID)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// letter is what report.Event says of Letter.
func (tx *transaction) letter() string {
	if tx.messageID == "" {
		return ""
	}
	h := sha256.Sum256([]byte(tx.messageID))
	return hex.EncodeToString(h[:8])
}

// protect runs a callback. A panic in it costs the message that is under way:
// the MTA is told to try again later, at the end of it, since earlier answers
// are not expected. The session goes on.
func (s *session) protect(stage string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			s.broken = true
			s.m.log.Error("panic in the milter; this message gets a temporary failure",
				"session", s.id, "stage", stage, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	f()
}

func (s *session) NewConnection(gomilter.Modifier) error {
	s.protect("new connection", s.begin)
	return nil
}

// begin makes this a fresh session; an MTA may use one milter connection for
// several.
func (s *session) begin() {
	s.end()
	s.id = s.m.instance + "-" + strconv.FormatUint(s.m.n.Add(1), 10)
	s.client, s.local = netip.Addr{}, netip.AddrPort{}
}

// end closes what is open.
func (s *session) end() {
	s.tx, s.broken = nil, false
	if s.opened {
		s.opened = false
		s.report(report.Event{Kind: report.Close})
	}
}

func (s *session) Connect(_, family string, _ uint16, addr string, mod gomilter.Modifier) (*gomilter.Response, error) {
	s.protect("connect", func() {
		if s.opened {
			s.begin() // a proxy said that the client is another one (XCLIENT)
		}
		if family == "tcp4" || family == "tcp6" {
			s.client, _ = netip.ParseAddr(addr)
			s.client = s.client.Unmap()
		}
		s.local = local(mod.Get(gomilter.MacroDaemonAddr), mod.Get(gomilter.MacroDaemonPort))
		s.open()
	})
	return gomilter.RespContinue, nil
}

func (s *session) open() {
	if !s.opened {
		s.opened = true
		s.report(report.Event{Kind: report.Open})
	}
}

// local reads {daemon_addr} and {daemon_port}.
func local(addr, port string) netip.AddrPort {
	a, err := netip.ParseAddr(strings.TrimPrefix(addr, "IPv6:"))
	if err != nil {
		return netip.AddrPort{}
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 { // cleanup, for mail from the command line
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p))
}

func (s *session) MailFrom(_, args string, _ gomilter.Modifier) (*gomilter.Response, error) {
	s.broken = false
	s.protect("mail", func() {
		s.open()
		s.abort() // one that the MTA has not ended; whoever counts has to hear of it
		s.tx = &transaction{settings: s.m.settings.Load()}
		s.tx.arguments(args)
		s.report(report.Event{Kind: report.Mail, Size: s.tx.size})
	})
	return gomilter.RespContinue, nil
}

// arguments takes what is of use from the parameters of MAIL FROM.
func (tx *transaction) arguments(args string) {
	for arg := range strings.FieldsSeq(args) {
		key, value, _ := strings.Cut(arg, "=")
		switch strings.ToUpper(key) {
		case "SIZE":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 {
				tx.size = n
			}
		case "MT-PRIORITY": // RFC 6710
			tx.priority.Parameter(value)
		}
	}
}

// RcptTo is also called for recipients that the MTA has refused, where they were
// asked for (SMFIP_RCPT_REJ).
func (s *session) RcptTo(to, _ string, mod gomilter.Modifier) (*gomilter.Response, error) {
	s.protect("rcpt", func() {
		if s.tx == nil {
			return
		}
		mailer := mod.Get(gomilter.MacroRcptMailer)
		if mod.Protocol()&gomilter.OptRcptRej != 0 && mailer == refusedMailer {
			s.refuse(to, mod.Get(gomilter.MacroRcptHost), mod.Get(gomilter.MacroRcptAddr))
			return
		}
		if s.tx.all == 0 && s.tx.refused > 0 {
			// Whoever has seen nothing but refusals has given this transaction up.
			s.report(report.Event{Kind: report.Mail, Size: s.tx.size})
		}
		s.tx.recipient(to, mailer)
	})
	return gomilter.RespContinue, nil
}

const (
	// refusedMailer is the transport that Postfix and Sendmail name for a recipient
	// that they have refused; the next hop is the enhanced status then, and the
	// address the text.
	refusedMailer = "error"
	// maxRefused bounds the refusals that are reported of one message.
	maxRefused = 100
)

// refuse reports a recipient that the MTA has refused.
func (s *session) refuse(to, status, text string) {
	s.tx.refused++
	if s.tx.refused > maxRefused {
		return
	}
	_, domain, _ := strings.Cut(to[max(strings.LastIndexByte(to, '@'), 0):], "@")
	s.report(report.Event{Kind: report.Refused, To: s.tx.all, Domain: strings.ToLower(domain), Reply: strings.TrimSpace(status + " " + text)})
}

func (tx *transaction) recipient(to, mailer string) {
	tx.all++
	for i, b := range sha256.Sum256([]byte(strings.ToLower(to))) {
		tx.mix[i] ^= b
	}
	local := tx.settings.Local
	if mailer != "" && tx.settings.Transport != "" {
		local = func(string) bool { return !tx.settings.holds(mailer) }
	}
	name, ok := tx.settings.Queues.With(queue.Env{Local: local, Delimiters: tx.settings.Delimiters}).Match(to)
	if !ok {
		return
	}
	if !slices.Contains(tx.queues, name) {
		tx.queues = append(tx.queues, name)
	}
	tx.count++
	if len(tx.recipients) < report.MaxRecipients {
		tx.recipients = append(tx.recipients, to)
	}
}

func (s *session) Header(name, value string, _ gomilter.Modifier) (*gomilter.Response, error) {
	s.protect("header", func() {
		if s.tx == nil {
			return
		}
		s.tx.seen += int64(len(name) + len(value) + len(": \r\n"))
		name = strings.TrimRight(name, " \t")
		switch {
		case strings.EqualFold(name, s.tx.settings.Header):
			s.tx.forged++
		case s.tx.settings.Mark != "" && strings.EqualFold(name, s.tx.settings.Mark):
			s.tx.marks++
		}
		if s.tx.messageID == "" && strings.EqualFold(name, "Message-ID") {
			s.tx.messageID = strings.TrimSpace(value)
		}
		s.tx.priority.Field(name, value)
	})
	return gomilter.RespContinue, nil
}

// BodyChunk counts a body for as long as it decides whether the message is
// split.
func (s *session) BodyChunk(chunk []byte, mod gomilter.Modifier) (*gomilter.Response, error) {
	more := false
	s.protect("body", func() {
		if s.tx != nil {
			s.tx.body = true
			s.tx.seen += int64(len(chunk))
			more, _ = s.tx.split()
		}
	})
	if !more && mod.Protocol()&gomilter.OptSkip != 0 {
		return gomilter.RespSkip, nil
	}
	return gomilter.RespContinue, nil
}

func (s *session) EndOfMessage(mod gomilter.Modifier) (resp *gomilter.Response, err error) {
	resp = gomilter.RespAccept
	s.protect("end of message", func() {
		if s.tx != nil && !s.broken {
			resp, err = s.finish(mod)
		}
	})
	if s.broken {
		resp, err = gomilter.RespTempFail, nil
	}
	// Still open when it was not let pass.
	s.protect("abort", s.abort)
	s.broken = false
	return resp, err
}

// finish puts the message's tags right and reports it.
func (s *session) finish(mod gomilter.Modifier) (*gomilter.Response, error) {
	tx := s.tx
	id := mod.Get(gomilter.MacroQueueId)
	log := s.m.log.With("session", s.id, "queue_id", id)
	if tx.forged+tx.marks > maxForged {
		log.Warn("message refused: too many tag headers", "header", tx.settings.Header, "count", tx.forged+tx.marks, "client", s.client.String())
		return gomilter.RejectWithCodeAndReason(554, "5.6.0 too many "+tx.settings.Header+" headers")
	}
	// From the last to the first: Postfix counts what is left after each, and
	// Sendmail what there was before.
	for i := tx.forged; i > 0; i-- {
		if err := mod.ChangeHeader(i, tx.settings.Header, ""); err != nil {
			return nil, fmt.Errorf("remove a foreign tag: %w", err)
		}
	}
	for i := tx.marks; i > 0; i-- {
		if err := mod.ChangeHeader(i, tx.settings.Mark, ""); err != nil {
			return nil, fmt.Errorf("remove a foreign mark: %w", err)
		}
	}
	split, large := tx.split()
	if split {
		// Without tags: each copy passes here again and gets its own.
		if err := mod.AddHeader(tx.settings.Mark, "yes"); err != nil {
			return nil, fmt.Errorf("have the message split: %w", err)
		}
	} else {
		for _, q := range tx.queues[:min(len(tx.queues), maxTags)] {
			if err := mod.AddHeader(tx.settings.Header, q); err != nil {
				return nil, fmt.Errorf("add a tag: %w", err)
			}
		}
	}
	switch {
	case large:
		log.Warn("message for several queues stays whole, so that a release of one tries all: its copies would be too many or too large",
			"queues", len(tx.queues), "recipients", tx.all, "size", max(tx.size, tx.seen), "max_copies", maxCopies, "max_bytes", maxCopiedSize)
	case len(tx.queues) > maxTags && !split:
		log.Warn("message is for more queues than it gets tags", "queues", len(tx.queues), "tags", maxTags)
	}
	level := slog.LevelDebug
	if len(tx.queues) > 0 || tx.forged > 0 {
		level = slog.LevelInfo
	}
	log.Log(context.Background(), level, "message", "queues", tx.queues, "recipients", tx.count, "size", tx.size, "foreign_tags", tx.forged, "split", split, "client", s.client.String())
	e := report.Event{
		Kind: report.Message, QueueID: id, Recipients: tx.recipients, Size: tx.size, Priority: class(tx.priority), Digest: tx.digest(), Letter: tx.letter(), To: tx.all,
	}
	if split { // it is the copies that are held
		e.Recipients = nil
	}
	s.report(e)
	s.tx = nil
	return gomilter.RespAccept, nil
}

// Abort also comes after the end of a message, when there is none to abort.
func (s *session) Abort(gomilter.Modifier) error {
	s.protect("abort", s.abort)
	s.broken = false
	return nil
}

func (s *session) abort() {
	if s.tx != nil {
		defer func() { s.tx = nil }()
		s.report(report.Event{Kind: report.Abort})
	}
}

func (s *session) Cleanup(gomilter.Modifier) {
	defer s.m.leave()
	s.protect("close", s.end)
}

// report completes an event with what all events of a session have.
func (s *session) report(e report.Event) {
	e.Time, e.Session, e.Client, e.Local = time.Now(), s.id, s.client, s.local
	s.m.o.Report(e)
}
