package odmr

import (
	"crypto/tls"
	"errors"
)

// Certificate is a certificate and key that can be read again while they are
// in use: after a renewal, new sessions get the new one.
type Certificate struct{}

// LoadCertificate reads PEM files; the first holds the chain, leaf first.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	return nil, errors.ErrUnsupported
}

// Reload reads the files again. When they are bad, the old ones stay in use.
func (c *Certificate) Reload() error { return errors.ErrUnsupported }

// Current is the certificate in use.
func (c *Certificate) Current() *tls.Certificate { return nil }
