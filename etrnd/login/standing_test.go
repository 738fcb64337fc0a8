package login

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/etrnd/etrnd/internal/users"
)

// What a session of the MTA's has proved holds for as long as it would be proved
// again, and as long as its process is there.
func TestStands(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	secret := func(pass string) users.Secret {
		s, err := users.NewSecret(pass, users.SecretOptions{Iterations: 4096})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var f users.File
	first := secret(password)
	write := func(s *users.Secret) {
		f = users.File{}
		if s != nil {
			if err := f.Add("acme", *s); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, bytes.Clone(f.Bytes()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(&first)
	store, err := users.Open(path, users.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := server(t)
	s.Users = store
	reload := func(with *users.Secret) {
		write(with)
		if err := store.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	client := netip.MustParseAddr("192.0.2.7")
	check := func(when string, user string, addr netip.Addr, pid int, stands, known bool) {
		t.Helper()
		if ok, k := s.Stands(user, addr, pid); ok != stands || k != known {
			t.Errorf("%s: %q from %v in process %d stands %v, known %v", when, user, addr, pid, ok, k)
		}
	}
	check("before", "acme", client, 0, false, false)
	a := connect(t, s) // a pipe, of which the process is not known
	if got := a.login(1, users.Plain, "acme", password, "\tsecured"); got != "OK\t1\tuser=acme" {
		t.Fatal(got)
	}
	check("logged in", "acme", client, 0, true, true)
	check("logged in", "acme", client, 4711, true, true)
	check("another user", "beta", client, 0, false, false)
	check("no user", "", client, 0, false, false)
	check("another client", "acme", netip.MustParseAddr("192.0.2.8"), 0, false, false)

	s.standing.mu.Lock()
	for c := range s.standing.open {
		c.pid = 17
	}
	s.standing.mu.Unlock()
	check("its process", "acme", netip.Addr{}, 17, true, true)
	check("its process, another user", "beta", client, 17, false, true)
	check("another process", "acme", client, 18, false, false)

	reload(&first)
	check("reloaded", "acme", client, 17, true, true)
	next := secret("another password")
	reload(&next)
	check("another password", "acme", client, 17, false, true)
	reload(nil)
	check("gone", "acme", client, 17, false, true)
	again := secret(password)
	reload(&again)
	check("the same password, newly set", "acme", client, 17, false, true)
	if got := a.login(2, users.ScramSHA256, "acme", password, ""); got != "OK\t2\tuser=acme" {
		t.Fatal(got)
	}
	check("logged in again", "acme", client, 17, true, true)
	a.conn.Close()
	<-a.done
	check("its process has ended", "acme", client, 17, false, false)
}
