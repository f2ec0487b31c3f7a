package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/problem"
)

func TestRoutesRewritePathAndHost(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host, r.RequestURI) }))
	t.Cleanup(s.Close)
	d := newDoor(t, 0)
	d.apply(`
version: 1
services:
  - {name: plain, url: "%[1]s"}
  - {name: based, url: "%[1]s/base"}
defaults: {auth: {mode: none}}
routes:
  - {name: numbered, match: {path: {regex: "/v([0-9]+)/(.*)"}}, rewrite: {path: "/$2/in/$1"}, service: based}
  - {name: named, match: {path: {regex: "/(?P<tenant>[a-z]+)[.]t/(?P<rest>.*)"}}, rewrite: {path: "/${tenant}$$/${rest}"}, service: plain, upstream_host: api.internal.example}
  - {name: own, match: {path: {prefix: /own}}, rewrite: {regex: "^/own/(.+)$", path: "/$1"}, service: plain, preserve_host: true}
`, s.URL)
	for _, c := range []struct{ path, want string }{
		{"/v12/users/7?a=%2F", strings.TrimPrefix(s.URL, "http://") + "/base/users/7/in/12?a=%2F"},
		{"/v1/a%2Cb", strings.TrimPrefix(s.URL, "http://") + "/base/a%2Cb/in/1"},
		{"/acme.t/x", "api.internal.example/acme$/x"},
		{"/own/x", "client.test/x"},
	} {
		if resp, got := d.call("GET", "client.test", c.path, nil, nil); resp.StatusCode != 200 || got != c.want {
			t.Errorf("%s: %d %s, want %s", c.path, resp.StatusCode, got, c.want)
		}
	}
	for path, want := range map[string]string{
		"/own":  "404 gateway.rewrite_no_match",
		"/own/": "404 gateway.rewrite_no_match",
		"/v1/":  "400 gateway.rewrite_refused",
	} {
		resp, body := d.call("GET", "client.test", path, nil, nil)
		if got := fmt.Sprint(resp.StatusCode, " ", codeOf(t, body)); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestADefaultRouteTakesWhatNoOtherDoes also shows what it does not take: paths
// that have a route, for other methods.
func TestADefaultRouteTakesWhatNoOtherDoes(t *testing.T) {
	for _, match := range []string{"", "match: {}, ", "match: {methods: [GET, POST]}, "} {
		d := newDoor(t, 0)
		d.apply(`
version: 1
services: [{name: users, url: "%s"}, {name: site, url: "%s"}]
defaults: {auth: {mode: none}}
routes:
  - {name: users, match: {path: {prefix: /users}, methods: [GET]}, service: users}
  - {name: hosted, match: {hosts: [api.example.com], path: {prefix: /only}}, service: users}
  - {name: default, `+match+`service: site}
`, named(t, "users"), named(t, "site"))
		for _, c := range []struct{ method, host, path, want string }{
			{"GET", "x", "/", "default"},
			{"POST", "y", "/any/thing", "default"},
			{"GET", "api.example.com", "/other", "default"},
			{"GET", "x", "/users/1", "users"},
			{"GET", "x", "/usersx", "default"},
			{"POST", "x", "/users/1", "405 GET"},
			{"DELETE", "x", "/any", map[bool]string{true: "405 GET, POST", false: "default"}[strings.Contains(match, "GET")]},
		} {
			resp, _ := d.call(c.method, c.host, c.path, nil, nil)
			got := d.info().Route
			if resp.StatusCode == 405 {
				got = "405 " + resp.Header.Get("Allow")
			}
			if got != c.want {
				t.Errorf("%s%s %s: %s, want %s", match, c.method, c.path, got, c.want)
			}
		}
	}
}

func TestASplitKeepsAUserWhereItIs(t *testing.T) {
	d := newDoor(t, 0)
	document := `
version: 1
services: [{name: old, url: "%s"}, {name: new, url: "%s"}]
defaults: {auth: {mode: none}}
routes:
  - name: r
    strip_prefix: /api
    match: {path: {prefix: /api}}
    split:
      sticky: {by: cookie, name: user}
      services:
        - {service: old, weight: %d}
        - {service: new, weight: %d, pin: [{header: x-canary, value: always}]}
`
	older, newer := named(t, "old"), named(t, "new")
	at := func(user int, canary bool) string {
		header := http.Header{"Cookie": {fmt.Sprintf("user=u%d", user)}}
		if canary {
			header.Set("X-Canary", "always")
		}
		_, text := d.call("GET", "x", "/api/users", header, nil)
		name, path, _ := strings.Cut(text, " ")
		if path != "/users" || d.info().Service != name || d.info().Route != "r" {
			t.Fatalf("got %q, noted as %s of %s", text, d.info().Service, d.info().Route)
		}
		return name
	}
	moved := map[int]bool{}
	for _, weight := range []int{0, 20, 50, 100} {
		d.apply(document, older, newer, 100-weight, weight)
		for user := range 50 {
			name := at(user, false)
			if again := at(user, false); again != name {
				t.Fatalf("weight %d: user %d is at %s, then at %s", weight, user, name, again)
			}
			if moved[user] && name == "old" {
				t.Errorf("weight %d: user %d went back", weight, user)
			}
			moved[user] = name == "new"
			if at(user, true) != "new" {
				t.Errorf("weight %d: the pin does not hold", weight)
			}
		}
	}
	if len(moved) != 50 || slices.Contains([]bool{moved[0], moved[49]}, false) {
		t.Error("not everybody moved in the end")
	}
}

func TestVersionsLeadToTheirServices(t *testing.T) {
	service := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Deprecation", "@1")
			w.Header().Set("Vary", "Accept-Language")
			fmt.Fprintf(w, "%s %s %s", name, r.RequestURI, r.Header.Get("X-Forwarded-Prefix"))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	d := newDoor(t, 0)
	d.apply(`
version: 1
services: [{name: one, url: "%s"}, {name: two, url: "%s"}]
defaults: {auth: {mode: none}}
routes:
  - {name: path, match: {path: {prefix: /path}}, versions: {from: {path: true}, services: [{version: v1, service: one}, {version: v2, service: two}]}}
  - {name: strip, match: {path: {prefix: /strip}}, versions: {from: {path: true, strip: true}, default: v2, services: [{version: v1, service: one}, {version: v2, service: two}]}}
  - {name: both, match: {path: {prefix: /both}}, strip_prefix: /both, versions: {from: {path: true, strip: true}, default: v2, services: [{version: v1, service: one}, {version: v2, service: two}]}}
  - name: header
    match: {path: {prefix: /header}}
    versions:
      from: {header: API-Version}
      default: "2"
      services:
        - {version: "1", service: one, deprecated: {since: 2023-06-30, sunset: 2027-01-01, link: "https://example.com/v1"}}
        - {version: "2", service: two}
  - {name: type, match: {path: {prefix: /type}}, versions: {from: {media_type: "application/vnd.acme.{version}+json"}, default: "2", services: [{version: "1", service: one}, {version: "2", service: two}]}}
`, service("one"), service("two"))
	for _, c := range []struct{ path, name, value, want string }{
		{"/path/v1/users", "", "", "one /path/v1/users "},
		{"/path/v2", "", "", "two /path/v2 "},
		{"/strip/v1/users%2C", "", "", "one /strip/users%2C "},
		{"/strip/v2", "", "", "two /strip "},
		{"/strip/users", "", "", "two /strip/users "},
		{"/both/v1/users", "", "", "one /users /both/v1"},
		{"/both/users", "", "", "two /users /both"},
		{"/both", "", "", "two / /both"},
		{"/header", "Api-Version", "1", "one /header "},
		{"/header", "", "", "two /header "},
		{"/type", "Accept", "application/vnd.acme.1+json", "one /type "},
		{"/type", "Accept", "application/json", "two /type "},
	} {
		header := http.Header{}
		if c.name != "" {
			header.Set(c.name, c.value)
		}
		resp, got := d.call("GET", "x", c.path, header, nil)
		if got != c.want || d.info().Service != strings.Fields(c.want)[0] {
			t.Errorf("%s: %q by %s, want %q", c.path, got, d.info().Service, c.want)
		}
		deprecated := []string{"@1"}
		if c.value == "1" {
			deprecated = []string{"@1688083200"}
		}
		if h := resp.Header; !slices.Equal(h["Deprecation"], deprecated) || (h.Get("Sunset") != "") != (c.value == "1") {
			t.Errorf("%s: header %v", c.path, h)
		}
		if strings.HasPrefix(c.path, "/header") && !slices.Equal(resp.Header["Vary"], []string{"Api-Version", "Accept-Language"}) {
			t.Errorf("Vary %q", resp.Header["Vary"])
		}
	}
	for path, want := range map[string]string{"/path/v3/users": "404 gateway.version_not_found", "/path": "404 gateway.version_not_found"} {
		resp, body := d.call("GET", "x", path, nil, nil)
		var doc problem.Document
		if err := json.Unmarshal([]byte(body), &doc); err != nil || fmt.Sprint(resp.StatusCode, " ", doc.Code) != want || !strings.Contains(doc.Detail, "v1, v2") {
			t.Errorf("%s: %d %+v, want %s with the versions that there are", path, resp.StatusCode, doc, want)
		}
	}
}

func TestExplainTellsWhatWouldBeChosen(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(`
version: 1
services: [{name: one, url: "%s"}, {name: two, url: "%s"}]
defaults: {auth: {mode: none}}
routes:
  - {name: split, match: {path: {prefix: /split}}, split: {services: [{service: one, weight: 1}, {service: two, weight: 0, pin: [{header: X-Canary}]}]}, mirror: {service: two}}
  - {name: versions, match: {path: {prefix: /v}}, versions: {from: {path: true}, services: [{version: "1", service: two}]}}
  - {name: plain, service: one}
`, named(t, "one"), named(t, "two"))
	for _, c := range []struct {
		path           string
		header         http.Header
		service, hints string
	}{
		{"/split", nil, "one", "one 1, two 0 of 1"},
		{"/split", http.Header{"X-Canary": {"1"}}, "two", "pinned"},
		{"/v/1", nil, "two", "version 1"},
		{"/v/2", nil, "", "There are: 1."},
		{"/", nil, "one", ""},
	} {
		description := described(t, "GET", "http://x"+c.path)
		description.Header = c.header
		if got := d.gateway.Explain(t.Context(), description); got.Service != c.service || !strings.Contains(got.Why, c.hints) {
			t.Errorf("%s: %s because %q, want %s and %q", c.path, got.Service, got.Why, c.service, c.hints)
		}
	}
}

// shadowed is a gateway that mirrors to a service, with the metric of it.
type shadowed struct {
	*door
	reader *sdkmetric.ManualReader
}

func newShadowed(t *testing.T) *shadowed {
	t.Helper()
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	return &shadowed{door: newDoor(t, 0, func(o *gateway.Options) { o.Meter = meter }), reader: reader}
}

// outcomes is what became of the copies of route r.
func (s *shadowed) outcomes() map[string]int64 {
	s.t.Helper()
	var all metricdata.ResourceMetrics
	if err := s.reader.Collect(s.t.Context(), &all); err != nil {
		s.t.Fatal(err)
	}
	found := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if m.Name != "keywarden.mirror.requests" || !ok {
				continue
			}
			for _, point := range sum.DataPoints {
				outcome, _ := point.Attributes.Value(attribute.Key("keywarden.outcome"))
				found[outcome.AsString()] += point.Value
			}
		}
	}
	return found
}

func TestAMirrorGetsCopiesOfWhatPasses(t *testing.T) {
	var mu sync.Mutex
	var got []string
	shadow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%s %s %q user %s mirrored %s key %q authorization %q", r.Method, r.RequestURI, body,
			r.Header.Get("X-Consumer"), r.Header.Get("X-Mirrored"), r.Header.Get("X-Api-Key"), r.Header.Get("Authorization")))
		w.Header().Set("X-Shadow", "1")
		w.WriteHeader(500)
	}))
	t.Cleanup(shadow.Close)
	s := newShadowed(t)
	s.apply(`
version: 1
services: [{name: a, url: "%s"}, {name: shadow, url: "%s"}]
routes:
  - {name: r, match: {path: {prefix: /api}}, strip_prefix: /api, service: a, max_body: 1KiB, mirror: {service: shadow, max_body: 8B}}
`, named(t, "a"), shadow.URL)
	key := http.Header{"X-Api-Key": {"good"}, "X-Mirrored": nil}
	for _, body := range []string{"", "order", "longer than 8"} {
		if resp, text := s.call("POST", "x", "/api/orders", key, strings.NewReader(body)); resp.StatusCode != 200 || text != "a /orders" || resp.Header.Get("X-Shadow") != "" {
			t.Errorf("the client got %d %s", resp.StatusCode, text)
		}
	}
	if resp, _ := s.call("POST", "x", "/api/orders", nil, strings.NewReader("order")); resp.StatusCode != 401 {
		t.Errorf("without a key: %d", resp.StatusCode)
	}
	if resp, _ := s.call("POST", "x", "/api/orders", key, strings.NewReader(strings.Repeat("x", 2000))); resp.StatusCode != 413 {
		t.Errorf("too large: %d", resp.StatusCode)
	}
	eventually(t, "two copies, and none of what is too large", func() bool {
		o := s.outcomes()
		return o["answered"] == 2 && o["too_large"] >= 1
	})
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(got)
	want := []string{
		`POST /orders "" user user-1 mirrored 1 key "" authorization ""`,
		`POST /orders "order" user user-1 mirrored 1 key "" authorization ""`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("the shadow got %q, want %q", got, want)
	}
}

// TestAHungShadowDelaysNobody has a shadow that never answers: clients do not
// notice, the number of copies is bounded, and Close ends them.
func TestAHungShadowDelaysNobody(t *testing.T) {
	var under, most atomic.Int64
	release := make(chan struct{})
	shadow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n := under.Add(1)
		defer under.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	t.Cleanup(func() { close(release); shadow.Close() })
	s := newShadowed(t)
	s.apply(`
version: 1
services: [{name: a, url: "%s"}, {name: shadow, url: "%s"}]
routes: [{name: r, service: a, auth: {mode: none}, mirror: {service: shadow, timeout: 1h}}]
`, named(t, "a"), shadow.URL)
	const requests = 300
	for range requests {
		if resp, text := s.call("POST", "x", "/", nil, strings.NewReader("order")); resp.StatusCode != 200 || text != "a /" {
			t.Fatalf("the client got %d %s", resp.StatusCode, text)
		}
	}
	eventually(t, "copies are dropped", func() bool { return s.outcomes()["dropped"] >= requests/2 })
	s.gateway.Close()
	o := s.outcomes()
	if o["dropped"]+o["failed"]+o["incomplete"] != requests || o["failed"] == 0 {
		t.Errorf("after Close: %v", o)
	}
	if m := most.Load(); m > 32 {
		t.Errorf("%d copies at once", m)
	}
}

// TestAMirrorOutlivesAReload sends copies while documents are applied.
func TestAMirrorOutlivesAReload(t *testing.T) {
	shadow := newReplica(t, "shadow")
	s := newShadowed(t)
	target := named(t, "a")
	for i := range 20 {
		s.apply(`
version: 1
services: [{name: a, url: "%s"}, {name: shadow, url: "%s"}]
routes: [{name: r, service: a, auth: {mode: none}, priority: %d, mirror: {service: shadow}}]
`, target, shadow.URL, i)
		for range 5 {
			if resp, _ := s.call("GET", "x", "/", nil, nil); resp.StatusCode != 200 {
				t.Fatalf("the client got %d", resp.StatusCode)
			}
		}
	}
	eventually(t, "all copies are answered", func() bool { return s.outcomes()["answered"] == 100 })
	if n := shadow.asked.Load(); n != 100 {
		t.Errorf("the shadow got %d, want 100", n)
	}
}

func TestExplainOfASplitGoesByTheUser(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(`
version: 1
services: [{name: one, url: "%s"}, {name: two, url: "%s"}]
routes:
  - {name: r, split: {sticky: {by: user}, services: [{service: one, weight: 1}, {service: two, weight: 1}]}}
`, named(t, "one"), named(t, "two"))
	seen := map[string]bool{}
	for i := range 20 {
		description := described(t, "GET", "http://x/")
		description.Principal = &access.Principal{UserID: fmt.Sprint("user-", i)}
		got := d.gateway.Explain(t.Context(), description)
		if again := d.gateway.Explain(t.Context(), description); again.Service != got.Service {
			t.Fatalf("user %d is at %s, then at %s", i, got.Service, again.Service)
		}
		seen[got.Service] = true
	}
	if len(seen) != 2 {
		t.Errorf("all users are at %v", seen)
	}
}
