package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// adminCalls are the documented operations of the admin API.
func adminCalls(t *testing.T) []call {
	t.Helper()
	calls := slices.DeleteFunc(documentedAPI(t).calls(), func(c call) bool { return !strings.HasPrefix(c.path, "/admin/v1/") })
	if len(calls) < 18 {
		t.Fatalf("only %d operations of the admin API are documented", len(calls))
	}
	return calls
}

// scopeOf is what a call of the admin API needs.
func scopeOf(c call) string {
	read, write := access.ScopeConfigRead, access.ScopeConfigWrite
	switch resource := strings.Split(c.path, "/")[3]; {
	case strings.HasPrefix(resource, "alert"):
		read, write = access.ScopeAlertsRead, access.ScopeAlertsWrite
	case resource == "products" || resource == "apps" || resource == "subscriptions":
		read, write = access.ScopeCatalogRead, access.ScopeCatalogWrite
	case resource == "posture":
		return access.ScopeKeysAdmin
	}
	if c.method == http.MethodGet || c.path == "/admin/v1/explain" {
		return read
	}
	return write
}

// Who holds too little is refused, whatever the call says, and it is audited.
func TestAdminAPIAsksForItsScopes(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	key := func(u *apptest.User, scopes ...string) []string { return p.Key(t, u, object{"scopes": scopes}).Auth() }
	reading := []string{"config:read", "alerts:read", "catalog:read"}
	writing := []string{"config:write", "alerts:write", "catalog:write"}
	both := slices.Concat(reading, writing)
	callers := map[string]struct {
		auth  []string
		holds []string
	}{
		"an admin":                         {p.admin.Auth(), append(both, "keys:admin")},
		"an operator":                      {p.operator.Auth(), both},
		"a viewer":                         {p.viewer.Auth(), reading},
		"a user":                           {p.user.Auth(), nil},
		"an admin's key without scopes":    {key(p.admin), nil},
		"an admin's key for other things":  {key(p.admin, "users:write", "keys:admin", "audit:read"), []string{"keys:admin"}},
		"an operator's key for reading":    {key(p.operator, reading...), reading},
		"an operator's key for writing":    {key(p.operator, writing...), writing},
		"an operator's key for everything": {key(p.operator, both...), both},
		"an operator's key for alerts":     {key(p.operator, "alerts:read", "alerts:write"), []string{"alerts:read", "alerts:write"}},
		"a viewer's key for reading":       {key(p.viewer, "config:read"), []string{"config:read"}},
	}
	for who, caller := range callers {
		for _, c := range adminCalls(t) {
			// Nothing of this would be carried out: there is no condition, or no such object.
			a := p.Call(t, c.method, c.at("nothing-of-this-name"), nil, caller.auth...)
			scope := scopeOf(c)
			may := slices.Contains(caller.holds, scope)
			switch {
			case may && (a.Status == http.StatusForbidden || a.Status == http.StatusUnauthorized):
				t.Errorf("%s: %s %s: %d %s", who, c.method, c.path, a.Status, a.Body)
			case !may:
				wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
				if want := `Bearer error="insufficient_scope", scope="` + scope + `"`; a.Header.Get("WWW-Authenticate") != want {
					t.Errorf("%s: %s %s: WWW-Authenticate %q, want %q", who, c.method, c.path, a.Header.Get("WWW-Authenticate"), want)
				}
			}
		}
	}
	if got := p.tag(t); got != tag {
		t.Error("somebody changed the document")
	}
	denied := auditTrail(t, p.Program, p.admin, "&action=access.denied&actor_id="+p.viewer.ID)
	if len(denied) == 0 || !slices.ContainsFunc(denied, func(r object) bool { return strings.HasPrefix(fmt.Sprint(r["target_id"]), "PUT /admin/v1/") }) {
		t.Errorf("the refusals of the viewer left %v", denied)
	}
}

// Nobody gives a key more than they hold, and what they lose their keys lose too.
func TestConfigScopesFollowTheirOwner(t *testing.T) {
	p := startAdministered(t, nil)
	p.first(t)
	for _, u := range []*apptest.User{p.user, p.viewer} {
		a := p.Call(t, "POST", "/api-keys", object{"name": "k", "scopes": []string{"config:write"}}, u.Auth()...)
		if a.Status/100 != 4 {
			t.Errorf("a key with a scope that its owner lacks: %d %s", a.Status, a.Body)
		}
	}
	minting := p.Key(t, p.operator, object{"scopes": []string{"keys:write"}})
	a := p.Call(t, "POST", "/api-keys", object{"name": "k", "scopes": []string{"config:write"}}, minting.Auth()...)
	wantProblem(t, a, http.StatusForbidden, "access.scope_missing")

	key := p.Key(t, p.operator, object{"scopes": []string{"config:read"}})
	p.Want(t, http.StatusOK, "GET", configPath, nil, key.Auth()...)
	p.Want(t, http.StatusOK, "PATCH", "/users/"+p.operator.ID, object{"role": "user"}, p.admin.Auth()...)
	for _, auth := range [][]string{key.Auth(), p.operator.Auth()} {
		wantProblem(t, p.Call(t, "GET", configPath, nil, auth...), http.StatusForbidden, "access.scope_missing")
	}
	// Who runs the gateway does not manage people, nor themselves.
	for _, u := range []*apptest.User{p.viewer, p.as(t, access.RoleOperator)} {
		for _, c := range []struct {
			method, path string
			body         any
		}{
			{"GET", "/users", nil}, {"GET", "/audit", nil}, {"PATCH", "/users/" + u.ID, object{"role": "admin"}}, {"DELETE", "/users/" + p.user.ID, nil},
		} {
			wantProblem(t, p.Call(t, c.method, c.path, c.body, u.Auth()...), http.StatusForbidden, "access.scope_missing")
		}
		a := p.Call(t, "POST", "/api-keys", object{"name": "k", "scopes": []string{"users:write"}}, u.Auth()...)
		if a.Status/100 != 4 {
			t.Errorf("a key for users of somebody who may not: %d %s", a.Status, a.Body)
		}
	}
}

// However its path and method are spelled, the admin API asks for a credential, or
// is not there. (ADM-01)
func TestAdminAPIIsClosedInEverySpelling(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", "yes")
		_, _ = fmt.Fprintf(w, "backend %s %s%s", r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("X-Api-Key"))
	}))
	t.Cleanup(backend.Close)
	p := startAdministered(t, nil)
	// A route for every path does not stand before the platform's own.
	p.Want(t, http.StatusOK, "PUT", configPath, object{
		"version": 1, "services": []object{{"name": "all", "url": backend.URL}},
		"routes": []object{{"name": "all", "service": "all", "auth": object{"mode": "none"}}},
	}, p.operator.With("If-None-Match", "*")...)
	apptest.Eventually(t, "the route is served", func() bool { return p.Call(t, "GET", "/x", nil).Status == http.StatusOK })

	for _, c := range adminCalls(t) {
		for _, extra := range [][]string{nil, {"X-HTTP-Method-Override", "GET"}, {"X-Original-URL", "/healthz"}, {"X-Forwarded-For", "127.0.0.1"}, {"X-Consumer-Role", "admin"}} {
			wantProblem(t, p.Call(t, c.method, c.at("a"), nil, extra...), http.StatusUnauthorized, "auth.missing")
		}
	}
	for _, target := range []string{
		"/admin/v1/config", "/admin/v1/%63onfig", "/%61dmin/v1/config", "/admin/v1/config?x=/healthz", "/admin/v1/config#/healthz",
		"/admin/v1/config/", "/admin/v1//config", "//admin/v1/config", "/admin/v1/./config", "/healthz/../admin/v1/config", "/healthz/%2e%2e/admin/v1/config",
		"/admin%2fv1%2fconfig", "/admin/v1/config%00", "/admin/v1/config;/healthz", "/admin/v1/config%20", "/ADMIN/V1/CONFIG", `/admin\v1\config`,
		"/admin/v1/config.json", "/admin/v1/config%2f..%2fstate", "http://" + p.Addr + "/admin/v1/config", "*",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "OPTIONS", "get", "PROPFIND"} {
			a := ask(t, p.Addr, rawRequest(method+" "+target+" HTTP/1.1", "Content-Length: 0"))
			if a.Status/100 == 2 && a.Header.Get("X-Backend") == "" {
				t.Errorf("%s %s: %d %s", method, target, a.Status, a.Body)
			}
			if strings.Contains(a.Body, `"routes"`) || a.Header.Get("ETag") != "" {
				t.Errorf("%s %s shows the document: %s", method, target, a.Body)
			}
		}
	}
	// What is not the admin API's goes to the route, without the credential.
	a := p.Call(t, "GET", "/admin/v1/confi", nil, p.admin.Auth()...)
	if string(a.Body) != "backend /admin/v1/confi " {
		t.Errorf("a mistyped path: %d %s", a.Status, a.Body)
	}
}

// A route to the platform itself gets to the admin API without the caller's
// credential, and with none of its own. (ADM-01)
func TestAdminAPIIsNotReachedThroughRoutes(t *testing.T) {
	p := startAdministered(t, nil)
	loop := func(name string, auth object) object {
		return object{"name": name, "service": "self", "match": object{"path": object{"prefix": "/" + name}}, "strip_prefix": "/" + name, "auth": auth}
	}
	tag := p.Want(t, http.StatusOK, "PUT", configPath, object{
		"version": 1, "services": []object{{"name": "self", "url": p.URL}},
		"routes": []object{loop("open", object{"mode": "none"}), loop("guarded", object{"mode": "required"})},
	}, p.operator.With("If-None-Match", "*")...).Header.Get("ETag")
	apptest.Eventually(t, "the route is served", func() bool { return p.Call(t, "GET", "/open/healthz", nil).Status == http.StatusOK })
	key := p.Key(t, p.admin, object{"scopes": []string{"config:read", "config:write"}})
	p.OnAnswer = nil // an answer that comes through the gateway has the request id of the outer request
	for _, c := range adminCalls(t) {
		for _, auth := range [][]string{p.admin.Auth(), key.Auth(), {"Authorization", "Bearer " + key.Secret}} {
			for _, prefix := range []string{"/open", "/guarded"} {
				a := p.Call(t, c.method, prefix+c.at("a"), nil, append(auth, "If-Match", tag, "X-Consumer-Role", "admin")...)
				wantProblem(t, a, http.StatusUnauthorized, "auth.missing")
			}
		}
	}
}

// On hosts that are not the platform's there is no admin API.
func TestAdminAPIKeepsToThePlatformsHosts(t *testing.T) {
	p := startAdministered(t, map[string]string{"server.hosts": "127.0.0.1,admin.example.com"})
	p.first(t)
	p.Want(t, http.StatusOK, "GET", configPath, nil, p.admin.With("Host", "admin.example.com")...)
	for _, c := range adminCalls(t) {
		a := p.Call(t, c.method, c.at("a"), nil, p.admin.With("Host", "api.example.com")...)
		wantProblem(t, a, http.StatusNotFound, "gateway.no_route")
	}
}

// Of changes at the same moment that are based on the same document, one is made;
// nothing is lost, and every document that was ever served was put by somebody.
// (ADM-03)
func TestChangesAtOnceAreOneAfterTheOther(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	const writers = 8
	answers := make([]apptest.Answer, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			a, err := p.Try("PUT", fmt.Sprintf("/admin/v1/services/w%d", i), object{"url": fmt.Sprintf("http://w%d", i)}, p.on(tag)...)
			if err != nil {
				t.Error(err)
			}
			answers[i] = a
		})
	}
	wg.Wait()
	made := 0
	for _, a := range answers {
		switch a.Status {
		case http.StatusCreated:
			made++
		default:
			wantProblem(t, a, http.StatusPreconditionFailed, "config.changed")
		}
	}
	if made != 1 {
		t.Errorf("%d of %d changes of one document were made", made, writers)
	}
	// Who tries again is served in the end.
	for i := range writers {
		wg.Go(func() {
			for {
				current, err := p.Try("GET", "/admin/v1/routes?limit=1", nil, p.viewer.Auth()...)
				if err != nil {
					t.Error(err)
					return
				}
				a, err := p.Try("PUT", fmt.Sprintf("/admin/v1/services/v%d", i), object{"url": fmt.Sprintf("http://v%d", i)}, p.on(current.Header.Get("ETag"))...)
				if err != nil || a.Status == http.StatusCreated {
					return
				}
			}
		})
	}
	wg.Wait()
	list := items(t, p.Want(t, http.StatusOK, "GET", "/admin/v1/services?limit=200", nil, p.viewer.Auth()...))
	if len(list) != 2+1+writers {
		t.Errorf("%d services, want %d: a change was lost", len(list), 2+1+writers)
	}
}

// A document with one bad object is refused as a whole, and the last good one goes
// on; hostile ones cost little. (ADM-03, ADM-05)
func TestBadDocumentsLeaveTheLastGoodOne(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	p.says(t, "one")
	good := strings.Replace(firstDocument, "body: one", "body: two", 1)
	deep := strings.Repeat("[", 10_000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := range 8 {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", 'b'+i, 'b'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i)
	}
	for name, body := range map[string]string{
		"dangling service":     good + "  - {name: z, service: nobody}\n",
		"ambiguous route":      good + "  - {name: z, match: {path: {exact: /hello}}, service: a}\n",
		"name twice":           good + "  - {name: hello, match: {path: {exact: /z}}, service: a}\n",
		"unknown field":        good + "admins: [me]\n",
		"unknown policy":       good + "  - {name: z, match: {path: {exact: /z}}, service: a, alow_ips: [10.0.0.0/8]}\n",
		"mass assignment":      good + "revision: 7\nauthor_id: me\n",
		"user in a URL":        strings.Replace(good, "http://127.0.0.1:1", "http://root:toor@127.0.0.1:1", 1),
		"scheme of files":      strings.Replace(good, "http://127.0.0.1:1", "file:///etc/passwd", 1),
		"scheme of others":     strings.Replace(good, "http://127.0.0.1:1", "gopher://127.0.0.1:1/_x", 1),
		"deep":                 deep,
		"deep JSON":            `{"version":1,"x":` + deep + strings.Repeat("]", 10_000) + "}",
		"aliases of aliases":   bomb,
		"many items":           "version: 1\nroutes:\n" + strings.Repeat("- x\n", 300_000),
		"not text":             "version: 1\x00\n",
		"a long line":          "version: 1 # " + strings.Repeat("x", 1<<20),
		"a condition of stone": good + "  - {name: z, match: {path: {regex: '(a+)+$('}}, service: a}\n",
	} {
		a := p.Call(t, "PUT", configPath, body, p.yaml(p.operator, "If-Match", tag)...)
		if a.Status != http.StatusUnprocessableEntity || len(a.Body) > 64<<10 {
			t.Errorf("%s: %d, %d bytes: %.300s", name, a.Status, len(a.Body), a.Body)
		}
		if strings.Contains(string(a.Body), "toor") {
			t.Errorf("%s: the password of a URL is repeated: %s", name, a.Body)
		}
		if got := string(p.Call(t, "GET", "/hello", nil).Body); got != "one" {
			t.Fatalf("%s: the gateway says %q", name, got)
		}
	}
	if got := p.tag(t); got != tag {
		t.Error("a bad document was kept")
	}
	if n := len(items(t, p.Want(t, http.StatusOK, "GET", configPath+"/revisions", nil, p.viewer.Auth()...))); n != 1 {
		t.Errorf("%d revisions", n)
	}
}

// Every change leaves one record: who, which revision, and why.
func TestChangesOfTheDocumentAreAudited(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	key := p.Key(t, p.operator, object{"scopes": []string{"config:write"}})
	a := p.Want(t, http.StatusOK, "PATCH", "/admin/v1/routes/hello?message=say+two", object{"respond": object{"body": "two"}}, append(key.Auth(), "If-Match", tag)...)
	b := p.Want(t, http.StatusOK, "POST", configPath+"/revisions/1/rollback?message=back", nil, p.on(a.Header.Get("ETag"))...)
	p.Call(t, "PUT", configPath, "{}", p.on(tag)...)                                                            // refused
	p.Want(t, http.StatusOK, "PUT", configPath, firstDocument, p.yaml(p.operator, "If-Match", "*")...)          // the same
	p.Want(t, http.StatusOK, "PUT", configPath+"?dry_run=true", `{"version":1}`, p.on(b.Header.Get("ETag"))...) // dry

	var got []object
	for _, r := range auditTrail(t, p.Program, p.admin, "") {
		if r["target_kind"] != "config" {
			continue
		}
		detail, _ := r["detail"].(object)
		delete(detail, "digest")
		got = append(got, object{"action": r["action"], "actor": r["actor_id"], "key": r["actor_key_id"], "of": r["target_id"], "detail": detail, "request": r["request_id"]})
	}
	by := p.operator.ID
	want := []object{
		{"action": "config.rolled_back", "actor": by, "key": nil, "of": "3", "request": b.Header.Get("X-Request-Id"), "detail": object{"number": "3", "message": "back", "content_of": "1"}},
		{"action": "config.applied", "actor": by, "key": key.ID, "of": "2", "request": a.Header.Get("X-Request-Id"), "detail": object{"number": "2", "message": "say two"}},
	}
	if len(got) != 3 {
		t.Fatalf("%d records: %v", len(got), got)
	}
	if diff := cmp.Diff(want, got[:2]); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// What a caller writes comes back as data, whatever it is.
func TestTextOfCallersStaysText(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	for _, message := range []string{`'; DROP TABLE users; --`, `<script>alert(1)</script>`, `{{.}}`, `%s%n`, `=cmd|' /C calc'!A0`, "é漢字😀"} {
		a := p.Want(t, http.StatusOK, "PATCH", "/admin/v1/routes/hello?message="+url.QueryEscape(message), object{"respond": object{"body": message}}, p.on(tag)...)
		tag = a.Header.Get("ETag")
		newest := items(t, p.Want(t, http.StatusOK, "GET", configPath+"/revisions?limit=1", nil, p.viewer.Auth()...))[0]
		if newest["message"] != message {
			t.Errorf("%q came back as %q", message, newest["message"])
		}
		p.says(t, message)
	}
}

// Who may write documents must not get at other files of the machine.
func TestADocumentThatNamesAForeignFileIsNotStored(t *testing.T) {
	p := startAdministered(t, map[string]string{"gateway.files_dir": t.TempDir()})
	a := p.Call(t, "PUT", configPath, object{
		"version": 1, "services": []object{{"name": "s", "url": "http://127.0.0.1:1"}},
		"routes": []object{{"name": "r", "service": "s", "basic_auth": object{"username": "u", "password_file": "/etc/hostname"}}},
	}, p.operator.With("If-None-Match", "*")...)
	wantProblem(t, a, http.StatusUnprocessableEntity, "config.invalid", "routes[0].basic_auth.password_file")
	p.Want(t, http.StatusNotFound, "GET", configPath, nil, p.operator.Auth()...)
}
