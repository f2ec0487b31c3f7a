package app_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

const meteredDocument = `
version: 1
routes:
  - {name: counted, match: {path: {prefix: /counted}}, respond: {status: 200, body: "0123456789"}}
`

// usageTotal asks until as many requests are counted as were made.
func usageTotal(t *testing.T, p *apptest.Program, path string, requests float64, headers ...string) map[string]any {
	t.Helper()
	var body map[string]any
	apptest.Eventually(t, path, func() bool {
		body = p.Want(t, http.StatusOK, "GET", path, nil, headers...).JSON(t)
		return body["total"].(map[string]any)["requests"] == requests
	})
	return body
}

func TestUsageTellsWhoUsesWhatOfKeysAndOfSignedInUsersAlike(t *testing.T) {
	p := start(t, apptest.Options{Gateway: meteredDocument, Set: with(roomy(), "usage.flush_interval", "100ms")})
	admin, owner, other := p.Admin(t), p.User(t), p.User(t)
	key := p.Key(t, owner, object{"scopes": []string{"keys:read"}})
	second := p.Key(t, owner, object{"scopes": []string{"usage:read"}})
	for range 3 {
		p.Want(t, http.StatusOK, "GET", "/counted", nil, key.Auth()...)
	}
	p.Want(t, http.StatusOK, "GET", "/counted", nil, owner.Auth()...)
	p.Want(t, http.StatusOK, "GET", "/counted", nil, other.Auth()...)

	// A key sees itself, one that may more its user, and the user everything of theirs.
	body := usageTotal(t, p, "/usage?route=counted", 3, key.Auth()...)
	if total := body["total"].(map[string]any); total["response_bytes"] != 30.0 || total["client_errors"] != 0.0 {
		t.Errorf("the key has used %v", total)
	}
	usageTotal(t, p, "/usage?route=counted", 4, second.Auth()...)
	usageTotal(t, p, "/usage?route=counted", 4, owner.Auth()...)
	usageTotal(t, p, "/usage?route=counted&key_id=", 1, owner.Auth()...)
	p.Want(t, http.StatusForbidden, "GET", "/usage?key_id="+second.ID, nil, key.Auth()...)

	// What is not theirs is as if it were not there; what is theirs and unused is not.
	unused := p.Key(t, owner, object{"scopes": []string{"keys:read"}})
	p.Want(t, http.StatusOK, "GET", "/usage?key_id="+unused.ID, nil, owner.Auth()...)
	for _, path := range []string{"/usage?key_id=" + key.ID, "/usage?key_id=" + unknownID, "/usage?app=nobodys"} {
		if code := p.Want(t, http.StatusNotFound, "GET", path, nil, other.Auth()...).Text(t, "code"); code != "usage.not_found" {
			t.Errorf("%s is %s", path, code)
		}
	}
	p.Want(t, http.StatusUnauthorized, "GET", "/usage", nil)
	p.Want(t, http.StatusBadRequest, "GET", "/usage?by=user", nil, owner.Auth()...)

	body = usageTotal(t, p, "/admin/v1/usage?route=counted&by=user,key&step=minute", 5, admin.Auth()...)
	items := body["items"].([]any)
	if len(items) != 3 || items[0].(map[string]any)["key_id"] != key.ID || items[0].(map[string]any)["user_id"] != owner.ID {
		t.Errorf("who uses what: %v", items)
	}
	if body["series"] == nil || items[0].(map[string]any)["series"] == nil {
		t.Errorf("no time series in %v", body)
	}
	p.Want(t, http.StatusForbidden, "GET", "/admin/v1/usage", nil, owner.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/admin/v1/usage", nil)
	p.Want(t, http.StatusBadRequest, "GET", "/admin/v1/usage?step=second", nil, admin.Auth()...)
}

func TestUsageThatTakesTooLongToAddUpIsRefused(t *testing.T) {
	p := start(t, apptest.Options{Set: with(with(roomy(), "database.query_timeout", "500ms"), "database.verify_timeout", "500ms")})
	admin := p.Admin(t)
	p.Want(t, http.StatusOK, "GET", "/usage", nil, admin.Auth()...)
	conn, err := pgx.Connect(context.Background(), p.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), `BEGIN; LOCK TABLE usage_minutes IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/usage", "/admin/v1/usage"} {
		if code := p.Want(t, http.StatusUnprocessableEntity, "GET", path, nil, admin.Auth()...).Text(t, "code"); code != "usage.too_much" {
			t.Errorf("%s answers %s", path, code)
		}
	}
}
