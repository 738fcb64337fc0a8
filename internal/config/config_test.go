package config

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/queue"
)

var update = flag.Bool("update", false, "rewrite the expected messages in testdata")

// copied returns testdata in a directory of the test's own, with modes that a
// checkout cannot be relied on to give.
func copied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		switch filepath.Base(path) {
		case "password", "users", "hub.key":
			return os.Chmod(path, 0o600)
		}
		return os.Chmod(path, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// withHost stands in for what the machine knows.
func withHost(name string, groups ...string) Option {
	return func(r *reader) {
		r.hostname = func() (string, error) { return name, nil }
		r.groupExists = func(g string) bool {
			for _, have := range groups {
				if g == have {
					return true
				}
			}
			return false
		}
	}
}

// TestBad reads one directory for each way to get it wrong. The same
// directories are meant for the real binaries, so nothing here depends on
// options that they do not have.
func TestBad(t *testing.T) {
	root := copied(t)
	dirs, err := os.ReadDir("testdata/bad")
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) < 40 {
		t.Fatalf("only %d bad configurations found", len(dirs))
	}
	for _, d := range dirs {
		t.Run(d.Name(), func(t *testing.T) {
			dir := filepath.Join(root, "bad", d.Name())
			_, err := Load(filepath.Join(dir, "etrnd.toml"))
			var bad *Error
			if !errors.As(err, &bad) {
				t.Fatalf("Load: %v, want an *Error", err)
			}
			got := strings.ReplaceAll(err.Error(), dir+"/", "") + "\n"
			got = strings.ReplaceAll(got, filepath.Dir(dir)+"/", "../")
			got = strings.ReplaceAll(got, root+"/", "../../")
			wantFile := filepath.Join("testdata/bad", d.Name(), "want")
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

// good loads a file of testdata/good and its warnings as text.
func good(t *testing.T, name string, opts ...Option) (*Config, string) {
	t.Helper()
	file := filepath.Join(copied(t), "good", name)
	c, err := Load(file, opts...)
	if err != nil {
		t.Fatalf("Load:\n%v", err)
	}
	var warnings strings.Builder
	for _, w := range c.Warnings {
		warnings.WriteString(strings.ReplaceAll(w.String(), filepath.Dir(file)+"/", "") + "\n")
	}
	return c, warnings.String()
}

func prefixList(t *testing.T, ss ...string) []netip.Prefix {
	t.Helper()
	var ps []netip.Prefix
	for _, s := range ss {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	return ps
}

func patternList(t *testing.T, ss ...string) []queue.Pattern {
	t.Helper()
	var ps []queue.Pattern
	for _, s := range ss {
		p, err := queue.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	return ps
}

func diff(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// TestMinimal pins every default outside the repeated tables.
func TestMinimal(t *testing.T) {
	c, warnings := good(t, "minimal.toml", withHost("unused.example.net", "etrnd"))
	diff(t, "warnings", warnings, "")
	diff(t, "hostname", c.Hostname, "hub.example.net")
	diff(t, "log", []any{c.LogLevel, c.LogFormat}, []any{slog.LevelInfo, "text"})
	diff(t, "mta", c.MTA, MTA{Type: "postfix", ConfigDir: "/etc/postfix", SMTP: "127.0.0.1:25", Transport: "transient", Reconcile: time.Minute, Submission: "587"})
	diff(t, "milter", c.Milter, Milter{Listen: "unix:/var/spool/postfix/etrnd/milter.sock", Header: "X-ETRN-Queue", Report: "unix:/run/etrnd/report.sock"})
	diff(t, "policy", c.Policy, Policy{Listen: "unix:/var/spool/postfix/etrnd/policy.sock"})
	diff(t, "odmr", c.ODMR, ODMR{})
	diff(t, "control", c.Control, Control{Listen: "unix:/run/etrnd/control.sock", Group: "etrnd"})
	if len(c.Queues)+len(c.Links)+len(c.Remotes) != 0 || c.Set() == nil {
		t.Errorf("queues %v, links %v, remotes %v, set %v", c.Queues, c.Links, c.Remotes, c.Set())
	}
}

func TestHub(t *testing.T) {
	c, warnings := good(t, "hub.toml", withHost("unused.example.net", "etrnd"))
	diff(t, "warnings", warnings, "")
	dir := filepath.Join(filepath.Dir(filepath.Dir(c.File)), "tls")
	diff(t, "odmr", c.ODMR, ODMR{
		Listen: []string{"[::]:366"}, TLSCert: dir + "/hub.pem", TLSKey: dir + "/hub.key", Users: dir + "/users",
		MaxConns: 1000, MaxConnsPerClient: 20, CommandTimeout: 5 * time.Minute, SessionTimeout: 30 * time.Minute,
	})
	diff(t, "queues", c.Queues, []queue.Queue{
		{
			Name: "acme", Domains: patternList(t, "acme.example", ".acme.example"), Deliver: queue.Deliver{Protocol: "smtp", NextHop: "[mail.acme.example]"},
			Clients: prefixList(t, "192.0.2.0/24"), Users: []string{"acme"}, Window: 5 * time.Minute, MinInterval: 5 * time.Second,
		},
		{
			Name: "beta", Domains: patternList(t, "beta.example", "postmaster@beta.test"), Deliver: queue.Deliver{Protocol: "smtp", NextHop: "[2001:db8::25]:2525"},
			Clients: prefixList(t, "2001:db8::/48"), Certificates: []string{"a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90"},
			Window: 5 * time.Minute, MinInterval: 5 * time.Second,
		},
	})
	if name, ok := c.Set().Match("someone@ships.acme.example"); !ok || name != "acme" {
		t.Errorf("Match: %q, %v", name, ok)
	}
}

// TestSite pins the defaults of links and remotes, and the queue that a push
// makes.
func TestSite(t *testing.T) {
	c, warnings := good(t, "site.toml", withHost("unused.example.net", "etrnd"))
	diff(t, "warnings", warnings, "")
	if len(c.Links) != 1 || len(c.Links[0].Dial) != 2 || !filepath.IsAbs(c.Links[0].Dial[0]) {
		t.Fatalf("links: %+v", c.Links)
	}
	l := c.Links[0]
	l.Dial = nil
	diff(t, "link", l, Link{Name: "isp", Interfaces: []string{"ppp0", "wwan*"}, HangUp: []string{"/bin/true", "isp"}, DialTimeout: 2 * time.Minute, HangUpTimeout: 30 * time.Second})
	diff(t, "remotes", c.Remotes, []Remote{{
		Name: "hub", Link: "isp", Host: "hub.example.net", Port: 366, Protocol: ProtocolETRN, RouterType: PullPush,
		Request:        []string{"site.example", "@site.example", "#site"},
		ConnectTimeout: 30 * time.Second, RequestTimeout: 30 * time.Second, Wait: 2 * time.Minute, Idle: 5 * time.Second, Limit: time.Hour,
		PushQueues: []string{"hub"}, TLS: TLSAuto,
	}})
	diff(t, "queues", c.Queues, []queue.Queue{{
		Name: "hub", Remote: "hub", Domains: patternList(t, "*"), Deliver: queue.Deliver{Protocol: "smtp", NextHop: "[hub.example.net]"},
		Relay: queue.RelayNone, Window: 5 * time.Minute, MinInterval: 5 * time.Second,
	}})
	for iface, want := range map[string]bool{"ppp0": true, "wwan3": true, "ppp1": false, "eth0": false, "": false} {
		if _, ok := c.LinkOf(iface); ok != want {
			t.Errorf("LinkOf(%q) = %v, want %v", iface, ok, want)
		}
	}
	if rs := c.RemotesOf("ISP"); len(rs) != 1 || rs[0] != &c.Remotes[0] || rs[0].Addr() != "hub.example.net:366" {
		t.Errorf("RemotesOf: %v", rs)
	}
}

// TestEverything reads a file with all keys, none of them at its default.
func TestEverything(t *testing.T) {
	c, warnings := good(t, "everything.toml", withHost("unused.example.net", "root"))
	warnings = regexp.MustCompile(`(?m)^everything\.toml:[0-9]+: `).ReplaceAllString(warnings, "") // so that a key can be added anywhere
	diff(t, "warnings", warnings, "remote \"south\": tls: \"insecure\" does not check who answers: "+
		"whoever is on the path can read and answer in the remote's name; write tls = \"require\", with tls-ca or tls-name where they help\n")
	dir := filepath.Join(filepath.Dir(filepath.Dir(c.File)), "tls")
	diff(t, "log", []any{c.LogLevel, c.LogFormat}, []any{slog.LevelDebug, "json"})
	diff(t, "include", c.Include, filepath.Join(filepath.Dir(c.File), "more.d/[a-z]*"))
	diff(t, "mta", c.MTA, MTA{Type: "postfix", ConfigDir: "/etc", SMTP: "[::1]:2525", Transport: "held", Reconcile: 5 * time.Minute, Split: "[::1]:10367", Submission: "[2001:db8::1]:1587"})
	diff(t, "milter", c.Milter, Milter{Listen: "127.0.0.1:8891", Header: "X-Held-For", Report: "unix:/run/etrnd/r.sock"})
	diff(t, "policy", c.Policy, Policy{Listen: "unix:/run/etrnd/p.sock"})
	diff(t, "odmr", c.ODMR, ODMR{
		Listen: []string{"192.0.2.1:366", "[2001:db8::1]:366"}, TLSCert: dir + "/hub.pem", TLSKey: dir + "/hub.key", Users: dir + "/users", CRAMMD5: true,
		MaxConns: 50, MaxConnsPerClient: 2, CommandTimeout: time.Minute, SessionTimeout: 10 * time.Minute,
	})
	diff(t, "control", c.Control, Control{Listen: "unix:/run/etrnd/c.sock", Group: "root"})
	diff(t, "links", c.Links[0], Link{
		Name: "Sat", Interfaces: []string{"tun[0-9]", "sat0"}, Dial: []string{"/bin/sh", "-c", "true"}, HangUp: c.Links[0].HangUp,
		DialTimeout: 90 * time.Second, HangUpTimeout: 10 * time.Second, Limit: 2 * time.Hour,
	})
	diff(t, "remotes", c.Remotes, []Remote{
		{
			Name: "north", Link: "Sat", Host: "2001:db8::2", Port: 366, Protocol: ProtocolETRN, RouterType: PullPush,
			Request:        []string{"site.example", "@site.example", "#Site"},
			ConnectTimeout: 10 * time.Second, RequestTimeout: 20 * time.Second, Wait: 30 * time.Second, Idle: 2 * time.Second, Limit: 10 * time.Minute,
			PushQueues: []string{"out", "north"}, PushLogin: PushLoginAlways, Senders: prefixList(t, "2001:db8::/64"),
			TLS: TLSRequire, TLSCA: dir + "/hub.pem", TLSName: "hub.example.net", TLSCert: dir + "/hub.pem", TLSKey: dir + "/hub.key",
			User: "site", PasswordFile: dir + "/password", CRAMMD5: true,
		},
		{
			// No port: ETRN is asked for on 25.
			Name: "south", Link: "Sat", Host: "192.0.2.9", Port: 25, Protocol: ProtocolETRN, RouterType: PushWait,
			ConnectTimeout: 30 * time.Second, RequestTimeout: 30 * time.Second, Wait: 2 * time.Minute, Idle: 5 * time.Second, Limit: time.Hour,
			PushQueues: []string{"out", "south"}, Senders: prefixList(t, "192.0.2.9/32", "192.0.2.10/32"), TLS: TLSInsecure,
		},
		{
			// No port: ATRN is asked for on 366.
			Name: "west", Link: "Sat", Host: "192.0.2.11", Port: 366, Protocol: ProtocolATRN, RouterType: PullOnly,
			Request:        []string{"site.example", "other.example"},
			ConnectTimeout: 30 * time.Second, RequestTimeout: 30 * time.Second, Wait: 2 * time.Minute, Idle: 5 * time.Second, Limit: time.Hour,
			Senders: prefixList(t, "192.0.2.11/32"), TLS: TLSAuto, User: "site", PasswordFile: dir + "/password", CRAMMD5: true,
		},
	})
	if l, ok := c.Link("SAT"); !ok || l != &c.Links[0] {
		t.Errorf("Link: %v, %v", l, ok)
	}
	if r, ok := c.Remote("South"); !ok || r != &c.Remotes[1] || r.RouterType.Pushes() || r.RouterType.Pulls() {
		t.Errorf("Remote: %v, %v", r, ok)
	}
	if c.Remotes[0].Addr() != "[2001:db8::2]:366" {
		t.Errorf("Addr: %s", c.Remotes[0].Addr())
	}
	diff(t, "queues", c.Queues, []queue.Queue{
		{
			Name: "acme", Domains: patternList(t, "acme.example", ".acme.example", "sales@other.example"), Deliver: queue.Deliver{Protocol: "lmtp", NextHop: "unix:/run/lmtp.sock"},
			Clients: prefixList(t, "192.0.2.7/32", "198.51.100.0/24", "203.0.113.5/32"), Users: []string{"acme", "acme@hub.example.net"},
			Certificates: []string{"a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90"}, Relay: queue.RelayAll, MinInterval: time.Minute,
		},
		{Name: "out", Domains: patternList(t, "*"), Deliver: queue.Deliver{Protocol: "smtp", NextHop: "[relay.example.net]"}, Relay: queue.RelayNone, Window: 5 * time.Minute, MinInterval: 5 * time.Second},
		{Name: "gamma", Domains: patternList(t, "gamma.example"), Deliver: queue.Deliver{Protocol: "smtp", NextHop: "[mail.gamma.example]"}, Users: []string{"gamma"}, Window: 5 * time.Minute, MinInterval: 5 * time.Second},
		{
			Name: "north", Remote: "north", Domains: patternList(t, "north.example"), Deliver: queue.Deliver{Protocol: "smtp", NextHop: "[mail.north.example]:587"},
			Relay: queue.RelayNone, Window: 5 * time.Minute, MinInterval: 5 * time.Second,
		},
		{
			// A push-wait remote may ask for what is held for it.
			Name: "south", Remote: "south", Domains: patternList(t, "south.example"), Deliver: queue.Deliver{Protocol: "smtp", NextHop: "[192.0.2.9]"},
			Relay: queue.RelayNone, Clients: prefixList(t, "192.0.2.9/32", "192.0.2.10/32"), Window: 5 * time.Minute, MinInterval: 5 * time.Second,
		},
	})
}

// TestEverythingIsThere holds everything.toml against the table of keys: a
// new key has to be added there, with a value that is not its default.
func TestEverythingIsThere(t *testing.T) {
	data, err := os.ReadFile("testdata/good/everything.toml")
	if err != nil {
		t.Fatal(err)
	}
	vals, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		var tables []map[string]any
		switch v := vals[k.table].(type) {
		case map[string]any:
			tables = append(tables, v)
		case []map[string]any:
			tables = v
		default:
			tables = append(tables, vals)
		}
		found, differs := false, len(k.values) == 1
		for _, tab := range tables {
			v, ok := tab[k.name]
			found = found || ok
			def, err := decode([]byte("v = " + k.def))
			differs = differs || ok && (err != nil || !reflect.DeepEqual(v, def["v"]))
		}
		if !found || !differs {
			t.Errorf("[%s] %s: in the file %v, other than its default %v", k.table, k.name, found, differs)
		}
	}
}

// TestEveryKeyIsRead: whoever adds a key to the table has to read it as well. A
// value of a type that no key has is objected to where it is read.
func TestEveryKeyIsRead(t *testing.T) {
	for _, k := range keys {
		file := k.name + " = 1979-05-27\n"
		if k.table != "" {
			file = header(k.table) + "\n" + file
		}
		_, err := Parse("etrnd.toml", []byte(file), WithoutFiles(), withHost("hub.example.net"))
		if err == nil || !strings.Contains(err.Error(), ": "+k.name+": expected ") {
			t.Errorf("[%s] %s is not read: %v", k.table, k.name, err)
		}
	}
}

// TestWarnings has a case for each thing that works and surprises.
func TestWarnings(t *testing.T) {
	const head = "hostname = \"hub.example.net\"\n"
	const link = "[[link]]\nname = \"isp\"\ninterfaces = [\"ppp0\"]\n"
	const remote = "[[remote]]\nname = \"hub\"\nlink = \"isp\"\nhost = \"hub.example.net\"\n"
	tests := []struct {
		name, file, want string
	}{
		{"a queue that nobody may ask for", "[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\"]\ndeliver = \"smtp:acme.example\"\n", "etrnd.toml:2: queue \"acme\": nobody may ask"},
		{"a queue that everybody may ask for", "[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\"]\ndeliver = \"smtp:acme.example\"\nrelay = false\nclients = [\n\"::/0\"]\n", "etrnd.toml:8: queue \"acme\": clients: \"::/0\" lets in every address"},
		{"a network of more than a site", "[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\"]\ndeliver = \"smtp:acme.example\"\nclients = [\n\"192.0.2.0/24\",\n\"198.51.0.0/16\"]\n", "etrnd.toml:8: queue \"acme\": clients: \"198.51.0.0/16\" may ask, but is too large (over /24)"},
		{"a network of strangers", "[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\"]\ndeliver = \"smtp:acme.example\"\nclients = [\"2000::/3\"]\n", "etrnd.toml:6: queue \"acme\": clients: \"2000::/3\" may ask, but is too large to be let"},
		{"a link without remotes", link, "etrnd.toml:2: link \"isp\": no remote is called"},
		{"hang-up without interfaces", "[[link]]\nname = \"isp\"\nhang-up = [\"true\"]\n" + remote + "push = [\"*\"]\n", "etrnd.toml:4: link \"isp\": hang-up: without interfaces"},
		{"dial without hang-up", link + "dial = [\"true\"]\n" + remote + "push = [\"*\"]\n", "etrnd.toml:5: link \"isp\": dial: without hang-up"},
		{"push-wait with nobody to ask", link + remote + "push = [\"*\"]\nrouter-type = \"push-wait\"\n", "etrnd.toml:10: remote \"hub\": router-type: \"push-wait\" holds mail until"},
		{"TLS that verifies nothing", link + remote + "push = [\"*\"]\ntls = \"insecure\"\n", "etrnd.toml:10: remote \"hub\": tls: \"insecure\" does not check"},
		{"a password and no TLS", link + remote + "push = [\"*\"]\ntls = \"off\"\nuser = \"site\"\npassword-file = \"../tls/password\"\n", "etrnd.toml:10: remote \"hub\": tls: \"off\" leaves only"},
		{"ATRN without a user", link + remote + "router-type = \"pull-only\"\nrequest = [\"site.example\"]\nprotocol = \"atrn\"\n", "etrnd.toml:11: remote \"hub\": protocol: ATRN is for users"},
		{"auto without a user", link + remote + "router-type = \"pull-only\"\nrequest = [\"site.example\"]\nprotocol = \"auto\"\n", "etrnd.toml:11: remote \"hub\": protocol: ATRN is for users who have authenticated: without a user \"auto\" comes down to ETRN"},
		{"a milter for everybody", "[milter]\nlisten = \"0.0.0.0:8891\"\n", "etrnd.toml:3: milter: listen: \"0.0.0.0:8891\" can be reached"},
		{"a users file for everybody", "[odmr]\ntls-cert = \"../tls/hub.pem\"\ntls-key = \"../tls/hub.key\"\nusers = \"../tls/hub.pem\"\n", "etrnd.toml:5: odmr: users: \"../tls/hub.pem\" can be read by everyone"},
		{"users without TLS", "[odmr]\nusers = \"../tls/users\"\n", "etrnd.toml:3: odmr: users: without a certificate"},
		{"a key for everybody", "[odmr]\ntls-cert = \"../tls/other.pem\"\ntls-key = \"../tls/other.key\"\n", "etrnd.toml:4: odmr: tls-key: \"../tls/other.key\" can be read by everyone"},
		{"a certificate of the past", "[odmr]\ntls-cert = \"../tls/expired.pem\"\ntls-key = \"../tls/expired.key\"\n", "etrnd.toml:3: odmr: tls-cert: the certificate in \"../tls/expired.pem\" expired on 2021-01-01"},
		{"a group that is not there", "[control]\ngroup = \"mailers\"\n", "etrnd.toml:3: control: group: there is no group \"mailers\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := copied(t)
			if err := os.Chmod(filepath.Join(root, "tls/expired.key"), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := Parse(filepath.Join(root, "good", "etrnd.toml"), []byte(head+tt.file), withHost("", "etrnd"))
			if err != nil {
				t.Fatalf("Parse:\n%v", err)
			}
			if len(c.Warnings) != 1 {
				t.Fatalf("got %d warnings, want one: %v", len(c.Warnings), c.Warnings)
			}
			got := strings.ReplaceAll(c.Warnings[0].String(), filepath.Join(root, "good")+"/", "")
			got = strings.ReplaceAll(got, root, "..")
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want it to begin with %q", got, tt.want)
			}
		})
	}
}

// TestHostnameOfMachine is about a file that leaves the name to the machine.
func TestHostnameOfMachine(t *testing.T) {
	c, err := Parse("etrnd.toml", nil, withHost("hub.example.net", "etrnd"))
	if err != nil || c.Hostname != "hub.example.net" {
		t.Errorf("Parse: %v, %+v", err, c)
	}
	_, err = Parse("etrnd.toml", nil, withHost("hub", "etrnd"))
	if err == nil || !strings.HasPrefix(err.Error(), `etrnd.toml: hostname: is not set, and the machine calls itself "hub", which`) {
		t.Errorf("Parse with a short name: %v", err)
	}
	_, err = Parse("etrnd.toml", nil, func(r *reader) {
		r.hostname = func() (string, error) { return "", errors.New("no name today") }
	})
	if err == nil || !strings.Contains(err.Error(), "no name today") {
		t.Errorf("Parse with no name: %v", err)
	}
}

// TestPolicyOff: an empty listener turns the policy service off.
func TestPolicyOff(t *testing.T) {
	c, err := Parse("etrnd.toml", []byte("[policy]\nlisten = \"\"\n"), withHost("hub.example.net", "etrnd"))
	if err != nil || c.Policy.Listen != "" {
		t.Errorf("Parse: %v, %+v", err, c)
	}
}

// TestODMRDefault: the table alone is enough for the listener.
func TestODMRDefault(t *testing.T) {
	c, err := Parse("etrnd.toml", []byte("[odmr]\n"), withHost("hub.example.net", "etrnd"))
	if err != nil || !reflect.DeepEqual(c.ODMR.Listen, []string{"[::]:366"}) {
		t.Errorf("Parse: %v, %+v", err, c)
	}
}

// TestWithoutFiles reads what a milter reads: it may see none of the files,
// and has to learn the queues all the same.
func TestWithoutFiles(t *testing.T) {
	const file = `hostname = "hub.example.net"
[mta]
config-dir = "/nonexistent"
[odmr]
tls-cert = "/nonexistent/hub.pem"
tls-key = "/nonexistent/hub.key"
users = "/nonexistent/users"
[control]
group = "nobody-has-this-group"
[[link]]
name = "isp"
dial = ["no-such-program-here", "isp"]
hang-up = ["/nonexistent/poff"]
interfaces = ["ppp0"]
[[remote]]
name = "hub"
link = "isp"
host = "hub.example.net:366"
push = ["*"]
tls-ca = "/nonexistent/ca.pem"
user = "site"
password-file = "password"
`
	c, err := Parse("/etc/etrnd/etrnd.toml", []byte(file), WithoutFiles())
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	if len(c.Warnings) != 0 || len(c.Queues) != 1 {
		t.Errorf("warnings %v, queues %v", c.Warnings, c.Queues)
	}
	diff(t, "dial", c.Links[0].Dial, []string{"no-such-program-here", "isp"})
	diff(t, "relative file", c.Remotes[0].PasswordFile, "/etc/etrnd/password")
	if _, err := Parse("/etc/etrnd/etrnd.toml", []byte(file)); err == nil || strings.Count(err.Error(), "\n") != 7 {
		t.Errorf("with files, all eight are missed:\n%v", err)
	}
}

// TestLoad is about the file itself.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path, want string
	}{
		{"not there", filepath.Join(dir, "missing"), "no such file or directory; write it (see etrnd.toml(5)), or name another with --config"},
		{"a directory", dir, "is a directory; name the file in it: --config " + filepath.Join(dir, "etrnd.toml")},
		{"a FIFO, which would block for ever", fifo, "not a regular file"},
		{"longer than any configuration", write("long", strings.Repeat("#", maxFile+1)), "longer than"},
		{"UTF-16", write("utf16", "h\x00o\x00s\x00t\x00"), "UTF-16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(tt.path)
			var bad *Error
			if !errors.As(err, &bad) || len(bad.Problems) != 1 || !strings.Contains(err.Error(), tt.want) || bad.Problems[0].File != tt.path {
				t.Errorf("Load: %v, want one problem about %q", err, tt.want)
			}
		})
	}
}

// TestManyProblems: what is printed stays readable however bad the file is.
func TestManyProblems(t *testing.T) {
	_, err := Parse("etrnd.toml", []byte(strings.Repeat("[[queue]]\n", 1000)), WithoutFiles())
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatalf("Parse: %v", err)
	}
	if len(bad.Problems) != maxProblems || bad.Omitted < 2900 || !strings.HasSuffix(err.Error(), "more") {
		t.Errorf("%d problems, %d omitted", len(bad.Problems), bad.Omitted)
	}
}

// TestLarge: a provider with thousands of customers starts at once.
func TestLarge(t *testing.T) {
	const n = 10000
	var b strings.Builder
	b.WriteString("hostname = \"hub.example.net\"\n")
	for i := range n {
		fmt.Fprintf(&b, "[[queue]]\nname = \"q%d\"\ndomains = [\"q%d.example\", \".q%d.example\"]\ndeliver = \"smtp:[q%d.example]\"\nusers = [\"q%d\"]\n", i, i, i, i, i)
	}
	path := filepath.Join(t.TempDir(), "etrnd.toml")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, WithoutFiles())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Queues) != n {
		t.Errorf("%d queues", len(c.Queues))
	}
}

// TestExample reads the example of the documentation.
func TestExample(t *testing.T) {
	c, err := Load("../../docs/etrnd.toml", WithoutFiles())
	if err != nil {
		t.Fatalf("docs/etrnd.toml:\n%v", err)
	}
	if len(c.Warnings) != 0 {
		t.Errorf("docs/etrnd.toml: %v", c.Warnings)
	}
}

// TestPositions: a message names another file only when it has to.
func TestPositions(t *testing.T) {
	for p, want := range map[position]string{
		{"a.toml", 3}: "on line 3",
		{"b.toml", 3}: "on line 3 of b.toml",
		{"a.toml", 0}: "by default",
	} {
		if got := p.from("a.toml"); got != want {
			t.Errorf("%v: got %q, want %q", p, got, want)
		}
	}
}

// TestExampleShowsDefaults: where the example gives a key that has a default,
// it gives the default, but for what makes it an example.
func TestExampleShowsDefaults(t *testing.T) {
	other := []string{"remote router-type"}
	data, err := os.ReadFile("../../docs/etrnd.toml")
	if err != nil {
		t.Fatal(err)
	}
	vals, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, k := range keys {
		in := vals
		switch v := vals[k.table].(type) {
		case map[string]any:
			in = v
		case []map[string]any:
			in = v[0]
		}
		v, ok := in[k.name]
		if !ok || k.def == "" || slices.Contains(other, k.table+" "+k.name) {
			continue
		}
		shown++
		if def := tables[k.table].defaults[k.name]; !reflect.DeepEqual(v, def) {
			t.Errorf("[%s] %s = %v in docs/etrnd.toml, the default is %v", k.table, k.name, v, def)
		}
	}
	if shown < 10 {
		t.Errorf("only %d keys with a default", shown)
	}
}

// TestLocate checks the scanner for lines against awkward but valid TOML.
func TestLocate(t *testing.T) {
	const file = "\ufeff# comment [not] = \"a table\"\r\n" +
		"top = 1 # [x]\r\n" + // 2
		"\"quoted key\" = 'it''s'[0]\n" // replaced below
	src := strings.Replace(file, "'it''s'[0]", "'it # is not a comment'", 1) +
		"'literal.key' = \"\"\"\n" + // 4
		"[[queue]] \\\"\"\" \n" + // inside a string
		"end\"\"\"\"\"\n" +
		"lit = '''\n[[queue]]\n'''\n" + // 7
		"date = 1979-05-27 07:32:00 # a space in a value\n" + // 10
		"a.b . \"c\" = [ # 11\n" +
		"  1, [2, # 12\n" +
		"  { x = \"}]\", y = 3 } ] , # 13\n" +
		"\t\"]\", # 14\n" +
		"]\n" +
		"[[t]] # 16\n" +
		"k = 1\n" +
		"[t.sub] # 18\n" +
		"k = 1\n" +
		"[[ t ]] # 20\n" +
		"sub.k = 1 # 21\n" +
		"[t.other]\n" +
		"[u.v] # 23\n" +
		"[u] # 24\n" +
		"last = true" // 25
	if _, err := decode([]byte(src)); err != nil {
		t.Fatalf("the test's own file is not valid: %v", err)
	}
	root, deep := locate([]byte(src))
	if deep != 0 {
		t.Errorf("line %d is too deep", deep)
	}
	item := func(p *place, is ...int) *place {
		for _, i := range is {
			p = p.item(i)
		}
		return p
	}
	c := root.kid("a").kid("b").kid("c")
	tests := []struct {
		what string
		p    *place
		line int
	}{
		{"a plain key after a byte order mark and CRLF", root.kid("top"), 2},
		{"a quoted key", root.kid("quoted key"), 3},
		{"a literal key with a dot", root.kid("literal.key"), 4},
		{"a key after a long string with a header, an escaped quote and quotes at its end", root.kid("lit"), 7},
		{"a key after a long literal string", root.kid("date"), 10},
		{"a dotted key", c, 11},
		{"an element on another line", item(c, 0), 12},
		{"an element of an array in an array", item(c, 1, 0), 12},
		{"an inline table", item(c, 1, 1), 13},
		{"a key in it, after a string with brackets", item(c, 1, 1).kid("y"), 13},
		{"an element that looks like the end", item(c, 2), 14},
		{"the first of the tables", item(root.kid("t"), 0), 16},
		{"a table below it", item(root.kid("t"), 0).kid("sub"), 18},
		{"the second of the tables", item(root.kid("t"), 1), 20},
		{"a dotted key in it", item(root.kid("t"), 1).kid("sub").kid("k"), 21},
		{"a table below the second", item(root.kid("t"), 1).kid("other"), 22},
		{"a table that was implied first", root.kid("u"), 24},
		{"a table below it that came first", root.kid("u").kid("v"), 23},
		{"a key at the very end", root.kid("u").kid("last"), 25},
	}
	for _, tt := range tests {
		if tt.p == nil || tt.p.line != tt.line {
			t.Errorf("%s: %+v, want line %d", tt.what, tt.p, tt.line)
		}
	}
	if root.kid("queue") != nil {
		t.Error("a header inside a string was taken for one")
	}
}

func TestNearest(t *testing.T) {
	words := []string{"domains", "deliver", "clients", "users", "tls-cert", "tls-ca"}
	for in, want := range map[string]string{
		"domain":    "domains",  // a letter lost
		"dleiver":   "deliver",  // two swapped
		"TLS_Cert":  "tls-cert", // another spelling
		"tls-cret":  "tls-cert",
		"user":      "users",
		"usr":       "users", // two lost
		"frobnicat": "",      // nothing like it
		"":          "",
		"x":         "",
	} {
		if got := nearest(in, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzParse looks for panics, for messages without bound, and for a Config
// that comes with an error.
func FuzzParse(f *testing.F) {
	for _, glob := range []string{"testdata/good/*.toml", "testdata/bad/*/etrnd.toml"} {
		files, err := filepath.Glob(glob)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v, %v", glob, files, err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte("queue = [{}, {name = \"a\"}, [], 1]"))
	f.Add([]byte("a = " + strings.Repeat("[", 100000)))
	f.Add([]byte(strings.Repeat("a.", 100000) + "a = 1"))
	f.Add([]byte("[" + strings.Repeat("a.", 100000) + "a]"))
	f.Add([]byte(strings.Repeat("a = {", 100000)))
	f.Add([]byte("[[queue]]\n[queue.name]\nx = 1"))
	f.Add([]byte("link.name = 1\nlink = 2"))
	f.Add([]byte("a=\"\"\"\\"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("etrnd.toml", data, WithoutFiles(), withHost("hub.example.net"))
		locate(data) // whatever the TOML library thought of it
		switch {
		case err == nil && (c == nil || c.Set() == nil):
			t.Fatal("neither a Config nor an error")
		case err != nil && c != nil:
			t.Fatalf("a Config and %v", err)
		}
		if err == nil {
			return
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) > maxProblems+1 {
			t.Fatalf("%d lines", len(lines))
		}
		for _, l := range lines {
			if len(l) > 2000 {
				t.Fatalf("a message of %d bytes: %.300s", len(l), l)
			}
			if strings.ContainsFunc(l, unicode.IsControl) {
				t.Fatalf("a control character in %q", l)
			}
		}
	})
}

// spec is the type, the bounds and the default of the key as the manual page
// gives them.
func (k *key) spec() string {
	parts := []string{string(k.kind)}
	switch k.kind {
	case duration:
		parts = append(parts, short(k.min)+" to "+short(k.max))
	case number:
		parts = append(parts, fmt.Sprintf("%d to %d", k.min, k.max))
	}
	switch {
	case k.required != "":
		parts = append(parts, "required")
	case k.def != "":
		parts = append(parts, "default "+k.def)
	case k.defWords != "":
		parts = append(parts, "default: "+k.defWords)
	}
	return strings.Join(parts, ", ")
}

// TestManual holds the manual page against the table of keys, in both
// directions and in its order: each key with its type, bounds and default,
// below the heading of its table.
func TestManual(t *testing.T) {
	data, err := os.ReadFile("../../packaging/man/etrnd.toml.5")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	table := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if h, ok := strings.CutPrefix(line, ".Ss "); ok {
			table = strings.Trim(h, `[]\&`)
		}
		// Lists within a key's text have items without a type.
		if strings.HasPrefix(line, ".It Cm ") && strings.Contains(line, " Pq ") {
			got = append(got, table+": "+line)
		}
	}
	for _, k := range keys {
		heading := k.table
		if heading == "" {
			heading = "The top of the file"
		}
		want = append(want, heading+": .It Cm "+k.name+" Pq "+strings.ReplaceAll(k.spec(), `"`, `\(dq`))
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("not in the manual page: %s", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("in the manual page, and no such key: %s", g)
		}
	}
	if !t.Failed() && !slices.Equal(got, want) {
		t.Error("the keys of the manual page are not in the order of keys.go")
	}
}

// TestManualExamples: what people copy has to work.
func TestManualExamples(t *testing.T) {
	data, err := os.ReadFile("../../packaging/man/etrnd.toml.5")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(data), ".Bd -literal -offset indent\n")[1:]
	if len(blocks) != 3 {
		t.Fatalf("%d examples, want 3", len(blocks))
	}
	for i, b := range blocks {
		src, _, ok := strings.Cut(b, ".Ed\n")
		if !ok {
			t.Fatalf("example %d has no end", i+1)
		}
		if i == 2 { // it is about the remotes, and leaves out what goes without saying
			src += "[[link]]\nname = \"wifi\"\n[[link]]\nname = \"satellite\"\n"
		}
		c, err := Parse("etrnd.toml", []byte(src), WithoutFiles(), withHost("mail.site.example"))
		if err != nil {
			t.Errorf("example %d:\n%v", i+1, err)
		} else if len(c.Warnings) != 0 {
			t.Errorf("example %d: %v", i+1, c.Warnings)
		}
	}
}

// TestUnreadable: the key of a daemon that may not read it is an error, and
// the milter, which must not read it, goes without.
func TestUnreadable(t *testing.T) {
	root := copied(t)
	file := filepath.Join(root, "good", "hub.toml")
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil { // made for us alone
		t.Fatal(err)
	}
	key := filepath.Join(root, "tls", "hub.key")
	if err := os.Chmod(key, 0); err != nil {
		t.Fatal(err)
	}
	_, err := os.ReadFile(key)
	mighty := err == nil
	// Root reads everything: this thread has to be somebody else. It is not
	// unlocked, so that it ends with the goroutine.
	type result struct{ with, without error }
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		if mighty {
			if err := unix.Setfsuid(65534); err != nil {
				done <- result{err, err}
				return
			}
		}
		var r result
		_, r.with = Load(file, withHost("", "etrnd"))
		_, r.without = Load(file, withHost("", "etrnd"), WithoutFiles())
		done <- r
	}()
	r := <-done
	if r.with == nil || !strings.Contains(r.with.Error(), "hub.key\": permission denied; this was tried as user id") {
		t.Errorf("with files: %v", r.with)
	}
	if r.without != nil {
		t.Errorf("without files: %v", r.without)
	}
}
