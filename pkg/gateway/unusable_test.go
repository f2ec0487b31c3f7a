package gateway_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const withPassword = `
version: 1
services: [{name: a, url: "%s"}]
routes:
  - {name: legacy, match: {path: {prefix: /legacy}}, service: a, auth: {mode: none}, basic_auth: {username: u, password_file: %q}}
  - {name: plain, match: {path: {prefix: /plain}}, service: a, auth: {mode: none}}
`

func TestARouteWithoutAPartRefusesAndTheOthersServe(t *testing.T) {
	d := newDoor(t, 0)
	password, target := filepath.Join(t.TempDir(), "password"), named(t, "a")
	d.apply(withPassword, target, password)

	if resp, body := d.call("GET", "x", "/legacy", nil, nil); resp.StatusCode != 503 || !strings.Contains(body, "gateway.route_unusable") {
		t.Errorf("the route answers %d: %s", resp.StatusCode, body)
	}
	if resp, _ := d.call("GET", "x", "/plain", nil, nil); resp.StatusCode != 200 {
		t.Errorf("another route answers %d", resp.StatusCode)
	}
	if s := d.gateway.State(); s.Unusable["legacy"] == nil || s.LastError != nil || s.Routes != 2 {
		t.Errorf("the state does not say so: %+v", s)
	}
	if e := d.gateway.Explain(t.Context(), described(t, "GET", "http://x/legacy")); e.Refusal == nil || e.Refusal.Code != "gateway.route_unusable" {
		t.Errorf("the explanation does not say so: %+v", e)
	}

	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.apply(withPassword, target, password) // the same document again
	if resp, _ := d.call("GET", "x", "/legacy", nil, nil); resp.StatusCode != 200 {
		t.Errorf("with its file the route answers %d", resp.StatusCode)
	}
	if s := d.gateway.State(); len(s.Unusable) != 0 {
		t.Errorf("the state still holds %v", s.Unusable)
	}
}
