package deliver

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
)

// listed is a holder whose MTA answers after a while.
type listed struct {
	*counter // for whose queues they are
	mu       sync.Mutex
	changed  chan struct{}
	at       time.Time
	err      error
	relist   func(*listed)
	asked    int
}

func (l *listed) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *listed) Listed() (time.Time, time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at, 0, l.err
}

func (l *listed) Relist() {
	l.asked++
	if l.relist != nil {
		go l.relist(l)
	}
}

func (l *listed) set(at time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.err = at, err
	close(l.changed)
	l.changed = make(chan struct{})
}

// Whether mail could be let go at all, before a site is told to wait for it.
func TestMTAAnswers(t *testing.T) {
	down := errors.New("mail system is down")
	for _, c := range []struct {
		name   string
		age    time.Duration // of the last listing
		err    error         // of the last try
		relist func(*listed)
		want   bool
		took   time.Duration
		asked  int
	}{
		{"listed a moment ago", 900 * time.Millisecond, nil, nil, true, 0, 0},
		{"listed long ago, and it answers", time.Minute, nil, func(l *listed) { l.set(time.Now(), nil) }, true, 0, 1},
		{"listed long ago, and it is down now", time.Minute, nil, func(l *listed) { time.Sleep(time.Second); l.set(l.at, down) }, false, time.Second, 1},
		{"listed long ago, and the queue is large", time.Minute, nil, nil, true, listWait, 1},
		{"it was down, and answers again", time.Minute, down, func(l *listed) { time.Sleep(time.Second); l.set(time.Now(), nil) }, true, time.Second, 1},
		{"it was down, and is", time.Second, down, func(l *listed) { time.Sleep(time.Second); l.set(l.at, down) }, false, listWait, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &listed{changed: make(chan struct{}), at: time.Now().Add(-c.age), err: c.err, relist: c.relist}
				a := New(Options{Hold: l})
				start := time.Now()
				got := a.mtaAnswers(t.Context())
				if took := time.Since(start); got != c.want || took != c.took || l.asked != c.asked {
					t.Errorf("%t after %v, listed %d times; want %t, %v, %d", got, took, l.asked, c.want, c.took, c.asked)
				}
				synctest.Wait()
			})
		})
	}
}

// A site that asks while the MTA could bring nothing, or nobody knows what there
// is, is told to try again: after 250 it would keep its line.
func TestTurnWithoutMTA(t *testing.T) {
	down := errors.New("mail system is down")
	for _, c := range []struct {
		name   string
		relist func(*listed)
		blind  bool
		code   int
	}{
		{"it lists its queue", func(l *listed) { l.set(time.Now(), nil) }, false, 250},
		{"it is down", func(l *listed) { l.set(l.at, down) }, false, 451},
		{"nobody knows what there is", func(l *listed) { l.set(time.Now(), nil) }, true, 451},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &listed{counter: newCounter(t), changed: make(chan struct{}), at: time.Now().Add(-time.Minute), relist: c.relist}
				l.add("acme", 1)
				l.blind = c.blind
				a, turned := New(Options{Hold: l}).Turn(t.Context(), etrn.Identity{User: "acme"}, nil)
				if a.Code != c.code || (turned != nil) != (c.code == 250) {
					t.Errorf("%+v, want %d", a, c.code)
				}
				synctest.Wait()
			})
		})
	}
}
