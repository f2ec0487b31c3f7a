package app_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/kvm"
)

// secretDocument leads to url with a secret, and says in its answers what may be
// seen of it.
func secretDocument(url string) string {
	return `
version: 1
services:
  - {name: warehouse, url: "` + url + `"}
routes:
  - name: stock
    match: {path: {prefix: /stock}}
    service: warehouse
    auth: {mode: none}
    request_headers: {set: {X-Warehouse-Token: 'Bearer {{ secret "warehouse" }}'}}
`
}

func TestSecretsAreShownToServicesAlone(t *testing.T) {
	var seen atomic.Value
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen.Store(strings.Join(r.Header["X-Warehouse-Token"], "|"))
	}))
	t.Cleanup(backend.Close)
	set := roomy()
	one := start(t, apptest.Options{Gateway: secretDocument(backend.URL), Set: set})
	two := start(t, apptest.Options{Gateway: secretDocument(backend.URL), Set: set, DatabaseURL: one.DatabaseURL, MasterKey: one.MasterKey})
	replicas := []*apptest.Program{one, two}
	admin, user := one.Admin(t), one.User(t)
	const path = "/admin/v1/secrets/warehouse"

	for _, p := range replicas {
		a := p.Want(t, http.StatusServiceUnavailable, "GET", "/stock", nil)
		if a.JSON(t)["code"] != "gateway.secret_unavailable" || seen.Load() != nil {
			t.Errorf("without the secret: %s, the service saw %v", a.Body, seen.Load())
		}
	}
	for i, value := range []string{"first-value", "second-value"} {
		a := one.Want(t, http.StatusOK, "PUT", path, object{"value": value}, admin.Auth()...)
		if strings.Contains(string(a.Body), value) || a.JSON(t)["version"] != float64(i+1) {
			t.Errorf("the answer is %s", a.Body)
		}
		for n, p := range replicas {
			apptest.Eventually(t, "the new value on every replica", func() bool {
				a := p.Call(t, "GET", "/stock", nil, "X-Warehouse-Token", "of-the-caller")
				return a.Status == http.StatusOK && seen.Load() == "Bearer "+value
			})
			if strings.Contains(p.Log.String(), value) {
				t.Errorf("replica %d logs the value", n)
			}
		}
	}
	list := one.Want(t, http.StatusOK, "GET", "/admin/v1/secrets?environment=default", nil, admin.Auth()...)
	if items := list.JSON(t)["items"].([]any); len(items) != 1 || strings.Contains(string(list.Body), "value") {
		t.Errorf("the list is %s", list.Body)
	}
	one.Want(t, http.StatusNoContent, "DELETE", path, nil, admin.Auth()...)
	for _, p := range replicas {
		apptest.Eventually(t, "the end of the secret on every replica", func() bool {
			return p.Call(t, "GET", "/stock", nil).Status == http.StatusServiceUnavailable
		})
	}
	audit := string(one.Want(t, http.StatusOK, "GET", "/audit", nil, admin.Auth()...).Body)
	for _, action := range []string{"secret.put", "secret.deleted"} {
		if !strings.Contains(audit, action) {
			t.Errorf("the audit log lacks %s", action)
		}
	}

	// Who may do none of it, and what cannot be done.
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"GET", "/admin/v1/secrets", nil},
		{"PUT", path, object{"value": "x"}},
		{"DELETE", path, nil},
	} {
		one.Want(t, http.StatusUnauthorized, c.method, c.path, c.body)
		one.Want(t, http.StatusForbidden, c.method, c.path, c.body, user.Auth()...)
	}
	one.Want(t, http.StatusBadRequest, "GET", "/admin/v1/secrets?limit=x", nil, admin.Auth()...)
	one.Want(t, http.StatusBadRequest, "GET", "/admin/v1/secrets?environment=no+where", nil, admin.Auth()...)
	one.Want(t, http.StatusBadRequest, "PUT", path, object{"value": ""}, admin.Auth()...)
	one.Want(t, http.StatusBadRequest, "PUT", path, object{"value": "x", "valeu": "x"}, admin.Auth()...)
	one.Want(t, http.StatusRequestEntityTooLarge, "PUT", path, object{"value": strings.Repeat("x", 2<<20)}, admin.Auth()...)
	one.Want(t, http.StatusUnsupportedMediaType, "PUT", path, object{"value": "x"}, admin.With("Content-Type", "text/plain")...)
	one.Want(t, http.StatusBadRequest, "DELETE", path+"?environment=no+where", nil, admin.Auth()...)
	one.Want(t, http.StatusNotFound, "DELETE", path, nil, admin.Auth()...)

	_, err := apptest.Connect(t, one.DatabaseURL).Exec(t.Context(), `INSERT INTO secrets (environment, name, version, sealed, key_id)
		SELECT 'full', 's' || n, 1, 'sealed', 'none' FROM generate_series(1, $1) n`, kvm.MaxSecrets)
	if err != nil {
		t.Fatal(err)
	}
	one.Want(t, http.StatusConflict, "PUT", path, object{"value": "x"}, admin.Auth()...)
}
