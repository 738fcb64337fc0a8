package setup

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// aStranger is the user in an address that no table lists by itself.
const aStranger = "etrnd-asks-for-nobody"

// routes looks into the other transport tables. One that is in front of ours
// goes before it for the same key; and in any, a whole address goes before a
// domain, and a pattern is asked for whole addresses first.
func (l *conflictFinder) routes(ctx context.Context) {
	before := slices.ContainsFunc(l.env.list("transport_maps"), func(t string) bool { return ourTable(l.env.dir, t) })
	held := map[string]bool{}
	for _, r := range l.want.routes {
		held[r.pattern] = true
	}
	for _, table := range l.env.list("transport_maps") {
		switch {
		case ourTable(l.env.dir, table):
			before = false
		case strings.Contains(table, ":"):
			if keyless(table) {
				l.patterns(ctx, table)
			} else {
				l.addresses(ctx, table, held)
			}
			if before || !keyless(table) {
				l.clashes(ctx, table, before)
			}
		}
	}
}

// clashes are entries of another transport table for what is held.
func (l *conflictFinder) clashes(ctx context.Context, table string, before bool) {
	var keys []string
	for _, r := range l.want.routes {
		keys = append(keys, r.pattern)
	}
	if l.want.fallback != "" {
		keys = append(keys, "*")
	}
	if len(keys) > maxRemoteKeys && remoteTable(table) {
		keys = keys[len(keys)-maxRemoteKeys:] // with the "*"
	}
	entries, err := l.pf.Lookup(ctx, table, keys)
	if err != nil {
		l.warn("cannot look into %s for entries that clash: %v", table, err)
		return
	}
	for _, r := range l.want.routes {
		switch hop, ok := entries[r.pattern]; {
		case !ok || hop == r.hop:
		case before:
			l.warn("%s sends %s to %q, and comes before the table of what is held: take that entry out, or write the table behind %s", table, r.pattern, hop, tableElement(l.env.kind, routeTable))
		default:
			l.warn("%s sends %s to %q: the held route goes before it", table, r.pattern, hop)
		}
	}
	if hop, ok := entries["*"]; ok && !l.ours(hop) && !keyless(table) {
		l.warn("%s sends \"*\" to %q: that goes before default_transport, so the mail of the queue of \"*\" is not held; take that entry out", table, hop)
	}
}

// patterns asks a table that answers by patterns for an address of each held
// domain: what it answers goes before the domain itself.
func (l *conflictFinder) patterns(ctx context.Context, table string) {
	entries, domains := l.lookup(ctx, table, func(domain string) string { return aStranger + "@" + domain })
	var names []string
	hop := ""
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if h := entries[key]; !l.ours(h) {
			names, hop = append(names, domains[key]), h
		}
	}
	if len(names) > 0 {
		l.warn("%s sends every address of %s to %q, which goes before the held route of the domain: mail for it is not held; let the pattern leave those addresses out", table, someNames(names), hop)
	}
	if l.want.fallback == "" {
		return
	}
	any := aStranger + "@etrnd-asks.invalid"
	if entries, err := l.pf.Lookup(ctx, table, []string{any}); err == nil && entries[any] != "" && !l.ours(entries[any]) {
		l.warn("%s sends any address to %q, which goes before default_transport: the mail of the queue of \"*\" is not held; take that pattern out", table, entries[any])
	}
}

// addresses looks for single addresses of held domains, in a table that can tell
// all that it has.
func (l *conflictFinder) addresses(ctx context.Context, table string, held map[string]bool) {
	if remoteTable(table) {
		return
	}
	entries, err := l.pf.Dump(ctx, table)
	if err != nil {
		return // it cannot tell; it has been asked for the domains
	}
	var names []string
	hop := ""
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		user, domain, ok := strings.Cut(key, "@")
		if ok && user != "" && !held[key] && held[domain] && !l.ours(entries[key]) {
			names, hop = append(names, key), entries[key]
		}
	}
	if len(names) > 0 {
		l.warn("%s sends %s to %q: a whole address goes before its domain, so mail for it is not held; take the entry out, or give the address a queue of its own", table, someNames(names), hop)
	}
}

// fallback looks for what goes before the queue of "*", which is
// default_transport. relayDomains is as it will be.
func (l *conflictFinder) fallback(ctx context.Context, relayDomains string) {
	const bySender = "sender_dependent_default_transport_maps"
	for _, table := range l.tables(bySender) {
		if entries, err := l.pf.Dump(ctx, table); err == nil && !remoteTable(table) && len(entries) > 0 &&
			!slices.ContainsFunc(slices.Collect(maps.Values(entries)), func(hop string) bool { return !l.ours(hop) && !strings.EqualFold(hop, "DUNNO") }) {
			continue // all of them are held
		}
		transport, _, _ := strings.Cut(l.want.fallback, ":")
		l.warn("%s is %q: for the senders in it mail of the queue of \"*\" is not held; write %s:HOST there instead of smtp:HOST, and it is, until the queue is released", bySender, table, transport)
	}
	routed := map[string]bool{}
	for _, r := range l.want.routes {
		routed[strings.TrimPrefix(r.pattern, ".")] = true
	}
	var apart []string
	for _, d := range conffile.Words(relayDomains) {
		if !routed[strings.TrimPrefix(d, ".")] && !ourTable("", d) {
			apart = append(apart, d)
		}
	}
	if len(apart) > 0 {
		l.warn("mail for relay_domains (%s) goes by relay_transport and is not held by the queue of \"*\": name these domains in the queue if they are to be held", strings.Join(apart, ", "))
	}
}
