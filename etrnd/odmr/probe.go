package odmr

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
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
// away midway, what was found is returned together with the error. A remote whose
// TLS fails is no error: it is in the Offer.
func Probe(ctx context.Context, addr string, o ClientOptions) (*Offer, error) {
	offer := &Offer{Address: addr, Auth: []string{}, AuthTLS: []string{}, Keywords: []string{}}
	conn, err := dial(ctx, addr, &o)
	if err != nil {
		return offer, err
	}
	c := newClient(conn, o)
	defer c.Close()
	offer.Remote = conn.RemoteAddr().String()

	o.Phase(PhaseHello)
	err = c.greet(ctx)
	offer.Greeting = c.greeting
	if err != nil {
		return offer, err
	}
	if err := c.hello(ctx); err != nil {
		return offer, err
	}
	offer.take(c)
	offer.Auth = append(offer.Auth, c.offers.Auth()...)
	if !offer.STARTTLS {
		c.Quit()
		return offer, nil
	}

	o.Phase(PhaseTLS)
	offer.TLS = &OfferTLS{}
	rep, err := c.command(ctx, "STARTTLS", "STARTTLS")
	if err != nil {
		return offer, err
	}
	if rep.Code != 220 {
		offer.TLS.Problem = fmt.Sprintf("STARTTLS refused: %d %s", rep.Code, rep.Text())
		c.Quit()
		return offer, nil
	}
	if err := c.handshake(ctx, false); err != nil {
		offer.TLS.Problem = foreign.Printable(explain(err), esmtp.MaxReplyText)
		if ctx.Err() != nil {
			return offer, err
		}
		return offer, nil
	}
	offer.TLS.take(c)
	if err := c.hello(ctx); err != nil {
		return offer, err
	}
	offer.take(c)
	offer.STARTTLS = true // it is not listed again
	offer.AuthTLS = append(offer.AuthTLS, c.offers.Auth()...)
	c.Quit()
	return offer, nil
}

// take notes what the last EHLO said.
func (f *Offer) take(c *Client) {
	f.Hostname = c.host
	f.ESMTP = c.esmtp
	f.Keywords = append([]string{}, c.keywords...)
	for keyword, flag := range map[string]*bool{
		"ETRN": &f.ETRN, "ATRN": &f.ATRN, "STARTTLS": &f.STARTTLS, "PIPELINING": &f.Pipelining,
		"CHUNKING": &f.Chunking, "8BITMIME": &f.EightBit, "SMTPUTF8": &f.SMTPUTF8, "DSN": &f.DSN,
		"MT-PRIORITY": &f.MTPriority, "SIZE": &f.SizeListed,
	} {
		*flag = c.offers.Has(keyword)
	}
	f.Size = c.offers.Size()
}

func (t *OfferTLS) take(c *Client) {
	t.Version = tls.VersionName(c.tls.Version)
	t.Cipher = tls.CipherSuiteName(c.tls.CipherSuite)
	t.Verified = c.distrust == nil
	if c.distrust != nil {
		t.Problem = foreign.Printable(explain(c.distrust), esmtp.MaxReplyText)
	}
	if len(c.tls.PeerCertificates) == 0 {
		return
	}
	leaf := c.tls.PeerCertificates[0]
	names := []string{}
	for _, name := range leaf.DNSNames {
		names = append(names, foreign.Printable(name, 255))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	t.Certificate = &OfferCertificate{
		Subject:     foreign.Printable(leaf.Subject.String(), esmtp.MaxReplyText),
		Issuer:      foreign.Printable(leaf.Issuer.String(), esmtp.MaxReplyText),
		Names:       names,
		NotBefore:   leaf.NotBefore,
		NotAfter:    leaf.NotAfter,
		Fingerprint: fingerprint(leaf),
		PublicKey:   keyFingerprint(leaf),
	}
}
