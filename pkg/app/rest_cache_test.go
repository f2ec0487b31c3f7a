package app_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

const cachedDocument = `
version: 1
services: [{name: a, url: "%s"}]
routes:
  - {name: shared, match: {path: {prefix: /shared}}, service: a, cache: {public: true}}
  - {name: own, match: {path: {prefix: /own}}, service: a, cache: {}}
`

// numbering is a service that numbers its answers.
func numbering(t *testing.T) string {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("Surrogate-Key", "all of"+r.URL.Path)
		_, _ = fmt.Fprint(w, n.Add(1))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestPurgeIsOnEveryReplica holds for answers in the memory of each replica and for
// those in Redis.
func TestPurgeIsOnEveryReplica(t *testing.T) {
	for name, set := range map[string]func(t *testing.T) map[string]string{
		"memory": func(*testing.T) map[string]string { return roomy() },
		"redis": func(t *testing.T) map[string]string {
			return with(roomy(), "redis.url", redistest.Start(t).URL.Reveal())
		},
	} {
		t.Run(name, func(t *testing.T) {
			options := apptest.Options{Gateway: fmt.Sprintf(cachedDocument, numbering(t)), Set: set(t)}
			one := start(t, options)
			options.DatabaseURL, options.MasterKey = one.DatabaseURL, one.MasterKey
			two := start(t, options)
			admin, user := one.Admin(t), one.User(t)
			get := func(p *apptest.Program, path string) string {
				return string(p.Want(t, http.StatusOK, "GET", path, nil, user.Auth()...).Body)
			}
			// In Redis, an answer is stored after it was given.
			kept := func(p *apptest.Program) (answer string) {
				apptest.Eventually(t, "an answer is kept", func() bool {
					before := answer
					answer = get(p, "/shared/a")
					return answer == before
				})
				return answer
			}
			for _, purge := range []object{{"route": "shared"}, {"path": "/shared"}, {"path": "/shared/a", "host": "127.0.0.1"}, {"key": "of/shared/a"}} {
				first, other := kept(one), kept(two)
				one.Want(t, http.StatusOK, "POST", "/admin/v1/cache/purge?wait=true", purge, admin.Auth()...)
				if got := get(one, "/shared/a"); got == first {
					t.Errorf("%v leaves the answer on the replica that is asked", purge)
				}
				if got := get(two, "/shared/a"); got == other {
					t.Errorf("%v leaves the answer on the other replica", purge)
				}
			}
			one.Want(t, http.StatusNoContent, "POST", "/admin/v1/cache/purge", object{"route": "none"}, admin.Auth()...)
			one.Want(t, http.StatusBadRequest, "POST", "/admin/v1/cache/purge", object{"route": "a", "key": "b"}, admin.Auth()...)
			one.Want(t, http.StatusUnsupportedMediaType, "POST", "/admin/v1/cache/purge", object{"route": "a"}, append(admin.Auth(), "Content-Type", "text/plain")...)
			one.Want(t, http.StatusForbidden, "POST", "/admin/v1/cache/purge", object{"route": "a"}, user.Auth()...)
			one.Want(t, http.StatusUnauthorized, "POST", "/admin/v1/cache/purge", object{"route": "a"})
		})
	}
}

// CCH-01, CCH-11: nobody gets what was kept for somebody else, and a key that was
// revoked gets nothing, however fresh.
func TestWhatIsKeptIsForWhoeverMayHaveIt(t *testing.T) {
	p := start(t, apptest.Options{Gateway: fmt.Sprintf(cachedDocument, numbering(t)), Set: roomy()})
	user := p.User(t)
	one, two := p.Key(t, user, nil), p.Key(t, user, nil)
	first := p.Want(t, http.StatusOK, "GET", "/own", nil, one.Auth()...)
	if again := p.Want(t, http.StatusOK, "GET", "/own", nil, one.Auth()...); string(again.Body) != string(first.Body) || again.Header.Get("Age") == "" {
		t.Errorf("a key gets %s, then %s", first.Body, again.Body)
	}
	if other := p.Want(t, http.StatusOK, "GET", "/own", nil, two.Auth()...); string(other.Body) == string(first.Body) {
		t.Error("another key gets the same answer")
	}
	shared := p.Want(t, http.StatusOK, "GET", "/shared", nil, one.Auth()...)
	if other := p.Want(t, http.StatusOK, "GET", "/shared", nil, two.Auth()...); string(other.Body) != string(shared.Body) {
		t.Error("another key gets another public answer")
	}
	p.Want(t, http.StatusOK, "DELETE", "/api-keys/"+one.ID+"?wait=true", nil, user.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/own", nil, one.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/shared", nil, one.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/shared", nil)
}
