package app_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

// observedDocument has a route for everything that is measured. The first address is
// that of a service, the second one of nobody, the third one of a token endpoint.
const observedDocument = `
version: 1
apis: [{name: d, openapi: '{"openapi":"3.1.0","info":{"title":"d","version":"1"},"paths":{"/x":{"get":{"operationId":"get","responses":{"201":{"description":"x"}}}}}}'}]
services:
  - {name: shop, url: "%[1]s", breaker: {min_requests: 100}}
  - {name: copy, url: "%[1]s"}
  - name: away
    targets: [{url: "http://%[2]s"}]
    health: {active: {path: /healthz, interval: 1s, timeout: 1s, unhealthy_after: 1}}
  - {name: looked-up, discovery: {dns: {name: nowhere.invalid, type: A, port: 1, interval: 1s}}}
  - {name: found, discovery: {dns: {name: localhost, type: A, port: 1}}}
  - {name: tokens, url: "%[1]s", credential: {kind: oauth2, token_url: "%[3]s", client_id: gateway, client_secret: '{{ secret "client" }}'}}
routes:
  - name: shop
    match: {path: {prefix: /shop}}
    service: shop
    cache: {public: true}
    rate_limit: [{name: burst, by: key, rate: 6/1m}]
    quota: [{name: monthly, by: key, limit: 1000, period: month}]
    allow_ips: {mode: shadow, networks: [192.0.2.0/24]}
  - {name: small, match: {path: {prefix: /small}}, service: shop, quota: [{name: tiny, by: key, limit: 1, period: month}]}
  - {name: mirrored, match: {path: {prefix: /mirrored}}, service: shop, mirror: {service: copy, percent: 100}, auth: {mode: none}}
  - {name: away, match: {path: {prefix: /away}}, service: away, auth: {mode: none}}
  - {name: looked-up, match: {path: {prefix: /looked-up}}, service: looked-up, auth: {mode: none}}
  - {name: tokens, match: {path: {prefix: /tokens}}, service: tokens, auth: {mode: none}}
  - {name: drifting, match: {path: {prefix: /x}}, service: shop, auth: {mode: none}, operation: {api: d, id: get}, validate: {answers: true}}
`

// family is a metric as a running program exposes it.
type family struct {
	kind   string // counter, gauge, histogram, summary
	help   string
	labels map[string]bool // of any of its series, le and quantile left out
}

// exposition is what /metrics says, by the name in the TYPE line.
type exposition map[string]*family

var sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? `)

// parseExposition reads the Prometheus text format.
func parseExposition(t *testing.T, text string) exposition {
	t.Helper()
	all := exposition{}
	of := func(name string) *family {
		if all[name] == nil {
			all[name] = &family{labels: map[string]bool{}}
		}
		return all[name]
	}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			of(fields[2]).help = fields[len(fields)-1]
		case strings.HasPrefix(line, "# TYPE "):
			of(fields[2]).kind = fields[3]
		case strings.HasPrefix(line, "#"), strings.TrimSpace(line) == "":
		default:
			m := sampleLine.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("no sample: %q", line)
			}
			f := all[m[1]]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if f == nil {
					f = all[strings.TrimSuffix(m[1], suffix)]
				}
			}
			if f == nil {
				t.Fatalf("a sample of no family: %q", line)
			}
			for _, l := range labelName.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "le" && l[1] != "quantile" {
					f.labels[l[1]] = true
				}
			}
		}
	}
	return all
}

var labelName = regexp.MustCompile(`(?:^|,)([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)

// names are the labels in their order.
func (f *family) names() []string { return slices.Sorted(maps.Keys(f.labels)) }

// scrape is what the program tells Prometheus.
func scrape(t *testing.T, p *apptest.Program) string {
	t.Helper()
	return string(p.Want(t, http.StatusOK, "GET", "/metrics", nil).Body)
}

// shop is a service that answers by the path, and gives tokens.
func shop(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"t","token_type":"Bearer","expires_in":3600}`)
		case strings.HasSuffix(r.URL.Path, "/fails"):
			w.WriteHeader(http.StatusInternalServerError)
		default:
			w.Header().Set("Cache-Control", "public, max-age=3600")
			_, _ = io.WriteString(w, "ok")
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// observed is a running program that has done everything that is measured.
type observed struct {
	*apptest.Program
	redis *redistest.Server
	admin *apptest.User
	key   apptest.Key
}

// startObserved starts the program and sends it traffic.
func startObserved(t *testing.T) *observed {
	t.Helper()
	service := shop(t)
	o := &observed{redis: redistest.Start(t)}
	set := roomyWith(alertsSet())
	maps.Copy(set, map[string]string{
		"redis.url": o.redis.URL.Reveal(), "cache.store": "memory", "alerts.interval": "1s", "telemetry.trace_sample_ratio": "1",
	})
	o.Program = apptest.Start(t, apptest.Options{
		Gateway: fmt.Sprintf(observedDocument, service, listenerThatRefuses(t), service+"/token"), Set: set,
		Env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": startCollector(t).URL},
	})
	o.admin = o.Admin(t)
	o.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/client", object{"value": "s"}, o.admin.Auth()...)
	o.key = o.Key(t, o.User(t), nil)
	o.visit(t)
	o.alert(t)
	return o
}

// visit sends a request of every kind.
func (o *observed) visit(t *testing.T) {
	t.Helper()
	for range 8 {
		o.Call(t, "GET", "/shop/1", nil, o.key.Auth()...)
	}
	for range 2 {
		o.Call(t, "GET", "/small/1", nil, o.key.Auth()...)
	}
	for _, path := range []string{"/shop/1", "/mirrored/1", "/mirrored/fails", "/away/1", "/looked-up/1", "/tokens/1", "/x", "/nothing/here"} {
		o.Call(t, "GET", path, nil)
	}
	u := o.User(t)
	revoked := o.Key(t, u, nil)
	o.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+revoked.ID, nil, u.Auth()...)
}

// alert lets a rule fire, whose channel does not take what it is told.
func (o *observed) alert(t *testing.T) {
	t.Helper()
	h := newHook(t)
	h.status = http.StatusServiceUnavailable
	made := o.Want(t, http.StatusCreated, "POST", "/admin/v1/alert-channels",
		object{"name": "hook", "kind": "webhook", "url": h.URL, "secret": h.secret}, o.admin.Auth()...)
	o.Want(t, http.StatusCreated, "POST", "/admin/v1/alert-rules",
		object{"name": "targets", "signal": "targets_down", "threshold": 1, "channels": []string{made.Text(t, "id")}}, o.admin.Auth()...)
}

// outage takes Redis away and waits until that was noticed.
func (o *observed) outage(t *testing.T) {
	t.Helper()
	o.redis.Client.Shutdown(context.Background())
	apptest.Eventually(t, "an outage of Redis is counted", func() bool {
		o.Call(t, "GET", "/shop/2", nil, o.Key(t, o.User(t), nil).Auth()...)
		return strings.Contains(scrape(t, o.Program), "keywarden_counters_available 0")
	})
}

// everything is what the program exposes once all that is waited for has come.
func (o *observed) everything(t *testing.T) (text string, all exposition) {
	t.Helper()
	wanted := []string{
		"keywarden_alert_deliveries_total", `keywarden_alert_rules{keywarden_state="firing"} 1`, "keywarden_changes_propagation_seconds_count",
		"keywarden_discovery_failures_total", "keywarden_discovery_updates_total", "keywarden_analytics_lag_seconds", "keywarden_credential_token_fetches_total", `keywarden_mirror_requests_total{keywarden_outcome="answered"`,
		`keywarden_changes_propagation_seconds_count{keywarden_change="key"}`,
	}
	var missing []string
	defer func() {
		if t.Failed() {
			t.Logf("missing: %v", missing)
		}
	}()
	apptest.Eventually(t, "everything is measured", func() bool {
		text = scrape(t, o.Program)
		missing = slices.DeleteFunc(slices.Clone(wanted), func(s string) bool { return strings.Contains(text, s) })
		return len(missing) == 0
	})
	return text, parseExposition(t, text)
}
