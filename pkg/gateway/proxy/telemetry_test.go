package proxy_test

import (
	"context"
	"net/http"
	"sort"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestDurationIsRecordedByOutcome(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	service := backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
		case "/slow":
			<-r.Context().Done()
		}
	})
	s := setup{options: func(o *proxy.Options) { o.Meter = provider.Meter("test") }}
	f := newFront(t, service, s)
	s.identity = func(id *upstream.Identity) { id.ResponseTimeout = 50 * time.Millisecond }
	impatient := newFront(t, service, s)
	switching := newFront(t, rawBackend(t, answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")), s)
	f.do("GET", "/", nil, nil)
	f.do("GET", "/", nil, nil)
	f.do("POST", "/missing", nil, nil)
	f.do("BREW", "/", nil, nil)
	impatient.do("GET", "/slow", nil, nil)
	switching.raw(upgradeRequest)

	var data metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &data); err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != "http.client.request.duration" || m.Unit != "s" {
				t.Errorf("metric %s in %s", m.Name, m.Unit)
			}
			for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
				if p.Bounds[0] != 0.005 || len(p.Bounds) != 14 {
					t.Errorf("bounds %v", p.Bounds)
				}
				got[describe(p.Attributes)] = p.Count
			}
		}
	}
	want := map[string]uint64{
		"http.request.method=GET http.response.status_code=200":                 2,
		"error.type=404 http.request.method=POST http.response.status_code=404": 1,
		"http.request.method=_OTHER http.response.status_code=200":              1,
		"error.type=gateway.upstream_timeout http.request.method=GET":           1,
		"error.type=gateway.upstream_invalid http.request.method=GET":           1,
	}
	for key, n := range want {
		if got[key] != n {
			t.Errorf("%s: %d, want %d", key, got[key], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("recorded %v", got)
	}
}

// describe lists the attributes but for those that every outcome has, whose
// presence it checks.
func describe(set attribute.Set) string {
	var list []string
	common := 0
	for _, kv := range set.ToSlice() {
		switch kv.Key {
		case "keywarden.service", "server.address", "server.port":
			common++
		default:
			list = append(list, string(kv.Key)+"="+kv.Value.String())
		}
	}
	if common != 3 {
		return "common attributes are missing"
	}
	sort.Strings(list)
	return strings.Join(list, " ")
}

func TestTraceContextReachesTheService(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	const theirs = "00-11111111111111111111111111111111-2222222222222222-01"
	for _, c := range []struct {
		name    string
		outer   trace.Tracer // of the server span; nil for none
		sampled string
	}{
		{"recorded", provider.Tracer("server"), "01"},
		{"not sampled", never.Tracer("server"), "00"},
		{"not traced", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var server trace.SpanContext
			f := newFront(t, recorder(t), setup{
				options: func(o *proxy.Options) { o.Tracer = provider.Tracer("proxy") },
				outer: func(h http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if c.outer != nil {
							ctx, span := c.outer.Start(r.Context(), "server")
							defer span.End()
							server, r = span.SpanContext(), r.WithContext(ctx)
						}
						h.ServeHTTP(w, r)
					})
				},
			})
			before := len(spans.Ended())
			got := sendFields(t, f, "Traceparent: "+theirs, "Tracestate: theirs=1")
			if c.outer == nil {
				if got.Values("Traceparent") != nil || got.Values("Tracestate") != nil {
					t.Errorf("a stranger's trace was passed on: %q, %q", got.Values("Traceparent"), got.Values("Tracestate"))
				}
				return
			}
			parts := strings.Split(got.Get("Traceparent"), "-")
			if len(parts) != 4 || parts[1] != server.TraceID().String() || parts[3] != c.sampled {
				t.Errorf("traceparent is %q, the server's trace is %s", got.Get("Traceparent"), server.TraceID())
			}
			if got.Values("Traceparent") == nil || len(got.Values("Traceparent")) != 1 || got.Get("Tracestate") != "" {
				t.Errorf("traceparent %q, tracestate %q", got.Values("Traceparent"), got.Get("Tracestate"))
			}
			var client []sdktrace.ReadOnlySpan
			eventually(t, "end of the spans", func() bool {
				client = nil
				for _, s := range spans.Ended()[before:] {
					if s.SpanKind() == trace.SpanKindClient {
						client = append(client, s)
					}
				}
				return c.sampled == "00" || len(client) == 1
			})
			if c.sampled == "00" {
				if len(client) != 0 {
					t.Errorf("%d client spans of a trace that is not sampled", len(client))
				}
				return
			}
			if s := client[0]; s.Name() != "GET" || s.Parent().SpanID() != server.SpanID() || s.SpanContext().SpanID().String() != parts[2] {
				t.Errorf("span %q, parent %s, id %s; the service was told %s", s.Name(), s.Parent().SpanID(), s.SpanContext().SpanID(), parts[2])
			}
		})
	}
}

func TestFailedExchangeMarksItsSpan(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	f := newFront(t, rawBackend(t, answer("")), setup{
		options: func(o *proxy.Options) { o.Tracer = tracer },
		outer: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, span := tracer.Start(r.Context(), "server")
				defer span.End()
				h.ServeHTTP(w, r.WithContext(ctx))
			})
		},
	})
	f.do("POST", "/", nil, nil)
	eventually(t, "end of the spans", func() bool { return len(spans.Ended()) == 2 })
	if got := spans.Ended()[0]; got.Status().Code != codes.Error || got.Status().Description != "gateway.upstream_reset" {
		t.Errorf("status %+v", got.Status())
	}
}

func TestATraceThatIsNotRecordedReachesTheServiceWithoutTheFlag(t *testing.T) {
	f := newFront(t, recorder(t), setup{outer: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			info := reqctx.From(r.Context())
			info.TraceID, info.SpanID = [16]byte{0: 0xab, 15: 1}, [8]byte{7: 2}
			h.ServeHTTP(w, r)
		})
	}})
	got := sendFields(t, f, "Traceparent: 00-11111111111111111111111111111111-2222222222222222-01")
	const want = "00-ab000000000000000000000000000001-0000000000000002-00"
	if values := got.Values("Traceparent"); len(values) != 1 || values[0] != want {
		t.Errorf("traceparent %q, want %s", values, want)
	}
}
