package gateway_test

import (
	"net/netip"
	"net/url"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
)

const explained = `
version: 1
services: [{name: a, url: "%s"}]
defaults: {allow_ips: [192.0.2.0/24], max_body: {mode: shadow, limit: 1KiB}}
routes:
  - {name: orders, match: {path: {prefix: /orders}, methods: [GET, POST]}, service: a, auth: {scopes: [orders:read]}}
  - {name: open, match: {path: {prefix: /open}}, service: a, auth: {mode: none}}
`

func described(t *testing.T, method, target string) gateway.Description {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return gateway.Description{Method: method, URL: u, Client: netip.MustParseAddr("192.0.2.7")}
}

func TestExplainTellsWhatWouldBecomeOfARequest(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(explained, named(t, "a"))
	reader := &access.Principal{Kind: access.KindKey, UserID: "u", Scopes: []string{"orders:read"}}
	for _, c := range []struct {
		name   string
		method string
		url    string
		change func(*gateway.Description)
		route  string
		code   string // of the refusal; empty: none
	}{
		{"may", "GET", "http://x/orders/1", func(d *gateway.Description) { d.Principal = reader }, "orders", ""},
		{"anonymous", "GET", "http://x/orders/1", nil, "orders", "auth.missing"},
		{"lacks the scope", "GET", "http://x/orders/1", func(d *gateway.Description) { d.Principal = &access.Principal{UserID: "u"} }, "orders", "access.scope_missing"},
		{"from elsewhere", "GET", "http://x/open", func(d *gateway.Description) { d.Client = netip.MustParseAddr("10.0.0.1") }, "open", "gateway.address_not_allowed"},
		{"too large, in shadow", "POST", "http://x/open", func(d *gateway.Description) { d.ContentLength = 4096 }, "open", ""},
		{"no route", "GET", "http://x/nowhere", nil, "", "gateway.no_route"},
		{"other method", "DELETE", "http://x/orders", nil, "", "gateway.method_not_allowed"},
		{"path that means two things", "GET", "http://x/open/..%2forders", nil, "", "request.path_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			description := described(t, c.method, c.url)
			if c.change != nil {
				c.change(&description)
			}
			got := d.gateway.Explain(t.Context(), description)
			code := ""
			if got.Refusal != nil {
				code = got.Refusal.Code
			}
			if got.Route != c.route || code != c.code {
				t.Errorf("route %q, code %q; want %q, %q", got.Route, code, c.route, c.code)
			}
		})
	}
}

func TestExplainAsksEveryPolicyInItsOrder(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(explained, named(t, "a"))
	description := described(t, "POST", "http://x/orders")
	description.Client, description.ContentLength = netip.MustParseAddr("10.0.0.1"), 4096
	got := d.gateway.Explain(t.Context(), description)
	type line struct {
		Policy  string
		Shadow  bool
		Verdict policy.Verdict
	}
	var lines []line
	for _, p := range got.Policies {
		lines = append(lines, line{p.Policy, p.Shadow, p.Verdict})
	}
	want := []line{{"allow_ips", false, policy.Refuses}, {"max_body", true, policy.Refuses}, {"auth", false, policy.Refuses}}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	if got.Refusal == nil || got.Refusal.Code != "gateway.address_not_allowed" {
		t.Errorf("the first refusal is not the answer: %v", got.Refusal)
	}
	order, ok := d.gateway.PolicyOrder("orders", d.gateway.State().Digest[:12])
	if !ok || !slices.Equal(order, []string{"allow_ips", "max_body", "auth"}) {
		t.Errorf("the order is %v, %t", order, ok)
	}
	if _, ok := d.gateway.PolicyOrder("orders", "000000000000"); ok {
		t.Error("the order of another document is told")
	}
}
