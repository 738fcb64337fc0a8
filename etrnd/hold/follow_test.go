package hold

import (
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// Somebody pushes a queue, one message at a time, and the configuration changes while
// the first one is in the MTA's hand. He learns what has gone, and what is not his to
// send any more; what is in hand is his to the end.
func TestFollow(t *testing.T) {
	was := map[string][]string{"out": {"*"}}
	for name, c := range map[string]struct {
		is    map[string][]string
		fails string // of what the MTA has in hand

		gone       bool
		held, away int // at the end
		left       int
		flushes    int
	}{
		"nothing has changed":          {was, "", false, 0, 0, 3, 3},
		"renamed":                      {map[string][]string{"shore": {"*"}}, "", false, 0, 0, 3, 3},
		"taken out":                    {map[string][]string{"beta": {"beta.example"}}, "", true, 0, 2, 1, 1},
		"another's, whom nobody knows": {map[string][]string{"out": {"beta.example"}, "b": {"a.example"}}, "", false, 0, 2, 1, 1},
		"narrowed":                     {map[string][]string{"out": {"beta.example"}}, "", false, 0, 2, 1, 1},
		"narrowed, and the first fails": {
			map[string][]string{"out": {"beta.example"}}, "host down", false, 0, 3, 0, 1,
		},
		"taken out of the MTA, too": {map[string][]string{}, mta.ReasonNobody, true, 0, 3, 0, 1},
		"and as it waited before":   {map[string][]string{}, mta.ReasonHeld, true, 0, 3, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var held []mta.Message
			for i := range 3 {
				held = append(held, msg(number(i), "deferred", mta.ReasonHeld, "a@a.example"))
			}
			run(t, setOf(t, was), held, func(t *testing.T, m *running) {
				m.mta.set(func() {
					m.mta.takes = 10 * time.Second
					m.mta.fails = func(string, int, string) string { return c.fails }
				})
				states, stop := m.Follow("out")
				undo := m.Limit("out", 1)
				unpin := m.Pin(queue.Selection{Queue: "out"})
				time.Sleep(2 * time.Second)
				m.SetQueues(setOf(t, c.is))
				time.Sleep(5 * time.Second)
				if s := states()[0]; s.UnderWay == 0 {
					t.Errorf("nothing is under way: %+v", s)
				}
				time.Sleep(2 * time.Minute)
				s := states()[0]
				if s.Gone != c.gone || s.Messages != c.held || s.Away.Messages != c.away || s.Left.Messages != c.left || s.UnderWay != 0 {
					t.Errorf("%+v", s)
				}
				if n := len(m.mta.times()); n != c.flushes {
					t.Errorf("%d flushes, want %d", n, c.flushes)
				}
				unpin()
				undo()
				stop()
				if s := states()[0]; s.Away.Messages != 0 || s.Messages == 0 && c.gone && s.Queue != "out" {
					t.Errorf("afterwards: %+v", s)
				}
				for _, q := range m.index.queues {
					if len(q.flow.limits) > 0 {
						t.Errorf("queue %s has a limit still", q.name)
					}
				}
			})
		})
	}
}

// What comes back into a queue that has lost it is away no more, and what goes into
// another that somebody follows is not.
func TestFollowBack(t *testing.T) {
	was, less := map[string][]string{"out": {"*"}}, map[string][]string{"out": {"beta.example"}}
	run(t, setOf(t, was), []mta.Message{msg("A", "deferred", mta.ReasonHeld, "a@a.example")}, func(t *testing.T, m *running) {
		states, stop := m.Follow("out", "north")
		defer stop()
		for i, c := range []struct {
			is         map[string][]string
			held, away int
			other      int
		}{{less, 0, 1, 0}, {was, 1, 0, 0}, {map[string][]string{"out": {"beta.example"}, "north": {"a.example"}}, 0, 0, 1}} {
			m.SetQueues(setOf(t, c.is))
			m.Sorted(t.Context())
			time.Sleep(time.Second)
			if s := states(); s[0].Messages != c.held || s[0].Away.Messages != c.away || s[1].Messages != c.other {
				t.Errorf("%d: %+v", i, s)
			}
		}
	})
}

// Mail that the MTA is not set up to hold for its queue any more, of which the Manager
// has not heard yet, is tried once, and not again and again.
func TestAstray(t *testing.T) {
	var held []mta.Message
	for i := range 5 {
		held = append(held, msg(number(i), "deferred", mta.ReasonHeld, "a@acme.example"))
	}
	run(t, testSet(t), held, func(t *testing.T, m *running) {
		m.mta.set(func() { m.mta.fails = func(string, int, string) string { return mta.ReasonNobody } })
		unpin := m.Pin(queue.Selection{Queue: "acme"})
		defer unpin()
		time.Sleep(10 * time.Second)
		if s, _ := m.State("acme"); s.Failed != 5 || s.Retry != 0 || s.UnderWay != 0 || s.Reason != mta.ReasonNobody {
			t.Errorf("%+v", s)
		}
		for i := range 5 {
			if n := m.mta.moved[number(i)]; n != 1 {
				t.Errorf("%s was tried %d times", number(i), n)
			}
		}
	})
}
