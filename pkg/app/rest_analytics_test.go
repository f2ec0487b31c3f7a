package app_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

const knockedDocument = `
version: 1
routes:
  - {name: counted, match: {path: {prefix: /counted}}, respond: {status: 200, body: "0123456789"}}
  - {name: guarded, match: {path: {prefix: /guarded}}, auth: {mode: required}, respond: {status: 200, body: "x"}}
`

func TestAnalyticsTellWhoKnockedAndWhoMayKnow(t *testing.T) {
	p := start(t, apptest.Options{Gateway: knockedDocument, Set: with(roomy(), "usage.flush_interval", "100ms")})
	admin, owner, other := p.Admin(t), p.User(t), p.User(t)
	key := p.Key(t, owner, object{"scopes": []string{"keys:read"}})
	unused := p.Key(t, owner, object{"scopes": []string{"usage:read"}})
	for range 3 {
		p.Want(t, http.StatusOK, "GET", "/counted", nil, key.Auth()...)
	}
	p.Want(t, http.StatusOK, "GET", "/counted", nil, other.Auth()...)
	for range 2 {
		p.Want(t, http.StatusUnauthorized, "GET", "/guarded", nil)
	}

	// Everybody's own, and nobody else's.
	usageTotal(t, p, "/analytics?route=counted", 3, key.Auth()...)
	usageTotal(t, p, "/analytics?route=counted", 3, owner.Auth()...)
	usageTotal(t, p, "/analytics?route=counted&by=key,route&step=day", 1, other.Auth()...)
	p.Want(t, http.StatusOK, "GET", "/analytics?key_id="+unused.ID, nil, owner.Auth()...)
	if code := p.Want(t, http.StatusNotFound, "GET", "/analytics?key_id="+key.ID, nil, other.Auth()...).Text(t, "code"); code != "analytics.not_found" {
		t.Errorf("another's key is %s", code)
	}
	p.Want(t, http.StatusNotFound, "GET", "/analytics?app=nobodys", nil, owner.Auth()...)
	p.Want(t, http.StatusForbidden, "GET", "/analytics?key_id="+unused.ID, nil, key.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/analytics", nil)
	p.Want(t, http.StatusBadRequest, "GET", "/analytics?by=client", nil, owner.Auth()...)

	body := usageTotal(t, p, "/admin/v1/analytics/refusals?route=guarded", 2, admin.Auth()...)
	item := body["items"].([]any)[0].(map[string]any)
	if code, _ := item["refusal"].(string); !strings.HasPrefix(code, "auth.") || item["refused"] != 2.0 {
		t.Errorf("refused: %v", item)
	}
	body = usageTotal(t, p, "/admin/v1/analytics/refusals?route=guarded&by=client", 2, admin.Auth()...)
	if client := body["items"].([]any)[0].(map[string]any)["client"]; client != "127.0.0.0/24" {
		t.Errorf("%v knocked", client)
	}
	text := p.Want(t, http.StatusOK, "GET", "/admin/v1/analytics?by=route&route=counted&format=csv", nil, admin.Auth()...)
	if lines := strings.Split(string(text.Body), "\r\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], "counted,4,0,") {
		t.Errorf("CSV: %q", text.Body)
	}
	for _, path := range []string{"/admin/v1/analytics", "/admin/v1/analytics/refusals"} {
		p.Want(t, http.StatusForbidden, "GET", path, nil, owner.Auth()...)
		p.Want(t, http.StatusUnauthorized, "GET", path, nil)
		p.Want(t, http.StatusBadRequest, "GET", path+"?step=second", nil, admin.Auth()...)
	}
}

func TestAnalyticsThatTakeTooLongAreRefused(t *testing.T) {
	p := start(t, apptest.Options{Set: with(with(roomy(), "database.query_timeout", "500ms"), "database.verify_timeout", "500ms")})
	admin := p.Admin(t)
	conn, err := pgx.Connect(context.Background(), p.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), `BEGIN; LOCK TABLE analytics_state IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/analytics", "/admin/v1/analytics", "/admin/v1/analytics/refusals"} {
		if code := p.Want(t, http.StatusUnprocessableEntity, "GET", path, nil, admin.Auth()...).Text(t, "code"); code != "analytics.too_much" {
			t.Errorf("%s answers %s", path, code)
		}
	}
}
