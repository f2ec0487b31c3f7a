package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// newFetched makes what counts the questions for tokens that services are called with.
// They are rare: a token serves thousands of requests.
func newFetched(meter metric.Meter) (func(service string, took time.Duration, err error), error) {
	fetches, err1 := meter.Int64Counter("keywarden.credential.token_fetches", metric.WithUnit("{fetch}"),
		metric.WithDescription("Questions to token endpoints for the tokens that services are called with, by what became of them."))
	duration, err2 := meter.Float64Histogram("keywarden.credential.token_fetch.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that a question to a token endpoint took."),
		metric.WithExplicitBucketBoundaries(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("making the metrics of token endpoints: %w", err)
	}
	return func(service string, took time.Duration, err error) {
		outcome := "granted"
		if err != nil {
			outcome = "failed"
		}
		of := attribute.String("keywarden.service", service)
		fetches.Add(context.Background(), 1, metric.WithAttributes(of, attribute.String("keywarden.outcome", outcome)))
		duration.Record(context.Background(), took.Seconds(), metric.WithAttributes(of))
	}, nil
}
