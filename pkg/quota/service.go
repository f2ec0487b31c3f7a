package quota

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Account is what one subject has of one quota in a period.
type Account struct {
	ID string
	Identity
	Span
	Limit    int64 // of the quota, as it was when units were last granted
	TopUp    int64 // for this period
	Used     int64 // what replicas hold and have not given out is in it
	Capacity int64 // Limit and TopUp, or Used where the limit was lowered below it
	Epoch    int64
}

// Remaining is what is left.
func (a Account) Remaining() int64 { return max(0, a.Limit+a.TopUp-a.Used) }

// begin is the account in the period that holds now: as it is, or empty when its
// period is over.
func (a Account) begin(now time.Time) (Account, error) {
	if now.Before(a.Ends) {
		return a, nil
	}
	p, err := ParsePeriod(a.Period)
	if err != nil {
		return a, fmt.Errorf("the period of account %s: %w", a.ID, err)
	}
	a.Span = p.At(now.UTC())
	a.Used, a.TopUp, a.Capacity = 0, 0, a.Limit
	a.Epoch = Epoch(a.Epoch, now)
	return a, nil
}

// Epoch is the one that follows another, at a time of the ledger's clock. It is not
// a mere count, so that an account which was forgotten and is opened again does not
// take back units of its former life.
func Epoch(before int64, now time.Time) int64 { return max(before+1, now.UnixMicro()) }

// Filter selects accounts whose period has not ended; zero values select all.
type Filter struct {
	Quota   string
	Kind    string
	Subject string

	// Owner selects the accounts of a user, of the user's keys and of the subscriptions of
	// the user's apps; with OwnerKey, of the user and of that key.
	Owner    string
	OwnerKey string

	After string // only accounts with a greater id
	Limit int
}

// Change decides what becomes of an account at a time of the ledger's clock.
type Change func(a Account, now time.Time) (Account, changes.Change, error)

// Store keeps accounts. Implementations are safe for concurrent use.
type Store interface {
	// ListQuotaAccounts returns at most Limit accounts, by id.
	ListQuotaAccounts(ctx context.Context, f Filter) ([]Account, error)

	// QuotaAccount returns ErrNotFound for an account that does not exist.
	QuotaAccount(ctx context.Context, id string) (Account, error)

	// ChangeQuotaAccount calls change while nobody else can change the account, and
	// commits what it returns with its audit entry and event. change may be called
	// more than once.
	ChangeQuotaAccount(ctx context.Context, id string, change Change) (Account, error)

	// ListQuotaEvents returns at most limit events with a smaller number than before,
	// or the newest when before is 0, newest first.
	ListQuotaEvents(ctx context.Context, before int64, limit int) ([]Event, error)
}

// Service is what operators see of accounts and do to them. It is safe for
// concurrent use.
type Service struct {
	store  Store
	notify func(changes.Event)
}

// NewService makes a service. notify is told of a change after its commit.
func NewService(store Store, notify func(changes.Event)) *Service {
	return &Service{store: store, notify: notify}
}

// List returns accounts, by id.
func (s *Service) List(ctx context.Context, f Filter) ([]Account, error) {
	return s.store.ListQuotaAccounts(ctx, f)
}

// Get returns one account, or [ErrNotFound].
func (s *Service) Get(ctx context.Context, id string) (Account, error) {
	return s.store.QuotaAccount(ctx, id)
}

// Events returns at most limit events with a smaller number than before, or the
// newest when before is 0, newest first.
func (s *Service) Events(ctx context.Context, before int64, limit int) ([]Event, error) {
	return s.store.ListQuotaEvents(ctx, before, limit)
}

// TopUp adds units to an account for its current period.
func (s *Service) TopUp(ctx context.Context, id string, units int64) (Account, error) {
	if units < 1 || units > MaxLimit {
		return Account{}, problem.ErrInvalid.WithField("units", "must be from 1 to %d", int64(MaxLimit))
	}
	entry := audit.New(ctx, audit.QuotaToppedUp, targetKind, id).With("units", strconv.FormatInt(units, 10))
	return s.change(ctx, id, entry, func(a *Account, _ time.Time) error {
		if a.TopUp > MaxLimit-units {
			return problem.ErrInvalid.WithField("units", "must not make the top-up of the period more than %d", int64(MaxLimit))
		}
		a.TopUp += units
		return nil
	})
}

// Reset makes an account as if nothing had been used in the current period. Units
// that replicas hold become void: they are never given back to the account. A
// replica that has not heard of the reset yet, for about a second, can still give
// out those it holds; they were booked before the reset.
func (s *Service) Reset(ctx context.Context, id string) (Account, error) {
	entry := audit.New(ctx, audit.QuotaReset, targetKind, id)
	return s.change(ctx, id, entry, func(a *Account, now time.Time) error {
		a.Used = 0
		a.Epoch = Epoch(a.Epoch, now)
		return nil
	})
}

// targetKind is what audit entries of this package are about.
const targetKind = "quota"

func (s *Service) change(ctx context.Context, id string, entry audit.Entry, edit func(*Account, time.Time) error) (Account, error) {
	event := changes.Event{Kind: changes.QuotaChanged, Subject: id}
	changed, err := s.store.ChangeQuotaAccount(ctx, id, func(a Account, now time.Time) (Account, changes.Change, error) {
		used := a.Used
		a, err := a.begin(now)
		if err != nil {
			return a, changes.Change{}, err
		}
		if err := edit(&a, now); err != nil {
			return a, changes.Change{}, err
		}
		a.Capacity = max(a.Used, a.Limit+a.TopUp)
		about := entry.With("quota", a.Quota).With("route", a.Scope).With("by", a.Kind).With("used_before", strconv.FormatInt(used, 10))
		return a, changes.Change{Audit: about, Event: event}, nil
	})
	if err != nil {
		return Account{}, err
	}
	s.notify(event)
	return changed, nil
}

// Apply is told of changes by the follower; see [Meters.Changed].
func (ms *Meters) Apply(e changes.Event) {
	if e.Kind == changes.QuotaChanged {
		ms.Changed(e.Subject)
	}
}
