package setup

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// rewriting looks for tables that give every address of a held domain another
// one: that comes before any routing. Single addresses are the postmaster's
// business: such mail is for somebody else.
func (l *conflictFinder) rewriting(ctx context.Context) {
	for _, setting := range []string{"virtual_alias_maps", "canonical_maps", "recipient_canonical_maps", "relocated_maps"} {
		for _, table := range l.tables(setting) {
			key := func(domain string) string { return "@" + domain }
			if keyless(table) {
				key = func(domain string) string { return aStranger + "@" + domain }
			}
			entries, domains := l.lookup(ctx, table, key)
			var names []string
			to := ""
			for _, k := range slices.Sorted(maps.Keys(entries)) {
				v := entries[k]
				// "@acme.example @acme.example" lets all of them be.
				domain := domains[k]
				if setting != "relocated_maps" && strings.HasSuffix(strings.ToLower(v), "@"+domain) && !strings.Contains(v, ",") {
					continue
				}
				names, to = append(names, domain), v
			}
			switch {
			case len(names) == 0:
			case setting == "relocated_maps":
				l.warn("relocated_maps: %s has every address of %s moved to %q, so mail for it is refused; take that entry out", table, someNames(names), to)
			default:
				l.warn("%s: %s gives every address of %s another one (%q), so mail for it goes there and is not held; take that entry out", setting, table, someNames(names), to)
			}
		}
	}
}
