package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/ratelimit/ratelimittest"
)

func TestRateLimitsKeepThePromisesOfSharedCounters(t *testing.T) {
	ratelimittest.Conformance(t, newWorld(t).RateLimits())
}

func TestAnySubjectCanBeCounted(t *testing.T) {
	w := newWorld(t)
	l := ratelimit.Limit{Quota: 1, Window: time.Hour, Burst: 1}
	for _, key := range []string{"", "a\x00b", "a\x00c", "\xff\xfe", strings.Repeat("long", 100_000)} {
		for i, want := range []int64{1, 0} {
			if g, err := w.RateLimits().Reserve(t.Context(), key, l, 1, 1); err != nil || g.Units != want {
				t.Errorf("%.10q, request %d: %+v, %v", key, i, g, err)
			}
		}
	}
}

func TestSweepDeletesCountersThatDecideNothing(t *testing.T) {
	w := newWorld(t)
	for _, l := range []ratelimit.Limit{
		{Quota: 10, Window: time.Second, Burst: 10},
		{Quota: 10, Window: 24 * time.Hour, Burst: 10},
		{Quota: 1, Window: time.Hour, Burst: 100}, // comes back within four days
		{Quota: 10, Window: time.Hour, Algorithm: ratelimit.SlidingWindow},
	} {
		w.exec(`TRUNCATE rate_limits`)
		_, err := w.RateLimits().Reserve(t.Context(), "k", l, 1, l.Most())
		w.must(err)
		span := max(l.Window*time.Duration(l.Most())/time.Duration(l.Quota), l.Window)
		lives := time.Duration(w.number(`SELECT extract(epoch FROM ends_at - now())::bigint FROM rate_limits`)) * time.Second
		if lives < span || lives > 5*max(span, time.Minute) {
			t.Errorf("a counter of %+v lives for %s", l, lives)
		}
	}
	w.exec(`TRUNCATE rate_limits`)
	w.exec(`INSERT INTO rate_limits (key, ends_at) SELECT int4send(n), now() - interval '1 second' FROM generate_series(1, $1) n`, 2*sweepBatch+1)
	w.exec(`INSERT INTO rate_limits (key, ends_at) VALUES ('keep', now() + interval '1 minute')`)
	w.must(w.Sweep(t.Context(), now().Add(-time.Hour)))
	if n := w.number(`SELECT count(*) FROM rate_limits`); n != 2*sweepBatch+2 {
		t.Errorf("%d counters are left by a replica whose clock is late", n)
	}
	w.must(w.Sweep(t.Context(), now().Add(time.Hour)))
	if n := w.number(`SELECT count(*) FROM rate_limits`); n != 1 {
		t.Errorf("%d counters are left", n)
	}
}

func TestAClockOfTheDatabaseThatIsSetBackGivesNothingAndLocksNobodyOut(t *testing.T) {
	w := newWorld(t)
	for name, l := range map[string]ratelimit.Limit{
		"gcra":           {Quota: 10, Window: time.Hour, Burst: 10},
		"sliding window": {Quota: 10, Window: time.Hour, Algorithm: ratelimit.SlidingWindow},
	} {
		w.exec(`TRUNCATE rate_limits`)
		if g, err := w.RateLimits().Reserve(t.Context(), "k", l, 10, 10); err != nil || g.Units != 10 {
			t.Fatalf("%s: %+v, %v", name, g, err)
		}
		// What was used, was so by a clock that was a day ahead.
		w.exec(`UPDATE rate_limits SET at = at + CASE WHEN $1 THEN 24 ELSE 86400000000000 END`, l.Algorithm == ratelimit.SlidingWindow)
		g, err := w.RateLimits().Reserve(t.Context(), "k", l, 1, 1)
		if err != nil || g.Units != 0 || g.Decision.RetryAfter > 2*l.Window {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

func TestCountersEndWithTheCallersDeadline(t *testing.T) {
	w := newWorld(t)
	l := ratelimit.Limit{Quota: 10, Window: time.Hour, Burst: 10}
	_, err := w.RateLimits().Reserve(t.Context(), "k", l, 1, 1)
	w.must(err)
	tx, err := w.pool.Begin(t.Context())
	w.must(err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM rate_limits FOR UPDATE`)
	w.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.RateLimits().Reserve(ctx, "k", l, 1, 1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// Updates of a busy counter leave the indexes alone, so that they do not grow.
func TestABusyCounterStaysSmall(t *testing.T) {
	w := newWorld(t)
	l := ratelimit.Limit{Quota: 1_000_000, Window: 24 * time.Hour, Burst: 1_000_000}
	var ends []int64
	for range 200 {
		_, err := w.RateLimits().Reserve(t.Context(), "k", l, 1, 1)
		w.must(err)
		ends = append(ends, w.number(`SELECT extract(epoch FROM ends_at)::bigint FROM rate_limits`))
	}
	if n := len(slices.Compact(ends)); n > 2 {
		t.Errorf("200 requests moved the end %d times", n)
	}
}

func BenchmarkRateLimitReserve(b *testing.B) {
	w := newWorld(b)
	l := ratelimit.Limit{Quota: 1_000_000, Window: time.Minute, Burst: 1_000_000}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.RateLimits().Reserve(b.Context(), "k", l, 1, 1); err != nil {
			b.Fatal(err)
		}
	}
}
