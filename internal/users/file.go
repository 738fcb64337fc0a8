package users

import "errors"

// DefaultIterations is the cost of a new secret.
const DefaultIterations = 50_000

// Errors of an edit.
var (
	ErrExists = errors.New("user exists")
	ErrNoUser = errors.New("no such user")
)

// User is one line of the file, without its secrets.
type User struct {
	Name       string `json:"name"`
	CramMD5    bool   `json:"cram_md5"`   // has a secret for CRAM-MD5
	Iterations int    `json:"iterations"` // cost of the SCRAM-SHA-256 secret
	Line       int    `json:"line"`
}

// Secret is what the file keeps of a password.
type Secret struct{}

// SecretOptions of NewSecret.
type SecretOptions struct {
	Iterations int  // default DefaultIterations
	CramMD5    bool // add the field for CRAM-MD5
}

// NewSecret hashes a password with a fresh salt.
func NewSecret(password string, o SecretOptions) (Secret, error) {
	return Secret{}, errors.ErrUnsupported
}

// File is a parsed users file that can be edited.
type File struct{}

// Parse reads the text of a users file. name is used in errors only.
func Parse(name string, data []byte) (*File, error) { return nil, errors.ErrUnsupported }

// Users lists the users in the order of the file.
func (f *File) Users() []User { return nil }

// Add appends a user: ErrExists when there is one of that name.
func (f *File) Add(name string, s Secret) error { return errors.ErrUnsupported }

// Set replaces the secret of a user: ErrNoUser when there is none.
func (f *File) Set(name string, s Secret) error { return errors.ErrUnsupported }

// Delete removes a user: ErrNoUser when there is none.
func (f *File) Delete(name string) error { return errors.ErrUnsupported }

// Edit reads the file, lets edit change it, and replaces it at once, keeping
// comments, mode and owner. A file that does not exist is made (mode 0640, group
// of its directory). Edits in several processes wait for each other.
func Edit(path string, edit func(*File) error) error { return errors.ErrUnsupported }
