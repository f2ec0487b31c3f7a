// Package bound has histograms and counters of OpenTelemetry whose time series are found
// beforehand, so that a measurement is a lock that nobody else wants and two additions: the
// SDK looks the series up and asks for the trace each time, which costs ten times as much.
//
// A [Provider] stands before the meter provider of the SDK. Histograms with buckets of their
// own and counters of integers are kept by it, with names, units, attributes, buckets and
// bounds of cardinality as in the SDK, and go out by the SDK's reader, of which it is a
// producer; every other instrument is the SDK's. Who measures uses the methods of
// OpenTelemetry as ever, or binds an instrument to its attributes first, with [Bind] or
// [BindCounter].
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
	"go.opentelemetry.io/otel/trace"
)

// maxStripes bounds the memory of one series on machines with many processors.
const maxStripes = 8

// Options says what a provider keeps.
type Options struct {
	// SeriesLimit bounds the series of one instrument, as [sdkmetric.WithCardinalityLimit]
	// does: what is beyond is counted in one series marked otel.metric.overflow. It is positive.
	SeriesLimit int

	// Exemplars has the latest measurement kept that belongs to a sampled trace, of each
	// bucket and counter.
	Exemplars bool
}

// Provider is a [metric.MeterProvider] with instruments of its own, and the
// [sdkmetric.Producer] of them. It is safe for concurrent use.
type Provider struct {
	metric.MeterProvider
	options Options
	now     func() time.Time
	stripes stripes

	mu          sync.Mutex
	instruments []instrument
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

// meter is one of the SDK but for the instruments that the provider keeps.
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
	h := &Histogram{bounds: slices.Clone(bounds)}
	h.identity = identity{m.scope, name, c.Unit(), c.Description()}
	return keep(m.provider, h, func(old *Histogram) bool { return slices.Equal(old.bounds, bounds) })
}

// Int64Counter implements [metric.Meter].
func (m *meter) Int64Counter(name string, options ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	ordinary, err := m.Meter.Int64Counter(name, options...)
	if err != nil {
		return ordinary, err
	}
	c := metric.NewInt64CounterConfig(options...)
	counter := &Counter{}
	counter.identity = identity{m.scope, name, c.Unit(), c.Description()}
	return keep(m.provider, counter, func(*Counter) bool { return true })
}

// instrument is what the provider keeps.
type instrument interface {
	about() identity

	// keptBy tells a new instrument whose it is.
	keptBy(p *Provider)

	// sums are those at the moment now; nil where nothing was measured.
	sums(now time.Time) metricdata.Aggregation
}

// identity is what shows of an instrument beside its sums.
type identity struct {
	scope                   instrumentation.Scope
	name, unit, description string
}

// about implements instrument.
func (i identity) about() identity { return i }

// kept is what every instrument of a provider has; S is a time series of it.
type kept[S any] struct {
	identity
	provider *Provider
	start    time.Time
	all      table[S]
}

// keptBy implements instrument.
func (k *kept[S]) keptBy(p *Provider) {
	k.provider, k.start, k.all.limit = p, p.now(), p.options.SeriesLimit
}

// exemplar is a measurement of a sampled trace.
type exemplar struct {
	at    time.Time
	value float64
	trace trace.TraceID
	span  trace.SpanID
}

// exemplar is the one that a measurement makes in the trace of ctx, if that is sampled and
// there are to be any.
func (p *Provider) exemplar(ctx context.Context, value float64) (exemplar, bool) {
	if !p.options.Exemplars {
		return exemplar{}, false
	}
	span := trace.SpanContextFromContext(ctx)
	if !span.IsSampled() {
		return exemplar{}, false
	}
	return exemplar{at: p.now(), value: value, trace: span.TraceID(), span: span.SpanID()}, true
}

// keep has p keep made, unless it has that instrument already, which is returned then.
func keep[I instrument](p *Provider, made I, alike func(I) bool) (I, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := made.about()
	for _, other := range p.instruments {
		if other.about().scope != id.scope || other.about().name != id.name {
			continue
		}
		old, ok := other.(I)
		if !ok || old.about() != id || !alike(old) {
			return made, fmt.Errorf("the instrument %s exists as another kind, or with another unit, description or buckets", id.name)
		}
		return old, nil
	}
	made.keptBy(p)
	p.instruments = append(p.instruments, made)
	return made, nil
}

// Produce implements [sdkmetric.Producer].
func (p *Provider) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	p.mu.Lock()
	instruments := p.instruments
	p.mu.Unlock()
	var out []metricdata.ScopeMetrics
	for _, i := range instruments {
		id, sums := i.about(), i.sums(p.now())
		if sums == nil {
			continue // as with the SDK, what was never measured does not show
		}
		at := slices.IndexFunc(out, func(s metricdata.ScopeMetrics) bool { return s.Scope == id.scope })
		if at < 0 {
			at, out = len(out), append(out, metricdata.ScopeMetrics{Scope: id.scope})
		}
		out[at].Metrics = append(out[at].Metrics, metricdata.Metrics{
			Name: id.name, Description: id.description, Unit: id.unit, Data: sums,
		})
	}
	return out, nil
}

// table has the time series of an instrument. It is safe for concurrent use.
type table[S any] struct {
	limit int
	found sync.Map // of *S, by attribute.Distinct

	mu  sync.Mutex // for adding one
	all []*S       // only ever appended to
}

// find finds the series of the attributes, or has it made: for other attributes, where
// there are as many as there may be.
func (t *table[S]) find(attributes attribute.Set, make func(attribute.Set) *S) *S {
	key := attributes.Equivalent()
	if s, ok := t.found.Load(key); ok {
		return s.(*S)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.found.Load(key); ok { // another request was faster
		return s.(*S)
	}
	if len(t.all) >= t.limit-1 {
		attributes = attribute.NewSet(attribute.Bool("otel.metric.overflow", true))
		key = attributes.Equivalent()
		if s, ok := t.found.Load(key); ok {
			return s.(*S)
		}
	}
	s := make(attributes)
	t.found.Store(key, s)
	t.all = append(t.all, s)
	return s
}

// list are all series that there are.
func (t *table[S]) list() []*S {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

// stripes spreads those who measure at the same time: a processor gets the same stripe
// again and again, as [sync.Pool] keeps what was put back for the processor that did.
type stripes struct {
	count int // a power of two
	next  atomic.Uint32
	pool  sync.Pool // of *int, the number of a stripe
}

// init makes a stripe for each of processors, of which there are 1 to maxStripes.
func (s *stripes) init(processors int) {
	s.count = 1 << bits.Len(uint(processors-1))
	s.pool.New = func() any {
		n := int(s.next.Add(1)) & (s.count - 1)
		return &n
	}
}

// enter is the number of a stripe for who measures, who says when it is over.
func (s *stripes) enter() *int { return s.pool.Get().(*int) }

func (s *stripes) leave(number *int) { s.pool.Put(number) }
