package ratelimit

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// Leased keeps a limit that replicas share. It takes units from the store in
// blocks and gives them out one by one, so that most decisions touch no network.
// Blocks grow with demand and shrink to single units near the limit: what replicas
// give out together exceeds the limit in a window by at most what they hold when
// it begins, one block each. While the store does not answer, each replica keeps
// its share of the limit on its own. It is safe for concurrent use.
type Leased struct {
	opts  SharedOptions
	alone *fallback
	began time.Time // spans are since then
	most  int       // subjects in a shard

	seed   maphash.Seed
	shards [shards]leases
}

type leases struct {
	mu sync.Mutex
	table[*lease]
	_ [24]byte // its own cache line
}

// lease is what a replica holds for a subject. Times are since the limiter began. What every
// request looks at comes first, to be in one line of the processor's cache.
type lease struct {
	mu    sync.Mutex
	units int64         // not given out yet
	taken time.Duration // when the last block was
	ends  time.Duration // what is left then is forgotten: its window is over

	// What the store has said last.
	remaining int64
	reset     time.Duration

	refused time.Duration // the store has nothing for least before
	least   int64
	block   int64 // size of the last; 0 before the first

	asking  chan struct{} // closed when the request that asks the store has its answer; nil when none does
	waiting int64         // units that others wait for meanwhile
}

// Shares of a quota that bound a block. Four replicas that each hold the largest
// are a tenth over the limit.
const (
	largestShare = 40 // 1/40 of the quota
	restShare    = 4  // and 1/4 of this replica's share of what is left
)

// NewLeased makes a limiter over a store.
func NewLeased(o SharedOptions) (*Leased, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	alone, err := newFallback(&o)
	if err != nil {
		return nil, err
	}
	return &Leased{
		opts: o, alone: alone, began: o.Now(), most: (o.Subjects + shards - 1) / shards, seed: maphash.MakeSeed(),
	}, nil
}

// Limit is the limit that replicas keep together.
func (l *Leased) Limit() Limit { return l.opts.Limit }

// Take is TakeAt now.
func (l *Leased) Take(ctx context.Context, subject string, cost int64) (d Decision, alone bool) {
	return l.TakeAt(ctx, subject, cost, l.opts.Now())
}

// TakeAt takes cost units of the subject at a time that was now a moment ago. alone says
// that the store did not answer, and the decision is this replica's by its share of the
// limit. It takes no longer than two of the guard's time-outs, and than one while the store
// does not answer.
func (l *Leased) TakeAt(ctx context.Context, subject string, cost int64, at time.Time) (d Decision, alone bool) {
	e := l.lease(hashOf(l.seed, subject))
	e.mu.Lock()
	now := at.Sub(l.began)
	if now < e.taken {
		now = l.now() // the store was asked meanwhile; the clock tells whether it was set back
	}
	d, known := l.give(e, cost, now)
	if known {
		e.mu.Unlock()
		return d, false
	}
	return l.ask(ctx, e, subject, cost)
}

// Refund gives units back that were taken for nothing, to this replica's next
// requests of the subject.
func (l *Leased) Refund(subject string, cost int64) {
	if l.opts.Guard.Broken() {
		l.alone.refund(subject, cost)
		return
	}
	e := l.lease(hashOf(l.seed, subject))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lasts(l.now()) {
		e.units = min(e.units+cost, max(cost, l.largest()))
	}
}

func (l *Leased) now() time.Duration { return l.opts.Now().Sub(l.began) }

// largest is the size of the largest block.
func (l *Leased) largest() int64 { return max(1, l.opts.Limit.Quota/largestShare) }

// give decides by what the replica holds and knows, if that is enough.
func (l *Leased) give(e *lease, cost int64, now time.Duration) (d Decision, known bool) {
	switch {
	case e.units >= cost && e.lasts(now):
		e.units -= cost
		return l.decision(e, now), true
	case cost > l.opts.Limit.Largest():
		return l.opts.never(), true
	case e.refused > now && e.taken <= now && cost >= e.least:
		d := l.decision(e, now)
		d.Allowed, d.Remaining, d.RetryAfter = false, min(d.Remaining, cost-1), e.refused-now
		return d, true
	}
	return Decision{}, false
}

// lasts tells whether what is held may be given out. A clock that was set back
// ends the lease.
func (e *lease) lasts(now time.Duration) bool { return e.taken <= now && now < e.ends }

// decision is what is known after units were given out.
func (l *Leased) decision(e *lease, now time.Duration) Decision {
	return Decision{
		Allowed: true, Limit: l.opts.Limit.Most(), Remaining: e.remaining + e.units,
		ResetAfter: max(0, e.reset-(now-e.taken)),
	}
}

// ask gets units from the store, or waits for a request that does so already. The
// lease is locked; it is not any more in the end.
func (l *Leased) ask(ctx context.Context, e *lease, subject string, cost int64) (d Decision, alone bool) {
	if e.asking != nil {
		d, decided, alone := l.wait(ctx, e, subject, cost)
		if decided {
			return d, alone
		}
	}
	defer e.mu.Unlock()
	now, asking, held := l.now(), make(chan struct{}), int64(0)
	if e.lasts(now) {
		held = e.units
	}
	want := l.want(e, now, cost) - held
	e.asking, e.units = asking, 0
	e.mu.Unlock()
	g, err := l.opts.Guard.Reserve(ctx, l.opts.key(subject), l.opts.Limit, cost-held, want)
	e.mu.Lock()
	close(asking)
	e.asking = nil
	if err != nil {
		e.units += held
		return l.alone.take(subject, cost, l.opts.Now()), true
	}
	return l.settle(e, g, held, cost), false
}

// wait waits until nobody asks the store for the subject. decided is false when
// that was not for this request, which then has to ask; the lease is locked only
// then.
func (l *Leased) wait(ctx context.Context, e *lease, subject string, cost int64) (d Decision, decided, alone bool) {
	patience := time.NewTimer(l.opts.Guard.Timeout)
	defer patience.Stop()
	for e.asking != nil {
		answered := e.asking
		e.waiting += cost
		e.mu.Unlock()
		inTime := true
		select {
		case <-answered:
		case <-patience.C:
			inTime = false
		case <-ctx.Done():
			inTime = false
		}
		e.mu.Lock()
		e.waiting -= cost
		if !inTime {
			e.mu.Unlock()
			return l.alone.take(subject, cost, l.opts.Now()), true, true
		}
		if d, known := l.give(e, cost, l.now()); known {
			e.mu.Unlock()
			return d, true, false
		}
	}
	return Decision{}, false, false
}

// settle books what the store has granted to what was held, and gives cost of it
// out.
func (l *Leased) settle(e *lease, g Grant, held, cost int64) Decision {
	now := l.now()
	e.taken, e.remaining, e.reset = now, g.Decision.Remaining, g.Decision.ResetAfter
	if !g.Decision.Allowed {
		e.units += held
		e.block, e.least, e.refused = 1, cost, now+g.Decision.RetryAfter
		d := l.decision(e, now)
		d.Allowed, d.Remaining, d.RetryAfter = false, min(d.Remaining, cost-1), g.Decision.RetryAfter
		return d
	}
	e.units += held + g.Units - cost
	e.block, e.ends, e.refused = g.Units, now+l.opts.Limit.Window, now
	return l.decision(e, now)
}

// want is the size of the next block: twice the last one when that was used up
// soon, half of it when not, never so much that others starve, and always what
// requests wait for, as far as a block goes.
func (l *Leased) want(e *lease, now time.Duration, cost int64) int64 {
	block := e.block / 2
	switch {
	case e.block == 0:
		block = 1
	case now-e.taken < l.opts.Limit.Window/20:
		block = e.block * 2
	}
	if e.block > 0 {
		block = min(block, e.remaining/(restShare*int64(max(1, l.opts.Replicas()))))
	}
	return max(cost, min(max(block, cost+e.waiting), l.largest()))
}

// lease finds or makes that of a subject.
func (l *Leased) lease(hash uint64) *lease {
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, known := s.find(hash); known {
		return s.slots[at].kept
	}
	if s.used >= l.most {
		s.forget(hash)
	}
	e := &lease{}
	s.put(hash, e)
	return e
}

// forget makes room near a newcomer: of a few leases that nobody uses just now,
// the one that was taken first. What it holds is lost to its subject until the
// window is over.
func (s *leases) forget(newcomer uint64) {
	victim, oldest, seen := -1, time.Duration(0), 0
	for at := s.home(newcomer); seen < min(sample, s.used); at = s.after(at) {
		e := s.slots[at].kept
		if e == nil {
			continue
		}
		seen++
		if !e.mu.TryLock() {
			continue
		}
		if e.asking == nil && (victim < 0 || e.taken < oldest) {
			victim, oldest = at, e.taken
		}
		e.mu.Unlock()
	}
	if victim >= 0 {
		s.remove(victim)
	}
}
