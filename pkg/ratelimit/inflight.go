package ratelimit

import (
	"fmt"
	"hash/maphash"
	"sync"
)

// InFlight bounds how many requests of a subject are worked on at once. Only
// subjects with such requests are remembered, so its memory is bounded by what is
// in flight. It is safe for concurrent use.
type InFlight struct {
	limit  int64
	seed   maphash.Seed
	shards [shards]places
}

type places struct {
	mu    sync.Mutex
	taken map[uint64]int64
	_     [40]byte // its own cache line
}

// Place is that of one request. The zero value is none.
type Place struct {
	of   *InFlight
	hash uint64
}

// NewInFlight makes a bound of limit requests for each subject.
func NewInFlight(limit int64) (*InFlight, error) {
	if limit < 1 {
		return nil, fmt.Errorf("ratelimit: a limit of %d requests at once is not above 0", limit)
	}
	f := &InFlight{limit: limit, seed: maphash.MakeSeed()}
	for i := range f.shards {
		f.shards[i].taken = map[uint64]int64{}
	}
	return f, nil
}

// Limit is how many requests of a subject there are at once at most.
func (f *InFlight) Limit() int64 { return f.limit }

// Acquire takes a place of the subject; remaining is how many are left then. When
// there is none, ok is false and nothing is taken. Who has a place releases it once.
func (f *InFlight) Acquire(subject string) (p Place, remaining int64, ok bool) {
	hash := maphash.String(f.seed, subject)
	s := &f.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.taken[hash]
	if taken >= f.limit {
		return Place{}, 0, false
	}
	s.taken[hash] = taken + 1
	return Place{f, hash}, f.limit - taken - 1, true
}

// Release gives the place back.
func (p Place) Release() {
	if p.of == nil {
		return
	}
	s := &p.of.shards[p.hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[p.hash]--; s.taken[p.hash] <= 0 {
		delete(s.taken, p.hash)
	}
}

// Len is the number of subjects that have requests in flight.
func (f *InFlight) Len() int {
	n := 0
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		n += len(s.taken)
		s.mu.Unlock()
	}
	return n
}
