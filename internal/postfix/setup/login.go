package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/postfix"
)

// What a site pushes goes to a server that may want to know who it is. The
// credentials are those of the remote, for which a transport of their own has all
// that it takes: nothing is set for other mail, and no other host is ever shown
// the password, since the table of passwords is asked by the next hop.

// Login is how mail is pushed to a next hop.
type Login struct {
	Remote  string // its name
	Deliver string // as Route.Deliver has it
	Hops    []string
	// User and PasswordFile, or Cert and Key, or both.
	User, PasswordFile string
	Cert, Key          string

	TLS     config.TLSMode
	CA      string // empty: those of the system
	TLSName string // empty: the name of the next hop
}

// loginsOf a configuration.
func loginsOf(cfg *config.Config) []Login {
	var list []Login
	for _, r := range cfg.Remotes {
		if r.User == "" && r.TLSCert == "" || r.PushLogin == config.PushLoginNever {
			continue
		}
		for _, q := range cfg.Queues {
			if !slices.Contains(r.PushQueues, q.Name) || q.Deliver.Protocol != "smtp" {
				continue
			}
			l := Login{
				Remote: r.Name, Deliver: q.Deliver.String(), User: r.User, PasswordFile: r.PasswordFile, Cert: r.TLSCert, Key: r.TLSKey,
				TLS: r.TLS, CA: r.TLSCA, TLSName: r.TLSName,
			}
			for hop := range strings.SplitSeq(q.Deliver.NextHop, ",") {
				if r.PushLogin == config.PushLoginAlways || sameHost(hostOf(hop), r.Host) {
					l.Hops = append(l.Hops, strings.ToLower(hop))
				}
			}
			if len(l.Hops) > 0 {
				list = append(list, l)
			}
		}
	}
	return list
}

// sameHost compares names, and addresses however they are written.
func sameHost(a, b string) bool {
	x, xerr := netip.ParseAddr(a)
	y, yerr := netip.ParseAddr(b)
	if xerr == nil && yerr == nil {
		return x.Unmap() == y.Unmap()
	}
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// hostOf is the name or address in a next hop.
func hostOf(hop string) string {
	if in, ok := strings.CutPrefix(hop, "["); ok {
		in, _, _ = strings.Cut(in, "]")
		if len(in) > 5 && strings.EqualFold(in[:5], "ipv6:") {
			in = in[5:]
		}
		return strings.TrimSuffix(in, ".")
	}
	host, _, _ := strings.Cut(hop, ":")
	return strings.TrimSuffix(host, ".")
}

// passwordTable is the name of the table of passwords, which root alone can read,
// as Postfix's clients do before they become somebody else.
const passwordTable = "passwords"

const passwordTableHead = "# With which mail is pushed. Written by \"etrnctl setup postfix\" from the files\n" +
	"# that password-file names: what is changed here is lost with the next.\n"

// passwords is the table of passwords as it is to be.
type passwords struct {
	text    *string           // nil: there is none
	unknown bool              // this user may not read what it comes from
	files   map[string]string // what it comes from, with the time of change
}

func (p passwords) paths() []string { return slices.Sorted(maps.Keys(p.files)) }

// toService is what such a transport is called, after that of held mail and before
// the name of the remote.
const toService = "-to-"

// logIn makes the transports of next hops that want a login.
func (d *derivation) logIn() error {
	d.logins = map[string]heldService{}
	of := map[string]Login{}
	lines := map[string]string{}
	for _, l := range d.req.Logins {
		if other, ok := of[l.Deliver]; ok {
			if !sameLogin(other, l) {
				return fmt.Errorf("the remotes %q and %q push to %q with different credentials: write push-login = false for one of them", other.Remote, l.Remote, l.Deliver)
			}
			continue
		}
		of[l.Deliver] = l
		d.logins[l.Deliver] = heldService{name: d.req.Transport + toService + l.Remote, program: "smtp", options: strings.Join(d.loginOptions(l), "\n")}
		if err := d.readPassword(l, lines); err != nil {
			return fmt.Errorf("the login of the remote %q: %w", l.Remote, err)
		}
	}
	if len(d.passwords.files) > 0 && !d.passwords.unknown {
		var text strings.Builder
		text.WriteString(passwordTableHead)
		for _, hop := range slices.Sorted(maps.Keys(lines)) {
			fmt.Fprintf(&text, "%-31s %s\n", hop, lines[hop])
		}
		s := text.String()
		d.passwords.text = &s
	}
	if len(d.passwords.files) > 0 && !cyrusPlugins() {
		d.warn("Postfix logs in by plugins of Cyrus SASL, and there are none for SCRAM, CRAM-MD5 or PLAIN: install libsasl2-modules (Debian), or cyrus-sasl-scram and cyrus-sasl-plain (RPM)")
	}
	return nil
}

// A server that does not relay for us refuses the path, not the recipient: its
// administrator has to let us, or we have to log in. Some refuse for good, and the
// mail of a whole site would come back to its users for a slip in a table. So what
// is pushed stays held then, and mailq(1) says why.

// replyTable is the name of the table of smtp_reply_filter.
const replyTable = "replies"

const replyTableText = "# Written by \"etrnctl setup postfix\": a server that does not relay for this one\n" +
	"# refuses what is pushed for now, not for good.\n" +
	"/^5([0-9][0-9][ -].*" + noRelay + ".*)$/  4$1\n"

// noRelay is how Postfix, Exim, Sendmail, Exchange and others say it.
const noRelay = "(relay(ing)? (access )?(is )?(denied|not (permitted|allowed)|prohibited)|(unable|not (permitted|allowed)) to relay)"

// keepRefused has refusals to relay taken for temporary ones, in what is pushed.
func (d *derivation) keepRefused() string {
	if !d.req.Pushes {
		return ""
	}
	// Postfix does not mind an enhanced status code that still begins with 5.
	return "smtp_reply_filter=" + d.table("regexp", replyTable, replyTableText)
}

func sameLogin(a, b Login) bool {
	a.Remote, b.Remote, a.Hops, b.Hops = "", "", nil, nil
	return a.User == b.User && a.PasswordFile == b.PasswordFile && a.Cert == b.Cert && a.Key == b.Key && a.TLS == b.TLS && a.CA == b.CA && a.TLSName == b.TLSName
}

// readPassword adds the lines of a login to the table.
func (d *derivation) readPassword(l Login, lines map[string]string) error {
	if l.User == "" {
		return nil
	}
	if strings.Contains(l.User, ":") {
		return fmt.Errorf("a user with a colon in his name cannot log in by way of Postfix: %s", foreign.Quote(l.User))
	}
	if d.passwords.files == nil {
		d.passwords.files = map[string]string{}
	}
	fi, err := os.Stat(l.PasswordFile)
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.passwords.unknown = true
		d.passwords.files[l.PasswordFile] = ""
		return nil
	case err != nil:
		return err
	}
	d.passwords.files[l.PasswordFile] = fi.ModTime().UTC().Format(time.RFC3339Nano)
	text, err := postfix.ReadFile(l.PasswordFile, maxPassword)
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.passwords.unknown = true
		return nil
	case err != nil:
		return err
	}
	password, _, _ := strings.Cut(text, "\n")
	password = strings.TrimSuffix(password, "\r")
	switch {
	case password == "":
		return fmt.Errorf("the first line of %s is empty", l.PasswordFile)
	case strings.TrimRight(password, " \t\v\f") != password || !utf8.ValidString(password) || strings.ContainsFunc(password, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return fmt.Errorf("the password in %s ends in white space, is not UTF-8 or has a control character, which Postfix's tables cannot hold", l.PasswordFile)
	}
	for _, hop := range l.Hops {
		lines[hop] = l.User + ":" + password
	}
	return nil
}

// maxPassword bounds the file of a password.
const maxPassword = 64 << 10

// loginOptions are those of the entry of master.cf. What tls means for a call it
// means here: a password is shown to nobody but a server whose certificate has
// been verified, unless the configuration spells "insecure".
func (d *derivation) loginOptions(l Login) []string {
	var options []string
	if o := d.keepRefused(); o != "" {
		options = append(options, o)
	}
	const any, guarded = "noanonymous", "noanonymous,noplaintext"
	clear, covered, verified := guarded, guarded, any
	switch l.TLS {
	case config.TLSRequire:
		options = append(options, "smtp_tls_security_level=secure", "smtp_tls_policy_maps=", option("smtp_tls_secure_cert_match", orElse(l.TLSName, "nexthop")))
		if l.CA == "" && d.env.settings["smtp_tls_CAfile"] == "" && d.env.settings["smtp_tls_CApath"] == "" {
			options = append(options, "tls_append_default_CA=yes")
		}
		for _, hop := range l.Hops {
			if _, err := netip.ParseAddr(hostOf(hop)); err == nil && l.TLSName == "" {
				d.warn("the remote %q: Postfix verifies certificates by name, and %s is an address: set tls-name", l.Remote, hop)
			}
		}
	case config.TLSInsecure:
		options = append(options, "smtp_tls_security_level=encrypt", "smtp_tls_policy_maps=")
		covered = any
	case config.TLSAuto:
		if level := d.env.settings["smtp_tls_security_level"]; level == "" || level == "none" {
			options = append(options, "smtp_tls_security_level=may")
		}
	}
	if l.CA != "" {
		options = append(options, option("smtp_tls_CAfile", l.CA), "smtp_tls_CApath=", "tls_append_default_CA=no")
	}
	if l.Cert != "" {
		options = append(options, "smtp_tls_chain_files=", option("smtp_tls_cert_file", l.Cert), option("smtp_tls_key_file", l.Key))
	}
	if l.User != "" {
		options = append(options,
			"smtp_sasl_auth_enable=yes", "smtp_sasl_password_maps="+tableElement(textKind, passwordTable),
			"smtp_sender_dependent_authentication=no",
			"smtp_sasl_security_options="+clear, "smtp_sasl_tls_security_options="+covered, "smtp_sasl_tls_verified_security_options="+verified,
			// A password that is wrong for an hour must cost no mail.
			"smtp_sasl_auth_soft_bounce=yes")
	}
	return options
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// pluginDirs are where Cyrus SASL has its plugins, as patterns.
var pluginDirs = []string{"/usr/lib/*/sasl2", "/usr/lib64/sasl2", "/usr/lib/sasl2", "/usr/local/lib/sasl2"}

// cyrusPlugins reports whether there is a plugin for any mechanism that we would
// use. Where no directory is known nothing is said.
func cyrusPlugins() bool {
	known := false
	for _, dir := range pluginDirs {
		dirs, _ := filepath.Glob(dir) // the patterns are well-formed
		known = known || len(dirs) > 0
		for _, name := range []string{"libscram.so*", "libcrammd5.so*", "libplain.so*", "liblogin.so*"} {
			if found, _ := filepath.Glob(filepath.Join(dir, name)); len(found) > 0 {
				return true
			}
		}
	}
	return !known
}

// secrets plans the table of passwords.
func (pl *Plan) secrets(now *files, want passwords) {
	path := ownPath(pl.dir, passwordTable)
	switch {
	case want.unknown || now.hidden && want.text != nil:
		// Not for this user to compare, nor to change. But a file that has been
		// changed since tells that the copy is old.
		if old := now.record; old != nil && !maps.Equal(old.Passwords, want.files) && !slices.Contains(slices.Collect(maps.Values(want.files)), "") {
			unread := ""
			pl.changes = append(pl.changes, change{path: path, before: &unread, after: &unread, secret: true})
		}
	case now.hidden:
		// It is to go, and this user may not read what goes.
		gone := ""
		pl.changes = append(pl.changes, change{path: path, before: &gone, secret: true})
	case !sameText(now.passwords, want.text):
		pl.quiet = false
		pl.changes = append(pl.changes, change{path: path, before: now.passwords, after: want.text, secret: true})
	}
}

// closeSecret closes a file to all but root, if it is there: it may be somebody's
// idea of a backup.
func closeSecret(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return os.Chmod(path, 0o600)
	}
	return nil
}
