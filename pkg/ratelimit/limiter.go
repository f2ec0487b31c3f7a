package ratelimit

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// shards spread the subjects over locks, so that cores do not wait for one
// another.
const shards = 1 << hashBits

// sample is how many subjects are looked at to make room for another.
const sample = 8

// Limiter keeps a limit for many subjects in memory. It is safe for concurrent
// use, and nothing runs in the background.
type Limiter struct {
	limit Limit
	most  int // subjects in a shard

	// By the hash of the subject, since callers choose how long that is. The seed is
	// secret, so nobody can aim at the state of another.
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu sync.Mutex
	table[State]
	_ [24]byte // its own cache line
}

// NewLimiter makes a limiter that remembers about subjects subjects. When there
// are more, those who have used least are forgotten first.
func NewLimiter(limit Limit, subjects int) (*Limiter, error) {
	if err := limit.Validate(); err != nil {
		return nil, err
	}
	if subjects < shards {
		return nil, fmt.Errorf("ratelimit: room for %d subjects is not enough, at least %d", subjects, shards)
	}
	return &Limiter{limit: limit, most: (subjects + shards - 1) / shards, seed: maphash.MakeSeed()}, nil
}

// Limit is the limit that is kept.
func (l *Limiter) Limit() Limit { return l.limit }

// Take takes cost units of the subject; see [Limit.Take].
func (l *Limiter) Take(subject string, now time.Time, cost int64) Decision {
	return l.take(l.limit, subject, now, cost)
}

func (l *Limiter) take(limit Limit, subject string, now time.Time, cost int64) Decision {
	hash := hashOf(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.find(hash)
	if known {
		return limit.Take(&s.slots[at].kept, now, cost)
	}
	var state State
	d := limit.Take(&state, now, cost)
	if d.Allowed {
		s.add(hash, state, limit, l.most, now)
	}
	return d
}

// Reserve takes up to want units of the subject; see [Limit.Reserve].
func (l *Limiter) Reserve(subject string, now time.Time, least, want int64) Grant {
	hash := hashOf(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.find(hash)
	if known {
		return l.limit.Reserve(&s.slots[at].kept, now, least, want)
	}
	var state State
	g := l.limit.Reserve(&state, now, least, want)
	if g.Units > 0 {
		s.add(hash, state, l.limit, l.most, now)
	}
	return g
}

// Refund gives units back; see [Limit.Refund].
func (l *Limiter) Refund(subject string, cost int64) { l.refund(l.limit, subject, cost) }

func (l *Limiter) refund(limit Limit, subject string, cost int64) {
	hash := hashOf(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, known := s.find(hash); known {
		limit.Refund(&s.slots[at].kept, cost)
	}
}

// Forget gives the subject back all that it has used.
func (l *Limiter) Forget(subject string) {
	hash := hashOf(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, known := s.find(hash); known {
		s.remove(at)
	}
}

// Len is the number of subjects that are remembered.
func (l *Limiter) Len() int {
	n := 0
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += s.used
		s.mu.Unlock()
	}
	return n
}

// hashOf is the hash of a subject, and never 0.
func hashOf(seed maphash.Seed, subject string) uint64 { return max(1, maphash.String(seed, subject)) }

// add stores the state of a subject that is new.
func (s *shard) add(hash uint64, state State, limit Limit, most int, now time.Time) {
	if s.used >= most {
		s.forget(hash, limit, now)
	}
	s.put(hash, state)
}

// forget makes room near a newcomer: of a few subjects, the one that has most
// left. A flood of new subjects so pushes itself out, and not those who are at
// their limit.
func (s *shard) forget(newcomer uint64, limit Limit, now time.Time) {
	victim, most, seen := 0, int64(-1), 0
	for at := s.home(newcomer); seen < min(sample, s.used); at = s.after(at) {
		if s.slots[at].hash == 0 {
			continue
		}
		if left := limit.Peek(&s.slots[at].kept, now).Remaining; left > most {
			victim, most = at, left
		}
		seen++
	}
	s.remove(victim)
}
