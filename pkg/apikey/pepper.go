package apikey

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"sync"

	"github.com/keywarden/keywarden/pkg/seal"
)

// pepperLabel is the use under which peppers are derived from master keys.
const pepperLabel = "api-key-verifier"

// Peppers are the keys of verifiers: the current one, and those under retired
// master keys, which still verify until each key has been seen once.
type Peppers struct {
	current *pepper
	retired map[string]*pepper
}

// NewPeppers derives the peppers from the ring.
func NewPeppers(ring *seal.Keyring) (*Peppers, error) {
	p := &Peppers{retired: map[string]*pepper{}}
	for i, id := range ring.IDs() {
		key, err := ring.DeriveUnder(id, pepperLabel)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			p.current = newPepper(id, key)
		} else {
			p.retired[id] = newPepper(id, key)
		}
	}
	return p, nil
}

// pepper computes verifiers. Hash states are pooled, since setting one up costs
// more than using it.
type pepper struct {
	id   string
	pool sync.Pool
}

// macState is a keyed hash with room for its input and output, so that a
// verification allocates nothing.
type macState struct {
	hash hash.Hash
	in   [maxKeyBytes]byte
	out  [sha256.Size]byte
}

// maxKeyBytes bounds a key in its textual form: the longest prefix, two
// underscores, the environment and the body.
const maxKeyBytes = 128

func newPepper(id string, key []byte) *pepper {
	return &pepper{id: id, pool: sync.Pool{New: func() any {
		return &macState{hash: hmac.New(sha256.New, key)}
	}}}
}

// sum is HMAC-SHA256 of key, which must be at most maxKeyBytes long.
func (p *pepper) sum(key string) [sha256.Size]byte {
	m := p.pool.Get().(*macState) //nolint:forcetypeassert // the pool holds nothing else
	defer p.pool.Put(m)
	m.hash.Reset()
	n := copy(m.in[:], key)
	m.hash.Write(m.in[:n])
	m.hash.Sum(m.out[:0])
	clear(m.in[:n])
	return m.out
}

// bcryptInput is what bcrypt is given for a key: 44 bytes, never more than 72.
func bcryptInput(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}
