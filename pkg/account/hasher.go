package account

import (
	"context"
	"crypto/sha256"
	"encoding/base64"

	"golang.org/x/text/unicode/norm"

	"github.com/keywarden/keywarden/pkg/slowhash"
)

// Hasher hashes passwords with bcrypt over base64(SHA-256(NFKC(password))), so
// that the whole value counts and not its first 72 bytes.
type Hasher struct {
	pool  pool
	dummy string // compared when there is no hash, to take the same time
}

// pool runs bcrypt; slowhash.Pool is the one there is.
type pool interface {
	Hash(ctx context.Context, digest []byte) (string, error)
	Compare(ctx context.Context, hash string, digest []byte) (ok, stale bool, err error)
}

// NewHasher makes a hasher over pool.
func NewHasher(pool *slowhash.Pool) *Hasher { return &Hasher{pool: pool, dummy: pool.Decoy()} }

// digest is what bcrypt is given: 44 bytes, never more than its 72.
func digest(password string) []byte {
	sum := sha256.Sum256([]byte(norm.NFKC.String(password)))
	return []byte(base64.StdEncoding.EncodeToString(sum[:]))
}

// Hash makes the stored form of password.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	return h.pool.Hash(ctx, digest(password))
}

// Compare reports whether password is the one that was hashed, and whether the
// hash should be made anew. An empty hash, and a password longer than any that
// can be set, take the same time and are never right.
func (h *Hasher) Compare(ctx context.Context, hash, password string) (ok, stale bool, err error) {
	if hash == "" || len(password) > MaxPasswordBytes {
		_, _, err = h.pool.Compare(ctx, h.dummy, digest(""))
		return false, false, err
	}
	return h.pool.Compare(ctx, hash, digest(password))
}
