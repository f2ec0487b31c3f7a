package httpedge_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/telemetry"
	"github.com/keywarden/keywarden/pkg/telemetry/bound"
)

// edge is the chain with everything it records kept in memory.
type edge struct {
	observe func(http.Handler) http.Handler
	logger  *slog.Logger
	log     *lockedBuffer
	spans   *tracetest.InMemoryExporter
	metrics *sdkmetric.ManualReader
}

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

type edgeOption func(*httpedge.ObserveOptions)

func trusting(o *httpedge.ObserveOptions) { o.TrustIncomingTrace = true }

func untraced(o *httpedge.ObserveOptions) { o.TracerProvider = tracenoop.NewTracerProvider() }

func newEdge(t *testing.T, with ...edgeOption) *edge {
	t.Helper()
	e := &edge{log: &lockedBuffer{}, spans: tracetest.NewInMemoryExporter(), metrics: sdkmetric.NewManualReader()}
	e.logger = telemetry.NewLogger(e.log, slog.LevelInfo, telemetry.FormatJSON)
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(e.spans), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	o := httpedge.ObserveOptions{
		Logger: e.logger, TracerProvider: tp,
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(e.metrics)),
	}
	for _, f := range with {
		f(&o)
	}
	var err error
	if e.observe, err = httpedge.Observe(o); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *edge) chain(h http.Handler) http.Handler {
	return httpedge.RequestInfo(trustTen)(e.observe(httpedge.Recover(e.logger)(h)))
}

// lines waits for n log lines: the last is written after the client has its answer.
func (e *edge) lines(t *testing.T, n int) []map[string]any {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); strings.Count(e.log.String(), "\n") < n; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("want %d lines, got %q", n, e.log.String())
		}
	}
	var out []map[string]any
	d := json.NewDecoder(strings.NewReader(e.log.String()))
	d.UseNumber()
	for d.More() {
		var line map[string]any
		if err := d.Decode(&line); err != nil {
			t.Fatalf("%v in %q", err, e.log.String())
		}
		out = append(out, line)
	}
	if len(out) != n {
		t.Fatalf("want %d lines, got %q", n, e.log.String())
	}
	return out
}

// do serves one request in place: everything is recorded when it returns.
func (e *edge) do(r *http.Request, h http.HandlerFunc) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	e.chain(h).ServeHTTP(rec, r)
	return rec
}

func (e *edge) span(t *testing.T) tracetest.SpanStub {
	t.Helper()
	spans := e.spans.GetSpans()
	if len(spans) != 1 {
		t.Fatalf("%d spans", len(spans))
	}
	return spans[0]
}

func (e *edge) metric(t *testing.T, name string) metricdata.Metrics {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := e.metrics.Collect(context.Background(), &rm); err != nil {
		t.Fatal(err)
	}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			if m.Name == name {
				return m
			}
		}
	}
	t.Fatalf("no metric %s", name)
	return metricdata.Metrics{}
}

func attrMap(kvs []attribute.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range kvs {
		out[string(kv.Key)] = kv.Value.String()
	}
	return out
}

func (e *edge) durations(t *testing.T) []metricdata.HistogramDataPoint[float64] {
	t.Helper()
	m := e.metric(t, "http.server.request.duration")
	if m.Unit != "s" {
		t.Errorf("unit %q", m.Unit)
	}
	return m.Data.(metricdata.Histogram[float64]).DataPoints
}

// found is a handler that finds out what inner layers would.
func found(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		info := reqctx.From(r.Context())
		info.Host, info.Route, info.Service = "api.test", "/api/users/{id}", "users"
		info.Subject, info.KeyID = "user-1", "key-1"
		if status >= 400 {
			info.Code, info.Err = "users.bad", problem.ErrInternal.With(errors.New("the cause"))
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte("hello"))
	}
}

func TestDurationFollowsTheConventions(t *testing.T) {
	e := newEdge(t)
	r := httptest.NewRequest(http.MethodGet, "https://api.test/api/users/42?apikey=secret", nil)
	e.do(r, found(200))
	e.do(r, found(200))
	points := e.durations(t)
	if len(points) != 1 {
		t.Fatalf("%d series", len(points))
	}
	want := map[string]string{
		"http.request.method": "GET", "url.scheme": "https", "http.route": "/api/users/{id}",
		"http.response.status_code": "200", "network.protocol.version": "1.1",
	}
	if diff := cmp.Diff(want, attrMap(points[0].Attributes.ToSlice())); diff != "" {
		t.Error(diff)
	}
	bounds := []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
	if diff := cmp.Diff(bounds, points[0].Bounds); diff != "" {
		t.Error(diff)
	}
	if points[0].Count != 2 {
		t.Errorf("counted %d", points[0].Count)
	}
}

func TestClientsCannotMakeSeries(t *testing.T) {
	e := newEdge(t)
	for i := range 50 {
		r := httptest.NewRequest(fmt.Sprintf("M%d", i), fmt.Sprintf("/%d?q=%d", i, i), nil)
		r.Host = fmt.Sprintf("h%d.test", i)
		r.Header.Set("User-Agent", fmt.Sprint(i))
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:%d", i, i)
		e.do(r, func(_ http.ResponseWriter, r *http.Request) {
			info := reqctx.From(r.Context())
			info.Subject, info.KeyID = fmt.Sprint("user", i), fmt.Sprint("key", i)
		})
	}
	points := e.durations(t)
	if len(points) != 1 {
		t.Fatalf("%d series", len(points))
	}
	if got := attrMap(points[0].Attributes.ToSlice()); got["http.request.method"] != "_OTHER" || got["http.route"] != "" {
		t.Errorf("got %v", got)
	}
}

func TestErrorTypeIsSetForOurErrorsOnly(t *testing.T) {
	for status, want := range map[int]string{200: "", 304: "", 404: "", 429: "", 500: "500", 503: "503"} {
		e := newEdge(t)
		e.do(httptest.NewRequest(http.MethodGet, "/", nil), found(status))
		if got := attrMap(e.durations(t)[0].Attributes.ToSlice())["error.type"]; got != want {
			t.Errorf("%d: error.type %q, want %q", status, got, want)
		}
		span := e.span(t)
		if got := span.Status.Code == codes.Error; got != (want != "") {
			t.Errorf("%d: span status %v", status, span.Status)
		}
		if attrMap(span.Attributes)["error.type"] != want {
			t.Errorf("%d: span %v", status, span.Attributes)
		}
	}
}

func TestActiveRequestsAreThoseBeingServed(t *testing.T) {
	e := newEdge(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	srv := serve(t, e, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	}))
	active := func() map[string]int64 {
		out := map[string]int64{}
		for _, p := range e.metric(t, "http.server.active_requests").Data.(metricdata.Sum[int64]).DataPoints {
			a := attrMap(p.Attributes.ToSlice())
			out[a["http.request.method"]+" "+a["url.scheme"]] = p.Value
		}
		return out
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { get(t, srv, "/") })
	}
	for range 3 {
		<-entered
	}
	if diff := cmp.Diff(map[string]int64{"GET http": 3}, active()); diff != "" {
		t.Error(diff)
	}
	close(leave)
	wg.Wait()
	e.lines(t, 3)
	if diff := cmp.Diff(map[string]int64{"GET http": 0}, active()); diff != "" {
		t.Error(diff)
	}
}

func TestSpanFollowsTheConventions(t *testing.T) {
	e := newEdge(t)
	r := httptest.NewRequest(http.MethodGet, "/api/users/42?apikey=secret", nil)
	r.RemoteAddr = "10.0.0.1:4711"
	r.Header.Set("X-Forwarded-For", "198.51.100.1")
	r.Header.Set("X-Request-Id", "req-1")
	r.Header.Set("User-Agent", "curl/8")
	e.do(r, found(404))
	span := e.span(t)
	if span.Name != "GET /api/users/{id}" || span.SpanKind != trace.SpanKindServer || span.Status.Code != codes.Unset {
		t.Errorf("got %s %v %v", span.Name, span.SpanKind, span.Status)
	}
	want := map[string]string{
		"http.request.method": "GET", "http.route": "/api/users/{id}", "http.response.status_code": "404",
		"url.scheme": "http", "url.path": "/api/users/42", "network.protocol.version": "1.1", "server.address": "api.test",
		"client.address": "198.51.100.1", "network.peer.address": "10.0.0.1", "network.peer.port": "4711",
		"user_agent.original": "curl/8", "user.id": "user-1", "keywarden.key.id": "key-1", "keywarden.request.id": "req-1",
		"keywarden.service": "users", "keywarden.problem.code": "users.bad",
	}
	if diff := cmp.Diff(want, attrMap(span.Attributes)); diff != "" {
		t.Error(diff)
	}
}

func TestSpanOfAnUnknownMethod(t *testing.T) {
	e := newEdge(t)
	e.do(httptest.NewRequest("PROPFIND", "/", nil), found(200))
	span := e.span(t)
	a := attrMap(span.Attributes)
	if span.Name != "HTTP /api/users/{id}" || a["http.request.method"] != "_OTHER" || a["http.request.method_original"] != "PROPFIND" {
		t.Errorf("got %s %v", span.Name, a)
	}
}

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	spanID  = "00f067aa0ba902b7"
)

func traced(flags string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Traceparent", "00-"+traceID+"-"+spanID+"-"+flags)
	r.Header.Set("Tracestate", "vendor=1")
	r.Header.Set("Baggage", "user=root")
	return r
}

func TestIncomingTraceIsLinkedNotJoined(t *testing.T) {
	e := newEdge(t)
	var inside context.Context
	e.do(traced("01"), func(_ http.ResponseWriter, r *http.Request) { inside = r.Context() })
	span := e.span(t)
	if span.SpanContext.TraceID().String() == traceID || span.Parent.IsValid() {
		t.Error("a stranger chose our trace id")
	}
	if len(span.Links) != 1 || span.Links[0].SpanContext.TraceID().String() != traceID ||
		span.Links[0].SpanContext.SpanID().String() != spanID || span.Links[0].SpanContext.TraceState().Len() != 0 {
		t.Errorf("links: %v", span.Links)
	}
	if sc := trace.SpanContextFromContext(inside); sc.TraceID() != span.SpanContext.TraceID() || sc.TraceState().Len() != 0 {
		t.Errorf("handlers see %v", sc)
	}
	if baggage.FromContext(inside).Len() != 0 {
		t.Error("baggage came through")
	}
}

func TestIncomingTraceIsJoinedWhenTrusted(t *testing.T) {
	e := newEdge(t, trusting)
	var inside context.Context
	e.do(traced("01"), func(_ http.ResponseWriter, r *http.Request) { inside = r.Context() })
	span := e.span(t)
	if span.SpanContext.TraceID().String() != traceID || span.Parent.SpanID().String() != spanID || len(span.Links) != 0 {
		t.Errorf("got %v with parent %v", span.SpanContext, span.Parent)
	}
	if got := trace.SpanContextFromContext(inside).TraceState().String(); got != "vendor=1" {
		t.Errorf("trace state %q", got)
	}
	if baggage.FromContext(inside).Len() != 0 {
		t.Error("baggage came through")
	}
}

func TestClientCannotForceSampling(t *testing.T) {
	never := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	for name, c := range map[string]struct {
		with []edgeOption
		want bool
	}{
		"untrusted": {nil, false},
		"trusted":   {[]edgeOption{trusting}, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, append(c.with, func(o *httpedge.ObserveOptions) { o.TracerProvider = never })...)
			e.do(traced("01"), func(_ http.ResponseWriter, r *http.Request) {
				if got := trace.SpanContextFromContext(r.Context()).IsSampled(); got != c.want {
					t.Errorf("sampled: %v", got)
				}
			})
		})
	}
}

func TestMalformedTraceHeadersAreIgnored(t *testing.T) {
	for name, h := range map[string]http.Header{
		"garbage":  {"Traceparent": {"garbage"}},
		"zero":     {"Traceparent": {"00-00000000000000000000000000000000-0000000000000000-01"}},
		"twice":    {"Traceparent": {"00-" + traceID + "-" + spanID + "-01", "00-" + traceID + "-" + spanID + "-01"}},
		"too long": {"Traceparent": {"01-" + traceID + "-" + spanID + "-01-" + strings.Repeat("a", 1000)}},
	} {
		for _, with := range [][]edgeOption{nil, {trusting}} {
			e := newEdge(t, with...)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header = h
			e.do(r, found(200))
			if span := e.span(t); len(span.Links) != 0 || span.Parent.IsValid() || !span.SpanContext.IsValid() {
				t.Errorf("%s: %v", name, span)
			}
		}
	}
}

func TestOverlongTraceStateIsDropped(t *testing.T) {
	e := newEdge(t, trusting)
	r := traced("01")
	r.Header["Tracestate"] = []string{"a=" + strings.Repeat("x", 200), "b=" + strings.Repeat("x", 200), "c=" + strings.Repeat("x", 200)}
	e.do(r, func(_ http.ResponseWriter, r *http.Request) {
		sc := trace.SpanContextFromContext(r.Context())
		if sc.TraceState().Len() != 0 || sc.TraceID().String() != traceID {
			t.Errorf("got %v", sc)
		}
	})
}

func TestCallersTracePassesWhenTracingIsOff(t *testing.T) {
	for name, c := range map[string]struct {
		with []edgeOption
		want bool
	}{
		"untrusted": {[]edgeOption{untraced}, false},
		"trusted":   {[]edgeOption{untraced, trusting}, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, c.with...)
			e.do(traced("01"), func(_ http.ResponseWriter, r *http.Request) {
				if got := trace.SpanContextFromContext(r.Context()).TraceID().String() == traceID; got != c.want {
					t.Errorf("passed: %v", got)
				}
			})
			if _, ok := e.lines(t, 1)[0]["trace_id"]; ok != c.want {
				t.Errorf("in the log: %v", ok)
			}
		})
	}
}

func TestAccessLogSaysWhatHappened(t *testing.T) {
	e := newEdge(t)
	r := httptest.NewRequest(http.MethodGet, "/api/users/a%20b?apikey=canary-query", nil)
	r.RemoteAddr = "192.0.2.1:4711"
	rec := e.do(r, found(200))
	line := e.lines(t, 1)[0]
	span := e.span(t)
	if _, ok := line["duration_ms"].(json.Number); !ok {
		t.Errorf("duration %v", line["duration_ms"])
	}
	delete(line, "duration_ms")
	delete(line, "time")
	want := map[string]any{
		"level": "INFO", "msg": "request", "method": "GET", "path": "/api/users/a%20b", "status": json.Number("200"),
		"bytes": json.Number("5"), "client": "192.0.2.1", "host": "api.test", "route": "/api/users/{id}", "service": "users",
		"subject": "user-1", "key_id": "key-1", "request_id": rec.Header().Get("X-Request-Id"),
		"trace_id": span.SpanContext.TraceID().String(), "span_id": span.SpanContext.SpanID().String(),
	}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Error(diff)
	}
}

func TestAccessLogGivesTheCause(t *testing.T) {
	for status, level := range map[int]string{401: "INFO", 500: "ERROR", 503: "ERROR"} {
		e := newEdge(t)
		e.do(httptest.NewRequest(http.MethodGet, "/", nil), found(status))
		line := e.lines(t, 1)[0]
		if line["level"] != level || line["code"] != "users.bad" || line["err"] != "internal: the cause" {
			t.Errorf("%d: %v", status, line)
		}
	}
}

func TestQueryIsRecordedNowhere(t *testing.T) {
	e := newEdge(t)
	r := httptest.NewRequest(http.MethodGet, "http://user:canary@api.test/p?apikey=canary#canary", nil)
	r.Header.Set("Authorization", "Bearer canary")
	r.Header.Set("Cookie", "a=canary")
	e.do(r, found(500))
	if strings.Contains(e.log.String(), "canary") {
		t.Errorf("log: %s", e.log.String())
	}
	if got := fmt.Sprint(attrMap(e.span(t).Attributes)); strings.Contains(got, "canary") {
		t.Errorf("span: %s", got)
	}
}

func TestRequestCannotForgeALogLine(t *testing.T) {
	for name, path := range map[string]string{
		"CR LF":         "/a\r\n{\"level\":\"ERROR\"}",
		"terminal":      "/\x1b[2J",
		"invalid UTF-8": "/\xff\xfe\xe2\x82",
		"quotes":        `/","status":200,"x":"`,
		"long":          "/" + strings.Repeat("a\n", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.URL = &url.URL{Path: path}
			r.Method = "G\r\nT" + strings.Repeat("X", 1000)
			r.Header.Set("User-Agent", path)
			e.do(r, func(w http.ResponseWriter, r *http.Request) {
				info := reqctx.From(r.Context())
				info.Err, info.Host, info.Subject, info.Code = errors.New(path), path, path, path
				w.WriteHeader(404)
			})
			line := e.lines(t, 1)[0] // one line, one object
			if line["status"] != json.Number("404") || line["level"] != "INFO" {
				t.Errorf("forged: %v", line)
			}
			if p, _ := line["path"].(string); len(p) > 2<<10 {
				t.Errorf("path of %d bytes", len(p))
			}
			if strings.ContainsAny(strings.TrimSuffix(e.log.String(), "\n"), "\r\n\x1b") {
				t.Errorf("control characters in %q", e.log.String())
			}
			for k, v := range attrMap(e.span(t).Attributes) {
				if len(v) > 512 {
					t.Errorf("span attribute %s has %d bytes", k, len(v))
				}
			}
		})
	}
}

func TestClientThatLeavesIsNotOurError(t *testing.T) {
	e := newEdge(t)
	entered := make(chan struct{})
	srv := serve(t, e, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}))
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-entered
	conn.Close()
	line := e.lines(t, 1)[0]
	if line["level"] != "INFO" || line["outcome"] != "client_disconnected" || line["status"] != json.Number("0") {
		t.Errorf("got %v", line)
	}
	a := attrMap(e.durations(t)[0].Attributes.ToSlice())
	if a["error.type"] != "client_disconnected" || a["http.response.status_code"] != "" {
		t.Errorf("got %v", a)
	}
	if got := e.span(t).Status.Code; got != codes.Unset {
		t.Errorf("span status %v", got)
	}
}

func TestUpgradePassesAndIsCountedAs101(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, io.LimitReader(rw, 4))
	}))
	t.Cleanup(backend.Close)
	target, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	e := newEdge(t)
	srv := serve(t, e, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: transport,
	})
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v", res, err)
	}
	fmt.Fprint(conn, "ping")
	echo := make([]byte, 4)
	if _, err := io.ReadFull(in, echo); err != nil || string(echo) != "ping" {
		t.Errorf("got %q, %v", echo, err)
	}
	conn.Close()
	if line := e.lines(t, 1)[0]; line["status"] != json.Number("101") || line["level"] != "INFO" {
		t.Errorf("got %v", line)
	}
}

func TestObserveWorksWithoutRequestInfo(t *testing.T) {
	e := newEdge(t)
	rec := httptest.NewRecorder()
	e.observe(found(200)).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	if p := e.durations(t); len(p) != 1 || p[0].Sum > 60 {
		t.Errorf("got %v", p)
	}
}

func BenchmarkObserve(b *testing.B) {
	meters := func() *sdkmetric.MeterProvider {
		return sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	}
	sampled := func(s sdktrace.Sampler) trace.TracerProvider {
		return sdktrace.NewTracerProvider(sdktrace.WithSampler(s))
	}
	loud := func() *slog.Logger {
		return telemetry.NewLogger(discard{}, slog.LevelInfo, telemetry.FormatJSON)
	}
	quiet := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		name string
		o    httpedge.ObserveOptions
	}{
		{"nothing", httpedge.ObserveOptions{Logger: quiet, MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider()}},
		{"metrics", httpedge.ObserveOptions{Logger: quiet, MeterProvider: meters(), TracerProvider: tracenoop.NewTracerProvider()}},
		{"log", httpedge.ObserveOptions{Logger: loud(), MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider()}},
		{"trace=never", httpedge.ObserveOptions{Logger: quiet, MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: sampled(sdktrace.NeverSample())}},
		{"trace=always", httpedge.ObserveOptions{Logger: quiet, MeterProvider: metricnoop.NewMeterProvider(), TracerProvider: sampled(sdktrace.AlwaysSample())}},
		{"all/trace=off", httpedge.ObserveOptions{Logger: loud(), MeterProvider: meters(), TracerProvider: tracenoop.NewTracerProvider()}},
		{"all/trace=1%", httpedge.ObserveOptions{Logger: loud(), MeterProvider: meters(), TracerProvider: sampled(sdktrace.TraceIDRatioBased(0.01))}},
	} {
		b.Run(c.name, func(b *testing.B) {
			observe, err := httpedge.Observe(c.o)
			if err != nil {
				b.Fatal(err)
			}
			h := observe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reqctx.From(r.Context()).Route = "/api/users/{id}"
				w.WriteHeader(200)
			}))
			r := httptest.NewRequest(http.MethodGet, "/api/users/42", nil)
			info := &reqctx.Info{ID: "01890a5d-ac96-774b-bcce-b302099a8057", Start: time.Now(), Scheme: "http"}
			r = r.WithContext(reqctx.With(r.Context(), info))
			w := nullWriter{header: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkObserveAsServed has everything that the program gives to a proxied request.
func BenchmarkObserveAsServed(b *testing.B) {
	meters := bound.NewProvider(bound.Options{SeriesLimit: 1000, Exemplars: true})
	meters.Extend(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader(sdkmetric.WithProducer(meters)))))
	observe, err := httpedge.Observe(httpedge.ObserveOptions{
		Logger:         telemetry.NewLogger(discard{}, slog.LevelInfo, telemetry.FormatJSON),
		MeterProvider:  meters,
		TracerProvider: sdktrace.NewTracerProvider(),
		Draw: func(context.Context) (context.Context, trace.TraceID, trace.SpanID) {
			return nil, trace.TraceID{1, 2, 3}, trace.SpanID{4, 5, 6}
		},
		Ended: func(*reqctx.Info, httpedge.Ended) {},
	})
	if err != nil {
		b.Fatal(err)
	}
	h := observe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := reqctx.From(r.Context())
		info.Host, info.Route, info.Service = "api.example.com", "users-list", "users"
		info.Subject, info.KeyID = "019aa4c1-7d3a-7c1e-8f6e-2b1f0a9c4d5e", "019aa4c1-8d3a-7c1e-8f6e-2b1f0a9c4d5e"
		w.WriteHeader(200)
	}))
	r := httptest.NewRequest(http.MethodGet, "/api/users/42", nil)
	info := &reqctx.Info{ID: "01890a5d-ac96-774b-bcce-b302099a8057", Scheme: "http"}
	info.SetClient(netip.MustParseAddr("192.0.2.1"), "192.0.2.1")
	r = r.WithContext(reqctx.With(r.Context(), info))
	w := nullWriter{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		info.Start = time.Now()
		h.ServeHTTP(w, r)
	}
}

// discard is io.Discard under another type: slog notices that one and skips the work.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestATraceThatIsNotDrawnHasAnIDAndNoSpan(t *testing.T) {
	drawn, drawnSpan := trace.TraceID{15: 7}, trace.SpanID{7: 8}
	for name, recorded := range map[string]bool{"recorded": true, "not recorded": false} {
		e := newEdge(t, func(o *httpedge.ObserveOptions) {
			o.Draw = func(ctx context.Context) (context.Context, trace.TraceID, trace.SpanID) {
				if recorded {
					return ctx, drawn, trace.SpanID{}
				}
				return nil, drawn, drawnSpan
			}
		})
		e.do(httptest.NewRequest(http.MethodGet, "/", nil), func(_ http.ResponseWriter, r *http.Request) {
			span, info := trace.SpanFromContext(r.Context()), reqctx.From(r.Context())
			if span.IsRecording() != recorded || (info.TraceID == drawn) == recorded || (info.SpanID == [8]byte{}) != recorded {
				t.Errorf("%s: a span %v, the request's trace is %x, its span %x", name, span.IsRecording(), info.TraceID, info.SpanID)
			}
		})
		if n := len(e.spans.GetSpans()); (n == 1) != recorded {
			t.Errorf("%s: %d spans", name, n)
		}
		if id := e.lines(t, 1)[0]["trace_id"]; (id == drawn.String()) == recorded || id == nil {
			t.Errorf("%s: the log has the trace %v", name, id)
		}
	}
}
