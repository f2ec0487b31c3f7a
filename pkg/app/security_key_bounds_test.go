package app_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// R62, R67: a key that expires or is bound to addresses does not get rid of that: neither
// by changing itself, nor by a key that it makes or whose secret it gets.
func TestKeyCannotOutgrowItsBounds(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	scopes := []string{"keys:read", "keys:write"}
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	soon, late := end.Add(-time.Minute).Format(time.RFC3339), end.Add(time.Minute).Format(time.RFC3339)
	near := []string{"127.0.0.0/24", "::1"}
	bound := p.Key(t, u, object{"scopes": scopes, "expires_at": end.Format(time.RFC3339), "allowed_ips": near})
	free := p.Key(t, u, object{"scopes": scopes})
	app := p.Want(t, http.StatusCreated, "POST", "/catalog/apps", object{"name": "an-app"}, u.Auth()...).Text(t, "id")

	for name, more := range map[string]object{
		"without an end":      {"allowed_ips": near},
		"that lasts longer":   {"allowed_ips": near, "expires_at": late},
		"with a longer time":  {"allowed_ips": near, "expires_in": 7200},
		"for everywhere":      {"expires_at": soon},
		"for a wider network": {"expires_at": soon, "allowed_ips": []string{"127.0.0.0/16"}},
		"for another network": {"expires_at": soon, "allowed_ips": []string{"127.0.0.1", "192.0.2.1"}},
	} {
		more["name"] = "k"
		t.Run("a new key "+name, func(t *testing.T) {
			wantProblem(t, p.Call(t, "POST", "/api-keys", more, bound.Auth()...), http.StatusForbidden, "access.scope_missing")
		})
	}
	for name, change := range map[string]object{
		"its end":          {"expires_at": nil},
		"a later end":      {"expires_at": late},
		"its networks":     {"allowed_ips": []string{}},
		"a larger network": {"allowed_ips": []string{"0.0.0.0/0"}},
	} {
		t.Run("itself, "+name, func(t *testing.T) {
			for _, id := range []string{bound.ID, free.ID} {
				wantProblem(t, p.Call(t, "PATCH", "/api-keys/"+id, change, bound.Auth()...), http.StatusForbidden, "access.scope_missing")
			}
		})
	}
	wantProblem(t, p.Call(t, "POST", "/api-keys/"+free.ID+"/rotate", object{}, bound.Auth()...), http.StatusForbidden, "access.scope_missing")
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, free.Auth()...) // nothing happened to it

	// Within its bounds it may do all that.
	child := p.Want(t, http.StatusCreated, "POST", "/api-keys", object{"name": "k", "expires_at": soon, "allowed_ips": []string{"127.0.0.1", "::1"}}, bound.Auth()...)
	p.Want(t, http.StatusOK, "POST", "/api-keys/"+child.Text(t, "id")+"/rotate", object{}, bound.Auth()...)
	p.Want(t, http.StatusOK, "PATCH", "/api-keys/"+bound.ID, object{"name": "another", "expires_at": soon}, bound.Auth()...)
	p.Want(t, http.StatusOK, "POST", "/api-keys/"+bound.ID+"/rotate", object{}, bound.Auth()...)

	// A signed-in user has no bounds, and the key of an app makes none at all.
	p.Want(t, http.StatusOK, "PATCH", "/api-keys/"+free.ID, object{"expires_at": nil}, u.Auth()...)
	ofApp := p.Key(t, u, object{"scopes": scopes, "app": app})
	wantProblem(t, p.Call(t, "POST", "/api-keys", object{"name": "k"}, ofApp.Auth()...), http.StatusForbidden, "access.app_key")
}
