package deliver

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/users"
)

// nothing answers ETRN.
type nothing struct{}

func (nothing) Ask(context.Context, etrn.Identity, string) etrn.Answer {
	return etrn.Answer{Code: 251}
}

// From the login to QUIT: a user who is removed while his mail comes gets no more of
// it over the connection that he has.
func TestRevoked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	secret, err := users.NewSecret("secret", users.SecretOptions{Iterations: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if err := users.Edit(path, func(f *users.File) error { return f.Add("acme", secret) }); err != nil {
		t.Fatal(err)
	}
	store, err := users.Open(path, users.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, Options{})
	b.hold.add("acme", 2)
	server, err := odmr.NewServer(odmr.ServerOptions{Hostname: "hub.example.net", Asker: nothing{}, Turner: b.agent, Users: store})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	client, err := odmr.Dial(t.Context(), l.Addr().String(), odmr.ClientOptions{Auth: &odmr.Auth{User: "acme", Password: "secret"}})
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := client.Turn(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}}
	ended := make(chan error, 1)
	go func() { ended <- s.serve(conn) }()
	l1 := letter{from: "s@x.example", to: []string{"a@acme.example"}, body: lines("x", 100)}
	if codes := b.deliver("acme", l1); !slices.Equal(codes, []int{250}) {
		t.Fatalf("before: %v", codes)
	}
	if err := errors.Join(users.Edit(path, func(f *users.File) error { return f.Delete("acme") }), store.Reload()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the site's end: %v", err)
	}
	if said := s.said(); said[len(said)-1] != "QUIT" {
		t.Errorf("the last command was %q", said[len(said)-1])
	}
	until(t, "the end of the turn", func() bool { return b.agent.holder("acme") == nil })
	if n := len(s.got()); n != 1 {
		t.Errorf("%d messages came", n)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
