package setup

import (
	"path/filepath"
	"slices"
	"strings"
)

// answerETRN makes Postfix ask the policy service who may release what.
func (d *derivation) answerETRN() {
	if d.req.Policy == "" {
		return
	}
	// In front: Postfix lets any client in by default, and a permit that
	// comes before would let it in here.
	d.needFirst("smtpd_etrn_restrictions", "check_policy_service "+d.socket("the policy service", d.req.Policy))
	if others := slices.DeleteFunc(d.env.main.List("smtpd_etrn_restrictions"), func(s string) bool {
		return s == "check_policy_service" || strings.HasPrefix(s, "unix:") || strings.HasPrefix(s, "inet:")
	}); len(others) > 0 {
		d.warn("smtpd_etrn_restrictions has restrictions of its own (%s): the policy service comes first and decides every request, so they are not asked any more", strings.Join(others, " "))
	}
}

// macros that the milter needs, for the stages at which Postfix sends them.
var macros = []struct{ list, names string }{
	{"milter_connect_macros", "{client_addr} {client_port} {daemon_addr} {daemon_port}"},
	{"milter_mail_macros", "{auth_authen} {mail_addr}"},
	{"milter_end_of_data_macros", "i"},
}

// reportToMilter makes Postfix show the milter what comes in.
func (d *derivation) reportToMilter() {
	if d.req.Milter == "" {
		return
	}
	milter := milterElement(d.socket("the milter", d.req.Milter))
	// Last, so that what another milter refuses is not reported as held.
	for _, list := range milterLists {
		d.needLast(list, milter)
	}
	for _, m := range macros {
		for name := range strings.FieldsSeq(m.names) {
			d.need(m.list, name)
		}
	}
}

// milterLists are for mail from the network and from this machine.
var milterLists = []string{"smtpd_milters", "non_smtpd_milters"}

// milterElement is our milter as an element of smtpd_milters. Its settings are
// of this one milter: milter_default_action is for all of them, and another
// one may have to stop the mail when it is down. A milter that hangs costs
// seconds, not minutes.
func milterElement(address string) string {
	return "{ " + address + ", " + milterAccepts + ", connect_timeout=5s, command_timeout=10s, content_timeout=20s }"
}

// milterAccepts keeps mail coming in while the milter is away.
const milterAccepts = "default_action=accept"

// milterAddress is the address in an element of smtpd_milters.
func milterAddress(element, queueDir string) string {
	element = strings.TrimSpace(strings.Trim(element, "{} "))
	address, _, _ := strings.Cut(element, ",")
	address = strings.TrimSpace(address)
	if path, ok := strings.CutPrefix(address, "unix:"); ok && !filepath.IsAbs(path) {
		return "unix:" + filepath.Join(queueDir, path)
	}
	return address
}

// socket is the address as Postfix writes it. Below the queue directory it
// becomes relative to that: Postfix's daemons stand there, in a chroot or not.
func (d *derivation) socket(whose, listen string) string {
	path, ok := strings.CutPrefix(listen, "unix:")
	if !ok {
		return "inet:" + strings.TrimPrefix(listen, "inet:")
	}
	path = filepath.Clean(path)
	queueDir := d.env.settings["queue_directory"]
	if rel, err := filepath.Rel(queueDir, path); err == nil && filepath.IsAbs(path) && rel != ".." && !strings.HasPrefix(rel, "../") {
		return "unix:" + rel
	}
	for _, s := range d.env.master.Services() {
		if s.Command == "smtpd" && s.Chroot == "y" {
			d.warn("the socket of %s, %s, is not below %s, and %s/%s of master.cf is chrooted there and cannot reach it: move the socket to %s", whose, path, queueDir, s.Name, s.Type, filepath.Join(queueDir, "etrnd"))
			break
		}
	}
	return "unix:" + path
}

// fingerprintClients makes Postfix ask for client certificates, and tell the
// policy service their fingerprints in the form that the configuration has.
func (d *derivation) fingerprintClients() {
	if !d.req.ClientCerts {
		return
	}
	const digest = "smtpd_tls_fingerprint_digest"
	d.values["smtpd_tls_ask_ccert"] = "yes"
	_, ours := d.env.old.value(digest)
	switch now := d.env.settings[digest]; {
	case now == "sha256" && !ours:
	case now != "sha256" && !ours && (d.env.settings["relay_clientcerts"] != "" || d.env.main.Has(digest)):
		d.warn("smtpd_tls_fingerprint_digest is %q, and the fingerprints in the configuration are of sha256: change it together with your own tables of fingerprints", now)
	default:
		d.values[digest] = "sha256"
	}
}
