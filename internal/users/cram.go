package users

import (
	"crypto/md5"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

const cramStateLen = 2 * md5.Size

// cramState is HMAC-MD5 (RFC 2104) after the padded key has gone in: the four
// words of the outer MD5, then those of the inner one. RFC 2195, section 3, has
// the idea of storing these instead of the password.
type cramState [2][4]uint32

func newCramState(password string) *cramState {
	var key [md5.BlockSize]byte
	if len(password) > len(key) {
		sum := md5.Sum([]byte(password))
		copy(key[:], sum[:])
	} else {
		copy(key[:], password)
	}
	var s cramState
	for i, pad := range [2]byte{0x5c, 0x36} {
		block := key
		for j := range block {
			block[j] ^= pad
		}
		d := md5.New()
		d.Write(block[:])
		state, err := d.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			panic("crypto/md5 does not tell its state: " + err.Error())
		}
		for j := range s[i] {
			s[i][j] = binary.BigEndian.Uint32(state[len(md5Magic)+4*j:])
		}
	}
	return &s
}

// md5Magic begins the marshalled state of a crypto/md5 digest. Behind it come
// the four words, the rest of an unfinished block, and the length so far.
const md5Magic = "md5\x01"

func resume(words [4]uint32) hash.Hash {
	state := append(make([]byte, 0, len(md5Magic)+md5.Size+md5.BlockSize+8), md5Magic...)
	for _, w := range words {
		state = binary.BigEndian.AppendUint32(state, w)
	}
	state = append(state, make([]byte, md5.BlockSize)...)
	state = binary.BigEndian.AppendUint64(state, md5.BlockSize)
	d := md5.New()
	if err := d.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		panic("crypto/md5 does not take its state: " + err.Error())
	}
	return d
}

// digest is HMAC-MD5 of a message under the key.
func (s *cramState) digest(message []byte) []byte {
	inner := resume(s[1])
	inner.Write(message)
	outer := resume(s[0])
	outer.Write(inner.Sum(nil))
	return outer.Sum(nil)
}

func (s *cramState) String() string {
	var b []byte
	for _, words := range s {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
	}
	return hex.EncodeToString(b)
}

func parseCramState(text string) (*cramState, bool) {
	if len(text) != hex.EncodedLen(cramStateLen) {
		return nil, false
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		return nil, false
	}
	var s cramState
	for i := range s {
		for j := range s[i] {
			s[i][j] = binary.LittleEndian.Uint32(b[md5.Size*i+4*j:])
		}
	}
	return &s, true
}
