package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// TLSConfig has the roots, the certificate and the name of the remote, from the
// files as they are now.
func (r *Remote) TLSConfig() (*tls.Config, error) {
	c := &tls.Config{ServerName: r.TLSName, MinVersion: tls.VersionTLS12}
	if c.ServerName == "" {
		c.ServerName = r.Host
	}
	if r.TLSCA != "" {
		pem, err := ReadReferred(r.TLSCA)
		if err != nil {
			return nil, fmt.Errorf("remote %s: tls-ca: %w", r.Name, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("remote %s: tls-ca: no certificate in %s", r.Name, r.TLSCA)
		}
	}
	if r.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(r.TLSCert, r.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("remote %s: tls-cert: %w", r.Name, err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}
