//go:build !quick

package scenario

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

// kill -9 of etrnd, of etrn-milter and of both, before, during and after a
// release, while mail comes in: Postfix never refuses a message, none is lost,
// and after the restart the index equals the MTA's queue: because of the
// restart, and because mail of which nobody has told shows, since etrnd is not to
// look at the queue by itself before the test has given up.
func TestKill(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: unlooked(HubConfig), Shape: testbed.Shape{RTT: 50 * time.Millisecond, Rate: 2e6}})
	must(t, w.Line.Up(ctx))
	stream := newStream(ctx, t, w)
	defer stream.stop()

	victims := map[string]func(d *Daemons){
		"etrnd":       func(d *Daemons) { d.Etrnd.Kill() },
		"etrn-milter": func(d *Daemons) { d.Milter.Kill() },
		"both":        func(d *Daemons) { d.Etrnd.Kill(); d.Milter.Kill() },
	}
	for name, kill := range victims {
		for _, moment := range []string{"before", "during", "after"} {
			stream.more(t, 20)
			release := func() {
				if _, err := w.Hub.Ctl(ctx, "release", "acme"); err != nil {
					t.Fatalf("%s %s: %v", name, moment, err)
				}
			}
			switch moment {
			case "during":
				release()
			case "after":
				release()
				must(t, testbed.Until(ctx, "the release to end", func() (bool, error) {
					q, err := w.Hub.Queue(ctx, "acme")
					return q.UnderWay == 0, err
				}))
			}
			kill(w.Hub)
			stream.more(t, 20)
			if name != "etrnd" {
				// What comes of a session that began without the milter nobody
				// tells of; it is found all the same.
				must(t, w.Hub.StartMilter(ctx))
			}
			if name != "etrn-milter" {
				must(t, w.Hub.StartEtrnd(ctx))
			}
			equal(ctx, t, w, stream, name+" "+moment)
			if moment == "before" {
				release()
			}
		}
	}
	stream.stop()
	// A release is of what is known: the last messages have to be.
	settled(ctx, t, w, "acme", "a@acme.example")
	if _, err := w.Hub.Ctl(ctx, "release", "acme"); err != nil {
		t.Fatal(err)
	}
	duplicates := delivered(ctx, t, w.SiteHost, stream.sent())
	t.Logf("%d messages, %d duplicates", len(stream.sent()), duplicates)
}

// equal waits until the index has what the MTA has. New mail is stopped and
// the line is cut for that moment, since nothing can be compared that moves.
func equal(ctx context.Context, t *testing.T, w *World, s *stream, when string) {
	t.Helper()
	s.pause()
	defer s.resume()
	w.Line.Cut()
	defer w.Line.Restore()
	var have, want int
	err := testbed.Until(ctx, "the index to equal the MTA's queue", func() (bool, error) {
		before, err := w.HubHost.Queue(ctx)
		if err != nil {
			return false, err
		}
		q, err := w.Hub.Queue(ctx, "acme")
		if err != nil {
			return false, err
		}
		have, want = q.Messages, 0
		for _, m := range before {
			if len(m.Recipients) > 0 && m.Recipients[0].Address == "a@acme.example" {
				want++
			}
		}
		return have == want, nil
	})
	if err != nil {
		t.Errorf("%s: the index has %d, the queue %d: %v", when, have, want, err)
	}
}

// stream sends one message after the other to the hub, and fails the test
// when one is refused.
type stream struct {
	mu     sync.Mutex
	ids    []string
	err    error
	gate   sync.Mutex // held while paused
	cancel context.CancelFunc
	done   chan struct{}
	ctx    context.Context
}

func newStream(ctx context.Context, t *testing.T, w *World) *stream {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{cancel: cancel, done: make(chan struct{}), ctx: ctx}
	go func() {
		defer close(s.done)
		for ctx.Err() == nil {
			s.gate.Lock()
			// Not under ctx: a message cut off by the end of the test would
			// be neither sent nor unsent.
			ids, err := w.Online.SendMany(context.WithoutCancel(ctx), hubName+":25", Messages(2, 500, "a@acme.example"))
			s.gate.Unlock()
			s.mu.Lock()
			s.ids = append(s.ids, ids...)
			if err != nil {
				s.err = fmt.Errorf("the hub refused a message: %w", err)
				s.mu.Unlock()
				return
			}
			s.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(40 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(s.stop)
	return s
}

func (s *stream) pause()  { s.gate.Lock() }
func (s *stream) resume() { s.gate.Unlock() }

// more waits until n more messages have been accepted.
func (s *stream) more(t *testing.T, n int) {
	t.Helper()
	have := len(s.sent())
	must(t, testbed.Until(s.ctx, fmt.Sprintf("%d more messages to be accepted", n), func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.ids) >= have+n, s.err
	}))
}

func (s *stream) sent() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.ids...)
}

func (s *stream) stop() {
	s.cancel()
	<-s.done
}
