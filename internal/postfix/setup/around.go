package setup

import (
	"net"
	"net/netip"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// around are the postmaster's settings beside ours that change the path of a
// message or a probe into or out of a held queue. docs/postfix.md has what comes
// of each.
var around = []string{
	"default_destination_rate_delay", "default_transport_rate_delay",
	"lmtp_sasl_auth_enable", "lmtp_tls_wrappermode", "lmtp_per_record_deadline", "lmtp_per_request_deadline",
	"virtual_alias_maps", "canonical_maps", "recipient_canonical_maps", "relocated_maps", "recipient_bcc_maps", "always_bcc",
	"receive_override_options", "smtpd_milter_maps", "smtpd_proxy_filter",
	"smtp_tls_security_level", "smtp_tls_policy_maps",
	"smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions", "smtpd_relay_restrictions", "smtpd_data_restrictions",
	"maximal_queue_lifetime", "bounce_queue_lifetime",
}

// ownOption is a setting that an entry of master.cf makes for itself, in either of
// its two forms. Of several the last one counts.
func ownOption(s conffile.Service, name string) (value string, ok bool) {
	for i := 1; i < len(s.Args); i++ {
		if s.Args[i-1] != "-o" {
			continue
		}
		text := s.Args[i]
		if strings.HasPrefix(text, "{") {
			text = strings.TrimSuffix(text[1:], "}")
		}
		if key, v, is := strings.Cut(text, "="); is && strings.TrimSpace(key) == name {
			value, ok = strings.TrimSpace(v), true
		}
	}
	return value, ok
}

// outward reports whether others than this host can connect to a service of
// master.cf: what takes mail back from a filter is on the loopback, and left
// alone.
func outward(s conffile.Service) bool {
	if s.Type != "inet" {
		return true
	}
	host, _, err := net.SplitHostPort(s.Name)
	if err != nil {
		return true // a port
	}
	addr, err := netip.ParseAddr(host)
	return !strings.EqualFold(host, "localhost") && (err != nil || !addr.IsLoopback())
}
