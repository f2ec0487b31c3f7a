package bound

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Counter is a counter of a [Provider]. It implements [metric.Int64Counter].
type Counter struct {
	embedded.Int64Counter
	kept[Count]
}

// Enabled implements [metric.Int64Counter].
func (c *Counter) Enabled(context.Context) bool { return true }

// Add implements [metric.Int64Counter].
func (c *Counter) Add(ctx context.Context, n int64, options ...metric.AddOption) {
	o := metric.NewAddConfig(options)
	c.count(o.Attributes()).AddTraced(ctx, n)
}

// count finds or makes the series of the attributes.
func (c *Counter) count(attributes attribute.Set) *Count {
	return c.all.find(attributes, func(attributes attribute.Set) *Count {
		return &Count{own: c, attributes: attributes, parts: make([]part, c.provider.stripes.count)}
	})
}

// sums implements instrument.
func (c *Counter) sums(now time.Time) metricdata.Aggregation {
	var points []metricdata.DataPoint[int64]
	for _, s := range c.all.list() {
		if !s.seen.Load() {
			continue // it was bound, and nothing has been counted yet
		}
		p := metricdata.DataPoint[int64]{Attributes: s.attributes, StartTime: c.start, Time: now}
		for i := range s.parts {
			p.Value += s.parts[i].n.Load()
		}
		if e := s.exemplar.Load(); e != nil {
			p.Exemplars = []metricdata.Exemplar[int64]{{
				Time: e.at, Value: int64(e.value), TraceID: e.trace[:], SpanID: e.span[:],
			}}
		}
		points = append(points, p)
	}
	if len(points) == 0 {
		return nil
	}
	return metricdata.Sum[int64]{DataPoints: points, Temporality: metricdata.CumulativeTemporality, IsMonotonic: true}
}

// Count is one time series of a counter. It is safe for concurrent use.
type Count struct {
	own        *Counter
	attributes attribute.Set
	parts      []part
	seen       atomic.Bool // also by adding 0, as with the SDK
	exemplar   atomic.Pointer[exemplar]

	ordinary metric.Int64Counter // in place of all of the above
	options  []metric.AddOption
}

// part is a part of a count, in a cache line of its own.
type part struct {
	n atomic.Int64
	_ [56]byte
}

// BindCounter is [Bind] for counters.
func BindCounter(c metric.Int64Counter, attributes attribute.Set) *Count {
	if own, ok := c.(*Counter); ok {
		return own.count(attributes)
	}
	return &Count{ordinary: c, options: []metric.AddOption{metric.WithAttributeSet(attributes)}}
}

// Add counts what belongs to no sampled trace.
func (c *Count) Add(n int64) {
	if c.own == nil {
		c.ordinary.Add(context.Background(), n, c.options...)
		return
	}
	if !c.seen.Load() {
		c.seen.Store(true)
	}
	token := c.own.provider.stripes.enter()
	c.parts[*token].n.Add(n)
	c.own.provider.stripes.leave(token)
}

// AddTraced is Add for what belongs to the trace of ctx: where that is sampled, it becomes
// the exemplar.
func (c *Count) AddTraced(ctx context.Context, n int64) {
	if c.own == nil {
		c.ordinary.Add(ctx, n, c.options...)
		return
	}
	c.Add(n)
	if e, ok := c.own.provider.exemplar(ctx, float64(n)); ok {
		c.exemplar.Store(&e)
	}
}
