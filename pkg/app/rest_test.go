package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/problem"
)

// object is a JSON object.
type object = map[string]any

// unknownID is well-formed and belongs to nothing.
const unknownID = "01890a5d-ac96-774b-bcce-b302099a8057"

// ---- docs/swagger.json

// apiDocument is what the tests look at of docs/swagger.json.
type apiDocument struct {
	Host                string                          `json:"host"`
	BasePath            string                          `json:"basePath"`
	Paths               map[string]map[string]operation `json:"paths"`
	Definitions         map[string]schema               `json:"definitions"`
	SecurityDefinitions map[string]struct{ Type, Name, In string }
}

type operation struct {
	Parameters []struct{ Name, In string }        `json:"parameters"`
	Responses  map[string]struct{ Schema schema } `json:"responses"`
	Security   []map[string][]string              `json:"security"`
}

// hasBody reports whether the operation reads a body.
func (o operation) hasBody() bool {
	return slices.ContainsFunc(o.Parameters, func(p struct{ Name, In string }) bool { return p.In == "body" })
}

type schema struct {
	Type                 string            `json:"type"`
	Ref                  string            `json:"$ref"`
	AllOf                []schema          `json:"allOf"`
	Properties           map[string]schema `json:"properties"`
	Items                *schema           `json:"items"`
	AdditionalProperties *schema           `json:"additionalProperties"`
}

var readAPI = sync.OnceValues(func() (apiDocument, error) {
	var d apiDocument
	text, err := os.ReadFile(filepath.Join(root, "docs/swagger.json"))
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(text, &d)
})

func documentedAPI(tb testing.TB) apiDocument {
	tb.Helper()
	d, err := readAPI()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// call is an operation of the document with its method and path template.
type call struct {
	method, path string
	operation
}

// calls are all operations, sorted.
func (d apiDocument) calls() []call {
	var all []call
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			all = append(all, call{method: strings.ToUpper(method), path: path, operation: d.Paths[path][method]})
		}
	}
	return all
}

// pathParameter is a parameter in a path of the document.
var pathParameter = regexp.MustCompile(`\{[a-z]+\}`)

// at is the path with id in place of its parameter.
func (c call) at(id string) string { return pathParameter.ReplaceAllString(c.path, id) }

// template is the documented path that a request's target belongs to, or "".
func (d apiDocument) template(target string) string {
	path, _, _ := strings.Cut(target, "?")
	if _, ok := d.Paths[path]; ok {
		return path
	}
	parts := strings.Split(path, "/")
	for known := range d.Paths {
		matches := func(part, at string) bool { return part == at || pathParameter.MatchString(part) && at != "" }
		if slices.EqualFunc(strings.Split(known, "/"), parts, matches) {
			return known
		}
	}
	return ""
}

// ---- which documented answers were received

// received is what all tests of this process got; TestMain looks at it in the end.
var received answers

// answers remembers "METHOD path status".
type answers struct {
	mu   sync.Mutex
	seen map[string]bool
}

func answerName(method, template string, status int) string {
	return method + " " + template + " " + strconv.Itoa(status)
}

func (a *answers) note(method, template string, status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen == nil {
		a.seen = map[string]bool{}
	}
	a.seen[answerName(method, template, status)] = true
}

// missing lists the documented answers that nobody has received.
func (a *answers) missing() ([]string, error) {
	d, err := readAPI()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var missing []string
	for _, c := range d.calls() {
		for _, status := range slices.Sorted(maps.Keys(c.Responses)) {
			if name := c.method + " " + c.path + " " + status; !a.seen[name] {
				missing = append(missing, name)
			}
		}
	}
	return missing, nil
}

// The check of TestMain must not pass because it looks at nothing.
func TestMissingAnswersAreNoticed(t *testing.T) {
	var a answers
	all, err := a.missing()
	if err != nil || len(all) < 100 {
		t.Fatalf("%d documented answers: %v", len(all), err)
	}
	a.note("DELETE", "/users/{id}", http.StatusConflict)
	left, err := a.missing()
	if err != nil || len(left) != len(all)-1 || slices.Contains(left, "DELETE /users/{id} 409") {
		t.Errorf("%d of %d are missing after one: %v", len(left), len(all), err)
	}
	d := documentedAPI(t)
	for target, want := range map[string]string{
		"/users/me": "/users/me", "/users/" + unknownID + "?x=1": "/users/{id}", "/api-keys/self": "/api-keys/self",
		"/admin/v1/config/revisions/3/rollback": "/admin/v1/config/revisions/{number}/rollback", "/admin/v1/routes/a": "/admin/v1/routes/{name}",
		"/catalog/apps/1/subscriptions/2": "/catalog/apps/{app}/subscriptions/{subscription}",
		"/api-keys/1/rotate":              "/api-keys/{id}/rotate", "/api-keys/1/2": "", "/users/": "", "/none": "",
	} {
		if got := d.template(target); got != want {
			t.Errorf("%s is taken for %q, want %q", target, got, want)
		}
	}
}

// ---- the program under test

// roomy keeps throttles out of the way of tests that are not about them.
func roomy() map[string]string {
	return map[string]string{
		"throttle.account_failures": "10000", "throttle.account_refill": "1ms",
		"throttle.address_failures": "10000", "throttle.address_refill": "1ms",
		"throttle.registrations": "10000", "throttle.registration_refill": "1ms",
	}
}

// start starts the program. Every answer that the test receives from then on is
// held against the rules that all answers keep and against docs/swagger.json,
// and the audit chain must hold in the end.
func start(t *testing.T, o apptest.Options) *apptest.Program {
	t.Helper()
	d := documentedAPI(t)
	p := apptest.Start(t, o)
	p.OnAnswer = func(method, target string, a apptest.Answer) {
		checkEveryAnswer(t, method, target, a)
		checkDocumented(t, d, method, target, a)
	}
	t.Cleanup(func() { checkAuditChain(t, p) })
	return p
}

// checkAuditChain does what "keywarden audit verify" does.
func checkAuditChain(t *testing.T, p *apptest.Program) {
	t.Helper()
	// The test's own context has ended by the time of its cleanups.
	v, err := p.Platform.Chain.Verify(context.WithoutCancel(t.Context()), p.Platform.Store)
	if err != nil || v.Records == 0 {
		t.Errorf("the audit chain: %d records, %v", v.Records, err)
	}
}

// checkEveryAnswer holds what every answer of the platform keeps.
func checkEveryAnswer(t *testing.T, method, target string, a apptest.Answer) {
	t.Helper()
	name := method + " " + target
	if _, err := uuid.Parse(a.Header.Get("X-Request-Id")); err != nil {
		t.Errorf("%s: status %d with X-Request-Id %q", name, a.Status, a.Header.Get("X-Request-Id"))
	}
	for _, banner := range []string{"Server", "X-Powered-By", "Via"} {
		if v := a.Header.Values(banner); len(v) > 0 {
			t.Errorf("%s: %s: %q tells what the platform is made of", name, banner, v)
		}
	}
	if a.Status == http.StatusInternalServerError {
		t.Errorf("%s: status 500: %s", name, a.Body)
	}
	if a.Status >= 400 && method != http.MethodHead && !strings.HasPrefix(target, "/readyz") {
		checkProblem(t, name, a)
	}
}

// checkProblem holds the form of an error (RFC 9457) and the headers that its
// status asks for.
func checkProblem(t *testing.T, name string, a apptest.Answer) {
	t.Helper()
	if got := a.Header.Get("Content-Type"); got != problem.ContentType {
		t.Errorf("%s: status %d with Content-Type %q", name, a.Status, got)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("%s: status %d with Cache-Control %q", name, a.Status, got)
	}
	var d problem.Document
	strict := json.NewDecoder(bytes.NewReader(a.Body))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&d); err != nil {
		t.Errorf("%s: status %d without a problem document: %v: %.200s", name, a.Status, err, a.Body)
		return
	}
	want := problem.Document{
		Type: "urn:keywarden:problem:" + d.Code, Title: http.StatusText(a.Status), Status: a.Status,
		Detail: d.Detail, Code: d.Code, RequestID: a.Header.Get("X-Request-Id"), Errors: d.Errors,
		ViolatedPolicies: d.ViolatedPolicies, DecisionID: d.DecisionID, // of the gateway's refusals
	}
	if diff := cmp.Diff(want, d); diff != "" || d.Code == "" || d.Detail == "" {
		t.Errorf("%s: the problem document is not as it should be (-want +got):\n%s", name, diff)
	}
	for header, statuses := range map[string][]int{
		"WWW-Authenticate": {http.StatusUnauthorized},
		"Retry-After":      {http.StatusTooManyRequests, http.StatusServiceUnavailable},
		"Allow":            {http.StatusMethodNotAllowed},
	} {
		if slices.Contains(statuses, a.Status) && a.Header.Get(header) == "" {
			t.Errorf("%s: status %d without %s", name, a.Status, header)
		}
	}
	if v := a.Header.Get("Retry-After"); v != "" {
		if n, err := strconv.Atoi(v); err != nil || n < 1 {
			t.Errorf("%s: Retry-After %q is no positive number of seconds", name, v)
		}
	}
}

// unspecific are answers that any call may get before it is looked at closely,
// or where its path is not the platform's.
var unspecific = []string{"auth.ambiguous", "auth.throttled", "request.path_invalid", "request.host_invalid", "gateway.no_route"}

// checkDocumented holds the answer against docs/swagger.json: its status is
// there, and so is each member of its body.
func checkDocumented(t *testing.T, d apiDocument, method, target string, a apptest.Answer) {
	t.Helper()
	template := d.template(target)
	op, ok := d.Paths[template][strings.ToLower(method)]
	if !ok {
		return // not an operation of the document; 404 and 405 have tests of their own
	}
	received.note(method, template, a.Status)
	name := answerName(method, template, a.Status)
	response, ok := op.Responses[strconv.Itoa(a.Status)]
	if !ok {
		var p problem.Document
		_ = json.Unmarshal(a.Body, &p)
		if !slices.Contains(unspecific, p.Code) {
			t.Errorf("%s is not documented: %s", name, a.Body)
		}
		return
	}
	var body any
	if response.Schema.Ref == "" || json.Unmarshal(a.Body, &body) != nil {
		return
	}
	for _, member := range d.undocumented(response.Schema, body, "") {
		t.Errorf("%s: the member %s is not documented", name, member)
	}
}

// undocumented lists the members of v that its schema does not know.
func (d apiDocument) undocumented(s schema, v any, path string) []string {
	if len(s.AllOf) == 1 { // a reference with a description of its own
		s = s.AllOf[0]
	}
	if s.Ref != "" {
		s = d.Definitions[strings.TrimPrefix(s.Ref, "#/definitions/")]
	}
	if s.Type == "object" && s.Properties == nil && s.AdditionalProperties == nil {
		return nil // a part of the gateway document, which has a schema of its own
	}
	var list []string
	switch v := v.(type) {
	case object:
		for name, member := range v {
			known, ok := s.Properties[name]
			switch {
			case ok:
				list = append(list, d.undocumented(known, member, path+"."+name)...)
			case s.AdditionalProperties == nil:
				list = append(list, path+"."+name)
			}
		}
	case []any:
		for i, element := range v {
			if s.Items == nil {
				return append(list, path)
			}
			list = append(list, d.undocumented(*s.Items, element, fmt.Sprintf("%s[%d]", path, i))...)
		}
	}
	return list
}

// ---- looking at answers

// wantProblem fails unless the answer is the problem, about the fields.
func wantProblem(t *testing.T, a apptest.Answer, status int, code string, fields ...string) {
	t.Helper()
	var d problem.Document
	if err := json.Unmarshal(a.Body, &d); err != nil {
		t.Fatalf("status %d, not a problem: %.300s", a.Status, a.Body)
	}
	var named []string
	for _, f := range d.Errors {
		named = append(named, f.Field)
		if f.Detail == "" {
			t.Errorf("nothing is said about field %q: %s", f.Field, a.Body)
		}
	}
	slices.Sort(named)
	slices.Sort(fields)
	if a.Status != status || d.Code != code || !slices.Equal(named, fields) {
		t.Fatalf("status %d, code %s, fields %q; want %d, %s, %q: %s", a.Status, d.Code, named, status, code, fields, a.Body)
	}
}

// members are the names of the members of an object, sorted.
func members(t *testing.T, v any) []string {
	t.Helper()
	o, ok := v.(object)
	if !ok {
		t.Fatalf("not an object: %v", v)
	}
	return slices.Sorted(maps.Keys(o))
}

// wantMembers fails unless the object has these members and no others.
func wantMembers(t *testing.T, v any, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, members(t, v)); diff != "" {
		t.Fatalf("members (-want +got):\n%s", diff)
	}
}

// items is the list of a page.
func items(t *testing.T, a apptest.Answer) []object {
	t.Helper()
	var page struct {
		Items []object `json:"items"`
	}
	if err := json.Unmarshal(a.Body, &page); err != nil || page.Items == nil {
		t.Fatalf("status %d, not a page: %v: %.300s", a.Status, err, a.Body)
	}
	return page.Items
}

// idsOf are the members id of the items.
func idsOf(list []object) []string {
	ids := []string{}
	for _, item := range list {
		id, _ := item["id"].(string)
		ids = append(ids, id)
	}
	return ids
}

// anonymous is the body of a problem without what tells two of them apart.
func anonymous(a apptest.Answer) string {
	return strings.ReplaceAll(string(a.Body), a.Header.Get("X-Request-Id"), "")
}

// collect follows the cursors of a list from its first page to its last one.
// query is the query string without cursor.
func collect(t *testing.T, p *apptest.Program, u *apptest.User, path, query string) (pages [][]object) {
	t.Helper()
	cursor := ""
	for {
		a := p.Want(t, http.StatusOK, "GET", path+"?"+query+cursor, nil, u.Auth()...)
		pages = append(pages, items(t, a))
		next, more := a.JSON(t)["next_cursor"].(string)
		if !more {
			return pages
		}
		if len(pages) > 1000 {
			t.Fatalf("%s: the pages never end", path)
		}
		cursor = "&cursor=" + next
	}
}

// auditTrail reads all audit records of the query, newest first.
func auditTrail(t *testing.T, p *apptest.Program, admin *apptest.User, query string) []object {
	t.Helper()
	return slices.Concat(collect(t, p, admin, "/audit", "limit=200"+query)...)
}
