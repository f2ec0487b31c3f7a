// Package apikey owns API keys: minting, listing, changing, rotating, revoking
// them, and verifying the ones that callers present.
//
// A key is shown once. What is stored is bcrypt(base64(SHA-256(key))) and a
// verifier, HMAC-SHA256 of the key under a pepper that is derived from the master
// key and not in the database. The verifier makes a check cost microseconds;
// bcrypt remains what a copy of the database without the master key must break.
package apikey

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/slowhash"
)

// Errors of this package.
var (
	ErrNotFound    = problem.Define(problem.NotFound, "apikey.not_found", "No API key has this identifier.")
	ErrTooMany     = problem.Define(problem.Conflict, "apikey.too_many", "This user has as many API keys as are allowed; revoke one first.")
	ErrRevoked     = problem.Define(problem.Conflict, "apikey.revoked", "This API key is revoked and cannot be changed any more.")
	ErrIdempotency = problem.Define(problem.Unprocessable, "request.idempotency_mismatch",
		"This Idempotency-Key was used for a different request.")

	// ErrApp is one wrong field: an app of somebody else does not exist.
	ErrApp = problem.ErrInvalid.WithField("app", "is not an app of yours")
)

// Bounds of input.
const (
	maxNameLength  = 100 // characters
	maxScopes      = 50
	maxAllowedIPs  = 50
	maxGrace       = 30 * 24 * time.Hour
	maxLifetime    = 10 * 366 * 24 * time.Hour
	MaxIdempotency = 255 // bytes of an Idempotency-Key
)

// Key is an API key as its owner may see it: everything but the secret.
type Key struct {
	ID         string // UUID
	PublicID   string // the id inside the key
	UserID     string
	Name       string
	Env        Environment
	Prefix     string // how the key begins, for recognising it
	LastFour   string
	Scopes     []string // as granted; verification cuts them to the owner's rights
	AllowedIPs []netip.Prefix
	ExpiresAt  *time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
	RevokedAt  *time.Time
	LastUsedAt *time.Time // to the minute
	App        string     `json:",omitempty"` // UUID of the app that the key belongs to for good; empty for none

	// QuarantinedAt is when somebody who held the key reported it as leaked: it is refused
	// until a rotation or an admin lifts that. QuarantineNote is what they said.
	QuarantinedAt  *time.Time `json:",omitempty"`
	QuarantineNote string     `json:",omitempty"`

	Canary bool `json:",omitempty"` // a trap: it authenticates nobody, and every use raises an alarm
}

// Secret is one stored version of a key's secret. A key has one that is current
// and, while the grace of a rotation lasts, older ones.
type Secret struct {
	ID         string
	Bcrypt     string
	Verifier   []byte // HMAC-SHA256 under the pepper PepperID; empty when missing
	PepperID   string
	CreatedAt  time.Time
	ValidUntil *time.Time // nil for the current one
}

// Idempotent makes a create or rotate safe to retry: the answer is kept, sealed,
// and given again for the same token and the same request.
type Idempotent struct {
	Token       string   // the client's Idempotency-Key; empty for none
	Fingerprint [32]byte // of the request
	Answer      []byte   // sealed
	ExpiresAt   time.Time
}

// Filter selects keys for a list, newest first.
type Filter struct {
	UserID         string
	App            string // only keys of this app; empty for all
	IncludeRevoked bool
	Before         string // only keys with a smaller id
	Limit          int
}

// Patch changes a key; nil fields stay. ClearExpiry removes the expiry.
type Patch struct {
	Name        *string
	Scopes      *[]string
	AllowedIPs  *[]netip.Prefix
	ExpiresAt   *time.Time
	ClearExpiry bool
}

// Store keeps API keys. Implementations are safe for concurrent use; changes are
// committed with their audit entry and event, or not at all.
type Store interface {
	// InsertKey stores a key with its secret. It returns ErrTooMany when the
	// user has max live keys, counted under a lock, and ErrApp when k.App is not an
	// app of the user. When i.Token was used before it stores nothing and returns
	// what was kept.
	InsertKey(ctx context.Context, k Key, s Secret, max int, i Idempotent, c changes.Change) (kept *Idempotent, err error)
	// RotateKey adds the secret, lets older ones end at graceEnd or earlier, and
	// returns the key after it; ErrNotFound, ErrRevoked; kept as in InsertKey. Of a
	// key in quarantine older secrets end now, and it is in quarantine no longer.
	RotateKey(ctx context.Context, id string, s Secret, lastFour string, now, graceEnd time.Time, i Idempotent, c changes.Change) (Key, *Idempotent, error)
	// Key returns ErrNotFound for unknown and malformed identifiers.
	Key(ctx context.Context, id string) (Key, error)
	ListKeys(ctx context.Context, f Filter) ([]Key, error)
	// UpdateKey returns the key after p; ErrNotFound, ErrRevoked.
	UpdateKey(ctx context.Context, id string, p Patch, now time.Time, c changes.Change) (Key, error)
	// RevokeKey returns the epoch of the event; ErrNotFound when there is no
	// such key. Revoking a revoked key changes nothing and returns epoch 0.
	RevokeKey(ctx context.Context, id string, now time.Time, c changes.Change) (epoch int64, err error)
}

// Options configure a [Service]. All fields are required.
type Options struct {
	Store          Store
	Hasher         *slowhash.Pool
	Peppers        *Peppers
	Ring           *seal.Keyring
	Roles          access.Roles
	Notify         func(changes.Event)
	Prefix         string        // how keys begin, "kw"
	MaxPerUser     int           // live keys of one user
	IdempotencyTTL time.Duration // how long answers are kept
	Now            func() time.Time
}

// Service manages API keys. It is safe for concurrent use.
type Service struct{ Options }

// NewService makes the service.
func NewService(o Options) *Service { return &Service{o} }

// Request is what a user asks for in a new key.
type Request struct {
	Name       string
	Env        Environment // Live when empty
	Scopes     []string
	ExpiresAt  *time.Time
	ExpiresIn  time.Duration // instead of ExpiresAt, so that a repeated request means the same; 0 for none
	AllowedIPs []string
	App        string `json:",omitempty"` // id of an app of the owner; empty for none
	Canary     bool   `json:",omitempty"` // a trap; see [Key.Canary]
}

// expiry is when the key ends; nil for never.
func (r Request) expiry(now time.Time) *time.Time {
	if r.ExpiresIn == 0 {
		return r.ExpiresAt
	}
	at := now.Add(r.ExpiresIn)
	return &at
}

// Minted is a new key, or a new secret of one, with the secret to show once.
type Minted struct {
	Key    Key
	Secret seal.Secret
}

// Create mints a key for the owner, who holds role. idempotency is the client's
// Idempotency-Key or empty.
func (s *Service) Create(ctx context.Context, owner string, role access.Role, r Request, idempotency string) (Minted, error) {
	now := s.now()
	allowed, err := s.check(&r, role, now)
	if err != nil {
		return Minted{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Minted{}, err
	}
	publicID := newID()
	key := newKey(s.Prefix, r.Env, publicID)
	secret, err := s.secret(ctx, key, now)
	if err != nil {
		return Minted{}, err
	}
	m := Minted{Secret: key, Key: Key{
		ID: id.String(), PublicID: publicID, UserID: owner, Name: r.Name, Env: r.Env,
		Prefix: s.Prefix + "_" + string(r.Env) + "_" + publicID, LastFour: lastFour(key),
		Scopes: r.Scopes, AllowedIPs: allowed, ExpiresAt: r.expiry(now), CreatedAt: now, UpdatedAt: now, App: r.App, Canary: r.Canary,
	}}
	keep, err := s.keep(idempotency, owner, "create", r, m, now)
	if err != nil {
		return Minted{}, err
	}
	c := changes.Change{
		Audit: audit.New(ctx, audit.KeyCreated, "apikey", m.Key.ID).With("owner", owner).With("scopes", strings.Join(r.Scopes, " ")),
		// Somebody may have tried this id before it existed.
		Event: changes.Event{Kind: changes.KeyChanged, Subject: publicID},
	}
	if r.App != "" {
		c.Audit = c.Audit.With("app", r.App)
	}
	if r.Canary {
		c.Audit = c.Audit.With("canary", "true")
	}
	kept, err := s.Store.InsertKey(ctx, m.Key, secret, s.MaxPerUser, keep, c)
	if err != nil {
		return Minted{}, err
	}
	if kept != nil {
		return s.replay(kept, keep, owner)
	}
	s.Notify(c.Event)
	return m, nil
}

// Get returns a key of the owner; an empty owner may see every key. Another's
// key does not exist.
func (s *Service) Get(ctx context.Context, owner, id string) (Key, error) {
	k, err := s.Store.Key(ctx, id)
	if err != nil {
		return Key{}, err
	}
	if owner != "" && k.UserID != owner {
		return Key{}, ErrNotFound
	}
	return k, nil
}

// List returns keys, newest first.
func (s *Service) List(ctx context.Context, f Filter) ([]Key, error) { return s.Store.ListKeys(ctx, f) }

// Update changes a key of the owner. New scopes must be held by role, the role
// of the user who asks.
func (s *Service) Update(ctx context.Context, owner, id string, role access.Role, p Patch) (Key, error) {
	k, err := s.Get(ctx, owner, id)
	if err != nil {
		return Key{}, err
	}
	now := s.now()
	var fields []problem.Field
	if p.Name != nil {
		name, detail := cleanName(*p.Name)
		p.Name = &name
		fields = appendField(fields, "name", detail)
	}
	if p.Scopes != nil {
		clean, bad := checkScopes(*p.Scopes, s.Roles, role)
		p.Scopes = &clean
		fields = append(fields, bad...)
	}
	if p.ExpiresAt != nil {
		fields = appendField(fields, "expires_at", checkExpiry(*p.ExpiresAt, now))
	}
	if p.AllowedIPs != nil && len(*p.AllowedIPs) > maxAllowedIPs {
		fields = appendField(fields, "allowed_ips", fmt.Sprintf("must have at most %d entries", maxAllowedIPs))
	}
	if len(fields) > 0 {
		return Key{}, problem.ErrInvalid.WithFields(fields)
	}
	c := s.change(ctx, audit.KeyUpdated, k)
	k, err = s.Store.UpdateKey(ctx, id, p, now, c)
	if err != nil {
		return Key{}, err
	}
	s.Notify(c.Event)
	return k, nil
}

// Rotate gives a key of the owner a new secret. The old one keeps working for
// grace, which may be zero. The key's id, limits and history stay. Of a key in
// quarantine the old secret is the leaked one: it ends at once, and the quarantine
// with it.
func (s *Service) Rotate(ctx context.Context, owner, id string, grace time.Duration, idempotency string) (Minted, error) {
	if grace < 0 || grace > maxGrace {
		return Minted{}, problem.ErrInvalid.WithField("grace_seconds", "must be between 0 and %d", int(maxGrace/time.Second))
	}
	k, err := s.Get(ctx, owner, id)
	if err != nil {
		return Minted{}, err
	}
	now := s.now()
	key := newKey(s.Prefix, k.Env, k.PublicID) // not the key's old prefix: only the configured one verifies
	secret, err := s.secret(ctx, key, now)
	if err != nil {
		return Minted{}, err
	}
	asked := grace // a repeated request means the same, whatever became of the key
	if k.QuarantinedAt != nil {
		grace = 0
	}
	k.LastFour, k.UpdatedAt, k.QuarantinedAt, k.QuarantineNote = lastFour(key), now, nil, ""
	m := Minted{Key: k, Secret: key}
	keep, err := s.keep(idempotency, k.UserID, "rotate "+id, asked, m, now)
	if err != nil {
		return Minted{}, err
	}
	c := s.change(ctx, audit.KeyRotated, k)
	c.Audit = c.Audit.With("grace", grace.String())
	after, kept, err := s.Store.RotateKey(ctx, id, secret, k.LastFour, now, now.Add(grace), keep, c)
	if err != nil {
		return Minted{}, err
	}
	if kept != nil {
		return s.replay(kept, keep, k.UserID)
	}
	s.Notify(c.Event)
	return Minted{Key: after, Secret: key}, nil
}

// Revoke ends a key of the owner for good. It returns the epoch of the change,
// for a receipt; 0 when the key was revoked before.
func (s *Service) Revoke(ctx context.Context, owner, id string) (epoch int64, err error) {
	k, err := s.Get(ctx, owner, id)
	if err != nil {
		return 0, err
	}
	c := s.change(ctx, audit.KeyRevoked, k)
	epoch, err = s.Store.RevokeKey(ctx, id, s.now(), c)
	if err != nil {
		return 0, err
	}
	s.Notify(c.Event)
	return epoch, nil
}

func (s *Service) change(ctx context.Context, action audit.Action, k Key) changes.Change {
	return changes.Change{
		Audit: audit.New(ctx, action, "apikey", k.ID).With("owner", k.UserID),
		Event: changes.Event{Kind: changes.KeyChanged, Subject: k.PublicID},
	}
}

// secret is what is stored of a key.
func (s *Service) secret(ctx context.Context, key seal.Secret, now time.Time) (Secret, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Secret{}, err
	}
	hash, err := s.Hasher.Hash(ctx, bcryptInput(key.Reveal()))
	if err != nil {
		return Secret{}, err
	}
	mac := s.Peppers.current.sum(key.Reveal())
	return Secret{ID: id.String(), Bcrypt: hash, Verifier: mac[:], PepperID: s.Peppers.current.id, CreatedAt: now}, nil
}

// keep prepares the answer that a repeated request will get.
func (s *Service) keep(token, owner, operation string, request any, m Minted, now time.Time) (Idempotent, error) {
	if token == "" {
		return Idempotent{}, nil
	}
	if len(token) > MaxIdempotency || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Idempotent{}, problem.ErrInvalid.WithField("Idempotency-Key", "must be 1 to %d visible ASCII characters", MaxIdempotency)
	}
	asked, err := json.Marshal([]any{operation, request})
	if err != nil {
		return Idempotent{}, err
	}
	answer, err := json.Marshal(answer{Key: m.Key, Secret: m.Secret.Reveal()})
	if err != nil {
		return Idempotent{}, err
	}
	return Idempotent{
		Token: token, Fingerprint: sha256.Sum256(asked),
		Answer: s.Ring.Seal(answer, answerPlace(owner, token)), ExpiresAt: now.Add(s.IdempotencyTTL),
	}, nil
}

// answer is the sealed form of a Minted; nothing else ever marshals a secret.
type answer struct {
	Key    Key
	Secret string
}

// replay gives a kept answer again, if it is the answer to the same request.
func (s *Service) replay(kept *Idempotent, asked Idempotent, owner string) (Minted, error) {
	if kept.Fingerprint != asked.Fingerprint {
		return Minted{}, ErrIdempotency
	}
	plain, _, err := s.Ring.Open(kept.Answer, answerPlace(owner, asked.Token))
	if err != nil {
		return Minted{}, fmt.Errorf("open a kept answer: %w", err)
	}
	var a answer
	if err := json.Unmarshal(plain, &a); err != nil {
		return Minted{}, fmt.Errorf("read a kept answer: %w", err)
	}
	return Minted{Key: a.Key, Secret: seal.NewSecret(a.Secret)}, nil
}

func answerPlace(owner, token string) string { return "idempotency/" + owner + "/" + token }

// check cleans r in place and returns its networks, or names every wrong field.
func (s *Service) check(r *Request, role access.Role, now time.Time) ([]netip.Prefix, error) {
	var fields []problem.Field
	name, detail := cleanName(r.Name)
	fields = appendField(fields, "name", detail)
	r.Name = name
	if r.Env == "" {
		r.Env = Live
	}
	if !r.Env.Valid() {
		fields = appendField(fields, "env", `must be "live" or "test"`)
	}
	scopes, bad := checkScopes(r.Scopes, s.Roles, role)
	r.Scopes = scopes
	fields = append(fields, bad...)
	if r.ExpiresAt != nil {
		at := r.ExpiresAt.UTC().Truncate(time.Microsecond)
		r.ExpiresAt = &at
	}
	if at := r.expiry(now); at != nil {
		field := "expires_at"
		if r.ExpiresIn != 0 {
			field = "expires_in"
		}
		fields = appendField(fields, field, checkExpiry(*at, now))
	}
	allowed, bad := ParseAllowedIPs(r.AllowedIPs)
	fields = append(fields, bad...)
	if len(fields) > 0 {
		return nil, problem.ErrInvalid.WithFields(fields)
	}
	return allowed, nil
}

func appendField(fields []problem.Field, field, detail string) []problem.Field {
	if detail == "" {
		return fields
	}
	return append(fields, problem.Field{Field: field, Detail: detail})
}

func cleanName(name string) (clean, detail string) {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		return "", "is required"
	case len(name) > 8*maxNameLength || utf8.RuneCountInString(name) > maxNameLength:
		return "", fmt.Sprintf("must be at most %d characters", maxNameLength)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return unicode.Is(unicode.C, r) }):
		return "", "must not contain control characters"
	}
	return name, ""
}

// checkScopes returns the scopes sorted and without repetition, and what is
// wrong with them: a key never gets what its maker does not hold.
func checkScopes(scopes []string, roles access.Roles, role access.Role) ([]string, []problem.Field) {
	var fields []problem.Field
	if len(scopes) > maxScopes {
		return nil, appendField(nil, "scopes", fmt.Sprintf("must have at most %d entries", maxScopes))
	}
	for i, scope := range scopes {
		name := fmt.Sprintf("scopes[%d]", i)
		switch {
		case scope == access.Wildcard:
			fields = appendField(fields, name, "a key cannot hold the wildcard; name the scopes it needs")
		case !access.ValidScope(scope):
			fields = appendField(fields, name, "must be a scope name such as orders:read")
		case !roles.Holds(role, scope):
			fields = appendField(fields, name, "is not a scope that you hold")
		}
	}
	clean := slices.Clone(scopes)
	slices.Sort(clean)
	clean = slices.Compact(clean)
	if clean == nil {
		clean = []string{}
	}
	return clean, fields
}

func checkExpiry(at, now time.Time) string {
	switch {
	case !at.After(now):
		return "must be in the future"
	case at.Sub(now) > maxLifetime:
		return "must be at most ten years away"
	}
	return ""
}

// ParseAllowedIPs reads addresses and CIDR networks; what is wrong is named by
// index of the field allowed_ips.
func ParseAllowedIPs(texts []string) ([]netip.Prefix, []problem.Field) {
	if len(texts) > maxAllowedIPs {
		return nil, appendField(nil, "allowed_ips", fmt.Sprintf("must have at most %d entries", maxAllowedIPs))
	}
	prefixes := make([]netip.Prefix, 0, len(texts))
	var fields []problem.Field
	for i, text := range texts {
		p, err := parsePrefix(text)
		if err != nil {
			fields = appendField(fields, fmt.Sprintf("allowed_ips[%d]", i), "must be an address or a network such as 203.0.113.0/24")
			continue
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, fields
}

func parsePrefix(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		if p.Addr().Is4In6() {
			return netip.Prefix{}, errors.New("IPv4 in IPv6 form")
		}
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, errors.New("not an address")
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func lastFour(key seal.Secret) string {
	k := key.Reveal()
	return k[len(k)-4:]
}

func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }
