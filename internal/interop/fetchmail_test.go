//go:build !quick

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/testbed"
)

// Exit codes of fetchmail(1) that are expected here.
const (
	fetchOK   = 0
	fetchAuth = 3

	// fetchFails stands for any but 0: in ODMR mode it says 128 of an AUTH that
	// is refused, which is none of those in its manual.
	fetchFails = -1
)

// fetchmail runs it once, as the user that Debian made for it, and returns its
// exit code and what it said.
func fetchmail(ctx context.Context, t *testing.T, h *testbed.Host, rc string) (int, string) {
	t.Helper()
	const home = "/var/lib/fetchmail"
	_, err := h.Run(ctx, "install", "-d", "-o", "fetchmail", "-m", "700", home)
	if err != nil {
		t.Fatalf("no user for fetchmail, which Debian's package makes: run make deps: %v", err)
	}
	must(t, h.WriteFile(home+"/rc", []byte(rc), 0o600))
	_, err = h.Run(ctx, "chown", "fetchmail", home+"/rc")
	must(t, err)
	cmd := h.Command(ctx, "fetchmail", "-v", "-v", "--nodetach", "--nosyslog", "-f", home+"/rc").As("fetchmail")
	cmd.Env = append(cmd.Env, "FETCHMAILHOME="+home)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
	default:
		t.Fatalf("fetchmail: %v: %s", err, &out)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// fetchmail in ETRN mode is the customer of our hub on port 366, identified by
// its address or by CRAM-MD5, and of the hub's Postfix, which asks our policy
// service. The site's MTA is a Postfix that has never heard of etrnd.
func TestFetchmailETRN(t *testing.T) {
	t.Parallel()
	ctx, p := wired(t)
	hub := ourHub(ctx, t, p.hub, hubConfig)
	stockSite(ctx, t, p.site)
	others := send(ctx, t, p.hub, 2, 1000, "b@beta.example")
	for _, c := range []struct {
		name   string
		queue  string // whose domain is asked for
		port   int
		user   bool
		waits  int // messages that wait in the queue, all of which must come
		exit   int
		answer string // of the hub
	}{
		{"by address", "acme", 366, false, 5, fetchOK, "253 OK, 5 pending messages for node acme.example started"},
		{"nothing waits", "acme", 366, false, 0, fetchOK, "251 OK, no messages waiting for node acme.example"},
		// It logs in for ETRN when it is given a name to do so.
		{"by CRAM-MD5", "user", 366, true, 5, fetchOK, "253 OK, 5 pending messages for node user.example started"},
		{"not by CRAM-MD5", "user", 366, false, 0, fetchAuth, "459 Node user.example not allowed"},
		{"another's", "beta", 366, false, 0, fetchAuth, "459 Node beta.example not allowed"},
		// Postfix's own port has but one success.
		{"Postfix", "acme", 25, false, 5, fetchOK, "250 Queuing started"},
		{"another's of Postfix", "beta", 25, false, 0, fetchAuth, "459 4.7.1 <beta.example>: Etrn command rejected: Node beta.example not allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ids := send(ctx, t, p.hub, c.waits, 2000, "a@"+c.queue+".example")
			if c.waits > 0 {
				must(t, hub.WaitQueue(ctx, c.queue, c.waits))
			}
			code, out := fetchmail(ctx, t, p.site, etrnRC(c.port, c.queue+".example", c.user))
			if code != c.exit || !strings.Contains(out, "< "+c.answer) {
				t.Errorf("exit %d, want %d and the answer %q:\n%s", code, c.exit, c.answer, out)
			}
			if c.waits > 0 {
				arrive(ctx, t, p.site, ids)
				must(t, hub.WaitQueue(ctx, c.queue, 0))
			}
		})
	}
	must(t, hub.WaitQueue(ctx, "beta", 2))
	untouched(t, p.site, others)
}

func etrnRC(port int, domain string, user bool) string {
	rc := fmt.Sprintf("poll %s protocol ETRN port %d timeout 300", hubName, port)
	if user {
		rc += fmt.Sprintf(" esmtpname acme esmtppassword %q", password)
	}
	return rc + " fetchdomains " + domain + "\n"
}
