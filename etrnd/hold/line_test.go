package hold

import (
	"fmt"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// What is asked for over a thin line goes as the line carries it: a message more
// at a time would only wait behind the others, until the MTA takes the site for
// dead. A line that has been taken for thin by mistake shows so.
func TestAskedOverAThinLine(t *testing.T) {
	owner := etrn.Identity{User: "acme", AtATime: 2}
	for _, c := range []struct {
		name  string
		takes time.Duration // each message
		peak  int
		all   bool // has gone after ten minutes
	}{
		{"thin", 40 * time.Second, 2, false},
		{"not so thin", 10 * time.Millisecond, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, testSet(t), heldFor(300, "a@acme.example"), func(t *testing.T, m *running) {
				m.mta.set(func() { m.mta.takes = c.takes })
				if a := m.Ask(t.Context(), owner, "#acme"); a.Code != 253 || a.Count != 300 {
					t.Fatalf("answer %+v", a)
				}
				time.Sleep(10 * time.Minute)
				s := m.must(t, "acme")
				if c.peak > 0 && m.mta.peak() != c.peak {
					t.Errorf("%d tried at one time, want %d", m.mta.peak(), c.peak)
				}
				if s.Left.Messages < 20 || c.all != (s.Messages == 0) {
					t.Errorf("in ten minutes: %+v", s)
				}
				if c.all {
					return
				}
				// The site comes again, by another line.
				time.Sleep(10 * time.Second)
				m.Ask(t.Context(), etrn.Identity{User: "acme"}, "#acme")
				time.Sleep(time.Minute)
				if m.mta.peak() <= c.peak {
					t.Errorf("%d tried at one time over another line", m.mta.peak())
				}
			})
		})
	}
}

// Mail that comes while the queue is still open goes by the line that was seen
// last, before the site has asked again.
func TestLineStaysThin(t *testing.T) {
	run(t, testSet(t), heldFor(1, "a@acme.example"), func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.takes = 40 * time.Second })
		defer m.Pin(queue.Selection{Queue: "acme"})()
		m.Ask(t.Context(), etrn.Identity{User: "acme", AtATime: 2}, "#acme")
		time.Sleep(2 * time.Minute)
		if s := m.must(t, "acme"); s.Messages != 0 {
			t.Fatalf("the first has not gone: %+v", s)
		}
		for i := range 8 {
			m.mta.add(msg(fmt.Sprintf("L%d", i), "deferred", mta.ReasonHeld, "a@acme.example"))
		}
		time.Sleep(3 * time.Minute)
		if s := m.must(t, "acme"); s.Messages == 8 || m.mta.peak() > 2 {
			t.Errorf("%d tried at one time: %+v", m.mta.peak(), s)
		}
	})
}
