package setup

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/postfix"
)

// Router tells, again and again, what is routed to transports of held mail by
// the files as they are. It reads them when they have changed, and asks nobody.
// It is not safe for concurrent use.
type Router struct {
	pf   *postfix.Instance
	seen postfix.Files
	last Routed
}

// Routed tells of a domain whether mail for it, or for some address in it, is
// held on our account. surely says that it has a route of its own; else it has
// one as all has that is not delivered here, and whether it is delivered here
// has not been looked at.
type Routed func(domain string) (ours, surely bool)

// NewRouter returns the Router of a Postfix.
func NewRouter(pf *postfix.Instance) *Router { return &Router{pf: pf} }

// Routed reads the files, if need be.
func (r *Router) Routed(ctx context.Context) (Routed, error) {
	dir, err := r.pf.ConfigDir(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	before := postfix.LookAt(paths(dir))
	if r.last != nil && maps.Equal(r.seen, before) {
		return r.last, nil
	}
	f, err := load(ctx, r.pf)
	if err != nil {
		return nil, err
	}
	r.last, r.seen = f.routed(), before
	for path, now := range postfix.LookAt(paths(dir)) {
		if now != before[path] || now.Settling(start) {
			r.seen = nil // read again next time
		}
	}
	return r.last, nil
}

// routes are the lines of the transport table as it is, by their keys, and whether
// all else that is not delivered here goes by a default_transport of ours.
func (f *files) routes() (keys map[string]string, rest bool) {
	keys = map[string]string{}
	if text := f.tables[routeTable]; text != nil {
		keys = byKey(linesOf(*text))
	}
	if f.record == nil {
		return keys, false
	}
	if v, ours := f.record.value("default_transport"); ours {
		now, set := f.main.Value("default_transport")
		rest = set && same(now, v.Value)
	}
	return keys, rest
}

func (f *files) routed() Routed {
	if f.record == nil {
		return func(string) (bool, bool) { return false, false }
	}
	keys, rest := f.routes()
	domains := map[string]bool{}
	for key := range keys {
		if at := strings.LastIndexByte(key, '@'); at >= 0 {
			domains[key[at+1:]] = true
		}
	}
	r := &routing{keys: keys, local: func(string) bool { return false }}
	return func(domain string) (ours, surely bool) {
		if domain != "" {
			_, surely = r.match("postmaster@" + domain)
		}
		// Of an address of its own in a domain that is not held no more is
		// known than of the rest.
		return surely || rest || domains[folded(domain)], surely
	}
}
