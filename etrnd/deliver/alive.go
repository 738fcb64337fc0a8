package deliver

import (
	"context"
	"time"
)

const (
	// freshFor is how long the MTA is taken for alive after it has listed its
	// queue.
	freshFor = 5 * time.Second
	// listWait is how long a listing is waited for before ATRN is answered. One
	// that takes longer is of a large queue, which says that the MTA is alive.
	listWait = 3 * time.Second
)

// mtaAnswers tells whether the MTA could let mail go now, as far as its listing
// tells: a site that hears 250 keeps its line for what can never come while the
// MTA is stopped.
func (a *Agent) mtaAnswers(ctx context.Context) bool {
	h, asked := a.o.Hold, time.Now()
	if at, _, err := h.Listed(); err == nil && asked.Sub(at) < freshFor {
		return true
	}
	h.Relist()
	timeout := time.NewTimer(listWait)
	defer timeout.Stop()
	_, _, before := h.Listed()
	for {
		changed := h.Changed()
		at, _, err := h.Listed()
		switch {
		case err == nil && !at.Before(asked):
			return true
		case err != nil && before == nil:
			return false
		}
		select {
		case <-changed:
		case <-timeout.C:
			return err == nil
		case <-ctx.Done():
			return err == nil
		}
	}
}
