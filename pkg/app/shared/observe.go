package shared

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

// metrics are what is counted as it happens.
type metrics struct {
	answers metric.Int64Counter
}

// observeCache counts what became of requests for answers that may be kept. The series of
// an outcome is found when it occurs first on a route; it goes with the document that has
// the route.
func (s *State) observeCache() func(route string) func(cache.Outcome) {
	return func(route string) func(cache.Outcome) {
		counts := map[cache.Outcome]func() *bound.Count{}
		for _, o := range cache.Outcomes() {
			counts[o] = sync.OnceValue(func() *bound.Count {
				return bound.BindCounter(s.metrics.answers, attribute.NewSet(
					attribute.String("keywarden.route", route), attribute.String("keywarden.cache.outcome", string(o))))
			})
		}
		return func(o cache.Outcome) { counts[o]().Add(1) }
	}
}

// observe registers what is measured, most of it by looking at each scrape.
func (s *State) observe() error {
	meter := s.options.Meter
	var err error
	s.metrics.answers, err = meter.Int64Counter("keywarden.cache.requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests to routes with a cache policy, by what became of them."))
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range []struct {
		name, unit, description string
		counts                  bool
		value                   func() int64
	}{
		{"keywarden.quota.subjects", "{subject}", "Subjects of quotas that this replica remembers.", false, func() int64 { return int64(s.Quotas.Stats().Subjects) }},
		{"keywarden.quota.leased", "{unit}", "Units of quotas that this replica holds and has not given out.", false, func() int64 { return s.Quotas.Stats().Leased }},
		{"keywarden.quota.lost", "{unit}", "Units of quotas that could not be given back and are lost to their period.", true, func() int64 { return s.Quotas.Stats().Lost }},
		{"keywarden.quota.unmetered", "{unit}", "Units that quotas with when_unavailable: allow let pass without the ledger.", true, func() int64 { return s.Quotas.Stats().Unmetered }},
		{"keywarden.quota.warnings", "{event}", "Accounts of quotas of which this replica has used 80 or 100 percent, once for each period.", true, func() int64 { return s.Quotas.Stats().Events }},
		{"keywarden.quota.ledger.failures", "{failure}", "Times that the ledger of quotas did not answer when units were asked for.", true, func() int64 { return s.Quotas.Stats().Failed }},
		{"keywarden.cache.stores", "{answer}", "Answers that were given to the cache to keep.", true, s.stored.Load},
		{"keywarden.usage.cells", "{cell}", "Combinations of route, caller and status whose usage is in memory.", false, func() int64 { return s.Usage.Stats().Cells }},
		{"keywarden.usage.folded", "{request}", "Requests that were counted by route alone, for want of room.", true, func() int64 { return s.Usage.Stats().Folded }},
		{"keywarden.usage.dropped", "{request}", "Requests whose usage was not counted, for want of room.", true, func() int64 { return s.Usage.Stats().Dropped }},
		{"keywarden.usage.failures", "{failure}", "Times that usage could not be stored; it is kept and stored later.", true, func() int64 { return s.Usage.Stats().Failed }},
	} {
		look := metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(m.value())
			return nil
		})
		var err error
		if m.counts {
			_, err = meter.Int64ObservableCounter(m.name, metric.WithUnit(m.unit), metric.WithDescription(m.description), look)
		} else {
			_, err = meter.Int64ObservableGauge(m.name, metric.WithUnit(m.unit), metric.WithDescription(m.description), look)
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.observeQuotas(), s.observeMemory(), s.observeAnalytics())...)
}

// observeQuotas registers what became of requests that count for quotas.
func (s *State) observeQuotas() error {
	_, err := s.options.Meter.Int64ObservableCounter("keywarden.quota.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Requests that count for quotas: granted, refused because the quota is used up, or refused because the ledger did not answer (unknown)."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			stats := s.Quotas.Stats()
			for _, of := range []struct {
				outcome string
				n       int64
			}{{"granted", stats.Granted}, {"refused", stats.Refused}, {"unknown", stats.Unknown}} {
				o.Observe(of.n, metric.WithAttributes(attribute.String("keywarden.outcome", of.outcome)))
			}
			return nil
		}))
	return err
}

// observeMemory registers how much memory answers take, where they are in memory.
func (s *State) observeMemory() error {
	size, err1 := s.options.Meter.Int64ObservableGauge("keywarden.cache.size", metric.WithUnit("By"),
		metric.WithDescription("Memory of the answers that this replica keeps; there is none where they are in Redis."))
	entries, err2 := s.options.Meter.Int64ObservableGauge("keywarden.cache.entries", metric.WithUnit("{answer}"),
		metric.WithDescription("Answers that this replica keeps in memory."))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	_, err := s.options.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		if s.memory != nil {
			o.ObserveInt64(size, int64(min(s.memory.Bytes(), math.MaxInt64)))
			o.ObserveInt64(entries, int64(s.memory.Len()))
		}
		return nil
	}, size, entries)
	return err
}

// observeAnalytics registers how old the sums of analytics may be.
func (s *State) observeAnalytics() error {
	_, err := s.options.Meter.Float64ObservableGauge("keywarden.analytics.lag", metric.WithUnit("s"),
		metric.WithDescription("Time since this replica last found all of usage summed up for analytics, or began to look."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			if at := s.swept.Load(); at != 0 {
				o.Observe(time.Since(time.Unix(0, at)).Seconds())
			}
			return nil
		}))
	return err
}

// countedAnswers counts the answers that it is given.
type countedAnswers struct {
	httpcache.Store
	stored *atomic.Int64
}

// Put implements [httpcache.Store].
func (c countedAnswers) Put(ctx context.Context, key httpcache.Key, o *httpcache.Object, keep time.Duration, since httpcache.Mark) {
	c.stored.Add(1)
	c.Store.Put(ctx, key, o, keep, since)
}

// sweptSums remembers when there was nothing left to sum up: what is old is dropped
// only then.
type sweptSums struct {
	analytics.Store
	swept *atomic.Int64
}

// DropAnalytics implements [analytics.Store].
func (s sweptSums) DropAnalytics(ctx context.Context, now time.Time, r analytics.Retention) error {
	s.swept.Store(now.UnixNano())
	return s.Store.DropAnalytics(ctx, now, r)
}
