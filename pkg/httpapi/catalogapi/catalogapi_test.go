package catalogapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/catalogapi"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// callers are known by their bearer.
type callers map[string]*access.Principal

// Authenticate implements httpapi.Authenticator.
func (c callers) Authenticate(r *http.Request, _ access.Methods) (*access.Principal, error) {
	if p := c[r.Header.Get("Authorization")]; p != nil {
		return p, nil
	}
	return nil, access.ErrMissing
}

// world is the API over a database. ann and ben are developers.
type world struct {
	t       *testing.T
	handler http.Handler
	callers callers
	routes  []string // of the gateway document; nil before there is one
	tag     string   // ETag of the last answer
}

const appsPerUser = 3

// newWorld makes a world in which a user can change changes things at once.
func newWorld(t *testing.T, changesAtOnce int) *world {
	t.Helper()
	ctx := t.Context()
	store, err := postgres.Open(ctx, postgres.Options{
		URL: seal.NewSecret(pgtest.New(t)), MaxConnections: 8, ConnectTimeout: time.Minute, QueryTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.LoadChain(ctx, ring); err != nil {
		t.Fatal(err)
	}
	roles, err := access.NewRoles(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, callers: callers{}}
	for name, role := range map[string]access.Role{
		"ann": access.RoleUser, "ben": access.RoleUser, "viewer": access.RoleViewer, "operator": access.RoleOperator, "admin": access.RoleAdmin,
	} {
		u := account.User{ID: uuid.Must(uuid.NewV7()).String(), Email: name + "@example.com", Role: role, CreatedAt: time.Now().UTC(), UpdatedAt: time.Now().UTC()}
		if err := store.InsertUser(ctx, u, "hash", changes.Change{Audit: audit.New(ctx, audit.UserRegistered, "user", u.ID)}); err != nil {
			t.Fatal(err)
		}
		w.callers[name] = &access.Principal{Kind: access.KindUser, UserID: u.ID, Role: role, Scopes: roles.Scopes(role)}
	}
	w.callers["key"] = &access.Principal{Kind: access.KindKey, UserID: w.callers["ann"].UserID, KeyID: "k"}
	denials, err := throttle.New(100, time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := throttle.New(changesAtOnce, time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	guard := &httpapi.Guard{
		Auth: w.callers, Denials: denials, Logger: slog.New(slog.DiscardHandler),
		Record: func(context.Context, audit.Entry) error { return nil },
	}
	service := catalog.NewService(catalog.Options{Store: store, Notify: func(changes.Event) {}, AppsPerUser: appsPerUser, Now: time.Now})
	cursors := httpapi.NewCursors([]byte("key"))
	engine := httpapi.NewEngine(1<<20, gin.HandlerFunc(httpapi.Nothing))
	(&catalogapi.Handler{Catalog: service, Guard: guard, Cursors: cursors, Changes: slow}).Mount(engine)
	(&catalogapi.Admin{Catalog: service, Guard: guard, Cursors: cursors, Routes: func() ([]string, bool) { return w.routes, w.routes != nil }}).Mount(engine)
	w.handler = engine
	return w
}

type object = map[string]any

// call makes a call as somebody, with pairs of header fields, and wants a status.
func (w *world) call(status int, as, method, path string, body any, header ...string) object {
	w.t.Helper()
	text := ""
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		text = string(b)
	}
	r := httptest.NewRequestWithContext(w.t.Context(), method, path, strings.NewReader(text))
	if as != "" {
		r.Header.Set("Authorization", as)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	if rec.Code != status {
		w.t.Fatalf("%s %s %s: %d %s, want %d", as, method, path, rec.Code, rec.Body, status)
	}
	w.tag = rec.Header().Get("ETag")
	out := object{}
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
			w.t.Fatalf("%s: %v", rec.Body, err)
		}
	}
	return out
}

// without is an object without what differs from run to run.
func without(o object, names ...string) object {
	out := object{}
	for name, v := range o {
		out[name] = v
	}
	for _, name := range append(names, "created_at", "updated_at") {
		delete(out, name)
	}
	return out
}

func (w *world) product(name string, visible bool) {
	w.t.Helper()
	w.call(201, "operator", "PUT", "/admin/v1/products/"+name, object{"visible": visible, "routes": []string{"people"}})
	w.call(201, "operator", "PUT", "/admin/v1/products/"+name+"/plans/free", object{})
	w.call(201, "operator", "PUT", "/admin/v1/products/"+name+"/plans/gold", object{"approval": "operator"})
}

func TestDevelopersSubscribeAndOperatorsDecide(t *testing.T) {
	w := newWorld(t, 100)
	made := w.call(201, "operator", "PUT", "/admin/v1/products/people", object{"visible": true, "title": "People", "routes": []string{"people", "birds.list", "people"}})
	if diff := cmp.Diff(object{
		"name": "people", "title": "People", "description": "", "visible": true, "apps_only": false, "routes": []any{"birds.list", "people"},
	}, without(made, "id")); diff != "" {
		t.Error(diff)
	}
	w.call(200, "operator", "PUT", "/admin/v1/products/people", object{"visible": true, "routes": []string{"people"}})
	plan := object{"price": "10 EUR", "approval": "operator", "rate": object{"requests": 5, "window": "1m"},
		"quota": object{"units": 100, "period": "month", "time_zone": "Europe/Berlin", "rolling": true}}
	want := object{"name": "gold", "price": "10 EUR", "approval": "operator", "rate": object{"requests": 5.0, "window": "1m0s", "burst": 5.0},
		"quota": object{"units": 100.0, "period": "month", "time_zone": "Europe/Berlin", "rolling": true}}
	if diff := cmp.Diff(want, without(w.call(201, "operator", "PUT", "/admin/v1/products/people/plans/gold", plan))); diff != "" {
		t.Error(diff)
	}
	w.call(201, "operator", "PUT", "/admin/v1/products/people/plans/free", object{})
	shown := w.call(200, "ann", "GET", "/catalog/products/people", nil)
	plans := shown["plans"].([]any)
	if len(plans) != 2 || shown["id"] != nil || shown["visible"] != nil {
		t.Errorf("a developer sees %v", shown)
	}
	if diff := cmp.Diff(want, without(plans[1].(object))); diff != "" {
		t.Error(diff)
	}

	app := w.call(201, "ann", "POST", "/catalog/apps", object{"name": " address book "})
	id := app["id"].(string)
	if app["name"] != "address book" || app["user_id"] != w.callers["ann"].UserID {
		t.Errorf("%v", app)
	}
	w.call(200, "ann", "PATCH", "/catalog/apps/"+id, object{"description": "new"})
	if got := w.call(200, "ann", "GET", "/catalog/apps/"+id, nil); got["description"] != "new" || got["name"] != "address book" {
		t.Errorf("%v", got)
	}
	sub := w.call(201, "ann", "POST", "/catalog/apps/"+id+"/subscriptions", object{"product": "people", "plan": "gold"})
	own, all := "/catalog/apps/"+id+"/subscriptions/"+sub["id"].(string), "/admin/v1/subscriptions/"+sub["id"].(string)
	if sub["state"] != "pending" || sub["plan"] != "gold" || sub["app"] != id {
		t.Errorf("%v", sub)
	}
	w.call(409, "ann", "POST", "/catalog/apps/"+id+"/subscriptions", object{"product": "people", "plan": "free"})
	for _, step := range []struct {
		verb   string
		status int
		state  string
	}{
		{"suspend", 409, "pending"}, {"resume", 409, "pending"}, {"revoke", 409, "pending"}, {"approve", 200, "active"}, {"approve", 409, "active"},
		{"reject", 409, "active"}, {"suspend", 200, "suspended"}, {"resume", 200, "active"}, {"revoke", 200, "revoked"}, {"approve", 409, "revoked"},
	} {
		w.call(step.status, "operator", "POST", all+"/"+step.verb, nil)
		if got := w.call(200, "ann", "GET", own, nil); got["state"] != step.state {
			t.Errorf("%s: %v", step.verb, got)
		}
	}
	again := w.call(201, "ann", "POST", "/catalog/apps/"+id+"/subscriptions", object{"product": "people", "plan": "free"})
	if again["id"] != sub["id"] || again["state"] != "pending" {
		t.Errorf("what was revoked begins again by itself: %v", again)
	}
	w.call(200, "operator", "POST", all+"/reject", nil)
	w.call(201, "operator", "POST", "/admin/v1/subscriptions", object{"app": id, "product": "people", "plan": "free"})
	w.call(409, "operator", "POST", "/admin/v1/subscriptions", object{"app": id, "product": "people", "plan": "free"})
	w.call(409, "operator", "DELETE", "/admin/v1/products/people/plans/free", nil)
	w.call(409, "operator", "DELETE", "/admin/v1/products/people", nil)
	w.call(204, "operator", "DELETE", "/admin/v1/products/people/plans/gold", nil)
	w.call(200, "ann", "DELETE", own, nil)
	w.call(409, "ann", "DELETE", own, nil)
	if got := w.call(200, "operator", "POST", "/admin/v1/apps/"+id+"/suspend", nil); got["suspended_at"] == nil {
		t.Errorf("%v", got)
	}
	w.call(409, "ann", "POST", "/catalog/apps/"+id+"/subscriptions", object{"product": "people", "plan": "free"})
	if got := w.call(200, "operator", "POST", "/admin/v1/apps/"+id+"/resume", nil); got["suspended_at"] != nil {
		t.Errorf("%v", got)
	}
	w.call(204, "ann", "DELETE", "/catalog/apps/"+id, nil)
	w.call(404, "ann", "GET", "/catalog/apps/"+id, nil)
	w.call(404, "ann", "GET", own, nil)
	w.call(204, "operator", "DELETE", "/admin/v1/products/people?force=true", nil)
	w.call(404, "operator", "GET", "/admin/v1/products/people", nil)
}

// Everything below an app is walked as somebody else, and does not exist for them.
func TestNobodyReachesAnothersApp(t *testing.T) {
	w := newWorld(t, 100)
	w.product("people", true)
	app := w.call(201, "ann", "POST", "/catalog/apps", object{"name": "a"})["id"].(string)
	sub := w.call(201, "ann", "POST", "/catalog/apps/"+app+"/subscriptions", object{"product": "people", "plan": "free"})["id"].(string)
	bens := w.call(201, "ben", "POST", "/catalog/apps", object{"name": "b"})["id"].(string)
	for _, other := range []string{"ben", "viewer", "operator", "admin"} {
		for _, c := range []struct {
			method, path string
			body         any
		}{
			{"GET", "/catalog/apps/" + app, nil},
			{"PATCH", "/catalog/apps/" + app, object{"name": "mine"}},
			{"DELETE", "/catalog/apps/" + app, nil},
			{"GET", "/catalog/apps/" + app + "/subscriptions", nil},
			{"POST", "/catalog/apps/" + app + "/subscriptions", object{"product": "people", "plan": "gold"}},
			{"GET", "/catalog/apps/" + app + "/subscriptions/" + sub, nil},
			{"DELETE", "/catalog/apps/" + app + "/subscriptions/" + sub, nil},
		} {
			w.call(404, other, c.method, c.path, c.body)
		}
		if list := w.call(200, other, "GET", "/catalog/apps", nil)["items"].([]any); len(list) > 1 || len(list) == 1 && list[0].(object)["id"] == app {
			t.Errorf("%s sees %v", other, list)
		}
	}
	w.call(404, "ben", "GET", "/catalog/apps/"+bens+"/subscriptions/"+sub, nil)
	w.call(404, "ben", "DELETE", "/catalog/apps/"+bens+"/subscriptions/"+sub, nil)
	if got := w.call(200, "ann", "GET", "/catalog/apps/"+app+"/subscriptions/"+sub, nil); got["state"] != "active" {
		t.Errorf("%v", got)
	}
}

func TestHiddenProductsAreForOperators(t *testing.T) {
	w := newWorld(t, 100)
	w.product("hidden", false)
	app := w.call(201, "ann", "POST", "/catalog/apps", object{"name": "a"})["id"].(string)
	w.call(404, "ann", "GET", "/catalog/products/hidden", nil)
	w.call(404, "admin", "GET", "/catalog/products/hidden", nil)
	w.call(404, "ann", "POST", "/catalog/apps/"+app+"/subscriptions", object{"product": "hidden", "plan": "free"})
	if list := w.call(200, "ann", "GET", "/catalog/products", nil)["items"].([]any); len(list) != 0 {
		t.Errorf("%v", list)
	}
	if list := w.call(200, "viewer", "GET", "/admin/v1/products", nil)["items"].([]any); len(list) != 1 {
		t.Errorf("%v", list)
	}
	if got := w.call(201, "operator", "POST", "/admin/v1/subscriptions", object{"app": app, "product": "hidden", "plan": "gold"}); got["state"] != "active" {
		t.Errorf("%v", got)
	}
}

func TestCatalogNeedsItsScopes(t *testing.T) {
	w := newWorld(t, 100)
	const none = "01890a5d-ac96-774b-bcce-b302099a8057"
	for _, c := range []struct {
		method, path string
		admin        bool
	}{
		{"GET", "/catalog/products", false}, {"GET", "/catalog/products/x", false}, {"POST", "/catalog/apps", false}, {"GET", "/catalog/apps", false}, {"GET", "/catalog/apps/" + none, false},
		{"PATCH", "/catalog/apps/" + none, false}, {"DELETE", "/catalog/apps/" + none, false}, {"GET", "/catalog/apps/" + none + "/subscriptions", false},
		{"POST", "/catalog/apps/" + none + "/subscriptions", false}, {"GET", "/catalog/apps/" + none + "/subscriptions/" + none, false},
		{"DELETE", "/catalog/apps/" + none + "/subscriptions/" + none, false},
		{"GET", "/admin/v1/products", true}, {"GET", "/admin/v1/products/x", true}, {"PUT", "/admin/v1/products/x", true},
		{"DELETE", "/admin/v1/products/x", true}, {"PUT", "/admin/v1/products/x/plans/y", true}, {"DELETE", "/admin/v1/products/x/plans/y", true},
		{"GET", "/admin/v1/apps", true}, {"GET", "/admin/v1/apps/" + none, true}, {"POST", "/admin/v1/apps/" + none + "/suspend", true},
		{"POST", "/admin/v1/apps/" + none + "/resume", true}, {"GET", "/admin/v1/subscriptions", true}, {"POST", "/admin/v1/subscriptions", true},
		{"GET", "/admin/v1/subscriptions/" + none, true}, {"POST", "/admin/v1/subscriptions/" + none + "/approve", true},
		{"POST", "/admin/v1/subscriptions/" + none + "/reject", true}, {"POST", "/admin/v1/subscriptions/" + none + "/suspend", true},
		{"POST", "/admin/v1/subscriptions/" + none + "/resume", true}, {"POST", "/admin/v1/subscriptions/" + none + "/revoke", true},
	} {
		w.call(401, "", c.method, c.path, nil)
		w.call(403, "key", c.method, c.path, nil)
		if c.admin {
			w.call(403, "ann", c.method, c.path, nil)
		}
		if c.admin && c.method != "GET" {
			w.call(403, "viewer", c.method, c.path, nil)
		}
		if strings.Contains(c.path, none) && c.method != "PATCH" && (c.method != "POST" || !strings.HasSuffix(c.path, "subscriptions")) {
			w.call(404, "admin", c.method, c.path, nil)
		}
	}
}

func TestInputIsChecked(t *testing.T) {
	w := newWorld(t, 100)
	w.product("people", true)
	app := w.call(201, "ann", "POST", "/catalog/apps", object{"name": "a"})["id"].(string)
	long := strings.Repeat("x", 5000)
	var many []string
	for i := range 201 {
		many = append(many, fmt.Sprint("r", i))
	}
	for _, c := range []struct {
		as, method, path string
		body             any
		field            string
	}{
		{"operator", "PUT", "/admin/v1/products/People", object{"routes": []string{"r"}}, "name"},
		{"operator", "PUT", "/admin/v1/products/-x", object{"routes": []string{"r"}}, "name"},
		{"operator", "PUT", "/admin/v1/products/" + strings.Repeat("x", 65), object{"routes": []string{"r"}}, "name"},
		{"operator", "PUT", "/admin/v1/products/x", object{}, "routes"},
		{"operator", "PUT", "/admin/v1/products/x", object{"routes": []string{"people", "people.*"}}, "routes[1]"},
		{"operator", "PUT", "/admin/v1/products/x", object{"routes": []string{"*"}}, "routes[0]"},
		{"operator", "PUT", "/admin/v1/products/x", object{"routes": []string{""}}, "routes[0]"},
		{"operator", "PUT", "/admin/v1/products/x", object{"routes": many}, "routes"},
		{"operator", "PUT", "/admin/v1/products/x", object{"routes": []string{"r"}, "title": "a\u0000b"}, "title"},
		{"operator", "PUT", "/admin/v1/products/x", object{"routes": []string{"r"}, "description": long}, "description"},
		{"operator", "PUT", "/admin/v1/products/x", object{"routes": []string{"r"}, "wildcard": true}, "wildcard"},
		{"operator", "PUT", "/admin/v1/products/people/plans/A", object{}, "name"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"approval": "me"}, "approval"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"price": long}, "price"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"rate": object{"requests": 0, "window": "1m"}}, "rate.requests"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"rate": object{"requests": 1}}, "rate.window"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"rate": object{"requests": 1, "window": "48h"}}, "rate"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"rate": object{"requests": 1, "window": "1m", "burst": -1}}, "rate"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"quota": object{"units": 0, "period": "day"}}, "quota.units"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"quota": object{"units": 1, "period": "year"}}, "quota"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"quota": object{"units": 1, "period": "day", "time_zone": "Local"}}, "quota"},
		{"operator", "PUT", "/admin/v1/products/people/plans/a", object{"quota": object{"units": int64(1e13), "period": "day"}}, "quota"},
		{"operator", "DELETE", "/admin/v1/products/people?force=yes", nil, "force"},
		{"operator", "DELETE", "/admin/v1/products/people?x=1", nil, "force"},
		{"operator", "DELETE", "/admin/v1/products/people/plans/free?force=true&force=true", nil, "force"},
		{"operator", "GET", "/admin/v1/products?limit=x", nil, "limit"},
		{"operator", "GET", "/admin/v1/apps?limit=0", nil, "limit"},
		{"operator", "GET", "/admin/v1/subscriptions?state=open", nil, "state"},
		{"operator", "GET", "/admin/v1/subscriptions?cursor=x", nil, "cursor"},
		{"operator", "POST", "/admin/v1/subscriptions", object{"app": app, "who": "x"}, "who"},
		{"ann", "GET", "/catalog/products?visible=false", nil, "visible"},
		{"ann", "GET", "/catalog/apps?user_id=" + app, nil, "user_id"},
		{"ann", "GET", "/catalog/apps/" + app + "/subscriptions?limit=201", nil, "limit"},
		{"ann", "POST", "/catalog/apps", object{"name": " "}, "name"},
		{"ann", "POST", "/catalog/apps", object{"name": "x", "user_id": "x"}, "user_id"},
		{"ann", "PATCH", "/catalog/apps/" + app, object{"name": long}, "name"},
		{"ann", "POST", "/catalog/apps/" + app + "/subscriptions", object{"product": 1}, "product"},
	} {
		got := w.call(400, c.as, c.method, c.path, c.body)
		fields := got["errors"].([]any)
		if fields[0].(object)["field"] != c.field {
			t.Errorf("%s %s %v: %v, want %s", c.method, c.path, c.body, fields, c.field)
		}
	}
	w.call(404, "ann", "POST", "/catalog/apps/"+app+"/subscriptions", object{"product": "people", "plan": "none"})
	w.call(404, "operator", "PUT", "/admin/v1/products/none/plans/a", object{})
	w.call(404, "operator", "DELETE", "/admin/v1/products/people/plans/none", nil)
	w.call(415, "ann", "POST", "/catalog/apps", nil)
	w.call(415, "ann", "PATCH", "/catalog/apps/"+app, nil)
	w.call(415, "ann", "POST", "/catalog/apps/"+app+"/subscriptions", nil)
	for range appsPerUser - 1 {
		w.call(201, "ann", "POST", "/catalog/apps", object{"name": "a"})
	}
	w.call(409, "ann", "POST", "/catalog/apps", object{"name": "a"})
}

func TestListsArePaged(t *testing.T) {
	w := newWorld(t, 100)
	for i := range 3 {
		w.product(fmt.Sprint("p-", i), true)
	}
	app := w.call(201, "ann", "POST", "/catalog/apps", object{"name": "a"})["id"].(string)
	for i := range 2 {
		w.call(201, "ann", "POST", "/catalog/apps", object{"name": fmt.Sprint(i)})
	}
	for i := range 3 {
		w.call(201, "ann", "POST", "/catalog/apps/"+app+"/subscriptions", object{"product": fmt.Sprint("p-", i), "plan": "free"})
	}
	for path, as := range map[string]string{
		"/catalog/products": "ann", "/catalog/apps": "ann", "/catalog/apps/" + app + "/subscriptions": "ann",
		"/admin/v1/products": "viewer", "/admin/v1/apps": "viewer", "/admin/v1/subscriptions": "viewer",
	} {
		seen := map[string]bool{}
		query := "?limit=1"
		for range 3 {
			page := w.call(200, as, "GET", path+query, nil)
			for _, item := range page["items"].([]any) {
				o := item.(object)
				seen[fmt.Sprint(o["id"], o["name"])] = true
			}
			cursor, _ := page["next_cursor"].(string)
			if cursor == "" {
				break
			}
			query = "?limit=1&cursor=" + cursor
		}
		if len(seen) != 3 {
			t.Errorf("%s: %v", path, seen)
		}
	}
	if list := w.call(200, "viewer", "GET", "/admin/v1/subscriptions?product=p-1&state=active&app="+app, nil)["items"].([]any); len(list) != 1 {
		t.Errorf("%v", list)
	}
	if list := w.call(200, "viewer", "GET", "/admin/v1/apps?user_id="+w.callers["ben"].UserID, nil)["items"].([]any); len(list) != 0 {
		t.Errorf("%v", list)
	}
}

func TestChangesOfOneUserAreBounded(t *testing.T) {
	w := newWorld(t, 2)
	app := w.call(201, "ann", "POST", "/catalog/apps", object{"name": "a"})["id"].(string)
	w.call(200, "ann", "PATCH", "/catalog/apps/"+app, object{"name": "b"})
	for _, c := range []struct{ method, path string }{
		{"POST", "/catalog/apps"}, {"PATCH", "/catalog/apps/" + app}, {"DELETE", "/catalog/apps/" + app}, {"POST", "/catalog/apps/" + app + "/subscriptions"},
		{"DELETE", "/catalog/apps/" + app + "/subscriptions/x"},
	} {
		if got := w.call(429, "ann", c.method, c.path, nil); got["code"] != "catalog.too_many_changes" {
			t.Errorf("%v", got)
		}
	}
	w.call(200, "ann", "GET", "/catalog/apps/"+app, nil)
	w.call(201, "ben", "POST", "/catalog/apps", object{"name": "a"})
}

// A change that is based on what there is not any more is refused, and not made.
func TestChangesOfProductsAndPlansCanBeConditional(t *testing.T) {
	for _, path := range []string{"/admin/v1/products/people", "/admin/v1/products/people/plans/free"} {
		w := newWorld(t, 100)
		body := object{}
		if strings.Contains(path, "/plans/") {
			w.call(201, "operator", "PUT", "/admin/v1/products/people", object{"routes": []string{"people"}})
		} else {
			body["routes"] = []string{"people"}
		}
		put := func(status int, header ...string) object {
			t.Helper()
			return w.call(status, "operator", "PUT", path, body, header...)
		}
		put(412, "If-Match", "*")
		put(412, "If-Match", `"2030-01-01T00:00:00Z"`)
		first := put(201, "If-None-Match", "*")
		tag := w.tag
		if want := `"` + first["updated_at"].(string) + `"`; tag != want {
			t.Errorf("%s: the tag is %s, and the time in it %s", path, tag, want)
		}
		if refused := put(412, "If-None-Match", "*"); refused["code"] != "catalog.changed" {
			t.Errorf("%v", refused)
		}
		put(200, "If-Match", tag)
		second := w.tag
		if put(412, "If-Match", tag); second == tag {
			t.Errorf("%s: %s does not change", path, tag)
		}
		put(412, "If-Match", "W/"+second)
		for _, wrong := range [][]string{
			{"If-Match", strings.Trim(second, `"`)}, {"If-Match", second + ", " + tag}, {"If-Match", `""`}, {"If-Match", `"*"`}, {"If-Match", ""},
			{"If-None-Match", second}, {"If-Match", second, "If-None-Match", "*"}, {"If-Match", second, "If-Match", second},
		} {
			put(400, wrong...)
		}
		put(200, "If-Match", second)
		put(200, "If-Match", "*")
		put(200)
	}
	w := newWorld(t, 100)
	w.product("people", true)
	w.call(200, "viewer", "GET", "/admin/v1/products/people", nil)
	w.call(200, "operator", "PUT", "/admin/v1/products/people", object{"routes": []string{"people"}}, "If-Match", w.tag)
	w.call(200, "ann", "GET", "/catalog/products", nil)
	if w.tag != "" {
		t.Errorf("a list has the tag %s", w.tag)
	}
}

// What a product opens may come later, but a mistyped name is not accepted in silence.
func TestNamesThatOpenNothingAreWarnedOf(t *testing.T) {
	w := newWorld(t, 100)
	in := object{"visible": true, "routes": []string{"peple", "people", "people.list", "shop", "shop.admin.lst"}}
	if out := w.call(201, "operator", "PUT", "/admin/v1/products/people", in); out["warnings"] != nil {
		t.Errorf("before there is a document: %v", out)
	}
	w.routes = []string{"people.list", "shop.admin.list", "open"}
	want := []any{ // by the sorted names
		object{"field": "routes[2]", "detail": "the gateway document in force has no route or API of this name, did you mean people?"},
		object{"field": "routes[4]", "detail": "the gateway document in force has no route or API of this name, did you mean shop.admin.list?"},
	}
	for what, out := range map[string]object{
		"changed": w.call(200, "operator", "PUT", "/admin/v1/products/people", in),
		"shown":   w.call(200, "operator", "GET", "/admin/v1/products/people", nil),
		"listed":  w.call(200, "operator", "GET", "/admin/v1/products", nil)["items"].([]any)[0].(object),
	} {
		if diff := cmp.Diff(want, out["warnings"]); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	if out := w.call(200, "ann", "GET", "/catalog/products/people", nil); out["warnings"] != nil {
		t.Errorf("a developer sees %v", out)
	}
	w.routes = []string{} // a document without routes
	if out := w.call(200, "operator", "GET", "/admin/v1/products/people", nil); len(out["warnings"].([]any)) != 5 {
		t.Errorf("%v", out)
	}
}
