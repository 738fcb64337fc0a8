package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/queue"
)

func (r *reader) queue(t *table, c *Config) {
	q := queue.Queue{
		Name:        t.takeName(r.queues, len(c.Queues)),
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
		t.fail("deliver", `add an [odmr] table, or write deliver = "smtp:[host]"`, "\"turn\" needs the listener of [odmr], where the site asks for its mail")
	}
	r.relay(t, &q)
	for _, it := range t.strs("users") {
		if strings.ContainsAny(it.s, " :") {
			t.failAt(it.line, "users", "write the name as it stands in the users file", "%s is not a valid user name: it contains a space or a colon", foreign.Quote(it.s))
			continue
		}
		q.Users = append(q.Users, it.s)
	}
	for _, it := range t.strs("certificates") {
		fp, msg := fingerprint(it.s)
		if msg != "" {
			t.failAt(it.line, "certificates", "take what openssl x509 -noout -fingerprint -sha256 -in FILE prints", "expected a SHA-256 fingerprint, got %s, which %s", foreign.Quote(it.s), msg)
			continue
		}
		q.Certificates = append(q.Certificates, fp)
	}
	c.Queues = append(c.Queues, q)
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
				hint = "write " + foreign.Quote("."+d) + " for all below " + d
			} else if d, ok := strings.CutPrefix(it.s, "@"); ok {
				err = fmt.Errorf("%s is a name to ask for, not a pattern", foreign.Quote(it.s))
				hint = "write " + foreign.Quote(d) + ", and " + foreign.Quote("."+d) + " for all below it"
			}
			t.failAt(it.line, key, hint, "%s", clip(err.Error()))
			continue
		}
		if o, ok := r.patterns[p.String()]; ok {
			hint := "mail for it can be held in only one queue"
			if o.remote && t.name == "remote" {
				hint = `add a [[queue]] named "out", for example, with these domains, and write push = ["#out"] in both remotes`
			}
			if o.label == t.label {
				hint = "write it once"
			}
			t.failAt(it.line, key, hint, "%s is already held by %s, %s", foreign.Quote(it.s), o.label, o.from(t.file))
			continue
		}
		r.patterns[p.String()] = owner{t.label, t.name == "remote", position{t.file, it.line}}
		ps = append(ps, p)
	}
	return ps
}

// deliver reads a next hop.
func (t *table) deliver(key string) queue.Deliver {
	s, ok := t.text(key)
	if !ok {
		return queue.Deliver{}
	}
	d, err := queue.ParseDeliver(s)
	if err != nil {
		t.fail(key, "", "%s", clip(err.Error()))
		return queue.Deliver{}
	}
	if msg := nextHopFault(d); msg != "" {
		t.fail(key, `write "smtp:[mail.acme.example]" or "smtp:[mail.acme.example]:2525"`, "%s %s", foreign.Quote(s), msg)
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
		return "contains an address without brackets, which would be looked up as a domain"
	}
	host, port, hasPort := hop, "", false
	if rest, ok := strings.CutPrefix(hop, "["); ok {
		in, after, ok := strings.Cut(rest, "]")
		if !ok {
			return "lacks the closing \"]\""
		}
		host = in
		if port, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
			return "goes on after the \"]\" with something other than a port"
		}
		if address(host).IsValid() || len(host) > 5 && strings.EqualFold(host[:5], "ipv6:") && address(host[5:]).Is6() {
			host = ""
		}
	} else if host, port, hasPort = strings.Cut(hop, ":"); address(host).IsValid() {
		return "contains an address without brackets, which would be looked up as a domain"
	}
	if hasPort && !servicePort(port) {
		return "has no valid port: expected 1 to 65535, got " + foreign.Quote(port)
	}
	if host == "" && strings.HasPrefix(hop, "[") && !strings.HasPrefix(hop, "[]") {
		return ""
	}
	if msg := nameFault(host); msg != "" {
		return "contains " + foreign.Quote(host) + ", which " + msg
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

// fingerprint brings a SHA-256 fingerprint to 64 lower-case hex digits.
func fingerprint(s string) (fp, msg string) {
	fp = strings.ToLower(strings.ReplaceAll(s, ":", ""))
	if strings.Trim(fp, "0123456789abcdef") != "" {
		return "", "is not in hexadecimal"
	}
	switch len(fp) {
	case 64:
		return fp, ""
	case 40:
		return "", "is one of SHA-1"
	case 32:
		return "", "is one of MD5"
	}
	return "", fmt.Sprintf("has %d digits instead of 64", len(fp))
}
