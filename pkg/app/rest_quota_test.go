package app_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

func TestQuotasAreSeenToppedUpAndReset(t *testing.T) {
	p := start(t, apptest.Options{Gateway: quotaDocument, Set: roomy()})
	admin, user, other := p.Admin(t), p.User(t), p.User(t)
	key := p.Key(t, user, nil)
	use := func(status int) { p.Want(t, status, "GET", "/metered", nil, key.Auth()...) }
	for range 3 {
		use(http.StatusNoContent)
	}
	use(http.StatusTooManyRequests)

	list := func(path string, headers ...string) []any {
		return p.Want(t, http.StatusOK, "GET", path, nil, headers...).JSON(t)["items"].([]any)
	}
	own := list("/quotas", user.Auth()...)
	if len(own) != 1 {
		t.Fatalf("the user sees %v", own)
	}
	account := own[0].(map[string]any)
	if account["quota"] != "monthly" || account["used"] != 3.0 || account["remaining"] != 0.0 || account["limit"] != 3.0 {
		t.Errorf("the user sees %v", account)
	}
	if others := list("/quotas", other.Auth()...); len(others) != 0 {
		t.Errorf("another user sees %v", others)
	}
	p.Want(t, http.StatusUnauthorized, "GET", "/quotas", nil)
	p.Want(t, http.StatusBadRequest, "GET", "/quotas?limit=x", nil, user.Auth()...)

	if all := list("/admin/v1/quotas?quota=monthly", admin.Auth()...); len(all) != 1 {
		t.Errorf("an admin sees %v", all)
	}
	path := "/admin/v1/quotas/" + account["id"].(string)
	p.Want(t, http.StatusOK, "GET", path, nil, admin.Auth()...)
	p.Want(t, http.StatusOK, "POST", path+"/top-up", object{"units": 2}, admin.Auth()...)
	apptest.Eventually(t, "units that were added", func() bool {
		return p.Call(t, "GET", "/metered", nil, key.Auth()...).Status == http.StatusNoContent
	})
	use(http.StatusNoContent)
	use(http.StatusTooManyRequests)
	p.Want(t, http.StatusOK, "POST", path+"/reset", nil, admin.Auth()...)
	apptest.Eventually(t, "a quota that was reset", func() bool {
		return p.Call(t, "GET", "/metered", nil, key.Auth()...).Status == http.StatusNoContent
	})

	events := list("/admin/v1/quota-events", admin.Auth()...)
	if len(events) == 0 || events[0].(map[string]any)["account"] != account["id"] {
		t.Errorf("the events are %v", events)
	}
	audit := string(p.Want(t, http.StatusOK, "GET", "/audit", nil, admin.Auth()...).Body)
	for _, action := range []string{"quota.topped_up", "quota.reset"} {
		if !strings.Contains(audit, action) {
			t.Errorf("the audit log lacks %s", action)
		}
	}

	// Who may do none of it, and what cannot be done.
	const none = "/admin/v1/quotas/01890a5d-ac96-8748-8cce-b302099a8057"
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"GET", "/admin/v1/quotas", nil},
		{"GET", "/admin/v1/quota-events", nil},
		{"GET", path, nil},
		{"POST", path + "/top-up", object{"units": 1}},
		{"POST", path + "/reset", nil},
	} {
		p.Want(t, http.StatusUnauthorized, c.method, c.path, c.body)
		p.Want(t, http.StatusForbidden, c.method, c.path, c.body, user.Auth()...)
		if strings.HasPrefix(c.path, path) {
			p.Want(t, http.StatusNotFound, c.method, none+strings.TrimPrefix(c.path, path), c.body, admin.Auth()...)
		}
	}
	p.Want(t, http.StatusBadRequest, "GET", "/admin/v1/quotas?limit=x", nil, admin.Auth()...)
	p.Want(t, http.StatusBadRequest, "GET", "/admin/v1/quota-events?limit=x", nil, admin.Auth()...)
	p.Want(t, http.StatusBadRequest, "POST", path+"/top-up", object{"units": -1}, admin.Auth()...)
	p.Want(t, http.StatusUnsupportedMediaType, "POST", path+"/top-up", object{"units": 1}, append(admin.Auth(), "Content-Type", "text/plain")...)
}
