//go:build !quick

package setup

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// Settings that lead held mail astray, and that nobody but the postmaster can
// put right, are named, with the mend; those like them that do no harm are not.
func TestConflicts(t *testing.T) {
	hub := Requirements{
		Routes: []Route{
			{Pattern: "acme.example", Deliver: "smtp:[mail.acme.example]", Relay: true},
			{Pattern: ".acme.example", Deliver: "smtp:[mail.acme.example]", Relay: true},
			{Pattern: "beta.example", Deliver: "turn:/var/spool/postfix/etrnd/turn-beta.sock", Relay: true},
		},
		Milter: "unix:/var/spool/postfix/etrnd/milter.sock",
	}
	site := Requirements{Routes: []Route{{Pattern: "*", Deliver: "smtp:[hub.example.net]"}}, Milter: hub.Milter}
	split := hub
	split.Split = "127.0.0.1:10366"
	split.Routes = append(slices.Clone(hub.Routes), Route{Pattern: "archive.example", Deliver: "smtp:[mail.archive.example]", Relay: true})

	files := map[string]string{
		"/etc/postfix/t/plain":     "acme.example smtp:[192.0.2.1]\n",
		"/etc/postfix/t/same":      "acme.example transient:[mail.acme.example]\n",
		"/etc/postfix/t/boss":      "boss@acme.example smtp:[192.0.2.1]\nuser@other.example smtp:[192.0.2.1]\n",
		"/etc/postfix/t/other":     "user@other.example smtp:[192.0.2.1]\nother.example smtp:[192.0.2.1]\n",
		"/etc/postfix/t/re":        "/@acme\\.example$/ smtp:[192.0.2.1]\n",
		"/etc/postfix/t/re-other":  "/@other\\.example$/ smtp:[192.0.2.1]\n",
		"/etc/postfix/t/re-all":    "/./ smtp:[192.0.2.1]\n",
		"/etc/postfix/t/star":      "* smtp:[192.0.2.1]\n",
		"/etc/postfix/t/all":       "@acme.example all@other.example\n",
		"/etc/postfix/t/itself":    "@acme.example @acme.example\nboss@acme.example b@other.example\n",
		"/etc/postfix/t/re-alias":  "/^(.*)@beta\\.example$/ $1@other.example\n",
		"/etc/postfix/t/moved":     "@acme.example acme@new.example\n",
		"/etc/postfix/t/by-sender": "@branch.example smtp:[192.0.2.1]\n",
		"/etc/postfix/t/held":      "@branch.example transient:[192.0.2.1]\n@x.example DUNNO\n",
		"/etc/postfix/t/tls":       "[mail.acme.example] may\n[mail.archive.example] may\n",
	}
	const texthash = "texthash:/etc/postfix/t/"
	const smtpd = "smtp inet n - y - - smtpd\n"
	type main map[string]string
	tests := []struct {
		name   string
		req    Requirements
		main   main
		master string // in the place of smtpd
		want   string // empty: no warning
	}{
		{name: "as Debian has it", req: hub},
		{name: "site as Debian has it", req: site},

		// Other transport tables.
		{name: "a domain elsewhere", req: hub, main: main{"transport_maps": texthash + "plain"}, want: "the held route goes before it"},
		{name: "a domain held the same way", req: hub, main: main{"transport_maps": texthash + "same"}},
		{name: "one address elsewhere", req: hub, main: main{"transport_maps": texthash + "boss"}, want: "sends boss@acme.example to"},
		{name: "others elsewhere", req: hub, main: main{"transport_maps": texthash + "other"}},
		{name: "a pattern", req: hub, main: main{"transport_maps": "regexp:/etc/postfix/t/re"}, want: "sends every address of acme.example to"},
		{name: "a pattern for others", req: hub, main: main{"transport_maps": "regexp:/etc/postfix/t/re-other"}},
		{name: "a pattern for all", req: hub, main: main{"transport_maps": "regexp:/etc/postfix/t/re-all"}, want: "sends every address of acme.example, beta.example to"},
		{name: "the rest elsewhere", req: hub, main: main{"transport_maps": texthash + "star"}},
		{name: "the rest of a site elsewhere", req: site, main: main{"transport_maps": texthash + "star"}, want: "take that entry out"},
		{name: "the rest of a site by a pattern", req: site, main: main{"transport_maps": "regexp:/etc/postfix/t/re-all"}, want: "take that pattern out"},
		{name: "a table before ours", req: hub, main: main{"transport_maps": texthash + "plain, hash:$config_directory/etrnd/transport"}, want: "comes before the table of what is held"},
		{name: "senders of their own", req: site, main: main{"sender_dependent_default_transport_maps": texthash + "by-sender"}, want: "write transient:HOST there"},
		{name: "senders of their own, held", req: site, main: main{"sender_dependent_default_transport_maps": texthash + "held"}},
		{name: "senders of their own at a hub", req: hub, main: main{"sender_dependent_default_transport_maps": texthash + "by-sender"}},

		// Other addresses.
		{name: "a domain of aliases", req: hub, main: main{"virtual_alias_maps": texthash + "all"}, want: "virtual_alias_maps: texthash:/etc/postfix/t/all gives every address of acme.example another one"},
		{name: "aliases of single addresses", req: hub, main: main{"virtual_alias_maps": texthash + "itself"}},
		{name: "aliases by a pattern", req: hub, main: main{"virtual_alias_maps": "regexp:/etc/postfix/t/re-alias"}, want: "every address of beta.example another one"},
		{name: "canonical", req: hub, main: main{"recipient_canonical_maps": texthash + "all"}, want: "recipient_canonical_maps: "},
		{name: "moved", req: hub, main: main{"relocated_maps": texthash + "moved"}, want: "mail for it is refused"},
		{name: "always a copy into a queue", req: split, main: main{"always_bcc": "all@archive.example", "virtual_alias_maps": texthash + "itself"}, want: "always_bcc is"},
		{name: "a port of its own for aliases", req: split, main: main{"virtual_alias_maps": texthash + "itself"},
			master: smtpd + "submission inet n - y - - smtpd\n  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n", want: "submission/inet of master.cf sets smtpd_recipient_restrictions itself"},
		{name: "a port of its own without aliases", req: split, master: smtpd + "submission inet n - y - - smtpd\n  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n"},

		// Milters and filters.
		{name: "clients with other milters", req: hub, main: main{"smtpd_milter_maps": "cidr:{{192.0.2.1/32 DISABLE}}"}, want: "smtpd_milter_maps is"},
		{name: "no milters at all", req: hub, main: main{"receive_override_options": "no_milters"}, want: "receive_override_options has no_milters for all mail"},
		{name: "no milters at port 25", req: hub, master: smtpd + "  -o receive_override_options=no_milters\n", want: "smtp/inet of master.cf has no_milters in"},
		{name: "other milters at port 25", req: hub, master: smtpd + "  -o smtpd_milters=inet:127.0.0.1:8891\n", want: "smtp/inet of master.cf sets smtpd_milters itself"},
		{name: "other milters at port 25, in braces", req: hub, master: smtpd + "  -o { smtpd_milters = inet:127.0.0.1:8891 }\n", want: "smtp/inet of master.cf sets smtpd_milters itself"},
		{name: "more milters at port 25", req: hub, master: smtpd + "  -o { smtpd_milters = inet:127.0.0.1:8891, unix:/var/spool/postfix/etrnd/milter.sock }\n"},
		{name: "ours named at port 25", req: hub, master: smtpd + "  -o { smtpd_milters = { unix:etrnd/milter.sock, default_action=accept } }\n"},
		{name: "more milters behind ours at port 25", req: hub, master: smtpd + "  -o { smtpd_milters = { unix:etrnd/milter.sock, default_action=accept }, inet:127.0.0.1:8891 }\n", want: "has inet:127.0.0.1:8891 behind etrnd's milter"},
		{name: "a postmaster's own order", req: hub, main: main{"smtpd_milters": "{ unix:etrnd/milter.sock, default_action=accept, connect_timeout=5s }, inet:127.0.0.1:8891"}, want: "smtpd_milters has inet:127.0.0.1:8891 behind etrnd's milter"},
		{name: "milters behind by reference", req: hub, main: main{"non_smtpd_milters": "$smtpd_milters, inet:127.0.0.1:8891"}, want: "non_smtpd_milters has inet:127.0.0.1:8891 behind etrnd's milter"},
		{name: "milters in front of ours", req: hub, main: main{"smtpd_milters": "inet:127.0.0.1:8891", "non_smtpd_milters": "$smtpd_milters"}},
		{name: "back from a content filter", req: hub, main: main{"content_filter": "smtp:[127.0.0.1]:10024"},
			master: smtpd + "127.0.0.1:10025 inet n - n - - smtpd\n  -o content_filter=\n  -o smtpd_milters=\n  -o receive_override_options=no_header_body_checks,no_milters\n"},
		{name: "a filter before the queue", req: hub, master: smtpd + "  -o smtpd_proxy_filter=127.0.0.1:10024\n127.0.0.1:10025 inet n - n - - smtpd\n  -o smtpd_milters=\n", want: "hands its mail to 127.0.0.1:10024 before it is queued"},
		{name: "a filter before the queue, and the milter behind", req: hub, master: smtpd + "  -o smtpd_proxy_filter=127.0.0.1:10024\n127.0.0.1:10025 inet n - n - - smtpd\n  -o smtpd_proxy_filter=\n"},
		{name: "postscreen", req: hub, master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\n"},
		{name: "postscreen and no milters", req: hub, master: "smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\n  -o receive_override_options=no_milters\n", want: "smtpd/pass of master.cf"},

		// Refused, returned, or never delivered.
		{name: "the DNS while the line is down", req: site, main: main{"smtpd_sender_restrictions": "reject_unknown_sender_domain, permit_mynetworks"}, want: "write permit_mynetworks first"},
		{name: "the DNS for others only", req: site, main: main{"smtpd_sender_restrictions": "permit_mynetworks, reject_unknown_sender_domain"}},
		{name: "the DNS at a hub", req: hub, main: main{"smtpd_sender_restrictions": "reject_unknown_sender_domain"}},
		{name: "a short life", req: hub, main: main{"maximal_queue_lifetime": "6h"}, want: "maximal_queue_lifetime is 6h"},
		{name: "a short life of bounces", req: hub, main: main{"bounce_queue_lifetime": "0"}, want: "bounce_queue_lifetime is 0"},
		{name: "a life of a day", req: hub, main: main{"maximal_queue_lifetime": "1", "bounce_queue_lifetime": "1d"}},
		{name: "TLS for all", req: hub, main: main{"smtp_tls_security_level": "secure"}, want: "smtp_tls_policy_maps (\"[mail.acme.example] may\")"},
		{name: "TLS for all but the sites", req: hub, main: main{"smtp_tls_security_level": "secure", "smtp_tls_policy_maps": texthash + "tls"}},
		{name: "TLS where there is", req: hub, main: main{"smtp_tls_security_level": "may"}},
		{name: "TLS to the hub", req: site, main: main{"smtp_tls_security_level": "secure"}},
	}
	postfixtest.Inside(t, testbed.PostfixOptions{Files: files}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		stock := ""
		for line := range strings.Lines(masterText) {
			if f := strings.Fields(line); len(f) == 8 && f[0] == "smtp" && f[1] == "inet" {
				stock = line
			}
		}
		if stock == "" {
			t.Fatalf("no entry for port 25:\n%s", masterText)
		}
		for _, tt := range tests {
			text := mainText
			for _, name := range slices.Sorted(maps.Keys(tt.main)) {
				text += name + " = " + tt.main[name] + "\n"
			}
			postfixtest.Write(t, mainCF, text)
			master := masterText
			if tt.master != "" {
				master = strings.Replace(masterText, stock, tt.master, 1)
			}
			postfixtest.Write(t, masterCF, master)
			pl, err := NewPlan(ctx, postfix.New(postfix.Options{}), tt.req)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			if tt.want == "" && len(pl.Warnings) > 0 {
				t.Errorf("%s: warned of what does no harm: %q", tt.name, pl.Warnings)
			}
			if tt.want != "" && (len(pl.Warnings) != 1 || !strings.Contains(pl.Warnings[0], tt.want)) {
				t.Errorf("%s: %q, want one warning with %q", tt.name, pl.Warnings, tt.want)
			}
		}
	})
}

// A milter that is added behind ours comes before it with the next set-up, and
// until then there is one to do.
func TestMilterStaysLast(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := plant(t)
		pf := postfix.New(postfix.Options{})
		apply(t, ctx, pf, required)
		const ours = "content_timeout=20s }"
		postfixtest.Edit(t, mainCF, ours, ours+"\n\tinet:127.0.0.1:8893, inet:127.0.0.1:8894")
		pl, err := NewPlan(ctx, pf, required)
		if err != nil {
			t.Fatal(err)
		}
		if pl.Empty() {
			t.Error("a milter stands behind ours, and there is nothing to do")
		}
		apply(t, ctx, pf, required)
		for _, list := range milterLists {
			if got := setting(t, ctx, pf, list); !strings.HasSuffix(got, ours) || strings.Count(got, "milter.sock") != 1 || !strings.Contains(got, "8893") {
				t.Errorf("%s is %s", list, got)
			}
		}
		undo(t, ctx, pf)
		sameFiles(t, strings.Replace(mainText, "default_action=tempfail }", "default_action=tempfail }\n\tinet:127.0.0.1:8893, inet:127.0.0.1:8894", 1), masterText)
	})
}
