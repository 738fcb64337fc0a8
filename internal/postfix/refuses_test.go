//go:build !quick

package postfix_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// A change of Postfix's settings, or of a table that they name, is noticed without
// a word of anybody, and one that cannot be read changes nothing.
func TestSettingsAreFollowed(t *testing.T) {
	main := map[string]string{
		"mydestination": "localhost, /etc/postfix/finals", "relay_domains": "hash:/etc/postfix/relayed",
		"virtual_mailbox_domains": "", "virtual_alias_domains": "",
	}
	postfixtest.Inside(t, testbed.PostfixOptions{Main: main, Files: map[string]string{"/etc/postfix/finals": "here.example\n", "/etc/postfix/relayed": "there.example x\n"}}, func(t *testing.T, ctx context.Context) {
		run(t, ctx, "postmap", "/etc/postfix/relayed")
		pf := postfix.New(postfix.Options{})
		until := func(what, domain string, local, takes bool) {
			t.Helper()
			var got, gotTakes bool
			err := testbed.Until(ctx, what, func() (bool, error) {
				var err error
				if got, err = pf.IsLocal(ctx, domain); err != nil {
					return false, err
				}
				gotTakes, err = pf.Takes(ctx, domain)
				return got == local && gotTakes == takes, err
			})
			if err != nil {
				t.Fatalf("%v: local %t, takes %t", err, got, gotTakes)
			}
		}
		until("the first look", "here.example", true, true)
		until("the first look", "there.example", false, true)
		until("the first look", "new.example", false, false)
		run(t, ctx, "postconf", "-e", "mydestination = localhost, /etc/postfix/finals, new.example")
		until("mydestination", "new.example", true, true)
		postfixtest.Write(t, "/etc/postfix/finals", "there.example\n")
		until("a file that it names", "here.example", false, false)
		until("a file that it names", "there.example", true, true)
		postfixtest.Write(t, "/etc/postfix/relayed", "here.example x\n")
		run(t, ctx, "postmap", "/etc/postfix/relayed")
		until("a table of relay_domains", "here.example", false, true)
		postfixtest.Write(t, "/etc/postfix/main.cf.new", "mydestination = ${\n")
		run(t, ctx, "sh", "-c", "cp /etc/postfix/main.cf /etc/postfix/main.cf.old && mv /etc/postfix/main.cf.new /etc/postfix/main.cf")
		for range 20 {
			until("a broken main.cf", "new.example", true, true)
		}
		run(t, ctx, "sh", "-c", "sed 's/new.example/newer.example/' /etc/postfix/main.cf.old > /etc/postfix/main.cf")
		until("the mended one", "newer.example", true, true)
		until("the mended one", "new.example", false, false)
	})
}

// What is said to be refused is refused by Postfix, and what Postfix would take, for
// whatever reason, is not said to be.
func TestRefuses(t *testing.T) {
	hub, other := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("203.0.113.0/24")
	postfixtest.Inside(t, testbed.PostfixOptions{Main: map[string]string{
		"mydestination": "here.example", "relay_domains": "there.example", "virtual_alias_domains": "alias.example", "virtual_mailbox_domains": "",
		"mynetworks": "127.0.0.0/8 [::1]/128 203.0.113.0/24", "parent_domain_matches_subdomains": "",
		"smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination",
	}}, func(t *testing.T, ctx context.Context) {
		for _, c := range []struct {
			name    string
			setting string // that is changed before
			domain  string
			from    []netip.Prefix
			want    bool
		}{
			{"its own", "", "here.example", []netip.Prefix{hub}, false},
			{"in other letters", "", "Here.Example.", []netip.Prefix{hub}, false},
			{"a virtual one", "", "alias.example", []netip.Prefix{hub}, false},
			{"one that is passed on", "", "there.example", []netip.Prefix{hub}, false},
			{"below it", "", "sub.there.example", []netip.Prefix{hub}, true},
			{"anybody else's", "", "far.example", []netip.Prefix{hub}, true},
			{"anybody else's, of a host that is trusted", "", "far.example", []netip.Prefix{other}, false},
			{"anybody else's, of a host that is not known", "", "far.example", nil, false},
			{"below it, where parents count", "parent_domain_matches_subdomains = relay_domains", "sub.there.example", []netip.Prefix{hub}, false},
			{"with a dot", "relay_domains = .there.example", "sub.there.example", []netip.Prefix{hub}, true}, // parents still count, so the dot is none
			{"with a dot, where only that counts", "parent_domain_matches_subdomains =", "sub.there.example", []netip.Prefix{hub}, false},
			{"of a host that is not known, and none but this one is trusted", "mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128", "far.example", nil, true},
			{"trusted networks in a table", "mynetworks = 127.0.0.0/8 cidr:/etc/postfix/nets", "far.example", []netip.Prefix{hub}, false},
			{"for good", "mynetworks = 127.0.0.0/8", "far.example", []netip.Prefix{hub}, true},
			{"by a list of recipients", "smtpd_relay_restrictions = check_recipient_access inline:{far.example=OK}, reject_unauth_destination", "far.example", []netip.Prefix{hub}, false},
			{"all for good", "smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination", "far.example", []netip.Prefix{hub}, true},
			{"warned of only", "smtpd_relay_restrictions = permit_mynetworks, warn_if_reject, reject_unauth_destination", "far.example", []netip.Prefix{hub}, false},
			{"by those of recipients", "smtpd_relay_restrictions =", "far.example", []netip.Prefix{hub}, false},
		} {
			if c.setting != "" {
				run(t, ctx, "postconf", "-e", c.setting)
			}
			pf := postfix.New(postfix.Options{})
			if got, err := pf.Refuses(ctx, c.domain, c.from); err != nil || got != c.want {
				t.Errorf("%s: refuses %s: %t, %v; want %t", c.name, c.domain, got, err, c.want)
			}
		}
		// The service itself may say otherwise.
		run(t, ctx, "postconf", "-e", "smtpd_relay_restrictions = reject_unauth_destination")
		run(t, ctx, "postconf", "-P", "smtp/inet/smtpd_relay_restrictions=permit")
		pf := postfix.New(postfix.Options{})
		if got, err := pf.Refuses(ctx, "far.example", []netip.Prefix{hub}); err != nil || got {
			t.Errorf("with a setting in master.cf: %t, %v", got, err)
		}
	})
}
