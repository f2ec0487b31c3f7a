package quota

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/keywarden/keywarden/pkg/problem"
)

// Errors of this package. What a caller may see of a refusal, the policy says.
var (
	ErrNotFound = problem.Define(problem.NotFound, "quota.not_found",
		"No quota account has this id; one that has ended is forgotten after a while.")

	// ErrUnavailable says that the ledger does not answer and no leased units are left.
	ErrUnavailable = problem.Define(problem.Unavailable, "quota.unavailable",
		"It cannot be looked up right now how much of the quota is left. Try again shortly.").WithRetryAfter(pause)
)

// Options are what [Meters] are made of. All fields but Crossed are required.
type Options struct {
	Ledger   Ledger
	Subjects int           // that are remembered, of all quotas together
	Timeout  time.Duration // of a call of the ledger
	Replicas func() int    // that live now, this one included
	Logger   *slog.Logger
	Now      func() time.Time // only spans count, but for the first guess at the ledger's time

	// Crossed is told of the events that this replica has caused, which the ledger
	// keeps as well; nil is fine. It must not block.
	Crossed func(ctx context.Context, e Event)
}

// Meters hold what a replica has leased of all its quotas. They are safe for
// concurrent use.
//
// A replica that is killed loses what it holds to the period: for each subject at
// most one block, which is a fortieth of the limit, and less near the limit.
type Meters struct {
	Options
	most   int // subjects in a shard
	seed   maphash.Seed
	shards [shards]shard
	unused chan Unused // to be returned by Run
	closed atomic.Bool

	started time.Time
	broken  atomic.Int64 // nanoseconds since started, before which the ledger is not asked
	lost    atomic.Int64
	passed  atomic.Int64
	told    atomic.Int64
	failed  atomic.Int64
}

// shards spread the subjects over locks.
const shards = 64

type shard struct {
	mu     sync.Mutex
	leases map[uint64]*lease // by a hash of the key, or the next free number

	granted, refused, unknown atomic.Int64 // requests

	_ [24]byte // its own cache line
}

// series is what the accounts of a meter have in common.
type series struct{ quota, scope, period, kind string }

type leaseKey struct {
	series  unique.Handle[series]
	subject string
}

func (k leaseKey) identity() Identity {
	s := k.series.Value()
	return Identity{Quota: s.quota, Scope: s.scope, Period: s.period, Kind: s.kind, Subject: k.subject}
}

// Bounds of blocks and of patience.
const (
	largestShare = 40 // a block is at most 1/40 of the limit
	restShare    = 4  // and 1/4 of this replica's share of what is left

	soon = 5 * time.Second  // a block that is used up within it is followed by one twice as large
	late = time.Minute      // and one that lasts for longer, by one half as large
	idle = 10 * time.Second // a subject that is not heard of for so long needs no units

	pause    = time.Second // for which a ledger that has failed is left alone
	waiting  = 4096        // units to be returned, in entries
	batch    = 500         // entries that are returned at a time
	atATime  = 100         // debts that are paid at a time
	interval = 5 * time.Second
)

// NewMeters makes Meters. The caller runs and closes them.
func NewMeters(o Options) (*Meters, error) {
	switch {
	case o.Ledger == nil || o.Replicas == nil || o.Logger == nil || o.Now == nil:
		return nil, errors.New("quota: the ledger, the number of replicas, the logger and the clock are required")
	case o.Subjects < shards:
		return nil, fmt.Errorf("quota: room for %d subjects is not enough, at least %d", o.Subjects, shards)
	case o.Timeout <= 0:
		return nil, errors.New("quota: the time-out must be above 0")
	}
	if o.Crossed == nil {
		o.Crossed = func(context.Context, Event) {}
	}
	ms := &Meters{
		Options: o, most: (o.Subjects + shards - 1) / shards, seed: maphash.MakeSeed(), unused: make(chan Unused, waiting), started: o.Now(),
	}
	for i := range ms.shards {
		ms.shards[i].leases = map[uint64]*lease{}
	}
	return ms, nil
}

// Meter keeps one quota. Meters of the same name, scope, period and kind of subject
// share their accounts and their leases, and so does one that is made anew for the
// next gateway document.
type Meter struct {
	*Meters
	quota  Quota
	series unique.Handle[series]
	hash   uint64 // of the series
}

// Meter makes the meter of a quota. scope is the name of the route, empty for
// accounts that routes share; kind is that of the subjects.
func (ms *Meters) Meter(q Quota, scope, kind string) (*Meter, error) {
	if err := q.Validate(); err != nil {
		return nil, fmt.Errorf("quota %q: %w", q.Name, err)
	}
	if len(scope) > maxText || len(kind) > maxText {
		return nil, fmt.Errorf("quota %q: the names of the route and of the kind of subject must have at most %d bytes", q.Name, maxText)
	}
	of := unique.Make(series{q.Name, scope, q.Period.String(), kind})
	return &Meter{Meters: ms, quota: q, series: of, hash: maphash.Comparable(ms.seed, of)}, nil
}

// Quota is what the meter keeps.
func (m *Meter) Quota() Quota { return m.quota }

// Decision is the answer to a subject.
type Decision struct {
	Allowed   bool
	Limit     int64         // units of the whole period, with what was topped up
	Remaining int64         // as far as this replica knows: others may have taken units since
	Reset     time.Duration // until the period ends
	TooCostly bool          // the cost is more than the limit: waiting does not help
	Unmetered bool          // the ledger did not answer, and the quota is open
}

// lease is what a replica holds for a subject. Times are those of [Meters.at], and 0 before
// the first. What every request looks at comes first, to be in few lines of the processor's
// cache.
type lease struct {
	mu sync.Mutex

	// stale says that something was done to the account: the ledger is to be asked. It
	// is set without the lock, for which one would have to wait while the ledger is asked.
	stale atomic.Bool

	gone  bool          // it is in no map any more, or soon will not be
	meter *Meter        // that has used it last
	units int64         // not given out yet
	epoch int64         // in which they were granted; 0 before the first grant
	ends  time.Duration // of the period, on this replica's clock
	seen  time.Duration // when the subject was last heard of

	used, capacity int64 // as the ledger last said

	key     leaseKey
	index   uint64        // in the map of its shard
	id      string        // of the account
	owed    int64         // given out and not booked
	block   int64         // size of the last
	granted time.Duration // when it was
	refused time.Duration // the ledger is not asked for least units before
	least   int64
}

// at is a time as one since the meters were made, from 1 on.
func (ms *Meters) at(t time.Time) time.Duration { return t.Sub(ms.started) + 1 }

func (ms *Meters) now() time.Duration { return ms.at(ms.Now()) }

// Reserve is ReserveAt now.
func (m *Meter) Reserve(ctx context.Context, subject string, cost int64) (Reservation, Decision, error) {
	return m.ReserveAt(ctx, subject, cost, m.Now())
}

// ReserveAt takes cost units of the subject, at least 1, at a time that was now a moment
// ago. The reservation of a request that was allowed is to be settled or cancelled. The
// error is [ErrUnavailable].
func (m *Meter) ReserveAt(ctx context.Context, subject string, cost int64, at time.Time) (Reservation, Decision, error) {
	now := m.at(at)
	s, e := m.find(subject)
	if e.units >= cost && now < e.ends && !e.stale.Load() {
		r, d := e.give(m, now, cost)
		e.mu.Unlock()
		s.granted.Add(1)
		return r, d, nil
	}
	r, d, err := m.reserve(ctx, e, cost, now)
	switch {
	case err != nil:
		s.unknown.Add(1)
	case d.Allowed:
		s.granted.Add(1)
	default:
		s.refused.Add(1)
	}
	return r, d, err
}

// reserve takes units of a lease, which is locked; it is not any more in the end.
func (m *Meter) reserve(ctx context.Context, e *lease, cost int64, now time.Duration) (Reservation, Decision, error) {
	defer e.mu.Unlock()
	e.seen, e.meter = now, m
	e.end(now)
	if cost > 2*MaxLimit {
		return Reservation{}, Decision{Limit: max(m.quota.Limit, e.capacity), TooCostly: true}, nil
	}
	for {
		switch {
		case e.units >= cost && !e.stale.Load():
			r, d := e.give(m, now, cost)
			return r, d, nil
		case now < e.refused && cost-e.units >= e.least && !e.stale.Load():
			return Reservation{}, e.refusal(now, cost), nil
		}
		now = m.now() // the ledger is asked, and how long that takes is no moment
		if err := m.pay(ctx, e, now); err != nil {
			return m.without(e, now, cost)
		}
		refused, err := m.refill(ctx, e, now, cost)
		if err != nil {
			return m.without(e, now, cost)
		}
		if refused {
			return Reservation{}, e.refusal(now, cost), nil
		}
	}
}

// give gives out units that are held.
func (e *lease) give(m *Meter, now time.Duration, cost int64) (Reservation, Decision) {
	e.seen, e.meter = now, m
	e.units -= cost
	return Reservation{meter: m, lease: e, cost: cost, epoch: e.epoch}, e.decision(now)
}

// refill asks the ledger for the next block. It reports that there is not enough
// for the cost.
func (m *Meter) refill(ctx context.Context, e *lease, now time.Duration, cost int64) (refused bool, err error) {
	least := max(1, cost-e.units)
	g, err := m.ask(ctx, e, now, least, m.want(e, now, least))
	if err != nil {
		return false, err
	}
	e.book(g, now)
	if g.Units > 0 {
		e.block, e.refused = g.Units, 0
		return false, nil
	}
	e.block = 1
	if e.units >= cost {
		return false, nil // the account has changed, and what is held of it stands
	}
	e.least, e.refused = least, now+pause
	return true, nil
}

// without decides while the ledger does not answer.
func (m *Meter) without(e *lease, now time.Duration, cost int64) (Reservation, Decision, error) {
	if e.units >= cost {
		r, d := e.give(m, now, cost)
		return r, d, nil
	}
	if !m.quota.Open {
		return Reservation{}, Decision{}, ErrUnavailable
	}
	m.passed.Add(cost)
	e.owed = min(MaxLimit, e.owed+cost)
	return Reservation{meter: m, lease: e, cost: cost, epoch: e.epoch, owed: true}, Decision{Allowed: true, Limit: m.quota.Limit, Unmetered: true}, nil
}

// want is the size of the next block: what is needed, and more as long as units go
// fast and are not scarce.
func (m *Meter) want(e *lease, now time.Duration, least int64) int64 {
	if m.closed.Load() {
		return least
	}
	block := e.block
	switch held := now - e.granted; {
	case e.granted == 0:
		block = 1
	case held < soon:
		block *= 2
	case held > late:
		block /= 2
	}
	if e.epoch != 0 {
		left := max(0, e.capacity-e.used)
		block = min(block, left/(restShare*int64(max(1, m.Replicas()))))
	}
	return max(least, min(block, m.largest()))
}

// largest is the size that no block exceeds, but for a single request of that cost.
func (m *Meter) largest() int64 { return max(1, m.quota.Limit/largestShare) }

// ask asks the ledger, unless it has failed just now.
func (m *Meter) ask(ctx context.Context, e *lease, now time.Duration, least, want int64) (Grant, error) {
	if int64(now) < m.broken.Load() {
		return Grant{}, errBroken
	}
	stale := e.stale.Swap(false) // before the question: what happens meanwhile is for the next one
	// The answer counts even when the caller has gone: units may be booked.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.Timeout)
	defer cancel()
	g, err := m.Ledger.Reserve(bounded, Ask{
		ID: e.id, Identity: e.key.identity(), Limit: m.quota.Limit, Period: m.quota.Period, Least: least, Want: want,
	})
	if err != nil {
		if stale {
			e.stale.Store(true)
		}
		m.broken.Store(int64(now + pause))
		m.failed.Add(1)
		m.Logger.WarnContext(ctx, "the quota ledger does not answer", "quota", m.quota.Name, "error", err)
		return Grant{}, err
	}
	for _, event := range g.Crossed {
		m.Logger.WarnContext(ctx, "a quota is nearly or wholly used", "quota", event.Quota, "route", event.Scope,
			"by", event.Kind, "account", event.ID, "percent", event.Level, "capacity", event.Capacity, "ends", event.Ends)
		m.told.Add(1)
		m.Crossed(ctx, event)
	}
	return g, nil
}

// errBroken stands for the failure of a moment ago.
var errBroken = fmt.Errorf("quota: the ledger failed less than %s ago", pause)

// pay books what is owed, as far as there are units.
func (m *Meter) pay(ctx context.Context, e *lease, now time.Duration) error {
	own := min(e.owed, e.units)
	e.owed, e.units = e.owed-own, e.units-own
	if e.owed == 0 {
		return nil
	}
	g, err := m.ask(ctx, e, now, 1, e.owed)
	if err != nil {
		return err
	}
	asked := e.owed
	e.book(g, now)
	paid := min(e.owed, e.units)
	e.owed, e.units = e.owed-paid, e.units-paid
	if g.Units < asked {
		e.owed = 0 // the account is booked to its limit, and never beyond
	}
	return nil
}

// book takes note of what the ledger has said. Units of another epoch are void.
func (e *lease) book(g Grant, now time.Duration) {
	if g.Epoch != e.epoch {
		e.units = 0
	}
	e.units += g.Units
	e.epoch, e.used, e.capacity = g.Epoch, g.Used, g.Capacity
	e.ends = now + g.Ends.Sub(g.Now)
	e.granted = now
}

// end forgets what was held when its period is over.
func (e *lease) end(now time.Duration) {
	if e.ends == 0 || now < e.ends {
		return
	}
	e.units, e.owed, e.used, e.capacity, e.ends = 0, 0, 0, 0, 0
	e.epoch, e.block, e.refused = 0, 0, 0
}

// decision is what is known after units were given out.
func (e *lease) decision(now time.Duration) Decision {
	return Decision{
		Allowed: true, Limit: e.capacity, Remaining: max(0, e.capacity-e.used) + e.units, Reset: max(0, e.ends-now),
	}
}

func (e *lease) refusal(now time.Duration, cost int64) Decision {
	d := e.decision(now)
	d.Allowed, d.TooCostly = false, cost > e.capacity
	d.Remaining = min(d.Remaining, cost-1)
	return d
}

// find finds or makes the lease of a subject, locked, and its shard. Only what is no
// lease's is looked at whether it can be stored.
func (m *Meter) find(subject string) (*shard, *lease) {
	for {
		hash := maphash.String(m.seed, subject) ^ m.hash
		s := &m.shards[hash%shards]
		s.mu.Lock()
		at, e := s.at(hash, m.series, subject)
		if e == nil {
			if stored := subjectOf(subject); stored != subject {
				s.mu.Unlock()
				subject = stored
				continue
			}
			e = m.newLease(s, at, subject)
		}
		s.mu.Unlock()
		e.mu.Lock()
		if !e.gone {
			return s, e
		}
		e.mu.Unlock()
		s.remove(e)
	}
}

// at is the lease that has the hash, or where it belongs. Two of one hash are kept under
// the next number; when the first one goes, the other is made once more, and what it held
// comes back to the ledger when nobody has used it for a while.
func (s *shard) at(hash uint64, of unique.Handle[series], subject string) (at uint64, e *lease) {
	for at = hash; ; at++ {
		if e = s.leases[at]; e == nil || e.key.subject == subject && e.key.series == of {
			return at, e
		}
	}
}

// newLease makes a lease in a shard, whose lock is held.
func (m *Meter) newLease(s *shard, at uint64, subject string) *lease {
	if len(s.leases) >= m.most {
		m.forget(s)
	}
	key := leaseKey{m.series, strings.Clone(subject)} // it may be a part of a whole request
	e := &lease{key: key, index: at, id: key.identity().ID()}
	s.leases[at] = e
	return e
}
