package users

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/xdg-go/stringprep"

	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/atomicfile"
	"github.com/etrnd/etrnd/internal/foreign"
)

// DefaultIterations is the cost of a new secret. Both ends pay it with
// SCRAM-SHA-256, and a site may be a router: 50,000 take it about a quarter of a
// second, and a server 10 to 20 ms. RFC 7677 asks for at least 4096.
const DefaultIterations = 50_000

const (
	minIterations = 4096      // RFC 7677, section 4
	maxIterations = 2_000_000 // beyond it, one login would be an attack on the processor
	saltLen       = 16
	maxSalt       = 64
	maxName       = 64
	maxPassword   = 255
	maxFile       = 16 << 20
	maxProblems   = 100

	schemeScram = "{SCRAM-SHA-256}"
	schemeCram  = "{CRAM-MD5}"
)

// Errors of an edit.
var (
	ErrExists = errors.New("user exists")
	ErrNoUser = errors.New("no such user")
)

// Problem is something wrong in a users file.
type Problem struct {
	File string
	Line int // 0: the file as a whole
	Msg  string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Msg
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Msg)
}

// Errors are all the problems of a users file.
type Errors []Problem

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// User is one line of the file, without its secrets.
type User struct {
	Name       string `json:"name"`
	CramMD5    bool   `json:"cram_md5"`   // has a secret for CRAM-MD5
	Iterations int    `json:"iterations"` // cost of the SCRAM-SHA-256 secret
	Line       int    `json:"line"`
}

// Secret is what the file keeps of a password. It does not reveal the password,
// but is not for other eyes.
type Secret struct {
	iterations           int
	salt                 []byte
	storedKey, serverKey [sha256.Size]byte
	cram                 *cramState // nil: not for CRAM-MD5
}

// SecretOptions of NewSecret.
type SecretOptions struct {
	Iterations int  // default DefaultIterations
	CramMD5    bool // add the field for CRAM-MD5
}

// NewSecret hashes a password with a fresh salt.
func NewSecret(password string, o SecretOptions) (Secret, error) {
	if o.Iterations == 0 {
		o.Iterations = DefaultIterations
	}
	if err := checkIterations(o.Iterations); err != nil {
		return Secret{}, err
	}
	switch {
	case password == "":
		return Secret{}, errors.New("the password is empty")
	case len(password) > maxPassword:
		return Secret{}, fmt.Errorf("the password is %d bytes long; at most %d are allowed", len(password), maxPassword)
	}
	prepared, err := prepare(password)
	if err != nil {
		return Secret{}, err
	}
	s := Secret{iterations: o.Iterations, salt: make([]byte, saltLen)}
	rand.Read(s.salt)
	if s.storedKey, s.serverKey, err = derive(prepared, s.salt, s.iterations); err != nil {
		return Secret{}, err
	}
	if o.CramMD5 {
		// RFC 2195 knows no preparation, and clients do none.
		s.cram = newCramState(password)
	}
	return s, nil
}

// String is the secret as it stands in the file.
func (s *Secret) String() string {
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf("%s%d$%s$%s$%s", schemeScram, s.iterations, b64(s.salt), b64(s.storedKey[:]), b64(s.serverKey[:]))
	if s.cram != nil {
		text += ":" + schemeCram + s.cram.String()
	}
	return text
}

// LogValue keeps secrets out of logs.
func (s *Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// prepare is SASLprep (RFC 4013), which RFC 5802 wants of passwords. The errors
// of the library quote the character, so they are not passed on.
func prepare(password string) (string, error) {
	if !utf8.ValidString(password) {
		return "", errors.New("the password is not UTF-8")
	}
	prepared, err := stringprep.SASLprep.Prepare(password)
	if err != nil {
		return "", errors.New("the password has a character that RFC 4013 does not allow (control characters, emoji, mixed writing directions)")
	}
	if prepared == "" {
		return "", errors.New("the password has only characters that RFC 4013 maps to nothing")
	}
	return prepared, nil
}

func checkIterations(n int) error {
	if n < minIterations || n > maxIterations {
		return fmt.Errorf("%d iterations; allowed are %d to %d", n, minIterations, maxIterations)
	}
	return nil
}

// checkName allows what needs no preparation and no quoting in any mechanism,
// file or log.
func checkName(name string) error {
	if name == "" {
		return errors.New("the name is empty")
	}
	if len(name) > maxName {
		return fmt.Errorf("the name %s is %d bytes long; at most %d are allowed", foreign.Quote(name), len(name), maxName)
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && strings.IndexByte("._-+@", c) >= 0:
		default:
			return fmt.Errorf("the name %q is not allowed: letters and digits, and behind the first one also . _ - + @", name)
		}
	}
	return nil
}

// File is a parsed users file that can be edited.
type File struct {
	name  string
	lines []line
}

type line struct {
	text   string // without the newline
	name   string
	secret *Secret // nil: comment or empty
}

// Parse reads the text of a users file. name is used in errors only. The error
// is an Errors with every problem found.
func Parse(name string, data []byte) (*File, error) {
	f := &File{name: name}
	var problems Errors
	seen := make(map[string]int)
	for n := 1; len(data) > 0; n++ {
		raw, rest, _ := bytes.Cut(data, []byte("\n"))
		data = rest
		l := line{text: string(raw)}
		if trimmed := strings.TrimSpace(l.text); trimmed != "" && trimmed[0] != '#' {
			var err error
			l.name, l.secret, err = parseLine(l.text)
			if err == nil && seen[l.name] > 0 {
				err = fmt.Errorf("user %q is already in line %d", l.name, seen[l.name])
			}
			if err != nil {
				problems = append(problems, Problem{File: name, Line: n, Msg: err.Error()})
				if len(problems) == maxProblems {
					problems = append(problems, Problem{File: name, Msg: "more problems than are listed here"})
					break
				}
				continue
			}
			seen[l.name] = n
		}
		f.lines = append(f.lines, l)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return f, nil
}

// parseLine never quotes anything behind the name: it may be a secret.
func parseLine(text string) (string, *Secret, error) {
	if strings.Contains(text, "\r") {
		// The base64 decoder would pass over it.
		return "", nil, errors.New("carriage return in the line; lines end with a newline alone")
	}
	name, rest, found := strings.Cut(text, ":")
	if !found {
		return "", nil, errors.New("not NAME:SECRET; make lines with: etrnctl user add NAME")
	}
	if err := checkName(name); err != nil {
		return "", nil, err
	}
	bad := func(format string, args ...any) (string, *Secret, error) {
		return "", nil, fmt.Errorf("user %q: %w", name, fmt.Errorf(format, args...))
	}
	if rest == "" {
		return bad("no secret; set one with: etrnctl user password %s", name)
	}
	first, second, hasSecond := strings.Cut(rest, ":")
	body, ok := strings.CutPrefix(first, schemeScram)
	if !ok {
		return bad("the first secret does not begin with %s; set one with: etrnctl user password %s", schemeScram, name)
	}
	parts := strings.Split(body, "$")
	if len(parts) != 4 {
		return bad("%s has %d parts between $ signs; needed are 4: iterations, salt, stored key, server key", schemeScram, len(parts))
	}
	s := &Secret{}
	var err error
	if s.iterations, err = strconv.Atoi(parts[0]); err != nil || strconv.Itoa(s.iterations) != parts[0] {
		return bad("the iterations of %s are not a number", schemeScram)
	}
	if err := checkIterations(s.iterations); err != nil {
		return bad("%w", err)
	}
	if s.salt, err = base64.StdEncoding.Strict().DecodeString(parts[1]); err != nil || len(s.salt) < 8 || len(s.salt) > maxSalt {
		return bad("the salt of %s is not base64 of 8 to %d bytes", schemeScram, maxSalt)
	}
	if !decodeKey(&s.storedKey, parts[2]) {
		return bad("the stored key of %s is not base64 of %d bytes", schemeScram, sha256.Size)
	}
	if !decodeKey(&s.serverKey, parts[3]) {
		return bad("the server key of %s is not base64 of %d bytes", schemeScram, sha256.Size)
	}
	if hasSecond {
		body, ok := strings.CutPrefix(second, schemeCram)
		if !ok {
			return bad("the second secret does not begin with %s", schemeCram)
		}
		if s.cram, ok = parseCramState(body); !ok {
			return bad("%s is not followed by %d hex digits alone", schemeCram, hex.EncodedLen(cramStateLen))
		}
	}
	return name, s, nil
}

func decodeKey(key *[sha256.Size]byte, text string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	return err == nil && copy(key[:], b) == len(key) && len(b) == len(key)
}

// Users lists the users in the order of the file.
func (f *File) Users() []User {
	var users []User
	for i, l := range f.lines {
		if l.secret != nil {
			users = append(users, User{Name: l.name, CramMD5: l.secret.cram != nil, Iterations: l.secret.iterations, Line: i + 1})
		}
	}
	return users
}

// Add appends a user: ErrExists when there is one of that name.
func (f *File) Add(name string, s Secret) error {
	if err := checkName(name); err != nil {
		return err
	}
	if i := f.find(name); i >= 0 {
		return fmt.Errorf("%s:%d: user %q: %w", f.name, i+1, name, ErrExists)
	}
	f.lines = append(f.lines, makeLine(name, s))
	return nil
}

// Set replaces the secret of a user: ErrNoUser when there is none.
func (f *File) Set(name string, s Secret) error {
	i := f.find(name)
	if i < 0 {
		return fmt.Errorf("%s: user %q: %w", f.name, name, ErrNoUser)
	}
	f.lines[i] = makeLine(name, s)
	return nil
}

// Delete removes a user: ErrNoUser when there is none.
func (f *File) Delete(name string) error {
	i := f.find(name)
	if i < 0 {
		return fmt.Errorf("%s: user %q: %w", f.name, name, ErrNoUser)
	}
	f.lines = append(f.lines[:i], f.lines[i+1:]...)
	return nil
}

func (f *File) find(name string) int {
	for i, l := range f.lines {
		if l.secret != nil && l.name == name {
			return i
		}
	}
	return -1
}

func makeLine(name string, s Secret) line {
	return line{text: name + ":" + s.String(), name: name, secret: &s}
}

// Bytes is the text of the file.
func (f *File) Bytes() []byte {
	var b bytes.Buffer
	for _, l := range f.lines {
		b.WriteString(l.text)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// ReadFrom reads a users file that somebody else opens, such as one who may.
func ReadFrom(open func(path string) (*os.File, error), path string) (*File, error) {
	data, _, err := readBy(open, path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// ReadFile reads a users file.
func ReadFile(path string) (*File, error) { return ReadFrom(open, path) }

// open does not wait: a named pipe in place of the file must not hold up anybody.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// read reads a regular file of a bounded size.
func read(path string) ([]byte, fs.FileMode, error) { return readBy(open, path) }

func readBy(open func(string) (*os.File, error), path string) ([]byte, fs.FileMode, error) {
	f, err := open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("users file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fmt.Errorf("users file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("users file: %s is %s and not a regular file", path, kind(info.Mode()))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, 0, fmt.Errorf("users file: %w", err)
	}
	if len(data) > maxFile {
		return nil, 0, fmt.Errorf("users file: %s is larger than %d MiB", path, maxFile>>20)
	}
	return data, info.Mode(), nil
}

// kind says what a file is that is no regular one.
func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// Edit reads the file, lets edit change it, and replaces it at once, keeping
// comments, mode and owner. A file that does not exist is made (mode 0640, group
// of its directory). Edits in several processes wait for each other.
func Edit(path string, edit func(*File) error) error {
	// A link stays a link: what it points to is replaced.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("users file: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("directory of the users file: %w", err)
	}
	defer dir.Close()
	// The lock is on the directory, for the file itself is replaced and a lock
	// file would stay behind.
	for {
		err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock the directory of the users file: %w", err)
	}

	f := &File{name: path}
	// The daemon reads a new file through its group, which owns the directory of
	// its configuration.
	o := atomicfile.Options{Mode: 0o640}
	if info, err := dir.Stat(); err == nil && os.Geteuid() == 0 {
		o.GID = int(info.Sys().(*syscall.Stat_t).Gid)
		if etrnd, err := account.Lookup(account.Etrnd); o.GID == 0 && err == nil {
			o.GID = etrnd.GID // a directory that nobody has given to it
		}
	}
	was, _, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if f, err = Parse(path, was); err != nil {
			return err
		}
	}
	key, _ := f.decoyKey()
	before := f.Bytes()
	if err := edit(f); err != nil {
		return err
	}
	if !bytes.Equal(before, f.Bytes()) {
		f.keepDecoyKey(key)
	}
	text := f.Bytes()
	if was != nil && bytes.Equal(was, text) {
		return nil
	}
	if err := atomicfile.Write(path, text, o); err != nil {
		return fmt.Errorf("users file: %w", err)
	}
	return nil
}
