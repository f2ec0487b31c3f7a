package ratelimit

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// shards spread the subjects over locks, so that cores do not wait for one
// another.
const shards = 64

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
	mu     sync.Mutex
	states map[uint64]State
	_      [40]byte // its own cache line
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
	l := &Limiter{limit: limit, most: (subjects + shards - 1) / shards, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].states = map[uint64]State{}
	}
	return l, nil
}

// Limit is the limit that is kept.
func (l *Limiter) Limit() Limit { return l.limit }

// Take takes cost units of the subject; see [Limit.Take].
func (l *Limiter) Take(subject string, now time.Time, cost int64) Decision {
	hash := maphash.String(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	state, known := s.states[hash]
	d := l.limit.Take(&state, now, cost)
	if d.Allowed {
		s.keep(hash, state, known, l, now)
	}
	return d
}

// Reserve takes up to want units of the subject; see [Limit.Reserve].
func (l *Limiter) Reserve(subject string, now time.Time, least, want int64) Grant {
	hash := maphash.String(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	state, known := s.states[hash]
	g := l.limit.Reserve(&state, now, least, want)
	if g.Units > 0 {
		s.keep(hash, state, known, l, now)
	}
	return g
}

// Refund gives units back; see [Limit.Refund].
func (l *Limiter) Refund(subject string, cost int64) {
	hash := maphash.String(l.seed, subject)
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if state, known := s.states[hash]; known {
		l.limit.Refund(&state, cost)
		s.states[hash] = state
	}
}

// Len is the number of subjects that are remembered.
func (l *Limiter) Len() int {
	n := 0
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.states)
		s.mu.Unlock()
	}
	return n
}

// keep stores the state of a subject.
func (s *shard) keep(hash uint64, state State, known bool, l *Limiter, now time.Time) {
	if !known && len(s.states) >= l.most {
		s.forget(l.limit, now)
	}
	s.states[hash] = state
}

// forget makes room: of a few subjects, the one that has most left. A flood of new
// subjects so pushes itself out, and not those who are at their limit.
func (s *shard) forget(limit Limit, now time.Time) {
	var victim uint64
	most, seen := int64(-1), 0
	for hash, state := range s.states { // begins anywhere
		if left := limit.Peek(&state, now).Remaining; left > most {
			victim, most = hash, left
		}
		if seen++; seen == sample {
			break
		}
	}
	delete(s.states, victim)
}
