package app_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

const catalogDocument = `
version: 1
routes:
  - name: people.list
    match: {path: {exact: /people}}
    respond: {status: 204}
  - name: people.get
    match: {path: {prefix: /people/}}
    respond: {status: 204}
    rate_limit: [{name: own, by: key, rate: 1000/1m}]
    flows:
      - {name: other, when: 'request.path == "/people/other"', rate_limit: [{name: flow, by: key, rate: 500/1m}]}
  - name: birds
    match: {path: {exact: /birds}}
    respond: {status: 204}
  - name: watched
    match: {path: {exact: /watched}}
    auth: {mode: shadow}
    respond: {status: 204}
  - name: open
    match: {path: {exact: /open}}
    auth: {mode: none}
    respond: {status: 204}
`

func TestAppsReachWhatTheyAreSubscribedTo(t *testing.T) {
	set := roomy()
	one := start(t, apptest.Options{Gateway: catalogDocument, Set: set})
	two := start(t, apptest.Options{Gateway: catalogDocument, Set: set, DatabaseURL: one.DatabaseURL, MasterKey: one.MasterKey})
	p := one
	admin, ann, ben := p.Admin(t), p.User(t), p.User(t)
	const products = "/admin/v1/products/"
	p.Want(t, http.StatusCreated, "PUT", products+"people", object{"visible": true, "routes": []string{"people"}}, admin.Auth()...)
	p.Want(t, http.StatusCreated, "PUT", products+"people/plans/free", object{
		"rate": object{"requests": 4, "window": "1h"}, "quota": object{"units": 100, "period": "month"},
	}, admin.Auth()...)
	p.Want(t, http.StatusCreated, "PUT", products+"people/plans/gold", object{"approval": "operator"}, admin.Auth()...)

	app := p.Want(t, http.StatusCreated, "POST", "/catalog/apps", object{"name": "book"}, ann.Auth()...).Text(t, "id")
	p.Want(t, http.StatusBadRequest, "POST", "/api-keys", object{"name": "ci", "app": app}, ben.Auth()...)
	key := p.Key(t, ann, map[string]any{"app": app, "scopes": []string{"keys:read", "keys:write", "apps:write", "profile:read"}})
	plain := p.Key(t, ann, nil)

	// The platform's own API is nothing for an app, whatever its scopes.
	for _, path := range []string{"/users/me", "/api-keys", "/api-keys/self", "/catalog/apps", "/catalog/products", "/quotas", "/usage", "/admin/v1/products"} {
		if a := p.Call(t, "GET", path, nil, key.Auth()...); a.Status != http.StatusForbidden || a.JSON(t)["code"] != "access.app_key" {
			t.Errorf("GET %s: %d %s", path, a.Status, a.Body)
		}
	}
	for _, path := range []string{"/people", "/people/1", "/people/other", "/birds", "/watched"} {
		a := p.Want(t, http.StatusForbidden, "GET", path, nil, key.Auth()...)
		if a.JSON(t)["code"] != "catalog.not_subscribed" || strings.Contains(a.Text(t, "detail"), "people") != strings.HasPrefix(path, "/people") {
			t.Errorf("GET %s: %s", path, a.Body)
		}
		p.Want(t, http.StatusNoContent, "GET", path, nil, plain.Auth()...)
	}
	p.Want(t, http.StatusNoContent, "GET", "/open", nil, key.Auth()...)

	sub := p.Want(t, http.StatusCreated, "POST", "/catalog/apps/"+app+"/subscriptions", object{"product": "people", "plan": "free"}, ann.Auth()...)
	id := sub.Text(t, "id")
	if sub.Text(t, "state") != "active" {
		t.Errorf("%s", sub.Body)
	}
	for i, path := range []string{"/people", "/people/1", "/people/other", "/people"} {
		a := p.Want(t, http.StatusNoContent, "GET", path, nil, key.Auth()...) // no delay on the replica that made the change
		if got := a.Header.Get("RateLimit-Policy"); !strings.HasPrefix(got, `"plan-rate";q=4;w=3600, "plan-quota";q=100`) {
			t.Errorf("request %d: %v", i, a.Header)
		}
	}
	own := p.Want(t, http.StatusOK, "GET", "/quotas", nil, ann.Auth()...).JSON(t)["items"].([]any)
	if len(own) != 1 || own[0].(map[string]any)["by"] != "subscription" || own[0].(map[string]any)["subject"] != id {
		t.Errorf("the developer sees %v of the quota of the plan", own)
	}
	if others := p.Want(t, http.StatusOK, "GET", "/quotas", nil, ben.Auth()...).JSON(t)["items"].([]any); len(others) != 0 {
		t.Errorf("another developer sees %v", others)
	}
	a := p.Want(t, http.StatusTooManyRequests, "GET", "/people/1", nil, key.Auth()...)
	if a.JSON(t)["code"] != "gateway.rate_limited" || a.Header.Get("Retry-After") == "" {
		t.Errorf("%v %s", a.Header, a.Body)
	}
	p.Want(t, http.StatusForbidden, "GET", "/birds", nil, key.Auth()...)
	p.Want(t, http.StatusNoContent, "GET", "/people", nil, plain.Auth()...)

	// A plan that is changed counts at once, here and on the other replica.
	p.Want(t, http.StatusOK, "PUT", products+"people/plans/free", object{"rate": object{"requests": 1000, "window": "1m"}}, admin.Auth()...)
	p.Want(t, http.StatusNoContent, "GET", "/people", nil, key.Auth()...)
	apptest.Eventually(t, "the other replica knows the plan", func() bool {
		a := two.Call(t, "GET", "/people", nil, key.Auth()...)
		return a.Status == http.StatusNoContent && strings.HasPrefix(a.Header.Get("RateLimit-Policy"), `"plan-rate";q=1000;w=60`)
	})

	// What an operator ends, ends on every replica.
	p.Want(t, http.StatusOK, "POST", "/admin/v1/subscriptions/"+id+"/suspend", nil, admin.Auth()...)
	p.Want(t, http.StatusForbidden, "GET", "/people", nil, key.Auth()...)
	apptest.Eventually(t, "the other replica refuses", func() bool {
		return two.Call(t, "GET", "/people", nil, key.Auth()...).Status == http.StatusForbidden
	})
	p.Want(t, http.StatusOK, "POST", "/admin/v1/subscriptions/"+id+"/resume", nil, admin.Auth()...)
	p.Want(t, http.StatusNoContent, "GET", "/people", nil, key.Auth()...)

	// Where the product is for apps only.
	p.Want(t, http.StatusOK, "PUT", products+"people", object{"visible": true, "apps_only": true, "routes": []string{"people"}}, admin.Auth()...)
	for _, who := range [][]string{plain.Auth(), ann.Auth(), admin.Auth()} {
		apptest.Eventually(t, "callers without an app are refused", func() bool {
			a := p.Call(t, "GET", "/people", nil, who...)
			return a.Status == http.StatusForbidden && a.JSON(t)["code"] == "catalog.apps_only"
		})
	}
	p.Want(t, http.StatusNoContent, "GET", "/people", nil, key.Auth()...)

	// The refusal can be explained to the app's owner.
	refused := p.Want(t, http.StatusForbidden, "GET", "/birds", nil, key.Auth()...)
	if why := p.Want(t, http.StatusOK, "GET", "/decisions/"+refused.Text(t, "decision_id"), nil, ann.Auth()...); why.Text(t, "policy") != "plan" {
		t.Errorf("%s", why.Body)
	}

	p.Want(t, http.StatusOK, "POST", "/admin/v1/subscriptions/"+id+"/revoke", nil, admin.Auth()...)
	p.Want(t, http.StatusForbidden, "GET", "/people", nil, key.Auth()...)
	if again := p.Want(t, http.StatusCreated, "POST", "/catalog/apps/"+app+"/subscriptions", object{"product": "people", "plan": "free"}, ann.Auth()...); again.Text(t, "state") != "pending" {
		t.Errorf("%s", again.Body)
	}
	p.Want(t, http.StatusOK, "POST", "/admin/v1/subscriptions/"+id+"/reject", nil, admin.Auth()...)
	p.Want(t, http.StatusNoContent, "DELETE", "/catalog/apps/"+app, nil, ann.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/people", nil, key.Auth()...)
	apptest.Eventually(t, "the other replica knows that the keys are revoked", func() bool {
		return two.Call(t, "GET", "/people", nil, key.Auth()...).Status == http.StatusUnauthorized
	})
	p.Want(t, http.StatusNoContent, "DELETE", products+"people", nil, admin.Auth()...)

	audit := string(p.Want(t, http.StatusOK, "GET", "/audit?limit=200", nil, admin.Auth()...).Body)
	for _, action := range []string{
		"product.put", "plan.put", "product.deleted", "app.created", "app.deleted", "subscription.requested", "subscription.suspended",
		"subscription.resumed", "subscription.revoked", "subscription.rejected",
	} {
		if !strings.Contains(audit, `"`+action+`"`) {
			t.Errorf("the audit log lacks %s", action)
		}
	}
}

// A stream ends with the subscription by which it was opened.
func TestStreamOfAnAppEndsWithItsSubscription(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy(), Gateway: `
version: 1
services:
  - {name: events, url: "` + lasting(t).URL + `"}
routes:
  - name: events
    match: {path: {exact: /events}}
    service: events
`})
	admin, ann := p.Admin(t), p.User(t)
	p.Want(t, http.StatusCreated, "PUT", "/admin/v1/products/events", object{"visible": true, "routes": []string{"events"}}, admin.Auth()...)
	p.Want(t, http.StatusCreated, "PUT", "/admin/v1/products/events/plans/free", object{}, admin.Auth()...)
	app := p.Want(t, http.StatusCreated, "POST", "/catalog/apps", object{"name": "book"}, ann.Auth()...).Text(t, "id")
	id := p.Want(t, http.StatusCreated, "POST", "/catalog/apps/"+app+"/subscriptions", object{"product": "events", "plan": "free"}, ann.Auth()...).Text(t, "id")
	key := p.Key(t, ann, map[string]any{"app": app})
	ended := openStream(t, p.Addr, "/events", "X-API-Key: "+key.Secret)
	p.Want(t, http.StatusOK, "POST", "/admin/v1/subscriptions/"+id+"/revoke", nil, admin.Auth()...)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the stream goes on")
	}
}
