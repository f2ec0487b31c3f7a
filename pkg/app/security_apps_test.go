package app_test

import (
	"net/http"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// statusesOf counts answers by status.
func statusesOf(list []apptest.Answer) map[int]int {
	count := map[int]int{}
	for _, a := range list {
		count[a.Status]++
	}
	return count
}

// R76: what is checked before a change of apps still holds when it is made, however
// many come at once: as many apps as a user may have, one subscription to a product,
// and no key of an app that is gone.
func TestAppsAtOnceKeepTheirBounds(t *testing.T) {
	p := start(t, apptest.Options{Gateway: catalogDocument, Set: roomy()})
	admin, ann := p.Admin(t).Auth(), p.User(t)
	p.Want(t, http.StatusCreated, "PUT", "/admin/v1/products/people", object{"visible": true, "apps_only": true, "routes": []string{"people"}}, admin...)
	p.Want(t, http.StatusCreated, "PUT", "/admin/v1/products/people/plans/free", object{}, admin...)
	made := atOnce(t, 26, func(int) (apptest.Answer, error) {
		return p.Try("POST", "/catalog/apps", object{"name": "one"}, ann.Auth()...)
	})
	if got := statusesOf(made); got[http.StatusCreated] != 20 || got[http.StatusConflict] != 6 {
		t.Fatalf("26 apps at once: %v", got)
	}
	app := items(t, p.Want(t, http.StatusOK, "GET", "/catalog/apps?limit=1", nil, ann.Auth()...))[0]["id"].(string)
	at := "/catalog/apps/" + app
	made = atOnce(t, 12, func(int) (apptest.Answer, error) {
		return p.Try("POST", at+"/subscriptions", object{"product": "people", "plan": "free"}, ann.Auth()...)
	})
	if got := statusesOf(made); got[http.StatusCreated] != 1 || got[http.StatusConflict] != 11 {
		t.Errorf("12 subscriptions at once: %v", got)
	}
	known := p.Key(t, ann, object{"app": app})
	p.Want(t, http.StatusNoContent, "GET", "/people", nil, known.Auth()...)
	secrets := []string{known.Secret}
	for _, a := range atOnce(t, 12, func(i int) (apptest.Answer, error) {
		if i == 6 {
			return p.Try("DELETE", at, nil, ann.Auth()...)
		}
		return p.Try("POST", "/api-keys", object{"name": "late", "app": app}, ann.Auth()...)
	}) {
		switch a.Status {
		case http.StatusCreated:
			secrets = append(secrets, a.Text(t, "key"))
		case http.StatusNoContent, http.StatusBadRequest: // the app, and no app for a key
		default:
			t.Errorf("status %d: %s", a.Status, a.Body)
		}
	}
	p.Want(t, http.StatusNotFound, "GET", at, nil, ann.Auth()...)
	for i, secret := range secrets {
		apptest.Eventually(t, "the end of the keys of an app that is gone", func() bool {
			return p.Call(t, "GET", "/people", nil, "X-API-Key", secret).Status == http.StatusUnauthorized
		})
		if i > 0 {
			p.Platform.KeyCheck.Reset() // asked from the database, too
			p.Want(t, http.StatusUnauthorized, "GET", "/people", nil, "X-API-Key", secret)
		}
	}
}
