package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/queue"
)

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

// address parses an address, or returns the zero one.
func address(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

// hostPort splits "host:port". The message completes a sentence that begins
// with the value.
func hostPort(s string) (host string, port uint16, msg string) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		if address(s).Is6() {
			return "", 0, "is an IPv6 address without a port"
		}
		if !strings.Contains(s, ":") {
			return "", 0, "has no port"
		}
		return "", 0, "is not of the form \"host:port\""
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return "", 0, "has no valid port: expected 1 to 65535, got " + foreign.Quote(p)
	}
	if host != "" && !address(host).IsValid() {
		if strings.Contains(host, ":") {
			return "", 0, "contains " + foreign.Quote(host) + ", which is not an address"
		}
		if msg := nameFault(host); msg != "" {
			return "", 0, "contains " + foreign.Quote(host) + ", which " + msg
		}
	}
	return host, uint16(n), ""
}

// nameFault says what keeps a name from being looked up.
func nameFault(host string) string {
	d, err := queue.Domain(host)
	if err != nil {
		return "is neither a host name nor an address"
	}
	// 192.0.2.300 is no name either: no top-level domain is a number.
	if top := d[strings.LastIndexByte(d, '.')+1:]; strings.Trim(top, digits) == "" {
		return "is neither a host name nor an address"
	}
	return ""
}

// prefixes reads a list of addresses and networks.
func (t *table) prefixes(key string) []netip.Prefix {
	var ps []netip.Prefix
	for _, it := range t.strs(key) {
		p, err := prefix(it.s)
		switch {
		case err != nil:
			t.failAt(it.line, key, `write "192.0.2.7", "192.0.2.0/24" or "2001:db8::/48"`, "expected an address or a network, got %s", foreign.Quote(it.s))
		case p != p.Masked():
			t.failAt(it.line, key, fmt.Sprintf("write %q for the network, or %q for the one address", p.Masked(), p.Addr()), "%s is the address of a machine with the length of a network", foreign.Quote(it.s))
		default:
			if p.Bits() == 0 {
				t.warnAt(it.line, key, "", "%s lets in every address there is", foreign.Quote(it.s))
			}
			ps = append(ps, p)
		}
	}
	return ps
}

func prefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		// ::ffff:192.0.2.0/120 means IPv4, and peers are compared as such.
		if p.Addr().Is4In6() {
			if p.Bits() < 96 {
				return netip.Prefix{}, fmt.Errorf("%s mixes IPv4 and IPv6", s)
			}
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%s has a zone", s)
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}
