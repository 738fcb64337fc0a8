package odmr

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// NotYetValid is why a certificate is not trusted whose time has not come. One
// that a server in use has been given is valid already: it is the clock of this
// machine that is wrong, and there is a point in trying again once it has been
// set.
type NotYetValid struct {
	Now, From time.Time
	Err       error // as the library puts it
}

// Error names the clock.
func (e *NotYetValid) Error() string {
	const format = "2006-01-02 15:04 MST"
	return fmt.Sprintf("a certificate is valid from %s on, and the clock of this machine says %s", e.From.UTC().Format(format), e.Now.UTC().Format(format))
}

// Unwrap is the library's error.
func (e *NotYetValid) Unwrap() error { return e.Err }

// untimely makes the error of a verification at now a NotYetValid if it is one.
func untimely(err error, now time.Time) error {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if ok && invalid.Reason == x509.Expired && invalid.Cert != nil && now.Before(invalid.Cert.NotBefore) {
		return &NotYetValid{Now: now, From: invalid.Cert.NotBefore, Err: err}
	}
	return err
}

// clockIsWrong reports whether an error comes of a clock that is not set.
func clockIsWrong(err error) bool {
	_, ok := errors.AsType[*NotYetValid](err)
	return ok
}
