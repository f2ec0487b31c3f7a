package gateway_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
)

const flowing = `
version: 1
services: [{name: a, url: %q}]
defaults:
  response_headers: {set: {X-After: always}}
routes:
  - name: orders
    service: a
    request_headers: {set: {X-Flow: none}, remove: [X-Kind]}
    rate_limit: [{name: few, by: route, rate: 1000/1h}]
    flows:
      - name: writes
        when: 'request.method == "POST"'
        request_headers: {set: {X-Flow: writes}}
        rate_limit: [{name: few, by: route, rate: 2/1h}]
        response_headers: {set: {X-After: writes}}
      - name: reports
        when: 'request.headers["x-kind"] == "report" && principal.user_id == "user-1"'
        request_headers: {set: {X-Flow: reports}}
        rate_limit: {mode: "off"}
        response_headers: {when: 'request.query["after"] == "no"', set: {X-After: reports}}
      - name: broken
        when: 'request.path == "/broken" && int(request.query["n"]) > 1'
        request_headers: {set: {X-Flow: broken}}
`

func TestTheFirstFlowWhoseConditionHoldsIsTaken(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Flow"), " ", r.Header.Get("X-Kind"))
	}))
	defer s.Close()
	d := newDoor(t, 0)
	d.apply(flowing, s.URL)
	for _, c := range []struct {
		method, path, kind string
		status             int
		body, after, limit string // X-RateLimit-Limit
	}{
		{"GET", "/", "", 200, "none ", "always", "1000"},
		{"POST", "/", "", 200, "writes ", "writes", "2"},
		{"POST", "/", "report", 200, "writes report", "writes", "2"}, // the first one, and X-Kind is not removed
		{"POST", "/", "", 429, "", "", "2"},
		{"GET", "/", "", 200, "none ", "always", "1000"},
		// Its own condition does not hold for response_headers, and the route's does not count
		// either. request_headers takes X-Kind away from nobody.
		{"GET", "/", "report", 200, "reports report", "", ""},
		{"GET", "/?after=no", "report", 200, "reports report", "reports", ""},
		{"GET", "/broken?n=a", "", 500, "", "", ""},
	} {
		header := http.Header{"X-Api-Key": {"good"}}
		if c.kind != "" {
			header["X-Kind"] = []string{c.kind}
		}
		resp, body := d.call(c.method, "x.test", c.path, header, nil)
		if resp.StatusCode != c.status || c.status == 200 && body != c.body || resp.Header.Get("X-After") != c.after && c.status == 200 ||
			resp.Header.Get("X-Ratelimit-Limit") != c.limit {
			t.Errorf("%s %s %s: %d %q, X-After %q, limit %q", c.method, c.path, c.kind, resp.StatusCode, body,
				resp.Header.Get("X-After"), resp.Header.Get("X-Ratelimit-Limit"))
		}
		if c.status == 500 && codeOf(t, body) != "gateway.condition_failed" {
			t.Error(body)
		}
	}
}

// TestAFlowDoesNotMoveTheLock holds the order of the chain to be the fixed one.
func TestAFlowDoesNotMoveTheLock(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(flowing, named(t, "a"))
	names, _ := d.gateway.PolicyOrder("orders", "")
	if got := strings.Join(names, " "); got != "auth rate_limit rate_limit request_headers request_headers request_headers request_headers "+
		"response_headers response_headers response_headers" {
		t.Error(got)
	}
	if resp, _ := d.call("POST", "x.test", "/", nil, nil); resp.StatusCode != 401 {
		t.Error(resp.StatusCode)
	}
}

func TestFlowsAreExplained(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(flowing, named(t, "a"))
	e := d.gateway.Explain(t.Context(), gateway.Description{Method: "POST", URL: &url.URL{Scheme: "http", Host: "x.test", Path: "/"}, Header: http.Header{}})
	counts := map[string]policy.Verdict{}
	for _, p := range e.Policies {
		counts[p.Policy+" "+p.When] = p.Verdict
	}
	if counts["request_headers flow writes"] != policy.Changes || counts["request_headers no flow of its own"] != policy.Skipped ||
		counts["request_headers flow reports"] != policy.Skipped {
		t.Errorf("%v", counts)
	}
}
