package shared

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
)

// metrics are what is counted as it happens.
type metrics struct {
	answers metric.Int64Counter
}

// observeCache counts what became of requests for answers that may be kept.
func (s *State) observeCache() func(route string, o cache.Outcome) {
	return func(route string, o cache.Outcome) {
		s.metrics.answers.Add(context.Background(), 1, metric.WithAttributeSet(attribute.NewSet(
			attribute.String("keywarden.route", route), attribute.String("keywarden.cache.outcome", string(o)))))
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
	return errors.Join(errs...)
}
