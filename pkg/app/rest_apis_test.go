package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/app/apptest"
)

const apisPath = "/admin/v1/apis"

const peopleDescription = `openapi: 3.0.3
info: {title: People, version: 1.0.0}
security: []
paths:
  /people:
    get: {operationId: listUsers, responses: {"200": {description: all}}}
    post: {operationId: createUser, responses: {"201": {description: one}}}
  /people/{id}:
    get:
      operationId: getUser
      parameters: [{name: id, in: path, required: true, schema: {type: integer}}]
      responses: {"200": {description: one}}
`

// names are the texts of a list.
func names(t *testing.T, list any) []string {
	t.Helper()
	var out []string
	for _, name := range list.([]any) {
		out = append(out, name.(string))
	}
	return out
}

// noticed are the operations of an answer, in short.
func noticed(answer object) []string {
	var out []string
	for _, o := range answer["operations"].([]any) {
		line := fmt.Sprint(o.(object)["kind"], " ", o.(object)["operation"])
		if o.(object)["breaking"] == true {
			line += " breaks"
		}
		out = append(out, line)
	}
	return out
}

func TestAPIIsImportedShownAndRemoved(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) }))
	t.Cleanup(backend.Close)
	p := startAdministered(t, nil)
	tag := p.first(t)
	at := apisPath + "?name=people&validate=true&service=" + backend.URL
	post := func(at, text string, headers ...string) apptest.Answer {
		t.Helper()
		return p.Want(t, http.StatusOK, "POST", at, text, p.yaml(p.operator, headers...)...)
	}

	// Without apply nothing happens, and the answer says what would.
	plan := post(at, peopleDescription).JSON(t)
	added := []string{"people.getUser", "people.listUsers", "people.createUser"}
	if diff := cmp.Diff(added, names(t, plan["routes"].(object)["added"])); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"added GET /people", "added POST /people", "added GET /people/{id}"}, noticed(plan)); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	if plan["dry_run"] != true || plan["valid"] != true || plan["breaking"] != false || plan["compared_with"] != "nothing" || plan["revision"] != nil {
		t.Errorf("plan %v", plan)
	}
	if got := p.tag(t); got != tag {
		t.Fatal("the document has changed without apply=true")
	}

	done := post(at+"&apply=true&message=people", peopleDescription, "If-Match", tag)
	out := done.JSON(t)
	if out["revision"] != 2.0 || out["dry_run"] != false || out["digest"] != plan["digest"] || done.Header.Get("ETag") != p.tag(t) {
		t.Errorf("applied: %v, planned: %v", out, plan)
	}
	if got := names(t, out["services_added"]); !slices.Equal(got, []string{"people"}) {
		t.Errorf("services %v", got)
	}
	tag = done.Header.Get("ETag")
	apptest.Eventually(t, "the API is served", func() bool { return string(p.Call(t, "GET", "/people/7", nil).Body) == "/people/7" })
	wantProblem(t, p.Call(t, "GET", "/people/seven", nil), http.StatusBadRequest, "request.invalid", "/path/id")
	p.says(t, "one") // the rest of the document stays
	revisions := items(t, p.Want(t, http.StatusOK, "GET", configPath+"/revisions", nil, p.viewer.Auth()...))
	if r := revisions[0]; r["author_id"] != p.operator.ID || r["message"] != "people" {
		t.Errorf("revision %v", r)
	}
	audit := items(t, p.Want(t, http.StatusOK, "GET", "/audit?action=config.applied&limit=1", nil, p.admin.Auth()...))
	if len(audit) != 1 || audit[0]["target_id"] != "2" {
		t.Errorf("audit %v", audit)
	}

	// It is listed and shown with its description.
	want := object{"name": "people", "title": "People", "version": "1.0.0", "openapi": "3.0", "described": true, "routes": 3.0, "services": []any{"people"}}
	list := p.Want(t, http.StatusOK, "GET", apisPath, nil, p.viewer.Auth()...)
	if diff := cmp.Diff([]object{want}, items(t, list)); diff != "" || list.Header.Get("ETag") != tag {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	one := p.Want(t, http.StatusOK, "GET", apisPath+"/people", nil, p.viewer.Auth()...).JSON(t)
	if got := one["items"].([]any)[0].(object); one["description"] != peopleDescription || got["regex"] != "/people/[^/]+" || got["operation"] != "getUser" {
		t.Errorf("people: %v", one)
	}

	// The next version is compared with the description that the document holds.
	second := strings.NewReplacer("    post: {operationId: createUser, responses: {\"201\": {description: one}}}\n", "", "type: integer", "type: string").Replace(peopleDescription)
	plan = post(at, second).JSON(t)
	if diff := cmp.Diff([]string{"removed POST /people breaks", "changed GET /people/{id} breaks"}, noticed(plan)); diff != "" || plan["breaking"] != true || plan["compared_with"] != "description" {
		t.Errorf("%v (-want +got):\n%s", plan, diff)
	}
	if got := plan["routes"].(object); !slices.Equal(names(t, got["removed"]), []string{"people.createUser"}) {
		t.Errorf("routes %v", got)
	}
	// Without validate the description goes; then there are the routes to compare with.
	tag = post(strings.Replace(at, "validate=true", "validate=false", 1)+"&apply=true", peopleDescription, "If-Match", tag).Header.Get("ETag")
	plan = post(at, strings.Replace(second, "security: []", "security: [{key: []}]\ncomponents: {securitySchemes: {key: {type: apiKey, in: header, name: X-API-Key}}}", 1)).JSON(t)
	if diff := cmp.Diff([]string{"changed GET /people breaks", "removed POST /people breaks", "changed GET /people/[^/]+ breaks"}, noticed(plan)); diff != "" || plan["compared_with"] != "routes" {
		t.Errorf("%v (-want +got):\n%s", plan, diff)
	}

	dry := p.Want(t, http.StatusOK, "DELETE", apisPath+"/people?dry_run=true", nil, p.operator.Auth()...).JSON(t)
	if dry["dry_run"] != true || len(dry["diff"].([]any)) != 3 {
		t.Errorf("%v", dry)
	}
	gone := p.Want(t, http.StatusOK, "DELETE", apisPath+"/people", nil, p.on(tag)...)
	if got := gone.Header.Get("ETag"); got != p.tag(t) || got == tag {
		t.Errorf("ETag %s", got)
	}
	apptest.Eventually(t, "the API is gone", func() bool { return p.Call(t, "GET", "/people", nil).Status == http.StatusNotFound })
	if got := items(t, p.Want(t, http.StatusOK, "GET", apisPath, nil, p.viewer.Auth()...)); len(got) > 0 {
		t.Errorf("listed after its end: %v", got)
	}
	wantProblem(t, p.Call(t, "GET", apisPath+"/people", nil, p.viewer.Auth()...), http.StatusNotFound, "apis.unknown")
	wantProblem(t, p.Call(t, "DELETE", apisPath+"/people", nil, p.on("*")...), http.StatusNotFound, "apis.unknown")
}

// Generated descriptions are large, and JSON in one line.
func TestLargeDescriptionsAreImportedAndReadBack(t *testing.T) {
	p := startAdministered(t, nil)
	var paths []string
	for i := range 300 {
		paths = append(paths, fmt.Sprintf(`"/things/%d":{"get":{"operationId":"thing%d","responses":{"200":{"description":%q}}}}`, i, i, strings.Repeat("word ", 100)))
	}
	text := `{"openapi":"3.1.0","info":{"title":"Things","version":"2"},"security":[],"paths":{` + strings.Join(paths, ",") + `}}`
	at := apisPath + "?name=things&validate=true&apply=true&service=http://127.0.0.1:1"
	for _, media := range []string{"application/openapi+json", "application/json", "application/yaml"} {
		headers := p.operator.With("Content-Type", media, "If-None-Match", "*")
		if media != "application/openapi+json" {
			headers = p.operator.With("Content-Type", media, "If-Match", p.tag(t))
		}
		if out := p.Want(t, http.StatusOK, "POST", at, text, headers...).JSON(t); out["revision"] != 1.0 || out["changed"] != (media == "application/openapi+json") {
			t.Errorf("%s: revision %v, changed %v", media, out["revision"], out["changed"])
		}
	}
	apptest.Eventually(t, "the API is served", func() bool { return p.Call(t, "GET", "/things/299", nil).Status == http.StatusBadGateway })
	if got := items(t, p.Want(t, http.StatusOK, "GET", apisPath, nil, p.viewer.Auth()...)); got[0]["routes"] != 300.0 || got[0]["title"] != "Things" {
		t.Errorf("%v", got)
	}
}

func TestImportsAreRefused(t *testing.T) {
	p := startAdministered(t, nil)
	for _, path := range []string{apisPath, apisPath + "/people"} {
		wantProblem(t, p.Call(t, "GET", path, nil, p.viewer.Auth()...), http.StatusNotFound, "config.none")
	}
	wantProblem(t, p.Call(t, "DELETE", apisPath+"/people", nil, p.on("*")...), http.StatusNotFound, "config.none")
	tag := p.first(t)
	at := apisPath + "?name=people&service=http://127.0.0.1:1"
	post := func(query, text string, headers ...string) apptest.Answer {
		t.Helper()
		return p.Call(t, "POST", at+query, text, p.yaml(p.operator, headers...)...)
	}

	// What is wrong with the description has its place in it, with apply and without.
	bad := "openapi: 3.0.3\ninfo: {title: a, version: b}\npaths:\n  /a:\n    get: {security: [{nobody: []}], responses: {}}\n    put: {$ref: 'https://127.0.0.1:1/x.yaml'}\n"
	for _, query := range []string{"", "&apply=true"} {
		a := post(query, bad, "If-Match", tag)
		wantProblem(t, a, http.StatusUnprocessableEntity, "apis.invalid", "paths./a.get.security[0].nobody", "paths./a.put.$ref")
		if !strings.Contains(string(a.Body), `"line":5`) || !strings.Contains(string(a.Body), "none is ever fetched") {
			t.Errorf("%s", a.Body)
		}
	}
	for _, text := range []string{"", "[]", "\x00", "openapi: 3.0.3\n---\nopenapi: 3.0.3\n", "a: [", `{"openapi":"9.0.0"}`} {
		if a := post("", text); a.Status != http.StatusUnprocessableEntity || a.JSON(t)["code"] != "apis.invalid" {
			t.Errorf("%q: %d %s", text, a.Status, a.Body)
		}
	}
	// A service that nobody knows makes the gateway document invalid.
	unknown := apisPath + "?name=people&service=nobody"
	dry := p.Want(t, http.StatusOK, "POST", unknown, peopleDescription, p.yaml(p.operator)...).JSON(t)
	if v := dry["violations"].([]any); dry["valid"] != false || len(v) == 0 || !strings.HasPrefix(v[0].(object)["field"].(string), "routes[") || v[0].(object)["line"] != nil {
		t.Errorf("%v", dry)
	}
	a := p.Call(t, "POST", unknown+"&apply=true", peopleDescription, p.yaml(p.operator, "If-Match", tag)...)
	wantProblem(t, a, http.StatusUnprocessableEntity, "config.invalid", "routes[2].service", "routes[3].service", "routes[4].service")
	// Another service of the name that the API would add is not replaced.
	for _, query := range []string{"", "&apply=true"} {
		a := p.Call(t, "POST", apisPath+"?name=a&service=http://127.0.0.1:9"+query, peopleDescription, p.yaml(p.operator, "If-Match", tag)...)
		wantProblem(t, a, http.StatusConflict, "apis.service_differs", "service")
	}

	for query, field := range map[string]string{
		"&validate=yes": "validate", "&apply=1": "apply", "&base_path=none": "base_path", "&name=x": "name", "&apply=true&message=a%0Ab": "message",
	} {
		wantProblem(t, post(query, peopleDescription, "If-Match", tag), http.StatusBadRequest, "request.invalid", field)
	}
	wantProblem(t, post("&force=true", peopleDescription), http.StatusBadRequest, "request.invalid")
	for _, name := range []string{"", "a.b", strings.Repeat("a", 25), "-a"} {
		a := p.Call(t, "POST", apisPath+"?name="+name, peopleDescription, p.yaml(p.operator)...)
		wantProblem(t, a, http.StatusBadRequest, "request.invalid", "name")
	}
	wantProblem(t, p.Call(t, "POST", at, peopleDescription, p.operator.With("Content-Type", "text/plain")...), http.StatusUnsupportedMediaType, "request.media_type")
	wantProblem(t, post("", strings.Repeat("#", 16<<20+1)), http.StatusRequestEntityTooLarge, "request.body_too_large")

	wantProblem(t, post("&apply=true", peopleDescription), http.StatusPreconditionRequired, "config.precondition_required")
	wantProblem(t, post("&apply=true", peopleDescription, "If-Match", `"x"`), http.StatusPreconditionFailed, "config.changed")
	wantProblem(t, post("", peopleDescription, "If-Match", `"x"`), http.StatusPreconditionFailed, "config.changed")
	wantProblem(t, post("&apply=true", peopleDescription, "If-None-Match", "*"), http.StatusPreconditionFailed, "config.exists")
	wantProblem(t, p.Call(t, "DELETE", apisPath+"/people", nil, p.operator.Auth()...), http.StatusPreconditionRequired, "config.precondition_required")
	wantProblem(t, p.Call(t, "DELETE", apisPath+"/people", nil, p.on(`"x"`)...), http.StatusPreconditionFailed, "config.changed")
	wantProblem(t, p.Call(t, "DELETE", apisPath+"/people?dry_run=no", nil, p.on(tag)...), http.StatusBadRequest, "request.invalid", "dry_run")
	a = p.Call(t, "DELETE", apisPath+"/people", nil, p.operator.With("If-None-Match", "*")...)
	wantProblem(t, a, http.StatusBadRequest, "request.invalid", "If-None-Match")
	for query, field := range map[string]string{"limit=0": "limit", "cursor=x": "cursor", "q=a": "q"} {
		wantProblem(t, p.Call(t, "GET", apisPath+"?"+query, nil, p.viewer.Auth()...), http.StatusBadRequest, "request.invalid", field)
	}
	if got := p.tag(t); got != tag {
		t.Error("refused imports changed the document")
	}

	// Who may see may not change, and others may do neither.
	for _, c := range []struct {
		method, path, scope string
		user                *apptest.User
	}{
		{"POST", at, "config:write", p.viewer}, {"DELETE", apisPath + "/people", "config:write", p.viewer},
		{"GET", apisPath, "config:read", p.user}, {"GET", apisPath + "/people", "config:read", p.user}, {"POST", at, "config:write", p.user},
	} {
		a := p.Call(t, c.method, c.path, nil, c.user.Auth()...)
		wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
	}
}

// A description that routes of others go by stays.
func TestAPIInUseStays(t *testing.T) {
	p := startAdministered(t, nil)
	p.first(t)
	at := apisPath + "?name=people&validate=true&apply=true&service=http://127.0.0.1:1"
	p.Want(t, http.StatusOK, "POST", at, peopleDescription, p.yaml(p.operator, "If-Match", p.tag(t))...)
	p.Want(t, http.StatusCreated, "PUT", "/admin/v1/routes/other", object{
		"service": "people", "match": object{"path": object{"exact": "/other"}}, "operation": object{"api": "people", "id": "listUsers"},
	}, p.on(p.tag(t))...)
	wantProblem(t, p.Call(t, "DELETE", apisPath+"/people", nil, p.on(p.tag(t))...), http.StatusConflict, "config.in_use", "routes/other")
	p.Want(t, http.StatusOK, "DELETE", "/admin/v1/routes/other", nil, p.on(p.tag(t))...)
	p.Want(t, http.StatusOK, "DELETE", apisPath+"/people", nil, p.on(p.tag(t))...)
}

// Where the document is a file, imports only say what they would do.
func TestFileIsNotImportedInto(t *testing.T) {
	p := administered{Program: start(t, apptest.Options{Gateway: firstDocument, Set: roomy()})}
	p.admin = p.Admin(t)
	p.operator, p.viewer = p.as(t, access.RoleOperator), p.as(t, access.RoleViewer)
	at := apisPath + "?name=people&service=http://127.0.0.1:1"
	wantProblem(t, p.Call(t, "POST", at+"&apply=true", peopleDescription, p.yaml(p.operator, "If-Match", p.tag(t))...), http.StatusConflict, "config.source_is_file")
	wantProblem(t, p.Call(t, "DELETE", apisPath+"/people", nil, p.on(p.tag(t))...), http.StatusConflict, "config.source_is_file")
	plan := p.Want(t, http.StatusOK, "POST", at, peopleDescription, p.yaml(p.operator)...).JSON(t)
	if len(plan["routes"].(object)["added"].([]any)) != 3 || plan["valid"] != true {
		t.Errorf("%v", plan)
	}
	if got := items(t, p.Want(t, http.StatusOK, "GET", apisPath, nil, p.viewer.Auth()...)); len(got) > 0 {
		t.Errorf("%v", got)
	}
}
