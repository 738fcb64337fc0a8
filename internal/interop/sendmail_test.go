//go:build !quick

package interop

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// sendmailConfig is a Sendmail in its m4. SMTP is called expensive, and what is
// expensive waits for a queue run, which is what an ETRN starts: cf/README says
// so of links that are dialled. How busy the machine is with other tests is not
// its concern: as it comes, it would put off large messages, and refuse
// connections. %[1]s is the host's name, %[2]s are further lines.
const sendmailConfig = "divert(0)dnl\n" +
	"OSTYPE(`linux')dnl\n" +
	"define(`confDOMAIN_NAME', `%[1]s')dnl\n" +
	"define(`confDEF_USER_ID', `vmail:vmail')dnl\n" +
	"define(`confSERVICE_SWITCH_FILE', `/etc/mail/service.switch')dnl\n" +
	"define(`confTO_IDENT', `0s')dnl\n" +
	"define(`confQUEUE_LA', `10000')dnl\n" +
	"define(`confREFUSE_LA', `10000')dnl\n" +
	"define(`confCON_EXPENSIVE', `True')dnl\n" +
	"define(`SMTP_MAILER_FLAGS', `e')dnl\n" +
	"define(`QUEUE_DIR', `/var/spool/mqueue')dnl\n" +
	"define(`STATUS_FILE', `/var/lib/sendmail.st')dnl\n" +
	"define(`ALIAS_FILE', `')dnl\n" +
	"FEATURE(`nocanonify')dnl\n" +
	"FEATURE(`accept_unresolvable_domains')dnl\n" +
	"FEATURE(`mailertable')dnl\n" +
	"FEATURE(`access_db')dnl\n" +
	"%[2]s\n" +
	"MAILER(`local')dnl\n" +
	"MAILER(`smtp')dnl\n" +
	"MAILER_DEFINITIONS\n" +
	"Mmaildir, P=/usr/local/bin/maildir, F=lsDFMn, U=vmail:vmail, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, T=DNS/RFC822/X-Unix,\n" +
	"\tA=maildir $u\n"

// maildirScript puts the message on its standard input where testbed looks for
// it.
const maildirScript = `#!/bin/sh
set -e
cd /var/mail/final
file=$(mktemp tmp/XXXXXXXXXX)
{ echo "X-Original-To: $1"; cat; } >"$file"
mv "$file" new/
`

// sendmail starts the Sendmail that packaging/get-mtas has unpacked, and
// returns when SMTP answers. Mail for final ends in a Maildir; mail for held
// goes to the site. It runs no queue of its own accord.
func sendmail(ctx context.Context, t *testing.T, h *testbed.Host, final, held []string, more ...string) {
	t.Helper()
	root := mtas(t)
	cf := filepath.Join(root, "usr/share/sendmail/cf")
	m4 := exec.CommandContext(ctx, "m4", "-D_CF_DIR_="+cf+"/", filepath.Join(cf, "m4/cf.m4"), "-")
	m4.Stdin = strings.NewReader(fmt.Sprintf(sendmailConfig, h.Hostname, strings.Join(more, "\n")))
	text, err := m4.Output()
	if err != nil {
		t.Fatalf("m4, which makes a sendmail.cf (run make deps): %v", err)
	}
	for name, path := range map[string]string{"sendmail": "/usr/local/sbin/sendmail", "makemap": "/usr/local/sbin/makemap"} {
		must(t, h.Install(filepath.Join(root, "usr/libexec/sendmail", name), path, 0o755))
	}
	var table, access strings.Builder
	for _, domain := range final {
		fmt.Fprintf(&table, "%s\tmaildir:%s\n", domain, h.Hostname)
		fmt.Fprintf(&access, "To:%s\tRELAY\n", domain)
	}
	for _, domain := range held {
		fmt.Fprintf(&table, "%s\tesmtp:[mail.acme.example]\n", domain)
		fmt.Fprintf(&access, "To:%s\tRELAY\n", domain)
	}
	for path, data := range map[string]string{
		"/etc/mail/sendmail.cf":      string(text),
		"/etc/mail/mailertable":      table.String(),
		"/etc/mail/access":           access.String(),
		"/etc/mail/service.switch":   "hosts\tfiles\naliases\tfiles\n",
		"/etc/mail/local-host-names": "",
	} {
		must(t, h.WriteFile(path, []byte(data), 0o644))
	}
	must(t, h.WriteFile("/usr/local/bin/maildir", []byte(maildirScript), 0o755))
	account(t, h, "smmsp", 64371, "/var/lib/sendmail")
	_, err = h.Run(ctx, "sh", "-c", "cd /etc/mail && makemap hash mailertable <mailertable && makemap hash access <access && "+
		"install -d -m 700 /var/spool/mqueue && install -d -o vmail -g vmail /var/mail/final /var/mail/final/tmp /var/mail/final/new")
	must(t, err)
	p, err := h.Start(ctx, testbed.StartOptions{Args: []string{"/usr/local/sbin/sendmail", "-bD", "-X", "/var/log/sendmail-smtp.log"}})
	must(t, err)
	greets(ctx, t, h, p, "127.0.0.1:25")
}

// sendmailWaits waits until n messages are in Sendmail's queue.
func sendmailWaits(ctx context.Context, t *testing.T, h *testbed.Host, n int) {
	t.Helper()
	var out string
	err := testbed.Until(ctx, fmt.Sprintf("%d messages in the queue of Sendmail", n), func() (_ bool, err error) {
		out, err = h.Run(ctx, "/usr/local/sbin/sendmail", "-bp")
		return strings.Contains(out, fmt.Sprintf("Total requests: %d", n)), err
	})
	if err != nil {
		t.Fatalf("%v: it has %s", err, out)
	}
}

// Our site calls a Sendmail that holds mail: it asks, pushes, waits for what
// comes, counts it, and hangs up.
func TestSendmailHub(t *testing.T) {
	t.Parallel()
	ctx, p := dialled(t)
	sendmail(ctx, t, p.hub, []string{"online.example"}, []string{"acme.example", "beta.example"})
	site := ourSite(ctx, t, p.site, callConfig(p, `"acme.example", "@acme.example", "sub.acme.example", "#acme"`))
	r := callsForMail(ctx, t, p, site, func(n int) { sendmailWaits(ctx, t, p.hub, n) })
	// Of several names the right one is blamed.
	if r.Exit != api.ExitUnavailable || !strings.Contains(r.Error, "refused 1 of 4 names: #acme: 459") {
		t.Errorf("result of the call: %+v", r)
	}
}

// A site whose MTA is Sendmail asks for its mail with Sendmail's etrn(8). That
// goes to port 25 only, and ends its lines as Unix does, so that it is
// Postfix, with our policy service behind it, who takes it.
func TestSendmailSite(t *testing.T) {
	t.Parallel()
	ctx, p := wired(t)
	hub := ourHub(ctx, t, p.hub, hubConfig)
	sendmail(ctx, t, p.site, finalDomains, nil)
	must(t, p.site.Install(filepath.Join(mtas(t), "usr/sbin/etrn"), "/usr/local/sbin/etrn", 0o755))
	etrn := func(domain, answer string) {
		// It tells what it does on its standard error.
		out, err := p.site.Command(ctx, "etrn", "-v", hubName, domain).CombinedOutput()
		if err != nil || !strings.Contains(string(out), answer) {
			t.Errorf("etrn %s: %v, want the answer %q: %s", domain, err, answer, out)
		}
	}
	asksForMail(ctx, t, p, hub, func() {
		etrn("beta.example", "459 4.7.1 <beta.example>: Etrn command rejected: Node beta.example not allowed")
		etrn("acme.example", "250 Queuing started")
	})
}
