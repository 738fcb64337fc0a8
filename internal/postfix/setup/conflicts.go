package setup

import (
	"context"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// conflicts looks for settings of the postmaster's that take held mail
// elsewhere. It reads them as they are now, and relay_domains as it will be.
func conflicts(ctx context.Context, pf *postfix.Instance, env *environment, want *desired, relayDomains string) (found warnings) {
	for _, table := range env.list("transport_maps") {
		if !ourTable(env.dir, table) && strings.Contains(table, ":") {
			found = append(found, clashes(ctx, pf, table, want)...)
		}
	}
	if want.fallback == "" {
		return found
	}
	if s := env.settings["sender_dependent_default_transport_maps"]; s != "" {
		found.warn("sender_dependent_default_transport_maps is %q: for the senders in it mail of the queue of \"*\" is not held", s)
	}
	routed := map[string]bool{}
	for _, r := range want.routes {
		routed[strings.TrimPrefix(r.pattern, ".")] = true
	}
	var apart []string
	for _, d := range conffile.Words(relayDomains) {
		if !routed[strings.TrimPrefix(d, ".")] && !ourTable("", d) {
			apart = append(apart, d)
		}
	}
	if len(apart) > 0 {
		found.warn("mail for relay_domains (%s) goes by relay_transport and is not held by the queue of \"*\": name these domains in the queue if they are to be held", strings.Join(apart, ", "))
	}
	return found
}

// ourTable reports whether an element of a list is a table of ours in a
// configuration directory, or in any if that is empty.
func ourTable(dir, element string) bool {
	_, path, ok := strings.Cut(element, ":")
	for _, name := range ownTables {
		if ok && (path == ownPath(dir, name) || dir == "" && strings.HasSuffix(path, "/"+ownDir+"/"+name)) {
			return true
		}
	}
	return false
}

// clashes are entries of another transport table for what is held.
func clashes(ctx context.Context, pf *postfix.Instance, table string, want *desired) (found warnings) {
	var keys []string
	for _, r := range want.routes {
		keys = append(keys, r.pattern)
	}
	if want.fallback != "" {
		keys = append(keys, "*")
	}
	entries, err := pf.Lookup(ctx, table, keys)
	if err != nil {
		found.warn("cannot look into %s for entries that clash: %v", table, err)
		return found
	}
	for _, r := range want.routes {
		if hop, ok := entries[r.pattern]; ok && hop != r.hop {
			found.warn("%s sends %s to %q: the held route goes before it", table, r.pattern, hop)
		}
	}
	if hop, ok := entries["*"]; ok {
		found.warn("%s sends \"*\" to %q: that goes before default_transport, so the mail of the queue of \"*\" is not held; take that entry out", table, hop)
	}
	return found
}
