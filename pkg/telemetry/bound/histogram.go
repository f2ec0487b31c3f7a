package bound

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// maxBounds is how many bounds of buckets a histogram of ours may have: its counts have
// their place in the series. It is the number that OpenTelemetry has by default.
const maxBounds = 15

// Histogram is a histogram of a [Provider]. It implements [metric.Float64Histogram].
type Histogram struct {
	embedded.Float64Histogram
	kept[Series]

	bounds []float64 // upper, inclusive, in ascending order; never changed
}

// Enabled implements [metric.Float64Histogram].
func (h *Histogram) Enabled(context.Context) bool { return true }

// Record implements [metric.Float64Histogram].
func (h *Histogram) Record(ctx context.Context, value float64, options ...metric.RecordOption) {
	c := metric.NewRecordConfig(options)
	h.series(c.Attributes()).RecordTraced(ctx, value)
}

// series finds or makes that of the attributes.
func (h *Histogram) series(attributes attribute.Set) *Series {
	return h.all.find(attributes, func(attributes attribute.Set) *Series {
		return &Series{own: h, attributes: attributes, stripes: make([]atomic.Pointer[stripe], h.provider.stripes.count)}
	})
}

// sums implements instrument. Each measurement is in one stripe, as a whole or not at all,
// so that count, sum and buckets agree.
func (h *Histogram) sums(now time.Time) metricdata.Aggregation {
	all := h.all.list()
	points := make([]metricdata.HistogramDataPoint[float64], 0, len(all))
	buckets := len(h.bounds) + 1
	counts := make([]uint64, len(all)*buckets)
	for _, s := range all {
		var total stripe
		s.addTo(&total)
		p := metricdata.HistogramDataPoint[float64]{
			Attributes: s.attributes, StartTime: h.start, Time: now,
			Bounds: h.bounds, BucketCounts: counts[:buckets:buckets], Sum: total.sum,
		}
		counts = counts[buckets:]
		for i := range p.BucketCounts {
			p.BucketCounts[i] = total.counts[i]
			p.Count += total.counts[i]
		}
		if p.Count == 0 {
			continue // it was bound, and nothing has been measured yet
		}
		p.Exemplars = total.exemplars.list()
		points = append(points, p)
	}
	if len(points) == 0 {
		return nil
	}
	return metricdata.Histogram[float64]{DataPoints: points, Temporality: metricdata.CumulativeTemporality}
}

// Series is one time series of a histogram. It is safe for concurrent use.
type Series struct {
	own        *Histogram
	attributes attribute.Set
	stripes    []atomic.Pointer[stripe] // made when they are needed

	ordinary metric.Float64Histogram // in place of all of the above
	options  []metric.RecordOption
}

// Bind finds the series of h with the attributes. Where h is no histogram of a
// [Provider], as in tests or where metrics are off, it is measured with as it is.
func Bind(h metric.Float64Histogram, attributes attribute.Set) *Series {
	if own, ok := h.(*Histogram); ok {
		return own.series(attributes)
	}
	return &Series{ordinary: h, options: []metric.RecordOption{metric.WithAttributeSet(attributes)}}
}

// Record takes a measurement down that belongs to no sampled trace.
func (s *Series) Record(value float64) {
	if s.own == nil {
		s.ordinary.Record(context.Background(), value, s.options...)
		return
	}
	token := s.own.provider.stripes.enter()
	st := s.stripe(*token)
	bucket := s.own.bucket(value)
	st.mu.Lock()
	st.counts[bucket]++
	st.sum += value
	st.mu.Unlock()
	s.own.provider.stripes.leave(token)
}

// RecordTraced is Record for a measurement of the trace of ctx: where that is sampled, it
// becomes the exemplar of its bucket.
func (s *Series) RecordTraced(ctx context.Context, value float64) {
	if s.own == nil {
		s.ordinary.Record(ctx, value, s.options...)
		return
	}
	s.Record(value)
	if e, ok := s.own.provider.exemplar(ctx, value); ok {
		s.keep(e)
	}
}

// keep makes e the exemplar of its bucket.
func (s *Series) keep(e exemplar) {
	st := s.stripe(0) // few requests are sampled
	bucket := s.own.bucket(e.value)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.exemplars == nil {
		st.exemplars = new(exemplars)
	}
	st.exemplars[bucket] = e
}

// bucket is the index of the bucket of value. Most requests are short and in one of the
// first.
func (h *Histogram) bucket(value float64) int {
	for i, bound := range h.bounds {
		if value <= bound {
			return i
		}
	}
	return len(h.bounds)
}

// stripe is the stripe of that number.
func (s *Series) stripe(number int) *stripe {
	if st := s.stripes[number].Load(); st != nil {
		return st
	}
	s.stripes[number].CompareAndSwap(nil, new(stripe))
	return s.stripes[number].Load()
}

// addTo adds what was measured to total.
func (s *Series) addTo(total *stripe) {
	for i := range s.stripes {
		st := s.stripes[i].Load()
		if st == nil {
			continue
		}
		st.mu.Lock()
		total.sum += st.sum
		for b, n := range st.counts {
			total.counts[b] += n
		}
		if st.exemplars != nil {
			kept := *st.exemplars
			total.exemplars = &kept
		}
		st.mu.Unlock()
	}
}

// stripe is a part of a series, in cache lines of its own.
type stripe struct {
	mu        sync.Mutex
	sum       float64
	exemplars *exemplars // nil for none; only in the first stripe
	counts    [maxBounds + 1]uint64
	_         [40]byte // up to three lines of 64 bytes
}

// exemplars are those of the buckets; the zero value is none.
type exemplars [maxBounds + 1]exemplar

// list are the exemplars that there are.
func (e *exemplars) list() []metricdata.Exemplar[float64] {
	if e == nil {
		return nil
	}
	var out []metricdata.Exemplar[float64]
	for _, x := range e {
		if !x.at.IsZero() {
			out = append(out, metricdata.Exemplar[float64]{Time: x.at, Value: x.value, TraceID: x.trace[:], SpanID: x.span[:]})
		}
	}
	return out
}
