//go:build !quick

package odmr

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/testbed"
)

// The client and the probe against the ETRN of a real Postfix.
func TestAgainstPostfix(t *testing.T) {
	bed := testbed.Start(t)
	hub, err := bed.Host(t.Context(), "hub", testbed.HostOptions{Hostname: hostname})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writePair(t, dir, pki().hub)
	for _, name := range []string{"hub.pem", "hub.key"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := hub.WriteFile("/etc/postfix/"+name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err = hub.Postfix(t.Context(), testbed.PostfixOptions{Main: map[string]string{
		"fast_flush_domains":       "acme.example, acme",
		"smtpd_etrn_restrictions":  "check_etrn_access inline:{{refused.example=reject}, {later.example=450 come back}, {ours.example=459 not from your network}}",
		"smtpd_tls_cert_file":      "/etc/postfix/hub.pem",
		"smtpd_tls_key_file":       "/etc/postfix/hub.key",
		"smtpd_tls_security_level": "may",
	}, Master: []string{
		"2501 inet n - y - - smtpd -o smtpd_discard_ehlo_keywords=etrn,pipelining",
		"2502 inet n - y - - smtpd -o smtpd_delay_reject=no -o smtpd_client_restrictions=reject",
	}})
	if err != nil {
		t.Fatal(err)
	}
	// The port is that of the address, the machine the one in the bed.
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		return hub.Dial(ctx, network, "127.0.0.1:"+port)
	}
	o := ClientOptions{Hostname: "site.acme.example", DialContext: dial, TLS: TLSRequire, Config: &tls.Config{RootCAs: pki().roots}}
	ask := func(port string, names ...string) ([]int, []Reply, error) {
		t.Helper()
		c, err := Dial(t.Context(), hostname+":"+port, o)
		if err != nil {
			t.Fatal(err)
		}
		replies, err := c.Request(t.Context(), names)
		if err := c.Quit(); err != nil {
			t.Errorf("QUIT: %v", err)
		}
		var codes []int
		for _, r := range replies {
			codes = append(codes, r.Code)
		}
		return codes, replies, err
	}

	t.Run("request", func(t *testing.T) {
		codes, replies, err := ask("25", "acme.example", "@acme.example", "#acme", "beta.example", "refused.example", "later.example", "ours.example", "-bad-", "acme.example")
		// Postfix looks for "acme.example" in all of the first two, and for a
		// name that is not in fast_flush_domains it says 459 by itself.
		want := []int{250, 250, 250, 459, 554, 450, 459, 501, 250}
		if err != nil || !slices.Equal(codes, want) {
			t.Errorf("%v, %v; want %v\n%+v", codes, err, want, replies)
		}
		if len(replies) > 6 && !strings.Contains(replies[6].Text, "not from your network") {
			t.Errorf("the reason is lost: %+v", replies[6])
		}
	})
	t.Run("probe", func(t *testing.T) {
		offer, err := Probe(t.Context(), hostname+":25", o)
		if err != nil {
			t.Fatal(err)
		}
		if !offer.ETRN || offer.ATRN || !offer.STARTTLS || !offer.Pipelining || !offer.EightBit || !offer.DSN || offer.Size == 0 || offer.TLS == nil || !offer.TLS.Verified || offer.Hostname != hostname {
			t.Errorf("%+v, %+v", offer, offer.TLS)
		}
	})
	t.Run("keyword not listed", func(t *testing.T) {
		if offer, err := Probe(t.Context(), hostname+":2501", o); err != nil || offer.ETRN {
			t.Errorf("%+v, %v", offer, err)
		}
		codes, _, err := ask("2501", "acme.example", "#acme")
		if err != nil || !slices.Equal(codes, []int{250, 250}) {
			t.Errorf("%v, %v", codes, err)
		}
	})
	t.Run("client not welcome", func(t *testing.T) {
		_, err := Dial(t.Context(), hostname+":2502", o)
		var e *Error
		if !errors.As(err, &e) || e.Kind != ErrRefused || e.Code != 554 || e.Temporary() {
			t.Errorf("got %v", err)
		}
	})
}
