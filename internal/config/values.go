package config

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"github.com/etrnd/etrnd/internal/queue"
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
			return "", 0, "has no port, and an IPv6 address with a port stands in brackets: \"[" + s + "]:port\""
		}
		return "", 0, "is not of the form \"host:port\""
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return "", 0, "has no usable port: " + quote(p) + " is not a number from 1 to 65535"
	}
	if host != "" && !address(host).IsValid() {
		if strings.Contains(host, ":") {
			return "", 0, "holds " + quote(host) + ", which is not an address"
		}
		if msg := nameFault(host); msg != "" {
			return "", 0, "holds " + quote(host) + ", which " + msg
		}
	}
	return host, uint16(n), ""
}

// nameFault says what keeps a name from being looked up.
func nameFault(host string) string {
	// 192.0.2.300 is no name either: no top-level domain is a number.
	if _, err := queue.Domain(host); err != nil {
		return "is neither a host name nor an address"
	}
	return ""
}

// The kinds of sockets that a listener may have.
type sockets int

const (
	unixOrTCP sockets = iota
	unixOnly
	tcpOnly
)

// listener is a socket that the configuration wants to be bound.
type listener struct {
	where string
	line  int
	path  string // of a unix socket
	host  netip.Addr
	name  string // of a host given by name
	port  uint16
}

// maxUnixPath is what sun_path of unix(7) holds, without the final NUL.
const maxUnixPath = 107

// listen checks the listener of a key.
func (r *reader) listen(t *table, key string, allowed sockets) string {
	s := t.str(key)
	if s == "" && t.vals[key] != "" {
		return "" // already objected to
	}
	return r.listenAt(t, t.line(key), key, s, allowed)
}

func (r *reader) listenAt(t *table, line int, key, s string, allowed sockets) string {
	l := listener{where: t.where(key), line: line}
	p, isUnix := strings.CutPrefix(s, "unix:")
	switch {
	case isUnix && allowed == tcpOnly:
		t.failAt(line, key, `write "[::]:366" or an address of this machine with a port`, "%s is no socket that other machines can reach", quote(s))
		return ""
	case isUnix:
		clean := path.Clean(p)
		switch {
		case !path.IsAbs(p):
			t.failAt(line, key, `write an absolute path: "unix:/run/etrnd/..."`, "%s is not an absolute path", quote(s))
			return ""
		case clean != p || clean == "/":
			hint := `name a file: "unix:/run/etrnd/..."`
			if clean != "/" {
				hint = "write " + quote("unix:"+clean)
			}
			t.failAt(line, key, hint, "%s is not a plain path of a file", quote(s))
			return ""
		case len(p) > maxUnixPath:
			t.failAt(line, key, "choose a shorter one", "the path is %d bytes long, and a unix socket takes at most %d", len(p), maxUnixPath)
			return ""
		}
		l.path = p
	case allowed == unixOnly:
		// Who is at the other end is known from the socket: over TCP anyone
		// on the machine, or beyond it, could speak.
		t.failAt(line, key, `write "unix:" and an absolute path`, "%s is not a unix socket", quote(s))
		return ""
	default:
		host, port, msg := hostPort(s)
		if msg != "" {
			hint := `write "[::]:366" or an address of this machine with a port`
			if allowed == unixOrTCP {
				hint = `write "unix:/path" or "host:port"`
			}
			if strings.HasPrefix(s, "/") && allowed == unixOrTCP {
				msg, hint = "lacks \"unix:\" before the path", "write "+quote("unix:"+s)
			}
			t.failAt(line, key, hint, "%s %s", quote(s), msg)
			return ""
		}
		l.port = port
		if host == "" {
			l.host = netip.IPv6Unspecified()
		} else if l.host = address(host).Unmap(); !l.host.IsValid() {
			l.name = strings.ToLower(host)
		}
		if allowed == unixOrTCP && l.name != "localhost" && !l.host.IsLoopback() {
			p := t.problem(line, key, "use a unix socket or 127.0.0.1", "%s can be reached from other machines, and whoever reaches it is believed", quote(s))
			r.warnings = append(r.warnings, p)
		}
	}
	for _, o := range r.listeners {
		if !clash(o, l) {
			continue
		}
		// A default has no line: the one to blame is what the file says.
		mine, other := l, o
		if line == 0 {
			mine, other = o, l
		}
		where := "on line " + strconv.Itoa(other.line)
		if other.line == 0 {
			where = "by default"
		}
		r.errs = append(r.errs, Problem{
			File: r.file, Line: mine.line, Key: mine.where,
			Msg:  fmt.Sprintf("%s cannot be had twice: %s has it %s", quote(s), other.where, where),
			Hint: "choose another one",
		})
		return ""
	}
	r.listeners = append(r.listeners, l)
	return s
}

// clash reports whether two sockets cannot be bound at the same time. A
// wildcard takes the port of every address, and that of IPv6 takes IPv4 too.
func clash(a, b listener) bool {
	if a.path != "" || b.path != "" {
		return a.path == b.path
	}
	if a.port != b.port {
		return false
	}
	if a.name != "" || b.name != "" {
		return a.name == b.name
	}
	return a.host == b.host || covers(a.host, b.host) || covers(b.host, a.host)
}

func covers(wildcard, other netip.Addr) bool {
	return wildcard.IsUnspecified() && (wildcard.Is6() || other.Is4())
}

// prefixes reads a list of addresses and networks.
func (t *table) prefixes(key string) []netip.Prefix {
	var ps []netip.Prefix
	for _, it := range t.strs(key) {
		p, err := prefix(it.s)
		switch {
		case err != nil:
			t.failAt(it.line, key, `write "192.0.2.7", "192.0.2.0/24" or "2001:db8::/48"`, "%s is neither an address nor a network", quote(it.s))
		case p != p.Masked():
			t.failAt(it.line, key, fmt.Sprintf("write %q for the network, %q for the one address", p.Masked(), p.Addr()), "%s is an address with the length of a network", quote(it.s))
		default:
			if p.Bits() == 0 {
				w := t.problem(it.line, key, "", "%s lets in every address there is", quote(it.s))
				t.r.warnings = append(t.r.warnings, w)
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

// fingerprint brings a SHA-256 fingerprint to 64 lower-case hex digits.
func fingerprint(s string) (fp, msg string) {
	fp = strings.ToLower(strings.ReplaceAll(s, ":", ""))
	if strings.Trim(fp, "0123456789abcdef") != "" {
		return "", "is not a fingerprint in hexadecimal"
	}
	switch len(fp) {
	case 64:
		return fp, ""
	case 40:
		return "", "is a SHA-1 fingerprint, not one of SHA-256"
	case 32:
		return "", "is an MD5 fingerprint, not one of SHA-256"
	}
	return "", fmt.Sprintf("has %d hexadecimal digits: a SHA-256 fingerprint has 64", len(fp))
}

// remoteHost splits "host", "host:port", "[address]:port" or an address.
func remoteHost(s string, defaultPort uint16) (host string, port uint16, msg string) {
	if strings.Contains(s, "://") {
		return "", 0, "is a URL, not a host"
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if a := address(bare); a.IsValid() && (s == bare || s == "["+bare+"]") {
		return bare, defaultPort, ""
	}
	if !strings.Contains(s, ":") {
		if msg := nameFault(s); msg != "" {
			return "", 0, msg
		}
		return s, defaultPort, ""
	}
	host, port, msg = hostPort(s)
	if msg == "" && host == "" {
		msg = "names no host"
	}
	return host, port, msg
}

// deliver reads a next hop.
func (t *table) deliver(key string) queue.Deliver {
	s := t.str(key)
	if s == "" && t.vals[key] != "" {
		return queue.Deliver{}
	}
	d, err := queue.ParseDeliver(s)
	if err != nil {
		t.fail(key, "", "%s", clip(err.Error()))
		return queue.Deliver{}
	}
	if msg := nextHopFault(d); msg != "" {
		t.fail(key, `write "smtp:[mail.acme.example]" or "smtp:[mail.acme.example]:2525"`, "%s %s", quote(s), msg)
	}
	return d
}

// nextHopFault finds what is certainly wrong in a next hop. The rest of its
// syntax is the MTA's.
func nextHopFault(d queue.Deliver) string {
	if d.Turn || d.Protocol == "lmtp" && (strings.HasPrefix(d.NextHop, "unix:") || strings.HasPrefix(d.NextHop, "inet:")) {
		return ""
	}
	for hop := range strings.SplitSeq(d.NextHop, ",") { // Postfix tries them in order
		if msg := hopFault(hop); msg != "" {
			return msg
		}
	}
	return ""
}

func hopFault(hop string) string {
	if address(hop).IsValid() {
		return "holds an address without brackets, which would be looked up as a domain"
	}
	host, port, hasPort := hop, "", false
	if rest, ok := strings.CutPrefix(hop, "["); ok {
		in, after, ok := strings.Cut(rest, "]")
		if !ok {
			return "lacks the closing \"]\""
		}
		host = in
		if port, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
			return "goes on after the \"]\" with something that is not a port"
		}
		if address(host).IsValid() || len(host) > 5 && strings.EqualFold(host[:5], "ipv6:") && address(host[5:]).Is6() {
			host = ""
		}
	} else if host, port, hasPort = strings.Cut(hop, ":"); address(host).IsValid() {
		return "holds an address without brackets, which would be looked up as a domain"
	}
	if hasPort && !servicePort(port) {
		return "has no usable port: " + quote(port) + " is not a number from 1 to 65535"
	}
	if host == "" && strings.HasPrefix(hop, "[") && !strings.HasPrefix(hop, "[]") {
		return ""
	}
	if msg := nameFault(host); msg != "" {
		return "holds " + quote(host) + ", which " + msg
	}
	return ""
}

// servicePort takes a number or the name of a service.
func servicePort(s string) bool {
	if s != "" && strings.Trim(s, digits) != "" {
		return strings.Trim(s, letters+digits+"-") == ""
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// requestName brings a name to ask for to the form in which it is sent.
func requestName(s string) (name, msg, hint string) {
	const forms = `write "site.example", "@site.example" for all below it too, or "#queue"`
	if q, ok := strings.CutPrefix(s, "#"); ok {
		if queue.ParseName(q) != nil {
			return "", "holds no name of a queue", forms
		}
		return s, "", ""
	}
	rest, below := strings.CutPrefix(s, "@")
	if d, ok := strings.CutPrefix(rest, "."); ok {
		return "", "is not a name that can be asked for", "write " + quote("@"+d)
	}
	d, err := queue.Domain(rest)
	if err != nil {
		return "", "is not a name that can be asked for", forms
	}
	// RFC 1985, section 5.3 wants a fully-qualified name; servers answer 501
	// to anything else.
	if !strings.Contains(d, ".") {
		return "", "is not a fully-qualified domain", forms
	}
	if below {
		d = "@" + d
	}
	return d, "", ""
}
