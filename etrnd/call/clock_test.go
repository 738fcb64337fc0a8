package call

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// securely is a hub that wants TLS, and the remote that trusts it.
func securely(t *testing.T) (host func(net.Conn), change func(*config.Remote)) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hub.example"}, DNSNames: []string{"hub.example"},
		NotBefore: time.Date(1999, 12, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	serve := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	host = func(pipe net.Conn) {
		c := newRoomy(pipe)
		defer close(c.out)
		buf := make([]byte, 512)
		fmt.Fprint(c, hubGreeting)
		for {
			n, err := c.Read(buf)
			switch {
			case err != nil:
				return
			case strings.HasPrefix(string(buf[:n]), "EHLO"):
				fmt.Fprint(c, "250-hub.example\r\n250 STARTTLS\r\n")
			case strings.HasPrefix(string(buf[:n]), "STARTTLS"):
				fmt.Fprint(c, "220 go on\r\n")
				secure := tls.Server(c, serve)
				if secure.Handshake() != nil {
					return
				}
				for {
					n, err := secure.Read(buf)
					switch {
					case err != nil:
						return
					case strings.HasPrefix(string(buf[:n]), "EHLO"):
						fmt.Fprint(secure, "250-hub.example\r\n250 ETRN\r\n")
					case strings.HasPrefix(string(buf[:n]), "ETRN"):
						fmt.Fprint(secure, "251 OK, no messages waiting\r\n")
					default:
						fmt.Fprint(secure, "221 bye\r\n")
					}
				}
			}
		}
	}
	return host, func(r *config.Remote) { r.TLS, r.TLSCA, r.TLSName = config.TLSRequire, ca, "hub.example" }
}

// roomy is a pipe that takes what is written without a reader, as a connection
// does: both sides of TLS may write at once.
type roomy struct {
	net.Conn
	out chan []byte
}

func newRoomy(c net.Conn) *roomy {
	r := &roomy{c, make(chan []byte, 100)}
	go func() {
		for b := range r.out {
			_, _ = c.Write(b) // whoever is gone reads nothing
		}
	}()
	return r
}

func (r *roomy) Write(b []byte) (int, error) {
	r.out <- append([]byte(nil), b...)
	return len(b), nil
}

// A machine that starts in 1970 and has the time from the line: the call waits
// for the clock, and asks again.
func TestCallWhenTheClockIsSet(t *testing.T) {
	host, change := securely(t)
	var offset atomic.Int64
	offset.Store(int64(-30 * 365 * 24 * time.Hour))
	inBubble(t, oneLink(remote("hub", change)), func(s *site) {
		s.net.host("192.0.2.1:366", host)
		s.up()
		time.Sleep(10*sec + 500*ms) // between two looks
		if ev := s.Calls(); len(ev) != 1 || ev[0].Waiting != "the clock of this machine to be set" {
			t.Errorf("while it waits: %+v", ev)
		}
		offset.Store(0)
		r := s.result(0, "")
		s.took("the call", time.Duration(r.Line), 11*sec) // it looks each second
	}, func(_ *site, o *Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())).Round(0) }
	})
}

// A clock that nobody sets is a reason to try again another time, and the line
// is not kept for long.
func TestCallWhenTheClockStaysWrong(t *testing.T) {
	host, change := securely(t)
	inBubble(t, oneLink(remote("hub", change)), func(s *site) {
		s.net.host("192.0.2.1:366", host)
		s.up()
		r := s.result(api.ExitTempFail, "the clock of this machine says 1970-01-0")
		s.took("the call", time.Duration(r.Line), clockWait)
		if !strings.Contains(r.Hint, "set the clock") {
			t.Errorf("hint %q", r.Hint)
		}
	}, func(_ *site, o *Options) {
		o.Now = func() time.Time {
			return time.Unix(int64(time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds()), 0)
		}
	})
}
