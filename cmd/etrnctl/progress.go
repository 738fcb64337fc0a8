package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/api"
)

// progress shows calls while they last.
type progress interface {
	event(api.CallEvent) error
	end()
}

func (a *app) progress(calls []api.CallRef) progress {
	switch {
	case a.json:
		return silent{}
	case a.terminal():
		l := &live{w: a.out, size: a.size, now: a.now, order: calls, stop: make(chan struct{})}
		l.start()
		return l
	}
	return &plain{p: a.print(), start: a.now(), now: a.now, last: map[string]string{}}
}

type silent struct{}

func (silent) event(api.CallEvent) error { return nil }
func (silent) end()                      {}

// plain prints one line for each change of a phase, for logs and mail.
type plain struct {
	p     *printer
	start time.Time
	now   func() time.Time
	last  map[string]string
}

func (s *plain) event(ev api.CallEvent) error {
	// What is waited for counts on with each message, so a change of it alone
	// is not worth a line.
	if s.last[ev.Call] == string(ev.Phase) {
		return s.p.err
	}
	s.last[ev.Call] = string(ev.Phase)
	s.p.f("%s  %s: %s\n", clock(s.now().Sub(s.start)), ev.Remote, doing(ev))
	return s.p.err
}

func (s *plain) end() {}

// live rewrites two lines for each call in place. A bar was tried and left
// out: its length needs a total, and of mail that comes the total is often not
// known, so that a line of numbers says more.
type live struct {
	w     io.Writer
	size  func() (columns, rows int)
	now   func() time.Time
	order []api.CallRef

	mu    sync.Mutex
	last  map[string]seen
	drawn int // lines on the screen that are ours
	err   error

	stop chan struct{}
	done sync.WaitGroup
}

type seen struct {
	ev api.CallEvent
	at time.Time
}

// start draws once a second too, for the clock runs on between events.
func (l *live) start() {
	l.last = map[string]seen{}
	l.done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.mu.Lock()
				l.draw()
				l.mu.Unlock()
			case <-l.stop:
				return
			}
		}
	})
}

func (l *live) event(ev api.CallEvent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last[ev.Call] = seen{ev, l.now()}
	l.draw()
	return l.err
}

// end leaves the screen as if nothing had been there: what came of the calls
// is printed in its place.
func (l *live) end() {
	close(l.stop)
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order = nil
	l.draw()
}

// draw goes up to where it began the last time and writes everything again,
// in one write so that it does not flicker. Lines are cut, because one that
// the terminal wraps would be counted wrongly.
func (l *live) draw() {
	var b bytes.Buffer
	if l.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", l.drawn)
	}
	b.WriteString("\r\x1b[J") // and wipes what is below
	l.drawn = 0
	columns, rows := l.size()
	for _, ref := range l.fit((rows - 1) / 2) {
		s := l.last[ref.Call]
		used := time.Duration(s.ev.Line)
		if s.ev.Result == nil && s.ev.Phase != api.PhaseDialling {
			used += l.now().Sub(s.at)
		}
		for _, text := range []string{
			fmt.Sprintf("%s: %s", ref.Remote, doing(s.ev)),
			fmt.Sprintf("    in %s   out %s   line %s", amount(s.ev.In), amount(s.ev.Out), clock(used)),
		} {
			b.WriteString(shorten(clean(text), columns-1) + "\n")
			l.drawn++
		}
	}
	if _, err := l.w.Write(b.Bytes()); err != nil && l.err == nil {
		l.err = err
	}
}

// fit is the calls that there is room for: what has scrolled off the screen
// cannot be rewritten. Those that go on come before those that have ended.
func (l *live) fit(n int) []api.CallRef {
	var on, ended []api.CallRef
	for _, ref := range l.order {
		switch s, ok := l.last[ref.Call]; {
		case !ok:
		case s.ev.Result == nil:
			on = append(on, ref)
		default:
			ended = append(ended, ref)
		}
	}
	if len(on)+len(ended) > n {
		on = append(on, ended...)
		return on[:min(max(n, 1), len(on))]
	}
	return slices.DeleteFunc(slices.Clone(l.order), func(ref api.CallRef) bool { _, ok := l.last[ref.Call]; return !ok })
}

// doing says what a call is at.
func doing(ev api.CallEvent) string {
	phase := string(ev.Phase)
	switch ev.Phase {
	case api.PhaseDone:
		if ev.Result != nil && ev.Result.Exit != api.ExitOK {
			phase = endedBadly
		}
	case api.PhaseMTA:
		phase = "waiting for the local MTA"
	case api.PhaseTLS:
		phase = "starting TLS"
	case api.PhaseAuth:
		phase = "authenticating"
	case api.PhaseRequest:
		phase = "asking for mail"
	case api.PhaseHangingUp:
		phase = "hanging up"
	}
	if ev.Waiting != "" && ev.Result == nil {
		phase += ", waiting for " + ev.Waiting
		if ev.Phase == api.PhaseMTA {
			phase = "waiting for " + ev.Waiting
		}
	}
	return phase
}

// amount is a Progress on a line: "7 of 14 (32 kB)".
func amount(p api.Progress) string {
	s := fmt.Sprint(p.Messages)
	if p.Expected >= 0 {
		s += fmt.Sprintf(" of %d", max(p.Expected, p.Messages))
	}
	if p.Bytes == 0 {
		return s // nothing yet, or nobody has said how much
	}
	return s + " (" + size(p.Bytes) + ")"
}

// shorten cuts a line to n columns.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n || n < 4 {
		return s
	}
	return strings.TrimRight(string(r[:n-3]), " ") + "..."
}

// working shows on a terminal what a command is doing that takes a while, on one
// line that goes when it is done. Elsewhere it says nothing: what counts comes at
// the end.
type working struct {
	w    io.Writer // nil: nothing is shown
	size func() (columns, rows int)
	now  func() time.Time

	mu    sync.Mutex
	doing string
	began time.Time

	stop chan struct{}
	done sync.WaitGroup
}

func (a *app) working() *working {
	w := &working{size: a.size, now: a.now, stop: make(chan struct{})}
	if a.terminal() && !a.json {
		w.w = a.out
		w.done.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					w.mu.Lock()
					w.draw()
					w.mu.Unlock()
				case <-w.stop:
					return
				}
			}
		})
	}
	return w
}

// say is called again and again while something goes on.
func (w *working) say(doing string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if doing == w.doing {
		return
	}
	w.doing, w.began = doing, w.now()
	w.draw()
}

// draw writes the line anew, with the time once it takes some.
func (w *working) draw() {
	if w.w == nil {
		return
	}
	text := w.doing
	if used := w.now().Sub(w.began); text != "" && used >= 2*time.Second {
		text += " (" + clock(used) + ")"
	}
	columns, _ := w.size()
	// A terminal that cannot be written to is told by what comes after.
	_, _ = io.WriteString(w.w, "\r\x1b[K"+shorten(clean(text), columns-1))
}

// end leaves the line empty.
func (w *working) end() {
	close(w.stop)
	w.done.Wait()
	w.say("")
}
