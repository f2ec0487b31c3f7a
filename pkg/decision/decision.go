// Package decision is the record of a refusal: which rule turned a request away,
// and why. A record is kept by the one it is about. Its id is the record itself,
// encrypted and authenticated, so that any replica can open it, a flood of
// refusals stores nothing, and nobody can make one up or read that of another.
package decision

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Decision is what is remembered of a refusal. The short names keep the id short.
type Decision struct {
	At         int64  `json:"t"` // Unix time, seconds
	RequestID  string `json:"i,omitempty"`
	Route      string `json:"r,omitempty"` // empty: there was none
	Policy     string `json:"p,omitempty"` // that refused; empty: routing, or the service
	Code       string `json:"c"`           // of the problem
	Detail     string `json:"d,omitempty"` // its public sentence
	RetryAfter int64  `json:"a,omitempty"` // seconds after At when it makes sense to try again
	UserID     string `json:"u,omitempty"` // of the caller; empty: anonymous
	KeyID      string `json:"k,omitempty"`
	Client     string `json:"s,omitempty"` // the caller's address
	Document   string `json:"g,omitempty"` // first digits of the digest of the gateway document
}

// Lifetime is how long an id can be opened.
const Lifetime = 24 * time.Hour

// maxDetail bounds the sentence, in bytes: ids stand in URLs.
const maxDetail = 300

// MaxID bounds an id, in bytes.
const MaxID = 2048

// ErrUnknown is the answer to an id that cannot be opened.
var ErrUnknown = problem.Define(problem.NotFound, "decision.not_found",
	"No decision has this identifier, or it was made more than 24 hours ago.")

// Sealer makes ids and opens them. It is immutable and safe for concurrent use.
type Sealer struct {
	current cipher.AEAD
	all     []cipher.AEAD // the current one first
	now     func() time.Time
}

// place is bound into every id.
const place = "keywarden decision 1"

// NewSealer makes a sealer under the master keys of ring.
func NewSealer(ring *seal.Keyring, now func() time.Time) (*Sealer, error) {
	s := &Sealer{now: now}
	for _, id := range ring.IDs() {
		key, err := ring.DeriveUnder(id, "decision")
		if err != nil {
			return nil, fmt.Errorf("deriving the key of decisions: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, err
		}
		s.all = append(s.all, aead)
	}
	s.current = s.all[0]
	return s, nil
}

// Seal makes the id of a decision; At is set to now.
func (s *Sealer) Seal(d Decision) string {
	d.At = s.now().Unix()
	if len(d.Detail) > maxDetail {
		d.Detail = d.Detail[:maxDetail]
	}
	text, err := json.Marshal(d)
	if err != nil { // cannot happen: strings and ints
		return ""
	}
	id := base64.RawURLEncoding.EncodeToString(s.current.Seal(nil, nil, text, []byte(place))) //nolint:gosec // the nonce is made inside, at random
	if len(id) > MaxID {
		return "" // nobody could ask for it
	}
	return id
}

// Open returns the decision of an id, or [ErrUnknown].
func (s *Sealer) Open(id string) (Decision, error) {
	var d Decision
	if len(id) > MaxID {
		return d, ErrUnknown
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil {
		return d, ErrUnknown.With(err)
	}
	for _, aead := range s.all {
		text, err := aead.Open(nil, nil, sealed, []byte(place))
		if err != nil {
			continue
		}
		if err := json.Unmarshal(text, &d); err != nil {
			return Decision{}, ErrUnknown.With(err)
		}
		if s.now().Sub(time.Unix(d.At, 0)) > Lifetime {
			return Decision{}, ErrUnknown
		}
		return d, nil
	}
	return d, ErrUnknown
}
