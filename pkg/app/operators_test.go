package app_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// startWithOperators is a program with a listener for operators, and a route that
// takes everything. The second result speaks to the listener for operators.
func startWithOperators(t *testing.T, set map[string]string) (p *apptest.Program, operators *apptest.Program, up *attacktest.Upstream) {
	t.Helper()
	up = attacktest.Start(t, "127.0.0.1:0")
	addr := freeAddress(t)
	o := apptest.Options{
		Set: map[string]string{"server.metrics_addr": addr},
		Gateway: fmt.Sprintf(`
version: 1
services: [{name: backend, url: "http://%s"}]
routes: [{name: all, match: {path: {prefix: /}}, service: backend, auth: {mode: none}}]
`, up.Addr()),
	}
	maps.Copy(o.Set, set)
	p = apptest.Start(t, o)
	return p, &apptest.Program{URL: "http://" + addr, Addr: addr}, up
}

// The admin API is on one listener. On the other one it is nowhere, not even a
// service's, and in no spelling.
func TestAdminAPIIsOnTheListenerOfOperatorsAlone(t *testing.T) {
	p, operators, up := startWithOperators(t, nil)
	admin := p.Admin(t)
	operators.Want(t, http.StatusOK, "GET", "/admin/v1/state", nil, admin.Auth()...)
	operators.Want(t, http.StatusUnauthorized, "GET", "/admin/v1/state", nil)
	operators.Want(t, http.StatusForbidden, "GET", "/admin/v1/state", nil, p.User(t).Auth()...)
	wantProblem(t, operators.Call(t, "GET", "/admin/v1/nothing", nil, admin.Auth()...), http.StatusNotFound, "request.nothing_here")

	mark := up.Mark()
	for _, path := range []string{
		"/admin/v1", "/admin/v1/", "/admin/v1/state", "/admin/v1/config", "/admin/v1/nothing", "//admin/v1/state", "/admin//v1/state",
		"/x/../admin/v1/state", "/admin/./v1/state", "/%61dmin/v1/state", "/admin/v1%2fstate", "/admin%2fv1/state", "/admin/v1/state/", "/admin/v1/state?x=/y",
	} {
		for _, method := range []string{"GET", "PUT", "POST", "DELETE", "PROPFIND"} {
			a := ask(t, p.Addr, rawRequest(method+" "+path+" HTTP/1.1", "Authorization: Bearer "+admin.Token, "Content-Length: 0"))
			if a.Status != http.StatusNotFound && a.Status != http.StatusBadRequest {
				t.Errorf("%s %s on the main listener: status %d: %.200s", method, path, a.Status, a.Body)
			}
		}
	}
	up.Settle(t.Context())
	if n := len(up.Since(mark)); n != 0 {
		t.Errorf("%d requests reached the backend", n)
	}
	// What only looks like it is the service's.
	for _, path := range []string{"/admin", "/admin/", "/admin/v10", "/admin/v1x/state", "/x/admin/v1/state", "/Admin/v1/state"} {
		p.Want(t, http.StatusOK, "GET", path, nil)
	}
}

func TestListenerOfOperatorsServesNobodyElse(t *testing.T) {
	p, operators, up := startWithOperators(t, nil)
	user := p.User(t)
	mark := up.Mark()
	for _, path := range []string{
		"/", "/x", "/users/me", "/users", "/api-keys", "/auth/login", "/auth/register", "/audit", "/api/test", "/swagger/index.html",
		"/.well-known/jwks.json", "/debug/vars", "/debug/pprof",
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			a := ask(t, operators.Addr, rawRequest(method+" "+path+" HTTP/1.1", "Authorization: Bearer "+user.Token, "Content-Length: 0"))
			if a.Status != http.StatusNotFound && a.Status != http.StatusBadRequest && a.Status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: status %d: %.100s", method, path, a.Status, a.Body)
			}
		}
	}
	up.Settle(t.Context())
	if n := len(up.Since(mark)); n != 0 {
		t.Errorf("%d requests reached the backend", n)
	}
	for _, path := range []string{"/health", "/healthz", "/readyz", "/metrics", "/debug/pprof/"} {
		operators.Want(t, http.StatusOK, "GET", path, nil)
	}
	for _, path := range []string{"/health", "/healthz", "/readyz"} { // the probes are on both
		if a := p.Want(t, http.StatusOK, "GET", path, nil); !strings.Contains(string(a.Body), "status") {
			t.Errorf("%s on the main listener: %s", path, a.Body)
		}
	}
	// The edge is the same: an answer can be found in the log again.
	id := operators.Call(t, "GET", "/admin/v1/state", nil).Header.Get("X-Request-Id")
	if id == "" {
		t.Fatal("an answer of the admin API has no request id")
	}
	apptest.Eventually(t, "the call is logged", func() bool { return strings.Contains(p.Log.String(), id) })
}

// With hosts for the platform, other hosts belong to the gateway wholly.
func TestOtherHostsMayHaveTheirOwnAdminPath(t *testing.T) {
	p, operators, up := startWithOperators(t, map[string]string{"server.hosts": "platform.test"})
	mark := up.Mark()
	p.Want(t, http.StatusOK, "GET", "/admin/v1/state", nil, "Host", "shop.test")
	p.Want(t, http.StatusNotFound, "GET", "/admin/v1/state", nil, "Host", "platform.test")
	up.Settle(t.Context())
	if n := len(up.Since(mark)); n != 1 {
		t.Errorf("%d requests reached the backend, want one", n)
	}
	operators.Want(t, http.StatusUnauthorized, "GET", "/admin/v1/state", nil)
}
