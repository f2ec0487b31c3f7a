package app_test

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// A route that takes encoded slashes for every host and path opens none of the
// platform's own paths, neither to callers nor to its service.
func TestEncodedSlashesOpenNoPlatformPath(t *testing.T) {
	up := attacktest.Start(t, "127.0.0.1:0")
	p := apptest.Start(t, apptest.Options{Gateway: `
version: 1
services: [{name: s, url: "http://` + up.Addr() + `"}]
routes: [{name: all, match: {path: {prefix: /}}, service: s, auth: {mode: none}, allow_encoded_slashes: true}]
`})
	u := p.User(t)
	seen := forwarded(t, p, up, rawRequest("GET /request/foo%2fbar HTTP/1.1"))
	if seen.Target != "/request/foo%2fbar" {
		t.Errorf("the backend got %s", seen.Target)
	}
	for _, path := range []string{
		"/users%2fme", "/users/%2Fme", "/users/a%2Fb", "/users%2F" + u.ID, "/users/" + u.ID + "%2F", "/%75sers%2fme", "/users/..%2faudit",
		"/admin%2Fv1%2Fconfig", "/admin/v1%2Fconfig", "/admin/v1/config%2F", "/auth%2Flogin", "/auth/login%2F", "/api-keys%2Fx", "/swagger%2Findex.html",
		"/metrics%2F", "/.well-known%2Fjwks.json", "/x%2F..%2Fusers",
	} {
		for _, fields := range [][]string{nil, {"Authorization: Bearer " + u.Token}} {
			a, seen := askBehind(t, p, up, rawRequest("GET "+path+" HTTP/1.1", fields...))
			if a.Status != 400 || !strings.Contains(a.Body, "request.path_invalid") || !strings.Contains(a.Body, "it holds an encoded slash") || len(seen) != 0 {
				t.Errorf("%s: status %d, %d requests reached the backend: %.200s", path, a.Status, len(seen), a.Body)
			}
		}
	}
}
