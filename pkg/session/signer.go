package session

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/seal"
)

// tokenType is the "typ" of an access token (RFC 9068 section 2.1). It keeps
// every other kind of JWT from being taken for one.
const tokenType = "at+jwt"

// SigningKey is a stored signing key: an Ed25519 seed sealed under the master key.
type SigningKey struct {
	ID        string // "kid"
	Sealed    []byte
	CreatedAt time.Time
	SignsFrom time.Time // published before it signs, so that every replica and verifier knows it
	RetiresAt time.Time // verifies until then
}

// KeyStore keeps signing keys.
type KeyStore interface {
	// SigningKeys returns the keys that have not retired at now, oldest first.
	SigningKeys(ctx context.Context, now time.Time) ([]SigningKey, error)
	// InsertSigningKey stores k unless another replica was faster: it does
	// nothing when there is a key with SignsFrom after notAfter.
	InsertSigningKey(ctx context.Context, k SigningKey, notAfter time.Time, c changes.Change) (inserted bool, err error)
	// ResealSigningKey replaces the sealed seed of a key.
	ResealSigningKey(ctx context.Context, id string, sealed []byte) error
}

// TokenOptions configure tokens. All fields are required.
type TokenOptions struct {
	Issuer   string
	Audience string
	TTL      time.Duration // of an access token
	Leeway   time.Duration // for clocks that differ, at most a minute
	Rotation time.Duration // how long one key signs
	Roles    access.Roles
	Ring     *seal.Keyring
	Keys     KeyStore
	Now      func() time.Time
	Logger   *slog.Logger
}

// keySet is the keys of one moment; immutable.
type keySet struct {
	public  map[string]ed25519.PublicKey
	private ed25519.PrivateKey // the newest that signs already
	signing string             // its id
	jwks    JWKS
	next    time.Time // when the newest key should be succeeded
}

// Signer signs access tokens and holds the keys to check them. It is safe for
// concurrent use.
type Signer struct {
	opts TokenOptions
	keys atomic.Pointer[keySet]
}

// NewSigner makes a signer. Before [Signer.Refresh] has succeeded once it can
// neither sign nor check.
func NewSigner(o TokenOptions) *Signer { return &Signer{opts: o} }

// signingDelay lies between publishing a new key and signing with it: ample time
// for every replica to have read it.
const signingDelay = 10 * time.Second

// Refresh reads the stored keys, makes the first or the next one when it is
// time, and seals keys anew that are under a retired master key.
func (s *Signer) Refresh(ctx context.Context) error {
	for range 3 { // read, perhaps make one, read again; a second replica may be as fast
		now := s.opts.Now().UTC()
		stored, err := s.opts.Keys.SigningKeys(ctx, now)
		if err != nil {
			return err
		}
		set, err := s.open(ctx, stored, now)
		if err != nil {
			return err
		}
		if set.private != nil {
			s.keys.Store(set)
		}
		if set.private != nil && now.Before(set.next) {
			return nil
		}
		if err := s.make(ctx, now, len(stored) == 0); err != nil {
			return err
		}
	}
	if s.keys.Load() == nil {
		return errors.New("no signing key could be made")
	}
	return nil
}

func (s *Signer) open(ctx context.Context, stored []SigningKey, now time.Time) (*keySet, error) {
	set := &keySet{public: map[string]ed25519.PublicKey{}, jwks: JWKS{Keys: []JWK{}}}
	for _, k := range stored {
		seed, stale, err := s.opts.Ring.Open(k.Sealed, sealPlace(k.ID))
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w (is KEYWARDEN_MASTER_KEY the one this database was used with? "+
				"an older one belongs in KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED)", k.ID, err)
		}
		if stale {
			if err := s.opts.Keys.ResealSigningKey(ctx, k.ID, s.opts.Ring.Seal(seed, sealPlace(k.ID))); err != nil {
				return nil, err
			}
		}
		private := ed25519.NewKeyFromSeed(seed)
		public := private.Public().(ed25519.PublicKey) //nolint:forcetypeassert // documented type
		set.public[k.ID] = public
		set.jwks.Keys = append(set.jwks.Keys, newJWK(k.ID, public))
		// The oldest signs in any case: it is the first one ever, made a moment ago
		// by a replica whose clock is ahead.
		if !k.SignsFrom.After(now) || set.private == nil {
			set.private, set.signing = private, k.ID
		}
		set.next = k.SignsFrom.Add(s.opts.Rotation)
	}
	return set, nil
}

// make stores a new key. The very first one signs at once.
func (s *Signer) make(ctx context.Context, now time.Time, first bool) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	var seed [ed25519.SeedSize]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand, Go 1.24)
	from := now.Add(signingDelay)
	if first {
		from = now
	}
	k := SigningKey{
		ID: id.String(), Sealed: s.opts.Ring.Seal(seed[:], sealPlace(id.String())), CreatedAt: now,
		SignsFrom: from, RetiresAt: from.Add(s.opts.Rotation + s.opts.TTL + time.Hour),
	}
	c := changes.Change{
		Audit: audit.New(ctx, audit.SigningKeyMade, "signing_key", k.ID),
		Event: changes.Event{Kind: changes.SigningKeysChanged},
	}
	// The newest key is due to be succeeded when it has signed for Rotation.
	_, err = s.opts.Keys.InsertSigningKey(ctx, k, now.Add(-s.opts.Rotation), c)
	return err
}

func sealPlace(id string) string { return "signing_keys/" + id }

// Run rotates the keys until ctx ends, and reads them again when nudged.
func (s *Signer) Run(ctx context.Context, nudge <-chan struct{}) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-nudge:
		}
		if err := s.Refresh(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.WarnContext(ctx, "signing keys could not be read; the known ones stay in use", "error", err)
		}
	}
}

// claims are the claims of an access token (RFC 9068 section 2.2). Times are
// whole seconds: a token with anything else was not made here.
type claims struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	Expires   int64  `json:"exp"`
	NotBefore int64  `json:"nbf"`
	IssuedAt  int64  `json:"iat"`
	ID        string `json:"jti"`
	Session   string `json:"sid"`
	Role      string `json:"role"`
	Scope     string `json:"scope"`
}

// The methods make claims a jwt.Claims. The library checks exp, nbf, iat, iss
// and aud with them; the required ones are set in [Signer.parser].
func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return date(c.Expires), nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return date(c.NotBefore), nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return date(c.IssuedAt), nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }

// date is absent for zero, so that a missing claim counts as missing.
func date(seconds int64) *jwt.NumericDate {
	if seconds == 0 {
		return nil
	}
	return jwt.NewNumericDate(time.Unix(seconds, 0))
}

// Sign makes an access token of the session for its user.
func (s *Signer) Sign(u account.User, sess Session) (seal.Secret, time.Duration, error) {
	set := s.keys.Load()
	if set == nil {
		return seal.Secret{}, 0, access.ErrUndecided.With(errNoKeys).WithRetryAfter(retryAfter)
	}
	now := s.opts.Now()
	ttl := min(s.opts.TTL, sess.ExpiresAt.Sub(now)).Truncate(time.Second)
	jti, err := uuid.NewV7()
	if err != nil {
		return seal.Secret{}, 0, err
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &claims{
		Issuer: s.opts.Issuer, Subject: u.ID, Audience: s.opts.Audience,
		Expires: now.Add(ttl).Unix(), NotBefore: now.Unix(), IssuedAt: now.Unix(),
		ID: jti.String(), Session: sess.ID, Role: string(u.Role),
		Scope: strings.Join(s.opts.Roles.Scopes(u.Role), " "),
	})
	token.Header["typ"] = tokenType
	token.Header["kid"] = set.signing
	signed, err := token.SignedString(set.private)
	return seal.NewSecret(signed), ttl, err
}

// maxTokenBytes bounds a token before any of it is decoded.
const maxTokenBytes = 4096

var (
	errMalformed  = errors.New("not a compact JWS of ours")
	errUnknownKey = errors.New("signed by an unknown key")
	errNoKeys     = errors.New("the signing keys have not been read yet")
)

// parse checks everything about token that needs no database: form, signature,
// type, issuer, audience, times.
func (s *Signer) parse(token string) (*claims, error) {
	if !compactJWS(token) {
		return nil, errMalformed
	}
	if s.keys.Load() == nil {
		return nil, errNoKeys
	}
	var c claims
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(s.opts.Issuer), jwt.WithAudience(s.opts.Audience),
		jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(s.opts.Leeway), jwt.WithStrictDecoding(), jwt.WithTimeFunc(s.opts.Now),
	)
	if _, err := parser.ParseWithClaims(token, &c, s.publicKey); err != nil {
		return nil, err
	}
	if c.Subject == "" || c.Session == "" || c.ID == "" || c.IssuedAt == 0 {
		return nil, errMalformed
	}
	return &c, nil
}

// publicKey picks the key by "kid". The header must be exactly one of ours: a
// token cannot bring a key, a location of keys or a critical extension.
func (s *Signer) publicKey(t *jwt.Token) (any, error) {
	if len(t.Header) != 3 || t.Header["typ"] != tokenType {
		return nil, errMalformed
	}
	id, _ := t.Header["kid"].(string)
	key, ok := s.keys.Load().public[id]
	if !ok {
		return nil, errUnknownKey
	}
	return key, nil
}

// compactJWS reports whether token is three non-empty parts of base64url without
// padding, and nothing else: decoders skip line breaks, which would give one
// token many spellings.
func compactJWS(token string) bool {
	if len(token) > maxTokenBytes {
		return false
	}
	dots, part := 0, 0
	for i := range len(token) {
		switch b := token[i]; {
		case b == '.':
			if part == 0 {
				return false
			}
			dots, part = dots+1, 0
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '-', b == '_':
			part++
		default:
			return false
		}
	}
	return dots == 2 && part > 0
}

// JWKS is a JSON Web Key Set (RFC 7517).
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// JWK is one public Ed25519 key (RFC 8037).
type JWK struct {
	KeyType   string `json:"kty" example:"OKP"`
	Curve     string `json:"crv" example:"Ed25519"`
	X         string `json:"x"`
	KeyID     string `json:"kid"`
	Use       string `json:"use" example:"sig"`
	Algorithm string `json:"alg" example:"EdDSA"`
}

func newJWK(id string, key ed25519.PublicKey) JWK {
	return JWK{
		KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(key),
		KeyID: id, Use: "sig", Algorithm: jwt.SigningMethodEdDSA.Alg(),
	}
}

// JWKS returns the public keys, including one that will sign soon; none before
// they have been read.
func (s *Signer) JWKS() JWKS {
	set := s.keys.Load()
	if set == nil {
		return JWKS{}
	}
	return set.jwks
}
