package call

import (
	"time"

	"github.com/etrnd/etrnd/internal/report"
)

// seen remembers messages for a while, to tell one that comes a second time:
// when a line is cut between our 250 and its arrival, the other side has to
// send the message again, and nothing in SMTP can tell it not to (RFC 5321,
// section 4.5.3.2.6 and RFC 1047).
type seen struct {
	at map[string]time.Time
}

const (
	seenFor = 48 * time.Hour
	seenMax = 50000
)

// before reports whether a message with the same Message-ID for the same
// recipients has come before, and remembers this one.
func (s *seen) before(ev report.Event, now time.Time) bool {
	key := ev.Digest
	if key == "" {
		return false
	}
	if s.at == nil {
		s.at = map[string]time.Time{}
	}
	last, ok := s.at[key]
	if len(s.at) >= seenMax {
		for k, at := range s.at {
			if now.Sub(at) > seenFor {
				delete(s.at, k)
			}
		}
		if len(s.at) >= seenMax {
			clear(s.at)
		}
	}
	s.at[key] = now
	return ok && now.Sub(last) < seenFor
}
