// Package bound has histograms of OpenTelemetry whose time series are found beforehand,
// so that a measurement is a lock that nobody else wants and two additions: the SDK
// looks the series up and asks for the trace each time, which costs ten times as much.
//
// A [Provider] stands before the meter provider of the SDK. Histograms that it can keep
// itself are its own, with names, units, attributes, buckets and bounds of cardinality as
// in the SDK, and go out by the SDK's reader, of which it is a producer; every other
// instrument is the SDK's. Who measures uses [Histogram.Record] as ever, or [Bind].
//
// Sums are cumulative: a reader that asks for deltas would not get them from a producer,
// and the program has none. The least and the greatest measurement, which Prometheus has
// no place for, are not kept.
package bound

import (
	"context"
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// maxStripes bounds the memory of one series on machines with many processors.
const maxStripes = 8

// Options says what a provider keeps.
type Options struct {
	// SeriesLimit bounds the series of one histogram, as [sdkmetric.WithCardinalityLimit]
	// does: what is beyond is counted in one series marked otel.metric.overflow. It is positive.
	SeriesLimit int

	// Exemplars has the latest measurement of each bucket kept that belongs to a sampled
	// trace.
	Exemplars bool
}

// Provider is a [metric.MeterProvider] with histograms of its own, and the
// [sdkmetric.Producer] of them. It is safe for concurrent use.
type Provider struct {
	metric.MeterProvider
	options Options
	now     func() time.Time
	stripes stripes

	mu         sync.Mutex
	histograms []*Histogram
}

var _ sdkmetric.Producer = (*Provider)(nil)

// NewProvider makes a provider. Before it makes meters, [Provider.Extend] tells it whose
// they are otherwise; until then it can be handed to a reader.
func NewProvider(o Options) *Provider {
	p := &Provider{options: o, now: time.Now}
	p.stripes.init(min(runtime.GOMAXPROCS(0), maxStripes))
	return p
}

// Extend has every instrument that is not the provider's own made by next.
func (p *Provider) Extend(next metric.MeterProvider) { p.MeterProvider = next }

// Meter implements [metric.MeterProvider].
func (p *Provider) Meter(name string, options ...metric.MeterOption) metric.Meter {
	c := metric.NewMeterConfig(options...)
	return &meter{
		Meter:    p.MeterProvider.Meter(name, options...),
		provider: p,
		scope: instrumentation.Scope{
			Name: name, Version: c.InstrumentationVersion(), SchemaURL: c.SchemaURL(), Attributes: c.InstrumentationAttributes(),
		},
	}
}

// meter is one of the SDK but for its histograms.
type meter struct {
	metric.Meter
	provider *Provider
	scope    instrumentation.Scope
}

// Float64Histogram implements [metric.Meter].
func (m *meter) Float64Histogram(name string, options ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	// The SDK says what is wrong with a name, and what is never measured with shows nowhere.
	ordinary, err := m.Meter.Float64Histogram(name, options...)
	c := metric.NewFloat64HistogramConfig(options...)
	bounds := c.ExplicitBucketBoundaries()
	if err != nil || len(bounds) == 0 || len(bounds) > maxBounds || !slices.IsSorted(bounds) {
		return ordinary, err
	}
	return m.provider.histogram(m.scope, name, c)
}

// histogram makes a histogram, or finds that of the same name.
func (p *Provider) histogram(scope instrumentation.Scope, name string, c metric.Float64HistogramConfig) (metric.Float64Histogram, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.histograms {
		if h.scope != scope || h.name != name {
			continue
		}
		if h.unit != c.Unit() || h.description != c.Description() || !slices.Equal(h.bounds, c.ExplicitBucketBoundaries()) {
			return nil, fmt.Errorf("the histogram %s exists with another unit, description or buckets", name)
		}
		return h, nil
	}
	h := &Histogram{
		scope: scope, name: name, unit: c.Unit(), description: c.Description(),
		bounds: slices.Clone(c.ExplicitBucketBoundaries()),
		limit:  p.options.SeriesLimit, exemplars: p.options.Exemplars,
		stripes: &p.stripes, now: p.now, start: p.now(),
	}
	p.histograms = append(p.histograms, h)
	return h, nil
}

// Produce implements [sdkmetric.Producer].
func (p *Provider) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	p.mu.Lock()
	histograms := p.histograms
	p.mu.Unlock()
	var out []metricdata.ScopeMetrics
	for _, h := range histograms {
		points := h.points(p.now())
		if len(points) == 0 {
			continue // as with the SDK, what was never measured does not show
		}
		m := metricdata.Metrics{
			Name: h.name, Description: h.description, Unit: h.unit,
			Data: metricdata.Histogram[float64]{DataPoints: points, Temporality: metricdata.CumulativeTemporality},
		}
		at := slices.IndexFunc(out, func(s metricdata.ScopeMetrics) bool { return s.Scope == h.scope })
		if at < 0 {
			at, out = len(out), append(out, metricdata.ScopeMetrics{Scope: h.scope})
		}
		out[at].Metrics = append(out[at].Metrics, m)
	}
	return out, nil
}

// stripes spreads those who measure at the same time: a processor gets the same stripe
// again and again, as [sync.Pool] keeps what was put back for the processor that did.
type stripes struct {
	count int // a power of two
	next  atomic.Uint32
	pool  sync.Pool // of *int, the number of a stripe
}

// init makes a stripe for each of processors.
func (s *stripes) init(processors int) {
	s.count = 1 << bits.Len(uint(processors-1)) //nolint:gosec // at least 1 and at most maxStripes
	s.pool.New = func() any {
		n := int(s.next.Add(1)) & (s.count - 1)
		return &n
	}
}

// overflow are the attributes of what goes beyond the limit of series.
func overflow() attribute.Set { return attribute.NewSet(attribute.Bool("otel.metric.overflow", true)) }
