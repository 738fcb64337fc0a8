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
// A comment that etrnctl writes has a key, from which the salts of users that do not
// exist are made up: somebody who tries names shall see no difference, at no time.
//
// The package does not decide what a user may ask for, nor which mechanism is
// fit for a connection (PLAIN and LOGIN belong under TLS): that is its caller's.
package users

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
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
	// Wait is how long a password waits for its turn before ErrBusy. Default: 10 s.
	Wait time.Duration
}

// Store is the users file as it was last read. It is safe for concurrent use.
type Store struct {
	path string
	log  *slog.Logger
	wait time.Duration
	turn chan struct{} // one token for each password that is being hashed

	mu      sync.Mutex
	table   atomic.Pointer[table] // set with mu
	changed chan struct{}         // closed at the next change
}

// table is one reading of the file; it is never changed.
type table struct {
	users   []User
	secrets map[string]*Secret
	key     decoyKey
	shapes  []shape
}

// Open reads the users file. Every problem of the file is in the error, an
// Errors. A file that others may read or write is refused.
func Open(path string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Parallel <= 0 {
		o.Parallel = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if o.Wait <= 0 {
		o.Wait = 10 * time.Second
	}
	s := &Store{path: path, log: o.Logger, wait: o.Wait, turn: make(chan struct{}, o.Parallel), changed: make(chan struct{})}
	t, err := load(path)
	if err != nil {
		return nil, err
	}
	s.table.Store(t)
	return s, nil
}

// Reload reads the file again. When it is bad the users stay as they were, and
// the error says why.
func (s *Store) Reload() error {
	use, err := s.Read()
	if err == nil {
		use()
	}
	return err
}

// Read is the first half of a reload: nothing changes until use is called.
func (s *Store) Read() (use func(), err error) {
	t, err := load(s.path)
	if err != nil {
		return nil, err
	}
	return func() { s.use(t) }, nil
}

func (s *Store) use(t *table) {
	s.mu.Lock()
	old := s.table.Swap(t)
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	var gone, fresh, changed int
	for name, secret := range t.secrets {
		switch was, ok := old.secrets[name]; {
		case !ok:
			fresh++
		case was.String() != secret.String():
			changed++
		}
	}
	for name := range old.secrets {
		if _, ok := t.secrets[name]; !ok {
			gone++
		}
	}
	s.log.Info("users file read", "file", s.path, "users", len(t.users), "new", fresh, "changed", changed, "removed", gone)
}

// Users lists the users in the order of the file.
func (s *Store) Users() []User { return append([]User(nil), s.table.Load().users...) }

func load(path string) (*table, error) {
	data, mode, err := read(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(path, data)
	var problems Errors
	if err != nil && !errors.As(err, &problems) {
		return nil, err
	}
	if mode.Perm()&0o007 != 0 {
		problems = append(Errors{{File: path, Msg: fmt.Sprintf(
			"mode %04o lets everybody at the secrets; run: chmod o= %s", mode.Perm(), path)}}, problems...)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	t := &table{users: f.Users(), secrets: make(map[string]*Secret)}
	for _, l := range f.lines {
		if l.secret != nil {
			t.secrets[l.name] = l.secret
		}
	}
	t.key, _ = f.decoyKey()
	t.shapes = shapesOf(t.secrets)
	return t, nil
}

// lookup never fails: a name that is not in the file gets a secret that nothing
// fits, so that every later step takes as long as with a wrong password.
func (s *Store) lookup(name string) (secret *Secret, known bool) {
	t := s.table.Load()
	decoy := t.decoy(name) // for those who exist too, as the time spent must not tell
	if secret, known = t.secrets[name]; known {
		return secret, true
	}
	return decoy, false
}

// Grant is what an authentication rests on.
type Grant struct {
	name   string
	secret *Secret
}

// Stands reports whether a grant still holds: the user is there, and the secrets
// are those that were shown.
func (s *Store) Stands(g Grant) bool {
	now, ok := s.table.Load().secrets[g.name]
	return ok && g.secret != nil && (now == g.secret || now.String() == g.secret.String())
}

// Changed returns a channel that is closed when the file has been read again.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// check compares a password with the stored key. It costs a good part of a
// second of a small processor, so that only a few run at a time.
func (s *Store) check(ctx context.Context, name, password string) (*Secret, error) {
	if len(password) > maxPassword {
		return nil, fmt.Errorf("%w: a password of %d bytes, more than %d", ErrMalformed, len(password), maxPassword)
	}
	wait, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
	case <-wait.Done():
		return nil, fmt.Errorf("%w: no turn within %v", ErrBusy, s.wait)
	}
	defer func() { <-s.turn }()

	secret, known := s.lookup(name)
	prepared, err := prepare(password)
	if err != nil {
		// Not a password that can have been set; hashed all the same, as the
		// time spent must not tell.
		prepared = password
	}
	stored, _, err := derive(prepared, secret.salt, secret.iterations)
	if err != nil {
		return nil, err
	}
	fits := hmac.Equal(stored[:], secret.storedKey[:])
	switch {
	case !known:
		return nil, fmt.Errorf("%w: unknown user", ErrDenied)
	case !fits:
		return nil, fmt.Errorf("%w: wrong password", ErrDenied)
	}
	return secret, nil
}

// derive computes the keys of RFC 5802, section 3.
func derive(password string, salt []byte, iterations int) (stored, server [sha256.Size]byte, err error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return stored, server, fmt.Errorf("hash the password: %w", err)
	}
	mac := hmac.New(sha256.New, salted)
	mac.Write([]byte("Client Key"))
	stored = sha256.Sum256(mac.Sum(nil))
	mac.Reset()
	mac.Write([]byte("Server Key"))
	mac.Sum(server[:0])
	return stored, server, nil
}
