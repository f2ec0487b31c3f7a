package gateway_test

import (
	"net/http"
	"testing"
)

const limitedDocument = `
version: 1
services: [{name: a, url: "%s"}]
routes:
  - name: r
    match: {path: {prefix: %s}}
    service: a
    rate_limit:
      - {name: user, by: user, rate: %d/1h}
      - {name: cost, by: header, header: X-Tenant, rate: 10/1h, cost_header: X-Cost}
`

func TestRateLimitHoldsOverReloads(t *testing.T) {
	d, good := newDoor(t, 0), http.Header{"X-Api-Key": {"good"}}
	target := named(t, "a")
	d.apply(limitedDocument, target, "/one", 3)
	for i := range 3 {
		if resp, _ := d.call("GET", "x", "/one", good, nil); resp.StatusCode != 200 || resp.Header.Get("X-RateLimit-Limit") != "3" {
			t.Fatalf("request %d: status %d, limit %q", i, resp.StatusCode, resp.Header.Get("X-RateLimit-Limit"))
		}
	}
	d.apply(limitedDocument, target, "/two", 3) // another path, the same limits
	if resp, _ := d.call("GET", "x", "/two", good, nil); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("after a reload: status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
}

func TestRateLimitTakesWhatARequestCosts(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(limitedDocument, named(t, "a"), "/", 100)
	for i, c := range []struct {
		cost   string
		status int
	}{{"6", 200}, {"5", 429}, {"junk", 400}, {"-1", 400}, {"4", 200}} {
		resp, _ := d.call("GET", "x", "/", http.Header{"X-Api-Key": {"good"}, "X-Tenant": {"t"}, "X-Cost": {c.cost}}, nil)
		if resp.StatusCode != c.status {
			t.Errorf("request %d of cost %s: status %d, want %d", i, c.cost, resp.StatusCode, c.status)
		}
	}
}

// Routes share a counter where they say so, and only then.
func TestRoutesShareALimitWhereTheySaySo(t *testing.T) {
	const document = `
version: 1
services: [{name: a, url: "%s"}]
routes:
  - {name: one, match: {path: {prefix: /one}}, service: a, rate_limit: [{name: l, by: user, rate: 2/1h, shared: %t}]}
  - {name: two, match: {path: {prefix: /two}}, service: a, rate_limit: [{name: l, by: user, rate: 2/1h, shared: %[2]t}]}
`
	for _, shared := range []bool{true, false} {
		d, good := newDoor(t, 0), http.Header{"X-Api-Key": {"good"}}
		d.apply(document, named(t, "a"), shared)
		for range 2 {
			if resp, _ := d.call("GET", "x", "/one", good, nil); resp.StatusCode != 200 {
				t.Fatalf("status %d", resp.StatusCode)
			}
		}
		want := http.StatusOK
		if shared {
			want = http.StatusTooManyRequests
		}
		if resp, _ := d.call("GET", "x", "/two", good, nil); resp.StatusCode != want {
			t.Errorf("shared %t: status %d, want %d", shared, resp.StatusCode, want)
		}
	}
}
