// Package session owns being signed in: login, access and refresh tokens, the
// keys that sign them, logout. It checks passwords through the accounts and
// knows nothing of API keys.
//
// A session begins with a login and lives in the database. Its access tokens are
// short-lived JWTs (RFC 9068) that name it; its refresh token is opaque, is
// replaced at each use, and using a spent one ends the session (RFC 9700 section
// 4.14). A token is only as good as its session: ending that ends all of them,
// on every replica.
package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// Errors of this package.
var (
	ErrNotFound = problem.Define(problem.NotFound, "session.not_found", "No session of yours has this identifier.")
	ErrRefresh  = problem.Define(problem.Unauthenticated, "auth.refresh_invalid",
		"The refresh token is not valid: it is unknown, spent or expired. Sign in again.").WithChallenge(`Bearer error="invalid_token"`)

	// ErrSpent is for stores: the refresh token was used before.
	ErrSpent = errors.New("the refresh token was used before")
	// ErrOvertaken is for stores: the user was changed while signing in.
	ErrOvertaken = errors.New("the user was changed meanwhile")
)

// Session is one sign-in.
type Session struct {
	ID        string
	UserID    string
	CreatedAt time.Time
	UsedAt    time.Time // last login or refresh
	IdleUntil time.Time // ends then unless refreshed
	ExpiresAt time.Time // ends then in any case
	Client    string    // address of the last login or refresh
	UserAgent string    // as the client called itself, clipped and without credentials
}

// State is what decides about the access tokens of a session.
type State struct {
	UserID    string
	Role      access.Role // the user's role now
	Disabled  bool
	ExpiresAt time.Time
	Ended     bool // ended, or there is no such session
}

// Store keeps sessions. Implementations are safe for concurrent use.
type Store interface {
	// InsertSession stores a session with its first refresh token. asOf is the
	// user's UpdatedAt from when the password was checked: it returns
	// ErrOvertaken when the user was changed since, disabled or deleted, so that
	// no sign-in with an old password survives the change of the password.
	InsertSession(ctx context.Context, s Session, asOf time.Time, refresh [sha256.Size]byte, c changes.Change) error
	// SpendRefresh marks the token as used and stores the next one, in one
	// statement of which only one caller can win. It returns the session after
	// it; ErrSpent with the session when the token was used before; ErrNotFound
	// when there is no such token or its session has ended by now.
	SpendRefresh(ctx context.Context, spent, next [sha256.Size]byte, now, idleUntil time.Time, client, userAgent string) (Session, error)
	// SessionState returns the state of a session; Ended when it is unknown.
	SessionState(ctx context.Context, id string) (State, error)
	// ListSessions returns the user's live sessions, newest first, at most limit.
	ListSessions(ctx context.Context, userID string, now time.Time, limit int) ([]Session, error)
	// EndSession ends a session of the user; ErrNotFound when it is not live.
	EndSession(ctx context.Context, userID, id string, now time.Time, c changes.Change) error
	// KnownClient reports whether the user signed in from this address before.
	KnownClient(ctx context.Context, userEmail, client string) (bool, error)
	// RecordAudit writes an entry that belongs to no change.
	RecordAudit(ctx context.Context, e audit.Entry) error
}

// Authenticator checks passwords.
type Authenticator interface {
	Authenticate(ctx context.Context, email, password string) (account.User, error)
	Get(ctx context.Context, id string) (account.User, error)
}

// Throttles slow down guessing at the login.
type Throttles struct {
	Account *throttle.Limiter // failures per account, from addresses it was never used from
	Address *throttle.Limiter // failures per address
	Known   *throttle.Limiter // failures per account and address that was used before
}

// Options configure a [Service]. All fields are required.
type Options struct {
	Store     Store
	Accounts  Authenticator
	Signer    *Signer
	Throttles Throttles
	Notify    func(changes.Event)
	IdleTTL   time.Duration // of a refresh token
	TTL       time.Duration // of a session
	Now       func() time.Time
	Logger    *slog.Logger
}

// Service signs people in and out. It is safe for concurrent use.
type Service struct{ Options }

// NewService makes the service.
func NewService(o Options) *Service { return &Service{o} }

// Tokens is what a login or a refresh gives.
type Tokens struct {
	Access    seal.Secret
	Refresh   seal.Secret
	ExpiresIn time.Duration // of Access
}

// Login begins a session. Failures are limited per address and per account; the
// owner is not locked out, because addresses the account was used from have a
// limit of their own.
func (s *Service) Login(ctx context.Context, email, password, userAgent string) (Tokens, error) {
	email = account.CanonicalEmail(email)
	client := reqctx.From(ctx).Client
	refund, err := s.admit(ctx, email, client)
	if err != nil {
		return Tokens{}, err
	}
	u, err := s.Accounts.Authenticate(ctx, email, password)
	if errors.Is(err, account.ErrCredentials) {
		s.recordFailure(ctx, u.ID)
		return Tokens{}, err
	}
	refund()
	if err != nil {
		return Tokens{}, err
	}
	t, err := s.begin(ctx, u, client, userAgent)
	if errors.Is(err, ErrOvertaken) {
		return Tokens{}, access.ErrUndecided.With(err).WithRetryAfter(retryAfter)
	}
	return t, err
}

// admit takes an attempt from the buckets that concern this caller. refund gives
// them back when the attempt was no guess.
func (s *Service) admit(ctx context.Context, email string, client netip.Addr) (refund func(), err error) {
	address := throttle.Address(client)
	if wait := s.Throttles.Address.Take(address); wait > 0 {
		return nil, access.ErrThrottled.WithRetryAfter(wait)
	}
	wait := s.Throttles.Account.Take(email)
	if wait == 0 {
		return func() {
			s.Throttles.Address.Refund(address)
			s.Throttles.Account.Refund(email)
		}, nil
	}
	// Somebody guesses at this account. Where it was used before it still opens.
	known, err := s.Store.KnownClient(ctx, email, client.String())
	if err != nil {
		s.Throttles.Address.Refund(address)
		return nil, err
	}
	if !known { // the address stays charged: each of these attempts costs a query
		return nil, access.ErrThrottled.WithRetryAfter(wait)
	}
	own := email + " " + address
	if wait := s.Throttles.Known.Take(own); wait > 0 {
		s.Throttles.Address.Refund(address)
		return nil, access.ErrThrottled.WithRetryAfter(wait)
	}
	return func() {
		s.Throttles.Address.Refund(address)
		s.Throttles.Known.Refund(own)
	}, nil
}

// recordFailure audits a refused login; the address that was typed is not kept,
// since people type passwords into the wrong field.
func (s *Service) recordFailure(ctx context.Context, userID string) {
	entry := audit.New(ctx, audit.LoginFailed, "user", userID).Failed()
	// A guesser who hangs up is recorded too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if err := s.Store.RecordAudit(ctx, entry); err != nil {
		s.Logger.ErrorContext(ctx, "a failed login could not be audited", "error", err)
	}
}

// auditTimeout bounds the recording of a failed login.
const auditTimeout = 5 * time.Second

func (s *Service) begin(ctx context.Context, u account.User, client netip.Addr, userAgent string) (Tokens, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Tokens{}, err
	}
	now := s.now()
	sess := Session{
		ID: id.String(), UserID: u.ID, CreatedAt: now, UsedAt: now,
		IdleUntil: earlier(now.Add(s.IdleTTL), now.Add(s.TTL)), ExpiresAt: now.Add(s.TTL),
		Client: client.String(), UserAgent: clip(userAgent),
	}
	refresh, hash := newRefreshToken()
	entry := audit.New(ctx, audit.LoginSucceeded, "session", sess.ID).By(u.ID)
	if err := s.Store.InsertSession(ctx, sess, u.UpdatedAt, hash, changes.Change{Audit: entry}); err != nil {
		return Tokens{}, err
	}
	return s.tokens(u, sess, refresh)
}

func (s *Service) tokens(u account.User, sess Session, refresh seal.Secret) (Tokens, error) {
	token, ttl, err := s.Signer.Sign(u, sess)
	if err != nil {
		return Tokens{}, err
	}
	return Tokens{Access: token, Refresh: refresh, ExpiresIn: ttl}, nil
}

// Refresh replaces a refresh token by a new pair. A token that was used before
// ends its session: either its owner or a thief holds the newer one, and there
// is no telling which.
func (s *Service) Refresh(ctx context.Context, token, userAgent string) (Tokens, error) {
	address := throttle.Address(reqctx.From(ctx).Client)
	if wait := s.Throttles.Address.Take(address); wait > 0 {
		return Tokens{}, access.ErrThrottled.WithRetryAfter(wait)
	}
	spent, ok := refreshHash(token)
	if !ok {
		return Tokens{}, ErrRefresh
	}
	now := s.now()
	next, hash := newRefreshToken()
	sess, err := s.Store.SpendRefresh(ctx, spent, hash, now, now.Add(s.IdleTTL), reqctx.From(ctx).Client.String(), clip(userAgent))
	switch {
	case errors.Is(err, ErrSpent):
		return Tokens{}, s.endReused(ctx, sess)
	case errors.Is(err, ErrNotFound):
		return Tokens{}, ErrRefresh
	}
	s.Throttles.Address.Refund(address)
	if err != nil {
		return Tokens{}, err
	}
	u, err := s.Accounts.Get(ctx, sess.UserID)
	if errors.Is(err, account.ErrNotFound) || err == nil && u.Disabled {
		return Tokens{}, ErrRefresh
	}
	if err != nil {
		return Tokens{}, err
	}
	return s.tokens(u, sess, next)
}

func (s *Service) endReused(ctx context.Context, sess Session) error {
	entry := audit.New(ctx, audit.RefreshReused, "session", sess.ID).By(sess.UserID).Failed()
	err := s.end(ctx, sess.UserID, sess.ID, entry)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return ErrRefresh
}

// End ends one session of the user: a logout, or "that one was not me".
func (s *Service) End(ctx context.Context, userID, id string) error {
	return s.end(ctx, userID, id, audit.New(ctx, audit.SessionEnded, "session", id))
}

func (s *Service) end(ctx context.Context, userID, id string, entry audit.Entry) error {
	c := changes.Change{Audit: entry, Event: changes.Event{Kind: changes.SessionEnded, Subject: id}}
	if err := s.Store.EndSession(ctx, userID, id, s.now(), c); err != nil {
		return err
	}
	s.Notify(c.Event)
	return nil
}

// maxSessions bounds the list of one user's sessions.
const maxSessions = 200

// List returns the user's live sessions, newest first.
func (s *Service) List(ctx context.Context, userID string) ([]Session, error) {
	return s.Store.ListSessions(ctx, userID, s.now(), maxSessions)
}

func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// refreshPrefix makes a leaked refresh token recognisable to scanners.
const refreshPrefix = "kwr_"

const refreshBytes = 32

// newRefreshToken returns a token of 256 random bits and what is stored of it.
func newRefreshToken() (seal.Secret, [sha256.Size]byte) {
	var b [refreshBytes]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	token := refreshPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return seal.NewSecret(token), sha256.Sum256([]byte(token))
}

// refreshHash returns what is stored of a token, if it looks like one at all.
func refreshHash(token string) ([sha256.Size]byte, bool) {
	body, ok := strings.CutPrefix(token, refreshPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(refreshBytes) {
		return [sha256.Size]byte{}, false
	}
	return sha256.Sum256([]byte(token)), true
}

const maxUserAgent = 256 // bytes kept of a User-Agent

// clip keeps the beginning of a client's self-description, as valid text and without
// credentials that scripts put there by mistake. Those are removed from the whole text
// first, since half of one is not recognised, and after what is no text, which would
// hide one.
func clip(userAgent string) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(userAgent, ""))
	text = httpedge.WithoutCredentials(text)
	if len(text) > maxUserAgent {
		text = strings.ToValidUTF8(text[:maxUserAgent], "")
	}
	return text
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
