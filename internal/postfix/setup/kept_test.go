//go:build !quick

package setup

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// certified makes a self-signed certificate, with its key, in a file for root alone;
// beside it, with ".ca" behind its name, is one for everybody without the key.
func certified(t *testing.T, path, name string) (fingerprint string) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	postfixtest.Write(t, path+".ca", public)
	postfixtest.Write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))+public)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return colons(hex.EncodeToString(sum[:]))
}

// farEnds are ports of this Postfix that take all mail and throw it away, as another
// host would: one without TLS, one with, and one that wants to see a certificate.
var farEnds = []string{
	"127.0.0.2:2501 inet n - n - - smtpd" + farEnd("clear") + "\n -o smtpd_tls_security_level=none",
	"127.0.0.2:2502 inet n - n - - smtpd" + farEnd("secure"),
	"127.0.0.2:2503 inet n - n - - smtpd" + farEnd("certified") + "\n -o smtpd_tls_ask_ccert=yes\n -o smtpd_tls_CAfile=/etc/postfix/client.pem.ca",
}

func farEnd(name string) string {
	return strings.Join([]string{"", "syslog_name=far-" + name, "myhostname=site.example", "content_filter=discard:", "smtpd_milters=", "smtpd_tls_security_level=may",
		"smtpd_tls_chain_files=/etc/postfix/site.pem", "smtpd_tls_loglevel=1", "smtpd_recipient_restrictions=permit_mynetworks,reject"}, "\n -o ")
}

// log is what Postfix has logged that fits a pattern, after a position.
func logged(t *testing.T, from int, pattern string) []string {
	t.Helper()
	return regexp.MustCompile("(?m)^.*"+pattern+".*$").FindAllString(postfixtest.Read(t, "/var/log/mail.log")[from:], -1)
}

func postconf(t *testing.T, ctx context.Context, settings ...string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, "postconf", append([]string{"-e"}, settings...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	postfixtest.Age(t, mainCF)
}

// Messages of which each goes when the last has gone share a connection, and its
// handshake, whatever TLS the postmaster wants.
func TestConnectionsAreKept(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Master: farEnds, Main: map[string]string{"smtp_tls_loglevel": "1"}}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		fingerprint := certified(t, "/etc/postfix/site.pem", "site.example")
		certified(t, "/etc/postfix/client.pem", "hub.example.net")
		certified(t, "/etc/postfix/other.pem", "other.example")
		if err := pf.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		login := Login{Remote: "site", Deliver: "smtp:[127.0.0.2]:2503", Hops: []string{"[127.0.0.2]:2503"}, Cert: "/etc/postfix/client.pem", Key: "/etc/postfix/client.pem", TLS: config.TLSInsecure}
		req := Requirements{Routes: []Route{
			{Pattern: "clear.example", Deliver: "smtp:[127.0.0.2]:2501", Relay: true}, {Pattern: "secure.example", Deliver: "smtp:[127.0.0.2]:2502", Relay: true},
			{Pattern: "certified.example", Deliver: login.Deliver, Relay: true},
		}, Logins: []Login{login}}
		apply(t, ctx, pf, req)
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
		apply(t, ctx, pf, req)

		const n = 4
		hold := func(domain string) (ids []string) {
			t.Helper()
			for range n {
				ids = append(ids, postfixtest.Send(t, "a@"+domain))
			}
			postfixtest.Settled(t, ctx, pf, "the mail to be held", func(q postfixtest.Queue) bool {
				for _, id := range ids {
					if m, ok := q[id]; !ok || !postfixtest.Held(m, 1) {
						return false
					}
				}
				return true
			})
			return ids
		}
		oneByOne := func(ids []string) {
			t.Helper()
			for _, id := range ids {
				postfixtest.Released(t, ctx, pf, nil, []string{id}, id+" to go", func(q postfixtest.Queue) bool { _, there := q[id]; return !there })
			}
		}
		// goes has mail gone over fewer connections than messages. What comes between
		// two messages here takes moments, but on a machine that stands still.
		goes := func(domain, connections string) {
			t.Helper()
			ids := hold(domain)
			from := len(postfixtest.Read(t, "/var/log/mail.log"))
			oneByOne(ids)
			if got := logged(t, from, connections); len(got) == 0 || len(got) > 2 {
				t.Errorf("%s: %d connections for %d messages, by %q:\n%s", domain, len(got), n, connections, postfixtest.Read(t, "/var/log/mail.log")[from:])
			}
			if sent := logged(t, from, `status=sent \(250 `); len(sent) != n {
				t.Errorf("%s: %d sent, of %d", domain, len(sent), n)
			}
			if bad := logged(t, from, "warning: .*tlsproxy|tlsproxy.*warning:|unexpected settings|status=bounced|status=deferred|fatal:|panic:"); len(bad) != 0 {
				t.Errorf("%s: %q", domain, bad)
			}
		}
		const handshake = ` TLS connection established from `
		goes("clear.example", `far-clear/smtpd.*: connect from`)
		goes("secure.example", `far-secure/smtpd.*: connect from`) // which is in the clear, too

		// A change that asks for no new set-up.
		postconf(t, ctx, "smtp_tls_security_level=may")
		if err := pf.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		goes("secure.example", "far-secure/smtpd.*"+handshake)
		goes("clear.example", `far-clear/smtpd.*: connect from`)
		goes("certified.example", "far-certified/smtpd.*(?:Trusted|Verified)"+handshake)

		// The postmaster's policies, certificate, and settings for another tlsproxy.
		postfixtest.Write(t, "/etc/postfix/policy", "[127.0.0.2]:2502 fingerprint match="+fingerprint+"\n[127.0.0.2]:2501 none\n")
		postconf(t, ctx, "smtp_tls_policy_maps=texthash:/etc/postfix/policy", "smtp_tls_fingerprint_digest=sha256", "smtp_tls_chain_files=/etc/postfix/other.pem",
			"tlsproxy_client_security_level=none", "tlsproxy_client_chain_files=/etc/postfix/none.pem")
		apply(t, ctx, pf, req)
		goes("secure.example", "far-secure/smtpd.*"+handshake)
		goes("certified.example", "far-certified/smtpd.*(?:Trusted|Verified)"+handshake)
		goes("clear.example", `far-clear/smtpd.*: connect from`)
		postfixtest.Write(t, "/etc/postfix/policy", "[127.0.0.2]:2502 secure match=site.example tafile=/etc/postfix/site.pem.ca\n")
		if err := pf.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		goes("secure.example", "far-secure/smtpd.*"+handshake)

		// Who is not the one that the policy wants gets nothing, and nothing is returned.
		postfixtest.Write(t, "/etc/postfix/policy", "[127.0.0.2]:2502 fingerprint match="+strings.Repeat("AB:", 31)+"AB\n")
		if err := pf.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		ids := hold("secure.example")
		fails := func(what string) {
			t.Helper()
			postfixtest.Released(t, ctx, pf, nil, ids[:1], "the delivery to fail: "+what, func(q postfixtest.Queue) bool {
				m, ok := q[ids[0]]
				if !ok {
					t.Fatalf("%s: the message is gone", what)
				}
				return postfixtest.Failed(m, 1)
			})
		}
		fails("another certificate")

		// tlsproxy(8) is not there, and is again.
		postfixtest.Write(t, "/etc/postfix/policy", "[127.0.0.2]:2502 encrypt\n")
		master := postfixtest.Read(t, masterCF)
		postfixtest.Edit(t, masterCF, "\ntransient-tlsproxy unix", "\ntransient-elsewhere unix")
		if err := pf.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		fails("no tlsproxy")
		postfixtest.Write(t, masterCF, master)
		if err := pf.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		oneByOne(ids[:1])

		// It dies with a connection in its hands: the next message makes another one.
		from := len(postfixtest.Read(t, "/var/log/mail.log"))
		oneByOne(ids[1:2])
		m := regexp.MustCompile(`transient-tlsproxy/tlsproxy\[(\d+)\]: (?:CONNECT|Untrusted|Trusted)`).FindAllStringSubmatch(postfixtest.Read(t, "/var/log/mail.log"), -1)
		if m == nil {
			t.Fatal("no tlsproxy has spoken")
		}
		pid, err := strconv.Atoi(m[len(m)-1][1])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		oneByOne(ids[2:])
		if sent := logged(t, from, `status=sent \(250 `); len(sent) != n-1 {
			t.Errorf("%d sent, of %d:\n%s", len(sent), n-1, strings.Join(sent, "\n"))
		}

		if bounced := logged(t, 0, "status=bounced"); len(bounced) != 0 {
			t.Errorf("returned: %q", bounced)
		}
		undo(t, ctx, pf)
		if master := postfixtest.Read(t, masterCF); master != masterText {
			t.Errorf("master.cf after the undo:\n%s", master)
		}
	})
}
