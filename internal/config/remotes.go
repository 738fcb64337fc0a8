package config

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/queue"
)

func (r *reader) remote(t *table, c *Config) {
	rem := Remote{
		Name:           t.takeName(r.remotes, len(c.Remotes)),
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
		t.fail("wait", "shorten wait, or raise limit", "expected less than the limit of the whole call (%s), got %s", short(int64(rem.Limit)), short(int64(rem.Wait)))
	}
	if s, ok := t.text("link"); ok {
		rem.Link = r.findLink(t, c, s)
	}
	if s, ok := t.text("host"); ok {
		var msg string
		port := uint16(25) // ETRN is a command of SMTP, RFC 1985
		if rem.Protocol.Turns() {
			port = 366 // RFC 2645
		}
		if rem.Host, rem.Port, msg = remoteHost(s, port); msg != "" {
			t.fail("host", `write "hub.example.net", "hub.example.net:366" or "[2001:db8::1]:366"`, "%s %s", foreign.Quote(s), msg)
		}
		rem.Host = esmtp.ASCII(rem.Host) // as it is looked up
	}
	r.requests(t, &rem)
	r.remoteTLS(t, &rem)
	r.credentials(t, &rem)
	pushLogin(t, &rem)
	r.push(t, c, &rem)
	if a := address(rem.Host); a.IsValid() && len(rem.Senders) == 0 {
		// An address that mail may come from is known without the DNS.
		a = a.Unmap().WithZone("")
		rem.Senders = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}
	}
	c.Remotes = append(c.Remotes, rem)
}

// findLink returns the name of a link as its table has it.
func (r *reader) findLink(t *table, c *Config, name string) string {
	if l, ok := r.links[strings.ToLower(name)]; ok {
		r.called[strings.ToLower(name)] = true
		return l.name
	}
	var names []string
	for i := range c.Links {
		if c.Links[i].Name != "" {
			names = append(names, c.Links[i].Name)
		}
	}
	hint := "add a [[link]] table: a remote is called over a link"
	if len(names) > 0 {
		hint = "the links are " + enumerate(quoted(names), "and")
		if n := nearest(name, names); n != "" {
			hint = "did you mean " + foreign.Quote(n) + "?"
		}
	}
	t.fail("link", hint, "there is no link %s", foreign.Quote(name))
	return name
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
		msg = "has no host before the port"
	}
	return host, port, msg
}

// requests reads what is asked for.
func (r *reader) requests(t *table, rem *Remote) {
	seen := map[string]bool{}
	for _, it := range t.strs("request") {
		name, msg, hint := requestName(it.s)
		switch {
		case msg != "":
			t.failAt(it.line, "request", hint, "%s %s", foreign.Quote(it.s), msg)
		case rem.Protocol.Turns() && strings.HasPrefix(name, "#"):
			t.failAt(it.line, "request", `write its domains, or protocol = "etrn"`, "%s is a queue, but ATRN asks for domains (protocol = %s)", foreign.Quote(it.s), foreign.Quote(string(rem.Protocol)))
		case rem.Protocol.Turns() && strings.HasPrefix(name, "@"):
			t.failAt(it.line, "request", `write each of the domains, or protocol = "etrn"`, "%s includes the domains below it, but ATRN asks for each by its name (protocol = %s)", foreign.Quote(it.s), foreign.Quote(string(rem.Protocol)))
		case seen[strings.ToLower(name)]:
			t.failAt(it.line, "request", "write it once", "%s is asked for twice", foreign.Quote(it.s))
		default:
			seen[strings.ToLower(name)] = true
			rem.Request = append(rem.Request, name)
		}
	}
	if n := len("ATRN ") + len(strings.Join(rem.Request, ",")); rem.Protocol.Turns() && n > maxATRN {
		t.fail("request", `divide the domains among several remotes, or write protocol = "etrn"`, "is too long for ATRN: the command would have %d bytes, and can have at most %d", n, maxATRN)
	}
	switch {
	case rem.RouterType == "":
	case rem.RouterType.Pulls():
		if t.notEmpty("request", `write request = ["site.example"]`) && !t.has("request") {
			t.fail("request", `write request = ["site.example"], or router-type = "push-only"`, "is missing, and a remote with router-type %s is asked for mail", foreign.Quote(string(rem.RouterType)))
		}
	case t.has("request"):
		// A request without a pulling type is never sent: it has to be a
		// mistake, since push-only is the default.
		byDefault := ""
		if !t.has("router-type") {
			byDefault = ", the default"
		}
		t.fail("request", `write router-type = "pull-push" or "pull-only"`, "is never sent, because router-type is %s%s", foreign.Quote(string(rem.RouterType)), byDefault)
	}
}

// maxATRN is the longest command line of RFC 5321, section 4.5.3.1.4, without
// CRLF.
const maxATRN = 510

// requestName brings a name to ask for to the form in which it is sent.
func requestName(s string) (name, msg, hint string) {
	const forms = `write "site.example", "@site.example" for all below it too, or "#queue"`
	if q, ok := strings.CutPrefix(s, "#"); ok {
		if queue.ParseName(q) != nil {
			return "", "does not name a queue", forms
		}
		return s, "", ""
	}
	rest, below := strings.CutPrefix(s, "@")
	if d, ok := strings.CutPrefix(rest, "."); ok {
		return "", "is not a name that can be asked for", "write " + foreign.Quote("@"+d)
	}
	if address(rest).IsValid() {
		return "", "is an address, not a domain", forms
	}
	d, err := queue.Domain(rest)
	if err != nil {
		return "", "is not a name that can be asked for", forms
	}
	// RFC 1985, section 5.3 wants a fully-qualified name; servers answer 501
	// to anything else.
	if !strings.Contains(d, ".") {
		return "", "is not a fully qualified domain", forms
	}
	if below {
		d = "@" + d
	}
	return d, "", ""
}

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
	kind := foreign.Quote(string(rem.RouterType))
	switch {
	case rem.RouterType == "":
	case rem.RouterType == PullOnly:
		if t.has("push") {
			t.fail("push", `write router-type = "pull-push", or leave push out`, "is never sent, because router-type is %s", kind)
		}
	case t.notEmpty("push", `write push = ["*"] for all mail that is not for this machine`) && !t.has("push"):
		hint := `write push = ["*"] for all mail that is not for this machine`
		if rem.RouterType == PullPush {
			hint += `, or router-type = "pull-only"`
		}
		if rem.RouterType == PushOnly && t.has("request") {
			return // the router-type is what is wrong, and has been said
		}
		t.fail("push", hint, "is missing, and without it nothing is held for a remote with router-type %s", kind)
	}

	deliver := queue.Deliver{Protocol: "smtp", NextHop: "[" + rem.Host + "]"}
	if t.has("deliver") {
		deliver = t.deliver("deliver")
		if deliver.Turn {
			t.fail("deliver", `write "smtp:[host]"`, "\"turn\" is only for a [[queue]] that others ask for")
		}
		if !patterns && t.has("push") {
			t.fail("deliver", "set it in the [[queue]]", "has no effect, because push names queues, which have a deliver of their own")
		}
	}
	if !patterns {
		return
	}
	if o, ok := r.queues[strings.ToLower(rem.Name)]; ok {
		hint := "choose another name for one of them, or write push = [" + foreign.Quote("#"+o.name) + "]"
		t.fail("name", hint, "push makes a queue of this name, but there is already the [[queue]] %s %s", foreign.Quote(o.name), o.from(t.file))
	}
	defaults := &table{r: r, name: "queue"}
	q := queue.Queue{
		Name: rem.Name, Remote: rem.Name, Domains: own, Deliver: deliver,
		Window:      defaults.duration("window"),
		MinInterval: defaults.duration("min-interval"),
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

// pushQueue reads the name of a [[queue]].
func (r *reader) pushQueue(t *table, c *Config, rem *Remote, it item, name string) {
	o, ok := r.queues[strings.ToLower(name)]
	if !ok {
		var names []string
		for _, o := range r.queues {
			names = append(names, o.name)
		}
		hint := "add a [[queue]] table of that name"
		if n := nearest(name, names); n != "" {
			hint = "did you mean " + foreign.Quote("#"+n) + "?"
		}
		t.failAt(it.line, "push", hint, "there is no [[queue]] %s", foreign.Quote(it.s))
		return
	}
	if c.Queues[o.index].Deliver.Turn {
		t.failAt(it.line, "push", `give the queue deliver = "smtp:[host]"`, "%s has deliver = \"turn\", which waits for the other side", foreign.Quote(it.s))
	}
	if slices.Contains(rem.PushQueues, o.name) {
		t.failAt(it.line, "push", "write it once", "%s is named twice", foreign.Quote(it.s))
		return
	}
	rem.PushQueues = append(rem.PushQueues, o.name)
	r.pushed[strings.ToLower(name)] = true
}

func (r *reader) remoteTLS(t *table, rem *Remote) {
	rem.TLS = TLSMode(t.str("tls"))
	rem.TLSCA = r.authorities(t)
	rem.TLSCert, rem.TLSKey = r.keyPair(t)
	if name, ok := t.text("tls-name"); ok {
		rem.TLSName = esmtp.ASCII(name)
		if nameFault(name) != "" {
			t.fail("tls-name", "write the name that stands in the certificate", "expected a host name, got %s", foreign.Quote(name))
		}
	}
	var idle []string
	switch rem.TLS {
	case TLSOff:
		idle = []string{"tls-ca", "tls-name", "tls-cert", "tls-key"}
	case TLSInsecure:
		idle = []string{"tls-ca", "tls-name"}
		t.warn("tls", `write tls = "require", with tls-ca or tls-name where they help`, "%s does not check who answers: whoever is on the path can read and answer in the remote's name", foreign.Quote(string(rem.TLS)))
	}
	for _, key := range idle {
		if t.has(key) {
			t.fail(key, `write tls = "require", or leave this key out`, "has no effect with tls = %s", foreign.Quote(string(rem.TLS)))
		}
	}
}

func (r *reader) credentials(t *table, rem *Remote) {
	rem.User, rem.PasswordFile = t.str("user"), r.password(t)
	switch {
	case t.vals["user"] == "":
		t.fail("user", "to do without AUTH, leave the key out", "is empty")
	case t.has("user") && !t.has("password-file"):
		t.fail("user", `name the file whose first line is the password: password-file = "/etc/etrnd/password"`, "needs a password-file")
	case t.has("password-file") && !t.has("user"):
		t.fail("password-file", `write the user's name, as in user = "site"`, "needs a user")
	case !t.has("user") && rem.Protocol == ProtocolATRN:
		t.warn("protocol", `write user and password-file`, "ATRN is for users who have authenticated (RFC 2645): without a user the remote will refuse")
	case !t.has("user") && rem.Protocol == ProtocolAuto:
		t.warn("protocol", `write user and password-file, or protocol = "etrn"`, "ATRN is for users who have authenticated: without a user %s comes down to ETRN", foreign.Quote("auto"))
	}
	// RFC 2645, section 5.1.2: the mechanism that every provider has. Whoever answers
	// in the remote's place gets something to guess the password by.
	rem.CRAMMD5 = rem.Protocol.Turns()
	if t.has("cram-md5") {
		rem.CRAMMD5 = t.boolean("cram-md5")
		if rem.User == "" && rem.CRAMMD5 {
			t.fail("cram-md5", "write user and password-file", "has nothing to log in with")
		}
	}
	if rem.User != "" && rem.TLS == TLSOff {
		left := "SCRAM-SHA-256"
		if rem.CRAMMD5 {
			left += " and CRAM-MD5"
		}
		t.warn("tls", `write tls = "require"`, "%s leaves only %s for AUTH: other mechanisms would show the password to the line", foreign.Quote(string(rem.TLS)), left)
	}
}
