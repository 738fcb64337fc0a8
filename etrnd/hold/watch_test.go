package hold

import (
	"context"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/queue"
)

// Postfix's programs take 1.5 s each while main.cf is new. A call wants to know
// how its queue stands, and its line is paid meanwhile.
func TestCallDoesNotWaitForListings(t *testing.T) {
	run(t, testSet(t), nil, func(t *testing.T, m *running) {
		const takes = 1500 * time.Millisecond
		m.mta.set(func() { m.mta.list = func(context.Context) error { time.Sleep(takes); return nil } })
		m.Relist()
		time.Sleep(5 * time.Second)
		defer m.Watch()()
		began := time.Now()
		defer m.Pin(queue.Selection{Queue: m.Queues().Queues()[0].Name})()
		for {
			changed := m.Changed()
			if at, _, _ := m.Listed(); !at.Before(began) {
				break
			}
			<-changed
		}
		if took := time.Since(began); took > 2*takes+time.Second {
			t.Errorf("the queue was listed after %v", took)
		}
	})
}
