package config

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/queue"
)

// general reads the top of the file: who we are, and the log.
func (r *reader) general(t *table, c *Config) {
	c.LogFormat = t.str("log-format")
	switch t.str("log-level") {
	case "debug":
		c.LogLevel = slog.LevelDebug
	case "warning":
		c.LogLevel = slog.LevelWarn
	case "error":
		c.LogLevel = slog.LevelError
	}

	hint := `write hostname = "hub.example.net", the name of this machine in the DNS`
	if t.has("hostname") {
		s, ok := t.text("hostname")
		if !ok {
			return
		}
		if msg := hostnameFault(s); msg != "" {
			t.fail("hostname", hint, "%s %s", foreign.Quote(s), msg)
		}
		c.Hostname = esmtp.ASCII(strings.TrimSuffix(s, "."))
		return
	}
	name, err := r.hostname()
	if err != nil {
		t.fail("hostname", hint, "is not set, and the machine does not know its own name: %s", reason(err))
		return
	}
	if msg := hostnameFault(name); msg != "" {
		t.fail("hostname", hint, "is not set, and the machine calls itself %s, which %s", foreign.Quote(name), msg)
	}
	c.Hostname = name
}

// hostnameFault says what keeps a name from standing in EHLO: RFC 5321,
// section 4.1.1.1, wants a fully-qualified one there, and many servers
// insist.
func hostnameFault(s string) string {
	d, err := queue.Domain(s)
	switch {
	case address(s).IsValid():
		return "is an address, not a host name"
	case err != nil, nameFault(s) != "":
		return "is not a host name"
	case !strings.Contains(d, "."):
		return "is not a fully qualified host name: it has no domain"
	case strings.Contains(d, "_"):
		return "is not a host name, which cannot contain \"_\""
	}
	return ""
}

// mta reads where the mail server is.
func (r *reader) mta(t *table, c *Config) {
	c.MTA = MTA{Type: t.str("type"), Reconcile: t.duration("reconcile")}
	if dir, ok := t.text("config-dir"); ok {
		c.MTA.ConfigDir = dir
		if !filepath.IsAbs(dir) {
			t.fail("config-dir", `write it from the root, as in "/etc/postfix"`, "expected an absolute path, got %s", foreign.Quote(dir))
		} else if !r.noFiles {
			if st, err := os.Stat(dir); err != nil {
				t.fail("config-dir", "install Postfix, or name the directory that holds its main.cf", "%s", reason(err))
			} else if !st.IsDir() {
				t.fail("config-dir", "", "%s is not a directory", foreign.Quote(dir))
			}
		}
	}
	if s, ok := t.text("smtp"); ok {
		c.MTA.SMTP = s
		host, _, msg := hostPort(s)
		if msg == "" && host == "" {
			msg = "has no host before the port"
		}
		if msg != "" {
			t.fail("smtp", `write "127.0.0.1:25"`, "%s %s", foreign.Quote(s), msg)
		}
	}
	if s, ok := t.text("transport"); ok {
		c.MTA.Transport = s
		// A service name of Postfix; ":" would end it in the transport table.
		if s == "" || strings.Trim(s, letters+digits+"-_") != "" || strings.Trim(s[:1], letters) != "" {
			t.fail("transport", `use letters, digits, "-" and "_", and begin with a letter`, "%s is not a valid name for a transport", foreign.Quote(s))
		} else if slices.Contains([]string{"smtp", "relay", "lmtp", "local", "virtual", "error", "retry", "discard"}, s) {
			t.fail("transport", `choose a name of its own, such as "transient"`, "%s is a transport that Postfix uses for other mail, which would all be held", foreign.Quote(s))
		}
	}
	c.MTA.Split = r.split(t, c.MTA.SMTP)
	c.MTA.Submission = r.submission(t, c.MTA.SMTP)
}

// split reads the port that Postfix opens for itself. Whoever reaches it can
// send mail past the restrictions of the other ports, so it is on the
// loopback or nowhere; and it stands as it is in master.cf, so it is an
// address and no name.
func (r *reader) split(t *table, smtp string) string {
	s := t.str("split")
	if s == "" {
		return ""
	}
	hint := `write "127.0.0.1:10366", or leave the key out`
	at, err := netip.ParseAddrPort(s)
	switch {
	case err != nil || at.Port() == 0:
		t.fail("split", hint, "expected an address with a port, got %s", foreign.Quote(s))
		return ""
	case !at.Addr().IsLoopback() || at.Addr().Is4In6() || at.Addr().Zone() != "":
		t.fail("split", hint, "expected an address of the loopback, got %s", foreign.Quote(s))
		return ""
	}
	if host, port, msg := hostPort(smtp); msg == "" && port == at.Port() &&
		(address(host).Unmap() == at.Addr() || strings.EqualFold(host, "localhost")) {
		t.fail("split", `choose a port of its own: "127.0.0.1:10366"`, "%s is where the mail server takes all mail (mta: smtp)", foreign.Quote(s))
		return ""
	}
	return r.listenAt(t, t.line("split"), "split", at.String(), tcpOnly)
}
