package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// A service that sends every request back to the gateway ends it after a few passes,
// not when no connection is left.
func TestLoopEnds(t *testing.T) {
	var passes atomic.Int32
	var seen atomic.Value
	var back atomic.Pointer[httputil.ReverseProxy]
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if passes.Add(1) > 50 {
			w.WriteHeader(http.StatusTeapot) // enough of it
			return
		}
		seen.Store(strings.Join(r.Header["Cdn-Loop"], "|"))
		back.Load().ServeHTTP(w, r)
	}))
	t.Cleanup(service.Close)
	f := newFront(t, service.URL, setup{})
	to, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	back.Store(httputil.NewSingleHostReverseProxy(to))
	for _, lines := range []map[string]string{
		nil, {"Connection": "CDN-Loop"}, {"CDN-Loop": "other; v=1, keywarden-other"}, {"CDN-Loop": strings.Repeat("keywarden-x, ", 20) + "y"},
	} {
		passes.Store(0)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.URL+"/x", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range lines {
			req.Header.Set(name, value)
		}
		answer, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusLoopDetected || !strings.Contains(string(text), "gateway.loop") || passes.Load() != 3 {
			t.Errorf("%v: status %d after %d passes: %s", lines, answer.StatusCode, passes.Load(), text)
		}
		if got := seen.Load().(string); !strings.HasPrefix(got, lines["CDN-Loop"]) || strings.Contains(got, "|") || strings.Count(got, "keywarden-") < 3 {
			t.Errorf("%v: the service sees %q", lines, got)
		}
	}
}
