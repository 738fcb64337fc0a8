// Package users keeps the people and machines that may authenticate: the users
// file, the secrets in it, and both ends of the SASL mechanisms that use them.
//
// The file has one user a line; empty lines and lines that begin with "#" are
// kept by every edit and mean nothing:
//
//	acme:{SCRAM-SHA-256}50000$<salt>$<stored key>$<server key>
//	beta:{SCRAM-SHA-256}50000$<salt>$<stored key>$<server key>:{CRAM-MD5}<64 hex digits>
//
// The first field is what RFC 5802 lets a server keep (salt, keys in base64):
// it serves SCRAM-SHA-256 (RFC 7677), PLAIN (RFC 4616) and LOGIN, and the
// password cannot be read from it. The second is for CRAM-MD5 (RFC 2195) and
// holds the two intermediate states of HMAC-MD5 (outer, inner), the form that
// "doveadm pw -s CRAM-MD5" prints. They do not reveal the password, but whoever
// has them can log in with CRAM-MD5, so the field is there only for users who
// need it.
//
// The package does not decide what a user may ask for, nor which mechanism is
// fit for a connection (PLAIN and LOGIN belong under TLS): that is its caller's.
package users

import (
	"context"
	"errors"
	"log/slog"

	"github.com/emersion/go-sasl"
)

// Names of the SASL mechanisms, as they stand in an AUTH command.
const (
	ScramSHA256 = "SCRAM-SHA-256"
	Plain       = "PLAIN"
	Login       = "LOGIN"
	CramMD5     = "CRAM-MD5"
)

// Errors of an authentication exchange, to be told apart with errors.Is.
var (
	// ErrDenied: the user is unknown, the secret is wrong, or the user has no
	// secret for this mechanism. The error that wraps it says which, for the
	// log; the peer is not told.
	ErrDenied = errors.New("authentication denied")
	// ErrMalformed: the peer's message is not one of the mechanism.
	ErrMalformed = errors.New("malformed authentication message")
	// ErrBusy: too many passwords are being checked; try again later.
	ErrBusy = errors.New("too many passwords are being checked")
	// ErrMechanism: no such mechanism here.
	ErrMechanism = errors.New("unknown authentication mechanism")
)

// Options of a Store. The zero value is usable.
type Options struct {
	// Logger gets what a reload changed. Default: discard.
	Logger *slog.Logger
	// Parallel is how many passwords are hashed at a time; others wait.
	// Default: half of the processors, at least one.
	Parallel int
}

// Store is the users file as it was last read. It is safe for concurrent use.
type Store struct{}

// Open reads the users file. Every problem of the file is in the error, an
// Errors. A file that others may read or write is refused.
func Open(path string, o Options) (*Store, error) { return nil, errors.ErrUnsupported }

// Reload reads the file again. When it is bad the users stay as they were, and
// the error says why.
func (s *Store) Reload() error { return errors.ErrUnsupported }

// Users lists the users in the order of the file.
func (s *Store) Users() []User { return nil }

// Exchange is the server's side of one authentication. It is a sasl.Server.
type Exchange struct{}

// Server begins an exchange. ctx bounds the time spent waiting for a processor;
// host is the server's name, part of the CRAM-MD5 challenge.
func (s *Store) Server(ctx context.Context, mechanism, host string) (*Exchange, error) {
	return nil, errors.ErrUnsupported
}

// Next takes the client's message (nil when there was no initial response) and
// returns the next challenge. See sasl.Server.
func (e *Exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	return nil, false, errors.ErrUnsupported
}

// User is the name that was authenticated; empty before Next said done. While
// the exchange runs or after it failed, Claimed is what the peer called itself.
func (e *Exchange) User() string { return "" }

// Claimed is the name the peer gave, unchecked: quote it before it is logged.
func (e *Exchange) Claimed() string { return "" }

var _ sasl.Server = (*Exchange)(nil)

// NewClient is the client's side of a mechanism.
func NewClient(mechanism, user, password string) (sasl.Client, error) {
	return nil, errors.ErrUnsupported
}
