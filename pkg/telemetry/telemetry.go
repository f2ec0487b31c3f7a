// Package telemetry sets up what the process tells about itself: the log, the
// metrics and the traces, and shuts them down again. It owns the OpenTelemetry
// providers, the Prometheus registry and the rules of what may be logged. It
// instruments nothing itself: packages get a logger, a meter or a tracer handed
// in and make their own records. No provider is registered globally.
package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/runtime"
	"go.opentelemetry.io/otel"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

const (
	// seriesPerInstrument bounds the memory of one instrument. The SDK's own
	// 2,000 is too few for 10,000 routes; beyond the bound it counts into one
	// series marked otel_metric_overflow.
	seriesPerInstrument = 50_000

	// concurrentScrapes bounds what anyone who reaches the metrics can cost.
	concurrentScrapes = 8

	// flushTimeout is how long Shutdown waits when its caller set no deadline.
	flushTimeout = 5 * time.Second
)

// Options says who is telling, and how much.
type Options struct {
	ServiceName string // service.name; OTEL_SERVICE_NAME goes first
	Version     string // service.version
	InstanceID  string // service.instance.id; made up when empty

	// SampleRatio is the share of requests that are traced, 0 to 1, where
	// OTEL_TRACES_SAMPLER does not say otherwise.
	SampleRatio float64

	// TrustIncomingTrace lets the sampled flag of a caller decide.
	TrustIncomingTrace bool

	// Environ looks up the standard OTEL_* variables. Traces are exported only
	// when it knows OTEL_EXPORTER_OTLP_ENDPOINT or the TRACES_ variant. How they
	// are sent (headers, time-out, compression, TLS) the exporter reads from the
	// process's environment by itself. Nil is an empty environment.
	Environ func(string) string

	Logger *slog.Logger // gets the SDK's own errors; required
}

// Telemetry is what the process measures with. Its methods are safe for
// concurrent use.
type Telemetry struct {
	registry *prometheus.Registry
	meters   *sdkmetric.MeterProvider
	bound    *bound.Provider // before meters
	tracers  trace.TracerProvider
	draw     Draw
	stop     func(context.Context) error // flushes and ends the tracing
	logger   *slog.Logger
}

// Setup starts the metrics, and the traces when there is somewhere to send
// them. Without that the tracer does nothing and costs nothing. The caller
// shuts the result down.
func Setup(ctx context.Context, o Options) (*Telemetry, error) {
	if o.Environ == nil {
		o.Environ = func(string) string { return "" }
	}
	res, err := newResource(ctx, o)
	if err != nil {
		return nil, err
	}
	takeSDKErrors(o.Logger)
	takeStandardLog(o.Logger)
	t := &Telemetry{registry: prometheus.NewRegistry(), logger: o.Logger}
	if err := t.startMetrics(o, res); err != nil {
		return nil, err
	}
	if err := t.startTraces(ctx, o, res); err != nil {
		return nil, errors.Join(err, t.meters.Shutdown(ctx))
	}
	return t, nil
}

func newResource(ctx context.Context, o Options) (*resource.Resource, error) {
	name := o.ServiceName
	if v := o.Environ("OTEL_SERVICE_NAME"); v != "" {
		name = v
	}
	id := o.InstanceID
	if id == "" {
		id = uuid.NewString()
	}
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		semconv.ServiceName(name),
		semconv.ServiceVersion(o.Version),
		semconv.ServiceInstanceID(id),
	))
	if err != nil {
		return nil, fmt.Errorf("describing the process: %w", err)
	}
	return res, nil
}

// takeSDKErrors sends what goes wrong inside the SDK to logger. The SDK has
// only global places for that, and without this call it prints to stderr past
// every rule of the log. The last Setup of a process wins.
func takeSDKErrors(logger *slog.Logger) {
	otel.SetLogger(logr.FromSlogHandler(logger.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("telemetry failed", slog.Any("err", err))
	}))
}

// takeStandardLog sends to logger what libraries print by package log. net/http's
// client does so about a backend that sends what nobody asked for, and quotes it;
// without this call the lines go to stderr past every rule of the log. What is
// quoted is left out: it is somebody's data. The last Setup of a process wins.
func takeStandardLog(logger *slog.Logger) {
	log.SetFlags(0) // the record has its own time
	log.SetOutput(unquoted{slog.NewLogLogger(logger.Handler(), slog.LevelWarn).Writer()})
}

// unquoted writes a line up to its first quotation mark.
type unquoted struct{ io.Writer }

// Write implements [io.Writer].
func (u unquoted) Write(line []byte) (int, error) {
	said, _, _ := bytes.Cut(line, []byte{'"'})
	if _, err := u.Writer.Write(said); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (t *Telemetry) startMetrics(o Options, res *resource.Resource) error {
	// The scope labels would put four more labels on each series and say nothing:
	// every instrument here is the program's own.
	t.bound = bound.NewProvider(bound.Options{SeriesLimit: seriesPerInstrument, Exemplars: keepsExemplars(o)})
	exporter, err := otelprom.New(otelprom.WithRegisterer(t.registry), otelprom.WithoutScopeInfo(), otelprom.WithProducer(t.bound))
	if err != nil {
		return fmt.Errorf("making the Prometheus exporter: %w", err)
	}
	t.meters = sdkmetric.NewMeterProvider(
		sdkmetric.WithResource(res),
		sdkmetric.WithReader(exporter),
		sdkmetric.WithCardinalityLimit(seriesPerInstrument),
		sdkmetric.WithExemplarFilter(exemplarsOf(o)),
	)
	t.bound.Extend(t.meters)
	if err := runtime.Start(runtime.WithMeterProvider(t.meters)); err != nil {
		return fmt.Errorf("starting the runtime metrics: %w", err)
	}
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), // the names that existing dashboards ask for
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := t.registry.Register(c); err != nil {
			return fmt.Errorf("registering a collector: %w", err)
		}
	}
	return nil
}

// exemplarsOf says which measurements lead to a trace: those of requests that are
// sampled. Where nothing is traced there are none, and no series keeps room for them.
func exemplarsOf(o Options) exemplar.Filter {
	if !keepsExemplars(o) {
		return exemplar.AlwaysOffFilter
	}
	return exemplar.TraceBasedFilter
}

// keepsExemplars reports whether anything is traced.
func keepsExemplars(o Options) bool {
	endpoint, err := tracesEndpoint(o.Environ)
	return err != nil || endpoint != ""
}

// MeterProvider makes meters; what they record shows in MetricsHandler. Who measures for
// each request finds the series of a histogram beforehand, by [bound.Bind].
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.bound }

// TracerProvider makes tracers. Without an exporter it is the no-op provider.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.tracers }

// Propagator writes the trace context on outgoing requests: traceparent and
// tracestate (W3C Trace Context). Baggage is left out on purpose: what a client
// puts there must not travel to backends.
func (t *Telemetry) Propagator() propagation.TextMapPropagator {
	return propagation.TraceContext{}
}

// MetricsHandler answers a scrape: Prometheus text, or OpenMetrics with
// exemplars for a scraper that asks for it.
func (t *Telemetry) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		ErrorLog:            scrapeLog{t.logger},
		ErrorHandling:       promhttp.ContinueOnError, // one bad metric must not hide the rest
		MaxRequestsInFlight: concurrentScrapes,
		EnableOpenMetrics:   true,
	})
}

// scrapeLog is the promhttp.Logger.
type scrapeLog struct{ logger *slog.Logger }

// Println implements promhttp.Logger.
func (l scrapeLog) Println(v ...any) {
	l.logger.Warn("collecting metrics failed", slog.String("err", fmt.Sprint(v...)))
}

// Shutdown sends what is still queued, until ctx ends, and stops. A collector
// that does not answer costs at most that time and its spans.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, flushTimeout)
		defer cancel()
	}
	if err := errors.Join(t.stop(ctx), t.meters.Shutdown(ctx)); err != nil {
		return fmt.Errorf("shutting telemetry down: %w", err)
	}
	return nil
}
