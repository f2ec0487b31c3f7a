package httpedge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// scopeName is the instrumentation scope of what Observe records.
const scopeName = "github.com/keywarden/keywarden/pkg/httpedge"

// ObserveOptions says where the observations go. All but Draw,
// TrustIncomingTrace and Ended are required; the no-op providers of OpenTelemetry switch a part off.
type ObserveOptions struct {
	Logger         *slog.Logger // should add request and trace id from the context
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider

	// Ended is told of each request once it is over, from the goroutine that served
	// it; it must be quick, and keep neither pointer. It may be nil.
	Ended func(info *reqctx.Info, e Ended)

	// Draw decides whether the trace of a request is recorded, before anything is made for
	// it: it returns the context to start it in, or nil, and the ids of one that is not. Absent,
	// or where incoming traces are trusted, the tracer decides.
	Draw func(ctx context.Context) (recorded context.Context, id trace.TraceID, span trace.SpanID)

	// TrustIncomingTrace makes the span a child of the caller's. Otherwise a
	// trace of our own begins, linked to the caller's: a stranger must not choose
	// our trace ids nor what is sampled.
	TrustIncomingTrace bool
}

// Ended is what became of a request.
type Ended struct {
	At            time.Time // when it was over
	Duration      time.Duration
	Status        int   // 0 when there was no answer
	RequestBytes  int64 // of the body, as far as it was read; what follows on an upgrade is not counted
	ResponseBytes int64 // of the body, as far as it was sent; likewise
}

// Observe records each request once it is over: a server span and the metrics
// http.server.request.duration and http.server.active_requests by the
// OpenTelemetry HTTP conventions, and a line in the access log. It is one
// middleware, and not three, so that they share one wrapper and one clock
// reading.
//
// What inner layers found out (route, subject, key, code, error) is read from
// the request's [reqctx.Info]. The query is recorded nowhere: it may hold keys.
func Observe(o ObserveOptions) (func(http.Handler) http.Handler, error) {
	ob := &observer{
		logger:  o.Logger,
		ended:   o.Ended,
		tracing: newTracing(o),
		active:  new(activeRequests),
	}
	ob.lines, _ = o.Logger.Handler().(lineStarter)
	if err := ob.instrument(o.MeterProvider); err != nil {
		return nil, fmt.Errorf("observing requests: %w", err)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ob.serve(next, w, r) })
	}, nil
}

type observer struct {
	logger  *slog.Logger
	ended   func(*reqctx.Info, Ended) // nil for nobody
	tracing tracing
	series  *seriesCache
	lines   lineStarter     // nil: the logger has to have records
	active  *activeRequests // apart from the above, which each request reads and none writes
}

func (o *observer) instrument(provider metric.MeterProvider) error {
	meter := provider.Meter(scopeName, metric.WithSchemaURL(semconv.SchemaURL))
	duration, err := httpconv.NewServerRequestDuration(meter, metric.WithExplicitBucketBoundaries(
		0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10))
	o.series = newSeriesCache(duration.Float64Histogram)
	return errors.Join(err, o.active.register(meter))
}

// exchange is one request on its way and what became of it.
type exchange struct {
	info   *reqctx.Info
	start  time.Time
	path   string // escaped and thus ASCII, as the client sent it, but for credentials, before handlers rewrite it
	https  bool
	method method

	returned bool // the handler did; otherwise it was ended by a panic

	elapsed time.Duration
	status  int
	bytes   int64
	outcome outcome
}

func (o *observer) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	x := exchange{info: reqctx.From(r.Context()), path: WithoutCredentials(r.URL.EscapedPath()), method: methodOf(r.Method)}
	x.https = x.info.Scheme == "https"
	x.start = x.info.Start
	if x.start.IsZero() { // RequestInfo was left out
		x.start = time.Now()
	}
	res := wrapResponse(w, r)
	r, span := o.tracing.start(r, x.method, x.info)
	if o.ended != nil {
		res.countBody(r)
	}
	active := o.active.count(x.method, x.https)
	active.Add(1)
	defer o.record(r, res, span, &x) // deferred, because what a panic leaves is an answer too
	defer active.Add(-1)
	next.ServeHTTP(res, r)
	x.returned = true
}

func (o *observer) record(r *http.Request, res *response, span trace.Span, x *exchange) {
	x.finish(r.Context(), res)
	series := o.series.series(seriesKey{
		route: x.info.Route, status: x.status, method: x.method, https: x.https, proto: protocolOf(r), outcome: x.outcome,
	})
	if span.IsRecording() {
		series.RecordTraced(r.Context(), x.elapsed.Seconds())
		describe(span, r, x)
	} else {
		series.Record(x.elapsed.Seconds())
	}
	span.End()
	o.log(r, x)
	if o.ended != nil {
		o.ended(x.info, Ended{
			At: x.start.Add(x.elapsed), Duration: x.elapsed, Status: x.status,
			RequestBytes: res.body.read.Load(), ResponseBytes: x.bytes,
		})
	}
}

func (x *exchange) finish(ctx context.Context, res *response) {
	x.elapsed = time.Since(x.start)
	x.status, x.bytes = res.final(x.returned), res.bytes
	switch {
	case x.returned:
		x.outcome = completed
	case ctx.Err() != nil:
		x.outcome = clientGone
	default:
		x.outcome = aborted
	}
}
