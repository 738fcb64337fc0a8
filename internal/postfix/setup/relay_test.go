package setup

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

var sites = Relay{
	Clients:      []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/48")},
	Certificates: []string{strings.Repeat("ab", 32)},
	Users:        []string{"acme"},
	Submission:   "5870",
	Login:        "unix:/var/spool/postfix/etrnd/login.sock",
	Cert:         "/etc/etrnd/hub.pem", Key: "/etc/etrnd/hub.key",
}

const stockRelay = "permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination"

func derived(t *testing.T, r Requirements, settings map[string]string, master string) *desired {
	t.Helper()
	env := quiet(settings)
	env.master = conffile.File{Text: master}
	r.Policy = "unix:/var/spool/postfix/etrnd/policy.sock"
	d, err := derive(t.Context(), r, env)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLetRelay(t *testing.T) {
	const relay, recipients = "smtpd_relay_restrictions", "smtpd_recipient_restrictions"
	tls := map[string]string{"smtpd_tls_security_level": "may", "smtpd_tls_cert_file": "/x"}
	with := func(more map[string]string) map[string]string {
		s := map[string]string{relay: stockRelay}
		for _, m := range []map[string]string{tls, more} {
			for k, v := range m {
				s[k] = v
			}
		}
		return s
	}
	const master = "smtp inet n - y - - smtpd\n"
	cases := map[string]struct {
		settings map[string]string
		master   string
		relay    string // what is put into the lists, by table
		rcpt     string
		entry    bool
		warning  string
	}{
		"stock": {with(nil), master, "clients networks certificates", "", true, ""},
		"both lists refuse": {with(map[string]string{recipients: "permit_mynetworks, reject_unauth_destination"}), master,
			"clients networks certificates", "clients networks certificates", true, ""},
		"an old main.cf": {with(map[string]string{relay: "", recipients: "permit_mynetworks, reject"}), master, "", "clients networks certificates", true, ""},
		// Some other judgement ends there.
		"recipients judged": {with(map[string]string{recipients: "check_recipient_access x:y, reject"}), master, "clients networks certificates", "", true, ""},
		"logins of its own": {with(map[string]string{"smtpd_sasl_auth_enable": "yes", relay: "permit_mynetworks, reject_unauth_destination"}), master,
			"clients networks certificates users", "", false, ""},
		"any login is enough":     {with(map[string]string{"smtpd_sasl_auth_enable": "yes"}), master, "clients networks certificates", "", false, ""},
		"logins on another port":  {with(nil), master + "submission inet n - y - - smtpd\n  -o { smtpd_sasl_auth_enable = yes }\n", "clients networks certificates", "", false, ""},
		"port taken":              {with(nil), master + "192.0.2.1:5870 inet n - n - - smtpd\n", "clients networks certificates", "", false, "5870/inet of its own; choose another one"},
		"port 25 has its own":     {with(nil), "smtp inet n - y - - smtpd\n  -o smtpd_relay_restrictions=permit_mynetworks,reject\n", "clients networks certificates", "", true, "the entry smtp/inet of master.cf sets smtpd_relay_restrictions itself"},
		"port 25 behind another":  {with(nil), "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\n -o { smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination }\n", "clients networks certificates", "", true, "the entry smtpd/pass of master.cf sets smtpd_recipient_restrictions itself"},
		"port 25 refers":          {with(nil), "smtp inet n - y - - smtpd\n  -o smtpd_relay_restrictions=$smtpd_relay_restrictions\n", "clients networks certificates", "", true, ""},
		"no TLS":                  {map[string]string{relay: stockRelay}, master, "clients networks certificates", "", true, "offers no TLS, so no site can show it a certificate: postconf -e smtpd_tls_security_level=may smtpd_tls_cert_file=/etc/etrnd/hub.pem"},
		"another port is another": {with(nil), "10025 inet n - y - - smtpd\n  -o smtpd_relay_restrictions=permit_mynetworks,reject\n", "clients networks certificates", "", true, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := derived(t, Requirements{Relay: sites}, c.settings, c.master)
			for list, want := range map[string]string{relay: c.relay, recipients: c.rcpt} {
				var got []string
				for _, e := range d.elements {
					if e.list == list {
						got = append(got, e.text[strings.LastIndexByte(e.text, '/')+1:])
						if !e.gate {
							t.Errorf("%s goes before what the postmaster has put there", e.text)
						}
					}
				}
				if strings.Join(got, " ") != want {
					t.Errorf("%s: %q, want %q", list, got, want)
				}
			}
			if has := strings.Contains(strings.Join(d.entries, ""), "smtpd_sasl_path=etrnd/login.sock"); has != c.entry {
				t.Errorf("a port for logins: %v\n%s", has, d.entries)
			}
			if c.warning == "" && len(d.warnings) > 0 || c.warning != "" && (len(d.warnings) != 1 || !strings.Contains(d.warnings[0], c.warning)) {
				t.Errorf("warnings are %q, want one with %q", d.warnings, c.warning)
			}
		})
	}
	d := derived(t, Requirements{Relay: sites}, with(nil), master)
	if got := d.tables[clientTable]; got.kind != "hash" || strings.Count(got.text, "\n192.0.2 ") != 1 {
		t.Errorf("clients: %+v", got)
	}
	if got := d.tables[networkTable]; got.kind != "cidr" || !strings.Contains(got.text, "\n2001:db8:1::/48 ") || strings.Contains(got.text, "192.0.2") {
		t.Errorf("networks: %+v", got)
	}
	if got := d.tables[certificateTable].text; !strings.Contains(got, strings.Repeat("ab:", 31)+"ab OK") {
		t.Errorf("certificates:\n%s", got)
	}
	// Nobody is let where nobody is named.
	if d := derived(t, Requirements{Relay: Relay{Submission: "5870", Login: sites.Login}}, with(nil), master); len(elements(d, relay))+len(d.entries) != 0 {
		t.Errorf("%+v", d)
	}
}

// What a key lets in is what the network has, and nothing beside it.
func TestClientKeys(t *testing.T) {
	for prefix, want := range map[string]string{
		"192.0.2.7/32":       "192.0.2.7",
		"192.0.2.0/24":       "192.0.2",
		"192.0.2.252/30":     "192.0.2.252 192.0.2.253 192.0.2.254 192.0.2.255",
		"255.255.255.254/31": "255.255.255.254 255.255.255.255",
		"198.18.0.0/16":      "198.18",
		"198.18.4.0/22":      "198.18.4 198.18.5 198.18.6 198.18.7",
		"10.0.0.0/8":         "",
		"2001:db8::1/128":    "2001:db8::1",
		"2001:db8:1::/48":    "",
	} {
		if got := strings.Join(clientKeys(netip.MustParsePrefix(prefix)), " "); got != want {
			t.Errorf("%s: %q, want %q", prefix, got, want)
		}
	}
	if n := len(clientKeys(netip.MustParsePrefix("192.0.2.0/25"))); n != 128 {
		t.Errorf("a /25 has %d keys", n)
	}
}

// The postmaster adds an entry of his own for the port that a set-up has opened.
func TestPortTakenLater(t *testing.T) {
	settings := map[string]string{"smtpd_relay_restrictions": stockRelay, "smtpd_tls_cert_file": "/x", "smtpd_tls_security_level": "may"}
	r := sites
	r.Submission = "587"
	ours := (&derivation{req: Requirements{Relay: r, Policy: "unix:/var/spool/postfix/etrnd/policy.sock"}, env: quiet(settings)}).submissionEntry()
	for name, c := range map[string]struct {
		master string
		stays  bool
	}{
		"as it was":          {ours, true},
		"with logins":        {"submission inet n - y - - smtpd\n  -o smtpd_sasl_auth_enable=yes\n" + ours, false},
		"without":            {"submission inet n - y - - smtpd\n" + ours, false},
		"by its number":      {ours + "587 inet n - y - - smtpd\n", false},
		"at one address":     {ours + "192.0.2.1:submission inet n - y - - smtpd\n", false},
		"for something else": {ours + "submissions inet n - y - - smtpd\n", true},
	} {
		env := quiet(settings)
		env.master, env.old = conffile.File{Text: c.master}, &record{contents: contents{Entries: []string{ours}}}
		d, err := derive(t.Context(), Requirements{Relay: r, Policy: "unix:/var/spool/postfix/etrnd/policy.sock"}, env)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(d.entries, ours); got != c.stays {
			t.Errorf("%s: ours stays: %v", name, got)
		}
	}
}

func TestGateOf(t *testing.T) {
	for _, c := range []struct {
		list, words string
		sole        bool
		want        int
	}{
		{"smtpd_relay_restrictions", stockRelay, false, 2},
		{"smtpd_relay_restrictions", "permit_mynetworks reject", false, 1},
		{"smtpd_relay_restrictions", "permit_mynetworks warn_if_reject reject_unauth_destination", false, 1},
		{"smtpd_relay_restrictions", "permit_mynetworks", false, -1},
		{"smtpd_recipient_restrictions", "check_x y:z, reject", false, -1},
		{"smtpd_recipient_restrictions", "check_x y:z, reject", true, 2},
	} {
		if got := gateOf(c.list, conffile.Words(c.words), c.sole); got != c.want {
			t.Errorf("%s = %s (%v): %d, want %d", c.list, c.words, c.sole, got, c.want)
		}
	}
}

// loginConfig is a site that pushes with a login.
func loginConfig(t *testing.T, remote string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("/etc/etrnd/etrnd.toml", []byte(`hostname = "mail.acme.example"
[[queue]]
name = "other"
domains = ["other.example"]
deliver = "smtp:[hub.example.net]:2525"
clients = ["192.0.2.7"]
[[link]]
name = "isp"
interfaces = ["ppp0"]
[[remote]]
name = "hub"
link = "isp"
host = "Hub.example.net:366"
push = ["*"]
user = "acme"
password-file = "/etc/etrnd/password"
`+remote), config.WithoutFiles())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestLoginsOf(t *testing.T) {
	for name, c := range map[string]struct{ remote, hops string }{
		"by default":         {"", "[hub.example.net]"},
		"another port":       {`deliver = "smtp:[HUB.example.net]:587"`, "[hub.example.net]:587"},
		"another host":       {`deliver = "smtp:[relay.example.net]:587"`, ""},
		"a domain":           {`deliver = "smtp:hub.example.net"`, "hub.example.net"},
		"spelled":            {"deliver = \"smtp:[relay.example.net]:587\"\npush-login = true", "[relay.example.net]:587"},
		"not wanted":         {"push-login = false", ""},
		"one of two":         {`deliver = "smtp:[hub.example.net]:587,[relay.example.net]"`, "[hub.example.net]:587"},
		"no other's by name": {`deliver = "smtp:[hub.example.net.evil.example]"`, ""},
		"lmtp":               {`deliver = "lmtp:[hub.example.net]:24"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range loginsOf(loginConfig(t, c.remote)) {
				got = append(got, l.Hops...)
			}
			if strings.Join(got, " ") != c.hops {
				t.Errorf("got %q, want %q", got, c.hops)
			}
		})
	}
}

// What a server says that does not relay is for now; what it says of a recipient
// is what it is.
func TestRefusedRelay(t *testing.T) {
	_, expr, _ := strings.Cut(replyTableText, "/^")
	expr, _, _ = strings.Cut(expr, "$/")
	re := regexp.MustCompile("(?i)^" + expr + "$")
	for reply, want := range map[string]bool{
		"554 5.7.1 <c@online.example>: Relay access denied":                                     true,
		"550 relay not permitted":                                                               true,
		"550 5.7.1 <c@online.example>... Relaying denied. Proper authentication required.":      true,
		"550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain":                     true,
		"553 sorry, relaying is not allowed here":                                               true,
		"550 5.1.1 <c@online.example>: Recipient address rejected: User unknown in relay table": false,
		"550 5.1.1 no such user":                                                                false,
		"250 2.1.5 Ok, relay access denied to others":                                           false,
	} {
		if got := re.MatchString(reply); got != want {
			t.Errorf("%s: %v", reply, got)
		}
	}
	d := derived(t, Requirements{Pushes: true, Routes: []Route{{Pattern: "*", Deliver: "smtp:[hub.example.net]"}}}, nil, "")
	if !strings.Contains(strings.Join(d.entries, ""), "smtp_reply_filter=regexp:$config_directory/etrnd/replies\n") {
		t.Errorf("%s", d.entries)
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		hop, host string
		want      bool
	}{
		{"[hub.example.net]:587", "HUB.example.net.", true},
		{"hub.example.net:587", "hub.example.net", true},
		{"[192.0.2.1]:587", "192.0.2.1", true},
		{"[ipv6:2001:db8:0::1]:587", "2001:db8::1", true},
		{"[2001:db8::1]", "2001:db8::1", true},
		{"[2001:db8::1]", "2001:db8::2", false},
		{"[hub.example.net]", "hub.example", false},
	} {
		if got := sameHost(hostOf(c.hop), c.host); got != c.want {
			t.Errorf("%s and %s: %v", c.hop, c.host, got)
		}
	}
}

func TestLogIn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := Login{Remote: "hub", Deliver: "smtp:[hub.example.net]:587", Hops: []string{"[hub.example.net]:587"}, User: "acme", PasswordFile: path, TLS: config.TLSAuto}
	req := func(more ...Login) Requirements {
		return Requirements{Routes: []Route{{Pattern: "*", Deliver: l.Deliver}, {Pattern: "x.example", Deliver: "smtp:[hub.example.net]"}}, Logins: append([]Login{l}, more...)}
	}
	write("two words: and a colon\r\nmore\n")
	d := derived(t, req(), nil, "")
	if d.fallback != "transient-to-hub:[hub.example.net]:587" || len(d.routes) != 1 || d.routes[0].hop != "transient:[hub.example.net]" {
		t.Errorf("routes: %q, %+v", d.fallback, d.routes)
	}
	if d.passwords.text == nil || !strings.HasSuffix(*d.passwords.text, "[hub.example.net]:587           acme:two words: and a colon\n") {
		t.Errorf("passwords: %v", d.passwords)
	}
	for mode, want := range map[config.TLSMode][]string{
		config.TLSAuto:     {"smtp_tls_security_level=may", "smtp_sasl_tls_security_options=noanonymous,noplaintext\n"},
		config.TLSRequire:  {"smtp_tls_security_level=secure", "smtp_sasl_tls_verified_security_options=noanonymous\n", "tls_append_default_CA=yes", "smtp_tls_policy_maps=\n"},
		config.TLSInsecure: {"smtp_tls_security_level=encrypt", "smtp_sasl_tls_security_options=noanonymous\n"},
		config.TLSOff:      {"smtp_sasl_security_options=noanonymous,noplaintext\n"},
	} {
		l.TLS = mode
		entries := strings.Join(derived(t, req(), nil, "").entries, "")
		for _, w := range append(want, "smtp_sasl_auth_soft_bounce=yes", "smtp_sasl_security_options=noanonymous,noplaintext\n") {
			if !strings.Contains(entries, w) {
				t.Errorf("%s lacks %q:\n%s", mode, w, entries)
			}
		}
	}
	// What the postmaster demands for all mail is not less for this.
	l.TLS = config.TLSAuto
	if e := strings.Join(derived(t, req(), map[string]string{"smtp_tls_security_level": "dane-only"}, "").entries, ""); strings.Contains(e, "smtp_tls_security_level") {
		t.Errorf("TLS is weakened:\n%s", e)
	}
	other := l
	other.Remote, other.User = "hub2", "beta"
	if _, err := derive(t.Context(), req(other), quiet(nil)); err == nil || !strings.Contains(err.Error(), "different credentials") {
		t.Errorf("two users: %v", err)
	}
	for text, want := range map[string]string{"": "is empty", "\nx": "is empty", "x \n": "white space", "a\x00b\n": "control character", "\xff\n": "UTF-8"} {
		write(text)
		if _, err := derive(t.Context(), req(), quiet(nil)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("password %q: %v, want %q", text, err, want)
		}
	}
	l.User = "a:b"
	if _, err := derive(t.Context(), req(), quiet(nil)); err == nil || !strings.Contains(err.Error(), "colon") {
		t.Errorf("a user with a colon: %v", err)
	}
}
