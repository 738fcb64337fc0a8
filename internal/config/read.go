package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/BurntSushi/toml"

	"github.com/etrnd/etrnd/internal/queue"
)

// reader turns one file into a Config and collects what is wrong with it.
type reader struct {
	file    string
	dir     string // of file: where relative file names start
	noFiles bool

	hostname    func() (string, error)
	groupExists func(name string) bool
	now         func() time.Time

	table    []Key
	keys     map[string]map[string]Key // by table and name
	defaults map[string]any            // by "table name"

	errs, warnings []Problem

	listeners []listener
	queues    map[string]taken // names in use, by their lower case
	links     map[string]taken
	remotes   map[string]taken
	patterns  map[string]owner
	pushed    map[string]bool // lower-case names of queues that a remote pushes
}

// taken is a name in use, and where.
type taken struct {
	name string
	line int
}

// owner is the queue that a pattern belongs to.
type owner struct {
	label  string // `queue "acme"`, `remote "hub"`
	line   int
	remote bool
}

func newReader(name string) *reader {
	r := &reader{
		file:     name,
		dir:      filepath.Dir(name),
		hostname: os.Hostname,
		groupExists: func(name string) bool {
			_, err := user.LookupGroup(name)
			var unknown user.UnknownGroupError
			return !errors.As(err, &unknown)
		},
		now:      time.Now,
		table:    Keys(),
		keys:     map[string]map[string]Key{},
		defaults: map[string]any{},
		queues:   map[string]taken{},
		links:    map[string]taken{},
		remotes:  map[string]taken{},
		patterns: map[string]owner{},
		pushed:   map[string]bool{},
	}
	if abs, err := filepath.Abs(r.dir); err == nil {
		r.dir = abs
	}
	// The defaults go through the same checks as what a file says.
	var defaults strings.Builder
	for _, k := range r.table {
		if r.keys[k.Table] == nil {
			r.keys[k.Table] = map[string]Key{}
		}
		r.keys[k.Table][k.Name] = k
		if k.Default != "" {
			defaults.WriteString(strconv.Quote(k.Table+" "+k.Name) + " = " + k.Default + "\n")
		}
	}
	if _, err := toml.Decode(defaults.String(), &r.defaults); err != nil {
		panic("config: a default in the table of keys is no TOML: " + err.Error())
	}
	return r
}

// tables are the names of the tables there are, in order.
func (r *reader) tables() []string {
	var names []string
	for _, k := range r.table {
		if k.Table != "" && !slices.Contains(names, k.Table) {
			names = append(names, k.Table)
		}
	}
	return names
}

func (r *reader) defaultDuration(name, key string) time.Duration {
	return (&table{r: r, name: name}).duration(key)
}

func (r *reader) isTable(name string) bool { return name != "" && r.keys[name] != nil }

func (r *reader) inTable(name string) []Key {
	var ks []Key
	for _, k := range r.table {
		if k.Table == name {
			ks = append(ks, k)
		}
	}
	return ks
}

// read goes through the whole file, whatever it finds on the way. The Config
// is of use only when no errors were collected.
func (r *reader) read(data []byte) *Config {
	if len(data) > maxFile {
		r.errs = append(r.errs, Problem{File: r.file, Msg: "is longer than " + strconv.Itoa(maxFile) + " bytes"})
		return nil
	}
	at, deep := locate(data)
	if deep > 0 {
		r.errs = append(r.errs, Problem{File: r.file, Line: deep, Msg: "keys or values are nested too deeply", Hint: "see etrnd.toml(5) for the keys there are"})
		return nil
	}
	vals, err := decode(data)
	if err != nil {
		// The grammar is broken from here on: whatever else could be said
		// would be guesswork.
		r.errs = append(r.errs, r.syntax(err))
		return nil
	}
	root := &table{r: r, vals: vals, at: at}
	root.checkKeys()

	c := &Config{File: r.file}
	r.top(root, c)
	r.mta(r.one(root, "mta"), c)
	r.milter(r.one(root, "milter"), c)
	r.policy(r.one(root, "policy"), c)
	if root.has("odmr") {
		r.odmr(r.one(root, "odmr"), c)
	}
	r.control(r.one(root, "control"), c)

	queues := r.many(root, "queue")
	for _, t := range queues {
		r.queue(t, c)
	}
	links := r.many(root, "link")
	for _, t := range links {
		r.link(t, c)
	}
	remotes := r.many(root, "remote")
	for _, t := range remotes {
		r.remote(t, c)
	}
	r.across(c, queues, links)

	if len(r.errs) > 0 {
		return nil
	}
	c.set, err = queue.NewSet(c.Queues)
	if err != nil {
		r.errs = append(r.errs, Problem{File: r.file, Msg: err.Error()})
	}
	return c
}

// syntax is the one problem of a file that is no TOML.
func (r *reader) syntax(err error) Problem {
	p := Problem{File: r.file, Msg: clip(err.Error())}
	var pe toml.ParseError
	if errors.As(err, &pe) {
		p.Line, p.Msg = pe.Position.Line, clip(pe.Message)
		if strings.Contains(pe.Message, "already been defined") {
			p.Hint = "write a key or [table] once; [[queue]], [[link]] and [[remote]] may be repeated"
		}
	}
	p.Msg = "not valid TOML: " + strings.TrimSuffix(p.Msg, ".")
	return p
}

// clip makes a message of another package fit for a log: it may quote what we
// read, at any length and with control characters in it.
func clip(s string) string {
	const most = 300
	if len(s) > most {
		s = s[:most] + "..."
	}
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "?") {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}

// one returns a table that is written once. When it is absent, or is no
// table, what it returns holds the defaults.
func (r *reader) one(root *table, name string) *table {
	t := &table{r: r, name: name, label: name, vals: map[string]any{}, at: root.at.kid(name)}
	switch v := root.vals[name].(type) {
	case nil:
	case map[string]any:
		t.vals = v
		t.checkKeys()
	default:
		hint := "write [" + name + "] and the keys below it"
		root.fail(name, hint, "must be a table, not %s", describe(v))
	}
	return t
}

// many returns the tables of a kind that is repeated.
func (r *reader) many(root *table, name string) []*table {
	var maps []map[string]any
	hint := "write [[" + name + "]] with double brackets, once for each " + name
	switch v := root.vals[name].(type) {
	case nil:
	case []map[string]any:
		maps = v
	case []any:
		for i, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				root.fail(name, hint, "must be tables, but element %d is %s", i+1, describe(e))
				return nil
			}
			maps = append(maps, m)
		}
	case map[string]any:
		root.fail(name, hint, "is written as a single table")
		return nil
	default:
		root.fail(name, hint, "must be tables, not %s", describe(v))
	}
	tables := make([]*table, 0, len(maps))
	for i, m := range maps {
		t := &table{r: r, name: name, vals: m, at: root.at.kid(name).item(i)}
		t.label = name + " " + strconv.Itoa(i+1)
		if s, ok := m["name"].(string); ok && s != "" {
			t.label = name + " " + quote(s)
		}
		t.checkKeys()
		tables = append(tables, t)
	}
	return tables
}

func (r *reader) top(t *table, c *Config) {
	c.LogFormat = t.str("log-format")
	switch t.str("log-level") {
	case "debug":
		c.LogLevel = slog.LevelDebug
	case "warning":
		c.LogLevel = slog.LevelWarn
	case "error":
		c.LogLevel = slog.LevelError
	}

	hint := `write hostname = "hub.example.net", the name that this machine has in the DNS`
	if t.has("hostname") {
		if s := t.str("hostname"); s != "" || t.vals["hostname"] == "" {
			if msg := hostnameFault(s); msg != "" {
				t.fail("hostname", hint, "%s %s", quote(s), msg)
			}
			c.Hostname = strings.TrimSuffix(s, ".")
		}
		return
	}
	name, err := r.hostname()
	if err != nil {
		t.fail("hostname", hint, "is not set, and the machine does not say its own: %s", reason(err))
		return
	}
	if msg := hostnameFault(name); msg != "" {
		t.fail("hostname", hint, "is not set, and the machine calls itself %s, which %s", quote(name), msg)
	}
	c.Hostname = name
}

// hostnameFault says what keeps a name from standing in EHLO: RFC 5321,
// section 4.1.1.1, wants a fully-qualified one there, and many servers
// insist.
func hostnameFault(s string) string {
	d, err := queue.Domain(s)
	switch {
	case netip.Addr{} != address(s):
		return "is an address, not a name"
	case err != nil:
		return "is not a host name"
	case !strings.Contains(d, "."):
		return "is not a full host name: it has no domain"
	case strings.Contains(d, "_"):
		return "is not a host name: \"_\" may not be in one"
	}
	return ""
}

func (r *reader) mta(t *table, c *Config) {
	c.MTA = MTA{
		Type:      t.str("type"),
		ConfigDir: t.str("config-dir"),
		SMTP:      t.str("smtp"),
		Transport: t.str("transport"),
		Reconcile: t.duration("reconcile"),
	}
	if dir := c.MTA.ConfigDir; dir != "" || t.vals["config-dir"] == "" {
		switch {
		case !filepath.IsAbs(dir):
			t.fail("config-dir", `write an absolute path such as "/etc/postfix"`, "%s is not an absolute path", quote(dir))
		case !r.noFiles:
			if st, err := os.Stat(dir); err != nil {
				t.fail("config-dir", "install Postfix, or name the directory that holds its main.cf", "%s", reason(err))
			} else if !st.IsDir() {
				t.fail("config-dir", "", "%s is not a directory", quote(dir))
			}
		}
	}
	if s := c.MTA.SMTP; s != "" || t.vals["smtp"] == "" {
		host, _, msg := hostPort(s)
		if msg == "" && host == "" {
			msg = "names no host to connect to"
		}
		if msg != "" {
			t.fail("smtp", `write "127.0.0.1:25"`, "%s %s", quote(s), msg)
		}
	}
	if s := c.MTA.Transport; s != "" || t.vals["transport"] == "" {
		// A service name of Postfix; ":" would end it in the transport table.
		if s == "" || strings.Trim(s, letters+digits+"-_") != "" || strings.Trim(s[:1], letters) != "" {
			t.fail("transport", "write letters, digits, \"-\" and \"_\", beginning with a letter", "%s is no name for a transport", quote(s))
		} else if slices.Contains([]string{"smtp", "relay", "lmtp", "local", "virtual", "error", "retry", "discard"}, s) {
			t.fail("transport", `write a name of its own, such as "transient"`, "%s is a transport that Postfix uses for other mail, all of which would be held", quote(s))
		}
	}
	c.MTA.Split = r.split(t, c.MTA.SMTP)
}

// split reads the port that Postfix opens for itself. Whoever reaches it can
// send mail past the restrictions of the other ports, so it is on the
// loopback or nowhere; and it stands as it is in master.cf, so it is an
// address and no name.
func (r *reader) split(t *table, smtp string) string {
	s := t.str("split")
	if s == "" {
		return ""
	}
	hint := `write "127.0.0.1:10366", or leave the key out`
	at, err := netip.ParseAddrPort(s)
	switch {
	case err != nil || at.Port() == 0:
		t.fail("split", hint, "%s is no address with a port", quote(s))
		return ""
	case !at.Addr().IsLoopback() || at.Addr().Is4In6() || at.Addr().Zone() != "":
		t.fail("split", hint, "%s is not on the loopback of this machine", quote(s))
		return ""
	}
	if host, port, msg := hostPort(smtp); msg == "" && port == at.Port() &&
		(address(host).Unmap() == at.Addr() || strings.EqualFold(host, "localhost")) {
		t.fail("split", `write a port of its own: "127.0.0.1:10366"`, "%s is where the mail server takes all mail (mta: smtp)", quote(s))
		return ""
	}
	return r.listenAt(t, t.line("split"), "split", at.String(), tcpOnly)
}

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

// maxHeader leaves room for a queue's name on one line.
const maxHeader = 60

// markHeader is mta.SplitHeader; the milter cannot use one name for two ends.
const markHeader = "X-ETRN-Split"

func (r *reader) milter(t *table, c *Config) {
	c.Milter = Milter{
		Listen: r.listen(t, "listen", unixOrTCP),
		Header: t.str("header"),
		Report: r.listen(t, "report", unixOnly),
	}
	h := c.Milter.Header
	switch {
	case h == "" && t.vals["header"] != "":
	case len(h) > maxHeader || strings.Trim(h, letters+digits+"-") != "":
		t.fail("header", fmt.Sprintf("write letters, digits and \"-\", at most %d", maxHeader), "%s is no name for a header field", quote(h))
	case strings.EqualFold(h, markHeader):
		t.fail("header", "write another name", "%s is the field that marks messages to be taken apart (mta: split)", quote(h))
	case !strings.HasPrefix(strings.ToUpper(h), "X-") || len(h) == 2:
		// The milter removes the field from mail that comes in: of any other
		// name that could be one that people use.
		t.fail("header", `write a name that begins with "X-"`, "%s may be a field of other people's mail, and the milter removes forged ones", quote(h))
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
	if v, ok := t.vals["listen"].([]any); ok && len(v) == 0 {
		t.fail("listen", "leave the whole [odmr] table out to do without this listener", "is empty")
	}
	o.TLSCert, o.TLSKey = r.keyPair(t)
	if o.Users = r.path(t, "users"); o.Users != "" && !r.noFiles {
		if r.readable(t, "users", o.Users) != nil && worldReadable(o.Users) {
			t.warn("users", "chmod o-r "+o.Users, "%s can be read by everyone on this machine, who can then try passwords against the hashes in it", quote(o.Users))
		}
	}
	if !t.has("users") {
		if o.CRAMMD5 {
			t.fail("cram-md5", `name a users file: users = "/etc/etrnd/users"`, "is of no use without users")
		}
	} else if !t.has("tls-cert") {
		t.warn("users", "set tls-cert and tls-key", "without a certificate users can only authenticate with SCRAM-SHA-256 or CRAM-MD5: PLAIN and LOGIN need TLS")
	}
	c.ODMR = o
}

func (r *reader) control(t *table, c *Config) {
	c.Control = Control{Listen: r.listen(t, "listen", unixOnly), Group: t.str("group")}
	if g := c.Control.Group; g == "" {
		if t.vals["group"] == "" {
			t.fail("group", `write "root" to let nobody else in`, "is empty")
		}
	} else if !r.noFiles && !r.groupExists(g) {
		t.warn("group", "create it with: groupadd --system "+g, "there is no group %s on this machine, so only root may use etrnctl", quote(g))
	}
}

// reason is an error of the operating system without the name of the call.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return quote(pe.Path) + ": " + clip(pe.Err.Error())
	}
	return clip(err.Error())
}
