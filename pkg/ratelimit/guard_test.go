package ratelimit_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slow is a store that takes its time.
type slow struct {
	mu      sync.Mutex
	limiter *ratelimit.Limiter
	takes   time.Duration
	calls   int
	wants   []int64
}

func newSlow(t *testing.T, l ratelimit.Limit, takes time.Duration) *slow {
	t.Helper()
	limiter, err := ratelimit.NewLimiter(l, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return &slow{limiter: limiter, takes: takes}
}

func (s *slow) set(takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = takes
}

func (s *slow) Reserve(ctx context.Context, key string, _ ratelimit.Limit, least, want int64) (ratelimit.Grant, error) {
	s.mu.Lock()
	takes := s.takes
	s.calls++
	s.wants = append(s.wants, want)
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return ratelimit.Grant{}, ctx.Err()
	case <-time.After(takes):
		return s.limiter.Reserve(key, time.Now(), least, want), nil
	}
}

// both makes a limiter of each kind over a store, with 50 ms of patience.
func both(t *testing.T, store ratelimit.Store, l ratelimit.Limit) (counters map[string]sharedCounter, guard *ratelimit.Guard) {
	t.Helper()
	guard = ratelimit.NewGuard(ratelimit.GuardOptions{
		Store: store, Timeout: 50 * time.Millisecond, Failed: func(error) {}, Now: time.Now,
	})
	o := ratelimit.SharedOptions{Name: "l", Limit: l, Guard: guard, Subjects: 1000, Replicas: func() int { return 2 }, Now: time.Now}
	leased, err1 := ratelimit.NewLeased(o)
	strict, err2 := ratelimit.NewStrict(o)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if leased.Limit() != l || strict.Limit() != l {
		t.Errorf("the limits are %+v and %+v", leased.Limit(), strict.Limit())
	}
	return map[string]sharedCounter{"leased": leased, "strict": strict}, guard
}

// REL-09: a store that takes two seconds costs the requests of one moment 50 ms
// each, however many limits there are over it and however long it lasts, and is used
// again when it is back.
func TestAStoreThatHangsHoldsUpOneMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.Limit{Quota: 1000, Window: time.Minute, Burst: 1000}
		store := newSlow(t, l, 2*time.Second)
		counters, guard := both(t, store, l)
		defer guard.Close()
		var longest time.Duration
		var mu sync.Mutex
		var group sync.WaitGroup
		for i := range 100 { // of a few subjects, so that some wait for others
			for _, counter := range counters {
				group.Go(func() {
					began := time.Now()
					_, alone := counter.Take(t.Context(), strconv.Itoa(i%5), 1)
					mu.Lock()
					defer mu.Unlock()
					if longest = max(longest, time.Since(began)); !alone {
						t.Error("a decision without the store does not say so")
					}
				})
			}
		}
		group.Wait()
		if longest > 50*time.Millisecond {
			t.Errorf("a request was held up for %s", longest)
		}
		began := time.Now()
		for range 10_000 {
			for _, counter := range counters {
				if _, alone := counter.Take(t.Context(), "other", 1); !alone {
					t.Fatal("a decision without the store does not say so")
				}
			}
			time.Sleep(time.Millisecond)
		}
		if held := time.Since(began) - 10*time.Second; held > 0 {
			t.Errorf("later requests were held up for %s", held)
		}
		if store.calls > 110+11 {
			t.Errorf("the store was called %d times in ten seconds", store.calls)
		}
		store.set(time.Millisecond)
		for deadline := time.Now().Add(3 * time.Second); guard.Broken(); time.Sleep(10 * time.Millisecond) {
			if counters["strict"].Take(t.Context(), "other", 1); time.Now().After(deadline) {
				t.Fatal("the store is back, and nobody notices")
			}
		}
		for kind, counter := range counters {
			if _, alone := counter.Take(t.Context(), "third", 1); alone {
				t.Errorf("%s: the store is back, and is not asked", kind)
			}
		}
	})
}

// Who waits for the lease that another request fetches gets units of it, or has to
// wait no longer than for the store.
func TestRequestsShareOneCallOfASlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.Limit{Quota: 4000, Window: time.Minute, Burst: 4000}
		store := newSlow(t, l, 20*time.Millisecond)
		counters, guard := both(t, store, l)
		defer guard.Close()
		began := time.Now()
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				if d, alone := counters["leased"].Take(t.Context(), "s", 1); !d.Allowed || alone {
					t.Errorf("%+v, alone: %t", d, alone)
				}
			})
		}
		group.Wait()
		if took := time.Since(began); took > 40*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		if store.calls > 2 {
			t.Errorf("the store was asked for %v units", store.wants)
		}
	})
}

func TestARequestThatIsGoneWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.Limit{Quota: 4000, Window: time.Minute, Burst: 4000}
		counters, guard := both(t, newSlow(t, l, 40*time.Millisecond), l)
		defer guard.Close()
		var group sync.WaitGroup
		group.Go(func() { counters["leased"].Take(t.Context(), "s", 1) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		counters["leased"].Take(ctx, "s", 1)
		if took := time.Since(began); took > 0 {
			t.Errorf("it waited for %s", took)
		}
		group.Wait()
	})
}

func TestStrictIsExactOverReplicas(t *testing.T) {
	l := ratelimit.Limit{Quota: 100, Window: time.Hour, Burst: 100}
	store := newSlow(t, l, 0)
	var replicas []sharedCounter
	for range 4 {
		counters, guard := both(t, store, l)
		defer guard.Close()
		replicas = append(replicas, counters["strict"])
	}
	var mu sync.Mutex
	accepted := 0
	var group sync.WaitGroup
	for i := range 400 {
		group.Go(func() {
			d, alone := replicas[i%4].Take(t.Context(), "s", 1)
			mu.Lock()
			defer mu.Unlock()
			if d.Allowed && !alone {
				accepted++
			}
		})
	}
	group.Wait()
	if accepted != 100 || store.calls != 400 {
		t.Errorf("%d were accepted, want 100; %d calls of the store, want one for each of 400", accepted, store.calls)
	}
}

func TestUnitsThatAreGivenBackAreSpentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ratelimit.Limit{Quota: 400, Window: time.Hour, Burst: 400}
		for kind := range map[string]bool{"leased": true, "strict": true} {
			counters, guard := both(t, newSlow(t, l, 0), l)
			counter := counters[kind]
			for range 400 {
				counter.Take(t.Context(), "s", 1)
			}
			if d, _ := counter.Take(t.Context(), "s", 1); d.Allowed {
				t.Fatalf("%s: more than the limit", kind)
			}
			counter.Refund("s", 3)
			counter.Refund("stranger", 0)
			if d, _ := counter.Take(t.Context(), "s", 4); d.Allowed || d.Remaining != 3 {
				t.Errorf("%s: four of three: %+v", kind, d)
			}
			for i, want := range []bool{true, true, false} {
				if d, _ := counter.Take(t.Context(), "s", 1+int64(i%2)); d.Allowed != want {
					t.Errorf("%s: request %d after three units came back: %+v", kind, i, d)
				}
			}
			guard.Close()
		}
	})
}

func TestWhatCanNeverBeHadAsksNobody(t *testing.T) {
	l := ratelimit.Limit{Quota: 10, Window: time.Hour, Burst: 10}
	store := newSlow(t, l, 0)
	counters, guard := both(t, store, l)
	defer guard.Close()
	for kind, counter := range counters {
		if d, alone := counter.Take(t.Context(), "s", 11); d.Allowed || alone || d.RetryAfter != 0 || d.Limit != 10 {
			t.Errorf("%s: %+v", kind, d)
		}
	}
	if store.calls != 0 {
		t.Errorf("%d calls", store.calls)
	}
}

// While the store is away a cost above this replica's share is to be tried again,
// not one that can never be had.
func TestACostAboveTheShareIsTriedAgain(t *testing.T) {
	l := ratelimit.Limit{Quota: 10, Window: time.Hour, Burst: 10}
	counters, guard := both(t, newSlow(t, l, time.Hour), l)
	defer guard.Close()
	for kind, counter := range counters {
		if d, alone := counter.Take(t.Context(), "s", 8); d.Allowed || !alone || d.RetryAfter <= 0 {
			t.Errorf("%s: %+v, alone: %t", kind, d, alone)
		}
		if d, alone := counter.Take(t.Context(), "s", 5); !d.Allowed || !alone {
			t.Errorf("%s: %+v, alone: %t", kind, d, alone)
		}
	}
}

// What was used of a share counts on when the replicas become fewer or more.
func TestSharesSurviveReplicasThatComeAndGo(t *testing.T) {
	l := ratelimit.Limit{Quota: 100, Window: time.Hour, Burst: 100}
	replicas := 1
	guard := ratelimit.NewGuard(ratelimit.GuardOptions{
		Store: newSlow(t, l, time.Hour), Timeout: time.Millisecond, Failed: func(error) {}, Now: time.Now,
	})
	defer guard.Close()
	counter, err := ratelimit.NewLeased(ratelimit.SharedOptions{
		Name: "l", Limit: l, Guard: guard, Subjects: 1000, Replicas: func() int { return replicas }, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for i := range 1000 {
		replicas = 1 + i%4
		if d, _ := counter.Take(t.Context(), "s", 1); d.Allowed {
			accepted += replicas // of the share of one
		}
	}
	if accepted < 90 || accepted > 100 {
		t.Errorf("%d shares of units were accepted, want about 100", accepted)
	}
}
