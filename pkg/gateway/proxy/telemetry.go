package proxy

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/gateway/proxy/duration"
)

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
		m.Response(x.traced(), x.method, status, took)
	} else {
		m.Failure(x.client, x.method, code, took)
	}
	if x.span == nil {
		return
	}
	x.span.SetAttributes(m.Common...)
	switch {
	case code != "":
		x.span.SetAttributes(duration.ErrorType.String(code))
		x.span.SetStatus(codes.Error, code)
	case status >= http.StatusBadRequest:
		x.span.SetAttributes(duration.Status.Int(status), duration.ErrorType.String(strconv.Itoa(status)))
		x.span.SetStatus(codes.Error, "")
	default:
		x.span.SetAttributes(duration.Status.Int(status))
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
func (x *exchange) metrics() *duration.Target {
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
	attributes := append([]attribute.KeyValue{duration.Method.String(duration.MethodName(x.method))}, x.route.service.common...)
	ctx, x.span = x.route.service.proxy.tracer.Start(ctx, spanName(x.method),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return ctx
}

// spanName is the name that the semantic conventions give to the span of a
// client: the method, if it is a known one.
func spanName(method string) string {
	if duration.MethodName(method) != method {
		return "HTTP"
	}
	return method
}

func (x *exchange) endSpan() {
	if x.span != nil {
		x.span.End()
	}
}
