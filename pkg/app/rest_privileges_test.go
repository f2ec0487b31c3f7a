package app_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

const scopedDocument = `
version: 1
services:
  - {name: nobody, url: "http://127.0.0.1:9"}
routes:
  - {name: orders, match: {path: {prefix: /orders}, methods: [GET]}, auth: {scopes: ["orders:read"]}, respond: {status: 204}}
  - {name: both, match: {path: {prefix: /both}}, auth: {scopes: ["orders:read", "people:read"]}, respond: {status: 204}}
  - {name: open, match: {path: {prefix: /open}}, auth: {mode: required}, respond: {status: 204}}
`

// verdicts are those of a review, by scope.
func verdicts(t *testing.T, a apptest.Answer) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, s := range a.JSON(t)["scopes"].([]any) {
		use := s.(map[string]any)
		found[use["scope"].(string)] = use["verdict"].(string)
		if (use["last_used_at"] != nil) != (use["verdict"] == "used") {
			t.Errorf("%v", use)
		}
	}
	return found
}

func TestPrivilegesSayWhatAKeyUses(t *testing.T) {
	p := start(t, apptest.Options{Gateway: scopedDocument, Set: roomyWith(map[string]string{"accounts.user_scopes": "orders:read,orders:write,people:read"})})
	admin, user, other := p.Admin(t), p.User(t), p.User(t)
	scopes := []string{"orders:read", "orders:write", "keys:read", "profile:read", "usage:read"}
	key := p.Key(t, user, object{"scopes": scopes})
	path := "/api-keys/" + key.ID + "/privileges"

	// A new key: nothing is called unused.
	fresh := p.Want(t, http.StatusOK, "GET", path, nil, user.Auth()...)
	want := map[string]string{}
	for _, s := range scopes {
		want[s] = "unknown"
	}
	if diff := cmp.Diff(want, verdicts(t, fresh)); diff != "" || fresh.JSON(t)["narrower"] != false {
		t.Errorf("a new key has %s\n%s", fresh.Body, diff)
	}

	// What is demanded and held is used, by the gateway and by the platform; what a
	// refused call has asked for is not.
	p.Want(t, http.StatusNoContent, "GET", "/orders/1", nil, key.Auth()...)
	p.Want(t, http.StatusNoContent, "GET", "/open", nil, key.Auth()...)
	p.Want(t, http.StatusForbidden, "GET", "/both", nil, key.Auth()...)
	p.Want(t, http.StatusOK, "GET", "/users/me", nil, key.Auth()...)
	p.Platform.ScopeUses.Flush(t.Context())
	want["orders:read"], want["profile:read"] = "used", "used"
	if diff := cmp.Diff(want, verdicts(t, p.Want(t, http.StatusOK, "GET", path, nil, user.Auth()...))); diff != "" {
		t.Error(diff)
	}

	// After enough time the rest is unused. A key with keys:read may ask about itself,
	// and has used that then.
	_, err := apptest.Connect(t, p.DatabaseURL).Exec(t.Context(),
		`UPDATE api_keys SET scopes_recorded_since = $2 WHERE id = $1`, key.ID, time.Now().AddDate(0, 0, -60))
	if err != nil {
		t.Fatal(err)
	}
	p.Want(t, http.StatusOK, "GET", path, nil, key.Auth()...)
	p.Platform.ScopeUses.Flush(t.Context())
	want = map[string]string{"orders:read": "used", "orders:write": "unused", "keys:read": "used", "profile:read": "used", "usage:read": "unused"}
	late := p.Want(t, http.StatusOK, "GET", path, nil, key.Auth()...)
	if diff := cmp.Diff(want, verdicts(t, late)); diff != "" {
		t.Error(diff)
	}
	suggested := late.JSON(t)["suggested_scopes"]
	if diff := cmp.Diff([]any{"keys:read", "orders:read", "profile:read"}, suggested); diff != "" || late.JSON(t)["narrower"] != true {
		t.Errorf("%s\n%s", late.Body, diff)
	}
	apptest.Eventually(t, "the routes of the key", func() bool {
		found := map[any]any{}
		for _, r := range p.Want(t, http.StatusOK, "GET", path, nil, admin.Auth()...).JSON(t)["routes"].([]any) {
			found[r.(map[string]any)["route"]] = r.(map[string]any)["requests_30d"]
		}
		return found["orders"] == 1.0 && found["open"] == 1.0 && found["/users/me"] == 1.0
	})

	// The suggestion can be taken, and the key goes on.
	p.Want(t, http.StatusOK, "PATCH", "/api-keys/"+key.ID, object{"scopes": suggested}, user.Auth()...)
	p.Want(t, http.StatusNoContent, "GET", "/orders/1", nil, key.Auth()...)
	if done := p.Want(t, http.StatusOK, "GET", path, nil, user.Auth()...); done.JSON(t)["narrower"] != false || len(verdicts(t, done)) != 3 {
		t.Errorf("after that the key has %s", done.Body)
	}

	// Who may not know.
	bare := p.Key(t, user, nil)
	p.Want(t, http.StatusUnauthorized, "GET", path, nil)
	p.Want(t, http.StatusForbidden, "GET", path, nil, bare.Auth()...)
	none := p.Want(t, http.StatusNotFound, "GET", "/api-keys/"+unknownID+"/privileges", nil, admin.Auth()...)
	wantSameAnswer(t, none, p.Want(t, http.StatusNotFound, "GET", path, nil, other.Auth()...))
}

func TestScopesThatOnlySomeCallsNeedAreSeen(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin, user := p.Admin(t), p.User(t)
	target := p.Key(t, user, nil)
	used := func(key apptest.Key) any {
		t.Helper()
		p.Platform.ScopeUses.Flush(t.Context())
		return verdicts(t, p.Want(t, http.StatusOK, "GET", "/api-keys/"+key.ID+"/privileges", nil, admin.Auth()...))
	}
	for name, c := range map[string]struct {
		path  string
		other string // verdict of keys:admin
	}{
		"own":     {"/api-keys/", "unknown"},
		"another": {"/api-keys/" + target.ID, "used"},
	} {
		key := p.Key(t, admin, object{"scopes": []string{"keys:read", "keys:admin"}})
		if c.path == "/api-keys/" {
			c.path += key.ID
		}
		p.Want(t, http.StatusOK, "GET", c.path, nil, key.Auth()...)
		if diff := cmp.Diff(any(map[string]string{"keys:read": "used", "keys:admin": c.other}), used(key)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	// A key that may give a scope needs to hold it.
	giver := p.Key(t, user, object{"scopes": []string{"keys:write", "profile:read", "profile:write"}})
	p.Want(t, http.StatusCreated, "POST", "/api-keys", object{"name": "b", "scopes": []string{"profile:read"}}, giver.Auth()...)
	if diff := cmp.Diff(any(map[string]string{"keys:write": "used", "profile:read": "used", "profile:write": "unknown"}), used(giver)); diff != "" {
		t.Error(diff)
	}
}
