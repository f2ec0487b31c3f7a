package app_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

const openDocument = `
version: 1
services:
  - {name: nobody, url: "http://127.0.0.1:9"}
routes:
  - {name: open, match: {path: {prefix: /open}, methods: [GET]}, auth: {mode: none}, service: nobody}
  - {name: guarded, match: {path: {prefix: /guarded}}, auth: {mode: required}, respond: {status: 200}}
`

func TestReportedKeysAreRefusedOnEveryReplica(t *testing.T) {
	options := apptest.Options{Gateway: openDocument, Set: roomy()}
	one := start(t, options)
	options.DatabaseURL, options.MasterKey = one.DatabaseURL, one.MasterKey
	two := start(t, options)
	admin, user := one.Admin(t), one.User(t)
	key, other := one.Key(t, user, nil), one.Key(t, user, nil)
	for _, p := range []*apptest.Program{one, two} {
		p.Want(t, http.StatusOK, "GET", "/guarded", nil, key.Auth()...)
	}

	good := one.Want(t, http.StatusAccepted, "POST", "/keys/report", object{"key": key.Secret, "note": "found in a gist"})
	unknown := one.Want(t, http.StatusAccepted, "POST", "/keys/report", object{"key": other.Secret[:len(other.Secret)-8] + "00000000"})
	if string(good.Body) != string(unknown.Body) {
		t.Errorf("the answers differ: %s, %s", good.Body, unknown.Body)
	}
	for _, p := range []*apptest.Program{one, two} {
		apptest.Eventually(t, "the refusal on every replica", func() bool {
			return p.Call(t, "GET", "/guarded", nil, key.Auth()...).Status == http.StatusUnauthorized
		})
		p.Want(t, http.StatusOK, "GET", "/guarded", nil, other.Auth()...)
	}
	shown := one.Want(t, http.StatusOK, "GET", "/api-keys/"+key.ID, nil, user.Auth()...)
	if !strings.Contains(string(shown.Body), "found in a gist") {
		t.Errorf("the owner sees %s", shown.Body)
	}

	path := "/api-keys/" + key.ID + "/release"
	one.Want(t, http.StatusUnauthorized, "POST", path, nil)
	one.Want(t, http.StatusForbidden, "POST", path, nil, user.Auth()...)
	one.Want(t, http.StatusNotFound, "POST", "/api-keys/"+unknownID+"/release", nil, admin.Auth()...)
	one.Want(t, http.StatusOK, "POST", path, nil, admin.Auth()...)
	for _, p := range []*apptest.Program{one, two} {
		apptest.Eventually(t, "the end of the quarantine", func() bool {
			return p.Call(t, "GET", "/guarded", nil, key.Auth()...).Status == http.StatusOK
		})
	}

	// A report ends with a rotation, and the secret that leaked stays refused.
	two.Want(t, http.StatusAccepted, "POST", "/keys/report", object{"key": key.Secret})
	rotated := one.Want(t, http.StatusOK, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 3600}, user.Auth()...).Text(t, "key")
	for _, p := range []*apptest.Program{one, two} {
		apptest.Eventually(t, "the new secret", func() bool {
			return p.Call(t, "GET", "/guarded", nil, "X-API-Key", rotated).Status == http.StatusOK
		})
		p.Want(t, http.StatusUnauthorized, "GET", "/guarded", nil, key.Auth()...)
	}
	one.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+key.ID, nil, user.Auth()...)
	one.Want(t, http.StatusConflict, "POST", path, nil, admin.Auth()...)

	one.Want(t, http.StatusBadRequest, "POST", "/keys/report", object{"key": ""})
	one.Want(t, http.StatusBadRequest, "POST", "/keys/report", object{"key": other.Secret, "note": strings.Repeat("x", 300)})
	one.Want(t, http.StatusRequestEntityTooLarge, "POST", "/keys/report", object{"key": strings.Repeat("x", 2<<20)})
	one.Want(t, http.StatusUnsupportedMediaType, "POST", "/keys/report", object{"key": "x"}, "Content-Type", "text/plain")
	apptest.Eventually(t, "the end of what one address may report", func() bool {
		return one.Call(t, "POST", "/keys/report", object{"key": "nothing"}).Status == http.StatusTooManyRequests
	})
}

func TestCanaryKeysAreRefusedAndRaiseTheAlarm(t *testing.T) {
	p := start(t, apptest.Options{Gateway: openDocument, Set: roomy()})
	admin, user := p.Admin(t), p.User(t)
	p.Want(t, http.StatusForbidden, "POST", "/api-keys", object{"name": "mine", "canary": true}, user.Auth()...)
	made := p.Want(t, http.StatusCreated, "POST", "/api-keys", object{"name": "bait", "canary": true}, admin.Auth()...)
	wrong := p.Want(t, http.StatusUnauthorized, "GET", "/guarded", nil, "X-API-Key", made.Text(t, "key")[:40]+"000000000000000000")
	bait := p.Want(t, http.StatusUnauthorized, "GET", "/guarded", nil, "X-API-Key", made.Text(t, "key"))
	if wrong.JSON(t)["code"] != bait.JSON(t)["code"] || wrong.JSON(t)["detail"] != bait.JSON(t)["detail"] {
		t.Errorf("a canary is told from a wrong key: %s, %s", wrong.Body, bait.Body)
	}
	apptest.Eventually(t, "an audit entry of the use", func() bool {
		a := p.Want(t, http.StatusOK, "GET", "/audit?action=apikey.canary_used", nil, admin.Auth()...)
		return strings.Contains(string(a.Body), made.Text(t, "id")) && strings.Contains(string(a.Body), "/guarded")
	})
}

func TestPostureTellsWhatIsWeak(t *testing.T) {
	p := start(t, apptest.Options{Gateway: openDocument, Set: roomy()})
	admin, user := p.Admin(t), p.User(t)
	key := p.Key(t, user, nil)
	a := p.Want(t, http.StatusOK, "GET", "/admin/v1/posture", nil, admin.Auth()...)
	for _, id := range []string{"route.open:open", key.ID} {
		if !strings.Contains(string(a.Body), id) {
			t.Errorf("the report lacks %s: %s", id, a.Body)
		}
	}
	if strings.Contains(string(a.Body), "route.open:guarded") {
		t.Errorf("a guarded route is called open: %s", a.Body)
	}
	a = p.Want(t, http.StatusOK, "GET", "/admin/v1/posture?suppress=route.open:open", nil, admin.Auth()...)
	if strings.Contains(string(a.Body), `"id":"route.open:open"`) || a.JSON(t)["suppressed"] != 1.0 {
		t.Errorf("a suppressed finding is told: %s", a.Body)
	}
	p.Want(t, http.StatusBadRequest, "GET", "/admin/v1/posture?severity=grave", nil, admin.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/admin/v1/posture", nil)
	p.Want(t, http.StatusForbidden, "GET", "/admin/v1/posture", nil, user.Auth()...)
}

// A route at a path of the platform's own is told, unless the platform has hosts of its
// own.
func TestPostureTellsOfHiddenRoutes(t *testing.T) {
	const document = "version: 1\nroutes:\n  - {name: photos, match: {path: {prefix: /users/photos}}, respond: {status: 204}}\n"
	for hosts, hidden := range map[string]bool{"": true, "127.0.0.1": false} {
		p := start(t, apptest.Options{Gateway: document, Set: roomyWith(map[string]string{"server.hosts": hosts})})
		a := p.Want(t, http.StatusOK, "GET", "/admin/v1/posture", nil, p.Admin(t).Auth()...)
		if got := strings.Contains(string(a.Body), "route.hidden:photos"); got != hidden {
			t.Errorf("hosts %q: hidden %v in %s", hosts, got, a.Body)
		}
	}
}

func TestRulesForScannersFindKeys(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	key := p.Key(t, p.User(t), nil)
	for _, name := range []string{"key-format.json", "github.json", "trufflehog.yaml"} {
		p.Want(t, http.StatusOK, "GET", "/.well-known/keywarden-"+name, nil)
	}
	rules := string(p.Want(t, http.StatusOK, "GET", "/.well-known/keywarden-gitleaks.toml", nil).Body)
	found := regexp.MustCompile(`regex = '''(.*)'''`).FindStringSubmatch(rules)
	if found == nil || !regexp.MustCompile(found[1]).MatchString(`token = "`+key.Secret+`"`) {
		t.Errorf("the rule does not find a key: %s", rules)
	}
}
