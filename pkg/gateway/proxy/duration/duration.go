// Package duration records how long services take to answer, by method, status and target.
package duration

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

// Attributes of the semantic conventions for HTTP clients, and the service's name.
const (
	Method    = attribute.Key("http.request.method")
	Status    = attribute.Key("http.response.status_code")
	ErrorType = attribute.Key("error.type")
	Address   = attribute.Key("server.address")
	Port      = attribute.Key("server.port")
	Service   = attribute.Key("keywarden.service")
)

// New makes the metric of the semantic conventions, with its buckets. It
// measures until the header of the response: streams may last for hours.
func New(meter metric.Meter) (metric.Float64Histogram, error) {
	duration, err := meter.Float64Histogram("http.client.request.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Time from sending a request to a service until the header of its response."),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10))
	if err != nil {
		return nil, fmt.Errorf("making the metric http.client.request.duration: %w", err)
	}
	return duration, nil
}

// Target records the exchanges with one target, or with all of a service. The series of an
// outcome is found by its attributes when it occurs first and by index from then on. It is
// safe for concurrent use.
type Target struct {
	duration metric.Float64Histogram
	Common   []attribute.KeyValue // of its spans, too; never changed
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

func index(method string) int {
	for i, name := range methodNames {
		if name == method {
			return i
		}
	}
	return len(methodNames) - 1
}

// Of is for one target of the service of that name, or, when that is nil, for all of them.
func Of(duration metric.Float64Histogram, name string, target *url.URL) *Target {
	m := &Target{duration: duration, Common: []attribute.KeyValue{Service.String(name)}}
	if target == nil {
		return m
	}
	m.Common = append(m.Common, Address.String(target.Hostname()))
	port, err := strconv.Atoi(target.Port())
	if err != nil {
		port = 80
		if target.Scheme == "https" {
			port = 443
		}
	}
	m.Common = append(m.Common, Port.Int(port))
	return m
}

// Response records an exchange that the service has answered. The trace is that of
// traced, which is nil for one that is not recorded.
func (m *Target) Response(traced context.Context, method string, status int, took time.Duration) {
	series := m.outcome(index(method), status)
	if traced != nil {
		series.RecordTraced(traced, took.Seconds())
	} else {
		series.Record(took.Seconds())
	}
}

func (m *Target) outcome(method, status int) *bound.Series {
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
	attributes := append([]attribute.KeyValue{Method.String(methodNames[method]), Status.Int(status)}, m.Common...)
	if status >= http.StatusBadRequest {
		attributes = append(attributes, ErrorType.String(strconv.Itoa(status)))
	}
	series := bound.Bind(m.duration, attribute.NewSet(attributes...))
	slot.Store(series)
	return series
}

// Failure records an exchange that has failed with the problem code.
func (m *Target) Failure(ctx context.Context, method, code string, took time.Duration) {
	attributes := append([]attribute.KeyValue{
		Method.String(methodNames[index(method)]), ErrorType.String(code),
	}, m.Common...)
	m.duration.Record(ctx, took.Seconds(), metric.WithAttributeSet(attribute.NewSet(attributes...)))
}

// MethodName is the method as metrics and spans have it: those that they do not know are
// one.
func MethodName(method string) string { return methodNames[index(method)] }
