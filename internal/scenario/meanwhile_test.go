//go:build !quick

package scenario

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	gosmtp "github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// slowServer is a mail server on the hub's own network that thinks about each
// message until it is told what to answer.
type slowServer struct {
	begun, answer, got chan struct{}
	mu                 sync.Mutex
	refuse             int // how many of the next answers are 451
}

// betaServer is where betaAt sends beta's mail.
const betaServer = "198.51.100.1:2525"

func betaAt(config string) string {
	return strings.NewReplacer(`deliver = "smtp:[mail.beta.example]"`, `deliver = "smtp:[198.51.100.1]:2525"`, `"198.51.100.77"`, `"198.51.100.2"`).Replace(config)
}

func serveSlowly(t *testing.T, h *testbed.Host) *slowServer {
	t.Helper()
	l, err := h.Listen("tcp", betaServer)
	must(t, err)
	s := &slowServer{begun: make(chan struct{}, 1000), answer: make(chan struct{}), got: make(chan struct{}, 1000)}
	srv := gosmtp.NewServer(gosmtp.BackendFunc(func(*gosmtp.Conn) (gosmtp.Session, error) { return slowSession{s}, nil }))
	srv.Domain = "mail.beta.example"
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return s
}

// refuses has the next answers be 451.
func (s *slowServer) refuses(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = n
}

// wait waits for n signs.
func wait(ctx context.Context, t *testing.T, what string, c chan struct{}, n int) {
	t.Helper()
	must(t, testbed.Until(ctx, what, func() (bool, error) {
		for n > 0 {
			select {
			case <-c:
				n--
			default:
				return false, nil
			}
		}
		return true, nil
	}))
}

type slowSession struct{ *slowServer }

func (slowSession) Mail(string, *gosmtp.MailOptions) error { return nil }
func (slowSession) Rcpt(string, *gosmtp.RcptOptions) error { return nil }
func (slowSession) Reset()                                 {}
func (slowSession) Logout() error                          { return nil }
func (s slowSession) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	s.begun <- struct{}{}
	<-s.answer
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse > 0 {
		s.refuse--
		return &gosmtp.SMTPError{Code: 451, Message: "later"}
	}
	s.got <- struct{}{}
	return nil
}

// A release goes on within seconds, and is told of as it is, whatever becomes of
// Postfix in the middle of it: reloaded, or its queue manager killed, when Postfix
// puts by for five minutes what its old client still delivers; or stopped.
func TestPostfixAnewMeanwhile(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: betaAt(HubConfig)})
	server := serveSlowly(t, w.HubHost)
	const n = 2
	for _, c := range []struct {
		name, command string
		killed        bool // Postfix's clients are, too
	}{
		{"reload", "postfix reload", false},
		{"queue manager killed", `for p in /proc/[0-9]*; do case $(readlink $p/exe) in */qmgr) kill -KILL ${p#/proc/};; esac; done`, false},
		{"restart", "postfix stop; postfix start", true},
	} {
		send(ctx, t, w.Online, hubName+":25", Messages(n, 0, "b@beta.example"))
		settled(ctx, t, w, "beta", "b@beta.example")
		_, err := w.Hub.Ctl(ctx, "release", "beta")
		must(t, err)
		wait(ctx, t, "the messages to be on their way", server.begun, n)
		_, err = w.HubHost.Run(ctx, "sh", "-c", c.command)
		must(t, err)
		if !c.killed {
			must(t, testbed.Until(ctx, "Postfix to put them by", func() (bool, error) {
				log, err := w.HubHost.ReadFile("/var/log/mail.log")
				return strings.Contains(string(log), "skipped, still being delivered"), err
			}))
		}
		if q, err := w.Hub.Queue(ctx, "beta"); err != nil || q.UnderWay != n {
			t.Errorf("%s: meanwhile: %+v, %v", c.name, q, err)
		}
		server.refuses(n)
		anew := time.Now()
		for range n {
			server.answer <- struct{}{}
		}
		wait(ctx, t, "the messages to be tried again", server.begun, n)
		if took := time.Since(anew); took > 2*time.Minute {
			t.Errorf("%s: they were tried again after %v", c.name, took)
		}
		server.refuses(0)
		for range n {
			server.answer <- struct{}{}
		}
		wait(ctx, t, "the messages to be taken", server.got, n)
		must(t, w.Hub.WaitQueue(ctx, "beta", 0))
		must(t, w.HubHost.WriteFile("/var/log/mail.log", nil, 0o644))
	}
}

// What an administrator requeues in the middle of a release has not gone, and goes
// under its new id.
func TestRequeuedMeanwhile(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: betaAt(HubConfig)})
	server := serveSlowly(t, w.HubHost)
	const n = 12
	send(ctx, t, w.Online, hubName+":25", Messages(n, 0, "b@beta.example"))
	settled(ctx, t, w, "beta", "b@beta.example")
	_, err := w.Hub.Ctl(ctx, "release", "beta")
	must(t, err)
	wait(ctx, t, "some messages to be on their way", server.begun, 2)
	_, err = w.HubHost.Run(ctx, "postsuper", "-r", "ALL")
	must(t, err)
	must(t, testbed.Until(ctx, "etrnd to see them in maildrop", func() (bool, error) {
		q, err := w.Hub.Queue(ctx, "beta")
		return q.Waiting == n, err
	}))
	close(server.answer)
	wait(ctx, t, "all messages to be taken", server.got, n)
	must(t, w.Hub.WaitQueue(ctx, "beta", 0))
}

// What an administrator puts on hold is told of as that, and is left alone; taken
// off again it goes while its queue is open.
func TestOnHoldMeanwhile(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: betaAt(HubConfig)})
	server := serveSlowly(t, w.HubHost)
	const n = 2
	send(ctx, t, w.Online, hubName+":25", Messages(n, 0, "b@beta.example"))
	settled(ctx, t, w, "beta", "b@beta.example")
	out := dialogue(ctx, t, w.Online, "198.51.100.1:366", "EHLO x.example", "ETRN #beta", "QUIT")
	if !strings.Contains(out, "\n253 OK, 2 pending ") {
		t.Fatalf("ETRN: %s", out)
	}
	wait(ctx, t, "the messages to be on their way", server.begun, n)
	_, err := w.HubHost.Run(ctx, "postsuper", "-h", "ALL")
	must(t, err)
	server.refuses(n)
	close(server.answer)
	var q api.Queue
	must(t, testbed.Until(ctx, "etrnd to see them on hold", func() (bool, error) {
		q, err = w.Hub.Queue(ctx, "beta")
		return q.OnHold == n, err
	}))
	if q.UnderWay+q.Failed > 0 || q.Messages != n {
		t.Errorf("on hold: %+v", q)
	}
	if out, err := w.Hub.Ctl(ctx, "queues"); err != nil || !strings.Contains(out, "2 on hold") {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := w.Hub.Ctl(ctx, "release", "beta"); err != nil || !strings.Contains(out, "beta: nothing released: 2 on hold") {
		t.Errorf("%s, %v", out, err)
	}
	_, err = w.HubHost.Run(ctx, "postsuper", "-H", "ALL")
	must(t, err)
	wait(ctx, t, "the messages to be taken", server.got, n)
	must(t, w.Hub.WaitQueue(ctx, "beta", 0))
}
