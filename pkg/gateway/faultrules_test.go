package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// failing is a service that answers with the status in its path.
func failing(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("Content-Type", "text/html")
		h.Set("ETag", `"x"`)
		h.Set("Set-Cookie", "a=b")
		h.Set("Retry-After", "7")
		h.Set("Cache-Control", "public, max-age=60")
		status := http.StatusOK
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
		if r.URL.Query().Has("stream") {
			h.Set("Content-Type", "text/event-stream")
		}
		w.WriteHeader(status)
		if r.URL.Query().Has("broken") {
			_, _ = w.Write([]byte("Traceback of the service"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(strings.Repeat("Traceback of the service ", 1000)))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const faultRules = `
version: 1
services: [{name: a, url: %q}, {name: gone, url: "http://127.0.0.1:1"}]
defaults:
  auth: {mode: none}
  compress: {}
  security_headers: {}
routes:
  - name: rules
    match: {path: {prefix: /rules}}
    service: a
    strip_prefix: /rules
    auth: {mode: required}
    allow_methods: [GET, HEAD, POST]
    rate_limit: [{name: few, by: route, rate: 1000/1h}, {name: none, by: header, header: X-Spent, rate: 1/1h}]
    cors: {origins: ["https://app.example.com"]}
    fault_rules:
      - {if: {codes: [auth.missing]}, status: 403, headers: {X-Help: "https://help.example.com"}, body: '{"error": "{{ code }}", "id": "{{ request_id }}", "route": "{{ route }}"}'}
      - {if: {codes: [auth.*]}, body: '"never: the first one fits"'}
      - {if: {policies: [allow_methods]}, content_type: text/html, body: "<h1>{{ status }} {{ title }}</h1>"}
      - {if: {policies: [rate_limit], statuses: [500-599]}, body: '"never: the status is another"'}
      - {if: {codes: [gateway.rate_limited]}, content_type: text/plain, body: "slow down"}
      - {if: {from: service, statuses: [404, 500-599]}, status: 502, body: '{"error": "the service says {{ status }}{{ code }}"}'}
  - {name: all, match: {path: {prefix: /all}}, service: gone, fault_rules: [{content_type: text/plain, body: "{{ status }} {{ code }}"}]}
  - {name: any, match: {path: {prefix: /any}}, service: a, strip_prefix: /any, fault_rules: [{if: {from: any}, status: 200, content_type: text/plain, body: "any"}]}
  - {name: watched, match: {path: {prefix: /watched}}, service: gone, fault_rules: {mode: shadow, rules: [{body: '"x"'}]}}
  - {name: plain, match: {path: {prefix: /plain}}, service: gone}
`

func TestErrorsAreAnsweredByTheFirstRuleThatFits(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(faultRules, failing(t))
	good := http.Header{"X-Api-Key": {"good"}, "Accept-Encoding": {"gzip"}}
	spent := http.Header{"X-Api-Key": {"good"}, "X-Spent": {"1"}}
	d.call("GET", "x.test", "/rules/200", spent, nil)
	for _, c := range []struct {
		method, path string
		header       http.Header
		status       int
		kind, body   string // body "" is not looked at
		code         string // in logs and metrics
	}{
		{"GET", "/rules/200", nil, 403, "application/json", `{"error": "auth.missing", "id": "request-1", "route": "rules"}`, "auth.missing"},
		{"DELETE", "/rules/200", good, 405, "text/html", "<h1>405 Method Not Allowed</h1>", "gateway.method_refused"},
		{"GET", "/rules/200", spent, 429, "text/plain", "slow down", "gateway.rate_limited"},
		{"GET", "/rules/503", good, 502, "application/json", `{"error": "the service says 502"}`, ""},
		{"GET", "/rules/404", good, 502, "application/json", `{"error": "the service says 502"}`, ""},
		{"GET", "/rules/503?broken", good, 502, "application/json", `{"error": "the service says 502"}`, ""},
		{"HEAD", "/rules/503", good, 502, "application/json", "", ""},
		{"GET", "/rules/403", good, 403, "text/html", "", ""},
		{"GET", "/rules/200", good, 200, "text/html", "", ""},
		{"GET", "/rules/500?stream", good, 500, "text/event-stream", "", ""},
		{"GET", "/all", nil, 502, "text/plain", "502 gateway.upstream_unreachable", "gateway.upstream_unreachable"},
		{"GET", "/any/503", nil, 200, "text/plain", "any", ""},
		{"GET", "/watched", nil, 502, "application/problem+json", "", "gateway.upstream_unreachable"},
		{"GET", "/plain", nil, 502, "application/problem+json", "", "gateway.upstream_unreachable"},
		{"GET", "/nowhere", nil, 404, "application/problem+json", "", "gateway.no_route"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			resp, body := d.call(c.method, "x.test", c.path, c.header, nil)
			if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != c.kind || c.body != "" && body != c.body {
				t.Errorf("%d %s %.100s", resp.StatusCode, resp.Header.Get("Content-Type"), body)
			}
			// The answer is out before the request has ended.
			eventually(t, "the code "+c.code, func() bool { return d.info().Code == c.code })
			replaced := strings.HasPrefix(c.kind, "application/json") || c.body != ""
			if replaced && (strings.Contains(body, "Traceback") || resp.Header.Get("ETag") != "" || resp.Header.Get("Content-Encoding") != "" ||
				resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("X-Content-Type-Options") != "nosniff") {
				t.Errorf("the answer is not a new one: %q", resp.Header)
			}
		})
	}
}

// TestWhatClientsHaveToKnowOfAnErrorStays looks at the fields that programs go by.
func TestWhatClientsHaveToKnowOfAnErrorStays(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(faultRules, failing(t))
	page := http.Header{"Origin": {"https://app.example.com"}}
	spent := http.Header{"X-Api-Key": {"good"}, "X-Spent": {"1"}}
	d.call("GET", "x.test", "/rules/200", spent, nil)
	for _, c := range []struct {
		path   string
		header http.Header
		fields []string
	}{
		{"/rules/200", page, []string{"Www-Authenticate", "Access-Control-Allow-Origin", "X-Help", "Content-Length", "X-Frame-Options"}},
		{"/rules/200", spent, []string{"Retry-After", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Reset"}},
		{"/rules/503", http.Header{"X-Api-Key": {"good"}}, []string{"Retry-After", "Set-Cookie", "Ratelimit"}},
	} {
		resp, _ := d.call("GET", "x.test", c.path, c.header, nil)
		for _, name := range c.fields {
			if resp.Header.Get(name) == "" {
				t.Errorf("%s: %s is gone: %q", c.path, name, resp.Header)
			}
		}
	}
}
