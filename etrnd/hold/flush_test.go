package hold

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// heldFor is n messages that wait for their release.
func heldFor(n int, recipient string) (list []mta.Message) {
	for i := range n {
		list = append(list, msg(number(i), "deferred", mta.ReasonHeld, recipient))
	}
	return list
}

// sentOnce fails if a recipient was delivered to twice, or one of n never.
func (f *fakeMTA) sentOnce(t *testing.T, n int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for what, times := range f.sent {
		if times != 1 {
			t.Errorf("%s was delivered %d times", what, times)
		}
	}
	if len(f.sent) != n {
		t.Errorf("%d recipients were delivered to, not %d", len(f.sent), n)
	}
}

const (
	lineFailed = "the MTA did not take a release"
	lineAgain  = "the MTA takes releases again"
)

// A flush that fails once is done again two seconds later, for all of it.
func TestFlushFailsOnce(t *testing.T) {
	run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() {
			m.mta.release = func(context.Context, []string, []string) error {
				m.mta.set(func() { m.mta.release = nil })
				return errors.New("fork: resource temporarily unavailable")
			}
		})
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(time.Second)
		if s := m.must(t, "acme"); s.UnderWay != 3 || s.Failed != 0 {
			t.Errorf("after the failure: %+v", s)
		}
		time.Sleep(10 * time.Second)
		if at := m.mta.times(); !slices.Equal(at, []float64{0, 2}) || len(m.mta.calls[1].ids) != 3 {
			t.Errorf("flushed at %v", at)
		}
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 3 {
			t.Errorf("at the end: %+v", s)
		}
		m.mta.sentOnce(t, 3)
		if a, b := m.log.lines(lineFailed), m.log.lines(lineAgain); a != 1 || b != 1 {
			t.Errorf("%d lines say that it failed, %d that it was over", a, b)
		}
	})
}

// While flushes go on failing, the MTA is left alone for longer and longer, to
// half a minute, the log has one line, and nothing is given up.
func TestFlushFailsForLong(t *testing.T) {
	run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.release = func(context.Context, []string, []string) error { return mta.ErrDown } })
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(100 * time.Second)
		if at := m.mta.times(); !slices.Equal(at, []float64{0, 2, 6, 14, 30, 60, 90}) {
			t.Errorf("flushed at %v", at)
		}
		if s := m.must(t, "acme"); s.Messages != 3 || s.UnderWay != 3 || s.Failed != 0 {
			t.Errorf("meanwhile: %+v", s)
		}
		// What is asked for meanwhile is not kept waiting by the rest, and
		// the rest not put off by it.
		m.mta.add(msg("NEW", "deferred", mta.ReasonHeld, "b@beta.example"))
		m.Relist()
		synctest.Wait()
		m.Release(queue.Selection{Queue: "beta"})
		synctest.Wait()
		if last := m.mta.last(); last.at != 100*time.Second || !slices.Equal(last.ids, []string{"NEW"}) {
			t.Errorf("the new one: %+v", last)
		}
		m.mta.set(func() { m.mta.release = nil })
		time.Sleep(time.Minute)
		for _, name := range []string{"acme", "beta"} {
			if s := m.must(t, name); s.Messages != 0 {
				t.Errorf("at the end: %+v", s)
			}
		}
		m.mta.sentOnce(t, 4)
		if a, b := m.log.lines(lineFailed), m.log.lines(lineAgain); a != 1 || b != 1 {
			t.Errorf("%d lines say that it failed, %d that it was over", a, b)
		}
	})
}

// When the call has ended, what could not be flushed is not asked for again.
func TestFlushFailsAndCallEnds(t *testing.T) {
	run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.release = func(context.Context, []string, []string) error { return mta.ErrDown } })
		unpin := m.Pin(queue.Selection{Queue: "acme"})
		time.Sleep(10 * time.Second)
		unpin()
		m.mta.set(func() { m.mta.release = nil })
		time.Sleep(time.Hour)
		if at := m.mta.times(); !slices.Equal(at, []float64{0, 2, 6}) {
			t.Errorf("flushed at %v", at)
		}
		if s := m.must(t, "acme"); s.Messages != 3 || s.UnderWay != 0 || s.Open {
			t.Errorf("at the end: %+v", s)
		}
	})
}

// Of a flush that failed for some, nobody knows for which: all are asked for
// again, those that went are not sent twice, and the rest goes.
func TestFlushFailsForSome(t *testing.T) {
	run(t, testSet(t), heldFor(20, "a@acme.example"), func(t *testing.T, m *running) {
		// Half of them are not handed over.
		m.mta.set(func() {
			m.mta.release = func(_ context.Context, domains, ids []string) error {
				m.mta.set(func() { m.mta.release = nil })
				_ = m.mta.Release(t.Context(), nil, ids[:10])
				return fmt.Errorf("release message %q: %w", ids[10], context.DeadlineExceeded)
			}
		})
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(time.Second)
		if s := m.must(t, "acme"); s.Left.Messages != 10 || s.UnderWay != 10 {
			t.Errorf("after the failure: %+v", s)
		}
		time.Sleep(10 * time.Second)
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 20 {
			t.Errorf("at the end: %+v", s)
		}
		// The second is the fake's own, for the half.
		last := m.mta.last()
		if at := m.mta.times(); !slices.Equal(at, []float64{0, 0, 2}) || len(last.ids) != 10 {
			t.Errorf("flushed at %v, at last %v", at, last.ids)
		}
		m.mta.sentOnce(t, 20)
		if n := m.log.lines(lineFailed); n != 1 {
			t.Errorf("%d lines say that it failed", n)
		}
	})
}

// Where the MTA keeps no list for a domain, messages go one by one.
func TestFlushByDomainRefused(t *testing.T) {
	const n = 3 * domainWorth
	run(t, testSet(t), heldFor(n, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() {
			m.mta.release = func(_ context.Context, domains, _ []string) error {
				if len(domains) > 0 {
					return fmt.Errorf("release domain %q: %w", domains[0], mta.ErrNotFlushable)
				}
				return nil
			}
		})
		m.Release(queue.Selection{Queue: "acme"})
		time.Sleep(2 * time.Second)
		if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != n {
			t.Errorf("at the end: %+v", s)
		}
		m.mta.sentOnce(t, n)
		if first := m.mta.calls[0]; len(first.domains) != 1 || len(m.mta.calls) != 3 {
			t.Errorf("%d flushes, the first of %v", len(m.mta.calls), first.domains)
		}
		// A reload may have come with new tables.
		m.mta.set(func() { m.mta.release = nil })
		m.SetQueues(m.Queues())
		m.mta.add(heldFor(n, "a@acme.example")...)
		m.Relist()
		synctest.Wait()
		m.Release(queue.Selection{Queue: "acme"})
		synctest.Wait()
		if last := m.mta.last(); !slices.Equal(last.domains, []string{"acme.example"}) {
			t.Errorf("after a reload: %v and %d messages", last.domains, len(last.ids))
		}
	})
}

// A listing that fails leaves the index as it was, says so once, and refuses
// requests until one succeeds.
func TestListingFails(t *testing.T) {
	run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.list = func(context.Context) error { return mta.ErrDown } })
		m.Relist()
		time.Sleep(30 * time.Second)
		if _, _, err := m.Listed(); !errors.Is(err, mta.ErrDown) {
			t.Errorf("Listed: %v", err)
		}
		if a := m.Ask(t.Context(), owner, "acme.example"); a.Code != 458 || a.Log != "the MTA's queue cannot be listed" {
			t.Errorf("Ask: %+v", a)
		}
		if s := m.must(t, "acme"); s.Messages != 3 || s.Open {
			t.Errorf("meanwhile: %+v", s)
		}
		m.mta.set(func() { m.mta.list = nil })
		time.Sleep(3 * time.Second) // it is tried every two
		at, _, err := m.Listed()
		if err != nil || time.Since(at) > 3*time.Second {
			t.Errorf("Listed: %v, %v", at, err)
		}
		if a := m.Ask(t.Context(), owner, "acme.example"); a.Code != 253 || a.Count != 3 {
			t.Errorf("Ask: %+v", a)
		}
		if a, b := m.log.lines("cannot list the MTA's queue"), m.log.lines("can be listed again"); a != 1 || b != 1 {
			t.Errorf("%d lines say that it failed, %d that it was over", a, b)
		}
	})
}

// A command of the MTA that hangs keeps nobody waiting, and is given up after
// a minute.
func TestHungMTA(t *testing.T) {
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	questions := func(t *testing.T, m *running, held int) {
		t.Helper()
		before := time.Now()
		if s := m.must(t, "acme"); s.Messages != held {
			t.Errorf("State: %+v", s)
		}
		for range m.States() {
		}
		m.Ask(t.Context(), owner, "acme.example")
		m.Ask(t.Context(), owner, "#nosuch")
		m.mta.add(msg("NEW", "deferred", mta.ReasonHeld, "a@acme.example"))
		m.Arrived(report.Event{Kind: report.Message, Time: time.Now(), QueueID: "NEW", Recipients: []string{"a@acme.example"}, Size: 500})
		m.Pin(queue.Selection{Queue: "beta"})()
		m.SetQueues(m.Queues())
		if took := time.Since(before); took != 0 {
			t.Errorf("the questions took %v", took)
		}
	}
	t.Run("flush", func(t *testing.T) {
		run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
			m.mta.set(func() { m.mta.release = func(ctx context.Context, _, _ []string) error { return hang(ctx) } })
			m.Release(queue.Selection{Queue: "acme"})
			synctest.Wait()
			questions(t, m, 3)
			time.Sleep(59 * time.Second)
			if at := m.mta.times(); len(at) != 1 || m.log.lines(lineFailed) != 0 {
				t.Errorf("flushed at %v", at)
			}
			m.mta.set(func() { m.mta.release = nil })
			time.Sleep(10 * time.Second)
			if at := m.mta.times(); !slices.Equal(at, []float64{0, 60, 62}) || m.log.lines(lineFailed) != 1 {
				t.Errorf("flushed at %v", at)
			}
			if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 4 {
				t.Errorf("at the end: %+v", s)
			}
		})
	})
	t.Run("listing", func(t *testing.T) {
		run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
			m.mta.set(func() { m.mta.list = hang })
			m.Relist()
			synctest.Wait()
			questions(t, m, 3)
			m.mta.set(func() { m.mta.list = nil })
			time.Sleep(2 * time.Minute)
			if s := m.must(t, "acme"); s.Messages != 0 || s.Left.Messages != 4 {
				t.Errorf("at the end: %+v", s)
			}
		})
	})
}

// The end of the daemon in the middle of a flush is no failure.
func TestEndWhileFlushing(t *testing.T) {
	var log *syncBuffer
	run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
		log = m.log
		m.mta.set(func() {
			m.mta.release = func(ctx context.Context, _, _ []string) error {
				<-ctx.Done()
				return ctx.Err()
			}
		})
		m.Release(queue.Selection{Queue: "acme"})
		synctest.Wait()
	})
	if n := log.lines("level=ERROR"); n != 0 {
		t.Errorf("%d errors in the log", n)
	}
}

// While nothing moves, the MTA is listed once in a reconcile and asked for
// nothing else.
func TestIdle(t *testing.T) {
	run(t, testSet(t), heldFor(1000, "a@acme.example"), func(t *testing.T, m *running) {
		lists := 0
		m.mta.set(func() {
			m.mta.list = func(context.Context) error {
				m.mta.set(func() { lists++ })
				return nil
			}
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		m.mta.set(func() {
			if lists != 60 || len(m.mta.calls) != 0 {
				t.Errorf("%d listings and %d flushes in an hour", lists, len(m.mta.calls))
			}
		})
	})
}

// A panic costs neither the index nor what is known of releases.
func TestPanic(t *testing.T) {
	run(t, testSet(t), heldFor(3, "a@acme.example"), func(t *testing.T, m *running) {
		unpin := m.Pin(queue.Selection{Queue: "acme"})
		defer unpin()
		m.mta.set(func() { m.mta.takes = time.Hour })
		time.Sleep(10 * time.Second)
		m.mu.Lock()
		m.index.queue("acme").bytes = -1
		m.index.queue("acme").messages[0].class = classWaiting
		m.index.queue("acme").ready = append(m.index.queue("acme").ready, m.index.queue("acme").messages[1])
		m.mu.Unlock()
		m.mta.set(func() {
			m.mta.list = func(context.Context) error {
				m.mta.set(func() { m.mta.list = nil })
				panic("a test")
			}
		})
		m.Relist()
		synctest.Wait()
		m.check(t)
		if s := m.must(t, "acme"); s.Messages != 3 || s.UnderWay != 3 || s.Bytes != 3000 || !s.Pinned {
			t.Errorf("after a panic: %+v", s)
		}
		if n := m.log.lines("panic while"); n != 1 {
			t.Errorf("%d lines say so", n)
		}
		time.Sleep(2 * time.Second)
		if at, _, err := m.Listed(); err != nil || time.Since(at) > 2*time.Second {
			t.Errorf("not listed again: %v, %v", at, err)
		}
	})
}
