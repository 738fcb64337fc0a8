package etrnd

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"
)

// mtaUser knows as which user the MTA speaks to our sockets. On those only it is
// believed: whoever says he is the MTA can ask for anybody's mail in anybody's
// name, and whoever says he delivers for it sends mail to a site.
//
// The MTA need not be there yet when the daemon starts, so it is asked when
// somebody connects, until it has been found out once.
type mtaUser struct {
	ask func(context.Context) (uid int, err error)
	log *slog.Logger

	mu    sync.Mutex
	known bool
	uid   int
	asked time.Time
}

// Questions for the MTA's user are asked while somebody waits, who may be a
// stranger who connects again and again.
const (
	ownerTimeout = 5 * time.Second
	ownerRetry   = time.Second
)

// is reports whether a user is the MTA's, or our own.
func (m *mtaUser) is(uid int) bool {
	if uid == os.Geteuid() {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known && time.Since(m.asked) >= ownerRetry {
		ctx, cancel := context.WithTimeout(context.Background(), ownerTimeout)
		defer cancel()
		owner, err := m.ask(ctx)
		if err != nil {
			m.log.Warn("cannot find out as which user the MTA runs; it is not let in", "error", err)
		}
		m.known, m.uid, m.asked = err == nil, owner, time.Now()
	}
	return m.known && uid == m.uid
}
