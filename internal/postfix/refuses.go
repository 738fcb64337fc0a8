package postfix

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// refusing is what decides whether mail from a host without a login is refused for
// the domain that it is for.
type refusing struct {
	relayed []string // relay_domains
	parents bool     // an entry of it stands for what is below, too
	trusted []netip.Prefix
	unknown bool // there is something that cannot be judged here
}

// refusingNames are the settings that it comes from.
var refusingNames = []string{"relay_domains", "parent_domain_matches_subdomains", "mynetworks", "smtpd_relay_restrictions", "smtpd_recipient_restrictions"}

func readRefusing(v map[string]string) (r refusing) {
	r.relayed = conffile.Words(v["relay_domains"])
	r.parents = slices.Contains(conffile.Words(v["parent_domain_matches_subdomains"]), "relay_domains")
	restrictions := conffile.Words(v["smtpd_relay_restrictions"])
	if len(restrictions) == 0 {
		restrictions = conffile.Words(v["smtpd_recipient_restrictions"])
	}
	networks, known := readNetworks(conffile.Words(v["mynetworks"]))
	r.trusted = networks
	r.unknown = !known || !plain(restrictions)
	return r
}

// plain tells whether a list of restrictions refuses mail that is neither for this
// host nor passed on by it, from whoever is neither in mynetworks nor has logged in,
// and nothing before could let it in.
func plain(restrictions []string) bool {
	for _, r := range restrictions {
		switch r = strings.ToLower(r); r {
		case "reject_unauth_destination", "defer_unauth_destination", "reject", "defer":
			return true
		case "permit_mynetworks", "permit_sasl_authenticated", "permit_auth_destination":
		default:
			if !strings.HasPrefix(r, "reject_") {
				return false
			}
		}
	}
	return false
}

// overridden tells whether the service on port 25 has any of the settings for
// itself, in master.cf. Postfix is asked only by who has to know.
func (p *Instance) overridden(ctx context.Context, f *facts) (bool, error) {
	p.mu.Lock()
	is := f.services
	p.mu.Unlock()
	if is != nil {
		return *is, nil
	}
	found, err := p.readServices(ctx)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.services = &found
	return found, nil
}

func (p *Instance) readServices(ctx context.Context) (overridden bool, err error) {
	args, err := p.configArgs(ctx)
	if err != nil {
		return false, err
	}
	out, err := p.output(ctx, nil, "postconf", append(args, "-P")...)
	if err != nil {
		return false, fmt.Errorf("read Postfix's services: %w", err)
	}
	for line := range strings.Lines(out) { // "service/type/name = value"
		name, _, _ := strings.Cut(line, " = ")
		part := strings.Split(strings.TrimSpace(name), "/")
		if len(part) != 3 {
			continue
		}
		port := part[0][strings.LastIndexByte(part[0], ':')+1:]
		takes := part[1] == "inet" && (port == "smtp" || port == "25") || part[1] == "pass"
		if takes && (slices.Contains(refusingNames, part[2]) || slices.Contains([]string{"mydestination", "virtual_alias_domains", "virtual_mailbox_domains"}, part[2])) {
			return true, nil
		}
	}
	return false, nil
}

// readNetworks reads mynetworks. What is in tables and files, or taken out again,
// is not known.
func readNetworks(words []string) (list []netip.Prefix, known bool) {
	for _, w := range words {
		prefix, err := netip.ParsePrefix(strings.NewReplacer("[", "", "]", "").Replace(w))
		if err != nil {
			addr, aerr := netip.ParseAddr(strings.Trim(w, "[]"))
			if aerr != nil {
				return nil, false
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		list = append(list, prefix)
	}
	return list, true
}

// letsIn tells whether a host with an address in one of these networks, or with any
// that is not this host's if none is known, may send mail to anywhere.
func (r *refusing) letsIn(from []netip.Prefix) bool {
	for _, trusted := range r.trusted {
		if trusted.Addr().Is4In6() {
			trusted = netip.PrefixFrom(trusted.Addr().Unmap(), max(trusted.Bits()-96, 0))
		}
		if len(from) == 0 && !trusted.Addr().IsLoopback() || slices.ContainsFunc(from, trusted.Overlaps) {
			return true
		}
	}
	return false
}

// Takes tells whether Postfix takes mail for a domain from anybody: the domain is
// this host's (IsLocal), or in relay_domains.
func (p *Instance) Takes(ctx context.Context, domain string) (bool, error) {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	if local, err := p.IsLocal(ctx, domain); err != nil || local {
		return local, err
	}
	f, err := p.known(ctx)
	if err != nil {
		return false, err
	}
	r := &f.refusing
	relayed, err := p.matchList(ctx, f, r.relayed, r.keys(domain), 0)
	if err != nil {
		return false, fmt.Errorf("is %s in relay_domains: %w", foreign.Quote(domain), err)
	}
	return relayed, nil
}

// Refuses tells whether mail for a domain is certain to be refused on port 25 since
// Postfix does not take it from anybody (Takes), where the sender is a host with an
// address in one of the networks of from, and has not logged in; no from is any
// other host. False says little: there are more reasons to refuse mail, and where the
// restrictions of main.cf or master.cf are such that only Postfix can tell, it is
// false.
func (p *Instance) Refuses(ctx context.Context, domain string, from []netip.Prefix) (bool, error) {
	f, err := p.known(ctx)
	if err != nil {
		return false, err
	}
	if r := &f.refusing; r.unknown || r.letsIn(from) || !TableKey(domain) {
		return false, nil
	}
	if overridden, err := p.overridden(ctx, f); err != nil || overridden {
		return false, err
	}
	takes, err := p.Takes(ctx, domain)
	return err == nil && !takes, err
}

// keys is by what relay_domains may have a domain: Postfix matches what is below one
// by its bare name or by its name with a dot, never by both.
func (r *refusing) keys(domain string) []string {
	keys := []string{domain}
	for {
		_, parent, below := strings.Cut(domain, ".")
		if !below {
			return keys
		}
		if domain = parent; r.parents {
			keys = append(keys, parent)
		} else {
			keys = append(keys, "."+parent)
		}
	}
}
