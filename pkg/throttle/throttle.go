// Package throttle slows down guessing. A Limiter gives every subject (an
// address, an account) a bucket of attempts that refills at a steady rate, by
// the generic cell rate algorithm (GCRA, ITU-T I.371), in the memory of one
// replica. Subjects are bounded; the busiest stay.
package throttle

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// maxSubjects bounds the memory of one limiter to about ten megabytes. Nothing
// expires: a bucket that is full again costs room and decides nothing.
const maxSubjects = 100_000

// Limiter limits attempts per subject. It is safe for concurrent use.
type Limiter struct {
	interval time.Duration // one attempt is given back per interval
	burst    time.Duration // attempts at once, times interval
	now      func() time.Time

	// By the hash of the subject, since callers choose how long that is. The
	// seed is secret, so nobody can aim at the bucket of another.
	buckets *otter.Cache[uint64, *atomic.Int64]
	seed    maphash.Seed
}

// New makes a limiter that allows burst attempts at once and one more per
// interval. burst must be positive; interval too.
func New(burst int, interval time.Duration, now func() time.Time) (*Limiter, error) {
	if burst < 1 || interval <= 0 {
		return nil, fmt.Errorf("throttle: burst %d and interval %v must be positive", burst, interval)
	}
	buckets, err := otter.New(&otter.Options[uint64, *atomic.Int64]{MaximumSize: maxSubjects})
	if err != nil {
		return nil, fmt.Errorf("throttle: %w", err)
	}
	return &Limiter{
		interval: interval, burst: time.Duration(burst) * interval, now: now, buckets: buckets, seed: maphash.MakeSeed(),
	}, nil
}

// Take uses one attempt of subject. When none is left it returns how long until
// one is (positive), and uses nothing.
func (l *Limiter) Take(subject string) (wait time.Duration) {
	tat := l.bucket(subject) // theoretical arrival time: when the bucket is full again
	now := l.now().UnixNano()
	for {
		old := tat.Load()
		next := max(old, now) + int64(l.interval)
		if over := next - now - int64(l.burst); over > 0 {
			return time.Duration(over)
		}
		if tat.CompareAndSwap(old, next) {
			return 0
		}
	}
}

// Refund gives one attempt back: it turned out not to be a guess.
func (l *Limiter) Refund(subject string) { l.bucket(subject).Add(-int64(l.interval)) }

// Forget fills the bucket of subject.
func (l *Limiter) Forget(subject string) { l.buckets.Invalidate(maphash.String(l.seed, subject)) }

func (l *Limiter) bucket(subject string) *atomic.Int64 {
	hash := maphash.String(l.seed, subject)
	if b, ok := l.buckets.GetIfPresent(hash); ok {
		return b
	}
	b, _ := l.buckets.SetIfAbsent(hash, new(atomic.Int64))
	return b
}

// Address is the subject for a caller's address: IPv6 callers own at least a
// /64, so they are counted by it.
func Address(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
