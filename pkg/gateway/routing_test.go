package gateway_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestRoutesByWildcardPatternHeaderAndQuery(t *testing.T) {
	d := newDoor(t, 0)
	d.apply(`
version: 1
services:
  - {name: stable, url: %s}
  - {name: canary, url: %s}
routes:
  - {name: stable, match: {path: {prefix: /}}, service: stable, auth: {mode: none}}
  - {name: canary, match: {path: {prefix: /}, headers: [{name: x-canary, value: "yes"}]}, service: canary, auth: {mode: none}}
  - {name: debug, match: {path: {prefix: /}, query: [{name: debug}]}, service: canary, auth: {mode: none}}
  - {name: pattern, match: {path: {regex: "/v[0-9]+/users"}}, service: canary, auth: {mode: none}}
  - {name: wild, match: {hosts: ["*.example.com"]}, service: canary, auth: {mode: none}}
  - {name: first, match: {path: {prefix: /first}}, priority: 1, service: stable, auth: {mode: none}}
`, named(t, "stable"), named(t, "canary"))
	for _, c := range []struct{ host, path, canary, want, route string }{
		{"x", "/a", "", "stable", "stable"},
		{"x", "/a", "yes", "canary", "canary"},
		{"x", "/a", "no", "stable", "stable"},
		{"x", "/a?debug=1", "", "canary", "debug"},
		{"x", "/v12/users", "", "canary", "pattern"},
		{"x", "/v12/users/1", "", "stable", "stable"},
		{"a.b.example.com", "/a", "", "canary", "wild"},
		{"example.com", "/a", "", "stable", "stable"},
		{"a.example.com", "/first", "yes", "stable", "first"},
	} {
		header := http.Header{}
		if c.canary != "" {
			header.Set("X-Canary", c.canary)
		}
		_, text := d.call("GET", c.host, c.path, header, nil)
		if name, _, _ := strings.Cut(text, " "); name != c.want || d.info().Route != c.route {
			t.Errorf("%s%s canary %q: %s by route %s, want %s by %s", c.host, c.path, c.canary, name, d.info().Route, c.want, c.route)
		}
	}
}

func TestRedirectsAndFixedAnswersComeAfterTheLock(t *testing.T) {
	d := newDoor(t, 0)
	d.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	d.apply(`
version: 1
services: []
routes:
  - {name: moved, match: {path: {prefix: /old}}, redirect: {to: "https://new.example.com/base/", keep_path: true}, auth: {mode: none}}
  - {name: there, match: {path: {exact: /there}}, redirect: {to: /here, status: 302}, auth: {mode: none}}
  - {name: gone, match: {path: {exact: /gone}}, respond: {status: 410, body: "gone", content_type: text/x-note}, auth: {mode: none}}
  - {name: locked, match: {path: {exact: /locked}}, respond: {body: "inside"}}
`)
	for _, c := range []struct {
		path, location string
		status         int
	}{
		{"/old/a%%20b?x=1", "https://new.example.com/base/old/a%20b?x=1", 308},
		{"/old", "https://new.example.com/base/old", 308},
		{"/there?y=2", "/here?y=2", 302},
	} {
		resp, _ := d.call("GET", "evil.example.com", strings.ReplaceAll(c.path, "%%", "%"), nil, nil)
		if resp.StatusCode != c.status || resp.Header.Get("Location") != c.location {
			t.Errorf("%s: %d to %q, want %d to %q", c.path, resp.StatusCode, resp.Header.Get("Location"), c.status, c.location)
		}
	}
	if resp, text := d.call("GET", "x", "/gone", nil, nil); resp.StatusCode != 410 || text != "gone" || resp.Header.Get("Content-Type") != "text/x-note" {
		t.Errorf("got %d %q %v", resp.StatusCode, text, resp.Header)
	}
	if resp, text := d.call("GET", "x", "/locked", nil, nil); resp.StatusCode != 401 {
		t.Errorf("without a key: %d %s", resp.StatusCode, text)
	}
	if resp, text := d.call("GET", "x", "/locked", http.Header{"X-Api-Key": {"good"}}, io.NopCloser(strings.NewReader(""))); resp.StatusCode != 200 || text != "inside" {
		t.Errorf("with a key: %d %s", resp.StatusCode, text)
	}
}
