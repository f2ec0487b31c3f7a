package platform

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/changes"
)

// observeChanges measures how long changes take to hold on this replica.
func observeChanges(meter metric.Meter) (func(kind changes.Kind, delay time.Duration), error) {
	delays, err := meter.Float64Histogram("keywarden.changes.propagation", metric.WithUnit("s"),
		metric.WithDescription("Time from a change, such as the revocation of a key, until this replica had applied it from the log."),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.changes.propagation: %w", err)
	}
	return func(kind changes.Kind, delay time.Duration) {
		delays.Record(context.Background(), delay.Seconds(), metric.WithAttributes(attribute.String("keywarden.change", string(kind))))
	}, nil
}
