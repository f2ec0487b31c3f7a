package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"log/slog"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/verdict"
)

// Verifier checks access tokens. A token that was seen before costs a hash and
// two look-ups; a new one costs a signature check, and the first of a session
// one query. It is safe for concurrent use.
type Verifier struct {
	signer   *Signer
	store    StateStore
	fresh    func(time.Time) bool
	roles    access.Roles
	now      func() time.Time
	logger   *slog.Logger
	tokens   *otter.Cache[[sha256.Size]byte, checked]
	hashes   sync.Pool // of *hashState
	sessions *verdict.Cache[*standing]
}

// StateStore is what the verifier reads.
type StateStore interface {
	SessionState(ctx context.Context, id string) (State, error)
}

// checked is what a good signature says: facts that never change.
type checked struct {
	session string
	user    string
	expires int64 // unix seconds
}

// standing is a session as the database knows it, with its ready-made principal.
type standing struct {
	state     State
	principal *access.Principal
}

// VerifierOptions configure a [Verifier]. All fields are required.
type VerifierOptions struct {
	Signer  *Signer
	Store   StateStore
	Fresh   func(time.Time) bool // whether cached standings may be trusted now
	Roles   access.Roles
	Entries int           // bound of each cache
	Timeout time.Duration // of one query
	Now     func() time.Time
	Logger  *slog.Logger
}

// NewVerifier makes a verifier.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	tokens, err := otter.New(&otter.Options[[sha256.Size]byte, checked]{MaximumSize: o.Entries})
	if err != nil {
		return nil, err
	}
	sessions, err := verdict.New[*standing](o.Entries, o.Timeout)
	if err != nil {
		return nil, err
	}
	return &Verifier{
		signer: o.Signer, store: o.Store, fresh: o.Fresh, roles: o.Roles, now: o.Now, logger: o.Logger,
		tokens: tokens, hashes: sync.Pool{New: func() any { return &hashState{hash: sha256.New()} }}, sessions: sessions,
	}, nil
}

var _ access.TokenVerifier = (*Verifier)(nil)

// VerifyToken implements access.TokenVerifier.
func (v *Verifier) VerifyToken(ctx context.Context, token string) (*access.Principal, error) {
	if len(token) > maxTokenBytes {
		return nil, access.ErrToken
	}
	now := v.now()
	facts, err := v.check(token, now)
	if err != nil {
		return nil, err
	}
	s, err := v.standing(ctx, facts.session, now)
	if err != nil {
		return nil, err
	}
	if s.state.Ended || s.state.Disabled || s.state.UserID != facts.user || !now.Before(s.state.ExpiresAt) {
		return nil, access.ErrToken
	}
	return s.principal, nil
}

// check returns the facts of a token, by the cache of good ones if it is there.
// The whole token is the key: no part of a signature is left out.
func (v *Verifier) check(token string, now time.Time) (checked, error) {
	sum := v.sum(token)
	facts, ok := v.tokens.GetIfPresent(sum)
	if !ok {
		c, err := v.signer.parse(token)
		if errors.Is(err, errNoKeys) {
			return checked{}, access.ErrUndecided.With(err).WithRetryAfter(retryAfter)
		}
		if err != nil {
			return checked{}, access.ErrToken.With(err)
		}
		facts = checked{session: c.Session, user: c.Subject, expires: c.Expires}
		v.tokens.Set(sum, facts)
	}
	if now.Unix() >= facts.expires+int64(v.signer.opts.Leeway/time.Second) {
		v.tokens.Invalidate(sum)
		return checked{}, access.ErrToken
	}
	return facts, nil
}

// hashState is a hash with room for its input and output, so that a warm check
// allocates nothing.
type hashState struct {
	hash hash.Hash
	in   [maxTokenBytes]byte
	out  [sha256.Size]byte
}

// sum is the SHA-256 of token, which must be at most maxTokenBytes long.
func (v *Verifier) sum(token string) [sha256.Size]byte {
	h := v.hashes.Get().(*hashState) //nolint:forcetypeassert // the pool holds nothing else
	defer v.hashes.Put(h)
	h.hash.Reset()
	n := copy(h.in[:], token)
	h.hash.Write(h.in[:n])
	h.hash.Sum(h.out[:0])
	clear(h.in[:n])
	return h.out
}

// standing returns the session's standing. What is cached holds as long as the
// change log is read; beyond the staleness bound only the database can tell.
func (v *Verifier) standing(ctx context.Context, id string, now time.Time) (*standing, error) {
	if s, ok := v.sessions.Get(id); ok && v.fresh(now) {
		return s, nil
	}
	s, err := v.sessions.Load(ctx, id, func(ctx context.Context) (*standing, error) {
		state, err := v.store.SessionState(ctx, id)
		if err != nil {
			return nil, err
		}
		return &standing{state: state, principal: &access.Principal{
			Kind: access.KindUser, UserID: state.UserID, Role: state.Role,
			Scopes: v.roles.Scopes(state.Role), SessionID: id,
		}}, nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, access.ErrUndecided.With(err).WithRetryAfter(retryAfter)
	}
	return s, nil
}

// retryAfter is what a caller is told whose credential cannot be decided upon.
const retryAfter = 2 * time.Second

// Apply drops what an event has overtaken.
func (v *Verifier) Apply(e changes.Event) {
	switch e.Kind {
	case changes.SessionEnded:
		v.sessions.Invalidate(e.Subject)
	case changes.UserChanged, changes.UserSessionsEnded:
		v.sessions.InvalidateIf(func(s *standing) bool { return s.state.UserID == e.Subject })
	case changes.KeyChanged, changes.SigningKeysChanged, changes.GatewayChanged, changes.QuotaChanged, changes.CachePurged,
		changes.SecretChanged, changes.AppChanged, changes.ProductChanged:
	}
}

// Reset drops everything: events were missed.
func (v *Verifier) Reset() { v.sessions.Clear() }
