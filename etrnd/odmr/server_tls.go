package odmr

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/socket"
	"github.com/etrnd/etrnd/internal/users"
)

// starttls is RFC 3207.
func (d *dialogue) starttls(ctx context.Context, arg string) error {
	switch {
	case d.srv.o.Certificate == nil:
		return d.refuse(502, "STARTTLS", "TLS is not set up here")
	case d.secure:
		return d.refuse(503, "STARTTLS", "TLS is already on")
	case arg != "":
		return d.refuse(501, "STARTTLS "+arg, "STARTTLS takes no parameter")
	}
	if n := d.in.Buffered(); n > 0 {
		// Whoever can write into the connection before TLS could place commands
		// that would be taken for the client's own behind it. No honest client
		// sends ahead here (RFC 3207, section 4), so nothing of it is answered.
		b, _ := d.in.Peek(n)
		first, _, _ := bytes.Cut(b, []byte("\r\n"))
		d.errors++
		d.log.Warn("session refused", "reason", "commands sent ahead of TLS", "line", d.shown(first))
		d.in.Discard(n)
		return closing("nothing may follow STARTTLS before its reply")
	}
	d.reply(220, "go ahead with TLS")
	if err := d.flush(); err != nil {
		return err
	}
	wait := socket.Grace(d.raw, d.srv.o.TLSTimeout)
	if !d.arm(wait) {
		return errDraining
	}
	d.raw.SetWriteDeadline(time.Now().Add(wait))
	conn := tls.Server(d.raw, d.srv.o.Certificate.serverConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		said := foreign.Escape(err.Error(), 200)
		d.log.Warn("TLS handshake failed", "error", said)
		// Not wrapped: a 421 in the clear would be read as a TLS record.
		return fmt.Errorf("TLS handshake failed: %s", said)
	}
	state := conn.ConnectionState()
	d.conn = conn
	d.in.Reset(conn)
	d.out.Reset(conn)
	// What was learnt without TLS is forgotten (RFC 3207, section 4.2).
	d.hello = false
	d.who.User, d.grant = "", users.Grant{}
	d.secure = true
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		d.who.Certificates = []string{fingerprint(leaf), keyFingerprint(leaf)}
	}
	d.log.Debug("TLS started", "version", tls.VersionName(state.Version), "cipher", tls.CipherSuiteName(state.CipherSuite), "certificates", d.who.Certificates)
	return nil
}
