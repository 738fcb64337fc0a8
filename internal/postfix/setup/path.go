package setup

import "strings"

// What happens on the way to a site is no verdict on the mail. A name that is
// in the DNS only while the site is connected, an address that turns out to be
// this host's own, a server that will not talk to us: Postfix makes a failure of
// them for good, and would return the mail. Each held transport has a filter
// (smtp_delivery_status_filter) that makes a delay of whatever has not been said
// by the server at the far end of this message, and keeps the postmaster's own
// filter from making a failure of a delay.

// statusTable is the name of the table of that filter.
const statusTable = "status"

const statusTableText = `# How deliveries of held mail end. Written by "etrnctl setup postfix": what is
# changed here is lost with the next.
#
# What the server of a site says of a message passes. All else is a matter of the
# way there, and the mail waits.
if !/^[245]\.[0-9]+\.[0-9]+ host [^ ]+ said: /
/^4(\..+)$/ 4$1
# no such host, or no way to it; this host itself
/^5(\.4\.[0-9]+ .+)$/ 4$1
# a domain that says that it takes no mail at all
/^5(\.1\.10 .+)$/ 4$1
# this host's settings
/^5(\.3\.[05] .+)$/ 4$1
# a greeting or an EHLO
/^5(\.[0-9]+\.[0-9]+ host [^ ]+ refused to talk to me: .+)$/ 4$1
endif
`

// filter makes the element for a held transport, whose settings begin with
// program.
func (d *derivation) filter(s heldService) string {
	setting := s.program + "_delivery_status_filter"
	theirs := "$default_delivery_status_filter"
	if v, ok := d.env.main.Value(setting); ok {
		theirs = v // it cannot refer to itself
	}
	tables := d.table("regexp", statusTable, statusTableText)
	if theirs != "" {
		tables += ", " + theirs
	}
	return "{ " + setting + " = " + tables + " }"
}

// path are the options of a held transport that keep what the postmaster has
// set for other mail from leading held mail astray.
func (d *derivation) path(s heldService) []string {
	// To another host than the site's goes nothing.
	options := []string{s.program + "_fallback_relay="}
	if s.program == "smtp" {
		options = append(options, "best_mx_transport=")
	}
	options = append(options, d.filter(s))
	if !s.turned {
		return options
	}
	// This is LMTP with etrnd over a socket of this host. Settings for LMTP are
	// made for a store of mailboxes, which wants TLS or a password, speaks a
	// dialect, or is given up after a minute.
	for _, off := range []string{
		"tls_policy_maps", "sasl_password_maps", "generic_maps", "header_checks", "mime_header_checks",
		"nested_header_checks", "body_checks", "reply_filter", "discard_lhlo_keywords", "discard_lhlo_keyword_address_maps",
	} {
		options = append(options, "lmtp_"+off+"=")
	}
	for _, no := range []string{"sasl_auth_enable", "tls_wrappermode", "per_record_deadline", "per_request_deadline"} {
		if _, ok := d.env.settings["lmtp_"+no]; ok { // this release has it
			options = append(options, "lmtp_"+no+"=no")
		}
	}
	options = append(options, "lmtp_tls_security_level=none")
	for _, stage := range []string{"lhlo", "mail", "rcpt", "data_init"} {
		options = append(options, "lmtp_"+stage+"_timeout=300s")
	}
	return options
}

// unhurried keeps a rate that is set for all mail from holding up what is let
// go: the line is there now. Nor are probes to be answered after hours, or mail to
// wait in the active queue until retry, by which Postfix defers it, has its turn.
func (d *derivation) unhurried(transport string) {
	for _, delay := range []string{"_destination_rate_delay", "_transport_rate_delay"} {
		if v := d.env.settings["default"+delay]; v != "" && strings.Trim(v, "0smhdw") != "" {
			d.values[transport+delay] = "0s"
		}
	}
}
