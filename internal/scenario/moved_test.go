//go:build !quick

package scenario

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/testbed"
)

// taker is a site that takes whatever comes over a connection that it has turned, and
// notes for whom it was.
type taker struct {
	first chan struct{} // if set, closed when the first message is there,
	let   chan struct{} // and no message is answered before this is closed
	once  sync.Once

	mu  sync.Mutex
	got []string
}

type takerSession struct {
	*taker
	to []string
}

func (s *takerSession) Mail(string, *gosmtp.MailOptions) error { s.to = nil; return nil }
func (s *takerSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}
func (s *takerSession) Reset()        {}
func (s *takerSession) Logout() error { return nil }
func (s *takerSession) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	if s.first != nil {
		s.once.Do(func() { close(s.first) })
		<-s.let
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, s.to...)
	return err
}

// all are the recipients so far, in order.
func (k *taker) all() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(slices.Sorted(slices.Values(k.got)), " ")
}

// single is a listener with one connection.
type single struct {
	net.Listener
	conn chan net.Conn
}

func (l single) Accept() (net.Conn, error) {
	if c, ok := <-l.conn; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l single) Addr() net.Addr { return &net.TCPAddr{} }
func (l single) Close() error   { return nil }

// noted is a connection of which it is known when it is closed.
type noted struct {
	net.Conn
	closed func()
}

func (c noted) Close() error { c.closed(); return c.Conn.Close() }

// take serves a turned connection until the hub has said QUIT or is gone.
func (k *taker) take(conn net.Conn) {
	over := make(chan struct{})
	l := single{conn: make(chan net.Conn, 1)}
	l.conn <- noted{conn, sync.OnceFunc(func() { close(over) })}
	close(l.conn)
	s := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return &takerSession{taker: k}, nil }))
	s.Domain = "mail.acme.example"
	s.Serve(l)
	<-over
}

// fetch is ATRN of a user, and taking what comes.
func (k *taker) fetch(ctx context.Context, t *testing.T, w *World, user string) (answer string) {
	t.Helper()
	conn, answer := atrn(ctx, t, w.SiteHost, user, "")
	if strings.HasPrefix(answer, "250 ") {
		k.take(conn)
	}
	return answer
}

const hubMoved = `hostname = "hub.example.net"

[odmr]
listen = ["0.0.0.0:366"]
users = "/etc/etrnd/users"
cram-md5 = true

[[queue]]
name = "acme"
domains = ["acme.example", "moved.example", "dropped.example"]
deliver = "turn"
users = ["acme"]
min-interval = "0s"

[[queue]]
name = "gamma"
domains = ["gamma.example"]
deliver = "turn"
users = ["gamma"]
min-interval = "0s"
`

// Between a reload and the set-up of Postfix its tables lead where the mail went
// before: to another site's socket, for a domain that has moved, or that is nobody's
// any more, and for queues that have swapped their names. It stays at the hub until
// Postfix is set up, of which the reload tells, and comes then. What an alias makes
// another queue's address goes through all the while.
func TestMovedBeforeSetUp(t *testing.T) {
	t.Parallel()
	moved := strings.NewReplacer(`"acme.example", "moved.example", "dropped.example"`, `"acme.example"`, `"gamma.example"`, `"gamma.example", "moved.example"`).Replace(hubMoved)
	swapped := strings.NewReplacer(`name = "acme"`, `name = "gamma"`, `name = "gamma"`, `name = "acme"`).Replace(hubMoved)
	for name, c := range map[string]struct {
		config            string
		acme, gamma       string // before Postfix is set up
		allAcme, allGamma string
		left              int // for nobody
	}{
		"moved":   {moved, "a@acme.example a@acme.example", "g@gamma.example", "a@acme.example a@acme.example", "g@gamma.example m@moved.example", 1},
		"swapped": {swapped, "", "", "a@acme.example a@acme.example d@dropped.example m@moved.example", "g@gamma.example", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, w := worldATRN(t, Options{HubConfig: hubMoved, HubMain: map[string]string{"virtual_alias_maps": "inline:{ {team@gamma.example=a@acme.example} }"}})
			for _, to := range []string{"a@acme.example", "m@moved.example", "d@dropped.example", "g@gamma.example", "team@gamma.example"} {
				send(ctx, t, w.Online, hubName+":25", Messages(1, 0, to))
			}
			must(t, w.Hub.WaitQueue(ctx, "acme", 4))
			must(t, w.Hub.WaitQueue(ctx, "gamma", 1))
			must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(c.config), 0o644))
			out, err := w.Hub.Ctl(ctx, "reload")
			must(t, err)
			// Of names that were swapped Postfix has to know as well as of domains.
			if !strings.Contains(out, "Postfix is not set up for this configuration") || !strings.Contains(out, "--apply") {
				t.Errorf("reload says %q", out)
			}
			var acme, gamma taker
			// First each with the other one there, and then alone: a socket is there
			// for as long as its site is.
			var both sync.WaitGroup
			for range 2 {
				both.Go(func() { acme.fetch(ctx, t, w, "acme") })
				both.Go(func() { gamma.fetch(ctx, t, w, "gamma") })
				both.Wait()
			}
			acme.fetch(ctx, t, w, "acme")
			gamma.fetch(ctx, t, w, "gamma")
			if acme.all() != c.acme || gamma.all() != c.gamma {
				t.Errorf("before the set-up acme got %q, gamma %q", acme.all(), gamma.all())
			}
			_, err = w.Hub.Ctl(ctx, "setup", "postfix", "--apply")
			must(t, err)
			out, err = w.Hub.Ctl(ctx, "reload")
			must(t, err)
			if strings.Contains(out, "not set up") {
				t.Errorf("once it is set up reload says %q", out)
			}
			must(t, testbed.Until(ctx, "all to be where it belongs", func() (bool, error) {
				acme.fetch(ctx, t, w, "acme")
				gamma.fetch(ctx, t, w, "gamma")
				return acme.all() == c.allAcme && gamma.all() == c.allGamma, nil
			}))
			must(t, w.HubHost.WaitQueue(ctx, c.left))
		})
	}
}

// A queue is made one of the MTA's own deliveries while its site takes mail, Postfix is
// set up for that and loaded anew, and all is taken back: what Postfix had in hand goes
// with the next ATRN, at once, and each message once.
func TestFlippedInTurn(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{HubConfig: hubMoved})
	use := func(config string) {
		t.Helper()
		must(t, w.HubHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(config), 0o644))
		_, err := w.Hub.Ctl(ctx, "setup", "postfix", "--apply")
		must(t, err)
		_, err = w.Hub.Ctl(ctx, "reload")
		must(t, err)
	}
	send(ctx, t, w.Online, hubName+":25", Messages(5, 0, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 5))
	first := taker{first: make(chan struct{}), let: make(chan struct{})}
	over := make(chan string, 1)
	go func() { over <- first.fetch(ctx, t, w, "acme") }()
	wait(ctx, t, "the first message", first.first, 1)
	use(strings.Replace(hubMoved, `deliver = "turn"`, `deliver = "smtp:[198.51.100.99]"`, 1))
	close(first.let)
	if answer := <-over; !strings.HasPrefix(answer, "250 ") {
		t.Fatal(answer)
	}
	use(hubMoved)
	var second taker
	start := time.Now()
	second.fetch(ctx, t, w, "acme")
	t.Logf("the next turn took %v", time.Since(start))
	// Postfix looks again after five minutes (minimal_backoff_time), and a turn in which
	// nothing comes is given up after two.
	if took := time.Since(start); took > 100*time.Second {
		t.Errorf("the next turn took %v", took)
	}
	must(t, testbed.Until(ctx, "all to be there", func() (bool, error) {
		second.fetch(ctx, t, w, "acme")
		return len(first.got)+len(second.got) >= 5, nil
	}))
	if n := len(first.got) + len(second.got); n != 5 {
		t.Errorf("%d came, of 5", n)
	}
	must(t, w.HubHost.WaitQueue(ctx, 0))
}
