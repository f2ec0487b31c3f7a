package app_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// traceCollector takes traces as an OpenTelemetry collector does, by OTLP over
// HTTP.
type traceCollector struct {
	URL string

	mu       sync.Mutex
	requests []string // method, path and media type
	raw      []byte   // all bodies, decompressed
	resource map[string]string
	spans    []*tracepb.Span
}

func startCollector(t *testing.T) *traceCollector {
	t.Helper()
	c := &traceCollector{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(r); err != nil {
			t.Errorf("the collector: %v", err)
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *traceCollector) take(r *http.Request) error {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(r.Body)
		if err != nil {
			return err
		}
		body = unzipped
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var export collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &export); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type"))
	c.raw = append(c.raw, raw...)
	for _, of := range export.GetResourceSpans() {
		c.resource = map[string]string{}
		for _, a := range of.GetResource().GetAttributes() {
			c.resource[a.GetKey()] = a.GetValue().GetStringValue()
		}
		for _, scope := range of.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return nil
}

// named are the spans of the name and kind.
func (c *traceCollector) named(name string, kind tracepb.Span_SpanKind) []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.spans), func(s *tracepb.Span) bool { return s.GetName() != name || s.GetKind() != kind })
}

// one is the only span of the name and kind.
func (c *traceCollector) one(t *testing.T, name string, kind tracepb.Span_SpanKind) *tracepb.Span {
	t.Helper()
	found := c.named(name, kind)
	if len(found) != 1 {
		t.Fatalf("%d spans %q of kind %v", len(found), name, kind)
	}
	return found[0]
}

// attributes are the attributes of a span, as text.
func attributes(s *tracepb.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.GetAttributes() {
		value := a.GetValue().GetStringValue()
		if value == "" {
			value = fmt.Sprint(a.GetValue().GetIntValue())
		}
		all[a.GetKey()] = value
	}
	return all
}

// traced are the options of a program that exports every request.
func traced(endpoint, gateway string) apptest.Options {
	set := roomy()
	set["telemetry.trace_sample_ratio"] = "1"
	return apptest.Options{Gateway: gateway, Set: set, Env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}}
}

// tracingBackend answers and keeps the headers it got.
func tracingBackend(t *testing.T) (document string, got func() http.Header) {
	t.Helper()
	seen := make(chan http.Header, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone() }))
	t.Cleanup(backend.Close)
	refusing := listenerThatRefuses(t)
	return fmt.Sprintf(`
version: 1
services: [{name: backend, url: %q}, {name: refusing, url: "http://%s"}]
routes:
  - {name: things, match: {path: {prefix: /things}}, service: backend}
  - {name: nowhere, match: {path: {prefix: /nowhere}}, service: refusing, auth: {mode: none}}
`, backend.URL, refusing), func() http.Header { return <-seen }
}

// listenerThatRefuses is an address that nobody listens on.
func listenerThatRefuses(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestRequestsAreTraced(t *testing.T) {
	collector := startCollector(t)
	document, backendGot := tracingBackend(t)
	p := apptest.Start(t, traced(collector.URL, document))
	u := p.User(t)
	const parent = "0af7651916cd43dd8448eb211c80319c"

	own := p.Want(t, http.StatusOK, "GET", "/api/test?api_key=x", nil, u.With("User-Agent", "tester/1")...)
	p.Want(t, http.StatusOK, "GET", "/things/7?page=2", nil, u.With("Traceparent", "00-"+parent+"-b7ad6b7169203331-01", "Tracestate", "a=b", "Baggage", "c=d")...)
	header := backendGot()
	p.Want(t, http.StatusBadGateway, "GET", "/nowhere", nil)
	p.Want(t, http.StatusNotFound, "GET", "/users/"+unknownID+"/none", nil)
	if err := p.Stop(); err != nil { // sends what is queued
		t.Fatal(err)
	}

	t.Run("to the collector, as protobuf, by the name of the service", func(t *testing.T) {
		for _, r := range collector.requests {
			if r != "POST /v1/traces application/x-protobuf" {
				t.Errorf("request %q", r)
			}
		}
		if collector.resource["service.name"] != "keywarden" || collector.resource["service.instance.id"] == "" {
			t.Errorf("resource: %v", collector.resource)
		}
	})

	t.Run("a call of the platform", func(t *testing.T) {
		s := collector.one(t, "GET /api/test", tracepb.Span_SPAN_KIND_SERVER)
		got := attributes(s)
		for _, volatile := range []string{"client.address", "network.peer.address", "network.peer.port"} {
			if got[volatile] == "" {
				t.Errorf("no %s", volatile)
			}
			delete(got, volatile)
		}
		want := map[string]string{
			"http.request.method": "GET", "http.route": "/api/test", "http.response.status_code": "200", "url.scheme": "http",
			"url.path": "/api/test", "network.protocol.version": "1.1", "server.address": "127.0.0.1", "user_agent.original": "tester/1",
			"keywarden.request.id": own.Header.Get("X-Request-Id"), "user.id": u.ID,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("attributes (-want +got):\n%s", diff)
		}
		if len(s.GetParentSpanId()) > 0 || s.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_UNSET {
			t.Errorf("parent %x, status %v", s.GetParentSpanId(), s.GetStatus())
		}
	})

	t.Run("a forwarded call, whose trace goes on in the backend", func(t *testing.T) {
		server := collector.one(t, "GET things", tracepb.Span_SPAN_KIND_SERVER)
		clients := slices.DeleteFunc(collector.named("GET", tracepb.Span_SPAN_KIND_CLIENT), func(s *tracepb.Span) bool {
			return !bytes.Equal(s.GetTraceId(), server.GetTraceId()) || !bytes.Equal(s.GetParentSpanId(), server.GetSpanId())
		})
		if len(clients) != 1 {
			t.Fatalf("%d spans to the backend are children of the request's", len(clients))
		}
		client := clients[0]
		want := "00-" + hex.EncodeToString(client.GetTraceId()) + "-" + hex.EncodeToString(client.GetSpanId()) + "-01"
		if got := header.Get("Traceparent"); got != want {
			t.Errorf("traceparent %q reached the backend, want %q", got, want)
		}
		if got := header.Get("Tracestate"); got != "" {
			t.Errorf("tracestate %q of a stranger reached the backend", got)
		}
		// A stranger does not choose our trace ids, but can be found by theirs.
		links := server.GetLinks()
		if hex.EncodeToString(server.GetTraceId()) == parent || len(links) != 1 || hex.EncodeToString(links[0].GetTraceId()) != parent {
			t.Errorf("trace %x, links %v", server.GetTraceId(), links)
		}
	})

	t.Run("failures as such", func(t *testing.T) {
		failed := collector.one(t, "GET nowhere", tracepb.Span_SPAN_KIND_SERVER)
		if failed.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_ERROR || attributes(failed)["error.type"] != "502" {
			t.Errorf("502: %v %v", failed.GetStatus(), attributes(failed))
		}
		missing := collector.one(t, "GET", tracepb.Span_SPAN_KIND_SERVER) // no route
		if missing.GetStatus().GetCode() != tracepb.Status_STATUS_CODE_UNSET || attributes(missing)["http.response.status_code"] != "404" {
			t.Errorf("404: %v %v", missing.GetStatus(), attributes(missing))
		}
	})

	t.Run("statements of the database within the request's", func(t *testing.T) {
		register := collector.one(t, "POST /auth/register", tracepb.Span_SPAN_KIND_SERVER)
		inside := slices.ContainsFunc(collector.spans, func(s *tracepb.Span) bool {
			return s.GetKind() == tracepb.Span_SPAN_KIND_CLIENT && bytes.Equal(s.GetTraceId(), register.GetTraceId()) &&
				strings.Contains(fmt.Sprint(attributes(s)), "INSERT INTO users")
		})
		if !inside {
			t.Error("no statement of the registration")
		}
	})

	t.Run("the query appears nowhere", func(t *testing.T) {
		for _, text := range []string{"api_key", "page=2"} {
			if bytes.Contains(collector.raw, []byte(text)) {
				t.Errorf("%q was exported", text)
			}
		}
	})
}

// What the program was not told it does not do, whatever its surroundings say.
func TestNothingIsTracedUnlessAsked(t *testing.T) {
	collector := startCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	document, backendGot := tracingBackend(t)
	o := traced("", document)
	o.Env = nil
	p := apptest.Start(t, o)
	u := p.User(t)
	p.Want(t, http.StatusOK, "GET", "/things/7", nil, u.Auth()...)
	if got := backendGot().Get("Traceparent"); got != "" {
		t.Errorf("traceparent %q reached the backend", got)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if len(collector.requests) > 0 {
		t.Errorf("sent: %v", collector.requests)
	}
	for _, line := range p.Log.Lines(t) {
		if line["level"] != "INFO" && line["level"] != "DEBUG" {
			t.Errorf("log: %v", line)
		}
	}
}

// A collector that is away, or that takes and never answers, costs requests
// nothing and does not fail the program.
func TestDeadCollectorCostsRequestsNothing(t *testing.T) {
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(hanging.Close)
	t.Cleanup(func() { close(release) })
	for name, endpoint := range map[string]string{"away": "http://" + listenerThatRefuses(t), "hanging": hanging.URL} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10") // milliseconds: it is tried while requests come
			p := apptest.Start(t, traced(endpoint, ""))
			u := p.User(t)
			for range 200 {
				p.Want(t, http.StatusOK, "GET", "/api/test", nil, u.Auth()...)
			}
			p.Want(t, http.StatusOK, "GET", "/readyz?plane=control", nil)
		})
	}
}
