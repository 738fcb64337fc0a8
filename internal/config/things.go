package config

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/etrnd/etrnd/internal/queue"
)

// takeName checks the name of a queue, link or remote against those of its
// kind.
func (t *table) takeName(names map[string]taken) string {
	s := t.str("name")
	if !t.has("name") || s == "" && t.vals["name"] != "" {
		return ""
	}
	if queue.ParseName(s) != nil {
		hint := fmt.Sprintf(`write letters, digits, ".", "_" and "-", at most %d, beginning with a letter or digit`, queue.MaxName)
		t.fail("name", hint, "%s is no name for a %s", quote(s), t.name)
		return ""
	}
	if o, ok := names[strings.ToLower(s)]; ok {
		hint := "choose another name"
		if o.name != s {
			hint = "upper and lower case are the same: " + hint
		}
		t.fail("name", hint, "%s is already the name of the %s on line %d", quote(s), t.name, o.line)
		return s
	}
	names[strings.ToLower(s)] = taken{s, t.line("name")}
	return s
}

// takePatterns reads a list of patterns and makes them the queue's own. skip
// takes out the elements that are not patterns.
func (r *reader) takePatterns(t *table, key string, skip func(item) bool) []queue.Pattern {
	var ps []queue.Pattern
	for _, it := range t.strs(key) {
		if skip != nil && skip(it) {
			continue
		}
		p, err := queue.ParsePattern(it.s)
		if err != nil {
			hint := `write "acme.example", ".acme.example" for all below it, "user@acme.example" or "*"`
			if d, ok := strings.CutPrefix(it.s, "*."); ok {
				hint = "write " + quote("."+d) + " for all below " + d
			} else if d, ok := strings.CutPrefix(it.s, "@"); ok {
				err = fmt.Errorf("%s is a name to ask for, not a pattern", quote(it.s))
				hint = "write " + quote(d) + ", and " + quote("."+d) + " for all below it"
			}
			t.failAt(it.line, key, hint, "%s", clip(err.Error()))
			continue
		}
		if o, ok := r.patterns[p.String()]; ok {
			hint := "mail for it can be held in one queue only"
			if o.remote && t.name == "remote" {
				hint = `define a [[queue]] named, for example, "out" with these domains, and write push = ["#out"] in both remotes`
			}
			if o.label == t.label {
				hint = "write it once"
			}
			t.failAt(it.line, key, hint, "%s is already held by %s on line %d", quote(it.s), o.label, o.line)
			continue
		}
		r.patterns[p.String()] = owner{label: t.label, line: it.line, remote: t.name == "remote"}
		ps = append(ps, p)
	}
	return ps
}

func (r *reader) queue(t *table, c *Config) {
	q := queue.Queue{
		Name:        t.takeName(r.queues),
		Domains:     r.takePatterns(t, "domains", nil),
		Clients:     t.prefixes("clients"),
		Window:      t.duration("window"),
		MinInterval: t.duration("min-interval"),
	}
	t.notEmpty("domains", `write domains = ["acme.example"]`)
	if t.has("deliver") {
		q.Deliver = t.deliver("deliver")
	}
	if q.Deliver.Turn && len(c.ODMR.Listen) == 0 {
		t.fail("deliver", `write an [odmr] table, or deliver = "smtp:[host]"`, "\"turn\" needs the listener of [odmr], where the site asks for its mail")
	}
	for _, it := range t.strs("users") {
		if strings.ContainsAny(it.s, " :") {
			t.failAt(it.line, "users", "write the name as it stands in the users file", "%s is no user name: it holds a space or a colon", quote(it.s))
			continue
		}
		q.Users = append(q.Users, it.s)
	}
	for _, it := range t.strs("certificates") {
		fp, msg := fingerprint(it.s)
		if msg != "" {
			t.failAt(it.line, "certificates", "take what openssl x509 -noout -fingerprint -sha256 -in FILE prints", "%s %s", quote(it.s), msg)
			continue
		}
		q.Certificates = append(q.Certificates, fp)
	}
	c.Queues = append(c.Queues, q)
}

// notEmpty objects to a list that is there and has nothing in it.
func (t *table) notEmpty(key, hint string) bool {
	if l, ok := t.vals[key].([]any); ok && len(l) == 0 {
		t.fail(key, hint, "is empty")
		return false
	}
	return true
}

func (r *reader) link(t *table, c *Config) {
	l := Link{
		Name:          t.takeName(r.links),
		Dial:          r.command(t, "dial"),
		HangUp:        r.command(t, "hang-up"),
		DialTimeout:   t.duration("dial-timeout"),
		HangUpTimeout: t.duration("hang-up-timeout"),
		Limit:         t.duration("limit"),
	}
	for _, it := range t.strs("interfaces") {
		_, err := path.Match(it.s, "")
		switch {
		case err != nil:
			t.failAt(it.line, "interfaces", `write a name such as "ppp0", or a pattern such as "wwan*"`, "%s is a broken pattern", quote(it.s))
		case strings.ContainsAny(it.s, " /"):
			t.failAt(it.line, "interfaces", `write a name such as "ppp0", or a pattern such as "wwan*"`, "%s is no name of an interface", quote(it.s))
		case !strings.ContainsAny(it.s, `*?[\`) && len(it.s) > maxIfName:
			t.failAt(it.line, "interfaces", "", "%s is longer than the %d bytes that a name of an interface has", quote(it.s), maxIfName)
		default:
			if other := r.shared(c, it.s); other != "" {
				t.failAt(it.line, "interfaces", "an interface can belong to one link only", "%s also belongs to link %s", quote(it.s), quote(other))
			}
			l.Interfaces = append(l.Interfaces, it.s)
		}
	}
	t.notEmpty("interfaces", `write interfaces = ["ppp0"], or leave the key out`)
	if len(l.HangUp) > 0 && !t.has("interfaces") {
		t.warn("hang-up", `write interfaces = ["ppp0"]`, "without interfaces nothing tells when the link is up or down but etrnctl link up %s and link down %s", l.Name, l.Name)
	}
	if len(l.Dial) > 0 && !t.has("hang-up") {
		t.warn("dial", `write hang-up = ["systemctl", "stop", "etrnd-line@isp"] or the like`, "without hang-up a line that was dialled stays up until somebody else takes it down")
	}
	c.Links = append(c.Links, l)
}

// maxIfName is IFNAMSIZ of Linux without the final NUL.
const maxIfName = 15

// shared finds another link that a name or pattern of interfaces would match
// too, as far as that can be told: two patterns may overlap unseen.
func (r *reader) shared(c *Config, pattern string) string {
	for i := range c.Links {
		l := &c.Links[i]
		if l.Match(pattern) {
			return l.Name
		}
		for _, p := range l.Interfaces {
			if ok, err := path.Match(pattern, p); ok && err == nil {
				return l.Name
			}
		}
	}
	return ""
}

func (r *reader) remote(t *table, c *Config) {
	rem := Remote{
		Name:           t.takeName(r.remotes),
		Protocol:       Protocol(t.str("protocol")),
		RouterType:     RouterType(t.str("router-type")),
		ConnectTimeout: t.duration("connect-timeout"),
		RequestTimeout: t.duration("request-timeout"),
		Wait:           t.duration("wait"),
		Idle:           t.duration("idle"),
		Limit:          t.duration("limit"),
		Senders:        t.prefixes("senders"),
	}
	if rem.Limit > 0 && rem.Wait >= rem.Limit {
		t.fail("wait", "write a shorter wait, or a higher limit", "%s is not shorter than the limit of the whole call, %s", short(int64(rem.Wait)), short(int64(rem.Limit)))
	}
	if s := t.str("link"); s != "" || t.vals["link"] == "" {
		rem.Link = s
		r.findLink(t, c, &rem)
	}
	if s := t.str("host"); s != "" || t.vals["host"] == "" {
		var msg string
		port := uint16(25) // ETRN is a command of SMTP, RFC 1985
		if rem.Protocol.Turns() {
			port = 366 // RFC 2645
		}
		if rem.Host, rem.Port, msg = remoteHost(s, port); msg != "" {
			t.fail("host", `write "hub.example.net", "hub.example.net:366" or "[2001:db8::1]:366"`, "%s %s", quote(s), msg)
		}
	}
	r.requests(t, &rem)
	r.remoteTLS(t, &rem)
	r.credentials(t, &rem)
	r.push(t, c, &rem)
	c.Remotes = append(c.Remotes, rem)
}

func (r *reader) findLink(t *table, c *Config, rem *Remote) {
	var names []string
	for i := range c.Links {
		if sameName(c.Links[i].Name, rem.Link) {
			rem.Link = c.Links[i].Name
			return
		}
		if c.Links[i].Name != "" {
			names = append(names, c.Links[i].Name)
		}
	}
	hint := "write a [[link]] table: a remote is called over a link"
	if len(names) > 0 {
		hint = "the links are " + list(quoted(names), "and")
		if n := nearest(rem.Link, names); n != "" {
			hint = "did you mean " + quote(n) + "?"
		}
	}
	t.fail("link", hint, "there is no link %s", quote(rem.Link))
}

func quoted(words []string) []string {
	qs := make([]string, 0, len(words))
	for _, w := range words {
		qs = append(qs, quote(w))
	}
	return qs
}

// requests reads what is asked for.
func (r *reader) requests(t *table, rem *Remote) {
	seen := map[string]bool{}
	for _, it := range t.strs("request") {
		name, msg, hint := requestName(it.s)
		switch {
		case msg != "":
			t.failAt(it.line, "request", hint, "%s %s", quote(it.s), msg)
		case rem.Protocol.Turns() && strings.HasPrefix(name, "#"):
			t.failAt(it.line, "request", `write the domains, or protocol = "etrn"`, "%s is a queue, and ATRN asks for domains (protocol = %s)", quote(it.s), quote(string(rem.Protocol)))
		case rem.Protocol.Turns() && strings.HasPrefix(name, "@"):
			t.failAt(it.line, "request", `write each domain by itself, or protocol = "etrn"`, "%s stands for domains below it, and ATRN takes each by its name (protocol = %s)", quote(it.s), quote(string(rem.Protocol)))
		case seen[strings.ToLower(name)]:
			t.failAt(it.line, "request", "write it once", "%s is asked for twice", quote(it.s))
		default:
			seen[strings.ToLower(name)] = true
			rem.Request = append(rem.Request, name)
		}
	}
	if n := len("ATRN ") + len(strings.Join(rem.Request, ",")); rem.Protocol.Turns() && n > maxATRN {
		t.fail("request", `share the domains out among several remotes, or write protocol = "etrn"`, "is too long for ATRN: a command of %d bytes, at most %d are allowed", n, maxATRN)
	}
	switch {
	case rem.RouterType == "":
	case rem.RouterType.Pulls():
		if t.notEmpty("request", `write request = ["site.example"]`) && !t.has("request") {
			t.fail("request", `write request = ["site.example"], or router-type = "push-only"`, "is missing: a remote of router-type %s is asked for mail", quote(string(rem.RouterType)))
		}
	case t.has("request"):
		// A request without a pulling type is never sent: it has to be a
		// mistake, since push-only is the default.
		byDefault := ""
		if !t.has("router-type") {
			byDefault = ", the default"
		}
		t.fail("request", `write router-type = "pull-push" or "pull-only"`, "is never sent: router-type is %s%s", quote(string(rem.RouterType)), byDefault)
	}
}

// maxATRN is the longest command line of RFC 5321, section 4.5.3.1.4, without
// CRLF.
const maxATRN = 510

// push reads what is held for the remote. Patterns make a queue of the
// remote's own; "#name" is a [[queue]], which several remotes may share.
func (r *reader) push(t *table, c *Config, rem *Remote) {
	patterns := false // whether there are any, good or bad
	own := r.takePatterns(t, "push", func(it item) bool {
		name, ok := strings.CutPrefix(it.s, "#")
		if !ok {
			patterns = true
			return false
		}
		r.pushQueue(t, c, rem, it, name)
		return true
	})
	kind := quote(string(rem.RouterType))
	switch {
	case rem.RouterType == "":
	case rem.RouterType == PullOnly:
		if t.has("push") {
			t.fail("push", `write router-type = "pull-push", or leave push out`, "is never sent: router-type is %s", kind)
		}
	case t.notEmpty("push", `write push = ["*"] for all mail that is not for this machine`) && !t.has("push"):
		hint := `write push = ["*"] for all mail that is not for this machine`
		if rem.RouterType == PullPush {
			hint += `, or router-type = "pull-only"`
		}
		if rem.RouterType == PushOnly && t.has("request") {
			return // the router-type is what is wrong, and has been said
		}
		t.fail("push", hint, "is missing: nothing is held for a remote of router-type %s without it", kind)
	}

	deliver := queue.Deliver{Protocol: "smtp", NextHop: "[" + rem.Host + "]"}
	if t.has("deliver") {
		deliver = t.deliver("deliver")
		if deliver.Turn {
			t.fail("deliver", `write "smtp:[host]"`, "\"turn\" is for a [[queue]] that others ask for")
		}
		if !patterns && t.has("push") {
			t.fail("deliver", "set it in the [[queue]]", "has no effect: push names queues, and they have a next hop of their own")
		}
	}
	if !patterns {
		return
	}
	if o, ok := r.queues[strings.ToLower(rem.Name)]; ok {
		hint := "choose another name for one of them, or write push = [" + quote("#"+o.name) + "]"
		t.fail("name", hint, "push makes a queue of this name, and there is a [[queue]] %s on line %d already", quote(o.name), o.line)
	}
	q := queue.Queue{
		Name: rem.Name, Remote: rem.Name, Domains: own, Deliver: deliver,
		Window:      r.defaultDuration("queue", "window"),
		MinInterval: r.defaultDuration("queue", "min-interval"),
	}
	if rem.RouterType == PushWait {
		q.Clients = rem.Senders
		if !t.has("senders") {
			t.warn("router-type", `write senders, or a [[queue]] with clients, users or certificates and push = ["#NAME"]`,
				"%s holds mail until the remote asks for it, and nobody may ask", kind)
		}
	}
	rem.PushQueues = append(rem.PushQueues, q.Name)
	c.Queues = append(c.Queues, q)
}

func (r *reader) pushQueue(t *table, c *Config, rem *Remote, it item, name string) {
	for i := range c.Queues {
		q := &c.Queues[i]
		if q.Remote != "" || q.Name == "" || !sameName(q.Name, name) {
			continue
		}
		if q.Deliver.Turn {
			t.failAt(it.line, "push", `give the queue deliver = "smtp:[host]"`, "%s is delivered by \"turn\", which waits for the other side", quote(it.s))
		}
		for _, have := range rem.PushQueues {
			if have == q.Name {
				t.failAt(it.line, "push", "write it once", "%s is named twice", quote(it.s))
				return
			}
		}
		rem.PushQueues = append(rem.PushQueues, q.Name)
		r.pushed[strings.ToLower(q.Name)] = true
		return
	}
	var names []string
	for _, o := range r.queues {
		names = append(names, o.name)
	}
	hint := "write a [[queue]] table of that name"
	if n := nearest(name, names); n != "" {
		hint = "did you mean " + quote("#"+n) + "?"
	}
	t.failAt(it.line, "push", hint, "%s names no [[queue]] of this file", quote(it.s))
}

func (r *reader) remoteTLS(t *table, rem *Remote) {
	rem.TLS = TLSMode(t.str("tls"))
	rem.TLSCA = r.authorities(t)
	rem.TLSCert, rem.TLSKey = r.keyPair(t)
	if rem.TLSName = t.str("tls-name"); rem.TLSName != "" || t.vals["tls-name"] == "" {
		if msg := nameFault(rem.TLSName); t.has("tls-name") && msg != "" {
			t.fail("tls-name", "write the name that stands in the certificate", "%s is not a host name", quote(rem.TLSName))
		}
	}
	var idle []string
	switch rem.TLS {
	case TLSOff:
		idle = []string{"tls-ca", "tls-name", "tls-cert", "tls-key"}
	case TLSInsecure:
		idle = []string{"tls-ca", "tls-name"}
		t.warn("tls", `write tls = "require", with tls-ca or tls-name where they help`, "%s does not check who answers: whoever is on the path can read and answer in the remote's name", quote(string(rem.TLS)))
	}
	for _, key := range idle {
		if t.has(key) {
			t.fail(key, `write tls = "require", or leave it out`, "has no effect with tls = %s", quote(string(rem.TLS)))
		}
	}
}

func (r *reader) credentials(t *table, rem *Remote) {
	rem.User, rem.PasswordFile = t.str("user"), r.password(t)
	switch {
	case t.vals["user"] == "":
		t.fail("user", "leave the key out to do without AUTH", "is empty")
	case t.has("user") && !t.has("password-file"):
		t.fail("user", `name the file whose first line is the password: password-file = "/etc/etrnd/password"`, "has no password-file beside it")
	case t.has("password-file") && !t.has("user"):
		t.fail("password-file", "write the user's name in user", "has no user beside it")
	case !t.has("user") && rem.Protocol == ProtocolATRN:
		t.warn("protocol", `write user and password-file`, "ATRN is for users who have authenticated (RFC 2645): without a user the remote will refuse")
	case !t.has("user") && rem.Protocol == ProtocolAuto:
		t.warn("protocol", `write user and password-file, or protocol = "etrn"`, "ATRN is for users who have authenticated: without a user %s comes down to ETRN", quote("auto"))
	case rem.User != "" && rem.TLS == TLSOff:
		t.warn("tls", `write tls = "require"`, "%s leaves only SCRAM-SHA-256 and CRAM-MD5 for AUTH: other mechanisms would show the password to the line", quote(string(rem.TLS)))
	}
}

// across checks what concerns several tables.
func (r *reader) across(c *Config, queues, links []*table) {
	for i, t := range queues {
		q := &c.Queues[i]
		if t.has("clients") || t.has("users") || t.has("certificates") || r.pushed[strings.ToLower(q.Name)] {
			continue
		}
		t.warn("", "write clients, users or certificates", "nobody may ask for this queue: its mail waits for etrnctl release")
	}
	for i, t := range links {
		if name := c.Links[i].Name; name != "" && len(c.RemotesOf(name)) == 0 {
			t.warn("", "write a [[remote]] with link = "+quote(name), "no remote is called over this link")
		}
	}
	for i := range c.Remotes {
		rem := &c.Remotes[i]
		if rem.Host == "" || !address(rem.Host).IsValid() {
			continue
		}
		// An address that mail may come from is known without the DNS.
		if len(rem.Senders) == 0 {
			a := address(rem.Host).Unmap().WithZone("")
			rem.Senders = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
		}
	}
}
