package setup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// relayTable and flushTable are the names of the tables of what Postfix takes
// mail for, and of what it keeps lists of deferred mail for.
const (
	relayTable = "relay"
	flushTable = "flush"
)

const relayTableHead = "# Domains of held mail that Postfix takes mail for from anyone (relay_domains).\n" +
	"# Written by \"etrnctl setup postfix\": what is changed here is lost with the next.\n"

const flushTableHead = "# Names that held mail can be asked for by (fast_flush_domains). Written by\n" +
	"# \"etrnctl setup postfix\": what is changed here is lost with the next.\n"

// held is the value in tables that are asked only whether they have a key.
const held = "held"

// accept makes Postfix take mail for what is held, where it is a hub for it,
// and keep the lists of deferred mail that a release asks for.
func (d *derivation) accept(ctx context.Context) error {
	parents := d.env.list("parent_domain_matches_subdomains")
	if slices.Contains(parents, "transport_maps") && slices.ContainsFunc(d.routes, func(r route) bool { return r.pattern[0] == '.' }) {
		d.warn("parent_domain_matches_subdomains lists transport_maps, so Postfix does not look up patterns with a leading dot: take it out of that setting")
	}
	domains := make([]string, 0, len(d.req.Routes))
	exact := map[string]bool{} // routes of a domain itself
	for _, r := range d.req.Routes {
		if domain, below, address := domainOf(r.Pattern); domain != "" {
			domains = append(domains, esmtp.Spellings(domain)...)
			exact[domain] = exact[domain] || !below && !address
		}
	}
	slices.Sort(domains)
	final, err := d.env.locals(ctx, slices.Compact(domains))
	if err != nil {
		d.warn("cannot find out which of the domains are final here: %v", err)
	}
	var relayed, flushed []line
	for _, r := range d.req.Routes {
		relayed = append(relayed, d.relay(r, parents, final, exact)...)
		flushed = append(flushed, d.flush(r, parents)...)
	}
	for _, q := range d.req.QueueNames {
		flushed = append(flushed, line{strings.ToLower(q), held})
	}
	if len(relayed) > 0 {
		d.need("relay_domains", d.keyed(relayTable, relayTableHead, relayed))
	}
	if d.fallback != "" {
		d.need("fast_flush_domains", "static:all")
	} else if len(flushed) > 0 {
		d.need("fast_flush_domains", d.keyed(flushTable, flushTableHead, flushed))
		d.flushService()
	}
	if v := d.env.settings["relay_recipient_maps"]; v != "" && len(relayed) > 0 {
		d.warn("relay_recipient_maps is %q: recipients of held domains that it does not list are refused", v)
	}
	return nil
}

// domainOf a pattern: its domain, whether it is for what is below that alone,
// and whether it is for one address there. For "*" the domain is empty.
func domainOf(pattern string) (domain string, below, address bool) {
	pattern = strings.ToLower(pattern)
	if pattern == "*" {
		return "", false, false
	}
	at := strings.LastIndexByte(pattern, '@')
	domain = strings.TrimPrefix(pattern[at+1:], ".")
	return domain, at < 0 && pattern != domain, at >= 0
}

// spelled are the ways in which a pattern stands in a table: Postfix looks up a
// domain as it is written in the mail, and never converts it.
func spelled(pattern string) []string {
	domain, _, _ := domainOf(pattern)
	if domain == "" {
		return []string{strings.ToLower(pattern)}
	}
	before := strings.ToLower(pattern[:len(pattern)-len(domain)])
	var list []string
	for _, d := range esmtp.Spellings(domain) {
		list = append(list, before+d)
	}
	return list
}

// listed is a domain as a list has it. Postfix matches subdomains either by
// the bare name or by the name with a dot, never by both.
func listed(list, domain string, below bool, parents []string) string {
	if below && !slices.Contains(parents, list) {
		return "." + domain
	}
	return domain
}

// flushService gives the table a flush(8) of its own. That program reads
// fast_flush_domains when it starts, does not notice that a table of it has
// changed, and runs for as long as there is work: a new name would be refused
// until the next reload. Whoever asks it to note or to send something
// looks into the table before, so this one need not do so again.
func (d *derivation) flushService() {
	name := d.req.Transport + "-flush"
	d.values["flush_service_name"] = name
	d.entries = append(d.entries, entry(fmt.Sprintf("%-9s unix  n       -       n       1000?   0       flush", name), "fast_flush_domains=static:all"))
}

// flush are the lines of a route in the table of fast_flush_domains.
func (d *derivation) flush(r Route, parents []string) []line {
	const list = "fast_flush_domains"
	domain, below, _ := domainOf(r.Pattern)
	if domain == "" {
		return nil
	}
	var lines []line
	for _, d := range esmtp.Spellings(domain) {
		lines = append(lines, line{listed(list, d, below, parents), held})
		if below && !slices.Contains(parents, list) {
			// The name without a dot can be asked for, too.
			lines = append(lines, line{d, held})
		}
	}
	return lines
}

// relay are the lines of a route in the table of relay_domains, if mail for it
// goes on from here.
func (d *derivation) relay(r Route, parents []string, locals, exact map[string]bool) []line {
	const list = "relay_domains"
	domain, below, address := domainOf(r.Pattern)
	if domain == "" {
		return nil
	}
	spellings := esmtp.Spellings(domain)
	final := slices.ContainsFunc(spellings, func(d string) bool { return locals[d] })
	switch {
	case final && !address && !below:
		d.warn("mail for %s is delivered here (mydestination or a virtual domain): as a held domain it goes to %s instead", domain, r.Deliver)
	case !r.Relay || final:
	case address:
		d.warn("mail for %s is accepted from others only if %s is in relay_domains or is delivered here: that would be for all of the domain, so it is left to you", strings.ToLower(r.Pattern), domain)
	default:
		if below && slices.Contains(parents, list) && !exact[domain] {
			d.warn("relay_domains cannot name what is below %s without %s itself (parent_domain_matches_subdomains): mail for %s is accepted too, and not held", domain, domain, domain)
		}
		var lines []line
		for _, d := range spellings {
			lines = append(lines, line{listed(list, d, below, parents), held})
		}
		return lines
	}
	return nil
}
