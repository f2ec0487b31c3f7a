package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec"
)

const configPath = "/admin/v1/config"

// revised are options of a program whose document is in the database.
func revised(t *testing.T, more map[string]string) map[string]string {
	t.Helper()
	set := roomy()
	set["gateway.source"], set["data.dir"] = "database", t.TempDir()
	for name, value := range more {
		set[name] = value
	}
	return set
}

// administered is a program with a document in its database, and who may do what.
type administered struct {
	*apptest.Program
	admin, operator, viewer, user *apptest.User
}

func startAdministered(t *testing.T, more map[string]string) administered {
	t.Helper()
	p := administered{Program: start(t, apptest.Options{Set: revised(t, more)})}
	p.admin, p.user = p.Admin(t), p.User(t)
	p.operator, p.viewer = p.as(t, access.RoleOperator), p.as(t, access.RoleViewer)
	return p
}

// as is a new user with the role, which an admin gave it.
func (p administered) as(t *testing.T, role access.Role) *apptest.User {
	t.Helper()
	u := p.User(t)
	p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, object{"role": role}, p.admin.Auth()...)
	return u
}

// firstDocument answers /hello by itself; service b is used by nobody.
const firstDocument = `# The first one.
version: 1
services:
  - name: a
    url: http://127.0.0.1:1
  - {name: b, url: "http://127.0.0.1:2"}
routes:
  - name: hello
    match: {path: {exact: /hello}}
    respond: {body: one}
    auth: {mode: none}
  - {name: a, match: {path: {prefix: /a}}, service: a}
`

// yaml are the headers of a call with a YAML body.
func (p administered) yaml(u *apptest.User, headers ...string) []string {
	return u.With(append([]string{"Content-Type", "application/yaml"}, headers...)...)
}

// first puts the first document and returns its ETag.
func (p administered) first(t *testing.T) string {
	t.Helper()
	return p.Want(t, http.StatusOK, "PUT", configPath, firstDocument, p.yaml(p.operator, "If-None-Match", "*")...).Header.Get("ETag")
}

// tag is the ETag of the document in force.
func (p administered) tag(t *testing.T) string {
	t.Helper()
	return p.Want(t, http.StatusOK, "GET", configPath, nil, p.viewer.Auth()...).Header.Get("ETag")
}

// on is the condition of a change, with who makes it.
func (p administered) on(tag string) []string { return p.operator.With("If-Match", tag) }

// says waits until the gateway answers /hello so.
func (p administered) says(t *testing.T, body string) {
	t.Helper()
	apptest.Eventually(t, "the gateway says "+body, func() bool { return string(p.Call(t, "GET", "/hello", nil).Body) == body })
}

func TestDocumentIsReadReplacedAndServed(t *testing.T) {
	p := startAdministered(t, nil)
	wantProblem(t, p.Call(t, "GET", configPath, nil, p.viewer.Auth()...), http.StatusNotFound, "config.none")
	for _, path := range []string{"/admin/v1/services", "/admin/v1/routes", "/admin/v1/services/a", "/admin/v1/routes/a"} {
		wantProblem(t, p.Call(t, "GET", path, nil, p.viewer.Auth()...), http.StatusNotFound, "config.none")
	}
	for _, method := range []string{"PUT", "PATCH"} {
		wantProblem(t, p.Call(t, method, "/admin/v1/services/a", object{}, p.on(`"x"`)...), http.StatusNotFound, "config.none")
		wantProblem(t, p.Call(t, method, "/admin/v1/routes/a", object{}, p.on(`"x"`)...), http.StatusNotFound, "config.none")
	}

	a := p.Want(t, http.StatusOK, "PUT", configPath+"?message=the+first", firstDocument, p.yaml(p.operator, "If-None-Match", "*")...)
	out := a.JSON(t)
	doc, err := spec.Parse("", []byte(firstDocument))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := doc.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if out["revision"] != 1.0 || out["changed"] != true || out["digest"] != digest.String() || a.Header.Get("ETag") != `"`+digest.String()+`"` {
		t.Errorf("answer %s with ETag %s, want digest %s", a.Body, a.Header.Get("ETag"), digest)
	}
	var named []string
	for _, c := range out["diff"].([]any) {
		named = append(named, fmt.Sprint(c.(object)["kind"], " ", c.(object)["object"], " ", c.(object)["name"]))
	}
	if diff := cmp.Diff([]string{"added document version", "added service a", "added service b", "added route hello", "added route a"}, named); diff != "" {
		t.Errorf("diff (-want +got):\n%s", diff)
	}
	p.says(t, "one")

	// What was put comes back in its canonical form, in JSON and in YAML.
	canonical, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	asJSON := p.Want(t, http.StatusOK, "GET", configPath, nil, p.viewer.Auth()...)
	if asJSON.Header.Get("Content-Type") != "application/json" || string(asJSON.Body) != string(canonical) || asJSON.Header.Get("Vary") != "Accept" {
		t.Errorf("%v: %s", asJSON.Header, asJSON.Body)
	}
	for accept, want := range map[string]string{
		"application/yaml": "application/yaml", "text/yaml, application/json;q=0.5": "application/yaml", "application/json, application/yaml;q=0.1": "application/json",
		"*/*": "application/json", "image/png": "application/json", "application/yaml;q=0": "application/json", ";;": "application/json",
	} {
		got := p.Want(t, http.StatusOK, "GET", configPath, nil, p.viewer.With("Accept", accept)...)
		again, err := spec.Parse("", got.Body)
		if err != nil || got.Header.Get("Content-Type") != want || got.Header.Get("ETag") != asJSON.Header.Get("ETag") {
			t.Errorf("Accept %s: %s, %v", accept, got.Header.Get("Content-Type"), err)
			continue
		}
		if d, err := again.Digest(); err != nil || d != digest {
			t.Errorf("Accept %s: the digest is %s, %v", accept, d, err)
		}
	}

	// JSON in one line, on the condition that nobody was faster.
	second := strings.Replace(string(canonical), `"body":"one"`, `"body":"two"`, 1)
	a = p.Want(t, http.StatusOK, "PUT", configPath, second, p.on(asJSON.Header.Get("ETag"))...)
	want := []any{object{"kind": "changed", "object": "route", "name": "hello", "fields": []any{
		object{"path": "respond.body", "before": `"one"`, "after": `"two"`},
	}}}
	if diff := cmp.Diff(want, a.JSON(t)["diff"]); diff != "" || a.JSON(t)["base"] != digest.String() {
		t.Errorf("answer %s, diff (-want +got):\n%s", a.Body, diff)
	}
	p.says(t, "two")
	wantProblem(t, p.Call(t, "PUT", configPath, second, p.on(asJSON.Header.Get("ETag"))...), http.StatusPreconditionFailed, "config.changed")
	same := p.Want(t, http.StatusOK, "PUT", configPath, second, p.on("*")...).JSON(t)
	if same["changed"] != false || same["revision"] != 2.0 || len(same["diff"].([]any)) != 0 {
		t.Errorf("the same again: %v", same)
	}
	// An operator's key is for programs, when it was given the scope.
	key := p.Key(t, p.operator, object{"scopes": []string{"config:write"}})
	third := strings.Replace(second, `"body":"two"`, `"body":"three"`, 1)
	p.Want(t, http.StatusOK, "PUT", configPath, third, append(key.Auth(), "If-Match", a.Header.Get("ETag"))...)
	p.says(t, "three")
}

func TestChangesNeedACondition(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	calls := []struct {
		method, path string
		body         any
	}{
		{"PUT", configPath, `{"version":1}`}, {"POST", configPath + "/revisions/1/rollback", nil},
		{"PUT", "/admin/v1/services/a", object{"url": "http://a"}}, {"PUT", "/admin/v1/routes/hello", object{"service": "a"}},
		{"PATCH", "/admin/v1/services/a", object{"url": "http://a"}}, {"PATCH", "/admin/v1/routes/hello", object{"priority": 1}},
		{"DELETE", "/admin/v1/services/b", nil}, {"DELETE", "/admin/v1/routes/hello", nil},
	}
	for _, c := range calls {
		call := func(headers ...string) apptest.Answer {
			return p.Call(t, c.method, c.path, c.body, p.operator.With(headers...)...)
		}
		wantProblem(t, call(), http.StatusPreconditionRequired, "config.precondition_required")
		for _, match := range []string{`"` + strings.Repeat("0", 64) + `"`, "W/" + tag} {
			wantProblem(t, call("If-Match", match), http.StatusPreconditionFailed, "config.changed")
		}
		for _, match := range []string{strings.Trim(tag, `"`), tag + ", " + tag, `""`, "", "**", `"a b"`} {
			wantProblem(t, call("If-Match", match), http.StatusBadRequest, "request.invalid", "If-Match")
		}
		wantProblem(t, call("If-Match", tag, "If-None-Match", "*"), http.StatusBadRequest, "request.invalid", "If-Match")
		wantProblem(t, call("If-None-Match", tag), http.StatusBadRequest, "request.invalid", "If-None-Match")
		if c.path == configPath {
			wantProblem(t, call("If-None-Match", "*"), http.StatusPreconditionFailed, "config.exists")
		} else if c.method != "POST" {
			wantProblem(t, call("If-None-Match", "*"), http.StatusBadRequest, "request.invalid", "If-None-Match")
		}
	}
	for _, path := range []string{"?dry_run=maybe", "?dry_run=true&dry_run=false"} {
		for _, c := range calls {
			wantProblem(t, p.Call(t, c.method, c.path+path, c.body, p.on(tag)...), http.StatusBadRequest, "request.invalid", "dry_run")
			wantProblem(t, p.Call(t, c.method, c.path+"?force=true", c.body, p.on(tag)...), http.StatusBadRequest, "request.invalid")
		}
	}
	for _, message := range []string{"a%0Ab", strings.Repeat("a", 501), "%E2%80%AE"} {
		wantProblem(t, p.Call(t, "PUT", configPath+"?message="+message, `{"version":1}`, p.on(tag)...), http.StatusBadRequest, "request.invalid", "message")
	}
	if got := p.tag(t); got != tag {
		t.Errorf("the document is another one after refused changes: %s", got)
	}
}

func TestDocumentsAreReadStrictly(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	put := func(body string, headers ...string) apptest.Answer {
		return p.Call(t, "PUT", configPath, body, p.operator.With(append([]string{"If-Match", tag}, headers...)...)...)
	}
	// Each violation has its place in the text that was sent.
	a := put("version: 1\nservices:\n  - name: a\n    url: nowhere\nroutes:\n  - {name: r, service: b}\n    ", "Content-Type", "application/yaml")
	wantProblem(t, a, http.StatusUnprocessableEntity, "config.invalid", "services[0].url", "routes[0].service")
	var d problem.Document
	if err := json.Unmarshal(a.Body, &d); err != nil {
		t.Fatal(err)
	}
	for i, want := range []problem.Field{{Line: 4, Column: 10}, {Line: 6, Column: 24}} {
		if got := d.Errors[i]; got.Line != want.Line || got.Column != want.Column || got.Detail == "" {
			t.Errorf("violation %d: %+v, want line %d, column %d", i, got, want.Line, want.Column)
		}
	}
	// The same in JSON of one line has no places that anybody could look for.
	a = put(`{"version":1,"services":[{"name":"a","url":"nowhere"}],"routes":[{"name":"r","service":"b"}]}`)
	wantProblem(t, a, http.StatusUnprocessableEntity, "config.invalid", "services[0].url", "routes[0].service")
	if strings.Contains(string(a.Body), `"line"`) {
		t.Errorf("one line has places: %s", a.Body)
	}
	for body, field := range map[string]string{
		`{"version":1,"version":1}`: "version", `{"version":1,"is_admin":true}`: "is_admin", `{"version":2}`: "version",
		`{"version":1,`: "", "version: 1\n": "", "": "", `[]`: "", "\xff": "", `{"version":1}{}`: "", `null`: "",
	} {
		wantProblem(t, put(body), http.StatusUnprocessableEntity, "config.invalid", field)
	}
	for body, field := range map[string]string{"&a [*a]": "", "version: 1\n---\nversion: 1\n": "", "version: !!int 1\n": "version"} {
		wantProblem(t, put(body, "Content-Type", "application/yaml"), http.StatusUnprocessableEntity, "config.invalid", field)
	}
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "json", "application/yaml;;"} {
		wantProblem(t, put("{}", "Content-Type", media), http.StatusUnsupportedMediaType, "request.media_type")
		for _, path := range []string{"/admin/v1/services/a", "/admin/v1/routes/a"} {
			for _, method := range []string{"PUT", "PATCH"} {
				a := p.Call(t, method, path, "{}", p.operator.With("If-Match", tag, "Content-Type", media)...)
				wantProblem(t, a, http.StatusUnsupportedMediaType, "request.media_type")
			}
		}
	}
	// Bodies are bounded: 8 MiB for documents, server.body_limit for objects.
	wantProblem(t, put(strings.Repeat(" ", spec.MaxBytes+1)), http.StatusRequestEntityTooLarge, "request.body_too_large")
	large := "# " + strings.Repeat(strings.Repeat("x", 60<<10)+"\n# ", 60) + "\n" + firstDocument
	if a := put(large, "Content-Type", "application/yaml"); a.Status != http.StatusOK || a.JSON(t)["changed"] != false {
		t.Errorf("a document of %d bytes: %d %.300s", len(large), a.Status, a.Body)
	}
	for _, path := range []string{"/admin/v1/services/a", "/admin/v1/routes/a"} {
		for _, method := range []string{"PUT", "PATCH"} {
			a := p.Call(t, method, path, `{"a":"`+strings.Repeat("a", 1<<20)+`"}`, p.on(tag)...)
			wantProblem(t, a, http.StatusRequestEntityTooLarge, "request.body_too_large")
			for _, body := range []string{"", "[]", "{", `{"url":"http://a","url":"http://b"}`, strings.Repeat(`{"a":`, 20)} {
				if a := p.Call(t, method, path, body, p.on(tag)...); a.Status != http.StatusBadRequest {
					t.Errorf("%s %s %s: %d %s", method, path, body, a.Status, a.Body)
				}
			}
		}
	}
	if got := p.tag(t); got != tag {
		t.Error("refused documents changed something")
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	p := startAdministered(t, nil)
	dry := func(method, path, body string, headers ...string) object {
		t.Helper()
		a := p.Want(t, http.StatusOK, method, path+"?dry_run=true", body, p.operator.With(headers...)...)
		if a.Header.Get("ETag") != "" || a.JSON(t)["dry_run"] != true {
			t.Errorf("%s %s: %v %s", method, path, a.Header, a.Body)
		}
		return a.JSON(t)
	}
	out := dry("PUT", configPath, firstDocument, "Content-Type", "application/yaml")
	if out["valid"] != true || len(out["diff"].([]any)) != 5 || out["base"] != nil {
		t.Errorf("before the first document: %v", out)
	}
	wantProblem(t, p.Call(t, "GET", configPath, nil, p.viewer.Auth()...), http.StatusNotFound, "config.none")
	tag := p.first(t)

	out = dry("PUT", configPath, strings.Replace(firstDocument, "body: one", "body: two", 1), "Content-Type", "application/yaml", "If-Match", tag)
	if out["valid"] != true || out["changed"] != true || `"`+out["base"].(string)+`"` != tag || len(out["diff"].([]any)) != 1 {
		t.Errorf("a good change: %v", out)
	}
	out = dry("PUT", configPath, "version: 1\nroutes: [{name: r, service: b}]\n", "Content-Type", "application/yaml")
	want := []any{object{"field": "routes[0].service", "detail": `no service is named "b"`, "line": 2.0, "column": 29.0}}
	if diff := cmp.Diff(want, out["violations"]); diff != "" || out["valid"] != false || out["digest"] != nil {
		t.Errorf("a bad change: %v (-want +got):\n%s", out, diff)
	}
	for _, headers := range [][]string{{"If-Match", `"0"`}, {"If-None-Match", "*"}} {
		for _, body := range []string{`{"version":1}`, `{}`} {
			a := p.Call(t, "PUT", configPath+"?dry_run=true", body, p.operator.With(headers...)...)
			if a.Status != http.StatusPreconditionFailed {
				t.Errorf("%s on %s: %d", body, headers, a.Status)
			}
		}
	}
	if out := dry("PATCH", "/admin/v1/routes/hello", `{"respond":{"status":201}}`); len(out["diff"].([]any)) != 1 {
		t.Errorf("a patch: %v", out)
	}
	if out := dry("PUT", "/admin/v1/services/c", `{"url":"nowhere"}`); out["violations"].([]any)[0].(object)["field"] != "url" {
		t.Errorf("a service: %v", out)
	}
	if out := dry("DELETE", "/admin/v1/routes/a", ""); out["valid"] != true {
		t.Errorf("a deletion: %v", out)
	}
	if out := dry("POST", configPath+"/revisions/1/rollback", ""); out["changed"] != false {
		t.Errorf("a rollback: %v", out)
	}
	if got := p.tag(t); got != tag {
		t.Error("a dry run changed something")
	}
}

func TestObjectsAreChangedOneByOne(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	do := func(status int, method, path string, body any) object {
		t.Helper()
		a := p.Want(t, status, method, "/admin/v1"+path, body, p.on(tag)...)
		tag = a.Header.Get("ETag")
		return a.JSON(t)
	}
	get := func(path string) object {
		t.Helper()
		a := p.Want(t, http.StatusOK, "GET", "/admin/v1"+path, nil, p.viewer.Auth()...)
		if a.Header.Get("ETag") != tag {
			t.Errorf("GET %s has the ETag %s, the document %s", path, a.Header.Get("ETag"), tag)
		}
		return a.JSON(t)
	}

	do(http.StatusCreated, "PUT", "/services/c", object{"targets": []object{{"url": "http://127.0.0.1:3"}}})
	if got := get("/services/c"); got["name"] != "c" || got["targets"].([]any)[0].(object)["weight"] != 1.0 {
		t.Errorf("the service has no defaults: %v", got)
	}
	do(http.StatusOK, "PUT", "/services/c", object{"name": "c", "url": "http://127.0.0.1:4", "connect_timeout": "1s"})
	if got := get("/services/c"); got["url"] != "http://127.0.0.1:4" || got["targets"] != nil || got["connect_timeout"] != "1s" {
		t.Errorf("after a replacement: %v", got)
	}
	a := p.Want(t, http.StatusOK, "PATCH", "/admin/v1/services/c", `{"connect_timeout":null,"response_timeout":"9s"}`,
		p.operator.With("If-Match", tag, "Content-Type", "application/merge-patch+json")...)
	tag = a.Header.Get("ETag")
	if got := get("/services/c"); got["connect_timeout"] != "2s" || got["response_timeout"] != "9s" {
		t.Errorf("after a patch: %v", got)
	}
	do(http.StatusCreated, "PUT", "/routes/c", object{"match": object{"path": object{"prefix": "/c"}}, "service": "c", "priority": 3})
	out := do(http.StatusOK, "PATCH", "/routes/c", object{"match": object{"methods": []string{"GET"}}, "priority": nil})
	want := []any{object{"kind": "changed", "object": "route", "name": "c", "fields": []any{
		object{"path": "match.methods[0]", "after": `"GET"`}, object{"path": "priority", "before": "3"},
	}}}
	if diff := cmp.Diff(want, out["diff"]); diff != "" {
		t.Errorf("diff (-want +got):\n%s", diff)
	}
	if got := get("/routes/c"); got["match"].(object)["path"].(object)["prefix"] != "/c" {
		t.Errorf("the patch removed what it does not name: %v", got)
	}
	do(http.StatusOK, "PUT", "/routes/hello", object{"match": object{"path": object{"exact": "/hello"}}, "respond": object{"body": "put"}, "auth": object{"mode": "none"}})
	p.says(t, "put")

	// A service that a route uses stays, and the answer names the routes.
	refused := p.Call(t, "DELETE", "/admin/v1/services/c", nil, p.on(tag)...)
	wantProblem(t, refused, http.StatusConflict, "config.in_use", "routes/c")
	do(http.StatusOK, "DELETE", "/routes/c", nil)
	do(http.StatusOK, "DELETE", "/services/c", nil)
	for _, path := range []string{"/services/c", "/routes/c", "/routes/HELLO", "/routes/hello%20", "/services/%61%00"} {
		for _, method := range []string{"GET", "PATCH", "DELETE"} {
			if strings.Contains(path, "%00") {
				continue // refused before anything looks at it
			}
			a := p.Call(t, method, "/admin/v1"+path, object{}, p.on(tag)...)
			wantProblem(t, a, http.StatusNotFound, "config.unknown_object")
		}
	}
	// What is wrong with an object is told in its own terms, with the whole document in view.
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		code         string
		fields       []string
	}{
		{"PUT", "/services/a", object{"name": "b", "url": "http://a"}, 400, "request.invalid", []string{"name"}},
		{"PATCH", "/routes/a", object{"name": nil}, 400, "request.invalid", []string{"name"}},
		{"PUT", "/services/a", object{"url": "nowhere", "is_admin": true}, 422, "config.invalid", []string{"url", "is_admin"}},
		{"PATCH", "/services/a", object{"url": nil}, 422, "config.invalid", []string{"url"}},
		{"PUT", "/routes/a", object{"service": "nobody"}, 422, "config.invalid", []string{"service"}},
		{"PATCH", "/routes/a", object{"service": "nobody"}, 422, "config.invalid", []string{"service"}},
		{"PUT", "/routes/not%20a%20name", object{"service": "a"}, 422, "config.invalid", []string{"name"}},
		{"PATCH", "/routes/a", object{"match": object{"path": object{"prefix": nil, "exact": "/hello"}}}, 422, "config.invalid", []string{"match"}},
	} {
		wantProblem(t, p.Call(t, c.method, "/admin/v1"+c.path, c.body, p.on(tag)...), c.status, c.code, c.fields...)
	}
	if got := p.tag(t); got != tag {
		t.Error("refused changes changed something")
	}
}

func TestListsOfObjectsHavePages(t *testing.T) {
	p := startAdministered(t, nil)
	doc := object{"version": 1, "services": []object{}, "routes": []object{}}
	var want []string
	for i := range 7 {
		name := fmt.Sprintf("n%d", i)
		want = append(want, name)
		doc["services"] = append(doc["services"].([]object), object{"name": name, "url": "http://" + name})
		doc["routes"] = append(doc["routes"].([]object), object{"name": name, "service": name, "match": object{"path": object{"prefix": "/" + name}}})
	}
	tag := p.Want(t, http.StatusOK, "PUT", configPath, doc, p.operator.With("If-None-Match", "*")...).Header.Get("ETag")
	for _, list := range []string{"/admin/v1/services", "/admin/v1/routes"} {
		for limit, pages := range map[string]int{"1": 7, "3": 3, "7": 1, "200": 1} {
			got := collect(t, p.Program, p.viewer, list, "limit="+limit)
			var names []string
			for _, o := range slices.Concat(got...) {
				names = append(names, o["name"].(string))
			}
			if diff := cmp.Diff(want, names); diff != "" || len(got) != pages {
				t.Errorf("%s by %s: %d pages (-want +got):\n%s", list, limit, len(got), diff)
			}
		}
		for query, field := range map[string]string{"limit=0": "limit", "cursor=x": "cursor", "q=a": "q"} {
			wantProblem(t, p.Call(t, "GET", list+"?"+query, nil, p.viewer.Auth()...), http.StatusBadRequest, "request.invalid", field)
		}
	}
	// The pages of a list are those of one document.
	cursor := p.Want(t, http.StatusOK, "GET", "/admin/v1/services?limit=2", nil, p.viewer.Auth()...).Text(t, "next_cursor")
	p.Want(t, http.StatusOK, "DELETE", "/admin/v1/routes/n6", nil, p.on(tag)...)
	a := p.Call(t, "GET", "/admin/v1/services?limit=2&cursor="+cursor, nil, p.viewer.Auth()...)
	wantProblem(t, a, http.StatusBadRequest, "request.invalid", "cursor")
}

func TestRevisionsAreListedShownAndRolledBackTo(t *testing.T) {
	p := startAdministered(t, nil)
	tag := p.first(t)
	for _, body := range []string{"two", "three"} {
		a := p.Want(t, http.StatusOK, "PATCH", "/admin/v1/routes/hello?message=say+"+body, object{"respond": object{"body": body}}, p.on(tag)...)
		tag = a.Header.Get("ETag")
	}
	list := slices.Concat(collect(t, p.Program, p.viewer, configPath+"/revisions", "limit=2")...)
	var heads []object
	for _, r := range list {
		if _, err := json.Marshal(r["at"]); err != nil || r["digest"] == "" {
			t.Errorf("revision %v", r)
		}
		delete(r, "at")
		delete(r, "digest")
		heads = append(heads, r)
	}
	by := p.operator.ID
	want := []object{
		{"number": 3.0, "base": 2.0, "author_id": by, "message": "say three"},
		{"number": 2.0, "base": 1.0, "author_id": by, "message": "say two"}, {"number": 1.0, "base": 0.0, "author_id": by},
	}
	if diff := cmp.Diff(want, heads); diff != "" {
		t.Errorf("revisions (-want +got):\n%s", diff)
	}
	second := p.Want(t, http.StatusOK, "GET", configPath+"/revisions/2", nil, p.viewer.Auth()...).JSON(t)
	if got := second["diff"].([]any)[0].(object)["fields"].([]any)[0].(object); got["before"] != `"one"` || got["after"] != `"two"` {
		t.Errorf("revision 2 changed %v", second["diff"])
	}
	if got := second["document"].(object)["routes"].([]any)[0].(object)["respond"].(object)["body"]; got != "two" {
		t.Errorf("revision 2 says %v", got)
	}
	p.says(t, "three")
	a := p.Want(t, http.StatusOK, "POST", configPath+"/revisions/1/rollback?message=no", nil, p.on(tag)...)
	if out := a.JSON(t); out["revision"] != 4.0 || len(out["diff"].([]any)) != 1 {
		t.Errorf("rollback: %v", out)
	}
	p.says(t, "one")

	// ADM-06: a number has one spelling.
	for _, n := range []string{"0", "5", "01", "+1", "-1", "-0", "1e0", "0x1", "1.0", "%31%20", "9223372036854775808", "x"} {
		wantProblem(t, p.Call(t, "GET", configPath+"/revisions/"+n, nil, p.viewer.Auth()...), http.StatusNotFound, "config.unknown_revision")
		wantProblem(t, p.Call(t, "POST", configPath+"/revisions/"+n+"/rollback", nil, p.on(a.Header.Get("ETag"))...), http.StatusNotFound, "config.unknown_revision")
	}
	for query, field := range map[string]string{"limit=0": "limit", "cursor=x": "cursor", "since=1": "since"} {
		wantProblem(t, p.Call(t, "GET", configPath+"/revisions?"+query, nil, p.viewer.Auth()...), http.StatusBadRequest, "request.invalid", field)
	}
	wantProblem(t, p.Call(t, "POST", configPath+"/revisions/1/rollback?dry_run=no", nil, p.on(tag)...), http.StatusBadRequest, "request.invalid", "dry_run")
}

func TestStateSaysWhatIsServed(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("backend")) }))
	t.Cleanup(backend.Close)
	files := t.TempDir()
	p := startAdministered(t, map[string]string{"gateway.files_dir": files})
	state := func() object {
		t.Helper()
		return p.Want(t, http.StatusOK, "GET", "/admin/v1/state", nil, p.viewer.Auth()...).JSON(t)
	}
	if s := state(); s["source"] != "database" || s["digest"] != nil || s["applied_at"] != nil || s["routes"] != 0.0 {
		t.Errorf("before the first document: %v", s)
	}
	tag := p.Want(t, http.StatusOK, "PUT", configPath, object{
		"version": 1,
		"services": []object{
			{"name": "alive", "url": backend.URL, "breaker": object{"error_rate": 0.5}}, {"name": "other", "url": "http://127.0.0.1:1"},
			{"name": "without", "url": "https://127.0.0.1:1", "tls": object{"ca_file": files + "/nonexistent.pem"}},
		},
		"routes": []object{{"name": "r", "service": "alive", "match": object{"path": object{"prefix": "/r"}}, "auth": object{"mode": "none"}}},
	}, p.operator.With("If-None-Match", "*")...).Header.Get("ETag")
	apptest.Eventually(t, "the route is served", func() bool { return string(p.Call(t, "GET", "/r", nil).Body) == "backend" })
	apptest.Eventually(t, "the replica has told what it serves", func() bool {
		replicas := state()["replicas"].([]any)
		return len(replicas) == 1 && replicas[0].(object)["revision"] == 1.0
	})
	s := state()
	if `"`+s["digest"].(string)+`"` != tag || s["revision"] != 1.0 || s["applied_at"] == nil || s["routes"] != 1.0 || s["last_error"] != nil {
		t.Errorf("state %v", s)
	}
	alive := s["services"].([]any)[0].(object)
	target := alive["targets"].([]any)[0].(object)
	if alive["name"] != "alive" || alive["breaker"] != "closed" || target["url"] != backend.URL || target["available"] != true || target["in_flight"] != 0.0 {
		t.Errorf("service %v", alive)
	}
	left := s["errors"].([]any)
	if len(left) != 1 || left[0].(object)["object"] != "service" || left[0].(object)["name"] != "without" || !strings.Contains(left[0].(object)["detail"].(string), "nonexistent.pem") {
		t.Errorf("left out: %v", left)
	}
	self := s["replicas"].([]any)[0].(object)
	if self["self"] != true || self["digest"] != s["digest"] || self["version"] == "" || self["id"] != p.Platform.ReplicaID {
		t.Errorf("replica %v", self)
	}
	p.Want(t, http.StatusAccepted, "POST", configPath+"/reload", nil, p.operator.Auth()...)
	apptest.Eventually(t, "the reload is logged", func() bool { return strings.Contains(p.Log.String(), "reloading the gateway document") })
}

// Where the document is a file, everything but changes works.
func TestFileIsNotWrittenByTheAPI(t *testing.T) {
	p := administered{Program: start(t, apptest.Options{Gateway: firstDocument, Set: roomy()})}
	p.admin = p.Admin(t)
	p.operator, p.viewer = p.as(t, access.RoleOperator), p.as(t, access.RoleViewer)
	tag := p.tag(t)
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"PUT", configPath, `{"version":1}`}, {"POST", configPath + "/revisions/1/rollback", nil},
		{"PUT", "/admin/v1/services/a", object{"url": "http://a"}}, {"PUT", "/admin/v1/routes/a", object{}},
		{"PATCH", "/admin/v1/services/a", object{}}, {"PATCH", "/admin/v1/routes/a", object{}},
		{"DELETE", "/admin/v1/services/b", nil}, {"DELETE", "/admin/v1/routes/a", nil},
	} {
		wantProblem(t, p.Call(t, c.method, c.path, c.body, p.on(tag)...), http.StatusConflict, "config.source_is_file")
	}
	out := p.Want(t, http.StatusOK, "PUT", configPath+"?dry_run=true", strings.Replace(firstDocument, "body: one", "body: two", 1), p.yaml(p.operator)...).JSON(t)
	if out["valid"] != true || len(out["diff"].([]any)) != 1 {
		t.Errorf("a dry run against the file: %v", out)
	}
	if got := p.Want(t, http.StatusOK, "GET", "/admin/v1/services/a", nil, p.viewer.Auth()...).JSON(t)["url"]; got != "http://127.0.0.1:1" {
		t.Errorf("service a is at %v", got)
	}
	if got := items(t, p.Want(t, http.StatusOK, "GET", configPath+"/revisions", nil, p.viewer.Auth()...)); len(got) > 0 {
		t.Errorf("there are revisions: %v", got)
	}
	// A file that is no good leaves the last one in force, and says so.
	if err := os.WriteFile(p.GatewayFile, []byte("version: 1\nroutes: [{}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Want(t, http.StatusAccepted, "POST", configPath+"/reload", nil, p.operator.Auth()...)
	apptest.Eventually(t, "the state says what is wrong", func() bool {
		s := p.Want(t, http.StatusOK, "GET", "/admin/v1/state", nil, p.viewer.Auth()...).JSON(t)
		problem, _ := s["last_error"].(string)
		return strings.Contains(problem, "routes[0]") && s["failed_at"] != nil && s["source"] == "file" && s["revision"] == nil
	})
	if got := p.tag(t); got != tag {
		t.Error("a file that is no good is shown as the document")
	}
	p.says(t, "one")
}

func TestExplainTellsWithoutCalling(t *testing.T) {
	called := make(chan string, 100)
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { called <- r.URL.Path }))
	t.Cleanup(backend.Close)
	p := administered{Program: start(t, apptest.Options{Set: roomy(), Gateway: fmt.Sprintf(`
version: 1
services: [{name: orders, url: %q}]
routes:
  - {name: orders, match: {path: {prefix: /orders}, hosts: [api.example.com]}, service: orders, allow_ips: [192.0.2.0/24], auth: {scopes: ["orders:write"], methods: [key]}}
  - {name: gone, match: {path: {exact: /gone}}, respond: {status: 410}, auth: {mode: none}}
`, backend.URL)})}
	p.admin = p.Admin(t)
	p.viewer = p.as(t, access.RoleViewer)
	explain := func(body object) object {
		t.Helper()
		return p.Want(t, http.StatusOK, "POST", "/admin/v1/explain", body, p.viewer.Auth()...).JSON(t)
	}
	key := object{"kind": "key", "scopes": []string{"orders:write"}}
	at := "https://api.example.com/orders/7?x=1"
	for _, c := range []struct {
		name           string
		body           object
		allowed        bool
		route, service any
		code           any
	}{
		{"good", object{"method": "POST", "url": at, "client": "192.0.2.1", "principal": key, "headers": object{"x-a": []string{"b"}}, "body_bytes": 5}, true, "orders", "orders", nil},
		{"other address", object{"method": "POST", "url": at, "client": "192.0.3.1", "principal": key}, false, "orders", "orders", "gateway.address_not_allowed"},
		{"own address", object{"method": "POST", "url": at, "principal": key}, false, "orders", "orders", "gateway.address_not_allowed"},
		{"nobody", object{"method": "POST", "url": at, "client": "192.0.2.1"}, false, "orders", "orders", "auth.missing"},
		{"without the scope", object{"method": "POST", "url": at, "client": "192.0.2.1", "principal": object{"kind": "key", "scopes": []string{}}}, false, "orders", "orders", "access.scope_missing"},
		{"another host", object{"method": "GET", "url": "https://www.example.com/orders"}, false, nil, nil, "gateway.no_route"},
		{"an answer of its own", object{"method": "GET", "url": "/gone"}, true, "gone", nil, nil},
		{"no canonical form", object{"method": "GET", "url": "/a/%2e%2e/gone"}, false, nil, nil, "request.path_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := explain(c.body)
			refusal, _ := got["refusal"].(object)
			if got["allowed"] != c.allowed || got["route"] != c.route || got["service"] != c.service || refusal["code"] != c.code {
				t.Errorf("got %v", got)
			}
		})
	}
	for _, c := range []struct {
		body   object
		fields []string
	}{
		{object{}, []string{"method", "url"}}, {object{"method": "get", "url": "ftp://a"}, []string{"method", "url"}},
		{object{"method": "GET", "url": "//host/x"}, []string{"url"}}, {object{"method": "GET", "url": "http://a:b@c/"}, []string{"url"}},
		{object{"method": "GET", "url": "/", "client": "localhost", "body_bytes": -2}, []string{"client", "body_bytes"}},
		{object{"method": "GET", "url": "/", "principal": object{"kind": "root"}}, []string{"principal.kind"}},
		{object{"method": "GET", "url": "/", "principal": object{"kind": "user", "role": "root"}}, []string{"principal.role"}},
		{object{"method": "GET", "url": "/", "principal": object{"kind": "user", "scopes": []string{"a"}}}, []string{"principal.scopes"}},
		{object{"method": "GET", "url": "/", "principal": object{"kind": "key", "scopes": []string{"*"}}}, []string{"principal.scopes[0]"}},
	} {
		wantProblem(t, p.Call(t, "POST", "/admin/v1/explain", c.body, p.viewer.Auth()...), http.StatusBadRequest, "request.invalid", c.fields...)
	}
	if len(called) > 0 {
		t.Errorf("the backend was called: %s", <-called)
	}
}
