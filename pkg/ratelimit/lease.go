package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// Store keeps counters that replicas share. Its clock is the one that counts.
type Store interface {
	// Reserve takes up to want units of key, and none when there are fewer than
	// least, in one atomic step; see [Limit.Reserve].
	Reserve(ctx context.Context, key string, l Limit, least, want int64) (Grant, error)
}

// LeasedOptions are what a [Leased] is made of. All fields are required.
type LeasedOptions struct {
	Name     string // of the limit: begins every key
	Limit    Limit
	Store    Store
	Subjects int              // that are remembered
	Timeout  time.Duration    // of a call of the store
	Replicas func() int       // that live now, this one included
	Failed   func(err error)  // told when the store does not answer
	Now      func() time.Time // of this replica; only spans count
}

// Leased keeps a limit that replicas share. It takes units from the store in
// blocks and gives them out one by one, so that most decisions touch no network.
// Blocks grow with demand and shrink to single units near the limit: what replicas
// give out together exceeds the limit in a window by at most what they hold when
// it begins, one block each. While the store does not answer, each replica keeps
// its share of the limit on its own. It is safe for concurrent use.
type Leased struct {
	LeasedOptions
	most   int
	seed   maphash.Seed
	shards [shards]leases

	mu     sync.Mutex
	alone  *Limiter  // with this replica's share; made when it is needed
	among  int       // replicas that alone is for
	broken time.Time // the store is not asked before
}

type leases struct {
	mu    sync.Mutex
	known map[uint64]*lease
}

// lease is what a replica holds for a subject.
type lease struct {
	mu      sync.Mutex
	units   int64     // not given out yet
	block   int64     // size of the last
	taken   time.Time // when it was
	ends    time.Time // what is left is forgotten: its window is over
	last    Decision  // of the store
	refused time.Time // the store has nothing for least before
	least   int64
}

// pause is how long a store that has failed is left alone.
const pause = time.Second

// Shares of a quota that bound a block. Four replicas that each hold the largest
// are a tenth over the limit.
const (
	largestShare = 40 // 1/40 of the quota
	restShare    = 4  // and 1/4 of this replica's share of what is left
)

// NewLeased makes a limiter over a store.
func NewLeased(o LeasedOptions) (*Leased, error) {
	if err := o.Limit.Validate(); err != nil {
		return nil, err
	}
	if o.Subjects < shards {
		return nil, fmt.Errorf("ratelimit: room for %d subjects is not enough, at least %d", o.Subjects, shards)
	}
	l := &Leased{LeasedOptions: o, most: (o.Subjects + shards - 1) / shards, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].known = map[uint64]*lease{}
	}
	return l, nil
}

// Take takes cost units of the subject. alone says that the store did not answer,
// and the decision is this replica's by its share of the limit.
func (l *Leased) Take(ctx context.Context, subject string, cost int64) (d Decision, alone bool) {
	e := l.lease(subject)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := l.Now()
	switch {
	case e.units >= cost && now.Before(e.ends):
		e.units -= cost
		return e.decision(now), false
	case now.Before(e.refused) && cost >= e.least:
		d := e.last
		d.Allowed, d.Remaining = false, min(d.Remaining, cost-1)
		d.RetryAfter = e.refused.Sub(now)
		d.ResetAfter = max(0, e.last.ResetAfter-now.Sub(e.taken))
		return d, false
	}
	if !now.Before(e.ends) {
		e.units = 0
	}
	g, err := l.reserve(ctx, subject, cost-e.units, l.want(e, now, cost))
	if err != nil {
		return l.takeAlone(subject, cost, now), true
	}
	return e.settle(g, cost, now, l.Limit.Window), false
}

// settle books what the store has granted, and gives cost of it out.
func (e *lease) settle(g Grant, cost int64, now time.Time, window time.Duration) Decision {
	e.last, e.taken = g.Decision, now
	if g.Units == 0 {
		e.block, e.least = 1, cost
		e.refused = now.Add(g.Decision.RetryAfter)
		d := g.Decision
		d.Allowed = false
		return d
	}
	e.units += g.Units - cost
	e.block, e.ends, e.refused = g.Units, now.Add(window), time.Time{}
	return e.decision(now)
}

// decision is what is known after units were given out.
func (e *lease) decision(now time.Time) Decision {
	d := e.last
	d.Allowed, d.RetryAfter = true, 0
	d.Remaining += e.units
	d.ResetAfter = max(0, d.ResetAfter-now.Sub(e.taken))
	return d
}

// want is the size of the next block: twice the last one when that was used up
// soon, half of it when not, and never so much that others starve.
func (l *Leased) want(e *lease, now time.Time, cost int64) int64 {
	block := e.block / 2
	if e.taken.IsZero() {
		block = 1
	} else if now.Sub(e.taken) < l.Limit.Window/20 {
		block = e.block * 2
	}
	if !e.taken.IsZero() {
		block = min(block, e.last.Remaining/(restShare*int64(max(1, l.Replicas()))))
	}
	return max(cost, min(block, l.Limit.Quota/largestShare))
}

// reserve asks the store, unless it has failed just now.
func (l *Leased) reserve(ctx context.Context, subject string, least, want int64) (Grant, error) {
	l.mu.Lock()
	broken := l.Now().Before(l.broken)
	l.mu.Unlock()
	if broken {
		return Grant{}, errBroken
	}
	// The answer counts even when the caller has gone: units may be taken.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.Timeout)
	defer cancel()
	g, err := l.Store.Reserve(ctx, l.Name+":"+subject, l.Limit, least, want)
	if err != nil {
		l.mu.Lock()
		l.broken = l.Now().Add(pause)
		l.mu.Unlock()
		l.Failed(err)
	}
	return g, err
}

// errBroken stands for the failure of a moment ago.
var errBroken = fmt.Errorf("ratelimit: the store failed less than %s ago", pause)

// takeAlone decides by this replica's share of the limit.
func (l *Leased) takeAlone(subject string, cost int64, now time.Time) Decision {
	replicas := max(1, l.Replicas())
	l.mu.Lock()
	if l.alone == nil || l.among != replicas {
		share := l.Limit
		share.Quota = max(1, share.Quota/int64(replicas))
		share.Burst = min(share.Quota, max(1, share.Burst/int64(replicas)))
		l.alone, _ = NewLimiter(share, l.Subjects) // valid: it is smaller than one that is
		l.among = replicas
	}
	alone := l.alone
	l.mu.Unlock()
	return alone.Take(subject, now, cost)
}

// lease finds or makes that of a subject.
func (l *Leased) lease(subject string) *lease {
	hash := maphash.String(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[hash]
	if e == nil {
		if len(s.known) >= l.most {
			s.forget()
		}
		e = &lease{}
		s.known[hash] = e
	}
	return e
}

// forget makes room: of a few leases, the one that was taken first. What it holds
// is lost to its subject until the window is over.
func (s *leases) forget() {
	var victim uint64
	var oldest time.Time
	seen := 0
	for hash, e := range s.known {
		if !e.mu.TryLock() {
			continue // in use
		}
		taken := e.taken
		e.mu.Unlock()
		if seen == 0 || taken.Before(oldest) {
			victim, oldest = hash, taken
		}
		if seen++; seen == sample {
			break
		}
	}
	if seen > 0 {
		delete(s.known, victim)
	}
}
