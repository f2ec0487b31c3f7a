package app_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// standing is for whom an operation of the platform's own API is.
type standing int

const (
	forOperators standing = iota + 1 // a plain user is refused, whatever the call names
	forOwners                        // the path names what somebody has: for others it does not exist
	forCallers                       // about the caller alone
)

// standings are those of the operations that need a credential and are not under
// /admin/v1, which is for operators as a whole.
func standings() map[string]standing {
	return map[string]standing{
		"GET /analytics": forCallers, "GET /usage": forCallers, "GET /quotas": forCallers, "GET /catalog/products": forCallers,
		"GET /catalog/products/{product}": forOwners, // those of operators that are hidden
		"GET /api-keys":                   forCallers, "POST /api-keys": forCallers, "GET /api-keys/self": forCallers,
		"GET /api-keys/{id}": forOwners, "PATCH /api-keys/{id}": forOwners, "DELETE /api-keys/{id}": forOwners,
		"GET /api-keys/{id}/privileges": forOwners, "POST /api-keys/{id}/rotate": forOwners, "POST /api-keys/{id}/release": forOperators,
		"GET /api/test": forCallers, "GET /catalog/apps": forCallers, "POST /catalog/apps": forCallers,
		"GET /catalog/apps/{app}": forOwners, "PATCH /catalog/apps/{app}": forOwners, "DELETE /catalog/apps/{app}": forOwners,
		"GET /catalog/apps/{app}/subscriptions": forOwners, "POST /catalog/apps/{app}/subscriptions": forOwners,
		"GET /catalog/apps/{app}/subscriptions/{subscription}": forOwners, "DELETE /catalog/apps/{app}/subscriptions/{subscription}": forOwners,
		"GET /audit": forOperators, "POST /auth/logout": forCallers, "POST /auth/password": forCallers,
		"GET /auth/sessions": forCallers, "DELETE /auth/sessions/{id}": forOwners, "GET /decisions/{id}": forOwners,
		"GET /users": forOperators, "GET /users/me": forCallers, "PATCH /users/me": forCallers,
		"GET /users/{id}": forOperators, "PATCH /users/{id}": forOperators, "DELETE /users/{id}": forOperators,
	}
}

// standingOf is that of an operation, or 0 where nobody has said it.
func standingOf(c call) standing {
	if strings.HasPrefix(c.path, "/admin/v1/") {
		return forOperators
	}
	return standings()[c.method+" "+c.path]
}

// identifier is what may stand for a parameter.
type identifier struct {
	theirs  string // of the one who is to be left alone, or of an operator
	own     string // of the one who calls; "" where there is no such thing
	unknown string // of nobody
}

// plainParameters are those of query strings and bodies that name nothing anybody has.
var plainParameters = []string{
	"limit", "from", "to", "step", "by", "top", "sort", "format", "revoked", "status", "wait", "plane", // how to answer
	"route", "api", "product", "refusal", // names of the gateway's, that everybody may know
	"name", "description", "env", "scopes", "expires_at", "expires_in", "allowed_ips", "canary", "grace_seconds", "plan", // what a thing is to be
	"current_password", "new_password",
}

// isolated is a program with two developers of which one has everything that a
// developer can have, and the other wants it.
type isolated struct {
	administered
	ann, ben       *apptest.User
	annsKey, bens  apptest.Key
	identifiers    map[string]identifier // by the path up to the parameter
	parameters     map[string]identifier // of query strings and bodies, by name
	marks          map[string]string     // what only Ann may see, by what it is
	bodies         map[string]object     // by operation
	queries        map[string][]string   // that show as much as can be shown, by operation
	callers        map[string][]string   // Ben's credentials, by the name of their scheme
	annsCredential map[string][]string
}

const isolationDocument = `
version: 1
services: [{name: nowhere, url: "http://127.0.0.1:1"}]
routes:
  - name: counted
    match: {path: {exact: /counted}}
    quota: [{name: monthly, by: user, limit: 1000, period: month}]
    respond: {status: 200, body: "0123456789"}
  - {name: guarded, match: {path: {exact: /guarded}}, service: nowhere, auth: {scopes: ["config:write"]}}
`

func startIsolated(t *testing.T) *isolated {
	t.Helper()
	w := &isolated{administered: startAdministered(t, map[string]string{"usage.flush_interval": "100ms", "alerts.allow_networks": "127.0.0.0/8"})}
	w.ann, w.ben = w.User(t), w.User(t)
	w.Want(t, http.StatusOK, "PATCH", "/users/me", object{"name": "Ann of the isle"}, w.ann.Auth()...)
	tag := w.Want(t, http.StatusOK, "PUT", configPath, isolationDocument, w.yaml(w.operator, "If-None-Match", "*")...).Header.Get("ETag")
	w.Want(t, http.StatusOK, "POST", apisPath+"?name=people&apply=true&service=http://127.0.0.1:1", peopleDescription, w.yaml(w.operator, "If-Match", tag)...)
	w.catalog(t)
	w.alerts(t)
	w.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/warehouse", object{"value": "secret"}, w.admin.Auth()...)
	w.things(t)
	return w
}

// catalog makes a product that everybody may have and one that is hidden.
func (w *isolated) catalog(t *testing.T) {
	t.Helper()
	for name, visible := range map[string]bool{"shown": true, "hidden": false} {
		at := "/admin/v1/products/" + name
		w.Want(t, http.StatusCreated, "PUT", at, object{"visible": visible, "routes": []string{"counted"}}, w.admin.Auth()...)
		w.Want(t, http.StatusCreated, "PUT", at+"/plans/free", object{}, w.admin.Auth()...)
	}
}

// Alerts and deliveries are made behind the program's back: none is due.
const isolatedAlert, isolatedDelivery = "01890a5d-ac96-8748-8cce-b302099a8001", "01890a5d-ac96-8748-8cce-b302099a8002"

func (w *isolated) alerts(t *testing.T) {
	t.Helper()
	made := func(path string, body object) string {
		return w.Want(t, http.StatusCreated, "POST", "/admin/v1/"+path, body, w.admin.Auth()...).Text(t, "id")
	}
	channel := made("alert-channels", object{"name": "chat", "kind": "slack", "url": "http://127.0.0.1:1/"})
	rule := made("alert-rules", object{"name": "keys", "signal": "key_expiry", "threshold": 7, "channels": []string{channel}})
	silence := made("alert-silences", object{"rule_id": rule, "ends": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	db := apptest.Connect(t, w.DatabaseURL)
	for _, statement := range []string{
		`INSERT INTO alerts (id, rule_id, state, alert, fired_at, resolved_at) VALUES ('` + isolatedAlert + `', '` + rule + `', 'resolved', '{}', now(), now())`,
		`INSERT INTO alert_deliveries (id, alert_id, channel_id, event, notification, state, finished_at)
			VALUES ('` + isolatedDelivery + `', '` + isolatedAlert + `', '` + channel + `', 'alert.resolved', '{}', 'dead', now())`,
	} {
		if _, err := db.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	w.identifiers = map[string]identifier{
		"/admin/v1/alert-channels/{id}":   {channel, "", unknownID},
		"/admin/v1/alert-rules/{id}":      {rule, "", unknownID},
		"/admin/v1/alert-silences/{id}":   {silence, "", unknownID},
		"/admin/v1/alerts/{id}":           {isolatedAlert, "", unknownID},
		"/admin/v1/alert-deliveries/{id}": {isolatedDelivery, "", unknownID},
	}
}

// developer is what somebody has who uses everything that is offered.
type developer struct{ app, subscription, decision, session, cursor, account string }

func (w *isolated) developer(t *testing.T, u *apptest.User) (apptest.Key, developer) {
	t.Helper()
	var d developer
	d.app = w.Want(t, http.StatusCreated, "POST", "/catalog/apps", object{"name": "book of " + u.Email}, u.Auth()...).Text(t, "id")
	d.subscription = w.Want(t, http.StatusCreated, "POST", "/catalog/apps/"+d.app+"/subscriptions", object{"product": "shown", "plan": "free"}, u.Auth()...).Text(t, "id")
	key := w.Key(t, u, object{"scopes": []string{
		"profile:read", "profile:write", "keys:read", "keys:write", "apps:read", "apps:write", "usage:read",
	}})
	ofApp := w.Key(t, u, object{"app": d.app})
	for _, auth := range [][]string{u.Auth(), key.Auth(), ofApp.Auth()} {
		w.Want(t, http.StatusOK, "GET", "/counted", nil, auth...)
	}
	d.decision = w.Want(t, http.StatusForbidden, "GET", "/guarded", nil, u.Auth()...).Text(t, "decision_id")
	d.session = sessionOf(t, u.Token)
	d.cursor = w.Want(t, http.StatusOK, "GET", "/api-keys?limit=1", nil, u.Auth()...).Text(t, "next_cursor")
	usageTotal(t, w.Program, "/usage?route=counted", 3, u.Auth()...)
	usageTotal(t, w.Program, "/analytics?route=counted", 3, u.Auth()...)
	quotas := items(t, w.Want(t, http.StatusOK, "GET", "/quotas", nil, u.Auth()...))
	if len(quotas) != 1 {
		t.Fatalf("quotas %v", quotas)
	}
	d.account = quotas[0]["id"].(string)
	return key, d
}

// things fills the tables.
func (w *isolated) things(t *testing.T) {
	t.Helper()
	var anns, bens developer
	w.annsKey, anns = w.developer(t, w.ann)
	w.bens, bens = w.developer(t, w.ben)
	maps.Copy(w.identifiers, map[string]identifier{
		"/api-keys/{id}":              {w.annsKey.ID, w.bens.ID, unknownID},
		"/catalog/apps/{app}":         {anns.app, bens.app, unknownID},
		"/auth/sessions/{id}":         {anns.session, "", unknownID},
		"/decisions/{id}":             {anns.decision, bens.decision, "made-up"},
		"/catalog/products/{product}": {"hidden", "", "none"},
		"/users/{id}":                 {w.ann.ID, w.ben.ID, unknownID},
		"/admin/v1/apps/{app}":        {anns.app, bens.app, unknownID},
		"/catalog/apps/{app}/subscriptions/{subscription}": {anns.subscription, bens.subscription, unknownID},
		"/admin/v1/subscriptions/{subscription}":           {anns.subscription, bens.subscription, unknownID},
		"/admin/v1/quotas/{id}":                            {anns.account, bens.account, unknownID},
		"/admin/v1/apis/{name}":                            {"people", "", "none"},
		"/admin/v1/config/revisions/{number}":              {"1", "", "999"},
		"/admin/v1/products/{product}":                     {"hidden", "", "none"},
		"/admin/v1/products/{product}/plans/{plan}":        {"free", "", "none"},
		"/admin/v1/routes/{name}":                          {"counted", "", "none"},
		"/admin/v1/secrets/{name}":                         {"warehouse", "", "none"},
		"/admin/v1/services/{name}":                        {"nowhere", "", "none"},
	})
	w.parameters = map[string]identifier{
		"user_id": {w.ann.ID, w.ben.ID, unknownID}, "key_id": {w.annsKey.ID, w.bens.ID, unknownID}, "app": {anns.app, bens.app, unknownID},
		"cursor": {anns.cursor, bens.cursor, ""},
	}
	w.marks = map[string]string{
		"user": w.ann.ID, "email": w.ann.Email, "name": "Ann of the isle", "key": w.annsKey.ID, "prefix of the key": w.annsKey.Secret[:20],
		"app": anns.app, "name of the app": "book of " + w.ann.Email, "subscription": anns.subscription, "session": anns.session,
		"decision": anns.decision, "quota account": anns.account,
	}
	w.bodies = map[string]object{
		"POST /api-keys": {"name": "mine"}, "POST /catalog/apps": {"name": "mine"}, "PATCH /users/me": {"name": "Ben"},
		"PATCH /api-keys/{id}": {"name": "mine"}, "POST /api-keys/{id}/rotate": {"grace_seconds": 0}, "PATCH /catalog/apps/{app}": {"name": "mine"},
		"POST /catalog/apps/{app}/subscriptions": {"product": "shown", "plan": "free"},
		"POST /auth/password":                    {"current_password": w.ann.Password + "!", "new_password": anotherPassword},
	}
	span := url.Values{
		"from": {time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)}, "to": {time.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
	}.Encode()
	w.queries = map[string][]string{
		"GET /usage":     {"by=key,app,route&" + span},
		"GET /analytics": {"by=key,app,route&" + span, "by=key,app,route&format=csv&" + span},
		"GET /api-keys":  {"revoked=true&limit=200"},
	}
	w.callers = map[string][]string{"BearerAuth": w.ben.Auth(), "ApiKeyAuth": w.bens.Auth()}
	w.annsCredential = map[string][]string{"BearerAuth": w.ann.Auth(), "ApiKeyAuth": w.annsKey.Auth()}
}

// places are the parameters of a path, each with the path up to it.
func places(path string) []string {
	var all []string
	for _, at := range pathParameter.FindAllStringIndex(path, -1) {
		all = append(all, path[:at[1]])
	}
	return all
}

// fill puts the chosen identifiers into a path, the last place first.
func (w *isolated) fill(path string, choose func(place string, id identifier) string) string {
	for _, place := range slices.Backward(places(path)) {
		at := strings.LastIndexByte(place, '{')
		path = path[:at] + choose(place, w.identifiers[place]) + path[len(place):]
	}
	return path
}

func theirs(_ string, id identifier) string  { return id.theirs }
func unknown(_ string, id identifier) string { return id.unknown }

// wantNoMark fails where an answer shows something that is Ann's. said is what the
// question has said itself.
func (w *isolated) wantNoMark(t *testing.T, a apptest.Answer, said string) {
	t.Helper()
	text := strings.ToLower(string(a.Body))
	for what, mark := range w.marks {
		if strings.Contains(text, strings.ToLower(mark)) && !strings.Contains(said, mark) {
			t.Errorf("status %d shows Ann's %s: %.500s", a.Status, what, a.Body)
		}
	}
}

// Nobody sees or reaches what another developer has, by any operation that
// docs/swagger.json describes. R71, R73.
func TestDevelopersAreIsolated(t *testing.T) {
	w := startIsolated(t)
	bodies := bodyMembers(t)
	before := w.whatAnnHas(t)
	counted := map[standing]int{}
	for _, c := range documentedAPI(t).calls() {
		name := c.method + " " + c.path
		if c.Security == nil {
			if c.method == http.MethodGet {
				w.wantNoMark(t, w.Call(t, c.method, c.path, nil), "")
			}
			continue
		}
		counted[standingOf(c)]++
		t.Run(name, func(t *testing.T) {
			if !w.allIsSaid(t, c, bodies[name]) {
				return
			}
			for scheme, auth := range w.callers {
				if !slices.ContainsFunc(c.Security, func(s map[string][]string) bool { _, ok := s[scheme]; return ok }) {
					continue
				}
				switch standingOf(c) {
				case forOperators:
					w.checkRefused(t, c, auth)
				case forOwners:
					w.checkAbsent(t, c, auth)
				case forCallers:
					w.checkAlone(t, c, bodies[name], scheme)
				}
			}
		})
	}
	if diff := cmp.Diff(before, w.whatAnnHas(t)); diff != "" {
		t.Errorf("Ann's things have changed:\n%s", diff)
	}
	if counted[forOperators] < 70 || counted[forOwners] < 14 || counted[forCallers] < 12 {
		t.Errorf("operations looked at: %v", counted)
	}
	described := map[string]bool{}
	for _, c := range documentedAPI(t).calls() {
		described[c.method+" "+c.path] = true
	}
	for name := range standings() {
		if !described[name] {
			t.Errorf("there is no operation %s", name)
		}
	}
}

// allIsSaid fails where an operation takes something of which this test does not
// know whose it is.
func (w *isolated) allIsSaid(t *testing.T, c call, members []string) bool {
	t.Helper()
	where := standingOf(c)
	if where == 0 {
		t.Error("nobody has said for whom this operation is: add it to standings")
		return false
	}
	for _, place := range places(c.path) {
		if w.identifiers[place] == (identifier{}) {
			t.Errorf("no identifier is known for %s", place)
		}
	}
	if where == forOperators {
		return !t.Failed()
	}
	named := slices.Clone(members)
	for _, p := range c.Parameters {
		if p.In == "query" {
			named = append(named, p.Name)
		}
	}
	for _, n := range named {
		if !slices.Contains(plainParameters, n) && w.parameters[n] == (identifier{}) {
			t.Errorf("nobody has said whether the parameter %s names something that is somebody's", n)
		}
	}
	if len(members) > 0 && w.bodies[c.method+" "+c.path] == nil {
		t.Error("no body is known that would be accepted")
	}
	return !t.Failed()
}

// checkRefused holds for what is for operators: a user learns nothing by it.
func (w *isolated) checkRefused(t *testing.T, c call, auth []string) {
	t.Helper()
	answer := w.Call(t, c.method, w.fill(c.path, theirs), nil, auth...)
	wantProblem(t, answer, http.StatusForbidden, "access.scope_missing")
	wantSameAnswer(t, w.Call(t, c.method, w.fill(c.path, unknown), nil, auth...), answer)
}

// checkAbsent holds for what has an owner: for others it is as if it were not there,
// also where a part of the path is the caller's own.
func (w *isolated) checkAbsent(t *testing.T, c call, auth []string) {
	t.Helper()
	all := places(c.path)
	body := w.body(c, nil)
	for own := range 1 << len(all) { // a bit for each place that is the caller's own
		isOwn := func(place string) bool { return own>>slices.Index(all, place)&1 == 1 }
		if own == 1<<len(all)-1 || slices.ContainsFunc(all, func(p string) bool { return isOwn(p) && w.identifiers[p].own == "" }) {
			continue
		}
		pick := func(other func(string, identifier) string) func(string, identifier) string {
			return func(place string, id identifier) string {
				if isOwn(place) {
					return id.own
				}
				return other(place, id)
			}
		}
		target := w.fill(c.path, pick(theirs))
		answer := w.Call(t, c.method, target, body, auth...)
		if answer.Status != http.StatusNotFound {
			t.Errorf("%s %s: status %d: %s", c.method, target, answer.Status, answer.Body)
		}
		w.wantNoMark(t, answer, "")
		wantSameAnswer(t, w.Call(t, c.method, w.fill(c.path, pick(unknown)), body, auth...), answer)
	}
}

// body is one that the operation accepts, or nil for none.
func (w *isolated) body(c call, more object) any {
	if !c.hasBody() {
		return nil
	}
	body := maps.Clone(w.bodies[c.method+" "+c.path])
	maps.Copy(body, more)
	return body
}

// checkAlone holds for what is about the caller: what others have is not in it,
// and naming it is like naming what nobody has.
func (w *isolated) checkAlone(t *testing.T, c call, members []string, scheme string) {
	t.Helper()
	if c.path == "/auth/logout" {
		return // takes nothing, and ends the caller's session
	}
	name, auth := c.method+" "+c.path, w.callers[scheme]
	for _, query := range append([]string{""}, w.queries[name]...) {
		target := c.path + "?" + query
		w.wantNoMark(t, w.Call(t, c.method, target, w.body(c, nil), auth...), "")
		if c.method == http.MethodGet {
			w.wantMark(t, c, query, scheme)
		}
		for _, p := range c.Parameters {
			id, ok := w.parameters[p.Name]
			if p.In != "query" || !ok {
				continue
			}
			answer := w.Call(t, c.method, target+"&"+p.Name+"="+url.QueryEscape(id.theirs), nil, auth...)
			said := ""
			if answer.Status < 300 {
				said = id.theirs // an answer may repeat what it was asked for
			}
			w.wantNoMark(t, answer, said)
			if slices.Contains(figuresOfOwners, name) && answer.Status != http.StatusNotFound {
				t.Errorf("%s with Ann's %s: status %d: %s", name, p.Name, answer.Status, answer.Body)
			}
			if p.Name != "cursor" {
				wantSameShape(t, w.Call(t, c.method, target+"&"+p.Name+"="+id.unknown, nil, auth...), answer, id)
			}
		}
	}
	for _, member := range members {
		id, ok := w.parameters[member]
		if !ok {
			continue
		}
		answer := w.Call(t, c.method, c.path, w.body(c, object{member: id.theirs}), auth...)
		if answer.Status != http.StatusBadRequest && answer.Status != http.StatusNotFound {
			t.Errorf("%s with Ann's %s: status %d: %s", name, member, answer.Status, answer.Body)
		}
		w.wantNoMark(t, answer, "")
		wantSameAnswer(t, w.Call(t, c.method, c.path, w.body(c, object{member: id.unknown}), auth...), answer)
	}
}

// figuresOfOwners are operations that count what is somebody's: what is not the caller's
// does not exist for them, where zeros would look like something that nobody uses.
var figuresOfOwners = []string{"GET /analytics", "GET /usage"}

// unmarked are operations whose answer has nothing of their caller's.
var unmarked = []string{"GET /catalog/products"}

// wantMark fails where an answer to Ann herself has nothing of hers: then it could
// not tell either that Ben gets it.
func (w *isolated) wantMark(t *testing.T, c call, query, scheme string) {
	t.Helper()
	name := c.method + " " + c.path
	if slices.Contains(unmarked, name) || len(w.queries[name]) > 0 && query == "" {
		return
	}
	a := w.Want(t, http.StatusOK, c.method, c.path+"?"+query, nil, w.annsCredential[scheme]...)
	for _, mark := range w.marks {
		if strings.Contains(string(a.Body), mark) {
			return
		}
	}
	t.Errorf("%s?%s: not even Ann sees something of hers: %s", name, query, a.Body)
}

// wantSameShape is wantSameAnswer where the answer may repeat what it was asked for.
func wantSameShape(t *testing.T, nobodys, theirs apptest.Answer, id identifier) {
	t.Helper()
	theirs.Body = []byte(strings.ReplaceAll(string(theirs.Body), id.theirs, id.unknown))
	wantSameAnswer(t, nobodys, theirs)
}

// whatAnnHas is everything of hers, but for when it was used.
func (w *isolated) whatAnnHas(t *testing.T) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, path := range []string{
		"/users/me", "/catalog/apps", "/auth/sessions", w.fill("/api-keys/{id}", theirs), w.fill("/catalog/apps/{app}", theirs),
		w.fill("/catalog/apps/{app}/subscriptions", theirs), w.fill("/catalog/apps/{app}/subscriptions/{subscription}", theirs), w.fill("/decisions/{id}", theirs),
		"/api-keys?revoked=true",
	} {
		a := w.Want(t, http.StatusOK, "GET", path, nil, w.ann.Auth()...).JSON(t)
		forgetUse(a)
		all[path] = a
	}
	w.Want(t, http.StatusOK, "GET", "/counted", nil, w.annsKey.Auth()...)
	return all
}

// forgetUse removes the times of use at any depth.
func forgetUse(v any) {
	switch v := v.(type) {
	case object:
		delete(v, "last_used_at")
		for _, member := range v {
			forgetUse(member)
		}
	case []any:
		for _, element := range v {
			forgetUse(element)
		}
	}
}

// bodyMembers are the members of the bodies of all operations, by operation.
func bodyMembers(t *testing.T) map[string][]string {
	t.Helper()
	var d struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				In     string
				Schema schema
			}
		}
		Definitions map[string]schema
	}
	text, err := os.ReadFile(filepath.Join(root, "docs/swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for path, methods := range d.Paths {
		for method, o := range methods {
			for _, p := range o.Parameters {
				if p.In == "body" {
					s := d.Definitions[strings.TrimPrefix(p.Schema.Ref, "#/definitions/")]
					all[strings.ToUpper(method)+" "+path] = slices.Sorted(maps.Keys(s.Properties))
				}
			}
		}
	}
	return all
}
