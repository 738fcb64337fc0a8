package setup

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// A site sends its mail through the hub, which relays for nobody unless it is
// told to. Those whom the queues name are let, and nobody else:
//
// On the ports that Postfix has already, by network and by certificate, and by
// login if Postfix has logins of its own: tables in smtpd_relay_restrictions,
// just before what refuses to relay. All other restrictions stay as they are, and
// so does the mail of everybody else. The tables are Postfix's alone, since port
// 25 must not depend on a daemon of ours. That is why port 25 gets no logins of
// ours either: a Postfix that cannot reach the server of its logins answers
// nobody.
//
// Where Postfix has no logins of its own, on a port for them, with the users that
// etrnd has on port 366. There etrnd decides about each recipient, so that a right
// that is taken away ends at once; without etrnd the port answers nobody, and the
// sites hold their mail.

// Relay are those from whom mail for anywhere is taken.
type Relay struct {
	Clients      []netip.Prefix
	Certificates []string // SHA-256, 64 hex digits
	Users        []string
	// Submission is the port, alone or with an address, for users of our own;
	// empty is none.
	Submission string
	// Login is "unix:/path" of the server of their logins, empty if there are no
	// users of our own.
	Login string
	// Cert and Key are for TLS on that port; empty is what Postfix has.
	Cert, Key string
}

// relayOf a configuration.
func relayOf(cfg *config.Config) Relay {
	r := Relay{Submission: cfg.MTA.Submission, Cert: cfg.ODMR.TLSCert, Key: cfg.ODMR.TLSKey}
	if path := cfg.LoginSocket(); path != "" {
		r.Login = "unix:" + path
	}
	for _, q := range cfg.Queues {
		r.Clients = append(r.Clients, q.RelayClients()...)
		if q.MayRelayAtAll() {
			r.Certificates = append(r.Certificates, q.Certificates...)
			r.Users = append(r.Users, q.Users...)
		}
	}
	return r
}

// Names of the tables of those who may relay.
const (
	clientTable      = "clients"
	networkTable     = "networks"
	certificateTable = "certificates"
	userTable        = "users"
)

func relayTableOf(what string) string {
	return "# " + what + " that may send mail to anywhere through this host. Written by\n" +
		"# \"etrnctl setup postfix\": what is changed here is lost with the next.\n"
}

// relayLists are the lists that can refuse to relay. Both have to let somebody.
var relayLists = []string{"smtpd_relay_restrictions", "smtpd_recipient_restrictions"}

// letRelay makes Postfix relay for those who may.
func (d *derivation) letRelay() {
	r := d.req.Relay
	d.letClients()
	if len(r.Certificates) > 0 {
		lines := make([]line, 0, len(r.Certificates))
		for _, c := range r.Certificates {
			lines = append(lines, line{colons(c), "OK"})
		}
		d.letBefore("check_ccert_access " + d.keyed(certificateTable, relayTableOf("Certificates"), lines))
		if !d.offersTLS() {
			d.warn("Postfix offers no TLS, so no site can show it a certificate: %s", d.tlsHint())
		}
	}
	if len(r.Users) > 0 {
		d.letUsers()
	}
	d.relayElsewhere()
}

// letClients lets those relay who have an address. Single ones and whatever is
// made of networks of 256 are in a table with an index, which Postfix notices when
// it changes; only networks that cannot be said that way are in one of patterns.
func (d *derivation) letClients() {
	var lines []line
	var text strings.Builder
	text.WriteString(relayTableOf("Networks"))
	seen := map[netip.Prefix]bool{}
	for _, p := range d.req.Relay.Clients {
		if p = p.Masked(); seen[p] {
			continue
		}
		seen[p] = true
		if keys := clientKeys(p); keys != nil {
			for _, key := range keys {
				lines = append(lines, line{key, "OK"})
			}
			continue
		}
		fmt.Fprintf(&text, "%-31s OK\n", p)
	}
	if len(lines) > 0 {
		d.letBefore("check_client_access " + d.keyed(clientTable, relayTableOf("Addresses, and networks by their beginning,"), lines))
	}
	if strings.Contains(text.String(), " OK\n") {
		d.letBefore("check_client_access " + d.table("cidr", networkTable, text.String()))
	}
}

// clientKeys are the keys of a network in a table of access(5) with an index,
// where Postfix looks up an address, and of IPv4 what is left when its last
// numbers are cut off. It is nil for a network that has too many of them. Only
// one address of IPv6 is a key: of the way in which a longer one is written its
// beginning says too little.
func clientKeys(p netip.Prefix) []string {
	addr, bits := p.Addr(), p.Bits()
	switch {
	case addr.Is6() && bits == 128:
		return []string{addr.String()}
	case !addr.Is4() || bits < 16:
		return nil
	}
	cut := (bits + 7) / 8 * 8 // the next length that is one of whole numbers
	var keys []string
	for next := addr; p.Contains(next); {
		keys = append(keys, strings.Join(strings.Split(next.String(), ".")[:cut/8], "."))
		b := next.As4()
		n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		step := uint32(1) << (32 - cut)
		if n+step < n {
			break
		}
		n += step
		next = netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return keys
}

// letUsers lets those relay who have logged in.
func (d *derivation) letUsers() {
	r := d.req.Relay
	if where := d.ownLogins(); where != "" {
		// Where every login is enough already there is nothing to add.
		if slices.Contains(d.env.list("smtpd_relay_restrictions"), "permit_sasl_authenticated") {
			return
		}
		lines := make([]line, 0, len(r.Users))
		for _, u := range r.Users {
			lines = append(lines, line{u, "OK"})
		}
		d.letBefore("check_sasl_access " + d.keyed(userTable, relayTableOf("Users"), lines))
		return
	}
	switch {
	case r.Login == "" && r.Submission != "" && d.req.Policy == "":
		d.warn("there is no port for the logins of sites, since Postfix asks nobody there: set listen in [policy], or submission = \"\" in [mta]")
		return
	case r.Login == "" && r.Submission != "":
		d.warn("queues name users, and nobody knows them: Postfix has no logins (smtpd_sasl_auth_enable), and [odmr] has no users")
		return
	case r.Login == "":
		return
	case r.Cert == "" && !d.hasCert():
		d.warn("there is no port for the logins of sites, since neither [odmr] nor Postfix has a certificate: set tls-cert and tls-key in [odmr], then run \"etrnctl setup postfix\" again")
		return
	}
	if fault := d.portTaken(r.Submission); fault != "" {
		d.warn("there is no port for the logins of sites: %s; choose another one for submission in [mta], or \"\" for none", fault)
		return
	}
	d.entries = append(d.entries, d.submissionEntry())
}

// submissionEntry is the port for logins of our own, as an entry of master.cf.
func (d *derivation) submissionEntry() string {
	r := d.req.Relay
	options := []string{
		"syslog_name=postfix/submission",
		// One process, one session: of an etrnd that has been restarted Postfix only
		// learns by a login that fails, and a new certificate is shown at once.
		"max_use=1",
		"smtpd_tls_security_level=encrypt", "smtpd_tls_wrappermode=no",
		"smtpd_sasl_auth_enable=yes", "smtpd_sasl_type=dovecot",
		"smtpd_sasl_path=" + strings.TrimPrefix(d.socket("the logins", r.Login), "unix:"),
		"smtpd_sasl_security_options=noanonymous", "smtpd_sasl_tls_security_options=noanonymous",
		"smtpd_sasl_exceptions_networks=", "smtpd_sasl_local_domain=",
		// What judges strangers by their address is out of place: who is let in
		// here has proved who he is, on an address that is new each time.
		"smtpd_client_restrictions=", "smtpd_helo_restrictions=", "smtpd_recipient_restrictions=",
		// Not one refusal here is for good: a site that is set up wrongly holds its
		// mail.
		"{ smtpd_relay_restrictions = check_policy_service " + d.socket("the policy service", d.req.Policy) + ", defer_unauth_destination, defer }",
	}
	if r.Cert != "" {
		// Sites know this one already, from port 366.
		options = append(options, option("smtpd_tls_cert_file", r.Cert), option("smtpd_tls_key_file", r.Key),
			"smtpd_tls_chain_files=", "smtpd_tls_eccert_file=", "smtpd_tls_dcert_file=")
	}
	// No chroot: it makes no difference to the sockets, and the certificate is
	// read before it in any case.
	return entry(fmt.Sprintf("%-9s inet  n       -       n       -       -       smtpd", serviceOf(r.Submission)), options...)
}

// serviceOf is how an entry of master.cf names a port. Should the postmaster add one
// of his own, under the usual name, Postfix warns and uses the last one, until the
// next set-up takes out ours; two entries of two names for one port would end it.
func serviceOf(submission string) string {
	if n, err := net.LookupPort("tcp", "submission"); err == nil && submission == strconv.Itoa(n) {
		return "submission"
	}
	return submission
}

// letBefore puts a restriction into each list that can refuse to relay.
func (d *derivation) letBefore(restriction string) {
	for _, list := range relayLists {
		words := d.env.list(list)
		if gateOf(list, words, len(d.env.list(relayLists[0])) == 0) < 0 {
			continue // this one refuses nobody for that
		}
		d.elements = append(d.elements, element{list: list, text: restriction, gate: true})
	}
}

// gateOf is the position of what refuses to relay in a list of restrictions: what
// comes before has its say. It is -1 if there is nothing of the kind. sole says
// that the list is the only one that can.
func gateOf(list string, words []string, sole bool) int {
	i := slices.IndexFunc(words, func(w string) bool {
		switch w {
		case "reject_unauth_destination", "defer_unauth_destination", "check_relay_domains":
			return true
		case "reject", "defer":
			// At the end of the recipients' list it is about something else.
			return sole || list == relayLists[0]
		}
		return false
	})
	for i > 0 && words[i-1] == "warn_if_reject" {
		i-- // which belongs to what comes behind it
	}
	return i
}

// ownLogins names where Postfix has logins that are not ours, or is empty.
func (d *derivation) ownLogins() string {
	if d.env.settings["smtpd_sasl_auth_enable"] == "yes" {
		return "main.cf"
	}
	for _, s := range d.env.master.Services() {
		if s.Command != "smtpd" || d.isOurs(s) {
			continue
		}
		if value, _ := ownOption(s, "smtpd_sasl_auth_enable"); value == "yes" {
			return s.Name + "/" + s.Type
		}
	}
	return ""
}

// isOurs reports whether an entry of master.cf has been put there by a set-up, and
// is as that has left it.
func (d *derivation) isOurs(s conffile.Service) bool {
	return slices.ContainsFunc(d.env.old.Entries, func(text string) bool {
		o, ok := conffile.ParseService(text)
		return ok && o.Name == s.Name && o.Type == s.Type && slices.Equal(o.Args, s.Args)
	})
}

// relayElsewhere says where the lists of main.cf are not those of port 25.
func (d *derivation) relayElsewhere() {
	r := d.req.Relay
	if len(r.Clients) == 0 && len(r.Certificates) == 0 {
		return
	}
	for _, s := range d.env.master.Services() {
		if s.Command != "smtpd" || d.isOurs(s) || s.Type != "pass" && (s.Type != "inet" || portOf(s.Name) != "25") {
			continue
		}
		for _, name := range relayLists {
			value, own := ownOption(s, name)
			if !own || strings.Contains(value, "$"+name) || strings.Contains(value, "${"+name) || strings.Contains(value, "/"+clientTable) || strings.Contains(value, "/"+networkTable) {
				continue
			}
			if gateOf(name, conffile.Words(value), name == relayLists[0]) >= 0 {
				d.warn("the entry %s/%s of master.cf sets %s itself, so sites may not send there: put $%s into it, or before its last restriction what main.cf has of etrnd", s.Name, s.Type, name, name)
			}
		}
	}
}

// portOf is the port of an entry of master.cf, as a number where it is one of
// those that matter here.
func portOf(service string) string {
	port := service
	if i := strings.LastIndexByte(service, ':'); i >= 0 {
		port = service[i+1:]
	}
	switch port {
	case "smtp":
		return "25"
	case "submission":
		return "587"
	}
	return port
}

// portTaken says who else has the port, or is empty. Postfix's master ends, and
// all mail with it, when it cannot bind a port of master.cf.
func (d *derivation) portTaken(submission string) string {
	have := false
	for _, s := range d.env.master.Services() {
		if s.Type != "inet" || portOf(s.Name) != portOf(submission) {
			continue
		}
		if d.isOurs(s) {
			have = have || s.Name == serviceOf(submission)
			continue
		}
		return fmt.Sprintf("master.cf has an entry %s/%s of its own", s.Name, s.Type)
	}
	if have {
		return "" // and in use, by Postfix
	}
	address := submission
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	switch bindFault(address) {
	case syscall.EADDRINUSE:
		return "port " + submission + " is in use"
	case syscall.EADDRNOTAVAIL:
		return submission + " is no address of this machine"
	}
	return ""
}

// hasCert reports whether Postfix's server has a certificate.
func (d *derivation) hasCert() bool {
	for _, name := range []string{"smtpd_tls_chain_files", "smtpd_tls_cert_file", "smtpd_tls_eccert_file", "smtpd_tls_dcert_file"} {
		if v := d.env.settings[name]; v != "" && v != "none" {
			return true
		}
	}
	return false
}

// offersTLS reports whether Postfix's server offers STARTTLS.
func (d *derivation) offersTLS() bool {
	level := d.env.settings["smtpd_tls_security_level"]
	return d.hasCert() && (level == "may" || level == "encrypt" || level == "" && (d.env.settings["smtpd_use_tls"] == "yes" || d.env.settings["smtpd_enforce_tls"] == "yes"))
}

// tlsHint is how it would.
func (d *derivation) tlsHint() string {
	cert, key := d.req.Relay.Cert, d.req.Relay.Key
	switch {
	case d.hasCert():
		return "postconf -e smtpd_tls_security_level=may"
	case cert == "":
		cert, key = filepath.Join("/etc/etrnd", "hub.pem"), filepath.Join("/etc/etrnd", "hub.key")
	}
	return fmt.Sprintf("postconf -e smtpd_tls_security_level=may smtpd_tls_cert_file=%s smtpd_tls_key_file=%s", cert, key)
}

// colons is a fingerprint as Postfix has it.
func colons(hex string) string {
	var pairs []string
	for i := 0; i+1 < len(hex); i += 2 {
		pairs = append(pairs, hex[i:i+2])
	}
	return strings.Join(pairs, ":")
}
