package bound_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

var bounds = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

// newProviders makes a provider of ours and one of the SDK alone.
func newProviders(o bound.Options) (ours, sdk metric.MeterProvider, ourReader, sdkReader sdkmetric.Reader) {
	filter := exemplar.AlwaysOffFilter
	if o.Exemplars {
		filter = exemplar.TraceBasedFilter
	}
	options := func(r sdkmetric.Reader) []sdkmetric.Option {
		return []sdkmetric.Option{sdkmetric.WithReader(r), sdkmetric.WithCardinalityLimit(o.SeriesLimit), sdkmetric.WithExemplarFilter(filter)}
	}
	p := bound.NewProvider(o)
	ourReader, sdkReader = sdkmetric.NewManualReader(sdkmetric.WithProducer(p)), sdkmetric.NewManualReader()
	p.Extend(sdkmetric.NewMeterProvider(options(ourReader)...))
	return p, sdkmetric.NewMeterProvider(options(sdkReader)...), ourReader, sdkReader
}

func newHistogram(t rapid.TB, p metric.MeterProvider) metric.Float64Histogram {
	t.Helper()
	h, err := p.Meter("scope", metric.WithInstrumentationVersion("1"), metric.WithSchemaURL("https://schema")).
		Float64Histogram("request.duration", metric.WithUnit("s"), metric.WithDescription("how long"), metric.WithExplicitBucketBoundaries(bounds...))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newCounter(t rapid.TB, p metric.MeterProvider) metric.Int64Counter {
	t.Helper()
	c, err := p.Meter("scope", metric.WithInstrumentationVersion("1"), metric.WithSchemaURL("https://schema")).
		Int64Counter("requests", metric.WithUnit("{request}"), metric.WithDescription("how many"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func collect(t rapid.TB, r sdkmetric.Reader) []metricdata.ScopeMetrics {
	t.Helper()
	var out metricdata.ResourceMetrics
	if err := r.Collect(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	return out.ScopeMetrics
}

// points are those of the one histogram that there is.
func points(t rapid.TB, r sdkmetric.Reader) []metricdata.HistogramDataPoint[float64] {
	t.Helper()
	all := collect(t, r)
	if len(all) != 1 || len(all[0].Metrics) != 1 {
		t.Fatalf("%+v: not one metric", all)
	}
	return all[0].Metrics[0].Data.(metricdata.Histogram[float64]).DataPoints
}

func sampled(id byte) context.Context {
	return trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{id}, SpanID: trace.SpanID{id}, TraceFlags: trace.FlagsSampled,
	}))
}

func unsampled() context.Context {
	return trace.ContextWithSpanContext(context.Background(), trace.SpanContextFromContext(sampled(4)).WithTraceFlags(0))
}

// Dashboards and alerts must not notice which of the two keeps a histogram.
func TestWhatGoesOutIsWhatTheSDKSays(t *testing.T) {
	value := rapid.OneOf(rapid.Float64Range(0, 12), rapid.SampledFrom(bounds), rapid.SampledFrom([]float64{0, -1, math.Inf(1)}))
	rapid.Check(t, func(t *rapid.T) {
		ours, sdk, ourReader, sdkReader := newProviders(bound.Options{SeriesLimit: 5})
		a, b := newHistogram(t, ours), newHistogram(t, sdk)
		counted, countedThere := newCounter(t, ours), newCounter(t, sdk)
		for range rapid.IntRange(0, 40).Draw(t, "measurements") {
			v := value.Draw(t, "value")
			set := attribute.NewSet(attribute.Int("n", rapid.IntRange(0, 7).Draw(t, "series")), attribute.String("k", "v"))
			n := rapid.Int64Range(0, 100).Draw(t, "count")
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				bound.Bind(a, set).Record(v)
				b.Record(t.Context(), v, metric.WithAttributeSet(set))
			case 1:
				a.Record(t.Context(), v, metric.WithAttributeSet(set))
				b.Record(t.Context(), v, metric.WithAttributeSet(set))
			case 2:
				bound.BindCounter(counted, set).Add(n)
				countedThere.Add(t.Context(), n, metric.WithAttributeSet(set))
			default:
				counted.Add(t.Context(), n, metric.WithAttributeSet(set))
				countedThere.Add(t.Context(), n, metric.WithAttributeSet(set))
			}
		}
		if diff := gocmp.Diff(collect(t, sdkReader), collect(t, ourReader), same()...); diff != "" {
			t.Fatal(diff)
		}
	})
}

// same compares what is kept: neither moments nor the least and greatest measurement, nor
// an order, and sums up to the order in which they were added.
func same() []gocmp.Option {
	type point = metricdata.HistogramDataPoint[float64]
	type count = metricdata.DataPoint[int64]
	return []gocmp.Option{
		cmpopts.EquateEmpty(),
		cmpopts.EquateApprox(1e-9, 1e-9),
		cmpopts.IgnoreFields(point{}, "StartTime", "Time", "Min", "Max"),
		cmpopts.IgnoreFields(count{}, "StartTime", "Time"),
		cmpopts.SortSlices(func(a, b point) bool { return less(a.Attributes, b.Attributes) }),
		cmpopts.SortSlices(func(a, b count) bool { return less(a.Attributes, b.Attributes) }),
		cmpopts.SortSlices(func(a, b metricdata.Metrics) bool { return a.Name < b.Name }),
		gocmp.Comparer(func(a, b attribute.Set) bool { return a.Equals(&b) }),
	}
}

func less(a, b attribute.Set) bool {
	return a.Encoded(attribute.DefaultEncoder()) < b.Encoded(attribute.DefaultEncoder())
}

// Whoever reads in between must never find a bucket without its count, nor a sum of more
// than was counted.
func TestEachExportAgreesWithItself(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10})
	s := bound.Bind(newHistogram(t, ours), attribute.NewSet())
	s.Record(1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.Record(1) // so that the sum is the count
				}
			}
		})
	}
	var before uint64
	for range 300 {
		p := points(t, reader)[0]
		var inBuckets uint64
		for _, n := range p.BucketCounts {
			inBuckets += n
		}
		if p.Count != inBuckets || p.Sum != float64(p.Count) || p.Count < before {
			t.Errorf("count %d after %d, %d in buckets, sum %v", p.Count, before, inBuckets, p.Sum)
			break
		}
		before = p.Count
	}
	close(stop)
	wg.Wait()
}

func TestNothingIsLostBetweenProcessors(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10})
	h := newHistogram(t, ours)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				bound.Bind(h, attribute.NewSet(attribute.Int("n", i%3))).Record(0.001)
			}
		})
	}
	wg.Wait()
	var n uint64
	for _, p := range points(t, reader) {
		n += p.Count
	}
	if n != 8000 {
		t.Errorf("%d of 8000 measurements", n)
	}
}

func TestSeriesBeyondTheLimitAreCountedTogether(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10})
	h := newHistogram(t, ours)
	for i := range 100 {
		bound.Bind(h, attribute.NewSet(attribute.Int("n", i))).Record(1)
	}
	got := points(t, reader)
	at := slices.IndexFunc(got, func(p metricdata.HistogramDataPoint[float64]) bool {
		return p.Attributes.HasValue("otel.metric.overflow")
	})
	if len(got) != 10 || at < 0 || got[at].Count != 91 {
		t.Errorf("%d series, and those beyond are number %d of them", len(got), at)
	}
}

func TestTheLatestSampledRequestIsTheExemplarOfItsBucket(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10, Exemplars: true})
	s := bound.Bind(newHistogram(t, ours), attribute.NewSet())
	s.RecordTraced(sampled(1), 0.001)
	s.RecordTraced(sampled(2), 0.002)
	s.RecordTraced(sampled(3), 20)
	s.Record(0.3)
	s.RecordTraced(unsampled(), 0.4)
	p := points(t, reader)[0]
	slices.SortFunc(p.Exemplars, func(a, b metricdata.Exemplar[float64]) int { return cmp.Compare(a.Value, b.Value) })
	if len(p.Exemplars) != 2 || p.Count != 5 {
		t.Fatalf("%d exemplars of %d measurements", len(p.Exemplars), p.Count)
	}
	for i, want := range []struct {
		id    byte
		value float64
	}{{2, 0.002}, {3, 20}} {
		e := p.Exemplars[i]
		if e.Value != want.value || e.TraceID[0] != want.id || e.SpanID[0] != want.id || e.Time.IsZero() {
			t.Errorf("exemplar %+v, want value %v of trace %d", e, want.value, want.id)
		}
	}
}

func TestNoExemplarIsKeptWhereNothingIsTraced(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10})
	h := newHistogram(t, ours)
	bound.Bind(h, attribute.NewSet()).RecordTraced(sampled(1), 1)
	h.Record(sampled(1), 1)
	if p := points(t, reader)[0]; len(p.Exemplars) != 0 || p.Count != 2 {
		t.Errorf("%d exemplars of %d measurements", len(p.Exemplars), p.Count)
	}
}

func TestCountersCountAcrossProcessorsAndLeadToATrace(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10, Exemplars: true})
	c := newCounter(t, ours)
	s := bound.BindCounter(c, attribute.NewSet(attribute.Int("n", 1)))
	if all := collect(t, reader); len(all) != 0 {
		t.Errorf("what was never counted shows: %+v", all)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				s.Add(1)
			}
		})
	}
	wg.Wait()
	s.AddTraced(sampled(7), 2)
	c.Add(unsampled(), 3, metric.WithAttributes(attribute.Int("n", 1)))
	all := collect(t, reader)
	p := all[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints
	if len(p) != 1 || p[0].Value != 8005 || len(p[0].Exemplars) != 1 || p[0].Exemplars[0].TraceID[0] != 7 || p[0].Exemplars[0].Value != 2 {
		t.Errorf("%+v", p)
	}
}

// What the SDK alone has in its results, it goes on to have.
func TestOtherInstrumentsAreTheSDKs(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10})
	m := ours.Meter("scope")
	level, err1 := m.Int64UpDownCounter("things")
	byDefault, err2 := m.Float64Histogram("default.buckets")
	many, err3 := m.Float64Histogram("many.buckets", metric.WithExplicitBucketBoundaries(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16))
	if err := cmp.Or(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	level.Add(t.Context(), 1)
	byDefault.Record(t.Context(), 1)
	bound.Bind(many, attribute.NewSet(attribute.String("a", "b"))).Record(1)
	var names []string
	for _, s := range collect(t, reader) {
		for _, m := range s.Metrics {
			names = append(names, m.Name)
			if h, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "many.buckets" && !h.DataPoints[0].Attributes.HasValue("a") {
				t.Error("the attributes were lost")
			}
		}
	}
	slices.Sort(names)
	if want := []string{"default.buckets", "many.buckets", "things"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestAHistogramIsMadeOnce(t *testing.T) {
	ours, _, reader, _ := newProviders(bound.Options{SeriesLimit: 10})
	for range 2 {
		newHistogram(t, ours).Record(t.Context(), 1)
	}
	if p := points(t, reader); len(p) != 1 || p[0].Count != 2 {
		t.Errorf("%+v", p)
	}
	m := ours.Meter("scope", metric.WithInstrumentationVersion("1"), metric.WithSchemaURL("https://schema"))
	for what, options := range map[string][]metric.Float64HistogramOption{
		"buckets":     {metric.WithUnit("s"), metric.WithDescription("how long"), metric.WithExplicitBucketBoundaries(1)},
		"unit":        {metric.WithUnit("ms"), metric.WithDescription("how long"), metric.WithExplicitBucketBoundaries(bounds...)},
		"description": {metric.WithUnit("s"), metric.WithDescription("what"), metric.WithExplicitBucketBoundaries(bounds...)},
	} {
		if _, err := m.Float64Histogram("request.duration", options...); err == nil {
			t.Errorf("two histograms of one name with another %s", what)
		}
	}
	if _, err := m.Int64Counter("request.duration"); err == nil {
		t.Error("a counter has the name of a histogram")
	}
	if _, err := m.Float64Histogram("no name", metric.WithExplicitBucketBoundaries(1)); err == nil {
		t.Error("a name that is none was taken")
	}
}

func TestWhereMetricsAreOffBindingDoesNothing(t *testing.T) {
	s := bound.Bind(noop.Float64Histogram{}, attribute.NewSet())
	s.Record(1)
	s.RecordTraced(sampled(1), 1)
	c := bound.BindCounter(noop.Int64Counter{}, attribute.NewSet())
	c.Add(1)
	c.AddTraced(sampled(1), 1)
}

func TestAMeasurementAllocatesNothing(t *testing.T) {
	ours, _, _, _ := newProviders(bound.Options{SeriesLimit: 10})
	s := bound.Bind(newHistogram(t, ours), attribute.NewSet())
	if n := testing.AllocsPerRun(1000, func() { s.Record(0.001) }); n > 0.1 { // the pool starts empty
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMeasure(b *testing.B) {
	ours, sdk, _, _ := newProviders(bound.Options{SeriesLimit: 50_000, Exemplars: true})
	set := attribute.NewSet(attribute.String("http.request.method", "GET"), attribute.String("http.route", "/users/:id"),
		attribute.Int("http.response.status_code", 200), attribute.String("url.scheme", "http"), attribute.String("network.protocol.version", "1.1"))
	series := bound.Bind(newHistogram(b, ours), set)
	histogram := newHistogram(b, sdk)
	options := []metric.RecordOption{metric.WithAttributeSet(set)}
	count, counter := bound.BindCounter(newCounter(b, ours), set), newCounter(b, sdk)
	adding := []metric.AddOption{metric.WithAttributeSet(set)}
	for _, c := range []struct {
		name   string
		record func()
	}{
		{"counter/bound", func() { count.Add(1) }},
		{"counter/sdk", func() { counter.Add(context.Background(), 1, adding...) }},
		{"histogram/bound", func() { series.Record(0.0012) }},
		{"histogram/sdk", func() { histogram.Record(context.Background(), 0.0012, options...) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.record()
			}
		})
		b.Run(fmt.Sprint(c.name, "/contended"), func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					c.record()
				}
			})
		})
	}
}
