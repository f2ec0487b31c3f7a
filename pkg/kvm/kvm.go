// Package kvm keeps the secrets that the gateway shows to services: key-value maps,
// one for each environment. Values are sealed under the master key, for the row that
// they are in, and never leave the process but to a service: nothing here returns a
// value to the management API. [Service] is what operators do, [Reader] what the data
// plane asks.
//
// Storing rows is the store's business, and what a value is put into the template's.
package kvm

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/kvm/kvmname"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Bounds.
const (
	MaxValue   = 64 << 10 // of a value, in bytes
	MaxSecrets = 10_000   // of all environments together
)

// Errors of this package.
var (
	ErrNotFound = problem.Define(problem.NotFound, "secret.not_found", "There is no secret of this name in the environment.")
	ErrFull     = problem.Define(problem.Conflict, "secret.too_many", "There are as many secrets as there may be. Delete some first.")
)

// Entry is what may be told of a secret: everything but its value.
type Entry struct {
	Environment string
	Name        string
	Version     int64  // 1 for a new secret, and one more with every value
	KeyID       string // of the master key that the value is sealed under
	CreatedAt   time.Time
	UpdatedAt   time.Time // when the value was set
}

// Value is a sealed value and the id of the master key that it is sealed under.
type Value struct {
	Sealed []byte
	KeyID  string
}

// Row is a secret as it is stored.
type Row struct {
	Entry
	Sealed []byte
}

// Filter selects secrets; zero values select all.
type Filter struct {
	Environment string

	// After selects those behind this environment and name, in their order.
	AfterEnvironment, AfterName string

	Limit int
}

// Store keeps secrets. Implementations are safe for concurrent use.
type Store interface {
	// ListSecrets returns at most Limit secrets, by environment and name.
	ListSecrets(ctx context.Context, f Filter) ([]Entry, error)

	// Secret returns ErrNotFound for a secret that does not exist.
	Secret(ctx context.Context, environment, name string) (Row, error)

	// PutSecret stores a new version of a secret, and commits it with its audit entry
	// and event. prepare is told the version, 1 for a new secret, and may be called more
	// than once. A new secret beyond MaxSecrets is ErrFull.
	PutSecret(ctx context.Context, environment, name string, prepare func(version int64) (Value, changes.Change)) (Entry, error)

	// DeleteSecret returns ErrNotFound for a secret that does not exist.
	DeleteSecret(ctx context.Context, environment, name string, c changes.Change) error

	// SecretsNotUnder returns at most f.Limit secrets that are sealed under another
	// master key than that with the id, by environment and name.
	SecretsNotUnder(ctx context.Context, keyID string, f Filter) ([]Row, error)

	// ResealSecret stores v in place of the value of before, unless the secret was
	// changed or deleted meanwhile. The version stays.
	ResealSecret(ctx context.Context, before Row, v Value) (bool, error)

	// RecordChange writes an audit entry.
	RecordChange(ctx context.Context, c changes.Change) (epoch int64, err error)
}

// Options make a [Service]. All fields are required.
type Options struct {
	Store  Store
	Ring   *seal.Keyring
	Notify func(changes.Event) // is told of a change after its commit
	Logger *slog.Logger
}

// Service is what operators do with secrets. It is safe for concurrent use.
type Service struct{ Options }

// NewService makes a service.
func NewService(o Options) *Service { return &Service{o} }

// List returns secrets without their values, by environment and name.
func (s *Service) List(ctx context.Context, f Filter) ([]Entry, error) {
	if f.Environment != "" && !kvmname.IsEnvironment(f.Environment) {
		return nil, errEnvironment()
	}
	return s.Store.ListSecrets(ctx, f)
}

// Put sets the value of a secret, new or not.
func (s *Service) Put(ctx context.Context, environment, name string, value seal.Secret) (Entry, error) {
	if err := checkNames(environment, name); err != nil {
		return Entry{}, err
	}
	if size := len(value.Reveal()); size == 0 || size > MaxValue {
		return Entry{}, problem.ErrInvalid.WithField("value", "must have from 1 to %d bytes", MaxValue)
	}
	event := changes.Event{Kind: changes.SecretChanged, Subject: subject(environment, name)}
	e, err := s.Store.PutSecret(ctx, environment, name, func(version int64) (Value, changes.Change) {
		entry := audit.New(ctx, audit.SecretPut, targetKind, event.Subject).With("version", strconv.FormatInt(version, 10))
		return s.seal([]byte(value.Reveal()), environment, name, version), changes.Change{Audit: entry, Event: event}
	})
	if err != nil {
		return Entry{}, err
	}
	s.Notify(event)
	return e, nil
}

// Delete removes a secret, or returns [ErrNotFound]. Routes that use it answer with
// an error from then on.
func (s *Service) Delete(ctx context.Context, environment, name string) error {
	if err := checkNames(environment, name); err != nil {
		return err
	}
	event := changes.Event{Kind: changes.SecretChanged, Subject: subject(environment, name)}
	entry := audit.New(ctx, audit.SecretDeleted, targetKind, event.Subject)
	if err := s.Store.DeleteSecret(ctx, environment, name, changes.Change{Audit: entry, Event: event}); err != nil {
		return err
	}
	s.Notify(event)
	return nil
}

// Pace of Run and Reseal.
const (
	resealInterval = time.Hour
	resealBatch    = 100
)

// Run seals anew what is under a retired master key: when it begins, and then every
// hour, since a replica that knows the new key later may seal under the old one
// meanwhile. It returns when ctx ends. Several replicas may run it.
func (s *Service) Run(ctx context.Context) {
	ticker := time.NewTicker(resealInterval)
	defer ticker.Stop()
	for {
		n, err := s.Reseal(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.Logger.WarnContext(ctx, "secrets could not be sealed anew", "sealed", n, "err", err)
		}
		if n > 0 {
			s.Logger.InfoContext(ctx, "secrets sealed anew under the current master key", "count", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Reseal seals every value that is under another master key anew under the current
// one, in batches, and returns how many those were. One that does not open is logged
// and left as it is. Values and versions stay what they are; no event is needed.
func (s *Service) Reseal(ctx context.Context) (sealed int, err error) {
	f := Filter{Limit: resealBatch}
	for {
		rows, err := s.Store.SecretsNotUnder(ctx, s.Ring.ID(), f)
		if err != nil {
			return sealed, err
		}
		done := 0
		for _, row := range rows {
			ok, err := s.reseal(ctx, row)
			if err != nil {
				return sealed + done, err
			}
			if ok {
				done++
			}
		}
		if done > 0 {
			entry := audit.New(ctx, audit.SecretsResealed, targetKind, "").With("count", strconv.Itoa(done)).With("key", s.Ring.ID())
			if _, err := s.Store.RecordChange(ctx, changes.Change{Audit: entry}); err != nil {
				return sealed + done, err
			}
		}
		sealed += done
		if len(rows) < resealBatch {
			return sealed, nil
		}
		last := rows[len(rows)-1]
		f.AfterEnvironment, f.AfterName = last.Environment, last.Name
	}
}

func (s *Service) reseal(ctx context.Context, row Row) (bool, error) {
	plain, err := open(s.Ring, row)
	if err != nil {
		s.Logger.ErrorContext(ctx, "a secret does not open", "environment", row.Environment, "secret", row.Name, "key", row.KeyID, "err", err)
		return false, nil
	}
	defer clear(plain)
	return s.Store.ResealSecret(ctx, row, s.seal(plain, row.Environment, row.Name, row.Version))
}

// targetKind is what audit entries of this package are about.
const targetKind = "secret"

// subject is a secret in events and audit entries. Neither part has a slash.
func subject(environment, name string) string { return environment + "/" + name }

// place is what a value is sealed for: a value that is moved to another row, or left
// behind by a newer version, does not open.
func place(environment, name string, version int64) string {
	return "kvm/" + environment + "/" + name + "/" + strconv.FormatInt(version, 10)
}

func (s *Service) seal(plain []byte, environment, name string, version int64) Value {
	return Value{Sealed: s.Ring.Seal(plain, place(environment, name, version)), KeyID: s.Ring.ID()}
}

// open returns the value of a row. Its error says nothing of it.
func open(ring *seal.Keyring, row Row) ([]byte, error) {
	plain, _, err := ring.Open(row.Sealed, place(row.Environment, row.Name, row.Version))
	if err != nil {
		return nil, fmt.Errorf("opening the secret %s: %w", subject(row.Environment, row.Name), err)
	}
	return plain, nil
}

func checkNames(environment, name string) error {
	if !kvmname.IsEnvironment(environment) {
		return errEnvironment()
	}
	if !kvmname.IsName(name) {
		return problem.ErrInvalid.WithField("name", "must have from 1 to %d bytes: %s", kvmname.MaxName, kvmname.Rule)
	}
	return nil
}

func errEnvironment() error {
	return problem.ErrInvalid.WithField("environment", "must have from 1 to %d bytes: %s", kvmname.MaxEnvironment, kvmname.Rule)
}
