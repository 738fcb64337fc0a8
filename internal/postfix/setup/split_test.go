//go:build !quick

package setup

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// twoQueues are served at two ports of the host itself.
var twoQueues = Requirements{Routes: []Route{
	{Pattern: "acme.example", Deliver: "smtp:[127.0.0.1]:2501", Relay: true},
	{Pattern: "beta.example", Deliver: "smtp:[127.0.0.1]:2502", Relay: true},
}}

// markMany is the part of the milter that splitting needs: it marks what has
// more than one recipient, and takes marks off.
type markMany struct {
	gomilter.NoOpMilter
	recipients, marks int
}

func (m *markMany) MailFrom(string, string, gomilter.Modifier) (*gomilter.Response, error) {
	m.recipients, m.marks = 0, 0
	return gomilter.RespContinue, nil
}

func (m *markMany) RcptTo(string, string, gomilter.Modifier) (*gomilter.Response, error) {
	m.recipients++
	return gomilter.RespContinue, nil
}

func (m *markMany) Header(name, _ string, _ gomilter.Modifier) (*gomilter.Response, error) {
	if strings.EqualFold(name, mta.SplitHeader) {
		m.marks++
	}
	return gomilter.RespContinue, nil
}

func (m *markMany) EndOfMessage(mod gomilter.Modifier) (*gomilter.Response, error) {
	var errs []error
	for i := m.marks; i > 0; i-- {
		errs = append(errs, mod.ChangeHeader(i, mta.SplitHeader, ""))
	}
	if m.recipients > 1 {
		errs = append(errs, mod.AddHeader(mta.SplitHeader, "yes"))
	}
	return gomilter.RespAccept, errors.Join(errs...)
}

// A message for two queues becomes one file each, and a release of one leaves
// the other where it is; while the port of the split does not answer, or the
// milter is away, nothing is lost and nobody is told.
func TestSplit(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Main: map[string]string{"minimal_backoff_time": "1s", "queue_run_delay": "1000s"}}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		const where = "/var/spool/postfix/etrn-milter/milter.sock"
		if err := os.MkdirAll(filepath.Dir(where), 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", where)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(where, 0o666); err != nil {
			t.Fatal(err)
		}
		srv := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return &markMany{} }), gomilter.WithAction(gomilter.OptAddHeader|gomilter.OptChangeHeader))
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }() // ends with the server
		var once sync.Once
		away := func() { once.Do(func() { _ = srv.Close(); <-done }) }
		defer away()

		pf := postfix.New(postfix.Options{})
		req := twoQueues
		req.Milter, req.Split = "unix:"+where, "127.0.0.1:10366"
		apply(t, ctx, pf, req)

		both := postfixtest.Send(t, "a@acme.example", "b@beta.example")
		apart := func(q postfixtest.Queue) bool {
			if _, there := q[both]; there || len(q) != 2 {
				return false
			}
			for _, m := range q {
				if !postfixtest.Held(m, 1) || m.Sender != postfixtest.Sender {
					return false
				}
			}
			return true
		}
		q := postfixtest.Settled(t, ctx, pf, "two files, both held", apart)
		for id := range q {
			if text := run(t, ctx, "postcat", "-qbh", id); strings.Contains(text, mta.SplitHeader) || strings.Count(text, "Received:") != 2 {
				t.Errorf("the copy is %q", text)
			}
		}
		a := postfixtest.Listen(t, "127.0.0.1:2501")
		q = postfixtest.Released(t, ctx, pf, []string{"acme.example"}, nil, "acme served", func(q postfixtest.Queue) bool { return len(q) == 1 })
		for _, m := range q {
			if !postfixtest.Held(m, 1) || m.Recipients[0].Address != "b@beta.example" {
				t.Errorf("beta's is %+v", m)
			}
		}
		b := postfixtest.Listen(t, "127.0.0.1:2502")
		postfixtest.Released(t, ctx, pf, []string{"beta.example"}, nil, "beta served", func(q postfixtest.Queue) bool { return len(q) == 0 })
		if !slices.Equal(a.Recipients(), []string{"a@acme.example"}) || !slices.Equal(b.Recipients(), []string{"b@beta.example"}) {
			t.Errorf("acme got %q, beta %q", a.Recipients(), b.Recipients())
		}

		// The port is away: the message waits in one piece, and is taken apart
		// when the port is back. Postfix tries by itself: what is asked for by a
		// release would go out at once.
		postfixtest.Edit(t, mainCF, "queue_run_delay = 1000s", "queue_run_delay = 1s")
		mainText = strings.Replace(mainText, "queue_run_delay = 1000s", "queue_run_delay = 1s", 1)
		postfixtest.Edit(t, masterCF, "127.0.0.1:10366 inet", "#127.0.0.1:10366 inet")
		postfixtest.Edit(t, masterCF, "#127.0.0.1:10366", "127.0.0.1:10399")
		run(t, ctx, "postfix", "reload")
		if err := testbed.Until(ctx, "the port to close", func() (bool, error) {
			c, err := net.Dial("tcp", "127.0.0.1:10366")
			if err == nil {
				_ = c.Close()
			}
			return err != nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		both = postfixtest.Send(t, "c@acme.example", "d@beta.example")
		postfixtest.Settled(t, ctx, pf, "waiting", func(q postfixtest.Queue) bool { return len(q) == 1 && postfixtest.Failed(q[both], 2) })
		postfixtest.Edit(t, masterCF, "127.0.0.1:10399", "127.0.0.1:10366")
		run(t, ctx, "postfix", "reload")
		postfixtest.Settled(t, ctx, pf, "apart once the port is back", apart)

		// The milter is away: accepted at once, in one piece, and held.
		away()
		whole := postfixtest.Send(t, "e@acme.example", "f@beta.example")
		postfixtest.Settled(t, ctx, pf, "held in one piece", func(q postfixtest.Queue) bool { return postfixtest.Held(q[whole], 2) })

		run(t, ctx, "postsuper", "-d", "ALL") // what is held would keep a part of the set-up
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}

// The port of the split has to be free: by a port that it cannot have,
// Postfix's master is ended, and all mail with it.
func TestSplitPort(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Master: []string{"127.0.0.1:10367 inet n - n - - smtpd"}}, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		req := twoQueues
		req.Milter = "unix:/var/spool/postfix/etrnd/milter.sock"
		postfixtest.Listen(t, "127.0.0.1:10366")
		for split, want := range map[string]string{
			"127.0.0.1:10366": "is in use",
			"127.0.0.1:10367": "an entry 127.0.0.1:10367/inet of its own", // the user's, without our milter
			"192.0.2.1:10368": "expected an address of the loopback",
			"localhost:10368": "expected an address of the loopback",
			"127.0.0.1:0":     "expected an address of the loopback",
		} {
			req.Split = split
			if _, err := NewPlan(ctx, pf, req); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", split, err, want)
			}
		}
		// Once it is Postfix's own it is no obstacle, and can be changed.
		for _, split := range []string{"127.0.0.1:10368", "127.0.0.1:10368", "127.0.0.1:10369", ""} {
			req.Split = split
			pl := apply(t, ctx, pf, req)
			if warned := slices.Contains(pl.Warnings, splitEnds); warned != (split == "") {
				t.Errorf("%q: warnings %q", split, pl.Warnings)
			}
		}
	})
}
