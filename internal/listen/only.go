package listen

import (
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// Only lets in the connections of a unix socket whose other end is root or a
// user that allow accepts, by what the kernel noted at connect(2). Others are
// closed at once, and named in the log. A directory says who reaches a socket;
// this says who is believed on it, also when somebody else can put things into
// the directory.
//
// It belongs in front of Limits: what is turned away is not counted there.
func Only(ln net.Listener, allow func(uid int) bool, log *slog.Logger) net.Listener {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &only{Listener: Resilient(ln, log), allow: allow, log: log}
}

// Users is an allow of Only for users that do not change.
func Users(uids ...int) func(uid int) bool {
	return func(uid int) bool { return slices.Contains(uids, uid) }
}

type only struct {
	net.Listener
	allow func(uid int) bool
	log   *slog.Logger

	mu      sync.Mutex
	refused int       // since the log said so
	logged  time.Time // when that was
}

// Accept waits for a connection of somebody who is let in.
func (l *only) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p, err := PeerOf(c)
		if err == nil && (p.UID == 0 || l.allow(p.UID)) {
			return c, nil
		}
		c.Close()
		l.turnedAway(p, err)
	}
}

// turnedAway says in the log who was refused: at once, and then now and then,
// since whoever tries a thousand times must not fill the disk.
func (l *only) turnedAway(p Peer, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused++
	now := time.Now()
	if now.Sub(l.logged) < logEvery {
		return
	}
	attrs := []any{"listener", l.Addr().String(), "uid", p.UID, "pid", p.PID, "refused", l.refused}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	l.log.Warn("connection refused: this user may not speak here", attrs...)
	l.refused, l.logged = 0, now
}
