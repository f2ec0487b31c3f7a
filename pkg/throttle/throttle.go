// Package throttle slows down guessing. A Limiter gives every subject (an
// address, an account) a bucket of attempts that refills at a steady rate. The
// counting is that of package ratelimit, in the memory of one replica or shared by
// all of them. It does not know what an attempt is, nor how a refusal is answered.
package throttle

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// maxSubjects bounds the memory of one limiter to a few megabytes. The busiest
// stay.
const maxSubjects = 100_000

// Counter counts the attempts of subjects: [ratelimit.Leased] and
// [ratelimit.Strict] are some. It is safe for concurrent use.
type Counter interface {
	Take(ctx context.Context, subject string, cost int64) (d ratelimit.Decision, alone bool)
	Refund(subject string, cost int64)
}

// Limiter limits attempts per subject. It is safe for concurrent use.
type Limiter struct{ counter Counter }

// Bucket is the limit that allows burst attempts at once and one more per interval,
// for a counter that replicas share. burst must be positive, and interval from a
// millisecond to a day.
func Bucket(burst int, interval time.Duration) (ratelimit.Limit, error) {
	l := ratelimit.Limit{Quota: 1, Window: interval, Burst: int64(burst)}
	if err := l.Validate(); err != nil {
		return ratelimit.Limit{}, fmt.Errorf("throttle: burst %d and interval %v: %w", burst, interval, err)
	}
	return l, nil
}

// New makes a limiter in memory that allows burst attempts at once and one more per
// interval; see [Bucket].
func New(burst int, interval time.Duration, now func() time.Time) (*Limiter, error) {
	bucket, err := Bucket(burst, interval)
	if err != nil {
		return nil, err
	}
	counter, err := newInMemory(bucket, now)
	if err != nil {
		return nil, err
	}
	return &Limiter{counter}, nil
}

// NewShared makes a limiter over a counter that replicas share, of a [Bucket]. While
// the others cannot be asked, each replica allows its share.
func NewShared(c Counter) *Limiter { return &Limiter{c} }

// inMemory counts in the memory of one replica.
type inMemory struct {
	*ratelimit.Limiter
	now func() time.Time
}

func newInMemory(bucket ratelimit.Limit, now func() time.Time) (*inMemory, error) {
	l, err := ratelimit.NewLimiter(bucket, maxSubjects)
	return &inMemory{l, now}, err
}

// Take implements Counter.
func (m *inMemory) Take(_ context.Context, subject string, cost int64) (d ratelimit.Decision, alone bool) {
	return m.Limiter.Take(subject, m.now(), cost), false
}

// Take uses one attempt of subject. When none is left it returns how long until
// one is (positive), and uses nothing. Of a shared counter it waits for as long as
// that does, whether the caller does or not: who hangs up has still guessed.
func (l *Limiter) Take(subject string) (wait time.Duration) {
	d, _ := l.counter.Take(context.Background(), subject, 1)
	if d.Allowed {
		return 0
	}
	return max(1, d.RetryAfter)
}

// Refund gives one attempt back: it turned out not to be a guess.
func (l *Limiter) Refund(subject string) { l.counter.Refund(subject, 1) }

// Forget fills the bucket of subject. One that is shared gets one attempt back.
func (l *Limiter) Forget(subject string) {
	if m, ok := l.counter.(*inMemory); ok {
		m.Forget(subject)
		return
	}
	l.Refund(subject)
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
