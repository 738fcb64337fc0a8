package postfixtest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"regexp"
	"slices"
	"sync"
	"testing"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/testbed"
)

var queuedAs = regexp.MustCompile(`queued as ([0-9A-Za-z]+)`)

// Sender is who sends what Send sends.
const Sender = "sender@client.example"

// Send hands the host's Postfix one message and returns its queue id.
func Send(t *testing.T, to ...string) string {
	t.Helper()
	c, err := smtp.Dial("127.0.0.1:25")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	steps := []error{c.Hello("client.example"), c.Mail(Sender)}
	for _, r := range to {
		steps = append(steps, c.Rcpt(r))
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	id, err := c.Text.Cmd("DATA")
	if err != nil {
		t.Fatal(err)
	}
	c.Text.StartResponse(id)
	_, _, err = c.Text.ReadResponse(354)
	c.Text.EndResponse(id)
	if err != nil {
		t.Fatal(err)
	}
	w := c.Text.DotWriter()
	if _, err := io.WriteString(w, "Subject: test\r\n\r\ntext\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, text, err := c.Text.ReadResponse(250)
	var te *textproto.Error
	if errors.As(err, &te) {
		t.Fatalf("refused: %v", te)
	}
	m := queuedAs.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no queue id in %q (%v)", text, err)
	}
	return m[1]
}

// Queue is what an MTA lists, by id.
type Queue map[string]mta.Message

// Settled waits until the queue is as ok wants it, and returns it.
func Settled(t *testing.T, ctx context.Context, m mta.MTA, what string, ok func(Queue) bool) Queue {
	t.Helper()
	return Released(t, ctx, m, nil, nil, what, ok)
}

// Released asks for domains and ids again and again until the queue is as ok
// wants it, and returns it. A message that is being tried, for whatever reason,
// at the moment of one request is not moved by that one.
func Released(t *testing.T, ctx context.Context, m mta.MTA, domains, ids []string, what string, ok func(Queue) bool) Queue {
	t.Helper()
	var last Queue
	err := testbed.Until(ctx, what, func() (bool, error) {
		if err := m.Release(ctx, domains, ids); err != nil {
			return false, err
		}
		list, err := mta.All(ctx, m)
		if err != nil {
			return false, err
		}
		last = Queue{}
		for _, m := range list {
			last[m.ID] = m
		}
		return ok(last), nil
	})
	if err != nil {
		t.Fatalf("%v; the queue is %+v", err, last)
	}
	return last
}

// Held reports whether a message waits for its release, for n recipients and
// no others.
func Held(m mta.Message, n int) bool {
	return m.Queue == "deferred" && len(m.Recipients) == n &&
		!slices.ContainsFunc(m.Recipients, func(r mta.Recipient) bool { return r.Reason != mta.ReasonHeld && r.Reason != mta.ReasonNobody })
}

// Failed reports whether a message has been tried and is deferred, for n
// recipients and no others.
func Failed(m mta.Message, n int) bool {
	return m.Queue == "deferred" && len(m.Recipients) == n &&
		!slices.ContainsFunc(m.Recipients, func(r mta.Recipient) bool {
			return r.Reason == "" || r.Reason == mta.ReasonHeld || r.Reason == mta.ReasonNobody
		})
}

// A Sink is a remote that takes all mail, and tells what it got.
type Sink struct {
	srv  *gosmtp.Server
	done chan struct{}

	mu  sync.Mutex
	got []string
}

// Listen makes a Sink on a port of the host.
func Listen(t *testing.T, addr string) *Sink {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sink{done: make(chan struct{})}
	s.srv = gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return &session{sink: s}, nil }))
	s.srv.Domain = "sink.example"
	go func() { defer close(s.done); _ = s.srv.Serve(l) }() // ends with the server
	t.Cleanup(s.Close)
	return s
}

// Close ends it: from then on nobody listens there.
func (s *Sink) Close() { _ = s.srv.Close(); <-s.done }

// Recipients of all that has arrived, in alphabetical order.
func (s *Sink) Recipients() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.got))
}

type session struct {
	sink *Sink
	rcpt []string
}

func (s *session) Mail(string, *gosmtp.MailOptions) error { s.rcpt = nil; return nil }
func (s *session) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	s.rcpt = append(s.rcpt, to)
	return nil
}
func (s *session) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	s.sink.mu.Lock()
	defer s.sink.mu.Unlock()
	s.sink.got = append(s.sink.got, s.rcpt...)
	return nil
}
func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }
