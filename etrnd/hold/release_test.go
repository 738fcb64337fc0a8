package hold

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// A recipient whose domain turns out to be local (the question to the MTA
// failed at first, see queue.LocalFrom) has not left the MTA's queue.
func TestDomainFoundLocalHasNotLeft(t *testing.T) {
	p, _ := queue.ParsePattern("*")
	set, err := queue.NewSet([]queue.Queue{{Name: "rest", Domains: []queue.Pattern{p}}})
	if err != nil {
		t.Fatal(err)
	}
	local := false
	set = set.With(queue.Env{Local: func(string) bool { return local }})
	m := New(Options{Queues: set, Reconcile: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	m.listing(msg("A", "deferred", mta.ReasonHeld, "u@mine.example"))
	m.Release(queue.Selection{Queue: "rest"})
	m.flushNow()
	local = true
	m.listing(msg("A", "deferred", mta.ReasonHeld, "u@mine.example"))
	if s, _ := m.State("rest"); s.Left.Messages != 0 {
		t.Errorf("a message that is still in the MTA's queue counts as gone: %+v", s)
	}
}

// A release that is asked for between the end of a call (unpin) and the next
// listing, while the message is still in the active queue, must not be lost
// when the message comes back untried.
func TestReleaseAfterUnpinIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t)
		m.listing(msg("A", "deferred", mta.ReasonHeld, "u@acme.example"))
		unpin := m.Pin(queue.Selection{Queue: "acme"})
		time.Sleep(time.Second)
		m.flushNow()
		time.Sleep(time.Second)
		m.listing(msg("A", "active", "", "u@acme.example"))
		unpin() // the call has ended
		time.Sleep(time.Second)
		m.Release(queue.Selection{Queue: "acme"}) // etrnctl release acme
		time.Sleep(time.Second)
		m.listing(msg("A", "deferred", mta.ReasonHeld, "u@acme.example"))
		if s, _ := m.State("acme"); s.UnderWay != 1 {
			t.Errorf("the release that was asked for is forgotten: %+v", s)
		}
	})
}
