package ratelimit

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// Strict keeps a limit that replicas share by asking the store for each decision,
// one round trip: what they give out together is exact. While the store does not
// answer, each replica keeps its share of the limit on its own. It is safe for
// concurrent use.
type Strict struct {
	opts  SharedOptions
	alone *fallback
	began time.Time // spans are since then
	seed  maphash.Seed

	mu   sync.Mutex
	back table[refunded]
}

// refunded are units that were given back. They are of the store, and this replica
// spends them before it takes others.
type refunded struct {
	units int64
	ends  time.Duration // their window is over
}

// NewStrict makes a limiter over a store.
func NewStrict(o SharedOptions) (*Strict, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	alone, err := newFallback(&o)
	if err != nil {
		return nil, err
	}
	return &Strict{opts: o, alone: alone, began: o.Now(), seed: maphash.MakeSeed()}, nil
}

// Limit is the limit that replicas keep together.
func (s *Strict) Limit() Limit { return s.opts.Limit }

// Take takes cost units of the subject; see [Leased.Take].
func (s *Strict) Take(ctx context.Context, subject string, cost int64) (d Decision, alone bool) {
	if cost > s.opts.Limit.Largest() {
		return s.opts.never(), false
	}
	// Who has all it needs still looks at what there is, for the answer.
	held := s.spend(subject, cost)
	lacks := cost - held.units
	g, err := s.opts.Guard.Reserve(ctx, s.opts.key(subject), s.opts.Limit, lacks, lacks)
	if err == nil && g.Decision.Allowed {
		return g.Decision, false
	}
	s.giveBack(subject, held)
	if err != nil {
		return s.alone.take(subject, cost, s.opts.Now()), true
	}
	g.Decision.Remaining = min(g.Decision.Remaining+held.units, cost-1)
	return g.Decision, false
}

// TakeAt is Take: the clock of the store is the one that counts.
func (s *Strict) TakeAt(ctx context.Context, subject string, cost int64, _ time.Time) (d Decision, alone bool) {
	return s.Take(ctx, subject, cost)
}

// Refund gives units back that were taken for nothing, to this replica's next
// requests of the subject. It asks nobody. Units for which none comes within the
// window are lost to the subject until then, and so are those of more subjects than
// are remembered.
func (s *Strict) Refund(subject string, cost int64) {
	if s.opts.Guard.Broken() {
		s.alone.refund(subject, cost)
		return
	}
	s.giveBack(subject, refunded{cost, s.now() + s.opts.Limit.Window})
}

func (s *Strict) now() time.Duration { return s.opts.Now().Sub(s.began) }

// spend takes up to cost of the units that were given back.
func (s *Strict) spend(subject string, cost int64) refunded {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back.used == 0 {
		return refunded{}
	}
	at, known := s.back.find(hashOf(s.seed, subject))
	if !known {
		return refunded{}
	}
	kept := &s.back.slots[at].kept
	spent := refunded{min(cost, kept.units), kept.ends}
	kept.units -= spent.units
	over := s.now() >= kept.ends
	if over || kept.units == 0 {
		s.back.remove(at)
	}
	if over {
		return refunded{}
	}
	return spent
}

func (s *Strict) giveBack(subject string, r refunded) {
	if r.units == 0 {
		return
	}
	hash := hashOf(s.seed, subject)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, known := s.back.find(hash); known {
		kept := &s.back.slots[at].kept
		kept.units, kept.ends = min(kept.units+r.units, s.opts.Limit.Largest()), max(kept.ends, r.ends)
		return
	}
	if s.back.used >= s.opts.Subjects {
		s.forget(hash)
	}
	s.back.put(hash, r)
}

// forget makes room near a newcomer.
func (s *Strict) forget(newcomer uint64) {
	at := s.back.home(newcomer)
	for s.back.slots[at].hash == 0 {
		at = s.back.after(at)
	}
	s.back.remove(at)
}
