package odmr

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// effort is how a client with TLSAuto tries to have TLS. Whoever is on the path can
// keep it from having any, by cutting STARTTLS out of a reply: the mode has never
// helped against him, and a server whose TLS is of no use is not one to be left
// without mail. So what fails is tried with all that is too weak to be offered
// otherwise, and then without, each over a connection of its own. Passwords are not
// shown in any of these (Client.mechanisms), and TLSRequire does none of it.
type effort int

const (
	effortModern effort = iota // TLS 1.2 or later
	effortOld                  // any that is left in crypto/tls
	effortNone
)

func (e effort) String() string {
	switch e {
	case effortModern:
		return "TLS"
	case effortOld:
		return "old TLS"
	}
	return "no TLS"
}

// lower reports whether there is something left to be tried after a failure of TLS.
func (o *ClientOptions) lower(err error) bool {
	var e *Error
	if o.TLS != TLSAuto || o.effort == effortNone || !errors.As(err, &e) || e.Op != opHandshake || !(e.Kind == ErrTLS || e.Kind == ErrClosed) {
		return false
	}
	o.failed = err
	o.effort++
	if o.effort == effortOld && !ofAge(err) {
		o.effort = effortNone
	}
	return true
}

// ofAge reports whether a failure may be one of versions and ciphers.
func ofAge(err error) bool {
	var cert x509.CertificateInvalidError
	return !errors.As(err, &cert) && !strings.Contains(err.Error(), "parse certificate")
}

// apply makes a configuration of this effort.
func (e effort) apply(c *tls.Config) {
	if e != effortOld {
		return
	}
	c.MinVersion = tls.VersionTLS10
	c.CipherSuites = nil
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		c.CipherSuites = append(c.CipherSuites, suite.ID)
	}
}

// weak is why a connection is not to be trusted whatever its certificate.
func weak(state tls.ConnectionState) error {
	if state.Version < tls.VersionTLS12 {
		return fmt.Errorf("%s is too weak to be trusted", tls.VersionName(state.Version))
	}
	for _, suite := range tls.InsecureCipherSuites() {
		if suite.ID == state.CipherSuite {
			return fmt.Errorf("the cipher %s is too weak to be trusted", suite.Name)
		}
	}
	return nil
}

// InTheClear is why a client that was to use TLS when it can does without: the
// remote offers it, and it failed. Nil with TLS, and where none was offered.
func (c *Client) InTheClear() error {
	if c.tls != nil {
		return nil
	}
	return c.o.failed
}

// explain is an error with what it means.
func explain(err error) string {
	if what, _ := TLSProblem(err); what != "" {
		return err.Error() + ": " + what
	}
	return err.Error()
}

// remoteAlert begins what crypto/tls says of an alert of the other side, for which
// it has no type.
const remoteAlert = "remote error: tls: "

// TLSProblem says in a sentence what is wrong with the TLS of a remote, by the error
// of a client or a probe, and what can be done about it. Empty for other errors.
func TLSProblem(err error) (what, hint string) {
	var (
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		algorithm x509.InsecureAlgorithmError
		header    tls.RecordHeaderError
	)
	is := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(s string) bool { return strings.Contains(err.Error(), s) })
	}
	const probe = "etrnctl probe shows the certificate"
	switch {
	case err == nil:
		return "", ""
	case errors.As(err, &algorithm):
		return "its certificate is signed with " + x509.SignatureAlgorithm(algorithm).String() + ", which proves nothing any more", "it needs a new certificate; to trust this very one, nothing helps but tls = \"insecure\""
	case errors.As(err, &host):
		return "its certificate is for another name", "write the name that the certificate has as tls-name, if it is the right host; " + probe
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && strings.Contains(invalid.Detail, "is before"):
		return "its certificate is not valid yet", "is the clock of this host right? " + probe
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired", "the other side has to renew it (or is the clock of this host wrong?); " + probe
	case errors.As(err, &authority):
		return "nobody known here has signed its certificate", "write the file with the certificate of its authority, or with its own if it has signed itself, as tls-ca; " + probe
	case errors.As(err, &invalid):
		return "its certificate is not valid: " + invalid.Error(), "check tls-ca and tls-name; " + probe
	case is("protocol version"):
		return "it speaks no version of TLS that is safe (1.2 or 1.3)", "its software or its settings are too old"
	case is("handshake failure", "no mutually supported", "unsupported cipher", "chose an unconfigured cipher", "insufficient security"):
		return "it has no cipher, no key exchange or no certificate that this host finds safe", "its software or its settings are too old: it may have DHE or plain RSA as its only key exchanges, or a certificate that is signed with MD5 or SHA-1"
	case is("failed to parse certificate"):
		return "its certificate cannot be read", "it needs a new certificate"
	case errors.As(err, &header):
		return "what it says behind STARTTLS is no TLS", "is something in between that changes what is sent?"
	case is("certificate required", "bad certificate", "unknown certificate authority", "access denied") && is(remoteAlert):
		return "it does not accept the certificate of this host", "check tls-cert and tls-key, and what the other side expects"
	case is(remoteAlert):
		_, alert, _ := strings.Cut(err.Error(), remoteAlert)
		return "it broke TLS off: " + alert, "its log tells why"
	case errors.Is(err, ErrTLS):
		return "TLS does not come about", "check tls-ca and tls-name; " + probe
	case errors.Is(err, ErrClosed) && is(opHandshake):
		return "it closed the connection in the middle of the TLS handshake", "its log tells why"
	}
	return "", ""
}
