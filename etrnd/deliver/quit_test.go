package deliver

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/queue"
)

// quitting is a turn in mid-session with a site, of which nothing runs yet.
func quitting(t *testing.T, s *site) *turn {
	t.Helper()
	ours, theirs := tcp(t)
	go s.serve(theirs)
	c := New(Options{Hostname: "hub.example.net", Hold: newCounter(t), ReplyTimeout: hang.Limit})
	turn := newTurn(c, ours, etrn.Identity{User: "acme"}, []queue.Selection{{Queue: "acme"}}, slog.New(slog.DiscardHandler))
	turn.offers = offers{pipelining: true, chunking: true}
	if r, err := turn.in.ReadReply(); err != nil || r.Code != 220 {
		t.Fatalf("greeting: %v, %v", r, err)
	}
	return turn
}

func (t *turn) begin() {
	go func() {
		if err := t.read(); err != nil {
			t.fail(err)
		}
	}()
	go func() {
		defer close(t.wrote)
		if err := t.write(); err != nil {
			t.fail(err)
		}
	}()
}

// A message that comes in just as the turn ends is sent before QUIT, and gets
// the site's own answer. QUIT's reply once stood for that of the message: 221
// is a success, and the mail was lost.
func TestMessageAtTheEnd(t *testing.T) {
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}, reply: func(_ *site, command string) string {
		if command == "END" {
			return "451 4.3.0 not now"
		}
		return ""
	}}
	turn := quitting(t, s)
	settled := make(chan struct{})
	m := &message{from: "a@online.example", head: []byte("Subject: x\r\n\r\nx\r\n"), gone: func() bool { return false }, done: func() { close(settled) }}
	m.rcpts = []recipient{{addr: "a@acme.example"}, {addr: "b@acme.example"}}
	turn.submit(m)
	ended := make(chan error, 1)
	go func() { ended <- turn.quit() }()
	until(t, "the turn to be closing", func() bool {
		turn.mu.Lock()
		defer turn.mu.Unlock()
		return turn.closing
	})
	turn.begin()
	select {
	case <-settled:
	case <-hang.After():
		t.Fatal("the message was not answered for")
	}
	for _, r := range m.rcpts {
		if r.result == nil || r.result.Code != 451 {
			t.Errorf("%s was told %+v, but the site said 451", r.addr, r.result)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("quit: %v", err)
	}
	said := s.said()
	if len(said) == 0 || said[len(said)-1] != "QUIT" || !strings.Contains(strings.Join(said, "\n"), "LAST") {
		t.Errorf("the site got %q", said)
	}
	// What comes later is kept.
	late := &message{from: "a@online.example", rcpts: []recipient{{addr: "a@acme.example"}}, done: func() {}}
	turn.submit(late)
	if r := late.rcpts[0].result; r == nil || r.Code/100 != 4 {
		t.Errorf("a message after the end was told %+v", r)
	}
}

// Replies that cannot belong to what they would be taken for end the turn: a
// greeting or a farewell to a message, and a go-ahead to anything but DATA.
func TestRepliesOutOfPlace(t *testing.T) {
	for _, reply := range []string{"220 hello", "221 bye", "354 go on"} {
		s := &site{offers: []string{"PIPELINING", "CHUNKING"}, reply: func(_ *site, command string) string {
			if strings.HasPrefix(command, "BDAT") || command == "END" && !strings.HasPrefix(reply, "354") {
				return reply
			}
			return ""
		}}
		turn := quitting(t, s)
		turn.begin()
		settled := make(chan struct{})
		m := &message{from: "a@online.example", head: []byte("Subject: x\r\n\r\nx\r\n"), gone: func() bool { return false }, done: func() { close(settled) }}
		m.rcpts = []recipient{{addr: "a@acme.example"}}
		turn.submit(m)
		until(t, "the turn to end or the message to be answered for", func() bool {
			turn.mu.Lock()
			defer turn.mu.Unlock()
			return turn.err != nil || m.settled
		})
		turn.abandon(turn.err)
		<-settled
		if r := m.rcpts[0].result; r == nil || r.Code/100 != 4 {
			t.Errorf("after %q the recipient was told %+v", reply, r)
		}
	}
}

// A site that owes a reply on which no mail depends does not keep the line.
func TestSiteOwesAReply(t *testing.T) {
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}}
	turn := quitting(t, s)
	turn.agent.o.ReplyTimeout = time.Second
	turn.begin()
	turn.mu.Lock()
	turn.expect = append(turn.expect, expected{kind: isRset}) // never answered
	turn.moved = time.Now()
	turn.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- turn.quit() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-hang.After():
		t.Error("the line is kept")
	}
}

// A site whose line has gone down before it answered QUIT comes back: all of its
// mail has been answered for, and it is not told that it is connected already.
func TestBackBehindQuit(t *testing.T) {
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}, reply: func(s *site, command string) string {
		if command == "QUIT" {
			s.conn.Read(make([]byte, 1)) // until the test ends: its line is down
		}
		return ""
	}}
	turn := quitting(t, s)
	turn.agent.turned["acme"] = turn
	turn.begin()
	ended := make(chan error, 1)
	go func() {
		ended <- turn.quit()
		turn.agent.disclaim(turn)
	}()
	until(t, "QUIT to be said", func() bool {
		said := s.said()
		return len(said) > 0 && said[len(said)-1] == "QUIT"
	})
	if turn.alive(hang.Limit) {
		t.Error("it is taken for a connection that is in use")
	}
	ours, _ := tcp(t)
	next := newTurn(turn.agent, ours, turn.who, turn.sels, slog.New(slog.DiscardHandler))
	began := time.Now()
	if !turn.agent.claim(t.Context(), next) || turn.agent.holder("acme") != next {
		t.Error("the next connection does not get the queue")
	}
	if took := time.Since(began); took >= quitPatience {
		t.Errorf("it waited for %v", took)
	}
	if err := <-ended; err != nil {
		t.Errorf("the one before ended with %v", err)
	}
}
