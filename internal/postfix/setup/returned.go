package setup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// Returned says of what is let go which Postfix would return to its senders, as
// far as that can be known: where its mail is to go is not here, and by the DNS
// leads to this host, or nowhere. It may ask the DNS, for some seconds.
func (pl *Plan) Returned(ctx context.Context) (said []string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	const most = 20
	for i, k := range pl.Let {
		if i == most {
			return append(said, "the other domains have not been looked up")
		}
		if why := pl.returns(ctx, k.Pattern[strings.LastIndexByte(k.Pattern, '@')+1:]); why != "" {
			said = append(said, fmt.Sprintf("mail that is let go for %s will be returned to its senders: %s", k.Pattern, why))
		}
	}
	return said
}

// returns tells why mail for a domain would be returned; empty: it may go.
func (pl *Plan) returns(ctx context.Context, domain string) string {
	v, err := pl.pf.Settings(ctx, "relayhost", "transport_maps", "myhostname", "default_transport")
	if err != nil || v["relayhost"] != "" || strings.Contains(v["default_transport"], ":[") {
		return ""
	}
	if local, err := pl.pf.IsLocal(ctx, domain); err != nil || local {
		return ""
	}
	for _, table := range conffile.Words(v["transport_maps"]) {
		if ourTable("", table) || !strings.Contains(table, ":") {
			continue
		}
		if hops, err := pl.pf.Lookup(ctx, table, []string{domain, "*"}); err != nil || len(hops) > 0 {
			return ""
		}
	}
	hosts := []string{domain}
	if mx, err := net.DefaultResolver.LookupMX(ctx, domain); err == nil && len(mx) > 0 {
		hosts = nil
		for _, m := range mx {
			hosts = append(hosts, strings.TrimSuffix(m.Host, "."))
		}
	}
	own, _ := net.InterfaceAddrs()
	unknown := true
	for _, h := range hosts {
		if strings.EqualFold(h, v["myhostname"]) {
			return "its mail exchanger is this host, and nothing here takes it"
		}
		addresses, err := net.DefaultResolver.LookupHost(ctx, h)
		var dns *net.DNSError
		if !errors.As(err, &dns) || !dns.IsNotFound {
			unknown = false
		}
		if loopsHere(addresses, own) {
			return "its mail exchanger is this host, and nothing here takes it"
		}
	}
	if unknown {
		return "the DNS knows no host for it"
	}
	return ""
}
