package mta

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

// facts is what is remembered of the configuration until Refresh.
type facts struct {
	delimiter string
	lists     [][]string // mydestination, virtual_alias_domains, virtual_mailbox_domains
	addresses map[netip.Addr]bool
	local     map[string]bool
}

// IsLocal looks a domain up in mydestination, virtual_alias_domains and
// virtual_mailbox_domains as Postfix does, and an address literal in
// inet_interfaces and proxy_interfaces. A domain of relay_domains is not
// local: its mail goes on. An empty domain is.
func (p *Postfix) IsLocal(ctx context.Context, domain string) (bool, error) {
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
		return err == nil && f.addresses[addr.Unmap()], nil
	}
	p.mu.Lock()
	is, ok := f.local[domain]
	p.mu.Unlock()
	if ok {
		return is, nil
	}
	for _, list := range f.lists {
		if is, err = p.matchList(ctx, list, domain, 0); err != nil {
			return false, fmt.Errorf("is %.100q local: %w", domain, err)
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

// RecipientDelimiter returns the setting recipient_delimiter.
func (p *Postfix) RecipientDelimiter(ctx context.Context) (string, error) {
	f, err := p.known(ctx)
	if err != nil {
		return "", err
	}
	return f.delimiter, nil
}

// Refresh makes the next question read the configuration again.
func (p *Postfix) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.facts = nil
}

func (p *Postfix) known(ctx context.Context) (*facts, error) {
	p.mu.Lock()
	f := p.facts
	p.mu.Unlock()
	if f != nil {
		return f, nil
	}
	names := []string{"recipient_delimiter", "mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "inet_interfaces", "proxy_interfaces"}
	v, err := p.settings(ctx, "", names...)
	if err != nil {
		return nil, err
	}
	f = &facts{delimiter: v["recipient_delimiter"], addresses: map[netip.Addr]bool{}, local: map[string]bool{}}
	for _, name := range names[1:4] {
		f.lists = append(f.lists, words(v[name]))
	}
	for _, w := range append(words(v["inet_interfaces"]), words(v["proxy_interfaces"])...) {
		switch addr, err := netip.ParseAddr(strings.Trim(w, "[]")); {
		case err == nil:
			f.addresses[addr.Unmap()] = true
		case w == "all":
			addrs, err := net.InterfaceAddrs()
			if err != nil {
				return nil, fmt.Errorf("inet_interfaces = all: %w", err)
			}
			for _, a := range addrs {
				if prefix, err := netip.ParsePrefix(a.String()); err == nil {
					f.addresses[prefix.Addr().Unmap()] = true
				}
			}
		case w == "loopback-only" || w == "localhost":
			f.addresses[netip.AddrFrom4([4]byte{127, 0, 0, 1})] = true
			f.addresses[netip.IPv6Loopback()] = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.facts == nil {
		p.facts = f
	}
	return p.facts, nil
}

// settings returns the effective values of settings, with what they refer to
// filled in. An empty dir is the configuration in use.
func (p *Postfix) settings(ctx context.Context, dir string, names ...string) (map[string]string, error) {
	args, err := p.configArgs(ctx)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		args = []string{"-c", dir}
	}
	out, err := p.output(ctx, nil, "postconf", append(append(args, "-x"), names...)...)
	if err != nil {
		return nil, fmt.Errorf("read Postfix's settings: %w", err)
	}
	return parseSettings(out), nil
}

// parseSettings reads the output of postconf, one "name = value" a line.
func parseSettings(out string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(line, "="); ok {
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return m
}

// matchList is Postfix's match on a list of names: the first entry that
// matches decides, "!" in front of it turns it into a refusal, "/file" stands
// for the lines of the file and "type:table" for the keys of the table.
func (p *Postfix) matchList(ctx context.Context, list []string, domain string, depth int) (bool, error) {
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
			if inner, err = readList(entry); err == nil {
				hit, err = p.matchList(ctx, inner, domain, depth+1)
			}
		case strings.Contains(entry, ":"):
			hit, err = p.inTable(ctx, entry, domain)
		default:
			hit = strings.EqualFold(entry, domain)
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
	b, err := readBounded(path, maxListFile)
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			list = append(list, words(line)...)
		}
	}
	return list, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, nil
}

// inTable asks postmap whether a table has a key. The exit status of a key
// that is not there is that of an error, too; only the error says something.
func (p *Postfix) inTable(ctx context.Context, table, key string) (bool, error) {
	_, found, err := p.lookup(ctx, table, key)
	return found, err
}

// plain keeps keys from looking like options, and holds for every domain and
// address that can be routed by a table.
func plain(key string) bool {
	return key != "" && key[0] != '-' && len(key) <= 512 && !strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

func (p *Postfix) lookup(ctx context.Context, table, key string) (value string, found bool, err error) {
	if !plain(key) {
		return "", false, nil
	}
	args, err := p.configArgs(ctx)
	if err != nil {
		return "", false, err
	}
	out, err := p.output(ctx, nil, "postmap", append(args, "-q", key, table)...)
	if err == nil {
		return strings.TrimSpace(out), true, nil
	}
	if saidNothing(err) {
		return "", false, nil
	}
	return "", false, fmt.Errorf("look up %.100q in %s: %w", key, table, err)
}
