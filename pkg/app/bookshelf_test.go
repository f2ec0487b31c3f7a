package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// fileOfGuide is what a guide has one write into a file.
func fileOfGuide(t *testing.T, guide, file string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/guides/" + guide)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?ms)^cat > ` + regexp.QuoteMeta(file) + ` <<'END'\n(.*?)^END$`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("%s has no file %s", guide, file)
	}
	return string(found[1])
}

// The story of the guide, from a description of an API to developers who use it.
func TestBookshelfFromDescriptionToProduct(t *testing.T) {
	const secret = "only-the-gateway-knows"
	var seen atomic.Value
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Clone())
		if r.Header.Get("X-Bookshelf-Secret") != secret {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"id":1,"theme":%q}`, r.Method+" "+r.URL.Path)
	}))
	t.Cleanup(backend.Close)
	p := startAdministered(t, map[string]string{"usage.flush_interval": "100ms"})
	operator := p.operator.Auth()

	// The service, its last mile, and the import.
	document := strings.Replace(fileOfGuide(t, "bookshelf.md", "gateway.yaml"), "http://127.0.0.1:9001", backend.URL, 1)
	p.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/bookshelf", object{"value": secret}, operator...)
	p.Want(t, http.StatusOK, "PUT", configPath, document, p.yaml(p.operator, "If-None-Match", "*")...)
	at := apisPath + "?name=bookshelf&service=bookshelf&validate=true"
	description := fileOfGuide(t, "bookshelf.md", "bookshelf.openapi.yaml")
	plan := p.Want(t, http.StatusOK, "POST", at, description, p.yaml(p.operator)...).JSON(t)
	if added := names(t, plan["routes"].(object)["added"]); len(added) != 7 { //nolint:forcetypeassert // a test
		t.Fatalf("the import would add %v", added)
	}
	p.Want(t, http.StatusOK, "POST", at+"&apply=true", description, p.yaml(p.operator, "If-Match", p.tag(t))...)

	// The product, and a developer who subscribes to it.
	p.Want(t, http.StatusCreated, "PUT", "/admin/v1/products/bookshelf",
		object{"title": "Bookshelf", "visible": true, "apps_only": true, "routes": []string{"bookshelf"}}, operator...)
	p.Want(t, http.StatusCreated, "PUT", "/admin/v1/products/bookshelf/plans/reader", object{
		"rate": object{"requests": 10, "window": "1m"}, "quota": object{"units": 1000, "period": "month"},
	}, operator...)
	developer, other := p.User(t), p.User(t)
	app := p.Want(t, http.StatusCreated, "POST", "/catalog/apps", object{"name": "my shop"}, developer.Auth()...).Text(t, "id")
	subscription := p.Want(t, http.StatusCreated, "POST", "/catalog/apps/"+app+"/subscriptions",
		object{"product": "bookshelf", "plan": "reader"}, developer.Auth()...).Text(t, "id")
	key := p.Key(t, developer, object{"app": app})
	plain := p.Key(t, other, nil)

	apptest.Eventually(t, "the API is served", func() bool {
		return p.Call(t, "GET", "/bookshelf/shelves/1", nil, key.Auth()...).Status == http.StatusOK
	})
	header := seen.Load().(http.Header) //nolint:forcetypeassert // a test
	if header.Get("X-Api-Key") != "" || header.Get("Authorization") != "" {
		t.Errorf("the service sees the caller's credential: %v", header)
	}

	// What is described is open, to apps that are subscribed, and nothing else.
	for _, c := range []struct {
		method, path string
		body         any
		auth         []string
		status       int
	}{
		{"POST", "/bookshelf/shelves", object{"theme": "sea"}, key.Auth(), http.StatusOK},
		{"POST", "/bookshelf/shelves", object{"subject": "sea"}, key.Auth(), http.StatusBadRequest},
		{"GET", "/bookshelf/shelves/one", nil, key.Auth(), http.StatusBadRequest},
		{"GET", "/bookshelf/shelves?limit=101", nil, key.Auth(), http.StatusBadRequest},
		{"PATCH", "/bookshelf/shelves/1", nil, key.Auth(), http.StatusMethodNotAllowed},
		{"GET", "/bookshelf/admin", nil, key.Auth(), http.StatusNotFound},
		{"GET", "/bookshelf/shelves", nil, nil, http.StatusUnauthorized},
		{"GET", "/bookshelf/shelves", nil, plain.Auth(), http.StatusForbidden},
		{"GET", "/bookshelf/shelves", nil, developer.Auth(), http.StatusUnauthorized}, // a token: the description asks for a key
	} {
		if a := p.Call(t, c.method, c.path, c.body, c.auth...); a.Status != c.status {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, a.Status, c.status, a.Body)
		}
	}
	p.Want(t, http.StatusNotFound, "GET", "/catalog/apps/"+app, nil, other.Auth()...)

	// The plan holds, and its end does.
	apptest.Eventually(t, "the end of what the plan allows", func() bool {
		return p.Call(t, "GET", "/bookshelf/shelves/1", nil, key.Auth()...).Status == http.StatusTooManyRequests
	})
	p.Want(t, http.StatusOK, "POST", "/admin/v1/subscriptions/"+subscription+"/revoke", nil, operator...)
	a := p.Want(t, http.StatusForbidden, "GET", "/bookshelf/shelves/1", nil, key.Auth()...)
	if a.JSON(t)["code"] != "catalog.not_subscribed" {
		t.Errorf("after the end of the subscription: %s", a.Body)
	}

	// Who used it, and who tried.
	apptest.Eventually(t, "the figures", func() bool {
		used := string(p.Want(t, http.StatusOK, "GET", "/admin/v1/analytics?by=product,app", nil, operator...).Body)
		tried := string(p.Want(t, http.StatusOK, "GET", "/admin/v1/analytics/refusals?by=refusal", nil, operator...).Body)
		return strings.Contains(used, app) && strings.Contains(used, "bookshelf") &&
			strings.Contains(tried, "auth.missing") && strings.Contains(tried, "catalog.not_subscribed")
	})
}
