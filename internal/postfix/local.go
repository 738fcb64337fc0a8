package postfix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

const (
	// maxListFile bounds a file of domains that a setting names.
	maxListFile = 4 << 20
	// maxListDepth bounds files that name files.
	maxListDepth = 4
	// maxLocal bounds the answers that IsLocal remembers: the names come from
	// the addresses of strangers.
	maxLocal = 10000
)

// IsLocal looks a domain up in mydestination, virtual_alias_domains and
// virtual_mailbox_domains as Postfix does, and an address literal in
// inet_interfaces and proxy_interfaces. A domain of relay_domains is not
// local: its mail goes on. An empty domain is.
func (p *Instance) IsLocal(ctx context.Context, domain string) (bool, error) {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	if domain == "" {
		return true, nil
	}
	f, err := p.known(ctx)
	if err != nil {
		return false, err
	}
	if lit, ok := strings.CutPrefix(domain, "["); ok {
		lit = strings.TrimPrefix(strings.TrimSuffix(lit, "]"), "ipv6:")
		addr, err := netip.ParseAddr(lit)
		if err != nil {
			return false, nil
		}
		return p.ours(f, addr.Unmap())
	}
	p.mu.Lock()
	is, ok := f.local[domain]
	p.mu.Unlock()
	if ok {
		return is, nil
	}
	for _, list := range f.lists {
		if is, err = p.matchList(ctx, f, list, []string{domain}, 0); err != nil {
			return false, fmt.Errorf("is %s local: %w", foreign.Quote(domain), err)
		}
		if is {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(f.local) >= maxLocal {
		clear(f.local)
	}
	f.local[domain] = is
	return is, nil
}

// Locals returns those of many domains that IsLocal would find to be local, and
// asks each table once for all of them.
func (p *Instance) Locals(ctx context.Context, domains []string) (map[string]bool, error) {
	f, err := p.known(ctx)
	if err != nil {
		return nil, err
	}
	local := map[string]bool{}
	open := make([]string, 0, len(domains))
	for _, d := range domains {
		if TableKey(d) {
			open = append(open, strings.ToLower(d))
		}
	}
	for _, list := range f.lists {
		said := map[string]bool{}
		if err := p.matchAll(ctx, f, list, open, said, 0); err != nil {
			return nil, fmt.Errorf("which domains are local: %w", err)
		}
		for d, is := range said {
			if is {
				local[d] = true
			}
		}
		open = slices.DeleteFunc(open, func(d string) bool { return local[d] })
	}
	return local, nil
}

// matchAll is matchList for many domains: said has those that an entry
// matches, with what it says of them.
func (p *Instance) matchAll(ctx context.Context, f *facts, list, domains []string, said map[string]bool, depth int) error {
	if depth > maxListDepth {
		return fmt.Errorf("files name files more than %d deep", maxListDepth)
	}
	wanted := make(map[string]bool, len(domains))
	for _, d := range domains {
		wanted[d] = true
	}
	for _, entry := range list {
		is := true
		for strings.HasPrefix(entry, "!") {
			is, entry = !is, entry[1:]
		}
		hits := map[string]bool{}
		switch {
		case strings.HasPrefix(entry, "/"):
			p.note(f, entry)
			inner, err := readList(entry)
			if err != nil {
				return err
			}
			if err := p.matchAll(ctx, f, inner, domains, hits, depth+1); err != nil {
				return err
			}
		case strings.Contains(entry, ":"):
			p.note(f, tableFiles(entry)...)
			var keys []string
			for _, d := range domains {
				if _, ok := said[d]; !ok {
					keys = append(keys, d)
				}
			}
			if len(keys) == 0 {
				continue
			}
			found, err := p.Lookup(ctx, entry, keys)
			if err != nil {
				return fmt.Errorf("look into %s: %w", entry, err)
			}
			for d := range found {
				hits[d] = true
			}
		default:
			if d := strings.ToLower(entry); wanted[d] {
				hits[d] = true
			}
		}
		for d, hit := range hits {
			if _, ok := said[d]; hit && !ok {
				said[d] = is
			}
		}
	}
	return nil
}

// ours reports whether an address is one of those that Postfix takes for its own.
// The machine is asked for its addresses only when it must be: whoever asks about
// domains needs no right to see them. In a sandbox without netlink, or with a
// network of its own, as the milter's is, no more than the loopback and what
// inet_interfaces and proxy_interfaces name can be known.
func (p *Instance) ours(f *facts, addr netip.Addr) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.all && !f.asked && !f.addresses[addr] {
		addrs, err := net.InterfaceAddrs()
		if err != nil && !errors.Is(err, syscall.EAFNOSUPPORT) {
			return false, fmt.Errorf("inet_interfaces = all: %w", err)
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				f.addresses[prefix.Addr().Unmap()] = true
			}
		}
		f.asked = true
	}
	return f.addresses[addr], nil
}

// matchList is Postfix's match on a list of names: the first entry that
// matches decides, "!" in front of it turns it into a refusal, "/file" stands
// for the lines of the file and "type:table" for the keys of the table. keys are
// what an entry may be, or a table have, for the name that is looked up.
func (p *Instance) matchList(ctx context.Context, f *facts, list, keys []string, depth int) (bool, error) {
	if depth > maxListDepth {
		return false, fmt.Errorf("files name files more than %d deep", maxListDepth)
	}
	for _, entry := range list {
		is := true
		for strings.HasPrefix(entry, "!") {
			is, entry = !is, entry[1:]
		}
		var hit bool
		var err error
		switch {
		case strings.HasPrefix(entry, "/"):
			var inner []string
			p.note(f, entry)
			if inner, err = readList(entry); err == nil {
				hit, err = p.matchList(ctx, f, inner, keys, depth+1)
			}
		case strings.Contains(entry, ":"):
			p.note(f, tableFiles(entry)...)
			for _, key := range keys {
				if hit, err = p.inTable(ctx, entry, key); hit || err != nil {
					break
				}
			}
		default:
			hit = slices.ContainsFunc(keys, func(key string) bool { return strings.EqualFold(entry, key) })
		}
		if err != nil {
			return false, err
		}
		if hit {
			return is, nil
		}
	}
	return false, nil
}

// readList reads a file of names, in the syntax of main.cf: comments begin a
// line.
func readList(path string) ([]string, error) {
	text, err := ReadFile(path, maxListFile)
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			list = append(list, conffile.Words(line)...)
		}
	}
	return list, nil
}

// inTable asks postmap whether a table has a key. The exit status of a key
// that is not there is that of an error, too; only the error says something.
func (p *Instance) inTable(ctx context.Context, table, key string) (bool, error) {
	if !TableKey(key) {
		return false, nil
	}
	args, err := p.configArgs(ctx)
	if err != nil {
		return false, err
	}
	switch err := p.run(ctx, nil, nil, "postmap", append(args, "-q", key, table)...); {
	case err == nil:
		return true, nil
	case saidNothing(err):
		return false, nil
	default:
		return false, fmt.Errorf("look up %s in %s: %w", foreign.Quote(key), table, err)
	}
}

// tableFiles are the files that a table may be in: the one that it names, and
// those that postmap(1) makes of it for the table types that are indexed.
func tableFiles(table string) []string {
	i := strings.Index(table, ":/")
	if i < 0 {
		return nil
	}
	path := filepath.Clean(table[i+1:])
	return []string{path, path + ".db", path + ".cdb", path + ".lmdb", path + ".pag"}
}
