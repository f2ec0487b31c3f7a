package ratelimit_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

func TestInFlightNeverHasMoreThanItsLimitAndForgetsWhoIsDone(t *testing.T) {
	const limit = 3
	f, err := ratelimit.NewInFlight(limit)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var at [2]atomic.Int64
	var refused atomic.Int64
	for worker := range 16 {
		group.Go(func() {
			subject := worker % 2
			for range 2_000 {
				p, remaining, ok := f.Acquire([]string{"a", "b"}[subject])
				if !ok {
					refused.Add(1)
					continue
				}
				if n := at[subject].Add(1); n > limit || remaining < 0 || remaining >= limit {
					t.Errorf("%d at once, %d remaining", n, remaining)
				}
				at[subject].Add(-1)
				p.Release()
			}
		})
	}
	group.Wait()
	if f.Len() != 0 {
		t.Errorf("%d subjects are remembered without a request", f.Len())
	}
	var held []ratelimit.Place
	for range limit {
		p, _, ok := f.Acquire("a")
		if !ok {
			t.Fatal("a free place is refused")
		}
		held = append(held, p)
	}
	if _, _, ok := f.Acquire("a"); ok {
		t.Error("one more than the limit is let in")
	}
	if _, _, ok := f.Acquire("b"); !ok {
		t.Error("one subject takes the place of another")
	}
	held[0].Release()
	if _, _, ok := f.Acquire("a"); !ok {
		t.Error("a place that was given back is not there")
	}
	ratelimit.Place{}.Release()
}

func BenchmarkInFlight(b *testing.B) {
	f, err := ratelimit.NewInFlight(10)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p, _, _ := f.Acquire("subject")
		p.Release()
	}
}
