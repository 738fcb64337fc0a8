package setup

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// asksDNS are restrictions that answer 450 while there is no line to ask the DNS
// over.
var asksDNS = []string{
	"reject_unknown_client_hostname", "reject_unknown_client", "reject_unknown_reverse_client_hostname",
	"reject_unknown_helo_hostname", "reject_unknown_hostname",
	"reject_unknown_sender_domain", "reject_unknown_address", "reject_unknown_recipient_domain",
}

// restrictions looks, at a site, for what refuses the site's own mail while its
// line is down, which is the very time when mail is to be held.
func (l *conflictFinder) restrictions() {
	if l.want.fallback == "" && !slices.ContainsFunc(l.req.Routes, func(r Route) bool { return !r.Relay }) {
		return
	}
	for _, list := range []string{
		"smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions",
		"smtpd_relay_restrictions", "smtpd_recipient_restrictions", "smtpd_data_restrictions",
	} {
		var ask []string
		for _, w := range l.env.list(list) {
			if w == "permit_mynetworks" || w == "permit" {
				break
			}
			if slices.Contains(asksDNS, w) {
				ask = append(ask, w)
			}
		}
		if len(ask) > 0 {
			l.warn("%s asks the DNS (%s) before permit_mynetworks: while the line is down this site's own mail is refused with 450 instead of held; write permit_mynetworks first", list, strings.Join(ask, ", "))
		}
	}
}

// shortLife is a life of mail in the queue in which a site may well not call
// once.
const shortLife = 24 * time.Hour

// lifetime looks for mail that is returned before anybody can have asked for it.
func (l *conflictFinder) lifetime() {
	if len(l.want.routes) == 0 && l.want.fallback == "" {
		return
	}
	for _, name := range []string{"maximal_queue_lifetime", "bounce_queue_lifetime"} {
		v := l.env.settings[name]
		if life, ok := postfixTime(v, 24*time.Hour); ok && life < shortLife {
			l.warn("%s is %s: mail that nobody asks for within that time goes back to its sender (5d is Postfix's default)", name, v)
		}
	}
}

// postfixTime reads a time of main.cf: a number and s, m, h, d or w.
func postfixTime(v string, unit time.Duration) (time.Duration, bool) {
	if v == "" {
		return 0, false
	}
	if i := strings.IndexByte("smhdw", v[len(v)-1]); i >= 0 {
		unit = []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}[i]
		v = v[:len(v)-1]
	}
	n, err := strconv.ParseUint(v, 10, 31)
	return time.Duration(n) * unit, err == nil && n < 10000
}

// siteTLS looks, at a hub, for TLS that is demanded of every host: one without it,
// or with a certificate of its own making, gets nothing.
func (l *conflictFinder) siteTLS(ctx context.Context) {
	level := l.env.settings["smtp_tls_security_level"]
	if !slices.Contains([]string{"encrypt", "dane-only", "fingerprint", "verify", "secure"}, level) {
		return
	}
	relayed := map[string]bool{}
	for _, r := range l.req.Routes {
		if r.Relay && strings.HasPrefix(r.Deliver, "smtp:") {
			relayed[strings.TrimPrefix(r.Deliver, "smtp:")] = true
		}
	}
	for _, table := range l.tables("smtp_tls_policy_maps") {
		hops := slices.Sorted(maps.Keys(relayed))
		if remoteTable(table) {
			hops = hops[:min(len(hops), maxRemoteKeys)]
		}
		if len(hops) == 0 {
			return
		}
		entries, err := l.pf.Lookup(ctx, table, hops)
		if err != nil {
			l.warn("cannot look into %s for the sites' servers: %v", table, err)
			return
		}
		for hop := range entries {
			delete(relayed, hop)
		}
	}
	if names := slices.Sorted(maps.Keys(relayed)); len(names) > 0 {
		l.warn("smtp_tls_security_level is %q: %s gets its mail only if its server has such TLS; say what it has in smtp_tls_policy_maps (\"%s may\")", level, someNames(names), names[0])
	}
}
