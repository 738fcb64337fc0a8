package setup

import (
	"context"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix"
)

// Routed tells of domains whether mail for them, or for some address in them,
// is routed to a transport of held mail by the files as they are. It reads
// files and asks nobody. "*" is taken to mean every domain.
func Routed(ctx context.Context, pf *postfix.Instance) (func(domain string) bool, error) {
	f, err := load(ctx, pf)
	if err != nil {
		return nil, err
	}
	if f.record == nil {
		return func(string) bool { return false }, nil
	}
	if v, ours := f.record.value("default_transport"); ours {
		if now, set := f.main.Value("default_transport"); set && same(now, v.Value) {
			return func(string) bool { return true }, nil
		}
	}
	keys, domains := map[string]string{}, map[string]bool{}
	if text := f.tables[routeTable]; text != nil {
		keys = byKey(linesOf(*text))
	}
	for key := range keys {
		if at := strings.LastIndexByte(key, '@'); at >= 0 {
			domains[key[at+1:]] = true
		}
	}
	r := &routing{keys: keys, local: func(string) bool { return false }}
	return func(domain string) bool {
		_, ok := r.match("postmaster@" + domain)
		return ok || domains[strings.ToLower(domain)]
	}, nil
}
