//go:build !quick

package scenario

import (
	"os"
	"strings"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/testbed"
)

// Nobody hears that nothing waits when something does of which the milter could
// not know: an alias leads into the queue, and etrnd does not look by itself.
func TestNoIsTrue(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: unlooked(HubConfig)})
	must(t, w.HubHost.WriteFile("/etc/postfix/virtual", []byte("info@hub.example.net a@acme.example\n"), 0o644))
	must(t, w.HubMTA.Set(ctx, map[string]string{"virtual_alias_maps": "texthash:/etc/postfix/virtual"}))
	must(t, w.HubMTA.Reload(ctx))
	must(t, w.Line.Up(ctx))
	for _, name := range []string{"acme.example", "@acme.example", "#acme"} {
		ids := send(ctx, t, w.Online, hubName+":25", Messages(1, 0, "info@hub.example.net"))
		must(t, testbed.Until(ctx, "the message to be held", func() (bool, error) {
			q, err := w.HubHost.Queue(ctx)
			return len(q) == 1 && q[0].Queue == "deferred", err
		}))
		out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "ETRN "+name, "QUIT")
		if !strings.Contains(out, "\n253 OK, 1 pending ") {
			t.Fatalf("ETRN: %s", out)
		}
		delivered(ctx, t, w.SiteHost, ids)
		must(t, w.Hub.WaitQueue(ctx, "acme", 0))
	}
	out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "ETRN none.acme.example", "QUIT")
	if !strings.Contains(out, "\n251 ") {
		t.Errorf("ETRN when there is nothing: %s", out)
	}
}

// The milter tags and tells of mail of a queue of "*" that is delivered over
// turned connections.
func TestEverythingTurned(t *testing.T) {
	t.Parallel()
	config := unlooked(`hostname = "hub.example.net"

[odmr]
listen = ["0.0.0.0:366"]

[[queue]]
name = "all"
domains = ["*"]
deliver = "turn"
clients = ["192.0.2.2"]
`)
	ctx, w := world(t, Options{HubConfig: config})
	send(ctx, t, w.HubHost, "127.0.0.1:25", Messages(2, 0, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "all", 2))
	log, err := w.HubHost.ReadFile("/var/log/etrn-milter.log")
	must(t, err)
	if n := strings.Count(string(log), "queues=[all]"); n != 2 {
		t.Errorf("%d messages were tagged:\n%s", n, log)
	}
}

// A site with more mail than Postfix has places for, and that never answers,
// keeps nobody else waiting.
func TestStuckSiteAlone(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: strings.Replace(HubConfig, `deliver = "smtp:[mail.beta.example]"`, `deliver = "smtp:[198.51.100.1]:2525"`, 1)})
	must(t, w.HubMTA.Set(ctx, map[string]string{"qmgr_message_active_limit": "60", "qmgr_message_recipient_limit": "60"}))
	must(t, w.HubMTA.Reload(ctx))
	_, err := w.Hub.Ctl(ctx, "reload")
	must(t, err)
	silent, err := w.HubHost.Listen("tcp", "198.51.100.1:2525")
	must(t, err)
	defer silent.Close() // it accepts, and says nothing
	send(ctx, t, w.Online, hubName+":25", Messages(200, 0, "b@beta.example"))
	ids := send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "a@acme.example"))
	settled(ctx, t, w, "beta", "b@beta.example")
	settled(ctx, t, w, "acme", "a@acme.example")
	if _, err := w.Hub.Ctl(ctx, "release", "beta"); err != nil {
		t.Fatal(err)
	}
	must(t, testbed.Until(ctx, "beta's messages to be with Postfix", func() (bool, error) {
		q, err := w.Hub.Queue(ctx, "beta")
		return q.UnderWay == 200 && q.UnderWay-q.Waiting >= 10, err
	}))
	must(t, w.Line.Up(ctx))
	out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "ETRN #acme", "QUIT")
	if !strings.Contains(out, "\n253 OK, 3 pending ") {
		t.Fatalf("ETRN: %s", out)
	}
	asked := time.Now()
	delivered(ctx, t, w.SiteHost, ids)
	// Postfix gives a server five minutes to say something.
	if took := time.Since(asked); took > 4*time.Minute {
		t.Errorf("the mail came after %v", took)
	}
	q, err := w.Hub.Queue(ctx, "beta")
	must(t, err)
	if q.Messages != 200 || q.UnderWay-q.Waiting > 30 {
		t.Errorf("beta: %+v", q)
	}
}

// refuser is a milter that lets nothing pass, when all has been seen.
type refuser struct{ gomilter.NoOpMilter }

func (refuser) EndOfMessage(gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespTempFail, nil
}

// What a milter behind ours refuses is promised to nobody.
func TestRefusedBehindUs(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{HubConfig: unlooked(HubConfig)})
	const socket = "/var/spool/postfix/refuser.sock"
	ln, err := w.HubHost.Listen("unix", socket)
	must(t, err)
	must(t, os.Chmod(w.HubHost.Path(socket), 0o666))
	srv := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return refuser{} }))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	defer func() { _ = srv.Close(); <-done }()
	ours, err := w.HubHost.Run(ctx, "postconf", "-h", "smtpd_milters")
	must(t, err)
	must(t, w.HubMTA.Set(ctx, map[string]string{"smtpd_milters": strings.TrimSpace(ours) + ", unix:refuser.sock"}))
	must(t, w.HubMTA.Reload(ctx))
	must(t, w.Line.Up(ctx))
	for _, name := range []string{"acme.example", "@acme.example", "#acme"} {
		for range 3 {
			if ids, err := w.Online.SendMany(ctx, hubName+":25", Messages(1, 0, "a@acme.example")); err == nil {
				t.Fatalf("the milter let %v pass", ids)
			}
		}
		out := dialogue(ctx, t, w.SiteHost, hubLine+":366", "EHLO x.example", "ETRN "+name, "QUIT")
		if !strings.Contains(out, "\n251 ") {
			t.Errorf("ETRN %s: %s", name, out)
		}
	}
	log, err := w.HubHost.ReadFile("/var/log/etrn-milter.log")
	must(t, err)
	if n := strings.Count(string(log), "queues=[acme]"); n != 9 {
		t.Errorf("our milter saw %d messages", n)
	}
}
