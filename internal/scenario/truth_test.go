//go:build !quick

package scenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// setPostfix changes main.cf of a host and has Postfix read it.
func setPostfix(ctx context.Context, t *testing.T, h *testbed.Host, settings ...string) {
	t.Helper()
	_, err := h.Run(ctx, append([]string{"postconf", "-e"}, settings...)...)
	must(t, err)
	_, err = h.Run(ctx, "postfix", "reload")
	must(t, err)
}

// callAndSay calls the hub, and returns what etrnctl says and the result.
func callAndSay(ctx context.Context, t *testing.T, w *World, n int) (string, api.CallResult) {
	t.Helper()
	text, _ := w.Site.Ctl(ctx, "call", "hub", "--wait")
	return text, waitCalls(ctx, t, w, n)[0]
}

// keeps checks that the hub still has its mail, and that none was returned.
func keeps(ctx context.Context, t *testing.T, w *World, n int) {
	t.Helper()
	must(t, w.Hub.WaitQueue(ctx, "acme", n))
	log, err := w.HubHost.ReadFile("/var/log/mail.log")
	must(t, err)
	if strings.Contains(string(log), "status=bounced") {
		t.Errorf("mail was returned:\n%s", log)
	}
}

// A call says what the site's own mail server refuses. What concerns the gate, or
// is for a time only, returns no mail to its sender, whether it is known before
// there is a line or turns up at the end of a message.
func TestRefusedHere(t *testing.T) {
	t.Parallel()
	ctx, w := worldTurn(t, Options{SiteConfig: strings.NewReplacer("pull-push", "pull-only", "push = [\"*\"]\n", "").Replace(siteATRN(`protocol = "atrn"`, withUser))})
	send(ctx, t, w.Online, hubName+":25", Messages(2, 1000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 2))
	calls := 0
	for _, c := range []struct {
		name     string
		settings []string
		exit     int
		says     string
		line     bool // was used
		refused  int
	}{
		{
			"a client without a name", []string{"mynetworks=127.0.0.1/32", "smtpd_client_restrictions=reject_unknown_client_hostname", "unknown_client_reject_code=550"},
			api.ExitUnavailable, "Client host rejected: cannot find your hostname", false, 0,
		},
		{
			"a client on a list, said late", []string{"smtpd_client_restrictions=", "smtpd_data_restrictions=check_client_access inline:{127.0.3.66=REJECT}"},
			api.ExitUnavailable, "Client host rejected: Access denied", true, 2,
		},
		{"no room", []string{"smtpd_data_restrictions=", "queue_minfree=900000000000000"}, api.ExitTempFail, "452 4.3.1 Insufficient system storage", false, 0},
		{"no time, said late", []string{"queue_minfree=0", "smtpd_end_of_data_restrictions=defer"}, api.ExitTempFail, "End-of-data rejected", true, 2},
	} {
		setPostfix(ctx, t, w.SiteHost, c.settings...)
		text, r := callAndSay(ctx, t, w, calls+1)
		calls++
		if r.Exit != c.exit || !strings.Contains(r.Error, c.says) || (r.Line > 0) != c.line || r.In.Messages != 0 {
			t.Errorf("%s: %+v\n%s", c.name, r, text)
		}
		if c.refused > 0 && (r.Refused == nil || r.Refused.Messages != c.refused || !strings.Contains(r.Refused.Reply, c.says)) {
			t.Errorf("%s: refused %+v, want %d messages, %q", c.name, r.Refused, c.refused, c.says)
		}
		keeps(ctx, t, w, 2)
	}
	setPostfix(ctx, t, w.SiteHost, "smtpd_end_of_data_restrictions=")
	if text, r := callAndSay(ctx, t, w, calls+1); r.Exit != 0 || r.In.Messages != 2 || r.Refused != nil {
		t.Errorf("in the end: %+v\n%s", r, text)
	}
}

// With its Postfix stopped the hub has nothing to give, and says so: the line is
// not kept for it.
func TestHubStopped(t *testing.T) {
	t.Parallel()
	ctx, w := worldTurn(t, Options{SiteConfig: patiently(siteATRN(`protocol = "atrn"`, withUser))})
	send(ctx, t, w.Online, hubName+":25", Messages(2, 1000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 2))
	_, err := w.HubHost.Run(ctx, "postfix", "stop")
	must(t, err)
	if text, r := callAndSay(ctx, t, w, 1); r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "451") {
		t.Errorf("result %+v\n%s", r, text)
	}
}

// The hub finds the site's door closed when the line comes up: it is asked again.
func TestDoorOpensLate(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{SiteConfig: siteConfig("router-type = \"pull-only\"\nrequest = [\"acme.example\"]\nwait = \"5m\"\n")})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(3, 1000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 3))
	restart := func(interfaces string) {
		_, err := w.SiteHost.Run(ctx, "sh", "-c", "postconf -e inet_interfaces="+interfaces+" && postfix stop && postfix start")
		must(t, err)
	}
	restart("127.0.0.1")
	must(t, w.Line.Connect(ctx))
	must(t, testbed.Until(ctx, "the hub to be refused", func() (bool, error) {
		log, err := w.HubHost.ReadFile("/var/log/mail.log")
		return strings.Contains(string(log), "Connection refused"), err
	}))
	restart("all")
	delivered(ctx, t, w.SiteHost, ids)
	if r := waitCalls(ctx, t, w, 1)[0]; r.Exit != 0 || r.In.Messages != 3 {
		t.Errorf("result %+v", r)
	}
}

// One message to a thousand: it comes in twenty parts, over a line on which the
// gaps between them are long. The count of the hub, 1, is right all the time.
func TestThousandRecipients(t *testing.T) {
	t.Parallel()
	ctx, w := world(t, Options{Shape: testbed.Shape{RTT: 600 * time.Millisecond, Rate: 256e3}})
	const n = 1000
	var to []string
	for i := range n {
		to = append(to, fmt.Sprintf("r%d@acme.example", i))
	}
	send(ctx, t, w.Online, hubName+":25", []testbed.Message{{To: to, Size: 1000}})
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	text, r := callAndSay(ctx, t, w, 1)
	t.Log(text)
	must(t, w.SiteHost.WaitQueue(ctx, 0))
	all, err := w.SiteHost.Delivered()
	must(t, err)
	if r.Exit != 0 || r.In.Messages != 1 || len(all) != n {
		t.Errorf("%d of %d were delivered when the line was hung up: %+v", len(all), n, r)
	}
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
}

// A site whose mail server does not take the mail that it has the hub send (ETRN): a
// name that is known to be refused is not asked for, what comes all the same is
// waited for no further, and the result names it. As soon as the mail server takes
// it, so does a call, without a reload.
func TestRefusedByThePort(t *testing.T) {
	t.Parallel()
	config := func(request string) string {
		return siteConfig("router-type = \"pull-only\"\nrequest = [" + request + "]\nrequest-timeout = \"2m\"\nwait = \"20m\"\n")
	}
	ctx, w := world(t, Options{SiteConfig: config(`"acme.example"`)})
	const n = 8
	ids := send(ctx, t, w.Online, hubName+":25", Messages(n, 1000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", n))
	setPostfix(ctx, t, w.SiteHost, "virtual_mailbox_domains=other.example", "smtpd_relay_restrictions=permit_mynetworks, reject_unauth_destination")
	must(t, w.SiteHost.WriteFile("/etc/etrnd/etrnd.toml", []byte(config(`"acme.example", "@acme.example", "#acme"`)), 0o644))
	check, _ := w.Site.Ctl(ctx, "check")
	if want := "Postfix does not take mail for acme.example: it is none of its own domains"; !strings.Contains(check, want) {
		t.Errorf("check says nothing of it:\n%s", check)
	}
	calls := 0
	refused := func(name string) (string, api.CallResult) {
		t.Helper()
		text, r := callAndSay(ctx, t, w, calls+1)
		calls++
		t.Logf("%s: %s", name, text)
		if r.Exit != api.ExitUnavailable || r.In.Messages != 0 || time.Duration(r.Line) > 10*time.Minute {
			t.Errorf("%s: %+v", name, r)
		}
		return text, r
	}
	// Postfix would return it all; not one is asked for.
	if text, r := refused("known before"); !strings.Contains(r.Error, "refuses mail for acme.example") || len(r.Unasked) != 1 || len(r.Replies) != 0 || !strings.Contains(text, "not asked for acme.example") {
		t.Errorf("known before: %+v\n%s", r, text)
	}
	keeps(ctx, t, w, n)
	// Only the hub knows what is in a queue of its own. Here nothing is returned.
	setPostfix(ctx, t, w.SiteHost, "smtpd_relay_restrictions=permit_mynetworks, defer_unauth_destination")
	_, err := w.Site.Ctl(ctx, "reload")
	must(t, err)
	text, r := refused("seen while it happens")
	if r.Refused == nil || r.Refused.Messages == 0 || !strings.Contains(r.Refused.Reply, "Relay access denied") || len(r.Refused.Domains) != 1 || r.Refused.Domains[0] != "acme.example" {
		t.Errorf("seen while it happens: refused %+v\n%s", r.Refused, text)
	}
	for _, y := range r.Replies {
		if y.Name == "acme.example" {
			t.Errorf("it was asked for: %+v", r.Replies)
		}
	}
	keeps(ctx, t, w, n)
	setPostfix(ctx, t, w.SiteHost, "virtual_mailbox_domains=acme.example")
	must(t, testbed.Until(ctx, "a call that asks for it", func() (bool, error) {
		text, r := callAndSay(ctx, t, w, calls+1)
		calls++
		t.Log(text)
		return r.Exit == 0 && len(r.Unasked) == 0, nil
	}))
	delivered(ctx, t, w.SiteHost, ids)
}
