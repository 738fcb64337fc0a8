package login

import (
	"net/netip"
	"sync"

	"github.com/etrnd/etrnd/internal/users"
)

// A session of the MTA's goes on with the name that was proved at its login, and
// nobody takes it back when the user gets another password. So for each process of
// the MTA's that asks here it is remembered what its last login rests on, for as long
// as it is connected: Postfix has one connection a process, and on the port for
// logins one session a process.
type standing struct {
	mu   sync.Mutex
	open map[*session]struct{}
}

func (s *standing) add(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*session]struct{}{}
	}
	s.open[c] = struct{}{}
}

func (s *standing) remove(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// granted is what a login of the session has come to.
type granted struct {
	user   string
	client netip.Addr // invalid: not told
	grant  users.Grant
}

func (s *standing) grant(c *session, g granted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.granted = g
}

// Stands reports whether the login of a session of the MTA's still holds: the user
// is there, with the password that was shown. The session is known by the process
// that it is in, or, where that is not known (pid 0), by the client's address. known
// says that the process has its logins from here.
func (s *Server) Stands(user string, client netip.Addr, pid int) (stands, known bool) {
	s.standing.mu.Lock()
	var found []users.Grant
	for c := range s.standing.open {
		g := c.granted
		if pid != 0 && c.pid == pid {
			known = true
		} else if pid != 0 && c.pid != 0 || g.client != client {
			continue
		}
		if g.user == user && user != "" {
			found, known = append(found, g.grant), true
		}
	}
	s.standing.mu.Unlock()
	for _, g := range found {
		if s.Users.Stands(g) {
			return true, known
		}
	}
	return false, known
}
