package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/catalog"
)

// What cannot be done about products, plans, apps and subscriptions, and how that is
// said.
func TestCatalogSaysWhatCannotBeDone(t *testing.T) {
	p := start(t, apptest.Options{Gateway: catalogDocument, Set: roomy()})
	admin, ann, ben, viewer := p.Admin(t).Auth(), p.User(t), p.User(t), p.User(t).Auth()
	narrow := p.Key(t, ann, object{"scopes": []string{"profile:read"}}).Auth()
	want := func(status int, method, path string, body any, auth ...string) apptest.Answer {
		t.Helper()
		return p.Want(t, status, method, path, body, auth...)
	}
	large := object{"description": strings.Repeat("x", 2<<20)}
	const product, plan, subscriptions = "/admin/v1/products/people", "/admin/v1/products/people/plans/free", "/admin/v1/subscriptions"

	// Products and plans.
	want(404, "PUT", plan, object{}, admin...)
	want(201, "PUT", product, object{"visible": true, "routes": []string{"people"}}, admin...)
	want(200, "GET", product, nil, admin...)
	want(400, "GET", "/admin/v1/products?limit=x", nil, admin...)
	want(400, "PUT", product, object{"routes": []string{"*"}}, admin...)
	want(413, "PUT", product, large, admin...)
	made := want(201, "PUT", plan, object{}, admin...)
	want(200, "PUT", plan, object{}, append(admin, "If-Match", made.Header.Get("ETag"))...)
	want(412, "PUT", plan, object{}, append(admin, "If-Match", made.Header.Get("ETag"))...)
	people := object{"visible": true, "routes": []string{"people"}}
	want(412, "PUT", product, people, append(admin, "If-None-Match", "*")...)
	mistyped := want(200, "PUT", product, object{"visible": true, "routes": []string{"people", "peple.list"}}, append(admin, "If-Match", "*")...)
	if !strings.Contains(string(mistyped.Body), "routes[1]") || !strings.Contains(string(mistyped.Body), "did you mean people.list?") {
		t.Errorf("a name that opens nothing is accepted in silence: %s", mistyped.Body)
	}
	want(200, "PUT", product, people, append(admin, "If-Match", mistyped.Header.Get("ETag"))...)
	want(400, "PUT", plan, object{"approval": "nobody"}, admin...)
	want(401, "PUT", plan, object{})
	want(403, "PUT", plan, object{}, viewer...)
	want(413, "PUT", plan, large, admin...)
	want(415, "PUT", plan, object{}, append(admin, "Content-Type", "text/plain")...)
	want(400, "DELETE", plan+"?force=perhaps", nil, admin...)
	want(401, "DELETE", plan, nil)
	want(403, "DELETE", plan, nil, viewer...)
	want(404, "DELETE", plan+"er", nil, admin...)
	want(400, "DELETE", product+"?force=perhaps", nil, admin...)
	for i := range catalog.MaxPlans - 1 {
		want(201, "PUT", fmt.Sprint(plan, i), object{}, admin...)
	}
	want(409, "PUT", plan+"-one-more", object{}, admin...)
	want(204, "DELETE", plan+"0", nil, admin...)
	want(400, "GET", "/catalog/products?limit=x", nil, ann.Auth()...)
	want(200, "GET", "/catalog/products/people", nil, ann.Auth()...)
	want(403, "GET", "/catalog/products/people", nil, narrow...)

	// Apps.
	app := want(201, "POST", "/catalog/apps", object{"name": "one"}, ann.Auth()...).Text(t, "id")
	at := "/catalog/apps/" + app
	want(400, "GET", "/catalog/apps?limit=x", nil, ann.Auth()...)
	want(403, "POST", "/catalog/apps", object{"name": "x"}, narrow...)
	want(200, "GET", at, nil, ann.Auth()...)
	want(403, "GET", at, nil, narrow...)
	want(200, "PATCH", at, object{"name": "two"}, ann.Auth()...)
	want(403, "PATCH", at, object{"name": "x"}, narrow...)
	want(404, "PATCH", at, object{"name": "x"}, ben.Auth()...)
	want(403, "DELETE", at, nil, narrow...)
	want(400, "GET", "/admin/v1/apps?limit=x", nil, admin...)
	want(200, "GET", "/admin/v1/apps/"+app, nil, admin...)
	want(200, "POST", "/admin/v1/apps/"+app+"/suspend", nil, admin...)
	want(200, "POST", "/admin/v1/apps/"+app+"/resume", nil, admin...)
	for i := range 19 {
		want(201, "POST", "/catalog/apps", object{"name": fmt.Sprint("more ", i)}, ann.Auth()...)
	}
	want(409, "POST", "/catalog/apps", object{"name": "one too many"}, ann.Auth()...)
	key := p.Key(t, ann, object{"app": app})
	want(403, "GET", "/decisions/x", nil, key.Auth()...)

	// Subscriptions.
	offer := object{"product": "people", "plan": "free"}
	subs := at + "/subscriptions"
	want(403, "POST", subs, offer, narrow...)
	want(404, "POST", subs, object{"product": "none", "plan": "free"}, ann.Auth()...)
	id := want(201, "POST", subs, offer, ann.Auth()...).Text(t, "id")
	want(409, "POST", subs, offer, ann.Auth()...)
	want(200, "GET", subs, nil, ann.Auth()...)
	want(400, "GET", subs+"?limit=x", nil, ann.Auth()...)
	want(403, "GET", subs, nil, narrow...)
	for _, method := range []string{"GET", "DELETE"} {
		want(401, method, subs+"/"+id, nil)
		want(403, method, subs+"/"+id, nil, narrow...)
		want(404, method, subs+"/"+id, nil, ben.Auth()...)
	}
	want(200, "GET", subs+"/"+id, nil, ann.Auth()...)
	want(409, "DELETE", product, nil, admin...)
	want(409, "DELETE", plan, nil, admin...)
	want(400, "GET", subscriptions+"?limit=x", nil, admin...)
	want(200, "GET", subscriptions+"/"+id, nil, admin...)
	assigned := object{"app": app, "product": "people", "plan": "free"}
	want(409, "POST", subscriptions, assigned, admin...)
	want(400, "POST", subscriptions, object{"nonsense": 1}, admin...)
	want(413, "POST", subscriptions, large, admin...)
	for _, verb := range []string{"approve", "reject", "resume"} {
		want(409, "POST", subscriptions+"/"+id+"/"+verb, nil, admin...)
	}
	want(200, "DELETE", subs+"/"+id, nil, ann.Auth()...)
	want(409, "DELETE", subs+"/"+id, nil, ann.Auth()...)
	want(409, "POST", subscriptions+"/"+id+"/suspend", nil, admin...)
	want(201, "POST", subscriptions, assigned, admin...)
	want(200, "POST", subscriptions+"/"+id+"/revoke", nil, admin...)
	want(409, "POST", subscriptions+"/"+id+"/revoke", nil, admin...)
	want(201, "POST", subs, offer, ann.Auth()...) // waits, after what has happened
	want(200, "POST", subscriptions+"/"+id+"/approve", nil, admin...)

	_, err := apptest.Connect(t, p.DatabaseURL).Exec(t.Context(), `INSERT INTO products (id, name, title, description, visible, apps_only, routes, created_at, updated_at)
		SELECT gen_random_uuid(), 'p' || n, '', '', false, false, '{x}', now(), now() FROM generate_series(1, $1) n`, catalog.MaxProducts)
	if err != nil {
		t.Fatal(err)
	}
	want(409, "PUT", product+"-more", object{"routes": []string{"x"}}, admin...)

	// One user cannot keep every replica busy.
	apptest.Eventually(t, "the end of what one user may change", func() bool {
		return p.Call(t, "POST", "/catalog/apps", object{"nonsense": 1}, ben.Auth()...).Status == http.StatusTooManyRequests
	})
	for _, c := range []struct {
		method, path string
		body         any
	}{{"PATCH", at, object{"name": "x"}}, {"DELETE", at, nil}, {"POST", subs, offer}, {"DELETE", subs + "/" + id, nil}} {
		apptest.Eventually(t, "the same of "+c.method+" "+c.path, func() bool {
			return p.Call(t, c.method, c.path, c.body, ben.Auth()...).Status == http.StatusTooManyRequests
		})
	}
}
