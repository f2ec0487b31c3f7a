package app

import (
	"context"
	"errors"

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
	return errors.Join(errs...)
}
