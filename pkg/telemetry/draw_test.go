package telemetry_test

import (
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

func TestTheDrawDecidesAsTheSamplerWould(t *testing.T) {
	srv := newCollector(t)
	for name, c := range map[string]struct {
		ratio    float64
		from, to int // of 2,000: eight standard deviations and more
	}{
		"none": {0, 0, 0}, "some": {0.01, 1, 80}, "half": {0.5, 820, 1180}, "all": {1, 2000, 2000},
	} {
		o := options(environ("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL))
		o.SampleRatio = c.ratio
		tel := setup(t, o)
		tracer, recorded, sampler := tel.TracerProvider().Tracer("test"), 0, sdktrace.TraceIDRatioBased(c.ratio)
		seen := map[trace.TraceID]bool{}
		for range 2000 {
			ctx, id, without := tel.Draw()(t.Context())
			if !id.IsValid() || seen[id] || without.IsValid() != (ctx == nil) {
				t.Fatalf("%s: the ids %v, %v", name, id, without)
			}
			seen[id] = true
			if asked := sampler.ShouldSample(sdktrace.SamplingParameters{ParentContext: t.Context(), TraceID: id}); (asked.Decision == sdktrace.RecordAndSample) != (ctx != nil) {
				t.Fatalf("%s: of %v the sampler says %v", name, id, asked.Decision)
			}
			if ctx == nil {
				continue
			}
			recorded++
			_, span := tracer.Start(ctx, "work")
			if !span.IsRecording() || span.SpanContext().TraceID() != id {
				t.Fatalf("%s: drawn was %v, the tracer made %v, recording %v", name, id, span.SpanContext().TraceID(), span.IsRecording())
			}
			span.End()
		}
		if recorded < c.from || recorded > c.to {
			t.Errorf("%s: %d of 2000 are recorded", name, recorded)
		}
		shutDown(t, tel)
	}
}

func TestThereIsNoDrawWhereOthersHaveASay(t *testing.T) {
	srv := newCollector(t)
	for name, c := range map[string]struct {
		environ func(string) string
		trust   bool
	}{
		"no collector":         {environ(), false},
		"trusted callers":      {environ("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL), true},
		"the environment says": {environ("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL, "OTEL_TRACES_SAMPLER", "parentbased_always_on"), false},
	} {
		o := options(c.environ)
		o.TrustIncomingTrace = c.trust
		tel := setup(t, o)
		if tel.Draw() != nil {
			t.Errorf("%s: there is a draw", name)
		}
		shutDown(t, tel)
	}
}
