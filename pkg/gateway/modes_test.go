package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// watched is a gateway whose metrics and log a test can read, with a service that
// remembers the header of the last request.
type watched struct {
	*door
	reader  *sdkmetric.ManualReader
	service string // address

	mu      sync.Mutex
	log     bytes.Buffer
	arrived http.Header // nil: nothing has
}

// Write takes lines of the log.
func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

func newWatched(t *testing.T, bodyLimit int64) *watched {
	t.Helper()
	w := &watched{reader: sdkmetric.NewManualReader()}
	service := httptest.NewServer(w)
	t.Cleanup(service.Close)
	w.service = service.URL
	w.door = newDoor(t, bodyLimit, func(o *gateway.Options) {
		o.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(w.reader)).Meter("test")
		o.Logger = slog.New(slog.NewJSONHandler(w, nil))
	})
	return w
}

// longer is how long the service works on a request that asks for it.
const longer = 100 * time.Millisecond

// ServeHTTP is the service. The header X-Hold makes it work on a request: longer,
// or until the gateway ends it.
func (w *watched) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.mu.Lock()
	w.arrived = r.Header.Clone()
	w.mu.Unlock()
	switch r.Header.Get("X-Hold") {
	case "longer":
		<-time.After(longer)
	case "forever":
		<-r.Context().Done()
	}
	rw.Header().Set("Content-Type", "text/plain")
	rw.Header().Set("X-Powered-By", "service")
	if r.Header.Get("X-Answer") == "503" {
		rw.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprint(rw, "a text of the service")
}

// forget makes the next request the first.
func (w *watched) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrived = nil
	w.log.Reset()
}

func (w *watched) got() http.Header {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.arrived
}

// lines are the lines of the log with this message.
func (w *watched) lines(message string) []map[string]any {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []map[string]any
	for line := range bytes.Lines(w.log.Bytes()) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			w.t.Fatal(err)
		}
		if fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

// counted is what a metric of policies has counted, as "route policy".
func (w *watched) counted(metric string) map[string]int64 {
	w.t.Helper()
	var all metricdata.ResourceMetrics
	if err := w.reader.Collect(w.t.Context(), &all); err != nil {
		w.t.Fatal(err)
	}
	found := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != metric {
				continue
			}
			for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
				route, _ := point.Attributes.Value(attribute.Key("keywarden.route"))
				policy, _ := point.Attributes.Value(attribute.Key("keywarden.policy"))
				found[route.AsString()+" "+policy.AsString()] += point.Value
			}
		}
	}
	return found
}

const (
	refusals       = "keywarden.policy.refusals"
	shadowRefusals = "keywarden.policy.shadow_refusals"
	inShadow       = "a policy in shadow mode would have acted"
)

// modal is a policy, a request that it acts on, and how that shows.
type modal struct {
	name   string // of the policy
	fields string // of the policy, without its mode
	method string
	header http.Header
	body   string

	unannounced bool // the length of the body
	answers     int  // status of the service, where the policy does not change it; 0: 200

	refusal string                                           // status and code; empty: it changes
	changed func(w *watched, resp *http.Response) (was bool) // for one that changes
	hold    map[string]string                                // X-Hold by mode
}

func modals(t *testing.T) []modal {
	t.Helper()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	answer := func(name, value string) func(*watched, *http.Response) bool {
		return func(_ *watched, resp *http.Response) bool { return resp.Header.Get(name) == value }
	}
	request := func(name, value string) func(*watched, *http.Response) bool {
		return func(w *watched, _ *http.Response) bool { return w.got().Get(name) == value }
	}
	text := http.Header{"Content-Type": {"text/plain"}}
	return []modal{
		{name: "security_headers", changed: answer("X-Content-Type-Options", "nosniff")},
		{
			name: "fault_rules", fields: `rules: [{if: {from: service}, status: 200, content_type: text/plain, body: "fine"}]`,
			header: http.Header{"X-Answer": {"503"}}, answers: 503, changed: func(_ *watched, resp *http.Response) bool { return resp.ContentLength == 4 },
		},
		{name: "allow_ips", fields: "networks: [192.0.2.0/24]", refusal: "403 gateway.address_not_allowed"},
		{name: "deny_ips", fields: "networks: [127.0.0.0/8]", refusal: "403 gateway.address_not_allowed"},
		{
			name: "cors", fields: `origins: ["https://app.example.com"]`, method: "OPTIONS",
			header: preflight("https://evil.test", "GET", ""), refusal: "403 gateway.origin_not_allowed",
		},
		{name: "allow_methods", fields: "methods: [GET]", method: "DELETE", refusal: "405 gateway.method_refused"},
		{name: "media_types", fields: "types: [application/json]", method: "POST", header: text, body: "hello", refusal: "415 gateway.media_type_not_accepted"},
		{name: "max_body", fields: "limit: 4B", method: "POST", body: "hello", unannounced: true, refusal: "413 request.body_too_large"},
		{name: "max_body", fields: "limit: 4B", method: "POST", body: "hello", refusal: "413 request.body_too_large"},
		{name: "auth", refusal: "401 auth.missing"},
		{name: "log_fields", fields: "fields: {agent: 'x{{ request.method }}'}", changed: func(w *watched, _ *http.Response) bool {
			return len(w.info().Fields) == 1 && w.info().Fields[0].Value == "xGET"
		}},
		{
			name: "concurrency", refusal: "500 gateway.concurrency_subject",
			fields: `limits: [{name: l, by: expression, expression: 'string(int(request.headers["x-none"]))', limit: 1}]`,
		},
		{name: "rate_limit", fields: "limits: [{name: l, by: route, rate: 1/1h, cost_header: X-Cost}]", header: http.Header{"X-Cost": {"2"}}, refusal: "429 gateway.rate_limit_cost"},
		{
			name: "quota", fields: "quotas: [{name: q, by: route, limit: 1, period: day, cost_header: X-Cost}]",
			header: http.Header{"X-Cost": {"2"}}, refusal: "429 gateway.quota_cost",
		},
		{name: "fault", fields: "percent: 100, abort: 418", refusal: "418 gateway.fault_injected"},
		{name: "request_headers", fields: "set: {X-Set: gateway}", changed: request("X-Set", "gateway")},
		{name: "response_headers", fields: "set: {X-Set: gateway}", changed: answer("X-Set", "gateway")},
		{name: "compress", fields: "types: [text/plain], min_size: 1B", header: http.Header{"Accept-Encoding": {"gzip"}}, changed: answer("Content-Encoding", "gzip")},
		{name: "validate", header: http.Header{"X-Wrong": {"yes"}}, refusal: "400 request.invalid"},
		{name: "mock", changed: answer("Vary", "Prefer")},
		{name: "cache", changed: func(_ *watched, resp *http.Response) bool { return resp.Header.Get("Cache-Status") != "" }},
		{
			name: "basic_auth", fields: fmt.Sprintf("username: gateway, password_file: %q", password),
			changed: request("Authorization", "Basic Z2F0ZXdheTpvcGVuIHNlc2FtZQ=="),
		},
		{name: "timeout", fields: "after: 10ms", refusal: "504 gateway.upstream_timeout", hold: map[string]string{"enforce": "forever", "shadow": "longer"}},
	}
}

func TestTheModesOfEveryPolicyAreTested(t *testing.T) {
	var want, got []string
	for f := range reflect.TypeFor[policies.Policies]().Fields() {
		want = append(want, strictyaml.FieldName(f))
	}
	for _, m := range modals(t) {
		got = append(got, m.name)
	}
	got = slices.Compact(got)
	if !slices.Equal(got, want) {
		t.Errorf("tested are %v, there are %v", got, want)
	}
}

// TestEachModeOfEachPolicy holds that a policy acts when it is enforced, only tells
// of it in shadow mode, and is not there when it is off.
func TestEachModeOfEachPolicy(t *testing.T) {
	for _, m := range modals(t) {
		for _, mode := range []string{"enforce", "shadow", "off"} {
			t.Run(m.name+"/"+mode, func(t *testing.T) {
				w := newWatched(t, 0)
				fields := "mode: " + mode
				if m.fields != "" && mode != "off" {
					fields += ", " + m.fields
				}
				auth := ", auth: {mode: none}"
				if m.name == "auth" {
					auth = ""
				}
				w.apply(`
version: 1
apis: [{name: d, openapi: '{"openapi":"3.1.0","info":{"title":"d","version":"1"},"paths":{"/x":{"get":{"operationId":"get",
  "parameters":[{"name":"X-Wrong","in":"header","schema":{"const":"no"}}],"responses":{"200":{"description":"a text"}}}}}}'}]
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a, operation: {api: d, id: get}, %s: {%s}%s}]`, w.service, m.name, fields, auth)
				header := m.header.Clone()
				if hold := m.hold[mode]; hold != "" {
					header = http.Header{"X-Hold": {hold}}
				}
				method := "GET"
				if m.method != "" {
					method = m.method
				}
				var content io.Reader = strings.NewReader(m.body)
				if m.unannounced {
					content = io.MultiReader(content)
				}
				resp, body := w.call(method, "x", "/", header, content)
				m.check(t, w, mode, resp, body)
			})
		}
	}
}

func (m modal) check(t *testing.T, w *watched, mode string, resp *http.Response, body string) {
	t.Helper()
	acts, status := mode == "enforce", 200
	if !acts && m.answers != 0 {
		status = m.answers
	}
	if m.refusal != "" {
		want, got := "200", fmt.Sprint(resp.StatusCode)
		if acts {
			want = m.refusal
		}
		if resp.StatusCode != 200 {
			got += " " + codeOf(t, body)
		}
		if got != want {
			t.Errorf("answered with %s, want %s", got, want)
		}
	} else if resp.StatusCode != status || m.changed(w, resp) != acts {
		t.Errorf("status %d, changed: %t, want %t; answer %v, service got %v", resp.StatusCode, !acts, acts, resp.Header, w.got())
	}
	refused, shadowed, logged := 0, 0, 0
	if acts && m.refusal != "" {
		refused = 1
	}
	if mode == "shadow" {
		shadowed, logged = 1, 1
	}
	for metric, want := range map[string]int{refusals: refused, shadowRefusals: shadowed} {
		eventually(t, metric, func() bool { return w.counted(metric)["r "+m.name] == int64(want) })
		if others := len(w.counted(metric)); others != want {
			t.Errorf("%s: %v", metric, w.counted(metric))
		}
	}
	lines := w.lines(inShadow)
	if len(lines) != logged {
		t.Fatalf("%d lines in the log, want %d", len(lines), logged)
	}
	if logged == 0 {
		return
	}
	if l := lines[0]; l["route"] != "r" || l["policy"] != m.name || l["request_id"] != "request-1" || (l["error"] == nil) != (m.refusal == "") {
		t.Errorf("the log says %v", l)
	}
}

// TestConditions holds for a policy that refuses and for one that changes, in both
// modes. A condition that cannot be worked out lets nobody pass, except in shadow
// mode, which refuses nobody.
func TestConditions(t *testing.T) {
	const holds, holdsNot, fails = `request.method == "GET"`, `request.method == "POST"`, `int(request.headers["x-not-there"]) > 1`
	for _, c := range []struct {
		when, mode string
		status     int
		code       string // of the refusal
		watched    int64  // shadow refusals
		failed     int    // lines of the log
	}{
		{holds, "enforce", 403, "gateway.address_not_allowed", 0, 0},
		{holdsNot, "enforce", 200, "", 0, 0},
		{fails, "enforce", 500, "gateway.condition_failed", 0, 1},
		{holds, "shadow", 200, "", 1, 0},
		{holdsNot, "shadow", 200, "", 0, 0},
		{fails, "shadow", 200, "", 0, 1},
	} {
		t.Run(c.mode+" "+c.when, func(t *testing.T) {
			w := newWatched(t, 0)
			w.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a, auth: {mode: none}, deny_ips: {networks: [127.0.0.0/8], mode: %s, when: '%s'}}]`, w.service, c.mode, c.when)
			resp, body := w.call("GET", "x", "/", nil, nil)
			if resp.StatusCode != c.status || c.code != "" && codeOf(t, body) != c.code {
				t.Errorf("answered with %d: %s", resp.StatusCode, body)
			}
			if reached := w.got() != nil; reached != (c.status == 200) {
				t.Errorf("the service was asked: %t", reached)
			}
			if got := w.counted(shadowRefusals)["r deny_ips"]; got != c.watched {
				t.Errorf("counted %d in shadow, want %d", got, c.watched)
			}
			if got := len(w.lines("the condition of a policy could not be worked out")); got != c.failed {
				t.Errorf("%d lines in the log, want %d", got, c.failed)
			}
		})
	}
}

// TestAConditionMayAskForTheCallerAfterAuthentication is for a bound that counts
// for some callers only.
func TestAConditionMayAskForTheCallerAfterAuthentication(t *testing.T) {
	w := newWatched(t, 0)
	w.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a, auth: {mode: optional}, timeout: {after: 10ms, when: '!principal.authenticated'}}]`, w.service)
	if resp, body := w.call("GET", "x", "/", http.Header{"X-Hold": {"forever"}}, nil); resp.StatusCode != 504 {
		t.Errorf("a stranger got %d: %s", resp.StatusCode, body)
	}
	if resp, body := w.call("GET", "x", "/", http.Header{"X-Hold": {"longer"}, "X-Api-Key": {"good"}}, nil); resp.StatusCode != 200 {
		t.Errorf("a known caller got %d: %s", resp.StatusCode, body)
	}
}

// TestInheritance tells by response_headers which block a policy was taken from.
func TestInheritance(t *testing.T) {
	w := newWatched(t, 0)
	w.apply(`
version: 1
services: [{name: a, url: "%s"}]
defaults: {auth: {mode: none}, response_headers: {set: {X-From: defaults, X-Defaults: "1"}}, request_headers: {set: {X-Kept: defaults}}}
policy_sets:
  - {name: one, response_headers: {set: {X-From: one}}, request_headers: {set: {X-Kept: one}}}
  - {name: two, response_headers: {set: {X-From: two}}}
  - {name: none, response_headers: {mode: "off"}}
  - {name: guarded, auth: {mode: required}}
routes:
  - {name: a, match: {path: {exact: /defaults}}, service: a}
  - {name: b, match: {path: {exact: /one}}, service: a, use: [one]}
  - {name: c, match: {path: {exact: /one-two}}, service: a, use: [one, two]}
  - {name: d, match: {path: {exact: /two-one}}, service: a, use: [two, one]}
  - {name: e, match: {path: {exact: /own}}, service: a, use: [one, two], response_headers: {set: {X-From: own}}}
  - {name: f, match: {path: {exact: /off}}, service: a, response_headers: {mode: "off"}}
  - {name: g, match: {path: {exact: /set-off}}, service: a, use: [one, none]}
  - {name: h, match: {path: {exact: /back}}, service: a, use: [none], response_headers: {set: {X-From: own}}}
  - {name: i, match: {path: {exact: /guarded}}, service: a, use: [guarded]}
`, w.service)
	for path, want := range map[string]string{
		"/defaults": "200 defaults 1 defaults", "/one": "200 one  one", "/one-two": "200 two  one", "/two-one": "200 one  one",
		"/own": "200 own  one", "/off": "200   defaults", "/set-off": "200   one", "/back": "200 own  defaults", "/guarded": "401   ",
	} {
		w.forget()
		resp, _ := w.call("GET", "x", path, nil, nil)
		got := fmt.Sprintf("%d %s %s %s", resp.StatusCode, resp.Header.Get("X-From"), resp.Header.Get("X-Defaults"), w.got().Get("X-Kept"))
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestWithoutAWordOfAuthenticationNobodyPasses, also where everything else is off.
func TestWithoutAWordOfAuthenticationNobodyPasses(t *testing.T) {
	w := newWatched(t, 0)
	w.apply(`
version: 1
services: [{name: a, url: "%s"}]
policy_sets: [{name: calm, allow_ips: {mode: "off"}}]
routes: [{name: r, service: a, use: [calm]}]`, w.service)
	if resp, _ := w.call("GET", "x", "/", nil, nil); resp.StatusCode != 401 || w.got() != nil {
		t.Errorf("got %d, service %v", resp.StatusCode, w.got())
	}
}

// TestTheFirstPolicyThatRefusesAnswers mends a request that all would refuse, one
// policy after the other, in the order of the chain.
func TestTheFirstPolicyThatRefusesAnswers(t *testing.T) {
	w := newWatched(t, 0)
	w.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes:
  - name: r
    service: a
    fault: {percent: 100, abort: 418, when: 'request.headers["x-drill"] == "yes"'}
    rate_limit: [{name: l, by: route, rate: 2/1h, cost_header: X-Cost}]
    auth: {mode: required}
    max_body: {limit: 4B, when: 'request.headers["x-large"] == ""'}
    media_types: [application/json]
    allow_methods: [POST]
    deny_ips: {networks: [127.0.0.0/8], when: 'request.headers["x-denied"] == ""'}
    allow_ips: {networks: [192.0.2.0/24], when: 'request.headers["x-allowed"] == ""'}
`, w.service)
	header, method := http.Header{"Content-Type": {"text/plain"}, "X-Drill": {"yes"}, "X-Cost": {"3"}}, "PUT"
	for _, step := range []struct {
		want string // policy and code
		mend func()
	}{
		{"allow_ips gateway.address_not_allowed", func() { header.Set("X-Allowed", "1") }},
		{"deny_ips gateway.address_not_allowed", func() { header.Set("X-Denied", "no") }},
		{"allow_methods gateway.method_refused", func() { method = "POST" }},
		{"media_types gateway.media_type_not_accepted", func() { header.Set("Content-Type", "application/json") }},
		{"max_body request.body_too_large", func() { header.Set("X-Large", "1") }},
		{"auth auth.missing", func() { header.Set("X-Api-Key", "good") }},
		{"rate_limit gateway.rate_limit_cost", func() { header.Set("X-Cost", "1") }},
		{"fault gateway.fault_injected", func() { header.Del("X-Drill") }},
		{" ", func() {}},
	} {
		w.call(method, "x", "/", header, strings.NewReader("hello"))
		info := w.info()
		if got := info.Policy + " " + info.Code; got != step.want {
			t.Fatalf("refused by %q, want %q", got, step.want)
		}
		if (w.got() != nil) != (step.want == " ") {
			t.Errorf("%s: the service was asked: %t", step.want, w.got() != nil)
		}
		step.mend()
	}
}

// TestHeaderPoliciesAndWhatTheGatewayAnswers: security_headers are on its own
// answers, response_headers on those of the service only.
func TestHeaderPoliciesAndWhatTheGatewayAnswers(t *testing.T) {
	w := newWatched(t, 0)
	w.apply(`
version: 1
services: [{name: a, url: "%s"}, {name: down, url: "http://127.0.0.1:1"}]
defaults: {security_headers: {}, response_headers: {set: {X-Set: "1"}, remove: [Date]}, max_body: 4B}
routes:
  - {name: keyed, match: {path: {exact: /keyed}}, service: a}
  - {name: down, match: {path: {exact: /down}}, service: down, auth: {mode: none}}
`, w.service)
	for _, c := range []struct {
		path, key, body string
		status          int
	}{
		{"/keyed", "good", "", 200}, {"/keyed", "", "", 401}, {"/keyed", "good", "hello", 413}, {"/down", "", "", 502},
	} {
		resp, _ := w.call("POST", "x", c.path, http.Header{"X-Api-Key": {c.key}}, strings.NewReader(c.body))
		set, safe := resp.Header.Get("X-Set") != "", resp.Header.Get("X-Content-Type-Options") == "nosniff"
		if resp.StatusCode != c.status || set != (c.status == 200) || !safe || resp.Header.Get("X-Powered-By") != "" {
			t.Errorf("%s: %d, want %d; header %v", c.path, resp.StatusCode, c.status, resp.Header)
		}
	}
}

// TestWhoTheServiceIsTold holds for each mode of authentication: what reaches the
// service is the gateway's word, or nothing, and never the platform's credential.
func TestWhoTheServiceIsTold(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key := "kw_live_" + strings.Repeat("a", 50)
	const basic = "Basic Z2F0ZXdheTpvcGVuIHNlc2FtZQ=="
	w := newWatched(t, 0)
	w.apply(`
version: 1
services: [{name: a, url: "%s"}]
routes:
  - {name: required, match: {path: {exact: /required}}, service: a}
  - {name: legacy, match: {path: {exact: /legacy}}, service: a, basic_auth: {username: gateway, password_file: %q}}
  - {name: optional, match: {path: {exact: /optional}}, service: a, auth: {mode: optional}}
  - {name: shadow, match: {path: {exact: /shadow}}, service: a, auth: {mode: shadow}}
  - {name: none, match: {path: {exact: /none}}, service: a, auth: {mode: none}}
`, w.service, password)
	for _, c := range []struct {
		path, key, authorization string
		status                   int
		consumer                 string // what the service is told
		got                      string // Authorization that it gets
	}{
		{"/required", "good", "Bearer " + key, 200, "user-1", ""},
		{"/legacy", "good", "Bearer " + key, 200, "user-1", basic},
		{"/legacy", "bad", "", 401, "", ""},
		{"/optional", "good", "", 200, "user-1", ""},
		{"/optional", "", "", 200, "", ""},
		{"/shadow", "good", "", 200, "user-1", ""},
		{"/shadow", "bad", "Bearer " + key, 200, "", ""},
		{"/shadow", "", "Bearer theirs", 200, "", "Bearer theirs"}, // as if the policy were not there
		{"/none", "good", "Bearer " + key, 200, "", ""},
		{"/none", "", "Bearer theirs", 200, "", "Bearer theirs"},
	} {
		t.Run(c.path+" "+c.key+" "+c.authorization, func(t *testing.T) {
			w.forget()
			header := http.Header{"X-Consumer": {"admin"}, "X-Consumer-Id": {"admin"}}
			for name, value := range map[string]string{"X-Api-Key": c.key, "Authorization": c.authorization} {
				if value != "" {
					header.Set(name, value)
				}
			}
			resp, body := w.call("GET", "x", c.path, header, nil)
			got := w.got()
			if resp.StatusCode != c.status || (got != nil) != (c.status == 200) {
				t.Fatalf("answered with %d: %s", resp.StatusCode, body)
			}
			if got == nil {
				return
			}
			if who := got.Get("X-Consumer"); who != c.consumer || len(got["X-Consumer"]) > 1 {
				t.Errorf("the service is told %q, want %q", got["X-Consumer"], c.consumer)
			}
			if got.Get("X-Api-Key") != "" || got.Get("Authorization") != c.got {
				t.Errorf("the service got the key %q and Authorization %q, want %q", got.Get("X-Api-Key"), got.Get("Authorization"), c.got)
			}
		})
	}
}

// TestABoundThatDoesNotCountLeavesThatOfTheProcess: a policy in shadow mode, or one
// whose condition is false, is as if it were not there.
func TestABoundThatDoesNotCountLeavesThatOfTheProcess(t *testing.T) {
	w := newWatched(t, 100)
	w.apply(`
version: 1
services: [{name: a, url: "%s"}]
defaults: {auth: {mode: none}}
routes:
  - {name: own, match: {path: {exact: /own}}, service: a, max_body: 1KiB}
  - {name: shadow, match: {path: {exact: /shadow}}, service: a, max_body: {mode: shadow, limit: 10B}}
  - {name: off, match: {path: {exact: /off}}, service: a, max_body: {mode: "off"}}
  - {name: some, match: {path: {exact: /some}}, service: a, max_body: {limit: 1KiB, when: 'request.headers["x-large"] == "1"'}}
`, w.service)
	for _, c := range []struct {
		path   string
		size   int
		large  string
		status int
	}{
		{"/own", 1000, "", 200}, {"/own", 2000, "", 413},
		{"/shadow", 50, "", 200}, {"/shadow", 200, "", 413},
		{"/off", 50, "", 200}, {"/off", 200, "", 413},
		{"/some", 200, "1", 200}, {"/some", 2000, "1", 413}, {"/some", 50, "", 200}, {"/some", 200, "", 413},
	} {
		for name, body := range map[string]io.Reader{
			"announced":   strings.NewReader(strings.Repeat("a", c.size)),
			"unannounced": io.MultiReader(strings.NewReader(strings.Repeat("a", c.size))),
		} {
			resp, text := w.call("POST", "x", c.path, http.Header{"X-Large": {c.large}}, body)
			if resp.StatusCode != c.status {
				t.Errorf("%s, %d bytes, %s: %d, want %d: %s", c.path, c.size, name, resp.StatusCode, c.status, text)
			}
		}
	}
	if got := w.counted(shadowRefusals)["shadow max_body"]; got != 4 {
		t.Errorf("counted %d in shadow, want 4", got)
	}
}
