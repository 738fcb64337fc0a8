package hold

import (
	"context"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
)

// The milter tells of most mail as it comes, but not of all: an alias may lead
// into a queue, the MTA sends notices of its own, a session may have begun
// before the milter did. So nobody is told "nothing" by the index alone. Either
// the queue's stamp says that nothing has entered it since the last listing, which
// costs next to nothing, or a listing is waited for. Whoever asks while one is
// under way, or about to be, shares it; how often there is one is bounded by what
// the last one cost, and not by how often somebody asks.

// sight is how old the knowledge of the index is.
type sight struct {
	running bool // somebody lists
	waiting int  // who wait for a listing
	ended   chan struct{}

	on    bool      // a listing is being read
	began time.Time // that one
	stamp mta.Stamp
	last  mta.Stamp // as the last good listing began

	glanceAt time.Time // when to look at the stamp next
}

const (
	// lookTimeout bounds the wait for a listing. Whoever waits longer for the
	// answer to ETRN hears that there may be something.
	lookTimeout = 15 * time.Second
	// lookPause is how long the MTA is spared after a listing, in proportion to
	// it, when somebody waits: a quarter of the time goes into listings then.
	lookPause = 3
	// glanceEvery is how often the stamp is looked at.
	glanceEvery = 5 * time.Second
	// glancePause is lookPause for mail of which nobody has told, and for which
	// nobody waits; idlePause is for when nothing has come in, and stillPause
	// for when nothing at all has moved. What a stamp does not show is mail that
	// is deleted, or expires: it is found then.
	glancePause, idlePause, stillPause = 49, 200, 1000
	// longestPause bounds them.
	longestPause = time.Hour
)

func newSight() sight { return sight{ended: make(chan struct{})} }

func (s *sight) begin(at time.Time, stamp mta.Stamp) { s.on, s.began, s.stamp = true, at, stamp }

func (s *sight) end() {
	s.on = false
	close(s.ended)
	s.ended = make(chan struct{})
}

// looking notes that listings are made, or are no longer.
func (m *Manager) looking(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sight.running = on; !on {
		m.sight.end()
	}
}

// Look waits until the index is as new as the question, and reports whether it
// is. It waits for a listing at most, and not for longer than some seconds.
func (m *Manager) Look(ctx context.Context) bool { return m.look(ctx, time.Now(), true) }

// look waits until the index is as new as a moment. A stamp will do if it may.
func (m *Manager) look(ctx context.Context, asked time.Time, cheap bool) bool {
	m.mu.Lock()
	running := m.sight.running
	m.mu.Unlock()
	if !running {
		return true // what is known is all that there will be
	}
	var stamp mta.Stamp
	if cheap {
		stamp = m.mta.Stamp(ctx)
	}
	timeout := time.NewTimer(lookTimeout)
	defer timeout.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sight.waiting++
	defer func() { m.sight.waiting-- }()
	for m.sight.running {
		s := &m.sight
		switch {
		case m.listErr != nil && !m.listEnded.Before(asked):
			return false
		case m.listErr == nil && !m.listed.IsZero() && (!m.listed.Before(asked) || s.last.NothingEntered(stamp)):
			return true
		case s.on && (!s.began.Before(asked) || s.stamp.NothingEntered(stamp)):
			// That one will do.
		case s.on:
			// The next one, when this one has ended.
		default:
			m.listAfterLocked(time.Time{}, lookPause*m.listTook)
			m.pokeLocked()
		}
		ended := s.ended
		m.mu.Unlock()
		stop := false
		select {
		case <-ended:
		case <-timeout.C:
			stop = true
		case <-ctx.Done():
			stop = true
		}
		m.mu.Lock()
		if stop {
			return false
		}
	}
	return false
}

// glance looks at the stamp from time to time: it shows mail of which nobody has
// told, and whether a listing is worth its while.
func (m *Manager) glance(ctx context.Context) {
	now := time.Now()
	m.mu.Lock()
	due := !now.Before(m.sight.glanceAt) || !now.Before(m.listAt)
	m.mu.Unlock()
	if !due {
		return
	}
	stamp := m.mta.Stamp(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.sight
	cadence := m.cadenceLocked(now)
	s.glanceAt = now.Add(min(glanceEvery, cadence))
	if stamp.Entered == 0 || m.listed.IsZero() || m.listErr != nil {
		s.glanceAt = now.Add(glanceEvery)
		return
	}
	if stamp.Entered != s.last.Entered {
		if len(m.open) > 0 { // it may be for one of these
			m.listByLocked(now)
		} else {
			m.listAfterLocked(now, m.spareLocked(glancePause))
		}
		return
	}
	if !s.last.NothingEntered(stamp) || now.Before(m.listAt) || m.listAt.IsZero() || s.waiting > 0 || m.expectsLocked() {
		return
	}
	// It is time for a listing that nobody has asked for, and the index is right
	// as far as can be seen.
	pause := idlePause
	if s.last.NothingMoved(stamp) {
		pause = stillPause
	}
	if next := m.listEnded.Add(max(m.reconcile, m.spareLocked(pause))); next.After(now) {
		m.listAt = next
	}
}

// expectsLocked reports whether something is expected that a stamp does not show,
// or somebody wants to know more than that nothing has come in.
func (m *Manager) expectsLocked() bool {
	for q := range m.open {
		if q.window.pinned() {
			return true
		}
	}
	return m.watchers > 0 || m.index.underWay > 0 || m.index.missing > 0 || m.index.unlisted > 0
}

// spareLocked is how long the MTA is spared after a listing.
func (m *Manager) spareLocked(pause int) time.Duration {
	return min(time.Duration(pause)*m.listTook, longestPause)
}

func (m *Manager) pokeLocked() {
	select {
	case m.poke <- struct{}{}:
	default:
	}
}
