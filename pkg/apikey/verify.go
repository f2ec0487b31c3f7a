package apikey

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/throttle"
	"github.com/keywarden/keywarden/pkg/verdict"
)

// Stored is a key as the database knows it at one moment, with what decides
// about it.
type Stored struct {
	Key           Key
	OwnerRole     access.Role
	OwnerDisabled bool
	Secrets       []Secret // those that may still be valid, newest first

	// For the key of an app: whether that may reach nothing for now, and its active
	// subscriptions, oldest first.
	AppSuspended bool
	Entitled     []access.Entitlement
}

// VerifyStore is what verification reads and writes.
type VerifyStore interface {
	// KeyByPublicID returns ErrNotFound when no key has the id.
	KeyByPublicID(ctx context.Context, publicID string) (Stored, error)
	// StoreVerifier replaces the verifier of a secret of a live key when it is
	// still old; it never touches anything else.
	StoreVerifier(ctx context.Context, secretID string, old, verifier []byte, pepperID string) error
	// TouchKeys records the minutes of last use of live keys; never backwards.
	TouchKeys(ctx context.Context, used map[string]time.Time) error
}

// Comparer compares with bcrypt; slowhash.Pool is the one there is.
type Comparer interface {
	Compare(ctx context.Context, hash string, digest []byte) (ok, stale bool, err error)
}

// VerifierOptions configure a [Verifier]. All fields are required.
type VerifierOptions struct {
	Store   VerifyStore
	Hasher  Comparer
	Peppers *Peppers
	Roles   access.Roles
	Prefix  string
	Fresh   func(time.Time) bool // whether cached records may be trusted now
	Misses  *throttle.Limiter    // unknown keys and bcrypt comparisons, per address
	Entries int                  // bound of the cache
	Timeout time.Duration        // of one look-up
	Now     func() time.Time
	Logger  *slog.Logger

	// Canary hears of every use of a canary key, by the id of the key; nil for nobody.
	// It must not block: whoever uses one must not be able to tell by the time.
	Canary func(ctx context.Context, keyID string, client netip.Addr)
}

// Verifier checks presented keys. A key whose record is cached costs a look-up and a
// hash, right or wrong, and, the first time, a CRC and an HMAC; it touches no network and
// allocates nothing. bcrypt runs only for a secret that has no verifier under a known
// pepper, and never more than a few at a time. It is safe for concurrent use.
type Verifier struct {
	opts    VerifierOptions
	prints  prints
	records *verdict.Cache[*record]
	missing *verdict.Cache[*record] // unknown ids, apart so that guesses cannot push real keys out
	unknown *record                 // what missing holds
	slow    singleflight.Group      // running bcrypt comparisons
	away    atomic.Bool             // the last look-up that ended got no answer
	used    *usage
}

// missingEntries bounds the memory spent on unknown ids.
const missingEntries = 10_000

// NewVerifier makes a verifier; its usage is written by [Verifier.Run].
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	records, err := verdict.New[*record](o.Entries, o.Timeout)
	if err != nil {
		return nil, err
	}
	missing, err := verdict.New[*record](missingEntries, o.Timeout)
	if err != nil {
		return nil, err
	}
	return &Verifier{opts: o, prints: newPrints(), records: records, missing: missing, unknown: &record{dead: true}, used: newUsage()}, nil
}

var _ access.KeyVerifier = (*Verifier)(nil)

// record is a cached key; all but known and used is immutable. It is in one piece, since
// there may be millions: each piece is a wait for memory.
type record struct {
	used      atomic.Int64 // minute of last use that was noted, since the epoch
	expires   int64        // unix nanoseconds; 0 for never
	principal *access.Principal
	dead      bool // revoked or in quarantine, or its owner is disabled
	canary    bool // it authenticates nobody

	allowed []netip.Prefix
	secrets []version
	known   [knownSecrets]fingerprint // of the secrets at the same index
	own     access.Principal          // where principal is, unless it is another record's
	id      string                    // UUID; empty for an unknown key
	userID  string
}

// version is one secret of a cached key.
type version struct {
	id         string
	bcrypt     string
	verifier   []byte
	pepperID   string
	validUntil int64 // unix nanoseconds; 0 for no end
}

// VerifyKey is VerifyKeyAt now.
func (v *Verifier) VerifyKey(ctx context.Context, key string, client netip.Addr) (*access.Principal, error) {
	return v.VerifyKeyAt(ctx, key, client, v.opts.Now())
}

// VerifyKeyAt implements access.KeyVerifier.
func (v *Verifier) VerifyKeyAt(ctx context.Context, key string, client netip.Addr, now time.Time) (*access.Principal, error) {
	if r, right := v.recognise(key, now); r != nil {
		if !right {
			return nil, access.ErrKey
		}
		return v.admit(ctx, r, client, now)
	}
	if len(key) > maxKeyBytes {
		return nil, access.ErrKey
	}
	publicID, ok := parse(v.opts.Prefix, key)
	if !ok {
		return nil, access.ErrKey
	}
	r, err := v.record(ctx, publicID, client, now)
	if err != nil {
		return nil, err
	}
	return v.decide(ctx, r, publicID, key, client, now)
}

// record finds what is known about a key.
func (v *Verifier) record(ctx context.Context, publicID string, client netip.Addr, now time.Time) (*record, error) {
	if v.opts.Fresh(now) {
		if r, ok := v.records.Get(publicID); ok {
			return r, nil
		}
		if r, ok := v.missing.Get(publicID); ok {
			return r, nil
		}
	}
	return v.load(ctx, publicID, client)
}

// load asks the database. Asking for a key that does not exist is charged to the
// address, so that guessing cannot keep the database busy. A look-up that fails gives
// the attempt back when it ends, and until then bounds how many wait at once.
//
// Of an address that has no attempt left nothing is looked up. While the database is
// away that is no word about its keys, whether it has guessed before or has too many
// look-ups on their way: they are undecided, like all others then.
func (v *Verifier) load(ctx context.Context, publicID string, client netip.Addr) (*record, error) {
	address := throttle.Address(client)
	if wait := v.opts.Misses.Take(address); wait > 0 {
		if v.away.Load() {
			return nil, access.ErrUndecided.With(errAway).WithRetryAfter(max(wait, retryAfter))
		}
		return nil, throttled(wait)
	}
	generation := v.missing.Generation(publicID)
	r, err := v.records.Load(ctx, publicID, func(ctx context.Context) (*record, error) {
		stored, err := v.opts.Store.KeyByPublicID(ctx, publicID)
		v.away.Store(err != nil && !errors.Is(err, ErrNotFound))
		if err != nil {
			return nil, err
		}
		return v.newRecord(stored), nil
	})
	switch {
	case errors.Is(err, ErrNotFound):
		v.missing.Keep(publicID, v.unknown, generation)
		return v.unknown, nil
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		v.opts.Misses.Refund(address) // our trouble, not the caller's guess
		return nil, access.ErrUndecided.With(err).WithRetryAfter(retryAfter)
	}
	v.opts.Misses.Refund(address)
	return r, nil
}

// retryAfter is what a caller is told whose key cannot be decided upon.
const retryAfter = 2 * time.Second

// errAway is the cause of a refusal for which nothing was looked up.
var errAway = errors.New("the last look-up of a key failed, and the address has too many on their way")

// throttled refuses an address that has no attempt left: they failed, or are all on
// their way.
func throttled(wait time.Duration) error {
	return access.ErrThrottled.WithDetail("Too many keys from this address failed or are still being checked; try again later.").WithRetryAfter(wait)
}

func (v *Verifier) newRecord(s Stored) *record {
	r := &record{
		dead:    s.Key.RevokedAt != nil || s.Key.QuarantinedAt != nil || s.OwnerDisabled,
		canary:  s.Key.Canary,
		allowed: s.Key.AllowedIPs,
		own: access.Principal{
			Kind: access.KindKey, Role: s.OwnerRole,
			Scopes: v.opts.Roles.Cut(s.OwnerRole, s.Key.Scopes), KeyName: s.Key.Name,
		},
	}
	ids := s.Key.ID + s.Key.UserID // side by side, too
	r.id, r.userID = ids[:len(s.Key.ID)], ids[len(s.Key.ID):]
	r.own.KeyID, r.own.UserID, r.principal = r.id, r.userID, &r.own
	if s.Key.App != "" {
		r.principal.App, r.principal.Grant = s.Key.App, access.NewGrant(s.AppSuspended, s.Entitled)
	}
	if s.Key.ExpiresAt != nil {
		r.expires = s.Key.ExpiresAt.UnixNano()
	}
	for _, secret := range s.Secrets {
		version := version{id: secret.ID, bcrypt: secret.Bcrypt, verifier: secret.Verifier, pepperID: secret.PepperID}
		if secret.ValidUntil != nil {
			version.validUntil = secret.ValidUntil.UnixNano()
		}
		r.secrets = append(r.secrets, version)
	}
	return r
}

// decide gives revoked, expired and unknown keys, and wrong secrets, one and the
// same answer. What has an answer of its own comes after the secret, so that
// only its holder learns of it.
func (v *Verifier) decide(ctx context.Context, r *record, publicID, key string, client netip.Addr, now time.Time) (*access.Principal, error) {
	nanos := now.UnixNano()
	if r.dead || r.expires != 0 && nanos >= r.expires {
		return nil, access.ErrKey
	}
	found, err := v.match(ctx, r, publicID, key, client, nanos)
	if err != nil {
		return nil, err
	}
	if found < 0 {
		return nil, access.ErrKey
	}
	v.remember(r, found, key)
	return v.admit(ctx, r, client, now)
}

// admit is what becomes of those who have shown the secret of a live key.
func (v *Verifier) admit(ctx context.Context, r *record, client netip.Addr, now time.Time) (*access.Principal, error) {
	if r.canary {
		v.alarm(ctx, r, client)
		return nil, access.ErrKey
	}
	if len(r.allowed) > 0 && !contains(r.allowed, client) {
		return nil, access.ErrAddress
	}
	if minute := now.UnixNano() / int64(time.Minute); r.used.Load() < minute {
		r.used.Store(minute)
		v.used.note(r.id, time.Unix(0, minute*int64(time.Minute)).UTC())
	}
	return r.principal, nil
}

// match compares the key with each secret that is valid at nanos, and returns the
// index of the one that is its own, -1 for none.
func (v *Verifier) match(ctx context.Context, r *record, publicID, key string, client netip.Addr, nanos int64) (int, error) {
	current := v.opts.Peppers.current
	mac := current.sum(key)
	slow := false
	for i := range r.secrets {
		s := &r.secrets[i]
		switch {
		case s.validUntil != 0 && nanos >= s.validUntil:
		case s.pepperID == current.id && len(s.verifier) == len(mac):
			if subtle.ConstantTimeCompare(s.verifier, mac[:]) == 1 {
				return i, nil
			}
		default:
			slow = true
		}
	}
	if !slow {
		return -1, nil
	}
	return v.matchSlowly(ctx, r, publicID, key, client, nanos, mac)
}

// matchSlowly compares with secrets whose verifier is missing or under another
// pepper; a match gets a verifier of today, so it happens once per secret.
func (v *Verifier) matchSlowly(ctx context.Context, r *record, publicID, key string, client netip.Addr, nanos int64, mac [sha256.Size]byte) (int, error) {
	for i := range r.secrets {
		s := &r.secrets[i]
		if s.validUntil != 0 && nanos >= s.validUntil || s.pepperID == v.opts.Peppers.current.id && len(s.verifier) == len(mac) {
			continue
		}
		ok, err := v.matchOne(ctx, s, key, client, mac)
		if err != nil {
			return -1, err
		}
		if ok {
			v.renew(ctx, r, i, publicID, mac[:])
			return i, nil
		}
	}
	return -1, nil
}

// matchOne compares by a retired pepper if there is one, else by bcrypt, which
// is charged to the address before it runs.
func (v *Verifier) matchOne(ctx context.Context, s *version, key string, client netip.Addr, mac [sha256.Size]byte) (bool, error) {
	if old, ok := v.opts.Peppers.retired[s.pepperID]; ok && len(s.verifier) > 0 {
		mac := old.sum(key)
		return subtle.ConstantTimeCompare(s.verifier, mac[:]) == 1, nil
	}
	address := throttle.Address(client)
	if wait := v.opts.Misses.Take(address); wait > 0 {
		return false, throttled(wait)
	}
	ok, err := v.compare(ctx, s, key, mac)
	switch {
	case err != nil && ctx.Err() != nil:
		return false, context.Cause(ctx) // and charged: bcrypt goes on without its caller
	case err != nil:
		v.opts.Misses.Refund(address) // our trouble, not the caller's guess
		return false, access.ErrUndecided.With(err).WithRetryAfter(retryAfter)
	case ok:
		v.opts.Misses.Refund(address)
	}
	return ok, nil
}

// compare runs bcrypt, once for all who present the same key at the moment: of a
// busy key without a verifier many copies arrive together. What it finds out is
// about a hash that never changes, so no invalidation concerns it.
func (v *Verifier) compare(ctx context.Context, s *version, key string, mac [sha256.Size]byte) (bool, error) {
	flight := v.slow.DoChan(s.id+string(mac[:]), func() (any, error) {
		ok, _, err := v.opts.Hasher.Compare(context.WithoutCancel(ctx), s.bcrypt, bcryptInput(key))
		return ok, err
	})
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case result := <-flight:
		ok, _ := result.Val.(bool)
		return ok, result.Err
	}
}

// renew keeps today's verifier, in the cached record and in the database. It
// revives nothing: the record is replaced only while it is the cached one, and
// the write is conditional and touches one column pair. Of many who matched the
// same record one writes. When that fails the cached verifier serves until the
// record is loaded again.
func (v *Verifier) renew(ctx context.Context, r *record, i int, publicID string, mac []byte) {
	s := r.secrets[i]
	next := &record{
		id: r.id, userID: r.userID, principal: r.principal, dead: r.dead, canary: r.canary,
		expires: r.expires, allowed: r.allowed, secrets: append([]version(nil), r.secrets...),
	}
	next.used.Store(r.used.Load())
	next.secrets[i].verifier = append([]byte(nil), mac...)
	next.secrets[i].pepperID = v.opts.Peppers.current.id
	if !v.records.Replace(publicID, r, next) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.opts.Timeout)
	defer cancel()
	if err := v.opts.Store.StoreVerifier(ctx, s.id, s.verifier, mac, v.opts.Peppers.current.id); err != nil {
		v.opts.Logger.WarnContext(ctx, "a verifier could not be stored; it is kept in memory for now", "key_id", r.id, "error", err)
	}
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Apply drops what an event has overtaken.
func (v *Verifier) Apply(e changes.Event) {
	switch e.Kind {
	case changes.KeyChanged:
		v.records.Invalidate(e.Subject)
		v.missing.Invalidate(e.Subject)
	case changes.UserChanged:
		v.records.InvalidateIf(func(r *record) bool { return r.userID == e.Subject })
	case changes.AppChanged:
		v.records.InvalidateIf(func(r *record) bool {
			return r.principal != nil && r.principal.App != "" && r.principal.App == e.Subject
		})
	case changes.ProductChanged:
		v.records.InvalidateIf(func(r *record) bool { return r.principal != nil && r.principal.Grant.Holds(e.Subject) })
	case changes.SessionEnded, changes.UserSessionsEnded, changes.SigningKeysChanged, changes.GatewayChanged,
		changes.QuotaChanged, changes.CachePurged, changes.SecretChanged:
	}
}

// Reset drops everything: events were missed.
func (v *Verifier) Reset() {
	v.records.Clear()
	v.missing.Clear()
}

// Cached is about how many keys are known in memory.
func (v *Verifier) Cached() int { return v.records.Len() }
