package odmr

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"sync/atomic"
)

// Certificate is a certificate and key that can be read again while they are
// in use: after a renewal, new sessions get the new one.
type Certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

// LoadCertificate reads PEM files; the first holds the chain, leaf first.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile}
	return c, c.Reload()
}

// Reload reads the files again. When they are bad, the old ones stay in use.
func (c *Certificate) Reload() error {
	use, err := c.Read()
	if err == nil {
		use()
	}
	return err
}

// Read is the first half of a reload: nothing changes until use is called.
func (c *Certificate) Read() (use func(), err error) {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	return func() { c.current.Store(&pair) }, nil
}

// Current is the certificate in use.
func (c *Certificate) Current() *tls.Certificate { return c.current.Load() }

// serverConfig asks for a client certificate but verifies no chain: what counts
// is the fingerprint that the queue names, and the handshake proves that the
// client has the key to it.
func (c *Certificate) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.Current(), nil
		},
		// Sessions are few and far between. Without tickets every client
		// certificate has been proved in this very session.
		SessionTicketsDisabled: true,
	}
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func keyFingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
