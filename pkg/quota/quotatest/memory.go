// Package quotatest has a quota ledger in memory, and holds every ledger to the same
// promises. Only tests import it.
package quotatest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/quota"
)

// ErrDown is what a ledger that is down answers.
var ErrDown = errors.New("the ledger is down")

// Memory is a ledger in memory. Its fields may be changed while nobody uses it.
type Memory struct {
	Now  func() time.Time
	Down bool

	// Mute books what is asked and then loses the answer.
	Mute bool

	mu       sync.Mutex
	accounts map[string]*account
	events   []quota.Event
	asked    int
}

type account struct {
	quota.Account
	warned map[int]bool
}

var (
	_ quota.Ledger = (*Memory)(nil)
	_ quota.Store  = (*Memory)(nil)
)

// NewMemory makes a ledger.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{Now: now, accounts: map[string]*account{}}
}

// Asked is how often the ledger was asked to reserve.
func (m *Memory) Asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// Reserve implements quota.Ledger.
func (m *Memory) Reserve(_ context.Context, ask quota.Ask) (quota.Grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if m.Down {
		return quota.Grant{}, ErrDown
	}
	now := m.Now()
	span := ask.Period.At(now)
	a := m.accounts[ask.ID]
	if a == nil {
		a = &account{Account: quota.Account{ID: ask.ID, Identity: ask.Identity}}
		m.accounts[ask.ID] = a
	}
	if !now.Before(a.Ends) {
		a.Span, a.Used, a.TopUp, a.Epoch, a.warned = span, 0, 0, quota.Epoch(a.Epoch, now), map[int]bool{}
	}
	a.Limit = ask.Limit
	g := quota.Grant{Epoch: a.Epoch, Ends: a.Ends, Now: now}
	if left := a.Limit + a.TopUp - a.Used; left >= ask.Least {
		g.Units = min(ask.Want, left)
		a.Used += g.Units
	}
	a.Capacity = max(a.Used, a.Limit+a.TopUp)
	g.Used, g.Capacity = a.Used, a.Limit+a.TopUp
	for _, level := range quota.Levels() {
		if g.Units > 0 && !a.warned[level] && a.Used*100 >= int64(level)*g.Capacity {
			a.warned[level] = true
			e := quota.Event{
				Number: int64(len(m.events) + 1), At: now, ID: a.ID, Identity: a.Identity, Level: level, Used: a.Used,
				Capacity: g.Capacity, Span: a.Span,
			}
			m.events, g.Crossed = append(m.events, e), append(g.Crossed, e)
		}
	}
	if m.Mute {
		return quota.Grant{}, ErrDown
	}
	return g, nil
}

// Return implements quota.Ledger.
func (m *Memory) Return(_ context.Context, unused []quota.Unused) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Down {
		return ErrDown
	}
	for _, u := range unused {
		if a := m.accounts[u.ID]; a != nil && a.Epoch == u.Epoch && a.Used >= u.Units {
			a.Used -= u.Units
		}
	}
	if m.Mute {
		return ErrDown
	}
	return nil
}

// ListQuotaAccounts implements quota.Store, without a filter and an order.
func (m *Memory) ListQuotaAccounts(_ context.Context, f quota.Filter) ([]quota.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []quota.Account
	for _, a := range m.accounts {
		if len(list) < f.Limit {
			list = append(list, a.Account)
		}
	}
	return list, nil
}

// QuotaAccount implements quota.Store.
func (m *Memory) QuotaAccount(_ context.Context, id string) (quota.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.accounts[id]; a != nil {
		return a.Account, nil
	}
	return quota.Account{}, quota.ErrNotFound
}

// ChangeQuotaAccount implements quota.Store.
func (m *Memory) ChangeQuotaAccount(_ context.Context, id string, change quota.Change) (quota.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.accounts[id]
	if a == nil {
		return quota.Account{}, quota.ErrNotFound
	}
	begins := a.Begins
	next, _, err := change(a.Account, m.Now())
	if err != nil {
		return quota.Account{}, err
	}
	if a.Account = next; !next.Begins.Equal(begins) {
		a.warned = map[int]bool{}
	}
	return next, nil
}

// ListQuotaEvents implements quota.Store, without pages.
func (m *Memory) ListQuotaEvents(context.Context, int64, int) ([]quota.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.events, nil
}
