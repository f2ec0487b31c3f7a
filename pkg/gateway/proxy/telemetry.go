package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

// Attributes of the semantic conventions for HTTP clients, and the service's name.
const (
	attrMethod    = attribute.Key("http.request.method")
	attrStatus    = attribute.Key("http.response.status_code")
	attrErrorType = attribute.Key("error.type")
	attrAddress   = attribute.Key("server.address")
	attrPort      = attribute.Key("server.port")
	attrService   = attribute.Key("keywarden.service")
)

// newDuration makes the metric of the semantic conventions, with its buckets. It
// measures until the header of the response: streams may last for hours.
func newDuration(meter metric.Meter) (metric.Float64Histogram, error) {
	duration, err := meter.Float64Histogram("http.client.request.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Time from sending a request to a service until the header of its response."),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10))
	if err != nil {
		return nil, fmt.Errorf("making the metric http.client.request.duration: %w", err)
	}
	return duration, nil
}

// serviceMetrics records the exchanges with one service. The series of an
// outcome is found by its attributes when it occurs first and by index from then on.
type serviceMetrics struct {
	duration metric.Float64Histogram
	common   []attribute.KeyValue
	outcomes [len(methodNames)]atomic.Pointer[[statusCount]atomic.Pointer[bound.Series]]
}

// statusCount is the number of status codes there can be, 100 to 999, after an
// entry for those that cannot be.
const statusCount = 901

// methodNames are the methods that metrics tell apart. Others, which anybody can
// invent, are the last one.
var methodNames = [...]string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
	http.MethodDelete, http.MethodOptions, "_OTHER",
}

func methodIndex(method string) int {
	for i, name := range methodNames {
		if name == method {
			return i
		}
	}
	return len(methodNames) - 1
}

// newServiceMetrics makes those of one target, or, when that is nil, of all of a
// service.
func newServiceMetrics(duration metric.Float64Histogram, name string, target *url.URL) *serviceMetrics {
	m := &serviceMetrics{duration: duration, common: []attribute.KeyValue{attrService.String(name)}}
	if target == nil {
		return m
	}
	m.common = append(m.common, attrAddress.String(target.Hostname()))
	port, err := strconv.Atoi(target.Port())
	if err != nil {
		port = 80
		if target.Scheme == "https" {
			port = 443
		}
	}
	m.common = append(m.common, attrPort.Int(port))
	return m
}

// response records an exchange that the service has answered. The trace is that of
// traced, which is nil for one that is not recorded.
func (m *serviceMetrics) response(traced context.Context, method string, status int, took time.Duration) {
	series := m.outcome(methodIndex(method), status)
	if traced != nil {
		series.RecordTraced(traced, took.Seconds())
	} else {
		series.Record(took.Seconds())
	}
}

func (m *serviceMetrics) outcome(method, status int) *bound.Series {
	statuses := m.outcomes[method].Load()
	if statuses == nil {
		m.outcomes[method].CompareAndSwap(nil, new([statusCount]atomic.Pointer[bound.Series]))
		statuses = m.outcomes[method].Load()
	}
	slot := &statuses[0]
	if i := status - 99; i > 0 && i < statusCount {
		slot = &statuses[i]
	}
	if series := slot.Load(); series != nil {
		return series
	}
	attributes := append([]attribute.KeyValue{attrMethod.String(methodNames[method]), attrStatus.Int(status)}, m.common...)
	if status >= http.StatusBadRequest {
		attributes = append(attributes, attrErrorType.String(strconv.Itoa(status)))
	}
	series := bound.Bind(m.duration, attribute.NewSet(attributes...))
	slot.Store(series)
	return series
}

// failure records an exchange that has failed with the problem code.
func (m *serviceMetrics) failure(ctx context.Context, method, code string, took time.Duration) {
	attributes := append([]attribute.KeyValue{
		attrMethod.String(methodNames[methodIndex(method)]), attrErrorType.String(code),
	}, m.common...)
	m.duration.Record(ctx, took.Seconds(), metric.WithAttributeSet(attribute.NewSet(attributes...)))
}

// record takes down the outcome of the exchange: a status, or the code of the
// problem that was answered instead.
func (x *exchange) record(status int, code string) {
	if !x.sent {
		return
	}
	took, m := time.Since(x.start), x.metrics()
	if m == nil {
		return // no target was asked
	}
	if code == "" {
		m.response(x.traced(), x.method, status, took)
	} else {
		m.failure(x.client, x.method, code, took)
	}
	if x.span == nil {
		return
	}
	x.span.SetAttributes(m.common...)
	switch {
	case code != "":
		x.span.SetAttributes(attrErrorType.String(code))
		x.span.SetStatus(codes.Error, code)
	case status >= http.StatusBadRequest:
		x.span.SetAttributes(attrStatus.Int(status), attrErrorType.String(strconv.Itoa(status)))
		x.span.SetStatus(codes.Error, "")
	default:
		x.span.SetAttributes(attrStatus.Int(status))
	}
}

// traced is the context of the request where its trace is recorded, otherwise nil.
func (x *exchange) traced() context.Context {
	if x.span == nil {
		return nil
	}
	return x.client
}

// metrics are those of the target that was tried last, nil when there was none.
func (x *exchange) metrics() *serviceMetrics {
	t, all := x.forward.Target(), x.route.service.metrics
	switch {
	case t == nil:
		return nil
	case len(all) == 1:
		return all[0]
	default:
		return all[t.Index]
	}
}

// startSpan begins the client span, if the request is traced at all: a span that
// nobody records costs about as much as all other work of the gateway.
func (x *exchange) startSpan(ctx context.Context) context.Context {
	if x.info.TraceID != [16]byte{} || !trace.SpanFromContext(ctx).IsRecording() {
		return ctx
	}
	attributes := append([]attribute.KeyValue{attrMethod.String(methodNames[methodIndex(x.method)])}, x.route.service.common...)
	ctx, x.span = x.route.service.proxy.tracer.Start(ctx, spanName(x.method),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return ctx
}

// spanName is the name that the semantic conventions give to the span of a
// client: the method, if it is a known one.
func spanName(method string) string {
	if methodIndex(method) == len(methodNames)-1 {
		return "HTTP"
	}
	return method
}

func (x *exchange) endSpan() {
	if x.span != nil {
		x.span.End()
	}
}
