package ratelimit

import (
	"fmt"
	"time"
)

// SharedOptions are what a [Leased] or a [Strict] is made of. All fields are
// required.
type SharedOptions struct {
	Name     string // of the limit: begins every key of the store
	Limit    Limit
	Guard    *Guard           // of the store
	Subjects int              // that are remembered
	Replicas func() int       // that live now, this one included
	Now      func() time.Time // of this replica; only spans count
}

func (o *SharedOptions) validate() error {
	if err := o.Limit.Validate(); err != nil {
		return err
	}
	if o.Subjects < shards {
		return fmt.Errorf("ratelimit: room for %d subjects is not enough, at least %d", o.Subjects, shards)
	}
	return nil
}

// key is that of a subject in the store.
func (o *SharedOptions) key(subject string) string { return o.Name + ":" + subject }

// never is the answer to a cost that can never be had.
func (o *SharedOptions) never() Decision { return Decision{Limit: o.Limit.Most()} }

// fallback keeps a limit while the store does not answer: each replica its part. What
// a subject has used of it counts on when replicas come and go.
type fallback struct {
	whole    Limit
	replicas func() int
	limiter  *Limiter
}

func newFallback(o *SharedOptions) (*fallback, error) {
	l, err := NewLimiter(o.Limit, o.Subjects)
	return &fallback{o.Limit, o.Replicas, l}, err
}

// part is this replica's part of the limit. A rate is divided exactly; what can be
// had at once is rounded down, but to 1 at least.
func (f *fallback) part() Limit {
	replicas := max(1, f.replicas())
	part := f.whole
	if part.Algorithm == SlidingWindow {
		part.Quota = max(1, part.Quota/int64(replicas))
		return part
	}
	part.Window *= time.Duration(replicas)
	part.Burst = max(1, part.Burst/int64(replicas))
	return part
}

// take decides by this replica's part.
func (f *fallback) take(subject string, cost int64, now time.Time) Decision {
	d := f.limiter.take(f.part(), subject, now, cost)
	if !d.Allowed && d.RetryAfter == 0 {
		d.RetryAfter = pause // it can be had when the store is back
	}
	return d
}

func (f *fallback) refund(subject string, cost int64) { f.limiter.refund(f.part(), subject, cost) }
