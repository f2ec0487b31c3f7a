package app_test

import (
	"net/http"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

const guardedDocument = `
version: 1
services: [{name: nowhere, url: "http://127.0.0.1:1"}]
routes:
  - {name: orders, match: {path: {prefix: /orders}}, service: nowhere, allow_ips: [127.0.0.0/8], auth: {scopes: ["orders:write"]}}
  - {name: inside, match: {path: {prefix: /inside}}, service: nowhere, auth: {mode: none}, allow_ips: [192.0.2.0/24]}
`

func TestWhoeverWasRefusedCanAskWhyAndNobodyElse(t *testing.T) {
	p := start(t, apptest.Options{Gateway: guardedDocument, Set: roomy()})
	admin, owner, stranger := p.Admin(t), p.User(t), p.User(t)
	key := p.Key(t, owner, object{"name": "k", "scopes": []string{"keys:read"}})

	refused := p.Want(t, http.StatusForbidden, "GET", "/orders/1", nil, key.Auth()...)
	id := refused.Text(t, "decision_id")
	for who, user := range map[string]*apptest.User{"the owner": owner, "an admin": admin} {
		d := p.Want(t, http.StatusOK, "GET", "/decisions/"+id, nil, user.Auth()...)
		for name, want := range map[string]string{
			"code": "access.scope_missing", "policy": "auth", "route": "orders", "user_id": owner.ID, "key_id": key.ID,
			"request_id": refused.Header.Get("X-Request-Id"), "client": "127.0.0.1",
		} {
			if got := d.Text(t, name); got != want {
				t.Errorf("%s sees %s %q, want %q", who, name, got, want)
			}
		}
		if got := d.JSON(t)["policies"]; len(got.([]any)) != 3 || d.JSON(t)["current"] != true {
			t.Errorf("%s sees the policies %v", who, got)
		}
	}
	p.Want(t, http.StatusNotFound, "GET", "/decisions/"+id, nil, stranger.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/decisions/"+id, nil)
	p.Want(t, http.StatusNotFound, "GET", "/decisions/made-up", nil, owner.Auth()...)

	// Nobody owns the refusal of an anonymous caller.
	id = p.Want(t, http.StatusForbidden, "GET", "/inside", nil).Text(t, "decision_id")
	p.Want(t, http.StatusNotFound, "GET", "/decisions/"+id, nil, owner.Auth()...)
	p.Want(t, http.StatusOK, "GET", "/decisions/"+id, nil, admin.Auth()...)

	// What a service cannot answer has one, too.
	if id := p.Want(t, http.StatusNotFound, "GET", "/nothing-here", nil).Text(t, "decision_id"); id == "" {
		t.Error("a request without a route has no decision")
	}
}
