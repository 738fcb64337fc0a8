package setup

import (
	"context"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix"
)

// conflictFinder looks for settings of the postmaster's that lead mail past a
// held queue, or keep it in one. What can be put right without taking anything
// from him is no conflict (path.go, probe.go). docs/postfix.md has them all.
type conflictFinder struct {
	pf   *postfix.Instance
	req  Requirements
	env  *environment
	want *desired
	warnings
}

// conflicts reads the settings as they are now, and those that the set-up
// touches as they will be.
func conflicts(ctx context.Context, pf *postfix.Instance, req Requirements, env *environment, want *desired, after map[string]string) warnings {
	l := &conflictFinder{pf: pf, req: req, env: env, want: want}
	l.routes(ctx)
	l.rewriting(ctx)
	l.milters(after)
	l.restrictions()
	l.lifetime()
	l.siteTLS(ctx)
	if want.fallback != "" {
		l.fallback(ctx, after["relay_domains"])
	}
	return l.warnings
}

// ours reports whether a next hop is by a transport that holds mail.
func (l *conflictFinder) ours(hop string) bool {
	transport, _, _ := strings.Cut(hop, ":")
	return slices.ContainsFunc(l.want.elements, func(e element) bool { return e.list == "defer_transports" && e.text == transport })
}

// someNames are few of many names, for a message.
func someNames(names []string) string {
	slices.Sort(names)
	return some(slices.Compact(names), 3)
}

// Tables of other hosts are asked for so many domains only.
const maxRemoteKeys = 200

// lookup asks a table of the postmaster's for something that is made of each
// held domain.
func (l *conflictFinder) lookup(ctx context.Context, table string, key func(domain string) string) (entries map[string]string, domainOfKey map[string]string) {
	domainOfKey = map[string]string{}
	var keys []string
	for _, r := range l.want.routes {
		domain, below, address := domainOf(r.pattern)
		if below || address {
			continue
		}
		k := key(domain)
		domainOfKey[k] = domain
		keys = append(keys, k)
		if len(keys) == maxRemoteKeys && remoteTable(table) {
			break
		}
	}
	if len(keys) == 0 {
		return nil, nil
	}
	entries, err := l.pf.Lookup(ctx, table, keys)
	if err != nil {
		l.warn("cannot look into %s for what it does with held mail: %v", table, err)
	}
	return entries, domainOfKey
}

// remoteTable reports whether a table is asked over a connection.
func remoteTable(table string) bool {
	kind, _, _ := strings.Cut(table, ":")
	return slices.Contains([]string{"ldap", "mysql", "pgsql", "mongodb", "memcache", "socketmap", "tcp", "nis", "nisplus", "proxy"}, kind)
}

// keyless reports whether a table answers by patterns and not by keys.
func keyless(table string) bool {
	kind, _, _ := strings.Cut(strings.TrimPrefix(table, "proxy:"), ":")
	return slices.Contains([]string{"regexp", "pcre", "static", "pipemap", "unionmap", "randmap", "ldap", "mysql", "pgsql", "sqlite", "socketmap", "tcp", "mongodb"}, kind)
}

// tables are those of a list, ours aside.
func (l *conflictFinder) tables(setting string) (tables []string) {
	for _, t := range l.env.list(setting) {
		if strings.Contains(t, ":") && !ourTable(l.env.dir, t) {
			tables = append(tables, t)
		}
	}
	return tables
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
