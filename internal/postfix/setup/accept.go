package setup

import (
	"context"
	"slices"
	"strings"
)

// accept makes Postfix take mail for what is held, where it is a hub for it,
// and keep the lists of deferred mail that a release asks for.
func (d *derivation) accept(ctx context.Context) {
	parents := d.env.list("parent_domain_matches_subdomains")
	if slices.Contains(parents, "transport_maps") && slices.ContainsFunc(d.routes, func(r route) bool { return r.pattern[0] == '.' }) {
		d.warn("parent_domain_matches_subdomains lists transport_maps, so Postfix does not look up patterns with a leading dot: take it out of that setting")
	}
	for _, r := range d.req.Routes {
		d.relay(ctx, r, parents)
	}
	for _, r := range d.req.Routes {
		d.flush(r, parents)
	}
	for _, q := range d.req.QueueNames {
		d.need("fast_flush_domains", strings.ToLower(q))
	}
	if v := d.env.settings["relay_recipient_maps"]; v != "" && slices.ContainsFunc(d.req.Routes, func(r Route) bool { return r.Relay }) {
		d.warn("relay_recipient_maps is %q: recipients of held domains that it does not list are refused", v)
	}
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

// listed is a domain as a list has it. Postfix matches subdomains either by
// the bare name or by the name with a dot, never by both.
func listed(list, domain string, below bool, parents []string) string {
	if below && !slices.Contains(parents, list) {
		return "." + domain
	}
	return domain
}

// flush lists a domain in fast_flush_domains.
func (d *derivation) flush(r Route, parents []string) {
	const list = "fast_flush_domains"
	domain, below, _ := domainOf(r.Pattern)
	if domain == "" {
		d.need(list, "static:all")
		return
	}
	d.need(list, listed(list, domain, below, parents))
	if below && !slices.Contains(parents, list) {
		// The name without a dot can be asked for, too.
		d.need(list, domain)
	}
}

// relay lists a domain in relay_domains, if mail for it goes on from here.
func (d *derivation) relay(ctx context.Context, r Route, parents []string) {
	const list = "relay_domains"
	domain, below, address := domainOf(r.Pattern)
	if domain == "" {
		return
	}
	final, err := d.env.isLocal(ctx, domain)
	if err != nil {
		d.warn("cannot find out whether %s is final here: %v", domain, err)
	}
	switch {
	case final && !address && !below:
		d.warn("mail for %s is delivered here (mydestination or a virtual domain): as a held domain it goes to %s instead", domain, r.Deliver)
	case !r.Relay || final:
	case address:
		d.warn("mail for %s is accepted from others only if %s is in relay_domains or is delivered here: that would be for all of the domain, so it is left to you", strings.ToLower(r.Pattern), domain)
	default:
		d.need(list, listed(list, domain, below, parents))
		if below && slices.Contains(parents, list) && !slices.ContainsFunc(d.req.Routes, func(o Route) bool { return strings.EqualFold(o.Pattern, domain) }) {
			d.warn("relay_domains cannot name what is below %s without %s itself (parent_domain_matches_subdomains): mail for %s is accepted too, and not held", domain, domain, domain)
		}
	}
}
