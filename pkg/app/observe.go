package app

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// observe registers what is measured by looking, at each scrape.
func (a *application) observe() error {
	meter := a.telemetry.MeterProvider().Meter("github.com/keywarden/keywarden/pkg/app")
	pool := a.platform.Store.Stats
	gauges := []struct {
		name, unit, description string
		value                   func() float64
	}{
		{"keywarden.db.connections", "{connection}", "Open connections to PostgreSQL.", func() float64 { return float64(pool().TotalConns()) }},
		{"keywarden.db.connections.in_use", "{connection}", "Connections to PostgreSQL in use.", func() float64 { return float64(pool().AcquiredConns()) }},
		{"keywarden.db.connections.max", "{connection}", "Most connections to PostgreSQL.", func() float64 { return float64(pool().MaxConns()) }},
		{"keywarden.db.connections.idle", "{connection}", "Open connections to PostgreSQL that nobody uses.", func() float64 { return float64(pool().IdleConns()) }},
		{"keywarden.replicas", "{replica}", "Replicas that live, this one included, as far as this one knows.", func() float64 { return float64(a.platform.Follower.Live()) }},
		{"keywarden.changes.max_staleness", "s", "For how long cached credentials are honoured without contact to the log of changes.", func() float64 { return a.Config.Revocation.MaxStaleness.Seconds() }},
		{"keywarden.keys.cached", "{key}", "API keys known in memory.", func() float64 { return float64(a.platform.KeyCheck.Cached()) }},
		{"keywarden.keys.scope_uses_dropped", "{use}", "Uses of scopes that were not remembered, since too many differ.", func() float64 { return float64(a.platform.ScopeUses.Dropped()) }},
		{"keywarden.changes.lag", "s", "Time since this replica last knew every revocation.", func() float64 { return a.platform.Follower.Lag().Seconds() }},
		{"keywarden.gateway.routes", "{route}", "Routes in force.", func() float64 { return float64(a.gateway.State().Routes) }},
	}
	var errs []error
	for _, g := range gauges {
		_, err := meter.Float64ObservableGauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.description),
			metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
				o.Observe(g.value())
				return nil
			}))
		errs = append(errs, err)
	}
	return errors.Join(append(errs, a.observePool(meter), a.observeDocument(meter), a.observeTargets(meter), a.observeProgram(meter))...)
}

// observePool registers what waiting for a connection to PostgreSQL has come to.
func (a *application) observePool(meter metric.Meter) error {
	acquires, err1 := meter.Int64ObservableCounter("keywarden.db.acquires", metric.WithUnit("{acquire}"),
		metric.WithDescription("Times that a connection to PostgreSQL was taken from the pool."))
	waits, err2 := meter.Int64ObservableCounter("keywarden.db.waits", metric.WithUnit("{wait}"),
		metric.WithDescription("Times that one had to wait for a connection to PostgreSQL, because none was free."))
	waited, err3 := meter.Float64ObservableCounter("keywarden.db.wait_time", metric.WithUnit("s"),
		metric.WithDescription("Time that was spent waiting for a connection to PostgreSQL."))
	cancelled, err4 := meter.Int64ObservableCounter("keywarden.db.waits_cancelled", metric.WithUnit("{wait}"),
		metric.WithDescription("Times that one gave up waiting for a connection to PostgreSQL."))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := a.platform.Store.Stats()
		o.ObserveInt64(acquires, s.AcquireCount())
		o.ObserveInt64(waits, s.EmptyAcquireCount())
		o.ObserveFloat64(waited, s.EmptyAcquireWaitTime().Seconds())
		o.ObserveInt64(cancelled, s.CanceledAcquireCount())
		return nil
	}, acquires, waits, waited, cancelled)
	return err
}

// observeDocument registers what this replica serves of the gateway document.
func (a *application) observeDocument(meter metric.Meter) error {
	age, err1 := meter.Float64ObservableGauge("keywarden.gateway.document.age", metric.WithUnit("s"),
		metric.WithDescription("Time since the gateway document in force was applied; none without one."))
	number, err2 := meter.Int64ObservableGauge("keywarden.gateway.revision",
		metric.WithDescription("Number of the revision in force; 0 for a document from a file."))
	refused, err3 := meter.Int64ObservableGauge("keywarden.gateway.document.refused",
		metric.WithDescription("Whether a newer gateway document was refused and the last good one goes on: 1, or 0."))
	unusable, err4 := meter.Int64ObservableGauge("keywarden.gateway.objects.unusable", metric.WithUnit("{object}"),
		metric.WithDescription("Routes and services of the document in force of which a part could not be made."))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := a.gateway.State()
		if !s.AppliedAt.IsZero() {
			o.ObserveFloat64(age, time.Since(s.AppliedAt).Seconds())
			o.ObserveInt64(number, a.reporter.Serving().Number)
		}
		o.ObserveInt64(refused, oneIf(s.LastError != nil))
		services := int64(0)
		for _, b := range s.Backends {
			services += oneIf(b.Error != nil)
		}
		o.ObserveInt64(unusable, int64(len(s.Unusable)), metric.WithAttributes(attribute.String("keywarden.object", "route")))
		o.ObserveInt64(unusable, services, metric.WithAttributes(attribute.String("keywarden.object", "service")))
		return nil
	}, age, number, refused, unusable)
	return err
}

// observeProgram registers which program this is, and what its log has lost.
func (a *application) observeProgram(meter metric.Meter) error {
	v := Version()
	build := metric.WithAttributes(attribute.String("version", v.Version), attribute.String("commit", v.Commit), attribute.String("go_version", v.Go))
	_, err1 := meter.Int64ObservableGauge("keywarden.build.info", metric.WithDescription("Which program this is; always 1."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(1, build)
			return nil
		}))
	_, err2 := meter.Int64ObservableCounter("keywarden.log.lines_lost", metric.WithUnit("{line}"),
		metric.WithDescription("Lines of the log that were lost because nobody took them in time."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			if a.LostLines != nil {
				o.Observe(a.LostLines())
			} else {
				o.Observe(0)
			}
			return nil
		}))
	return errors.Join(err1, err2)
}

// observeTargets registers what is known of the targets of the services. Their
// addresses are in the gateway document, so there are as many as an operator
// has written down.
func (a *application) observeTargets(meter metric.Meter) error {
	available, err1 := meter.Int64ObservableGauge("keywarden.target.available", metric.WithUnit("{target}"),
		metric.WithDescription("Whether a target of a service takes requests: 1, or 0 while it is down or kept out."))
	inFlight, err2 := meter.Int64ObservableGauge("keywarden.target.in_flight", metric.WithUnit("{request}"),
		metric.WithDescription("Requests that a target of a service is working on."))
	open, err3 := meter.Int64ObservableGauge("keywarden.service.breaker_open", metric.WithUnit("{service}"),
		metric.WithDescription("Whether the circuit breaker of a service is open: 1, or 0."))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, b := range a.gateway.State().Backends {
			service := attribute.String("keywarden.service", b.Name)
			for _, t := range b.Targets {
				labels := metric.WithAttributes(service, attribute.String("keywarden.target", t.URL))
				o.ObserveInt64(available, oneIf(t.Available), labels)
				o.ObserveInt64(inFlight, t.InFlight, labels)
			}
			if b.Breaker != "" {
				o.ObserveInt64(open, oneIf(b.Breaker == "open"), metric.WithAttributes(service))
			}
		}
		return nil
	}, available, inFlight, open)
	return err
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
