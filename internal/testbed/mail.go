package testbed

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/mail"
	"net/smtp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Message is one to be sent. Only To is needed.
type Message struct {
	From string // envelope and header; default "sender@" and the host's name
	To   []string

	// ID is the Message-ID without angle brackets; by default a new one.
	ID string

	// Size is about how many bytes the body has; default 200.
	Size int

	// Header has further lines, such as "X-Priority: 1", without line ends.
	Header []string
}

// serial makes message ids unique within this process; nothing else needs it.
var serial atomic.Int64

// Send hands one message to an SMTP server, "" being the host's own Postfix,
// and returns its Message-ID. A refusal is a *textproto.Error.
func (h *Host) Send(ctx context.Context, via string, m Message) (string, error) {
	ids, err := h.SendMany(ctx, via, []Message{m})
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// SendMany sends messages over one connection. The ids are those of the
// messages that were accepted before the error, if there is one.
func (h *Host) SendMany(ctx context.Context, via string, messages []Message) (ids []string, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if via == "" {
		via = "127.0.0.1:25"
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("host %s: sending by %s: %w", h.Name, via, err)
		}
	}()
	conn, err := h.Dial(ctx, "tcp", via)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := smtp.NewClient(conn, via)
	if err != nil {
		return nil, err
	}
	if err := c.Hello(h.Hostname); err != nil {
		return nil, err
	}
	for _, m := range messages {
		m.fill(h)
		if err := m.send(c); err != nil {
			return ids, err
		}
		ids = append(ids, m.ID)
	}
	// What has been accepted is accepted, however the goodbye goes.
	_ = c.Quit()
	return ids, nil
}

func (m *Message) fill(h *Host) {
	if m.From == "" {
		m.From = "sender@" + h.Hostname
	}
	if m.ID == "" {
		m.ID = fmt.Sprintf("%d.%d.%d@%s", time.Now().Unix(), os.Getpid(), serial.Add(1), h.Hostname)
	}
	if m.Size == 0 {
		m.Size = 200
	}
}

func (m *Message) send(c *smtp.Client) error {
	// Not Client.Mail: it asks for SMTPUTF8 wherever that is offered, and so
	// changes what the next server must be able to do.
	if err := command(c, 250, "MAIL FROM:<%s>", m.From); err != nil {
		return err
	}
	for _, to := range m.To {
		if err := command(c, 25, "RCPT TO:<%s>", to); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if err := m.write(w); err != nil {
		return err
	}
	return w.Close()
}

func command(c *smtp.Client, code int, format string, args ...any) error {
	id, err := c.Text.Cmd(format, args...)
	if err != nil {
		return err
	}
	c.Text.StartResponse(id)
	defer c.Text.EndResponse(id)
	_, _, err = c.Text.ReadResponse(code)
	return err
}

func (m *Message) write(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "From: <%s>\r\nTo: <%s>\r\nSubject: test\r\nDate: %s\r\nMessage-ID: <%s>\r\n",
		m.From, strings.Join(m.To, ">, <"), time.Now().Format(time.RFC1123Z), m.ID)
	for _, line := range m.Header {
		fmt.Fprintf(b, "%s\r\n", line)
	}
	b.WriteString("\r\n")
	const line = "The quick brown fox jumps over the lazy dog, and over many a slow link.\r\n"
	for n := 0; n < m.Size; n += len(line) {
		b.WriteString(line)
	}
	return b.Flush()
}

// Delivered is one delivery to one recipient.
type Delivered struct {
	MessageID string // without angle brackets
	Recipient string
	Time      time.Time // of the delivery
	Path      string    // inside the host
	Header    mail.Header
}

// mailbox remembers what was read, for the directory is looked at often.
type mailbox struct {
	mu   sync.Mutex
	seen map[string]bool
	list []Delivered
}

// Delivered lists all that was delivered to the final domains of the host's
// Postfix, in order of time. A message that came twice is there twice.
func (h *Host) Delivered() ([]Delivered, error) {
	b := &h.mail
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = map[string]bool{}
	}
	dir := mailDir + "/new"
	f, err := os.Open(h.Path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	for _, name := range names {
		if b.seen[name] {
			continue
		}
		d, err := h.readDelivered(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("host %s: %s: %w", h.Name, name, err)
		}
		b.seen[name] = true
		b.list = append(b.list, d)
	}
	slices.SortStableFunc(b.list, func(x, y Delivered) int { return x.Time.Compare(y.Time) })
	return slices.Clone(b.list), nil
}

func (h *Host) readDelivered(path string) (Delivered, error) {
	f, err := os.Open(h.Path(path))
	if err != nil {
		return Delivered{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Delivered{}, err
	}
	head := make([]byte, 32<<10)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Delivered{}, err
	}
	msg, err := mail.ReadMessage(bytes.NewReader(head[:n]))
	if err != nil {
		return Delivered{}, err
	}
	return Delivered{
		MessageID: strings.Trim(msg.Header.Get("Message-Id"), "<> "),
		Recipient: msg.Header.Get("X-Original-To"),
		Time:      fi.ModTime(),
		Path:      path,
		Header:    msg.Header,
	}, nil
}

// WaitDelivered waits until every one of these ids has been delivered on the
// host at least once, and returns how many deliveries beyond the first there
// were of them (to the same recipient).
func (h *Host) WaitDelivered(ctx context.Context, ids []string) (duplicates int, err error) {
	missing := ids
	err = Until(ctx, strconv.Itoa(len(ids))+" messages to arrive at "+h.Name, func() (bool, error) {
		list, err := h.Delivered()
		if err != nil {
			return false, err
		}
		count := map[string]int{}
		pair := map[[2]string]int{}
		for _, d := range list {
			count[d.MessageID]++
			pair[[2]string{d.MessageID, d.Recipient}]++
		}
		missing, duplicates = nil, 0
		want := map[string]bool{}
		for _, id := range ids {
			want[id] = true
			if count[id] == 0 {
				missing = append(missing, id)
			}
		}
		for k, n := range pair {
			if want[k[0]] {
				duplicates += n - 1
			}
		}
		return len(missing) == 0, nil
	})
	if err != nil {
		return duplicates, fmt.Errorf("%w: %d missing, the first is %s", err, len(missing), missing[0])
	}
	return duplicates, nil
}
