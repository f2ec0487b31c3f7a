package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// Challenges of a 401 (RFC 6750 section 3): without a credential there is no
// error code.
const (
	challenge        = `Bearer realm="keywarden"`
	challengeInvalid = `Bearer realm="keywarden", error="invalid_token"`
)

func TestOneCredentialGivesOnePrincipal(t *testing.T) {
	p := start(t, apptest.Options{Set: map[string]string{"accounts.user_scopes": "orders:read"}})
	u := p.User(t)
	key := p.Key(t, u, map[string]any{"name": "ci", "scopes": []string{"orders:read"}})

	user := object{
		"kind": "user", "user_id": u.ID, "role": "user",
		"scopes": []any{"apps:read", "apps:write", "keys:read", "keys:write", "orders:read", "profile:read", "profile:write", "usage:read"},
	}
	program := object{
		"kind": "key", "user_id": u.ID, "role": "user", "scopes": []any{"orders:read"}, "key_id": key.ID, "key_name": "ci",
	}
	for name, test := range map[string]struct {
		headers []string
		want    object
	}{
		"token":                         {[]string{"Authorization", "Bearer " + u.Token}, user},
		"token, scheme in lower case":   {[]string{"Authorization", "bearer " + u.Token}, user},
		"token after spaces":            {[]string{"Authorization", "BEARER   " + u.Token}, user},
		"key":                           {[]string{"X-API-Key", key.Secret}, program},
		"key, header in lower case":     {[]string{"x-api-key", key.Secret}, program},
		"key as bearer":                 {[]string{"Authorization", "Bearer " + key.Secret}, program},
		"key beside a cookie of others": {[]string{"X-API-Key", key.Secret, "Cookie", "session=" + u.Token}, program},
	} {
		t.Run(name, func(t *testing.T) {
			got := p.Want(t, http.StatusOK, "GET", "/api/test", nil, test.headers...).JSON(t)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("principal (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoGoodCredentialIs401WithAChallenge(t *testing.T) {
	p := start(t, apptest.Options{})
	u := p.User(t)
	key := p.Key(t, u, nil)
	parts := strings.Split(u.Token, ".")
	for name, test := range map[string]struct {
		headers         []string
		code, challenge string
	}{
		"none":                       {nil, "auth.missing", challenge},
		"other scheme":               {[]string{"Authorization", "Basic dXNlcjpwYXNz"}, "auth.missing", challenge},
		"scheme alone":               {[]string{"Authorization", "Bearer"}, "auth.missing", challenge},
		"scheme and spaces":          {[]string{"Authorization", "Bearer   "}, "auth.missing", challenge},
		"empty":                      {[]string{"Authorization", ""}, "auth.missing", challenge},
		"query":                      {nil, "auth.missing", challenge},
		"no token":                   {[]string{"Authorization", "Bearer x"}, "auth.token_invalid", challengeInvalid},
		"refresh token":              {[]string{"Authorization", "Bearer " + u.Refresh}, "auth.token_invalid", challengeInvalid},
		"unsigned token":             {[]string{"Authorization", "Bearer " + parts[0] + "." + parts[1] + "."}, "auth.token_invalid", challengeInvalid},
		"signature of another":       {[]string{"Authorization", "Bearer " + parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86)}, "auth.token_invalid", challengeInvalid},
		"token with a tail":          {[]string{"Authorization", "Bearer " + u.Token + " x"}, "auth.token_invalid", challengeInvalid},
		"empty key":                  {[]string{"X-API-Key", ""}, "auth.key_invalid", challengeInvalid},
		"unknown key":                {[]string{"X-API-Key", inventedKey(1)}, "auth.key_invalid", challengeInvalid},
		"key with a wrong secret":    {[]string{"X-API-Key", wrongSecret(key.Secret)}, "auth.key_invalid", challengeInvalid},
		"key with a wrong check":     {[]string{"X-API-Key", key.Secret[:len(key.Secret)-1] + "!"}, "auth.key_invalid", challengeInvalid},
		"key of another environment": {[]string{"X-API-Key", strings.Replace(key.Secret, "_live_", "_test_", 1)}, "auth.key_invalid", challengeInvalid},
		"key in another case":        {[]string{"X-API-Key", strings.ToUpper(key.Secret)}, "auth.key_invalid", challengeInvalid},
		"token as a key":             {[]string{"X-API-Key", u.Token}, "auth.key_invalid", challengeInvalid},
		"long key":                   {[]string{"X-API-Key", "kw_live_" + strings.Repeat("a", 20_000)}, "auth.key_invalid", challengeInvalid},
		"long token":                 {[]string{"Authorization", "Bearer " + strings.Repeat("a.", 10_000)}, "auth.token_invalid", challengeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			path := "/api/test"
			if name == "query" {
				path += "?api_key=" + key.Secret + "&access_token=" + u.Token
			}
			a := p.Call(t, "GET", path, nil, test.headers...)
			wantProblem(t, a, http.StatusUnauthorized, test.code)
			if got := a.Header.Get("WWW-Authenticate"); got != test.challenge {
				t.Errorf("WWW-Authenticate %q, want %q", got, test.challenge)
			}
		})
	}
}

// Unknown, wrong, revoked and expired keys are one and the same answer, and so
// is that of a key whose owner is disabled.
func TestRefusedKeysLookTheSame(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin, u, disabled := p.Admin(t), p.User(t), p.User(t)
	key, revoked, ofDisabled := p.Key(t, u, nil), p.Key(t, u, nil), p.Key(t, disabled, nil)
	p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+revoked.ID, nil, u.Auth()...)
	p.Want(t, http.StatusOK, "PATCH", "/users/"+disabled.ID, object{"disabled": true}, admin.Auth()...)
	want := p.Call(t, "GET", "/api/test", nil, "X-API-Key", inventedKey(1))
	for _, secret := range []string{
		wrongSecret(key.Secret), revoked.Secret, wrongSecret(revoked.Secret), ofDisabled.Secret, "kw_live_x", "rubbish",
	} {
		wantSameAnswer(t, want, p.Call(t, "GET", "/api/test", nil, "X-API-Key", secret))
	}
}

func TestMoreThanOneCredentialIsRefused(t *testing.T) {
	p := start(t, apptest.Options{})
	u := p.User(t)
	key := p.Key(t, u, nil)
	bearer, secret := "Bearer "+u.Token, key.Secret
	for _, headers := range [][]string{
		{"Authorization", bearer, "X-API-Key", secret},
		{"Authorization", bearer, "X-API-Key", ""},
		{"Authorization", "Basic eDp5", "X-API-Key", secret},
		{"Authorization", bearer, "Authorization", bearer},
		{"Authorization", bearer, "authorization", "Bearer " + secret},
		{"X-API-Key", secret, "X-API-Key", secret},
	} {
		for _, path := range []string{"/api/test", "/users/me", "/api-keys"} {
			wantProblem(t, p.Call(t, "GET", path, nil, headers...), http.StatusBadRequest, "auth.ambiguous")
		}
	}
}

func TestKeyIsBoundToItsAddresses(t *testing.T) {
	p := start(t, apptest.Options{})
	u := p.User(t)
	for _, allowed := range []string{"127.0.0.1", "127.0.0.0/8", "0.0.0.0/0"} {
		key := p.Key(t, u, map[string]any{"allowed_ips": []string{"203.0.113.7", allowed}})
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
	}
	key := p.Key(t, u, map[string]any{"allowed_ips": []string{"203.0.113.0/24", "::/0"}})
	a := p.Call(t, "GET", "/api/test", nil, key.Auth()...)
	wantProblem(t, a, http.StatusForbidden, "auth.address_not_allowed")
	forged := append(key.Auth(), "X-Forwarded-For", "203.0.113.7", "X-Real-IP", "203.0.113.7", "Forwarded", "for=203.0.113.7")
	wantProblem(t, p.Call(t, "GET", "/api/test", nil, forged...), http.StatusForbidden, "auth.address_not_allowed")
	// Without the secret nobody learns that the key exists.
	a = p.Call(t, "GET", "/api/test", nil, "X-API-Key", wrongSecret(key.Secret))
	wantProblem(t, a, http.StatusUnauthorized, "auth.key_invalid")
}

func TestGuessingKeysIsLimited(t *testing.T) {
	p := start(t, apptest.Options{})
	u := p.User(t)
	key := p.Key(t, u, nil)
	settle(t, p, u)
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...) // is known from now on
	const guessers, each = 8, 100
	var wg sync.WaitGroup
	count := make([]map[int]int, guessers)
	for i := range guessers {
		count[i] = map[int]int{}
		wg.Go(func() {
			for j := range each {
				a, err := p.Try("GET", "/api/test", nil, "X-API-Key", inventedKey(i*each+j))
				if err != nil {
					t.Error(err)
					return
				}
				count[i][a.Status]++
			}
		})
	}
	wg.Wait()
	throttled := 0
	for _, c := range count {
		throttled += c[http.StatusTooManyRequests]
		if c[http.StatusTooManyRequests]+c[http.StatusUnauthorized] != each {
			t.Errorf("answers by status: %v", c)
		}
	}
	if throttled == 0 {
		t.Error("800 guesses at once and none was refused for their number")
	}
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...) // good keys go on
}

// settle waits until the program has applied every change so far, so that none
// of them makes it forget what it learns from now on.
func settle(t *testing.T, p *apptest.Program, u *apptest.User) {
	t.Helper()
	a := p.Want(t, http.StatusOK, "DELETE", "/api-keys/"+p.Key(t, u, nil).ID+"?wait=true", nil, u.Auth()...)
	if a.JSON(t)["complete"] != true {
		t.Fatalf("receipt: %s", a.Body)
	}
}

// Every documented operation reads its body in the same strict way.
func TestEveryBodyIsBoundedAndJSON(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin := p.Admin(t)
	ids := map[string]string{"/users/{id}": admin.ID}
	key := p.Key(t, admin, nil)
	calls := 0
	for _, c := range documentedAPI(t).calls() {
		if !c.hasBody() || strings.HasPrefix(c.path, "/admin/v1/") && c.path != "/admin/v1/explain" {
			continue // documents are read by rules of their own; see TestDocumentsAreReadStrictly
		}
		calls++
		id := ids[c.path]
		if id == "" {
			id = key.ID
		}
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			call := func(body string, headers ...string) apptest.Answer {
				return p.Call(t, c.method, c.at(id), body, admin.With(headers...)...)
			}
			for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/merge-patch+json", "json", "application/json;;"} {
				wantProblem(t, call("{}", "Content-Type", media), http.StatusUnsupportedMediaType, "request.media_type")
			}
			large := `{"a":"` + strings.Repeat("a", 1<<20) + `"}`
			wantProblem(t, call(large), http.StatusRequestEntityTooLarge, "request.body_too_large")
			wantProblem(t, call(large[:1<<20-2]+`"}`), http.StatusBadRequest, "request.invalid", "a") // exactly 1 MiB
			wantProblem(t, call(`{"unheard_of":1}`), http.StatusBadRequest, "request.invalid", "unheard_of")
			wantProblem(t, call(`{"x":1,"x":2}`), http.StatusBadRequest, "request.invalid", "x", "x")
			wantProblem(t, call(`[]`), http.StatusBadRequest, "request.invalid")
			wantProblem(t, call(``), http.StatusBadRequest, "request.invalid")
			many := map[string]int{}
			for i := range 1000 {
				many[fmt.Sprintf("unknown%04d", i)] = i
			}
			text, err := json.Marshal(many)
			if err != nil {
				t.Fatal(err)
			}
			if a := call(string(text)); a.Status != http.StatusBadRequest || len(a.Body) > 10_000 {
				t.Errorf("a thousand unknown fields: status %d, %d bytes", a.Status, len(a.Body))
			}
		})
	}
	if calls != 14 {
		t.Errorf("%d operations with a body", calls)
	}
}
