package app

import (
	"context"
	"errors"

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
	return errors.Join(append(errs, a.observeTargets(meter))...)
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
