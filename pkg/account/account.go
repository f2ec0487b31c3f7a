// Package account owns the users: registering, looking up, changing, deleting
// them, and checking and changing their passwords. It does not know sessions,
// tokens or API keys; those end by the events that its changes carry.
package account

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Errors of this package.
var (
	ErrNotFound    = problem.Define(problem.NotFound, "user.not_found", "No user has this identifier.")
	ErrEmailTaken  = problem.Define(problem.Conflict, "user.email_taken", "A user with this e-mail address exists already.")
	ErrLastAdmin   = problem.Define(problem.Conflict, "user.last_admin", "This is the last active admin; make another one first.")
	ErrCredentials = problem.Define(problem.Unauthenticated, "auth.credentials_invalid", "The e-mail address or the password is not right.")
	ErrPassword    = problem.Define(problem.Invalid, "user.current_password_wrong", "The current password is not right.").
			WithField("current_password", "is not your current password")
)

// User is an account as others may see it.
type User struct {
	ID        string
	Email     string // canonical: see [CanonicalEmail]
	Name      string
	Role      access.Role
	Disabled  bool
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Patch changes a user; nil fields stay.
type Patch struct {
	Name     *string
	Role     *access.Role
	Disabled *bool
}

// Filter selects users for a list, newest first; zero values select everything.
type Filter struct {
	Query  string // part of the e-mail address or the name, case-insensitive
	Role   access.Role
	Before string // only users with a smaller id
	Limit  int
}

// Store keeps users. Implementations are safe for concurrent use; a change is
// committed together with its audit entry and event, or not at all.
type Store interface {
	// InsertUser returns ErrEmailTaken when the address is in use.
	InsertUser(ctx context.Context, u User, passwordHash string, c changes.Change) error
	// User returns ErrNotFound for unknown and malformed identifiers.
	User(ctx context.Context, id string) (User, error)
	// UserByEmail also returns the password hash.
	UserByEmail(ctx context.Context, email string) (User, string, error)
	// PasswordHash returns the hash of the user's password.
	PasswordHash(ctx context.Context, id string) (string, error)
	ListUsers(ctx context.Context, f Filter) ([]User, error)
	// UpdateUser applies p and returns the user after it, or ErrLastAdmin when
	// no active admin would be left; of two concurrent calls one gets it.
	UpdateUser(ctx context.Context, id string, p Patch, at time.Time, c changes.Change) (User, error)
	// DeleteUser removes the user with everything it owns; ErrLastAdmin as above.
	DeleteUser(ctx context.Context, id string, c changes.Change) error
	// SetPassword stores the hash, and ends all sessions of the user but keep.
	SetPassword(ctx context.Context, id, passwordHash, keepSession string, at time.Time, c changes.Change) error
	// Rehash replaces the hash when it is still old.
	Rehash(ctx context.Context, id, old, hash string) error
}

// Options configure a [Service]. All fields are required.
type Options struct {
	Store             Store
	Hasher            *Hasher
	Roles             access.Roles
	Notify            func(changes.Event) // makes a committed event hold on this replica at once
	PasswordMinLength int
	Now               func() time.Time
}

// Service is the accounts of the platform. It is safe for concurrent use.
type Service struct{ Options }

// NewService makes the service.
func NewService(o Options) *Service { return &Service{o} }

// Registration is what a person tells to get an account.
type Registration struct {
	Email    string
	Password string
	Name     string
}

// Register makes a user. The role is the caller's decision, never the input's.
// Invalid input is a problem that names every wrong field.
func (s *Service) Register(ctx context.Context, in Registration, role access.Role) (User, error) {
	email, fields := CanonicalEmail(in.Email), []problem.Field(nil)
	if detail := checkEmail(email); detail != "" {
		fields = append(fields, problem.Field{Field: "email", Detail: detail})
	}
	name, detail := cleanName(in.Name)
	if detail != "" {
		fields = append(fields, problem.Field{Field: "name", Detail: detail})
	}
	if detail := s.checkPassword(in.Password, email, name); detail != "" {
		fields = append(fields, problem.Field{Field: "password", Detail: detail})
	}
	if len(fields) > 0 {
		return User{}, problem.ErrInvalid.WithFields(fields)
	}
	hash, err := s.Hasher.Hash(ctx, in.Password)
	if err != nil {
		return User{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return User{}, err
	}
	now := s.Now().UTC().Truncate(time.Microsecond)
	u := User{ID: id.String(), Email: email, Name: name, Role: role, CreatedAt: now, UpdatedAt: now}
	entry := audit.New(ctx, audit.UserRegistered, "user", u.ID).With("role", string(role))
	if err := s.Store.InsertUser(ctx, u, hash, changes.Change{Audit: entry}); err != nil {
		return User{}, err
	}
	return u, nil
}

// Authenticate returns the user with this address and password. Every refusal
// is ErrCredentials, and takes the time of one hash: an unknown address, a
// wrong password and a disabled account look the same.
func (s *Service) Authenticate(ctx context.Context, email, password string) (User, error) {
	u, hash, err := s.Store.UserByEmail(ctx, CanonicalEmail(email))
	unknown := errors.Is(err, ErrNotFound)
	if err != nil && !unknown {
		return User{}, err
	}
	ok, stale, err := s.Hasher.Compare(ctx, hash, password)
	if err != nil {
		return User{}, err
	}
	if unknown || !ok || u.Disabled {
		return u, ErrCredentials
	}
	if stale {
		s.rehash(ctx, u.ID, hash, password)
	}
	return u, nil
}

// rehash follows a changed cost; it may fail without harm, there is a next time.
func (s *Service) rehash(ctx context.Context, id, old, password string) {
	if hash, err := s.Hasher.Hash(ctx, password); err == nil {
		_ = s.Store.Rehash(ctx, id, old, hash)
	}
}

// Get returns one user.
func (s *Service) Get(ctx context.Context, id string) (User, error) { return s.Store.User(ctx, id) }

// List returns users, newest first.
func (s *Service) List(ctx context.Context, f Filter) ([]User, error) {
	return s.Store.ListUsers(ctx, f)
}

// Rename changes the name in a profile.
func (s *Service) Rename(ctx context.Context, id, name string) (User, error) {
	return s.Update(ctx, id, Patch{Name: &name})
}

// Update changes a user. A change of role or standing takes effect on live
// tokens and keys at once, on every replica.
func (s *Service) Update(ctx context.Context, id string, p Patch) (User, error) {
	entry := audit.New(ctx, audit.UserUpdated, "user", id)
	if p.Name != nil {
		name, detail := cleanName(*p.Name)
		if detail != "" {
			return User{}, problem.ErrInvalid.WithField("name", "%s", detail)
		}
		p.Name, entry = &name, entry.With("name", "changed")
	}
	var event changes.Event
	if p.Role != nil {
		if !s.Roles.Known(*p.Role) {
			return User{}, problem.ErrInvalid.WithField("role", "must be one of %v", s.Roles.Names())
		}
		entry = entry.With("role", string(*p.Role))
		event = changes.Event{Kind: changes.UserChanged, Subject: id}
	}
	if p.Disabled != nil {
		entry = entry.With("disabled", strconv.FormatBool(*p.Disabled))
		event = changes.Event{Kind: changes.UserChanged, Subject: id}
	}
	u, err := s.Store.UpdateUser(ctx, id, p, s.Now().UTC().Truncate(time.Microsecond), changes.Change{Audit: entry, Event: event})
	if err != nil {
		return User{}, err
	}
	s.notify(event)
	return u, nil
}

// Delete removes a user; sessions and keys die with it.
func (s *Service) Delete(ctx context.Context, id string) error {
	c := changes.Change{
		Audit: audit.New(ctx, audit.UserDeleted, "user", id),
		Event: changes.Event{Kind: changes.UserChanged, Subject: id},
	}
	if err := s.Store.DeleteUser(ctx, id, c); err != nil {
		return err
	}
	s.notify(c.Event)
	return nil
}

// ChangePassword replaces the user's password and ends all other sessions.
func (s *Service) ChangePassword(ctx context.Context, id, keepSession, current, next string) error {
	u, err := s.Store.User(ctx, id)
	if err != nil {
		return err
	}
	if detail := s.checkPassword(next, u.Email, u.Name); detail != "" {
		return problem.ErrInvalid.WithField("new_password", "%s", detail)
	}
	old, err := s.Store.PasswordHash(ctx, id)
	if err != nil {
		return err
	}
	ok, _, err := s.Hasher.Compare(ctx, old, current)
	if err != nil {
		return err
	}
	if !ok {
		return ErrPassword
	}
	hash, err := s.Hasher.Hash(ctx, next)
	if err != nil {
		return err
	}
	c := changes.Change{
		Audit: audit.New(ctx, audit.PasswordChanged, "user", id),
		Event: changes.Event{Kind: changes.UserSessionsEnded, Subject: id},
	}
	if err := s.Store.SetPassword(ctx, id, hash, keepSession, s.Now().UTC().Truncate(time.Microsecond), c); err != nil {
		return err
	}
	s.notify(c.Event)
	return nil
}

func (s *Service) notify(e changes.Event) {
	if e.Kind != "" {
		s.Notify(e)
	}
}
