package httpedge

import (
	"context"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
)

// activeRequests are the requests being served, by method and scheme. They are
// plain counters that are looked at when somebody asks: an up-down counter
// would cost two measurements per request.
type activeRequests [methodCount][2]activeCount

type activeCount struct {
	now  atomic.Int64
	seen atomic.Bool // keeps series that never were from showing as 0
}

// Add changes the count by n.
func (c *activeCount) Add(n int64) {
	c.now.Add(n)
	if !c.seen.Load() {
		c.seen.Store(true)
	}
}

func (a *activeRequests) count(m method, https bool) *activeCount {
	if https {
		return &a[m][1]
	}
	return &a[m][0]
}

func (a *activeRequests) register(meter metric.Meter) error {
	gauge, err := httpconv.NewServerActiveRequestsObservable(meter)
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for m := range method(methodCount) {
			for _, https := range []bool{false, true} {
				c := a.count(m, https)
				if !c.seen.Load() {
					continue
				}
				o.ObserveInt64(gauge.Int64ObservableUpDownCounter, c.now.Load(),
					metric.WithAttributeSet(attribute.NewSet(
						semconv.HTTPRequestMethodKey.String(m.String()),
						semconv.URLScheme(schemeName(https)))))
			}
		}
		return nil
	}, gauge.Int64ObservableUpDownCounter)
	return err
}
