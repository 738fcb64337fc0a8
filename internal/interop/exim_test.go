//go:build !quick

package interop

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/testbed"
)

// eximConfig is an Exim that relays for its neighbours and ends the mail for
// %[2]s in a Maildir. Mail for %[3]s goes to the site, and waits until it is
// asked for. %[1]q is the host's name, %[4]s are further settings.
const eximConfig = `
primary_hostname = %[1]s
exim_path = /usr/local/sbin/exim4
log_file_path = /var/log/exim-%%slog
keep_environment =
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
domainlist final = %[2]s
domainlist held = %[3]s
queue_domains = +held
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
acl_smtp_etrn = etrn
never_users =
%[4]s

begin acl
rcpt:
  accept domains = +final : +held
  accept hosts = 127.0.0.1 : 198.51.100.0/24
  deny message = relay not permitted
etrn:
  accept hosts = 198.51.100.2

begin routers
final:
  driver = accept
  domains = +final
  transport = maildir
site:
  driver = manualroute
  domains = +held
  route_list = * mail.acme.example byname
  transport = smtp

begin transports
maildir:
  driver = appendfile
  directory = /var/mail/final
  maildir_format
  user = vmail
  group = vmail
  headers_add = X-Original-To: $local_part@$domain
smtp:
  driver = smtp
  hosts_try_dane =

begin retry
* * F,1d,15m
`

// exim starts the Exim that packaging/get-mtas has unpacked, and returns when
// SMTP answers. It runs no queue of its own accord.
func exim(ctx context.Context, t *testing.T, h *testbed.Host, final, held, more string) {
	t.Helper()
	account(t, h, "Debian-exim", 64370, "/var/spool/exim4")
	// Set-user-id, as Debian installs it: it calls itself to deliver.
	must(t, h.Install(filepath.Join(mtas(t), "usr/sbin/exim4"), "/usr/local/sbin/exim4", 0o755|fs.ModeSetuid))
	must(t, h.WriteFile("/etc/exim4/exim4.conf", fmt.Appendf(nil, eximConfig, h.Hostname, final, held, more), 0o644))
	must(t, h.WriteFile("/etc/exim4/etrn", []byte("acme.example:\nsub.acme.example:\n"), 0o644))
	_, err := h.Run(ctx, "sh", "-c", "install -d -o Debian-exim -g Debian-exim -m 750 /var/spool/exim4 && install -d -o vmail -g vmail /var/mail/final && "+
		"install -o Debian-exim -m 640 /dev/null /var/log/exim-mainlog && install -o Debian-exim -m 640 /dev/null /var/log/exim-rejectlog && install -o Debian-exim -m 640 /dev/null /var/log/exim-paniclog")
	must(t, err)
	p, err := h.Start(ctx, testbed.StartOptions{Args: []string{"/usr/local/sbin/exim4", "-bdf", "-oX", "25"}})
	must(t, err)
	greets(ctx, t, h, p, "127.0.0.1:25")
}

// eximWaits waits until n messages are in Exim's queue.
func eximWaits(ctx context.Context, t *testing.T, h *testbed.Host, n int) {
	t.Helper()
	var out string
	err := testbed.Until(ctx, fmt.Sprintf("%d messages in the queue of Exim", n), func() (_ bool, err error) {
		out, err = h.Run(ctx, "/usr/local/sbin/exim4", "-bpc")
		return out == fmt.Sprintln(n), err
	})
	if err != nil {
		t.Fatalf("%v: it has %s", err, out)
	}
}

// Our site calls an Exim that holds mail: it asks, pushes, waits for what
// comes, counts it, and hangs up.
func TestEximHub(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		setting string
		request string
		exit    int
		says    string
	}{
		// As it comes: behind "#" stands a part of an address, which it hands
		// to exim -R, and it has TLS, with a certificate of its own making.
		{"default", "", `"#acme.example"`, api.ExitOK, ""},
		// As those set it who serve clients that ask for domains. What a client
		// sends may not get into a command (it is "tainted"): the names are
		// looked up. With neither TLS nor PIPECONNECT it insists on one ETRN at
		// a time, and that it is an Exim is not to be seen here.
		{"command", "smtp_banner = $smtp_active_hostname ESMTP\ntls_advertise_hosts =\npipelining_connect_advertise_hosts =\n" +
			"smtp_etrn_command = /usr/local/sbin/exim4 -R ${lookup{$domain}lsearch,ret=key{/etc/exim4/etrn}}",
			`"acme.example", "sub.acme.example"`, api.ExitOK, ""},
		// A name that it does not take is no reason not to ask for the next,
		// but one to tell, and the right one: an Exim that has got several at a time
		// says its reply to the first twice, since the child that runs the queue
		// writes out what the parent has not yet written. With TLS and without.
		{"refused name", "tls_advertise_hosts =\npipelining_connect_advertise_hosts =", `"acme.example", "#acme.example", "sub.acme.example"`, api.ExitUnavailable, "refused 2 of 3 names: sub.acme.example: 501"},
		{"refused name under TLS", "", `"#acme.example", "acme.example", "#sub.acme.example"`, api.ExitUnavailable, "refused 1 of 3 names: acme.example: 501"},
		// What a site with it makes of a hub that has TLS and cannot do any.
		{"TLS that fails", "tls_require_ciphers = NONE:+VERS-TLS1.2:+DHE-RSA:+AES-128-GCM:+AEAD:+SIGN-ALL:+GROUP-ALL:+COMP-NULL", `"#acme.example"`, api.ExitOK, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, p := dialled(t)
			exim(ctx, t, p.hub, "online.example", "acme.example : beta.example", c.setting)
			site := ourSite(ctx, t, p.site, callConfig(p, c.request))
			r := callsForMail(ctx, t, p, site, func(n int) { eximWaits(ctx, t, p.hub, n) })
			if r.Exit != c.exit || !strings.Contains(r.Error, c.says) {
				t.Errorf("exit %d, want %d and %q: %q", r.Exit, c.exit, c.says, r.Error)
			}
			log, err := p.hub.ReadFile("/var/log/exim-rejectlog")
			must(t, err)
			if strings.Contains(string(log), "synchronization error") {
				t.Errorf("Exim has rejected: %s", log)
			}
		})
	}
}

// A site whose MTA is Exim gets its mail from our hub. Exim has no means to ask
// for it; fetchmail asks.
func TestEximSite(t *testing.T) {
	t.Parallel()
	ctx, p := wired(t)
	hub := ourHub(ctx, t, p.hub, hubConfig)
	exim(ctx, t, p.site, strings.Join(finalDomains, " : "), "", "")
	asksForMail(ctx, t, p, hub, func() {
		if code, out := fetchmail(ctx, t, p.site, etrnRC(366, "acme.example", false)); code != fetchOK {
			t.Errorf("exit %d: %s", code, out)
		}
	})
}
