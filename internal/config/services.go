package config

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/etrnd/etrnd/internal/foreign"
)

// maxHeader leaves room for a queue's name on one line.
const maxHeader = 60

// markHeader is mta.SplitHeader; the milter cannot use one name for two ends.
const markHeader = "X-ETRN-Split"

func (r *reader) milter(t *table, c *Config) {
	c.Milter = Milter{
		Listen: r.listen(t, "listen", unixOrTCP),
		Report: r.listen(t, "report", unixOnly),
	}
	h, ok := t.text("header")
	if !ok {
		return
	}
	c.Milter.Header = h
	switch {
	case len(h) > maxHeader || strings.Trim(h, letters+digits+"-") != "":
		t.fail("header", fmt.Sprintf(`use letters, digits and "-", at most %d of them`, maxHeader), "%s is not a valid name for a header field", foreign.Quote(h))
	case strings.EqualFold(h, markHeader):
		t.fail("header", "choose another name", "%s is the field that marks messages to be taken apart (mta: split)", foreign.Quote(h))
	case !strings.HasPrefix(strings.ToUpper(h), "X-") || len(h) == 2:
		// The milter removes the field from mail that comes in: of any other
		// name that could be one that people use.
		t.fail("header", `choose a name that begins with "X-"`, "%s may be a field of other people's mail, from which the milter would remove it", foreign.Quote(h))
	}
}

func (r *reader) policy(t *table, c *Config) {
	if t.has("listen") && t.vals["listen"] == "" {
		return
	}
	c.Policy.Listen = r.listen(t, "listen", unixOrTCP)
}

func (r *reader) odmr(t *table, c *Config) {
	o := ODMR{
		CRAMMD5:           t.boolean("cram-md5"),
		MaxConns:          t.number("max-connections"),
		MaxConnsPerClient: t.number("max-connections-per-client"),
		CommandTimeout:    t.duration("command-timeout"),
		SessionTimeout:    t.duration("session-timeout"),
	}
	for _, it := range t.strs("listen") {
		if s := r.listenAt(t, it.line, "listen", it.s, tcpOnly); s != "" {
			o.Listen = append(o.Listen, s)
		}
	}
	t.notEmpty("listen", "to do without this listener, leave out the whole [odmr] table")
	o.TLSCert, o.TLSKey = r.keyPair(t)
	if o.Users = r.path(t, "users"); o.Users != "" && !r.noFiles {
		if r.readable(t, "users", o.Users) != nil && worldReadable(o.Users) {
			t.warn("users", "run chmod o-r "+o.Users, "%s can be read by everyone on this machine, who can then try passwords against the hashes in it", foreign.Quote(o.Users))
		}
	}
	if !t.has("users") {
		if o.CRAMMD5 {
			t.fail("cram-md5", `name a users file: users = "/etc/etrnd/users"`, "has no effect without users")
		}
	} else if !t.has("tls-cert") {
		t.warn("users", "set tls-cert and tls-key", "without a certificate users can only authenticate with SCRAM-SHA-256 or CRAM-MD5: PLAIN and LOGIN need TLS")
	}
	c.ODMR = o
}

func (r *reader) control(t *table, c *Config) {
	c.Control.Listen = r.listen(t, "listen", unixOnly)
	g, ok := t.text("group")
	if !ok {
		return
	}
	c.Control.Group = g
	if g == "" {
		t.fail("group", `write "root" to let nobody else in`, "is empty")
	} else if !r.noFiles && !r.groupExists(g) {
		t.warn("group", "create it with groupadd --system "+g, "there is no group %s on this machine, so only root can use etrnctl", foreign.Quote(g))
	}
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
	where string // its key
	path  string // of a unix socket
	host  netip.Addr
	name  string // of a host given by name
	port  uint16
	position
}

// maxUnixPath is what sun_path of unix(7) holds, without the final NUL.
const maxUnixPath = 107

// listen checks the listener of a key.
func (r *reader) listen(t *table, key string, allowed sockets) string {
	s, ok := t.text(key)
	if !ok {
		return ""
	}
	return r.listenAt(t, t.line(key), key, s, allowed)
}

func (r *reader) listenAt(t *table, line int, key, s string, allowed sockets) string {
	l := listener{where: t.where(key), position: position{t.file, line}}
	if msg, hint := l.parse(s, allowed); msg != "" {
		t.failAt(line, key, hint, "%s", msg)
		return ""
	}
	if l.path == "" && allowed == unixOrTCP && l.name != "localhost" && !l.host.IsLoopback() {
		t.warnAt(line, key, "use a unix socket or 127.0.0.1", "%s can be reached from other machines, and whoever reaches it is believed", foreign.Quote(s))
	}
	for _, other := range r.listeners {
		if !clash(other, l) {
			continue
		}
		// A default has no line: the one to blame is what the file says.
		mine := l
		if mine.line == 0 {
			mine, other = other, mine
		}
		r.errs = append(r.errs, Problem{
			File: mine.file, Line: mine.line, Key: mine.where,
			Msg:  fmt.Sprintf("%s is already taken by %s, %s", foreign.Quote(s), other.where, other.from(mine.file)),
			Hint: "choose another one",
		})
		return ""
	}
	r.listeners = append(r.listeners, l)
	return s
}

// parse reads the socket, or says what is wrong with it.
func (l *listener) parse(s string, allowed sockets) (msg, hint string) {
	file, isUnix := strings.CutPrefix(s, "unix:")
	if isUnix && allowed == tcpOnly {
		return "expected an address with a port, got the unix socket " + foreign.Quote(s), `write "[::]:366" or an address of this machine with a port`
	}
	if isUnix {
		clean := path.Clean(file)
		switch {
		case !path.IsAbs(file):
			return "expected an absolute path, got " + foreign.Quote(s), `write it from the root, as in "unix:/run/etrnd/..."`
		case clean == "/":
			return "expected the path of a file, got " + foreign.Quote(s), `write "unix:/run/etrnd/..."`
		case clean != file:
			return "expected a path without detours, got " + foreign.Quote(s), "write " + foreign.Quote("unix:"+clean)
		case len(file) > maxUnixPath:
			return fmt.Sprintf("the path has %d bytes, and that of a unix socket can have at most %d", len(file), maxUnixPath), "choose a shorter one"
		}
		l.path = file
		return "", ""
	}
	if allowed == unixOnly {
		// Who is at the other end is known from the socket: over TCP anyone
		// on the machine, or beyond it, could speak.
		return "expected a unix socket, got " + foreign.Quote(s), `write "unix:" and an absolute path`
	}
	if strings.HasPrefix(s, "/") && allowed == unixOrTCP {
		return foreign.Quote(s) + " lacks \"unix:\" before the path", "write " + foreign.Quote("unix:"+s)
	}
	host, port, fault := hostPort(s)
	if fault != "" {
		hint = `write "[::]:366" or an address of this machine with a port`
		if allowed == unixOrTCP {
			hint = `write "unix:/path" or "host:port"`
		}
		return foreign.Quote(s) + " " + fault, hint
	}
	l.port = port
	if host == "" {
		l.host = netip.IPv6Unspecified()
	} else if l.host = address(host).Unmap(); !l.host.IsValid() {
		l.name = strings.ToLower(host)
	}
	return "", ""
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
