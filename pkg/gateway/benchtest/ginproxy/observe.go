package ginproxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// traceRatio is the share of requests that are traced.
const traceRatio = 0.01

// service is the name that the records give to what is behind the proxy.
const service = "bench"

// observer records each request: metrics, one trace in a hundred, a line.
type observer struct {
	server, client *histogram   // nil without metrics
	tracer         trace.Tracer // nil without traces
	logger         *slog.Logger // nil without a log
	address        string       // of the service
	port           int
}

// newObserver is nil when nothing is to be recorded.
func newObserver(p *Proxy, o Options) (*observer, error) {
	if o.Metrics == nil && o.Traces == "" && o.Log == nil {
		return nil, nil
	}
	w := &observer{address: o.Target.Hostname()}
	w.port, _ = strconv.Atoi(o.Target.Port()) // 0 where none is named
	if o.Metrics != nil {
		if err := w.meter(p, o); err != nil {
			return nil, err
		}
	}
	if o.Traces != "" {
		if err := w.trace(p, o.Traces); err != nil {
			return nil, err
		}
	}
	if o.Log != nil {
		lines := newLines(o.Log)
		p.closers = append(p.closers, lines.Close)
		w.logger = slog.New(slog.NewJSONHandler(lines, nil))
	}
	return w, nil
}

func (w *observer) meter(p *Proxy, o Options) error {
	exporter, err := otelprom.New(otelprom.WithRegisterer(o.Metrics), otelprom.WithoutScopeInfo())
	if err != nil {
		return fmt.Errorf("making the Prometheus exporter: %w", err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	p.closers = append(p.closers, func() error { return provider.Shutdown(context.Background()) })
	meter := provider.Meter("ginproxy")
	if w.server, err = newHistogram(meter, "http.server.request.duration"); err != nil {
		return err
	}
	w.client, err = newHistogram(meter, "http.client.request.duration")
	return err
}

func (w *observer) trace(p *Proxy, endpoint string) error {
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return fmt.Errorf("making the trace exporter: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter)) // samples everything: it is asked for one in a hundred
	p.closers = append(p.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return provider.Shutdown(ctx)
	})
	w.tracer = provider.Tracer("ginproxy")
	return nil
}

// middleware records what became of the request.
func (w *observer) middleware(c *gin.Context) {
	k := callOf(c)
	var span trace.Span // decided first, built then
	if w.tracer != nil && rand.Float64() < traceRatio {
		ctx := c.Request.Context()
		ctx, span = w.tracer.Start(ctx, c.Request.Method+" "+c.FullPath(), trace.WithSpanKind(trace.SpanKindServer))
		c.Request = c.Request.WithContext(ctx)
	}
	c.Next()
	took, ctx := time.Since(k.start), c.Request.Context()
	if w.server != nil {
		w.server.record(ctx, took, outcome{method: c.Request.Method, status: c.Writer.Status(), route: c.FullPath()})
	}
	if span != nil {
		w.describe(span, c, k)
		span.End()
	}
	if w.logger != nil {
		w.log(ctx, c, k, took)
	}
}

// describe puts on a span what the gateway puts on one.
func (w *observer) describe(span trace.Span, c *gin.Context, k *call) {
	r := c.Request
	attributes := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(r.Method), semconv.HTTPRoute(c.FullPath()), semconv.URLScheme("http"), semconv.URLPath(r.URL.Path),
		semconv.NetworkProtocolVersion("1.1"), semconv.ServerAddress(r.Host), semconv.UserAgentOriginal(r.UserAgent()),
		semconv.ClientAddress(c.RemoteIP()), attribute.String("request.id", k.id), semconv.HTTPResponseStatusCode(c.Writer.Status()),
	}
	if k.who != nil {
		attributes = append(attributes, semconv.UserID(k.who.id), attribute.String("key.id", k.who.key))
	}
	span.SetAttributes(attributes...)
}

// log writes the line of the access log, with the fields of the gateway's.
func (w *observer) log(ctx context.Context, c *gin.Context, k *call, took time.Duration) {
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("method", c.Request.Method), slog.String("path", c.Request.URL.Path), slog.Int("status", c.Writer.Status()),
		slog.Int("bytes", c.Writer.Size()), slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		slog.String("client", c.RemoteIP()), slog.String("host", c.Request.Host), slog.String("route", c.FullPath()), slog.String("service", service))
	if k.who != nil {
		attrs = append(attrs, slog.String("subject", k.who.id), slog.String("key_id", k.who.key))
	}
	if s := trace.SpanContextFromContext(ctx); s.IsValid() {
		attrs = append(attrs, slog.String("trace_id", s.TraceID().String()), slog.String("span_id", s.SpanID().String()))
	}
	w.logger.LogAttrs(ctx, slog.LevelInfo, "request", append(attrs, slog.String("request_id", k.id))...)
}

// timed measures the exchanges with the service until the header of the answer.
type timed struct {
	next  http.RoundTripper
	watch *observer
}

// RoundTrip implements http.RoundTripper.
func (t *timed) RoundTrip(r *http.Request) (*http.Response, error) {
	w, ctx := t.watch, r.Context()
	var span trace.Span
	if w.tracer != nil && trace.SpanFromContext(ctx).IsRecording() {
		ctx, span = w.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindClient))
		defer span.End()
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(r.Header)) // the proxy's own copy
	}
	begun := time.Now()
	resp, err := t.next.RoundTrip(r)
	status := http.StatusBadGateway
	if err == nil {
		status = resp.StatusCode
	}
	if w.client != nil {
		w.client.record(ctx, time.Since(begun), outcome{method: r.Method, status: status, address: w.address, port: w.port})
	}
	if span != nil {
		span.SetAttributes(semconv.HTTPRequestMethodKey.String(r.Method), semconv.HTTPResponseStatusCode(status),
			semconv.ServerAddress(w.address), semconv.ServerPort(w.port))
	}
	return resp, err
}

// outcome is what makes a series.
type outcome struct {
	method, route string
	status        int
	address       string
	port          int
}

// attributes are those of the semantic conventions.
func (o outcome) attributes() []attribute.KeyValue {
	list := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(o.method), semconv.HTTPResponseStatusCode(o.status)}
	if o.route == "" {
		return append(list, attribute.String("service", service), semconv.ServerAddress(o.address), semconv.ServerPort(o.port))
	}
	return append(list, semconv.HTTPRoute(o.route), semconv.URLScheme("http"), semconv.NetworkProtocolVersion("1.1"))
}

// histogram is a metric whose sets of attributes are made once each: made anew they
// would cost three times what recording does.
type histogram struct {
	metric.Float64Histogram
	series atomic.Pointer[map[outcome][]metric.RecordOption] // replaced, never changed
}

func newHistogram(meter metric.Meter, name string) (*histogram, error) {
	h, err := meter.Float64Histogram(name, metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10))
	if err != nil {
		return nil, fmt.Errorf("making the metric %s: %w", name, err)
	}
	all := &histogram{Float64Histogram: h}
	all.series.Store(&map[outcome][]metric.RecordOption{})
	return all, nil
}

func (h *histogram) record(ctx context.Context, took time.Duration, o outcome) {
	old := h.series.Load()
	options, known := (*old)[o]
	if !known {
		options = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(o.attributes()...))}
		all := maps.Clone(*old)
		all[o] = options
		h.series.CompareAndSwap(old, &all) // who loses makes it anew next time
	}
	h.Record(ctx, took.Seconds(), options...)
}
