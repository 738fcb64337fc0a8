package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
)

// maxReferred bounds the files that the configuration names. A bundle of all
// authorities of a system is about 250 kB.
const maxReferred = 4 << 20

// path returns the absolute name of the file that a key names, or "".
func (r *reader) path(t *table, key string) string {
	s, ok := t.text(key)
	if !ok {
		return ""
	}
	if s == "" {
		t.fail(key, "name a file, or leave the key out", "is empty")
		return ""
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(r.dir, s)
	}
	return filepath.Clean(s)
}

// readable reads a file and objects when it cannot. It returns nil then.
func (r *reader) readable(t *table, key, path string) []byte {
	data, err := readFileBy(r.open, path, maxReferred)
	if errors.Is(err, ErrUnseen) {
		t.warn(key, "run etrnctl check as root", "%s cannot be read by you, so what is in it was not checked", foreign.Quote(path))
		return nil
	}
	if err != nil {
		hint := ""
		var mend interface{ Hint() string }
		switch {
		case errors.As(err, &mend):
			hint = mend.Hint()
		case errors.Is(err, fs.ErrPermission):
			hint = fmt.Sprintf("this was tried as user id %d; etrnd must be able to read it", os.Geteuid())
		case errors.Is(err, fs.ErrNotExist) && key == "users":
			hint = "etrnctl user add NAME makes it"
		case errors.Is(err, fs.ErrNotExist):
			hint = "put the file there, or name the one that is meant"
		}
		t.fail(key, hint, "%s", reason(err))
		return nil
	}
	if data == nil {
		data = []byte{}
	}
	return data
}

// worldReadable reports whether others may read a file: those who are neither
// its owner nor in its group.
func worldReadable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().Perm()&0o004 != 0
}

// keyPair checks tls-cert and tls-key, which go together.
func (r *reader) keyPair(t *table) (cert, key string) {
	cert, key = r.path(t, "tls-cert"), r.path(t, "tls-key")
	switch {
	case t.has("tls-cert") && !t.has("tls-key"):
		t.fail("tls-cert", "name the file of its key, which can be the same file", "needs a tls-key")
		return "", ""
	case t.has("tls-key") && !t.has("tls-cert"):
		t.fail("tls-key", "name the file of its certificate", "needs a tls-cert")
		return "", ""
	case cert == "" || key == "" || r.noFiles:
		return cert, key
	}
	certPEM, keyPEM := r.readable(t, "tls-cert", cert), r.readable(t, "tls-key", key)
	if keyPEM != nil && worldReadable(key) {
		t.warn("tls-key", "run chmod o-r "+key, "%s can be read by everyone on this machine", foreign.Quote(key))
	}
	if certPEM == nil || keyPEM == nil {
		return "", ""
	}
	leaf, err := firstCertificate(certPEM)
	if err != nil {
		t.fail("tls-cert", "", "%s %s", foreign.Quote(cert), err)
		return "", ""
	}
	if encrypted(keyPEM) {
		t.fail("tls-key", "there is nobody to type it when the daemon starts: remove it with openssl pkey -in FILE -out FILE", "the key in %s has a passphrase", foreign.Quote(key))
		return "", ""
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		msg := strings.TrimPrefix(err.Error(), "tls: ")
		switch {
		case strings.Contains(msg, "found a certificate rather than a key"):
			msg = "contains a certificate, and no private key"
		case strings.Contains(msg, "does not match"):
			msg = "does not contain the key of the certificate in " + foreign.Quote(cert)
		case strings.Contains(msg, "key input"):
			msg = "contains no private key in PEM"
		default:
			msg = "cannot be used: " + clip(msg)
		}
		t.fail("tls-key", "", "%s %s", foreign.Quote(key), msg)
		return "", ""
	}
	switch now := r.now(); {
	case now.After(leaf.NotAfter):
		t.warn("tls-cert", "renew it", "the certificate in %s expired on %s", foreign.Quote(cert), leaf.NotAfter.UTC().Format(time.DateOnly))
	case now.Add(soon).After(leaf.NotAfter):
		t.warn("tls-cert", "renew it, and reload etrnd", "the certificate in %s expires on %s", foreign.Quote(cert), leaf.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		t.warn("tls-cert", "check the clock of this machine", "the certificate in %s is not valid before %s", foreign.Quote(cert), leaf.NotBefore.UTC().Format(time.DateOnly))
	}
	return cert, key
}

// soon is how long before its end a certificate is complained about: what renews
// those of 90 days by itself has done it by then.
const soon = 21 * 24 * time.Hour

// firstCertificate parses the first certificate of a PEM file: the one that
// the key has to fit.
func firstCertificate(data []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("contains a broken certificate: %s", clip(err.Error()))
		}
		return c, nil
	}
	return nil, errors.New("contains no certificate in PEM")
}

// encrypted reports whether a private key in PEM has a passphrase, in the
// form of PKCS #8 or in the older one of OpenSSL.
func encrypted(data []byte) bool {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return true
		}
	}
	return false
}

// authorities checks the file of tls-ca.
func (r *reader) authorities(t *table) string {
	path := r.path(t, "tls-ca")
	if path == "" || r.noFiles {
		return path
	}
	if data := r.readable(t, "tls-ca", path); data != nil {
		if _, err := firstCertificate(data); err != nil {
			t.fail("tls-ca", "", "%s %s", foreign.Quote(path), err)
		}
	}
	return path
}

// password checks the file of password-file.
func (r *reader) password(t *table) string {
	path := r.path(t, "password-file")
	if path == "" || r.noFiles {
		return path
	}
	data := r.readable(t, "password-file", path)
	if data == nil {
		return ""
	}
	if worldReadable(path) {
		t.fail("password-file", "run chmod o-r "+path, "%s can be read by everyone on this machine", foreign.Quote(path))
	}
	first, _, _ := bytes.Cut(data, []byte("\n"))
	if len(bytes.TrimSuffix(first, []byte("\r"))) == 0 {
		t.fail("password-file", "write the password there, alone on the first line", "the first line of %s is empty", foreign.Quote(path))
	}
	return path
}
