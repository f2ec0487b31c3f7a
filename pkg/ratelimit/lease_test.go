package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// shared is a store in memory, with a clock of its own.
type shared struct {
	limiter *ratelimit.Limiter
	now     func() time.Time
	calls   int
	broken  error
}

// Reserve implements ratelimit.Store.
func (s *shared) Reserve(_ context.Context, key string, _ ratelimit.Limit, least, want int64) (ratelimit.Grant, error) {
	s.calls++
	if s.broken != nil {
		return ratelimit.Grant{}, s.broken
	}
	return s.limiter.Reserve(key, s.now(), least, want), nil
}

// cluster is several replicas over one store, on one clock that a test moves.
type cluster struct {
	at       time.Duration
	store    *shared
	replicas []*ratelimit.Leased
	guards   []*ratelimit.Guard
	failures int
}

func newCluster(t testing.TB, l ratelimit.Limit, replicas int) *cluster {
	t.Helper()
	c := &cluster{}
	now := func() time.Time { return at(c.at) }
	limiter, err := ratelimit.NewLimiter(l, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	c.store = &shared{limiter: limiter, now: now}
	for range replicas {
		guard := ratelimit.NewGuard(ratelimit.GuardOptions{
			Store: c.store, Timeout: time.Second, Failed: func(error) { c.failures++ }, Now: now,
		})
		t.Cleanup(guard.Close)
		r, err := ratelimit.NewLeased(ratelimit.SharedOptions{
			Name: "test", Limit: l, Guard: guard, Subjects: 10_000, Replicas: func() int { return replicas }, Now: now,
		})
		if err != nil {
			t.Fatal(err)
		}
		c.replicas, c.guards = append(c.replicas, r), append(c.guards, guard)
	}
	return c
}

// Four replicas, ten times the load that is allowed, twenty windows: what is let
// through is within the stated bound of the limit in each of them.
func TestReplicasKeepTheLimitTogether(t *testing.T) {
	const replicas, windows, load = 4, 20, 10
	for name, l := range map[string]ratelimit.Limit{
		"gcra":           {Quota: 1000, Window: time.Minute, Burst: 20},
		"gcra, small":    {Quota: 60, Window: time.Minute, Burst: 5},
		"gcra, burst":    {Quota: 1000, Window: time.Minute, Burst: 1000},
		"sliding window": {Quota: 1000, Window: time.Minute, Burst: 1, Algorithm: ratelimit.SlidingWindow},
	} {
		t.Run(name, func(t *testing.T) {
			const seed = 7
			random := rand.New(rand.NewPCG(seed, seed))
			c := newCluster(t, l, replicas)
			requests := windows * load * int(l.Quota)
			accepted := make([]int64, windows)
			for i := range requests {
				c.at = time.Duration(float64(i) / float64(requests) * windows * float64(l.Window))
				if d, _ := c.replicas[random.IntN(replicas)].Take(t.Context(), "s", 1); d.Allowed {
					accepted[int(c.at/l.Window)]++
				}
			}
			block := max(1, l.Quota/40)
			for w, n := range accepted {
				low, high := l.Quota*95/100, l.Quota+replicas*block
				if w == 0 && l.Algorithm == ratelimit.GCRA {
					high += l.Burst // what was saved up before
				}
				if n < low || n > high {
					t.Errorf("seed %d, window %d: %d accepted, want %d to %d", seed, w, n, low, high)
				}
			}
			t.Logf("accepted %v of %d; %d calls of the store for %d requests", accepted, l.Quota, c.store.calls, requests)
			// However many are refused: for each unit, each replica asks about once.
			if most := (replicas + 1) * windows * int(l.Quota); c.store.calls > most {
				t.Errorf("%d calls of the store, want at most %d", c.store.calls, most)
			}
		})
	}
}

// A subject far below the limit is never refused, although replicas hold blocks.
func TestSubjectsBelowTheLimitAreNotRefused(t *testing.T) {
	l := ratelimit.Limit{Quota: 1000, Window: time.Minute, Burst: 100}
	c := newCluster(t, l, 4)
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 10_000 { // at 80 % of the limit
		c.at = time.Duration(i) * l.Window * 10 / time.Duration(8*l.Quota)
		if d, _ := c.replicas[random.IntN(4)].Take(t.Context(), "s", 1); !d.Allowed {
			t.Fatalf("request %d was refused: %+v", i, d)
		}
	}
}

func TestWarmDecisionsAskNobody(t *testing.T) {
	c := newCluster(t, ratelimit.Limit{Quota: 100_000, Window: time.Minute, Burst: 100_000}, 1)
	for range 10_000 {
		c.replicas[0].Take(t.Context(), "s", 1)
	}
	if c.store.calls > 100 {
		t.Errorf("%d calls of the store for 10,000 requests far from the limit", c.store.calls)
	}
	c = newCluster(t, ratelimit.Limit{Quota: 10, Window: time.Minute, Burst: 10}, 1)
	for range 10_000 {
		c.replicas[0].Take(t.Context(), "s", 1)
	}
	if c.store.calls > 20 {
		t.Errorf("%d calls of the store for one who is refused", c.store.calls)
	}
}

// A request may have been read before another one had its answer from the store. That is no
// clock that was set back, which ends the lease.
func TestARequestFromBeforeTheLastAnswerSpendsWhatIsHeld(t *testing.T) {
	c := newCluster(t, ratelimit.Limit{Quota: 100_000, Window: time.Minute, Burst: 100_000}, 1)
	for range 100 {
		c.replicas[0].Take(t.Context(), "s", 1)
	}
	c.at = 10 * time.Second // after which the next block is another one
	calls := c.store.calls
	for c.store.calls == calls {
		c.replicas[0].Take(t.Context(), "s", 1)
	}
	c.replicas[0].Take(t.Context(), "s", 1)
	calls, read := c.store.calls, at(c.at-time.Millisecond)
	if d, alone := c.replicas[0].TakeAt(t.Context(), "s", 1, read); !d.Allowed || alone || c.store.calls != calls {
		t.Errorf("%+v, alone: %t, %d calls of the store", d, alone, c.store.calls-calls)
	}
	c.at -= time.Second
	if c.replicas[0].TakeAt(t.Context(), "s", 1, at(c.at)); c.store.calls != calls+1 {
		t.Errorf("%d calls of the store after the clock was set back", c.store.calls-calls)
	}
}

func TestWithoutTheStoreEachReplicaKeepsItsShare(t *testing.T) {
	l := ratelimit.Limit{Quota: 100, Window: time.Hour, Burst: 100}
	c := newCluster(t, l, 4)
	c.store.broken = errors.New("down")
	accepted := 0
	for _, r := range c.replicas {
		for range 100 {
			d, alone := r.Take(t.Context(), "s", 1)
			if !alone {
				t.Fatal("a decision without the store does not say so")
			}
			if d.Allowed {
				accepted++
			}
		}
	}
	if accepted != 100 {
		t.Errorf("%d were accepted, want the limit of 100", accepted)
	}
	if c.failures != 4 {
		t.Errorf("the store was tried %d times in one moment by 4 replicas", c.failures)
	}
	c.store.broken = nil
	c.at += 2 * time.Second
	if _, alone := c.replicas[0].Take(t.Context(), "s", 1); !alone {
		t.Error("a request waited for a store of which nobody knows that it is back")
	}
	c.guards[0].Close() // waits for the look
	if _, alone := c.replicas[0].Take(t.Context(), "s", 1); alone {
		t.Error("the store is back, and nobody asks it")
	}
}

func TestCostsAreTakenWholeOrNotAtAll(t *testing.T) {
	c := newCluster(t, ratelimit.Limit{Quota: 10, Window: time.Hour, Burst: 10}, 2)
	for i, want := range []bool{true, true, false} {
		if d, _ := c.replicas[i%2].Take(t.Context(), "s", 4); d.Allowed != want {
			t.Errorf("request %d: allowed %t", i, d.Allowed)
		}
	}
	if d, _ := c.replicas[1].Take(t.Context(), "s", 2); !d.Allowed {
		t.Error("a refused cost took something, or forbids a smaller one")
	}
	if d, _ := c.replicas[0].Take(t.Context(), "s", 11); d.Allowed {
		t.Error("more than the limit at once")
	}
}

// The decisions are warm: of a lease that is held.
func BenchmarkLeasedTake(b *testing.B) {
	for _, subjects := range []int{1, 1_000_000} {
		b.Run(fmt.Sprintf("subjects=%d", subjects), func(b *testing.B) {
			l := ratelimit.Limit{Quota: 1_000_000_000, Window: 24 * time.Hour, Burst: 1_000_000_000}
			guard := ratelimit.NewGuard(ratelimit.GuardOptions{Store: generous{}, Timeout: time.Second, Failed: func(err error) { b.Error(err) }, Now: time.Now})
			defer guard.Close()
			leased, err := ratelimit.NewLeased(ratelimit.SharedOptions{
				Name: "l", Limit: l, Guard: guard, Subjects: subjects + 500_000, Replicas: func() int { return 4 }, Now: time.Now,
			})
			if err != nil {
				b.Fatal(err)
			}
			names := make([]string, subjects)
			for i := range names {
				names[i] = "018f2c5e-0000-7000-8000-" + strconv.Itoa(100_000_000_000+i)
				leased.Take(b.Context(), names[i], 1)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if d, alone := leased.Take(b.Context(), names[i%subjects], 1); !d.Allowed || alone {
					b.Fatalf("%+v, alone: %t", d, alone)
				}
			}
		})
	}
}

// generous is a store that grants far more than is asked for.
type generous struct{}

func (generous) Reserve(context.Context, string, ratelimit.Limit, int64, int64) (ratelimit.Grant, error) {
	return ratelimit.Grant{Units: 1_000_000_000, Decision: ratelimit.Decision{Allowed: true}}, nil
}
