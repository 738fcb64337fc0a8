package odmr

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// TLSMode is what a client wants of STARTTLS.
type TLSMode string

const (
	// TLSAuto uses STARTTLS when it is offered. A certificate that cannot be
	// verified is no obstacle, nor is TLS that fails (see effort), but PLAIN and
	// LOGIN are then not used.
	TLSAuto TLSMode = "auto"
	// TLSRequire fails without TLS and a valid certificate.
	TLSRequire TLSMode = "require"
	// TLSInsecure fails without TLS, and takes any certificate, for passwords too.
	TLSInsecure TLSMode = "insecure"
	// TLSOff never uses STARTTLS.
	TLSOff TLSMode = "off"
)

const opHandshake = "TLS handshake"

// secure starts TLS as the mode wants.
func (c *Client) secure(ctx context.Context) error {
	mode := c.o.TLS
	switch mode {
	case TLSOff:
		return nil
	case TLSAuto:
		if c.o.effort == effortNone {
			c.log.Warn("TLS does not come about, and what is said is not encrypted", "error", c.o.failed)
			return nil
		}
	case TLSRequire, TLSInsecure:
	default:
		return &Error{Kind: ErrTLS, Op: "STARTTLS", Err: fmt.Errorf("unknown TLS mode %q: expected auto, require, insecure or off", mode)}
	}
	if !c.offers.Has("STARTTLS") {
		if mode == TLSAuto {
			return nil
		}
		return &Error{Kind: ErrTLS, Op: "STARTTLS", Err: errors.New("the remote does not offer STARTTLS")}
	}
	c.o.Phase(PhaseTLS)
	rep, err := c.command(ctx, "STARTTLS", "STARTTLS")
	if err != nil {
		return err
	}
	if rep.Code != 220 {
		if mode == TLSAuto && rep.Code != 421 {
			c.log.Warn("remote offers STARTTLS but refuses it, and what is said is not encrypted", "code", rep.Code, "text", rep.Text())
			c.o.failed = &Error{Kind: ErrTLS, Op: "STARTTLS", Code: rep.Code, Text: rep.Text()}
			return nil
		}
		e := c.refused("STARTTLS", rep)
		if rep.Code != 421 {
			e.Kind = ErrTLS
		}
		return e
	}
	if err := c.handshake(ctx, mode == TLSRequire); err != nil {
		return err
	}
	if c.distrust != nil {
		c.log.Warn("certificate of the remote is not verified", "error", c.distrust)
	}
	// All that was said without TLS may have been said by anybody.
	return c.hello(ctx)
}

// handshake starts TLS. The certificate is verified in any case, and the result
// kept; it ends the handshake only when verified is asked for.
func (c *Client) handshake(ctx context.Context, verified bool) error {
	if c.in.Buffered() > 0 {
		return &Error{Kind: ErrTLS, Op: "STARTTLS", Err: errors.New("the remote, or somebody in between, sent replies ahead of TLS")}
	}
	config := c.o.Config.Clone()
	c.o.effort.apply(config)
	config.InsecureSkipVerify = true // VerifyConnection does it, and tells why
	before := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if before != nil {
			if err := before(state); err != nil {
				return err
			}
		}
		if c.distrust = verify(state, config); c.distrust == nil {
			c.distrust = weak(state)
		}
		if verified {
			return c.distrust
		}
		return nil
	}
	conn := tls.Client(c.raw, config)
	release, err := c.arm(ctx)
	if err == nil {
		err = conn.HandshakeContext(ctx)
		release()
	}
	if err != nil {
		e := c.failed(ctx, opHandshake, err)
		if !errors.Is(e, ErrTimeout) && !errors.Is(e, context.Canceled) && !isGone(err) {
			e.Kind = ErrTLS
		}
		// There is no telling what the remote would make of a QUIT.
		c.Close()
		return e
	}
	state := conn.ConnectionState()
	c.tls = &state
	c.conn = conn
	c.in.Reset(conn)
	c.log.Debug("TLS started", "version", tls.VersionName(state.Version), "cipher", tls.CipherSuiteName(state.CipherSuite))
	return nil
}

func verify(state tls.ConnectionState, config *tls.Config) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the remote has no certificate")
	}
	if config.ServerName == "" {
		return errors.New("no name is known to verify the certificate by")
	}
	o := x509.VerifyOptions{DNSName: config.ServerName, Roots: config.RootCAs, Intermediates: x509.NewCertPool()}
	o.CurrentTime = time.Now()
	if config.Time != nil {
		o.CurrentTime = config.Time()
	}
	for _, certificate := range state.PeerCertificates[1:] {
		o.Intermediates.AddCert(certificate)
	}
	_, err := state.PeerCertificates[0].Verify(o)
	return untimely(err, o.CurrentTime)
}

// isGone tells a lost connection from a failure of what was said on it.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}
