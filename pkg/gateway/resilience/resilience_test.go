package resilience_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/resilience"
)

func TestBreakerOpensAtItsErrorRateAndClosesAfterProbes(t *testing.T) {
	b := resilience.NewBreaker(resilience.BreakerConfig{ErrorRate: 0.5, MinRequests: 4, Window: time.Minute, OpenFor: time.Millisecond, Probes: 2})
	report := func(failed bool) {
		t.Helper()
		done, err := b.Admit()
		if err != nil {
			t.Fatalf("not admitted: %v", err)
		}
		done(failed)
	}
	for range 3 {
		report(true)
	}
	if b.State() != "closed" {
		t.Fatalf("it is %s before the window has enough requests", b.State())
	}
	report(true)
	if _, err := b.Admit(); !errors.Is(err, resilience.ErrOpen) {
		t.Fatalf("admitted with error %v, want ErrOpen", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		done, err := b.Admit()
		if err == nil {
			done(false)
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it never lets a probe pass")
		}
	}
	if b.State() != "half_open" {
		t.Errorf("after one probe it is %s", b.State())
	}
	report(false)
	if b.State() != "closed" {
		t.Errorf("after two good probes it is %s", b.State())
	}
}

func TestBulkheadNeverLetsMoreIn(t *testing.T) {
	b := resilience.NewBulkhead(resilience.BulkheadConfig{MaxInFlight: 3, MaxQueue: 100, QueueFor: time.Minute})
	var inside, most atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			leave, err := b.Enter(context.Background())
			if err != nil {
				t.Errorf("refused: %v", err)
				return
			}
			defer leave()
			n := inside.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			inside.Add(-1)
		})
	}
	all.Wait()
	if most.Load() > 3 {
		t.Errorf("%d were inside at a time, want at most 3", most.Load())
	}
}

func TestBulkheadRefusesBeyondItsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBulkhead(resilience.BulkheadConfig{MaxInFlight: 1, MaxQueue: 1, QueueFor: time.Second})
		leave, err := b.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan error, 1)
		go func() {
			_, err := b.Enter(t.Context())
			waited <- err
		}()
		synctest.Wait()
		if _, err := b.Enter(t.Context()); !errors.Is(err, resilience.ErrFull) {
			t.Errorf("a third is told %v, want ErrFull", err)
		}
		if err := <-waited; !errors.Is(err, resilience.ErrFull) { // after QueueFor
			t.Errorf("the one that waited too long is told %v, want ErrFull", err)
		}
		leave()
		if leave, err := b.Enter(t.Context()); err != nil {
			t.Errorf("an empty bulkhead refuses: %v", err)
		} else {
			leave()
		}
	})
}

func TestBulkheadGivesUpWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBulkhead(resilience.BulkheadConfig{MaxInFlight: 1, MaxQueue: 1, QueueFor: time.Hour})
		leave, err := b.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// However requests and retries come, retries are at most the ratio of the
// requests, beyond what was saved up.
func TestBudgetBoundsRetries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ratio := rapid.Float64Range(0.01, 1).Draw(t, "ratio")
		b := resilience.NewBudget(ratio)
		requests, retries := 0, 0
		for _, retry := range rapid.SliceOf(rapid.Bool()).Draw(t, "calls") {
			if !retry {
				b.Request()
				requests++
			} else if b.Retry() {
				retries++
			}
		}
		if limit := 1 + ratio*float64(requests) + 1e-9; float64(retries) > limit {
			t.Fatalf("%d retries of %d requests, want at most %.2f", retries, requests, limit)
		}
	})
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 100).Draw(t, "n")
		base := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "base"))
		limit := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "limit"))
		got := resilience.Backoff(base, limit, n)
		if got < 0 || got > limit || n <= 20 && got > base<<(n-1) && base<<(n-1) < limit {
			t.Fatalf("Backoff(%v, %v, %d) = %v", base, limit, n, got)
		}
	})
}
