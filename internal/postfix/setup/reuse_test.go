package setup

import (
	"strings"
	"testing"
)

func TestSinceRelease(t *testing.T) {
	for version, want := range map[string]bool{
		"3.5.4": true, "3.5.3": false, "3.5.25": true, "3.4.29": false, "3.6.0": true, "3.7.11": true, "3.10.2": true, "4.0.0": true,
		"2.11.0": false, "3.12-20260821": true, "3.6-RC1": true, "3.5.4-RC1": true, "3.5-20200101": true,
		"": true, "new": true,
	} {
		if got := sinceRelease(version, 3, 5, 4); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}

// What the entries say: with which TLS, and when not.
func TestReuse(t *testing.T) {
	login := Login{Remote: "hub", Deliver: "smtp:[hub.example.net]:587", Hops: []string{"[hub.example.net]:587"}, Cert: "/etc/etrnd/my site.pem", Key: "/etc/etrnd/site.key", TLS: "require", CA: "/etc/etrnd/ca.pem"}
	req := Requirements{
		Routes: []Route{{Pattern: "*", Deliver: login.Deliver}, {Pattern: "x.example", Deliver: "smtp:[mx.example]"}, {Pattern: "y.example", Deliver: "lmtp:unix:/y"}, {Pattern: "z.example", Deliver: "turn:/z"}},
		Logins: []Login{login},
	}
	entries := func(main string, settings map[string]string) (byName map[string]string) {
		t.Helper()
		env := quiet(settings)
		env.main.Text = main
		d, err := derive(t.Context(), req, env)
		if err != nil {
			t.Fatal(err)
		}
		byName = map[string]string{}
		for _, e := range d.entries {
			name := strings.Fields(e)[0]
			if byName[name] != "" {
				t.Errorf("two entries of %s", name)
			}
			byName[name] = e
		}
		return byName
	}
	has := func(entry string, want bool, options ...string) {
		t.Helper()
		for _, o := range options {
			if strings.Contains(entry, " -o "+o+"\n") != want {
				t.Errorf("%s: %v is wrong of\n%s", o, !want, entry)
			}
		}
	}
	kept := []string{"smtp_connection_cache_destinations=static:all", "smtp_connection_cache_time_limit=10s", "connection_cache_service_name=transient-scache"}
	secured := "smtp_tls_connection_reuse=yes"

	e := entries("", nil)
	has(e["transient-scache"], true, "connection_cache_ttl_limit=10s")
	has(e["transient"], true, append(kept, secured, "tlsproxy_service_name=transient-tlsproxy")...)
	has(e["transient-to-hub"], true, append(kept, secured, "tlsproxy_service_name=transient-tlsproxy-hub")...)
	has(e["transient-tlsproxy-hub"], true, "smtp_tls_security_level=secure", "smtp_tls_policy_maps=", "smtp_tls_chain_files=", "{ smtp_tls_cert_file = /etc/etrnd/my site.pem }",
		"smtp_tls_key_file=/etc/etrnd/site.key", "smtp_tls_CAfile=/etc/etrnd/ca.pem", "tls_append_default_CA=no")
	if strings.Contains(e["transient-tlsproxy"], "smtp_") || strings.Contains(e["transient-tlsproxy"], "tlsproxy_client_") || strings.Contains(e["transient-tlsproxy-hub"], "sasl") {
		t.Errorf("%s%s", e["transient-tlsproxy"], e["transient-tlsproxy-hub"])
	}
	for _, name := range []string{"transient-lmtp", "transient-turn"} {
		if strings.Contains(e[name], "scache") || strings.Contains(e[name], "tlsproxy") {
			t.Errorf("%s", e[name])
		}
	}

	// Other settings for tlsproxy(8) in general are none for ours.
	e = entries("tlsproxy_client_level = none\ntlsproxy_client_cert_file = /else.pem\ntlsproxy_client_use_tls = no\n", nil)
	has(e["transient-tlsproxy"], true, "tlsproxy_client_security_level=$smtp_tls_security_level", "tlsproxy_client_level=$smtp_tls_security_level",
		"tlsproxy_client_cert_file=$smtp_tls_cert_file", "tlsproxy_client_use_tls=$smtp_use_tls")

	// A Postfix that cannot, and a postmaster who does not want to.
	for name, e := range map[string]map[string]string{
		"old":     entries("", map[string]string{"mail_version": "3.4.29"}),
		"absent":  entries("", map[string]string{"daemon_directory": t.TempDir()}),
		"refused": entries("smtp_tls_connection_reuse = no\n", map[string]string{"smtp_tls_connection_reuse": "no"}),
	} {
		has(e["transient"], true, kept...)
		has(e["transient"], false, secured)
		if e["transient-tlsproxy"] != "" {
			t.Errorf("%s: %s", name, e["transient-tlsproxy"])
		}
	}
	e = entries("smtp_connection_cache_on_demand = no\n", map[string]string{"smtp_connection_cache_on_demand": "no"})
	has(e["transient"], false, append(kept, secured)...)
	if e["transient-tlsproxy"] != "" || e["transient-scache"] != "" {
		t.Errorf("%v", e)
	}
	// What is not said is no word.
	has(entries("", map[string]string{"smtp_tls_connection_reuse": "no"})["transient"], true, secured)
}
