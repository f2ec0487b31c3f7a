package shared

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/ratelimit"
)

func openCounters(tb testing.TB) *Counters {
	tb.Helper()
	cfg, err := config.Load(config.Source{Flags: map[string]string{"counters.store": "memory"}})
	if err != nil {
		tb.Fatal(err)
	}
	c, err := OpenCounters(CounterOptions{Config: cfg, Replicas: func() int { return 1 }, Meter: noop.Meter{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// The limits of routes and plans are counted; what throttles guesses is not.
func TestDecisionsOfLimitsAreCounted(t *testing.T) {
	c := openCounters(t)
	counter, err := c.Counter("r", ratelimit.Limit{Quota: 2, Window: time.Hour, Burst: 2})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		counter.TakeAt(t.Context(), "a", 1, time.Now())
	}
	limiter, err := c.Limiter("logins", 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	limiter.Take("a")
	if allowed, refused := c.decided[1][0].Load(), c.decided[0][0].Load(); allowed != 2 || refused != 3 {
		t.Errorf("%d allowed and %d refused", allowed, refused)
	}
	c.decided.add(false, true)
	if n := c.decided[0][1].Load(); n != 1 {
		t.Errorf("%d refused by this replica alone", n)
	}
}

func BenchmarkCountedTake(b *testing.B) {
	c := openCounters(b)
	limit := ratelimit.Limit{Quota: ratelimit.MaxQuota, Window: time.Minute, Burst: ratelimit.MaxQuota}
	counted, err := c.Counter("r", limit)
	if err != nil {
		b.Fatal(err)
	}
	bare, err := c.counter("r", limit)
	if err != nil {
		b.Fatal(err)
	}
	for name, counter := range map[string]interface {
		TakeAt(ctx context.Context, subject string, cost int64, now time.Time) (ratelimit.Decision, bool)
	}{"counted": counted, "bare": bare} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					counter.TakeAt(b.Context(), "a", 1, time.Now())
				}
			})
		})
	}
}
