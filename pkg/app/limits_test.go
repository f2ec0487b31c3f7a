package app_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

const quotaDocument = `
version: 1
routes:
  - name: metered
    match: {path: {prefix: /metered}}
    quota: [{name: monthly, by: key, limit: 3, period: month}]
    respond: {status: 204}
`

// What was used of a quota is in the database: nothing that Redis loses gives it
// back, and neither does a new secret of the same key.
func TestNothingRefillsAQuota(t *testing.T) {
	redis := redistest.Start(t)
	p := start(t, apptest.Options{Gateway: quotaDocument, Set: with(roomy(), "redis.url", redis.URL.Reveal())})
	user := p.User(t)
	key := p.Key(t, user, nil)
	for range 3 {
		p.Want(t, http.StatusNoContent, "GET", "/metered", nil, key.Auth()...)
	}
	refused := p.Want(t, http.StatusTooManyRequests, "GET", "/metered", nil, key.Auth()...)
	if refused.Header.Get("Retry-After") == "" || refused.Header.Get("RateLimit-Policy") == "" || refused.Header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("the refusal says %v", refused.Header)
	}
	if err := redis.Client.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	p.Want(t, http.StatusTooManyRequests, "GET", "/metered", nil, key.Auth()...)

	rotated := p.Want(t, http.StatusOK, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 0}, user.Auth()...)
	p.Want(t, http.StatusTooManyRequests, "GET", "/metered", nil, "X-API-Key", rotated.Text(t, "key"))

	other := p.Key(t, user, nil)
	p.Want(t, http.StatusNoContent, "GET", "/metered", nil, other.Auth()...)
}

// with is options and one more.
func with(set map[string]string, name, value string) map[string]string {
	set[name] = value
	return set
}

// KEY-12: of many who come at once for the last units of a quota, at whichever
// replica, exactly as many get one as there are.
func TestTheLastUnitsOfAQuotaAreGivenOutOnce(t *testing.T) {
	const limit, left, callers = 60, 10, 50
	document := strings.Replace(quotaDocument, "limit: 3,", fmt.Sprintf("limit: %d,", limit), 1)
	for name, replicas := range map[string]int{"one replica": 1, "three replicas": 3} {
		t.Run(name, func(t *testing.T) {
			options := apptest.Options{Gateway: document, Set: roomy()}
			programs := []*apptest.Program{start(t, options)}
			options.DatabaseURL, options.MasterKey = programs[0].DatabaseURL, programs[0].MasterKey
			for len(programs) < replicas {
				programs = append(programs, start(t, options))
			}
			user := programs[0].User(t)
			key := programs[0].Key(t, user, nil)
			for range limit - left {
				programs[0].Want(t, http.StatusNoContent, "GET", "/metered", nil, key.Auth()...)
			}
			var group errgroup.Group
			var successes atomic.Int64
			for i := range callers {
				group.Go(func() error {
					a, err := programs[i%replicas].Try("GET", "/metered", nil, key.Auth()...)
					switch {
					case err != nil:
						return err
					case a.Status == http.StatusNoContent:
						successes.Add(1)
					case a.Status != http.StatusTooManyRequests || strings.HasPrefix(a.Header.Get("X-RateLimit-Remaining"), "-"):
						return fmt.Errorf("status %d with %q remaining", a.Status, a.Header.Get("X-RateLimit-Remaining"))
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
			if got := successes.Load(); got > left || replicas == 1 && got != left {
				t.Errorf("%d of %d units were given out", got, left)
			}
		})
	}
}

const routesDocument = `
version: 1
routes:
  - {name: read, match: {path: {prefix: /read}}, auth: {scopes: ["orders:read"]}, respond: {status: 204}}
  - {name: write, match: {path: {prefix: /write}}, auth: {scopes: ["orders:write"]}, respond: {status: 204}}
  - {name: tokens, match: {path: {prefix: /tokens}}, auth: {methods: [jwt]}, respond: {status: 204}}
`

// CCH-12: what is remembered of a credential is of the whole credential, and what a
// route asks for is asked each time.
func TestVerdictsAreOfTheWholeCredentialAndOfNoRoute(t *testing.T) {
	p := start(t, apptest.Options{Gateway: routesDocument, Set: with(roomy(), "accounts.user_scopes", "orders:read,orders:write")})
	user := p.User(t)
	key := p.Key(t, user, object{"scopes": []string{"orders:read"}})
	for range 3 {
		p.Want(t, http.StatusNoContent, "GET", "/read", nil, key.Auth()...)
		p.Want(t, http.StatusForbidden, "GET", "/write", nil, key.Auth()...)
		p.Want(t, http.StatusUnauthorized, "GET", "/tokens", nil, key.Auth()...)
	}
	p.Want(t, http.StatusNoContent, "GET", "/tokens", nil, "Authorization", "Bearer "+user.Token)
	for i := range len(user.Token) {
		if i < 100 && i%20 != 0 {
			continue // the same for the first hundred characters is what others went by
		}
		forged := []byte(user.Token)
		if forged[i] == '.' {
			continue
		}
		// Another character that is not the same but for bits that mean nothing.
		forged[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[(strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", forged[i])+32)%64]
		if a := p.Call(t, "GET", "/tokens", nil, "Authorization", "Bearer "+string(forged)); a.Status != http.StatusUnauthorized {
			t.Fatalf("a token of which character %d is another answers %d", i, a.Status)
		}
	}
	p.Want(t, http.StatusNoContent, "GET", "/tokens", nil, "Authorization", "Bearer "+user.Token)
}

// Whoever guesses passwords at one replica has guessed at all of them.
func TestGuessesAreCountedOverAllReplicas(t *testing.T) {
	const failures = 4
	for name, set := range map[string]func(t *testing.T) map[string]string{
		"postgres": func(*testing.T) map[string]string { return roomy() },
		"redis": func(t *testing.T) map[string]string {
			return with(roomy(), "redis.url", redistest.Start(t).URL.Reveal())
		},
	} {
		t.Run(name, func(t *testing.T) {
			options := apptest.Options{Set: set(t)}
			options.Set["throttle.account_failures"], options.Set["throttle.account_refill"] = fmt.Sprint(failures), "1h"
			options.Set["counters.timeout"] = "2s" // a machine that tests keep busy is no outage
			one := start(t, options)
			options.DatabaseURL, options.MasterKey = one.DatabaseURL, one.MasterKey
			two := start(t, options)
			user := one.User(t)
			guesses := 0
			for i := range 4 * failures {
				p := []*apptest.Program{one, two}[i%2]
				if a := p.Call(t, "POST", "/auth/login", object{"email": user.Email, "password": "wrong wrong wrong"}); a.Status == http.StatusUnauthorized {
					guesses++
				} else if a.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
					t.Errorf("a guess answers %d, Retry-After %q", a.Status, a.Header.Get("Retry-After"))
				}
			}
			// From an address that the account was used from, there are as many again, so
			// that strangers do not lock the owner out.
			if guesses != 2*failures {
				t.Errorf("%d guesses were possible at two replicas, want %d", guesses, 2*failures)
			}
		})
	}
}
