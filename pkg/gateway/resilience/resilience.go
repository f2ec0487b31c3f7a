// Package resilience keeps a service that is in trouble from making trouble for
// everybody: a breaker that stops asking it, a bulkhead that bounds how much of
// the gateway waits for it, a budget that keeps retries from becoming a storm,
// and the pauses between them. It sends nothing.
package resilience

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"golang.org/x/sync/semaphore"

	"github.com/keywarden/keywarden/pkg/problem"
)

// What a client is told whose request was not sent.
var (
	ErrOpen = problem.Define(problem.Unavailable, "gateway.circuit_open",
		"The service behind this route fails at the moment; it is not asked for a while.")
	ErrFull = problem.Define(problem.Unavailable, "gateway.overloaded",
		"The service behind this route is busy; too many requests wait for it.")
)

// BreakerConfig says when a service is no longer asked.
type BreakerConfig struct {
	ErrorRate   float64       // share of failures in a window that opens it, above 0 to 1
	MinRequests uint          // requests a window must have
	Window      time.Duration // of ErrorRate
	OpenFor     time.Duration // until it is tried again
	Probes      uint          // successes in a row that close it then
}

// Breaker is a circuit breaker. It is safe for concurrent use.
type Breaker struct {
	breaker circuitbreaker.CircuitBreaker[any]
}

// NewBreaker makes a closed breaker.
func NewBreaker(c BreakerConfig) *Breaker {
	return &Breaker{circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(c.ErrorRate, c.MinRequests, c.Window).
		WithDelay(c.OpenFor).WithSuccessThreshold(c.Probes).Build()}
}

// Admit returns how a request that may be sent reports its outcome, which it has
// to, once; or ErrOpen.
func (b *Breaker) Admit() (report func(failed bool), err error) {
	if !b.breaker.TryAcquirePermit() {
		return nil, ErrOpen.WithRetryAfter(max(time.Second, b.breaker.RemainingDelay()))
	}
	return func(failed bool) {
		if failed {
			b.breaker.RecordFailure()
		} else {
			b.breaker.RecordSuccess()
		}
	}, nil
}

// Probing reports whether the breaker is not closed: few requests pass, and it
// waits for what becomes of them.
func (b *Breaker) Probing() bool { return b.breaker.State() != circuitbreaker.ClosedState }

// State is "closed", "open" or "half_open".
func (b *Breaker) State() string {
	switch b.breaker.State() {
	case circuitbreaker.OpenState:
		return "open"
	case circuitbreaker.HalfOpenState:
		return "half_open"
	default:
		return "closed"
	}
}

// BulkheadConfig bounds what waits for a service.
type BulkheadConfig struct {
	MaxInFlight int           // exchanges at a time
	MaxQueue    int           // more that may wait for their turn
	QueueFor    time.Duration // and how long
}

// Bulkhead bounds the exchanges with a service. It is safe for concurrent use.
type Bulkhead struct {
	config  BulkheadConfig
	running *semaphore.Weighted
	waiting atomic.Int64
}

// NewBulkhead makes an empty bulkhead.
func NewBulkhead(c BulkheadConfig) *Bulkhead {
	return &Bulkhead{config: c, running: semaphore.NewWeighted(int64(c.MaxInFlight))}
}

// Enter waits for its turn and returns how to leave; or ErrFull, or the error of
// the context.
func (b *Bulkhead) Enter(ctx context.Context) (leave func(), err error) {
	leave = func() { b.running.Release(1) }
	if b.running.TryAcquire(1) {
		return leave, nil
	}
	if b.waiting.Add(1) > int64(b.config.MaxQueue) {
		b.waiting.Add(-1)
		return nil, ErrFull.WithRetryAfter(time.Second)
	}
	defer b.waiting.Add(-1)
	turn, cancel := context.WithTimeout(ctx, b.config.QueueFor)
	defer cancel()
	if err := b.running.Acquire(turn, 1); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, ErrFull.WithRetryAfter(time.Second)
	}
	return leave, nil
}

// Budget bounds retries to a share of the requests, so that a service that fails
// gets at most so much more load, however many attempts a request may make. It is
// safe for concurrent use.
type Budget struct {
	mu     sync.Mutex
	ratio  float64
	tokens float64
}

// budgetCap bounds what quiet or good times save up for a storm.
const budgetCap = 10

// NewBudget makes a budget of retries per request, above 0 to 1.
func NewBudget(ratio float64) *Budget { return &Budget{ratio: ratio, tokens: 1} }

// Request counts a request, which earns its share of a retry.
func (b *Budget) Request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.tokens+b.ratio, budgetCap)
}

// Retry reports whether there is one more retry, and takes it.
func (b *Budget) Retry() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Backoff is the pause before the n-th retry, n from 1: exponential, and of it a
// random part ("full jitter"), so that clients do not come back in step.
func Backoff(base, limit time.Duration, n int) time.Duration {
	if base <= 0 || limit <= 0 {
		return 0
	}
	span := base << min(n-1, 20)
	if span > limit || span <= 0 { // it overflows
		span = limit
	}
	return rand.N(span + 1) //nolint:gosec // no secret
}
