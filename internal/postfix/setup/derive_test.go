package setup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// quiet is a Postfix of which nothing is set but what is given.
func quiet(settings map[string]string) *environment {
	s := map[string]string{"queue_directory": "/var/spool/postfix"}
	for name, value := range settings {
		s[name] = value
	}
	return &environment{
		files: &files{dir: "/etc/postfix"}, old: &record{}, settings: s, kind: "hash",
		locals: func(context.Context, []string) (map[string]bool, error) {
			return map[string]bool{"local.example": true}, nil
		},
	}
}

// listedIn is what a list of main.cf has by way of its table, or by itself.
func listedIn(d *desired, list, name string) string {
	text := elements(d, list)
	if text != "hash:$config_directory/etrnd/"+name {
		return text
	}
	var keys []string
	for _, l := range linesOf(d.tables[name].text) {
		keys = append(keys, l.key)
	}
	return strings.Join(keys, ", ")
}

func elements(d *desired, list string) string {
	var l []string
	for _, e := range d.elements {
		if e.list == list {
			l = append(l, e.text)
		}
	}
	return strings.Join(l, ", ")
}

// What a configuration asks of Postfix is the same for etrnctl, which sets it
// up, and for etrnd, which looks whether that has been done.
func TestRequirementsOf(t *testing.T) {
	cfg, err := config.Parse("etrnd.toml", []byte(`
hostname = "host.example.net"
[mta]
transport = "later"
split = "127.0.0.1:10366"
[milter]
listen = "unix:/run/a/milter.sock"
[policy]
listen = "unix:/run/b/policy.sock"
[odmr]
listen = ["127.0.0.1:366"]
[[queue]]
name = "turned"
domains = ["turned.example", "chief@other.example"]
deliver = "turn"
certificates = ["`+strings.Repeat("ab", 32)+`"]
[[queue]]
name = "acme"
domains = [".acme.example"]
deliver = "smtp:[mail.acme.example]"
[[link]]
name = "isp"
interfaces = ["ppp0"]
[[remote]]
name = "hub"
link = "isp"
host = "hub.example.net:366"
protocol = "etrn"
router-type = "push-only"
push = ["*"]
`), config.WithoutFiles())
	if err != nil {
		t.Fatal(err)
	}
	got := RequirementsOf(cfg)
	if got.Transport != "later" || got.Split != "127.0.0.1:10366" || got.Milter != cfg.Milter.Listen || got.Policy != cfg.Policy.Listen || !got.ClientCerts {
		t.Errorf("got %+v", got)
	}
	// Beside the policy service's socket, and the one that etrnd listens on.
	socket := "turn:" + cfg.TurnSocket("turned")
	if socket != "turn:/run/b/turn-turned.sock" {
		t.Errorf("the socket is %s", socket)
	}
	want := []Route{
		{"turned.example", socket, true},
		{"chief@other.example", socket, true},
		{".acme.example", "smtp:[mail.acme.example]", true},
		// What a site pushes comes from its own hosts.
		{"*", "smtp:[hub.example.net]", false},
	}
	if len(got.Routes) != len(want) {
		t.Fatalf("routes are %+v, want %+v", got.Routes, want)
	}
	for i := range want {
		if got.Routes[i] != want[i] {
			t.Errorf("route %d is %+v, want %+v", i, got.Routes[i], want[i])
		}
	}
	if len(got.QueueNames) != 3 {
		t.Errorf("the queues are %q", got.QueueNames)
	}
}

func TestDeriveLists(t *testing.T) {
	relay := func(patterns ...string) (routes []Route) {
		for _, p := range patterns {
			routes = append(routes, Route{p, "smtp:[192.0.2.1]", true})
		}
		return routes
	}
	const parents = "parent_domain_matches_subdomains"
	cases := map[string]struct {
		settings     map[string]string
		routes       []Route
		relay, flush string
		warning      string // part of the only one; empty: none
	}{
		"domain":          {nil, relay("ACME.example"), "acme.example", "acme.example", ""},
		"below":           {nil, relay(".acme.example"), ".acme.example", ".acme.example, acme.example", ""},
		"below, with it":  {nil, relay("acme.example", ".acme.example"), "acme.example, .acme.example", "acme.example, .acme.example", ""},
		"parents match":   {map[string]string{parents: "relay_domains, fast_flush_domains"}, relay(".acme.example", "acme.example"), "acme.example", "acme.example", ""},
		"too much":        {map[string]string{parents: "relay_domains"}, relay(".acme.example"), "acme.example", ".acme.example, acme.example", "accepted too, and not held"},
		"not looked up":   {map[string]string{parents: "transport_maps"}, relay(".acme.example"), ".acme.example", ".acme.example, acme.example", "take it out of that setting"},
		"address":         {nil, relay("chief@acme.example"), "", "acme.example", "left to you"},
		"address, local":  {nil, relay("chief@local.example"), "", "local.example", ""},
		"local":           {nil, relay("local.example"), "", "local.example", "is delivered here"},
		"pushed":          {nil, []Route{{"*", "smtp:[192.0.2.1]", false}}, "", "static:all", ""},
		"recipients bind": {map[string]string{"relay_recipient_maps": "hash:/x"}, relay("acme.example"), "acme.example", "acme.example", "that it does not list are refused"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d, err := derive(t.Context(), Requirements{Routes: c.routes}, quiet(c.settings))
			if err != nil {
				t.Fatal(err)
			}
			if got := listedIn(d, "relay_domains", relayTable); got != c.relay {
				t.Errorf("relay_domains: %s, want %s", got, c.relay)
			}
			if got := listedIn(d, "fast_flush_domains", flushTable); got != c.flush {
				t.Errorf("fast_flush_domains: %s, want %s", got, c.flush)
			}
			if c.warning == "" && len(d.warnings) > 0 || c.warning != "" && (len(d.warnings) != 1 || !strings.Contains(d.warnings[0], c.warning)) {
				t.Errorf("warnings are %q, want one with %q", d.warnings, c.warning)
			}
		})
	}
}

// A domain beyond ASCII is in every table in each of its forms, once.
func TestDeriveSpellings(t *testing.T) {
	const hop = "smtp:[mail.bücher.example]:2525"
	d, err := derive(t.Context(), Requirements{Routes: []Route{{".xn--bcher-kva.example", hop, true}, {"chef@xn--strae-oqa.example", hop, true}}}, quiet(nil))
	if err != nil {
		t.Fatal(err)
	}
	const to = "transient:[mail.xn--bcher-kva.example]:2525"
	want := []line{{".xn--bcher-kva.example", to}, {".bücher.example", to}, {".bu\u0308cher.example", to}, {"chef@xn--strae-oqa.example", to}}
	if got := linesOf(d.tables[routeTable].text); !slices.Equal(got, want) {
		t.Errorf("routes:\n%q\nwant\n%q", got, want)
	}
	if got, want := listedIn(d, "relay_domains", relayTable), ".xn--bcher-kva.example, .bücher.example, .bu\u0308cher.example"; got != want {
		t.Errorf("relay_domains: %s, want %s", got, want)
	}
	if got, want := listedIn(d, "fast_flush_domains", flushTable), ".xn--bcher-kva.example, xn--bcher-kva.example, .bücher.example, bücher.example, .bu\u0308cher.example, bu\u0308cher.example, xn--strae-oqa.example"; got != want {
		t.Errorf("fast_flush_domains: %s, want %s", got, want)
	}
}

func TestDeriveRefuses(t *testing.T) {
	one := func(pattern, deliver string) Requirements {
		return Requirements{Routes: []Route{{Pattern: pattern, Deliver: deliver}}}
	}
	cases := map[string]struct {
		req  Requirements
		want string
	}{
		"turn without a socket": {one("a.example", "turn"), "cannot deliver"},
		"relative socket":       {one("a.example", "turn:turn-a.sock"), "cannot deliver"},
		"another agent":         {one("a.example", "local:"), "cannot deliver"},
		// A line break would be a line of its own in the table.
		"line break": {one("a.example\nb.example", "smtp:[192.0.2.1]"), "cannot be a key"},
		"next hop":   {one("a.example", "smtp:[192.0.2.1]\n* smtp:x"), "cannot deliver"},
		// main.cf would expand it.
		"variable":    {one("$mydomain", "smtp:[192.0.2.1]"), "cannot be a key"},
		"two ways":    {Requirements{Routes: []Route{{"a.example", "smtp:[192.0.2.1]", true}, {"A.example", "smtp:[192.0.2.2]", true}}}, "two next hops"},
		"two of *":    {Requirements{Routes: []Route{{"*", "smtp:[192.0.2.1]", true}, {"*", "smtp:[192.0.2.2]", true}}}, "two next hops"},
		"split alone": {Requirements{Split: "127.0.0.1:10366"}, "without the milter"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := derive(t.Context(), c.req, quiet(nil)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// Postfix's own fingerprints may be used by the postmaster's tables: they are
// changed only where they are not.
func TestDeriveFingerprints(t *testing.T) {
	const digest = "smtpd_tls_fingerprint_digest"
	ours := &record{contents: contents{Values: []valueRecord{{Name: digest, Value: "sha256"}}}}
	cases := map[string]struct {
		main     string
		settings map[string]string
		old      *record
		set      bool
		warned   bool
	}{
		"right by default":    {"", map[string]string{digest: "sha256"}, &record{}, false, false},
		"of an older default": {"", map[string]string{digest: "md5"}, &record{}, true, false},
		"used":                {"", map[string]string{digest: "md5", "relay_clientcerts": "hash:/x"}, &record{}, false, true},
		"chosen":              {digest + " = md5\n", map[string]string{digest: "md5"}, &record{}, false, true},
		"set by us":           {digest + " = sha256\n", map[string]string{digest: "sha256"}, ours, true, false},
		"set, and changed":    {digest + " = md5\n", map[string]string{digest: "md5"}, ours, true, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			env := quiet(c.settings)
			env.main, env.old = conffile.File{Text: c.main}, c.old
			d, err := derive(t.Context(), Requirements{ClientCerts: true}, env)
			if err != nil {
				t.Fatal(err)
			}
			if _, set := d.values[digest]; set != c.set || len(d.warnings) > 0 != c.warned || d.values["smtpd_tls_ask_ccert"] != "yes" {
				t.Errorf("values are %v, warnings %q", d.values, d.warnings)
			}
		})
	}
}

// The difference of a table with very many lines is its beginning, and how much
// there is.
func TestLargeDifference(t *testing.T) {
	var before, after strings.Builder
	for i := range 30000 {
		fmt.Fprintf(&before, "c%d.example held\n", i)
		fmt.Fprintf(&after, "c%d.example held\n", i+1)
	}
	none, was, is := (*string)(nil), before.String(), after.String()
	for name, c := range map[string]struct {
		before, after *string
		lines         int
		want          string
	}{
		"new":           {none, &is, maxShown + 1, "# /t: 29943 more lines of difference, 29943 of them added and 0 taken out\n"},
		"gone":          {&was, none, maxShown + 1, "# /t: 29943 more lines of difference, 0 of them added and 29943 taken out\n"},
		"one customer":  {&was, &is, 17, "+c30000.example held\n"},
		"index is lost": {&is, &is, 1, "# /t: its index is made anew\n"},
	} {
		got := change{path: "/t", before: c.before, after: c.after, kind: "hash"}.unified()
		if n := strings.Count(got, "\n"); n > c.lines || !strings.Contains(got, c.want) {
			t.Errorf("%s: %d lines, want %q in\n%s", name, n, c.want, got)
		}
	}
}

// Postfix's own choice is ours, if its index can be made and read; else the best
// there is.
func TestKeyedKind(t *testing.T) {
	for _, c := range []struct{ types, preferred, want string }{
		{"btree cidr hash inline lmdb static texthash", "hash", "hash"}, // Debian 12 with postfix-lmdb
		{"btree cidr hash inline lmdb static texthash", "lmdb", "lmdb"},
		{"cdb cidr lmdb texthash", "hash", "lmdb"}, // a release without Berkeley DB
		{"btree cdb hash texthash", "cdb", "hash"}, // whether one of these is right cannot be seen
		{"cdb cidr texthash", "cdb", "texthash"},
		{"static texthash", "", "texthash"},
	} {
		if got := keyedKind(strings.Fields(c.types), c.preferred); got != c.want {
			t.Errorf("of %s, with %q preferred: %s, want %s", c.types, c.preferred, got, c.want)
		}
	}
}
