package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/keywarden/keywarden/pkg/telemetry"
	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

func environ(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func options(env func(string) string) telemetry.Options {
	return telemetry.Options{
		ServiceName: "keywarden", Version: "1.2.3", InstanceID: "instance-1", SampleRatio: 1,
		Environ: env, Logger: slog.New(slog.DiscardHandler),
	}
}

func setup(t *testing.T, o telemetry.Options) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Setup(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return tel
}

// deadline is generous: it only ends a test that would hang.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func shutDown(t *testing.T, tel *telemetry.Telemetry) {
	t.Helper()
	if err := tel.Shutdown(deadline(t)); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// otlp is a collector that keeps what it was sent.
type otlp struct {
	*httptest.Server
	mu    sync.Mutex
	paths []string
	got   []*collector.ExportTraceServiceRequest
}

func newCollector(t *testing.T) *otlp {
	t.Helper()
	c := &otlp{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var req collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.paths = append(c.paths, r.URL.Path)
		c.got = append(c.got, &req)
	}))
	t.Cleanup(c.Close)
	return c
}

func TestShutdownSendsTheSpansThatAreQueued(t *testing.T) {
	cases := map[string]struct{ variable, path, want string }{
		"base endpoint":            {"OTEL_EXPORTER_OTLP_ENDPOINT", "", "/v1/traces"},
		"base endpoint below path": {"OTEL_EXPORTER_OTLP_ENDPOINT", "/otlp/", "/otlp/v1/traces"},
		"traces endpoint as it is": {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/in", "/in"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			srv := newCollector(t)
			tel := setup(t, options(environ(c.variable, srv.URL+c.path)))
			_, span := tel.TracerProvider().Tracer("test").Start(t.Context(), "work")
			span.End()
			shutDown(t, tel)

			if !slices.Equal(srv.paths, []string{c.want}) {
				t.Fatalf("posted to %q, want %q", srv.paths, c.want)
			}
			spans := srv.got[0].GetResourceSpans()[0]
			if got := spans.GetScopeSpans()[0].GetSpans()[0].GetName(); got != "work" {
				t.Errorf("span %q", got)
			}
			res := map[string]string{}
			for _, kv := range spans.GetResource().GetAttributes() {
				res[kv.GetKey()] = kv.GetValue().GetStringValue()
			}
			for k, want := range map[string]string{
				"service.name": "keywarden", "service.version": "1.2.3", "service.instance.id": "instance-1",
			} {
				if res[k] != want {
					t.Errorf("resource %s is %q, want %q", k, res[k], want)
				}
			}
		})
	}
}

func TestTracingIsOffWithoutAnEndpoint(t *testing.T) {
	for name, env := range map[string]func(string) string{
		"nothing set":   environ(),
		"nil":           nil,
		"sdk disabled":  environ("OTEL_SDK_DISABLED", "true", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
		"exporter none": environ("OTEL_TRACES_EXPORTER", "none", "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
	} {
		t.Run(name, func(t *testing.T) {
			tel := setup(t, options(env))
			if _, ok := tel.TracerProvider().(noop.TracerProvider); !ok {
				t.Errorf("got %T", tel.TracerProvider())
			}
			shutDown(t, tel)
		})
	}
}

func TestSetupRefusesWhatCannotWork(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	for name, c := range map[string]struct {
		env   func(string) string
		ratio float64
	}{
		"no scheme":        {environ(endpoint, "collector:4318"), 1},
		"other scheme":     {environ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/otel"), 1},
		"not a URL":        {environ(endpoint, "http://%zz"), 1},
		"gRPC":             {environ(endpoint, "http://h:4317", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), 1},
		"gRPC for traces":  {environ(endpoint, "http://h:4317", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"), 1},
		"unknown exporter": {environ("OTEL_TRACES_EXPORTER", "zipkin"), 1},
		"unknown sampler":  {environ("OTEL_TRACES_SAMPLER", "sometimes"), 1},
		"bad argument":     {environ("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG", "2"), 1},
		"NaN argument":     {environ("OTEL_TRACES_SAMPLER", "traceidratio", "OTEL_TRACES_SAMPLER_ARG", "NaN"), 1},
		"ratio":            {environ(), 1.5},
		"negative ratio":   {environ(), -0.1},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(c.env)
			o.SampleRatio = c.ratio
			if _, err := telemetry.Setup(t.Context(), o); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestCredentialsOfTheEndpointAreNotInTheError(t *testing.T) {
	_, err := telemetry.Setup(t.Context(), options(environ("OTEL_EXPORTER_OTLP_ENDPOINT", "htp://user:"+canary+"@h")))
	if err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("got %v", err)
	}
}

func TestSamplerDecides(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	yes, no := trace.FlagsSampled, trace.TraceFlags(0)
	for name, c := range map[string]struct {
		ratio             float64
		trust             bool
		sampler, arg      string
		root, inYes, inNo bool // sampled: without parent, with a sampled one, with an unsampled one
	}{
		"ratio 1":                     {ratio: 1, root: true, inYes: true, inNo: true},
		"ratio 0":                     {ratio: 0},
		"ratio 0 trusting":            {ratio: 0, trust: true, inYes: true},
		"ratio 1 trusting":            {ratio: 1, trust: true, root: true, inYes: true},
		"environment beats ratio":     {ratio: 0, sampler: "always_on", root: true, inYes: true, inNo: true},
		"always_off":                  {ratio: 1, sampler: "always_off"},
		"parentbased_always_on":       {sampler: "parentbased_always_on", root: true, inYes: true},
		"parentbased_always_off":      {ratio: 1, sampler: "parentbased_always_off", inYes: true},
		"traceidratio default":        {sampler: "traceidratio", root: true, inYes: true, inNo: true},
		"traceidratio 0":              {ratio: 1, sampler: "TraceIDRatio", arg: "0"},
		"parentbased_traceidratio 0 ": {ratio: 1, sampler: "parentbased_traceidratio", arg: "0.0", inYes: true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newCollector(t)
			o := options(environ(endpoint, srv.URL, "OTEL_TRACES_SAMPLER", c.sampler, "OTEL_TRACES_SAMPLER_ARG", c.arg))
			o.SampleRatio, o.TrustIncomingTrace = c.ratio, c.trust
			tel := setup(t, o)
			defer shutDown(t, tel)
			sampled := func(ctx context.Context) bool {
				_, span := tel.TracerProvider().Tracer("test").Start(ctx, "work")
				defer span.End()
				return span.IsRecording()
			}
			remote := func(flags trace.TraceFlags) context.Context {
				return trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
					TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags,
				}))
			}
			if got := sampled(t.Context()); got != c.root {
				t.Errorf("root sampled: %v", got)
			}
			if got := sampled(remote(yes)); got != c.inYes {
				t.Errorf("child of a sampled parent sampled: %v", got)
			}
			if got := sampled(remote(no)); got != c.inNo {
				t.Errorf("child of an unsampled parent sampled: %v", got)
			}
		})
	}
}

func TestDeadCollectorCostsRequestsNothing(t *testing.T) {
	// It takes connections and never answers.
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()

	tel := setup(t, options(environ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+hole.Addr().String())))
	tracer := tel.TracerProvider().Tracer("test")
	for range 20_000 { // ten times the queue: an unbounded or blocking one would hang or grow
		_, span := tracer.Start(t.Context(), "work")
		span.End()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tel.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	// goleak checks that the export was ended, not left behind.
}

// lockedBuffer may be written by the SDK's goroutines while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestSDKErrorsGoToTheLog(t *testing.T) {
	var out lockedBuffer
	o := options(environ())
	o.Logger = telemetry.NewLogger(&out, slog.LevelInfo, telemetry.FormatJSON)
	tel := setup(t, o)
	defer shutDown(t, tel)
	otel.Handle(errors.New("collector is gone"))
	// The handler is the process's: an earlier test's exporter may speak too.
	for line := range strings.Lines(out.String()) {
		if got := members(t, []byte(line)); got["err"] == "collector is gone" && got["level"] == "WARN" {
			return
		}
	}
	t.Errorf("got %s", out.String())
}

func scrape(t *testing.T, tel *telemetry.Telemetry, accept string) string {
	t.Helper()
	srv := httptest.NewServer(tel.MetricsHandler())
	defer srv.Close()
	req, err := http.NewRequestWithContext(deadline(t), http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %d, %v\n%s", res.StatusCode, err, body)
	}
	return string(body)
}

func TestMetricsHaveTheNamesOfTheConventions(t *testing.T) {
	tel := setup(t, options(environ()))
	defer shutDown(t, tel)
	h, err := tel.MeterProvider().Meter("test").Float64Histogram("http.server.request.duration",
		metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(0.1, 1))
	if err != nil {
		t.Fatal(err)
	}
	h.Record(t.Context(), 0.5, metric.WithAttributes(attribute.String("http.request.method", "GET")))

	text := scrape(t, tel, "text/plain")
	for _, want := range []string{
		`http_server_request_duration_seconds_bucket{http_request_method="GET",le="1"} 1`,
		`service_name="keywarden"`, `service_version="1.2.3"`, `service_instance_id="instance-1"`,
		"go_goroutines ", "go_goroutine_count ", "go_memory_used_bytes{", "process_start_time_seconds ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(text, "otel_scope") {
		t.Error("series carry scope labels")
	}
}

func TestSeriesAreBounded(t *testing.T) {
	tel := setup(t, options(environ()))
	defer shutDown(t, tel)
	c, err := tel.MeterProvider().Meter("test").Int64Counter("things")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60_000 {
		c.Add(t.Context(), 1, metric.WithAttributes(attribute.Int("id", i)))
	}
	text := scrape(t, tel, "text/plain")
	if n := strings.Count(text, "things_total{"); n > 50_000 {
		t.Errorf("%d series", n)
	}
	if !strings.Contains(text, `otel_metric_overflow="true"`) {
		t.Error("the overflow is not shown")
	}
}

func TestExemplarsLeadFromMetricToTrace(t *testing.T) {
	srv := newCollector(t)
	tel := setup(t, options(environ("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)))
	defer shutDown(t, tel)
	ctx, span := tel.TracerProvider().Tracer("test").Start(t.Context(), "work")
	for _, h := range histograms(t, tel) {
		h.Record(ctx, 0.5)
	}
	span.End()
	text := scrape(t, tel, "application/openmetrics-text; version=1.0.0")
	for _, name := range []string{"wait", "work"} {
		_, rest, _ := strings.Cut(text, name+`_seconds_bucket{le="1.0"} 1 # {`)
		led, _, _ := strings.Cut(rest, "\n")
		if !strings.Contains(led, `trace_id="`+span.SpanContext().TraceID().String()+`"`) ||
			!strings.Contains(led, `span_id="`+span.SpanContext().SpanID().String()+`"`) || !strings.Contains(led, "} 0.5 ") {
			t.Errorf("%s: the exemplar is %q", name, led)
		}
	}
}

// histograms are one that the SDK keeps, wait, and one that is kept beside it, work.
func histograms(t *testing.T, tel *telemetry.Telemetry) []metric.Float64Histogram {
	t.Helper()
	m := tel.MeterProvider().Meter("test")
	wait, err1 := m.Float64Histogram("wait", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(
		1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16))
	work, err2 := m.Float64Histogram("work", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(1, 10))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if _, ok := work.(*bound.Histogram); !ok {
		t.Fatalf("%T is not kept beside the SDK", work)
	}
	return []metric.Float64Histogram{wait, work}
}

// Where nothing is exported, a trace id of a caller leads nowhere, and no series keeps
// room for one. A trace that is not sampled leads nowhere either.
func TestNoExemplarLeadsNowhere(t *testing.T) {
	sampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled})
	collector := newCollector(t)
	for name, c := range map[string]struct {
		environ func(string) string
		span    trace.SpanContext
		want    bool
	}{
		"exported":    {environ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL), sampled, true},
		"not sampled": {environ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL), sampled.WithTraceFlags(0), false},
		"no exporter": {environ(), sampled, false},
	} {
		t.Run(name, func(t *testing.T) {
			tel := setup(t, options(c.environ))
			defer shutDown(t, tel)
			for _, h := range histograms(t, tel) {
				h.Record(trace.ContextWithSpanContext(t.Context(), c.span), 0.5)
			}
			want := 0
			if c.want {
				want = 2
			}
			if got := strings.Count(scrape(t, tel, "application/openmetrics-text; version=1.0.0"), "trace_id="); got != want {
				t.Errorf("%d exemplars, want %d", got, want)
			}
		})
	}
}

func TestTwoSetupsDoNotDisturbEachOther(t *testing.T) {
	a, b := setup(t, options(environ())), setup(t, options(environ()))
	defer shutDown(t, a)
	shutDown(t, b)
	if !strings.Contains(scrape(t, a, ""), "go_goroutine_count ") {
		t.Error("the first one's metrics are gone")
	}
}
