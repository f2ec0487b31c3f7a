package bound

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Each stripe is measured in, as if by a processor of its own; what goes out is all of them.
func TestAllStripesAreSummedUp(t *testing.T) {
	p := NewProvider(Options{SeriesLimit: 10})
	p.stripes.init(3)
	if p.stripes.count != 4 {
		t.Fatalf("%d stripes for 3 processors", p.stripes.count)
	}
	p.Extend(noop.NewMeterProvider())
	m := p.Meter("scope")
	h, _ := m.Float64Histogram("h", metric.WithExplicitBucketBoundaries(1, 2))
	c, _ := m.Int64Counter("c")
	series, count := Bind(h, attribute.NewSet()), BindCounter(c, attribute.NewSet())
	used := map[int]bool{}
	for len(used) < p.stripes.count {
		used[*p.stripes.enter()] = true // and not given back, so that the next is another
		series.Record(0.5)
		series.Record(1.5)
		count.Add(1)
	}
	var touched int
	for i := range series.stripes {
		if series.stripes[i].Load() != nil && count.parts[i].n.Load() > 0 {
			touched++
		}
	}
	if touched < 2 {
		t.Fatalf("%d stripes were used", touched)
	}
	out, err := p.Produce(context.Background())
	if err != nil || len(out) != 1 || len(out[0].Metrics) != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	point := out[0].Metrics[0].Data.(metricdata.Histogram[float64]).DataPoints[0]
	n := out[0].Metrics[1].Data.(metricdata.Sum[int64]).DataPoints[0].Value
	if n < int64(p.stripes.count) || point.Count != uint64(2*n) || point.Sum != float64(2*n) || point.BucketCounts[0] != uint64(n) {
		t.Errorf("%d was counted, and measured %+v", n, point)
	}
}
