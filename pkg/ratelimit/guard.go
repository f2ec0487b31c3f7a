package ratelimit

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Store keeps counters that replicas share. Its clock is the one that counts.
type Store interface {
	// Reserve takes up to want units of key, and none when there are fewer than
	// least, in one atomic step; see [Limit.Reserve].
	Reserve(ctx context.Context, key string, l Limit, least, want int64) (Grant, error)
}

// Guard stands before a store that may be slow or gone: it bounds how long a call
// takes, and after one that failed it leaves the store alone, so that an outage
// holds up the requests of one moment and no others. Whether the store is back is
// found out in the background, while no request waits. All limits over a store
// share one guard. It is safe for concurrent use.
type Guard struct {
	GuardOptions

	mu      sync.Mutex
	broken  bool
	since   time.Time // last failure
	probing bool
	closed  bool
	probes  sync.WaitGroup
}

// GuardOptions are what a [Guard] is made of. All fields are required.
type GuardOptions struct {
	Store   Store
	Timeout time.Duration   // of a call
	Failed  func(err error) // told when the store stops to answer, and after each look in vain whether it is back
	Now     func() time.Time
}

// pause is how long a store that has failed is left alone.
const pause = time.Second

// errBroken stands for a failure of before.
var errBroken = fmt.Errorf("ratelimit: the store has failed, and is asked again every %s whether it is back", pause)

// NewGuard makes a guard of a store. The caller closes it, before the store.
func NewGuard(o GuardOptions) *Guard { return &Guard{GuardOptions: o} }

// Close waits for a look whether the store is back. Afterwards a broken store stays
// broken.
func (g *Guard) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.probes.Wait()
}

// Broken tells whether the store has failed and is not known to be back.
func (g *Guard) Broken() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.broken
}

// Reserve asks the store, unless it is broken.
func (g *Guard) Reserve(ctx context.Context, key string, l Limit, least, want int64) (Grant, error) {
	if !g.ready() {
		return Grant{}, errBroken
	}
	// The answer counts even when the caller has gone: units may be taken.
	granted, err := g.call(context.WithoutCancel(ctx), key, l, least, want)
	if err != nil {
		g.fail(err, false)
	}
	return granted, err
}

func (g *Guard) call(ctx context.Context, key string, l Limit, least, want int64) (Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	return g.Store.Reserve(ctx, key, l, least, want)
}

// ready tells whether the store may be asked, and sees to it that a broken one is
// looked after.
func (g *Guard) ready() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.broken {
		return true
	}
	silent := g.Now().Sub(g.since)
	if !g.probing && !g.closed && (silent >= pause || silent < 0) {
		g.probing = true
		g.probes.Go(g.probe)
	}
	return false
}

// fail notes that the store did not answer, and tells so once for all the requests
// that found out together.
func (g *Guard) fail(err error, probe bool) {
	g.mu.Lock()
	tell := probe || !g.broken
	if tell {
		g.broken, g.since = true, g.Now()
	}
	g.mu.Unlock()
	if tell {
		g.Failed(err)
	}
}

// probe takes a unit of nobody.
func (g *Guard) probe() {
	free := Limit{Quota: MaxQuota, Window: time.Minute, Burst: MaxQuota}
	_, err := g.call(context.Background(), "probe", free, 1, 1)
	if err != nil {
		g.fail(err, true)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.probing, g.broken = false, err != nil
}
