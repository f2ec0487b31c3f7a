package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// MasterKeySize is the size of a master key in bytes.
const MasterKeySize = 32

// Errors of this package.
var (
	// ErrWeakMasterKey: not 32 bytes of base64, or plainly not random.
	ErrWeakMasterKey = errors.New("the master key must be 32 random bytes in base64; make one with: keywarden keygen")
	// ErrUnknownKey: the value was sealed under a master key that is not in the ring.
	ErrUnknownKey = errors.New("sealed under a master key that is neither the current nor a retired one")
	// ErrTampered: the ciphertext, or the place it was sealed for, does not match.
	ErrTampered = errors.New("sealed value does not open: it was changed or moved")
)

// NewMasterKey makes a master key in its textual form.
func NewMasterKey() Secret {
	var b [MasterKeySize]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return NewSecret(base64.StdEncoding.EncodeToString(b[:]))
}

// Keyring holds the current master key and the retired ones, and derives one
// key per use from them (HKDF-SHA256, RFC 5869). It is immutable and safe for
// concurrent use.
type Keyring struct {
	current masterKey
	retired []masterKey
}

type masterKey struct {
	id  string
	key Secret // the raw bytes
}

// ParseKeyring reads the current master key and the retired ones, each 32 bytes
// in base64 (standard or URL alphabet). It refuses values that are short or
// plainly not random, such as examples copied from a document.
func ParseKeyring(current Secret, retired ...Secret) (*Keyring, error) {
	k, err := parseMasterKey(current)
	if err != nil {
		return nil, err
	}
	ring := &Keyring{current: k}
	for i, r := range retired {
		old, err := parseMasterKey(r)
		if err != nil {
			return nil, fmt.Errorf("retired master key %d: %w", i+1, err)
		}
		ring.retired = append(ring.retired, old)
	}
	return ring, nil
}

func parseMasterKey(s Secret) (masterKey, error) {
	text := strings.TrimSpace(s.Reveal())
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		raw, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	}
	if err != nil || len(raw) != MasterKeySize || !looksRandom(raw) {
		return masterKey{}, ErrWeakMasterKey
	}
	k := masterKey{key: NewSecret(string(raw))}
	k.id = hex.EncodeToString(k.derive("key-id", 8))
	return k, nil
}

// looksRandom refuses keys that a person typed. 32 random bytes have at least 16
// distinct values except with probability below 2^-54; at least 12 distinct
// steps from one to the next, which a counted-up example has not, except with
// probability below 2^-79; and a phrase is printable throughout, which random
// bytes are with probability below 2^-45.
func looksRandom(raw []byte) bool {
	var values, steps [256]bool
	distinct, paces, printable := 0, 0, 0
	for i, b := range raw {
		if !values[b] {
			values[b] = true
			distinct++
		}
		if i > 0 && !steps[b-raw[i-1]] {
			steps[b-raw[i-1]] = true
			paces++
		}
		if b >= 0x20 && b < 0x7f {
			printable++
		}
	}
	return distinct >= 16 && paces >= 12 && printable < len(raw)
}

// derive expands the master key for one use.
func (k masterKey) derive(label string, size int) []byte {
	out, err := hkdf.Key(sha256.New, []byte(k.key.Reveal()), nil, "keywarden/"+label, size)
	if err != nil { // only for sizes over 255 hashes
		panic(err)
	}
	return out
}

// ID names the current master key without revealing it.
func (r *Keyring) ID() string { return r.current.id }

// IDs lists the current and the retired key ids, current first.
func (r *Keyring) IDs() []string {
	ids := []string{r.current.id}
	for _, k := range r.retired {
		ids = append(ids, k.id)
	}
	return ids
}

// Derive is a 32-byte key for the named use under the current master key.
func (r *Keyring) Derive(label string) []byte { return r.current.derive(label, 32) }

// DeriveUnder is Derive for the master key with the given id.
func (r *Keyring) DeriveUnder(id, label string) ([]byte, error) {
	k, err := r.find(id)
	if err != nil {
		return nil, err
	}
	return k.derive(label, 32), nil
}

func (r *Keyring) find(id string) (masterKey, error) {
	if id == r.current.id {
		return r.current, nil
	}
	for _, k := range r.retired {
		if k.id == id {
			return k, nil
		}
	}
	return masterKey{}, ErrUnknownKey
}

// sealVersion is the first byte of every sealed value.
const sealVersion = 1

// Seal encrypts plaintext under the current master key with AES-256-GCM and a
// random nonce. place names where the value is stored ("signing_keys/<id>") and
// is bound in as associated data: a value moved to another place does not open.
// The result is version, key id length, key id, nonce and ciphertext.
func (r *Keyring) Seal(plaintext []byte, place string) []byte {
	aead := r.current.aead()
	out := make([]byte, 0, 2+len(r.current.id)+len(plaintext)+aead.Overhead())
	out = append(out, sealVersion, byte(len(r.current.id)))
	out = append(out, r.current.id...)
	return aead.Seal(out, nil, plaintext, associated(r.current.id, place)) //nolint:gosec // the nonce is made inside, at random
}

// Open decrypts what [Keyring.Seal] made for the same place. The second result
// reports whether the value is under a retired key and should be sealed anew.
func (r *Keyring) Open(sealed []byte, place string) (plaintext []byte, stale bool, err error) {
	if len(sealed) < 2 || sealed[0] != sealVersion {
		return nil, false, ErrTampered
	}
	head := 2 + int(sealed[1])
	if len(sealed) < head {
		return nil, false, ErrTampered
	}
	id, body := string(sealed[2:head]), sealed[head:]
	k, err := r.find(id)
	if err != nil {
		return nil, false, err
	}
	plaintext, err = k.aead().Open(nil, nil, body, associated(id, place))
	if err != nil {
		return nil, false, ErrTampered
	}
	return plaintext, id != r.current.id, nil
}

func (k masterKey) aead() cipher.AEAD {
	block, err := aes.NewCipher(k.derive("seal", 32))
	if err != nil { // only for wrong key sizes
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// associated is unambiguous: each part is preceded by its length.
func associated(id, place string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(id)))
	b = append(b, id...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(place)))
	return append(b, place...)
}
