package gateway_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
)

func benchGateway(b *testing.B) *gateway.Gateway {
	b.Helper()
	g, err := gateway.New(gateway.Options{Authenticator: &authenticator{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(g.Close)
	return g
}

func manyRoutes(b *testing.B, n int, service string) spec.Document {
	b.Helper()
	var doc strings.Builder
	fmt.Fprintf(&doc, "version: 1\nservices:\n  - {name: a, url: \"%s\"}\nroutes:\n", service)
	for i := range n {
		fmt.Fprintf(&doc, "  - {name: r%d, match: {path: {prefix: /api/r%d}}, service: a, strip_prefix: /api, auth: {mode: none}}\n", i, i)
	}
	return parse(b, doc.String())
}

// BenchmarkApply compiles and swaps a document; the digests differ each time.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		docs := []spec.Document{manyRoutes(b, n, "http://127.0.0.1:1"), manyRoutes(b, n, "http://127.0.0.1:2")}
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			g := benchGateway(b)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := g.Apply(docs[i%2]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkProxy is a whole request over loopback: client, gateway and service
// share the machine and the allocations.
func BenchmarkProxy(b *testing.B) {
	body := []byte(strings.Repeat("a", 1024))
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer service.Close()
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			g := benchGateway(b)
			if err := g.Apply(manyRoutes(b, n, service.URL)); err != nil {
				b.Fatal(err)
			}
			h := canonical.Middleware(g)
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				info := &reqctx.Info{ID: "1", Client: netip.MustParseAddr("127.0.0.1"), Scheme: "http"}
				h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
			}))
			defer front.Close()
			client, target := front.Client(), front.URL+fmt.Sprintf("/api/r%d/x", n-1)
			b.ReportAllocs()
			for b.Loop() {
				resp, err := client.Get(target)
				if err != nil || resp.StatusCode != 200 {
					b.Fatal(resp, err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
