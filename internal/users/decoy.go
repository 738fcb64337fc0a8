package users

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
)

// decoyComment begins the line of the users file that has the key from which the
// salts of users that do not exist are made up. A salt of SCRAM is the same at
// each login, so that of a user who does not exist has to be as well, from one
// start of the daemon to the next and whatever users come and go: names could be
// tried otherwise. For versions that do not know the line it is a comment.
const decoyComment = "# Salts of unknown users, to be kept: "

type decoyKey [sha256.Size]byte

// decoyKey is the key of a file. One that Edit has not seen, because somebody made
// it by hand, has one that changes no more often than its first user.
func (f *File) decoyKey() (key decoyKey, written bool) {
	for _, l := range f.lines {
		if text, ok := strings.CutPrefix(l.text, decoyComment); ok && l.secret == nil {
			if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil && len(b) == len(key) {
				copy(key[:], b)
				return key, true
			}
		}
	}
	for _, l := range f.lines {
		if l.secret != nil {
			mac := hmac.New(sha256.New, l.secret.serverKey[:])
			mac.Write([]byte(decoyComment))
			mac.Sum(key[:0])
			return key, false
		}
	}
	rand.Read(key[:])
	return key, false
}

// keepDecoyKey writes the key down that the file had before an edit.
func (f *File) keepDecoyKey(key decoyKey) {
	if _, written := f.decoyKey(); !written {
		f.lines = append(f.lines, line{text: decoyComment + base64.StdEncoding.EncodeToString(key[:])})
	}
}

// shape is what the first message of SCRAM shows of a secret, beside the salt.
type shape struct{ iterations, salt int }

// shapes are those of all users, sorted, so that of a user who does not exist can
// be any of them, as often as it is a real one's.
func shapesOf(secrets map[string]*Secret) []shape {
	var list []shape
	for _, s := range secrets {
		list = append(list, shape{s.iterations, len(s.salt)})
	}
	if list == nil {
		list = []shape{{DefaultIterations, saltLen}}
	}
	slices.SortFunc(list, func(a, b shape) int {
		if a.iterations != b.iterations {
			return a.iterations - b.iterations
		}
		return a.salt - b.salt
	})
	return list
}

// decoy is a secret for a name that is not in the file. No password fits it.
func (t *table) decoy(name string) *Secret {
	mac := hmac.New(sha256.New, t.key[:])
	mac.Write([]byte(name))
	sum := mac.Sum(nil)
	// The share of the list at which the name stands does not move when users come
	// and go.
	at := uint64(binary.BigEndian.Uint32(sum)) * uint64(len(t.shapes)) >> 32
	sh := t.shapes[at]
	s := &Secret{iterations: sh.iterations}
	for len(s.salt) < sh.salt {
		mac.Reset()
		mac.Write(sum)
		sum = mac.Sum(nil)
		s.salt = append(s.salt, sum...)
	}
	s.salt = s.salt[:sh.salt]
	rand.Read(s.storedKey[:])
	rand.Read(s.serverKey[:])
	return s
}
