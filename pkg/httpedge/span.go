package httpedge

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Attributes of spans that the conventions have no name for.
const (
	attrRequestID   = attribute.Key("keywarden.request.id")
	attrService     = attribute.Key("keywarden.service")
	attrKeyID       = attribute.Key("keywarden.key.id")
	attrProblemCode = attribute.Key("keywarden.problem.code")
)

const (
	// maxTraceHeaderBytes bounds what is parsed of traceparent and tracestate;
	// W3C Trace Context section 3.3.1.5 asks to propagate at least 512.
	maxTraceHeaderBytes = 512

	// maxAttributeBytes bounds the client's own text on a span.
	maxAttributeBytes = 512
)

type tracing struct {
	tracer trace.Tracer
	trust  bool
	draw   func(ctx context.Context) (recorded context.Context, id trace.TraceID, span trace.SpanID) // nil: ask the tracer
	off    bool                                                                                      // the tracer does nothing: do not even ask it
	kind   []trace.SpanStartOption
}

func newTracing(o ObserveOptions) tracing {
	tracer := o.TracerProvider.Tracer(scopeName, trace.WithSchemaURL(semconv.SchemaURL))
	_, off := tracer.(noop.Tracer)
	return tracing{
		tracer: tracer,
		trust:  o.TrustIncomingTrace,
		draw:   o.Draw,
		off:    off,
		kind:   []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)},
	}
}

// start begins the request's span. Most spans are not sampled, so everything
// that only a recorded one needs waits until that is known.
func (t *tracing) start(r *http.Request, m method, info *reqctx.Info) (*http.Request, trace.Span) {
	ctx := r.Context()
	if t.draw != nil && !t.trust {
		recorded, id, span := t.draw(ctx)
		if recorded == nil {
			info.TraceID, info.SpanID = id, span
			return r, noop.Span{}
		}
		ctx = recorded
	}
	if t.trust {
		if remote := incoming(ctx, r.Header, true); remote.IsValid() {
			ctx = trace.ContextWithRemoteSpanContext(ctx, remote)
		}
	}
	if t.off {
		if ctx != r.Context() { // the caller's trace still passes through
			r = r.WithContext(ctx)
		}
		return r, noop.Span{}
	}
	ctx, span := t.tracer.Start(ctx, spanMethod(m), t.kind...)
	if !t.trust && span.IsRecording() {
		if remote := incoming(ctx, r.Header, false); remote.IsValid() {
			span.AddLink(trace.Link{SpanContext: remote})
		}
	}
	return r.WithContext(ctx), span
}

// incoming is the caller's trace context; not valid when there is none. Vendor
// state is taken only from a caller that is trusted, baggage from nobody.
func incoming(ctx context.Context, h http.Header, withState bool) trace.SpanContext {
	c := traceHeaders{parent: single(h, "Traceparent")}
	if c.parent == "" {
		return trace.SpanContext{}
	}
	if withState {
		c.state = strings.Join(h["Tracestate"], ",") // may be split over lines (section 3.3.1.1)
		if len(c.state) > maxTraceHeaderBytes {
			c.state = ""
		}
	}
	ctx = trace.ContextWithSpanContext(ctx, trace.SpanContext{}) // or headers that say nothing would give the span of ctx
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(ctx, c))
}

// single is the value of a header that was sent once and is not too long.
func single(h http.Header, name string) string {
	if v := h[name]; len(v) == 1 && len(v[0]) <= maxTraceHeaderBytes {
		return v[0]
	}
	return ""
}

// traceHeaders is a carrier of nothing but the two trace headers.
type traceHeaders struct{ parent, state string }

// Get implements propagation.TextMapCarrier.
func (c traceHeaders) Get(name string) string {
	switch name {
	case "traceparent":
		return c.parent
	case "tracestate":
		return c.state
	}
	return ""
}

// Set implements propagation.TextMapCarrier; nothing is injected here.
func (traceHeaders) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (traceHeaders) Keys() []string { return []string{"traceparent", "tracestate"} }

// spanMethod is the method's part of a span's name; the conventions want HTTP
// for a method that is not known.
func spanMethod(m method) string {
	if m == methodOther {
		return "HTTP"
	}
	return m.String()
}

// describe completes a span that is recorded with what is known at its end.
func describe(span trace.Span, r *http.Request, x *exchange) {
	name := spanMethod(x.method)
	if x.info.Route != "" {
		name += " " + x.info.Route
	}
	span.SetName(name)

	attrs := make([]attribute.KeyValue, 0, 20)
	text := func(key attribute.Key, value string) {
		if value != "" {
			attrs = append(attrs, key.String(bounded(value, maxAttributeBytes)))
		}
	}
	text(semconv.HTTPRequestMethodKey, x.method.String())
	if x.method == methodOther {
		text(semconv.HTTPRequestMethodOriginalKey, WithoutCredentials(r.Method))
	}
	text(semconv.HTTPRouteKey, x.info.Route)
	text(semconv.URLSchemeKey, schemeName(x.https))
	text(semconv.URLPathKey, x.path)
	text(semconv.NetworkProtocolVersionKey, protocolOf(r).String())
	text(semconv.ServerAddressKey, WithoutCredentials(x.info.Host))
	text(semconv.UserAgentOriginalKey, WithoutCredentials(r.UserAgent()))
	if x.info.Client.IsValid() {
		text(semconv.ClientAddressKey, x.info.Client.String())
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		text(semconv.NetworkPeerAddressKey, peer.Addr().Unmap().String())
		attrs = append(attrs, semconv.NetworkPeerPort(int(peer.Port())))
	}
	text(attrRequestID, x.info.ID)
	text(attrService, x.info.Service)
	text(semconv.UserIDKey, x.info.Subject)
	text(attrKeyID, x.info.KeyID)
	text(attrProblemCode, x.info.Code)
	if x.status != 0 {
		attrs = append(attrs, semconv.HTTPResponseStatusCode(x.status))
	}
	text(semconv.ErrorTypeKey, errorType(x.status, x.outcome))
	span.SetAttributes(attrs...)
	if x.failed() {
		// Without a description: the cause belongs to the log, where it is redacted.
		span.SetStatus(codes.Error, "")
	}
}

// failed reports whether the exchange failed on our side.
func (x *exchange) failed() bool {
	return x.outcome == aborted || x.status >= http.StatusInternalServerError
}

// bounded is s in at most limit bytes of valid UTF-8, which OTLP requires.
func bounded(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}
