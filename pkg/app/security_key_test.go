package app_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
)

// lookUp is in the statement that looks a key up, and in no other.
const lookUp = "JOIN api_key_secrets s ON s.key_id = k.id"

// KEY-08: a key never gets, by any call, what it was not given.
func TestKeyCannotGainWhatItWasNotGiven(t *testing.T) {
	p := start(t, apptest.Options{Set: roomyWith(map[string]string{"accounts.user_scopes": "orders:read,orders:write"})})
	u, admin := p.User(t), p.Admin(t)
	mint := func(u *apptest.User, scopes ...string) apptest.Key {
		t.Helper()
		return p.Key(t, u, object{"scopes": append([]string{}, scopes...)})
	}
	writer := mint(u, "keys:read", "keys:write", "orders:read")
	strong := mint(u, "keys:read", "keys:write", "orders:read", "orders:write", "profile:write")
	adminWriter := mint(admin, "keys:read", "keys:write", "keys:admin")
	adminStrong := mint(admin, "users:read", "users:write", "audit:read")

	t.Run("in a new key", func(t *testing.T) {
		for _, scopes := range [][]string{{"orders:write"}, {"orders:read", "profile:read"}, {"profile:write", "keys:write"}} {
			a := p.Call(t, "POST", "/api-keys", object{"name": "k", "scopes": scopes}, writer.Auth()...)
			wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
		}
		for _, scope := range []string{"*", "users:read", "users:write", "audit:read", "keys:admin"} {
			a := p.Call(t, "POST", "/api-keys", object{"name": "k", "scopes": []string{scope}}, writer.Auth()...)
			if a.Status != http.StatusForbidden && a.Status != http.StatusBadRequest {
				t.Errorf("a key with %s: status %d: %s", scope, a.Status, a.Body)
			}
			a = p.Call(t, "POST", "/api-keys", object{"name": "k", "scopes": []string{scope}}, u.Auth()...)
			wantProblem(t, a, http.StatusBadRequest, "request.invalid", "scopes[0]")
		}
		p.Want(t, http.StatusCreated, "POST", "/api-keys", object{"name": "k", "scopes": []string{"orders:read"}}, writer.Auth()...)
	})
	t.Run("by changing itself or another", func(t *testing.T) {
		for _, id := range []string{writer.ID, strong.ID} {
			a := p.Call(t, "PATCH", "/api-keys/"+id, object{"scopes": []string{"orders:write"}}, writer.Auth()...)
			wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
		}
	})
	t.Run("by rotating a key that may do more", func(t *testing.T) {
		rotate := func(k, by apptest.Key) apptest.Answer {
			return p.Call(t, "POST", "/api-keys/"+k.ID+"/rotate", object{"grace_seconds": 60}, by.Auth()...)
		}
		wantProblem(t, rotate(strong, writer), http.StatusForbidden, "access.scope_missing")
		wantProblem(t, rotate(adminStrong, adminWriter), http.StatusForbidden, "access.scope_missing")
		for _, k := range []apptest.Key{strong, adminStrong} { // nothing happened to them
			p.Want(t, http.StatusOK, "GET", "/api/test", nil, k.Auth()...)
		}
		if a := rotate(writer, writer); a.Status != http.StatusOK {
			t.Errorf("rotating itself: status %d: %s", a.Status, a.Body)
		}
		if a := rotate(writer, strong); a.Status != http.StatusOK {
			t.Errorf("rotating a key that may do less: status %d: %s", a.Status, a.Body)
		}
	})
	t.Run("on account calls", func(t *testing.T) {
		all := mint(u, "keys:read", "keys:write", "profile:read", "profile:write")
		none := mint(u)
		for _, c := range []struct {
			method, path string
			body         any
			code         string // for the key with every scope
		}{
			{"POST", "/auth/logout", nil, "access.user_only"},
			{"POST", "/auth/password", object{"current_password": u.Password, "new_password": anotherPassword}, "access.user_only"},
			{"GET", "/auth/sessions", nil, "access.user_only"},
			{"DELETE", "/auth/sessions/" + unknownID, nil, "access.user_only"},
			{"GET", "/users", nil, "access.scope_missing"},
			{"DELETE", "/users/" + u.ID, nil, "access.scope_missing"},
			{"GET", "/audit", nil, "access.scope_missing"},
		} {
			wantProblem(t, p.Call(t, c.method, c.path, c.body, all.Auth()...), http.StatusForbidden, c.code)
			wantProblem(t, p.Call(t, c.method, c.path, c.body, none.Auth()...), http.StatusForbidden, c.code)
		}
		for _, c := range [][2]string{
			{"GET", "/users/me"}, {"PATCH", "/users/me"}, {"GET", "/api-keys"}, {"POST", "/api-keys"}, {"GET", "/api-keys/" + none.ID},
			{"DELETE", "/api-keys/" + none.ID}, {"PATCH", "/api-keys/" + none.ID}, {"POST", "/api-keys/" + none.ID + "/rotate"},
		} {
			wantProblem(t, p.Call(t, c[0], c[1], object{}, none.Auth()...), http.StatusForbidden, "access.scope_missing")
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, u.Auth()...) // the session lives
	})
}

// KEY-11: a revoked key stays revoked, whatever was on its way to be written when
// it was revoked: the last use, a renewed verifier, a change.
func TestRevokedKeyIsNotRevived(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{Set: roomy()})
	db := apptest.Connect(t, p.DatabaseURL)
	u := p.User(t)
	for round := range 5 {
		k := p.Key(t, u, object{"scopes": []string{"keys:write"}})
		var revoked, over atomic.Bool
		var accepted atomic.Int64
		var working sync.WaitGroup
		for range 4 {
			working.Go(func() {
				for !over.Load() {
					late := revoked.Load()
					a, err := p.Try("GET", "/keyed/x", nil, k.Auth()...)
					switch {
					case err != nil:
						t.Errorf("a call: %v", err)
						return
					case late && a.Status != http.StatusUnauthorized:
						t.Errorf("round %d: status %d after the key was revoked", round, a.Status)
						return
					case a.Status == http.StatusOK:
						accepted.Add(1)
					}
				}
			})
		}
		working.Go(func() {
			for !over.Load() {
				p.Platform.KeyCheck.FlushUsage(context.Background())
				_, _ = p.Try("PATCH", "/api-keys/"+k.ID, object{"name": "busy"}, u.Auth()...)
			}
		})
		apptest.Eventually(t, "the key is in use", func() bool { return accepted.Load() > 20 })
		// Without a verifier the next use writes one back.
		if _, err := db.Exec(t.Context(), `UPDATE api_key_secrets SET verifier = NULL WHERE key_id = $1`, k.ID); err != nil {
			t.Fatal(err)
		}
		p.Platform.KeyCheck.Reset()
		p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+k.ID, nil, u.Auth()...)
		revoked.Store(true)
		for range 20 {
			p.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, k.Auth()...)
		}
		over.Store(true)
		working.Wait()
		p.Platform.KeyCheck.FlushUsage(t.Context())
		p.Platform.KeyCheck.Reset() // so that the database is asked
		p.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, k.Auth()...)
		var dead bool
		if err := db.QueryRow(t.Context(), `SELECT revoked_at IS NOT NULL FROM api_keys WHERE id = $1`, k.ID).Scan(&dead); err != nil || !dead {
			t.Errorf("round %d: the row is revoked: %t, %v", round, dead, err)
		}
		a := p.Call(t, "PATCH", "/api-keys/"+k.ID, object{"name": "again"}, u.Auth()...)
		wantProblem(t, a, http.StatusConflict, "apikey.revoked")
		a = p.Call(t, "POST", "/api-keys/"+k.ID+"/rotate", object{"grace_seconds": 60}, u.Auth()...)
		wantProblem(t, a, http.StatusConflict, "apikey.revoked")
	}
}

// KEY-15: many who create with the same Idempotency-Key at once make one key and
// get one answer; another request under the same one is refused.
func TestIdempotentCreateMakesOneKey(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u, other := p.User(t), p.User(t)
	body := object{"name": "once", "scopes": []string{"profile:read"}}
	with := u.With("Idempotency-Key", "order-66")
	same := func(t *testing.T, got []apptest.Answer, status int) (id, secret string) {
		t.Helper()
		id, secret = got[0].Text(t, "id"), got[0].Text(t, "key")
		for _, a := range got {
			if a.Status != status || a.Text(t, "id") != id || a.Text(t, "key") != secret {
				t.Errorf("status %d and key %s, want %d and %s", a.Status, a.Text(t, "id"), status, id)
			}
		}
		return id, secret
	}
	id, secret := same(t, atOnce(t, 16, func(int) (apptest.Answer, error) { return p.Try("POST", "/api-keys", body, with...) }), http.StatusCreated)
	if list := items(t, p.Want(t, http.StatusOK, "GET", "/api-keys", nil, u.Auth()...)); len(list) != 1 {
		t.Errorf("there are %d keys", len(list))
	}
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, "X-API-Key", secret)

	for _, different := range []object{{"name": "twice", "scopes": []string{"profile:read"}}, {"name": "once"}, {"name": "once", "scopes": []string{"profile:write"}}} {
		wantProblem(t, p.Call(t, "POST", "/api-keys", different, with...), http.StatusUnprocessableEntity, "request.idempotency_mismatch")
	}
	a := p.Call(t, "POST", "/api-keys/"+id+"/rotate", object{"grace_seconds": 60}, with...)
	wantProblem(t, a, http.StatusUnprocessableEntity, "request.idempotency_mismatch")
	// Under another user the same word is another one.
	a = p.Want(t, http.StatusCreated, "POST", "/api-keys", body, other.With("Idempotency-Key", "order-66")...)
	if a.Text(t, "id") == id || a.Text(t, "key") == secret {
		t.Error("a user got the answer of another one")
	}

	got := atOnce(t, 8, func(int) (apptest.Answer, error) {
		return p.Try("POST", "/api-keys/"+id+"/rotate", object{"grace_seconds": 0}, u.With("Idempotency-Key", "rotate-1")...)
	})
	_, rotated := same(t, got, http.StatusOK)
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, "X-API-Key", rotated)
	p.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, "X-API-Key", secret)
}

// KEY-16: wrong keys cost neither bcrypt nor queries. The stored bcrypt is made
// unreadable, so that any use of it is an error and not a refusal.
func TestWrongKeysCostNothing(t *testing.T) {
	wire, url := wireTo(t, pgtest.New(t))
	p, _ := startBehind(t, apptest.Options{DatabaseURL: url, Set: roomy()})
	db := apptest.Connect(t, url)
	k := p.Key(t, p.User(t), nil)
	if _, err := db.Exec(t.Context(), `UPDATE api_key_secrets SET bcrypt = 'unreadable'`); err != nil {
		t.Fatal(err)
	}
	works := func(t *testing.T) {
		t.Helper()
		p.Want(t, http.StatusOK, "GET", "/keyed/x", nil, k.Auth()...)
	}
	// The event of the key's creation comes back through the log and drops what is
	// cached of the key once more; nothing of that is to be counted.
	if receipt, err := p.Platform.Follower.Await(t.Context(), 0, 10*time.Second); err != nil || !receipt.Complete {
		t.Fatalf("the log was not read to its end: %+v, %v", receipt, err)
	}
	works(t)

	t.Run("wrong secrets of a known key", func(t *testing.T) {
		before := wire.Statements(lookUp)
		for range 500 {
			a := p.Call(t, "GET", "/keyed/x", nil, "X-API-Key", guessOf(k.Secret))
			if a.Status != http.StatusUnauthorized {
				t.Fatalf("status %d: %s", a.Status, a.Body)
			}
		}
		if n := wire.Statements(lookUp) - before; n != 0 {
			t.Errorf("%d queries for keys that are in memory", n)
		}
		works(t)
	})
	t.Run("the same unknown key again and again", func(t *testing.T) {
		before := wire.Statements(lookUp)
		unknown := unknownKey()
		for range 100 {
			p.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, "X-API-Key", unknown)
		}
		if n := wire.Statements(lookUp) - before; n != 1 {
			t.Errorf("%d queries for one unknown key", n)
		}
	})
	t.Run("a key with a wrong check", func(t *testing.T) {
		before := wire.Statements("")
		beforeLookUps := wire.Statements(lookUp)
		for range 100 {
			key := unknownKey()
			flipped := "0"
			if strings.HasSuffix(key, "0") {
				flipped = "1"
			}
			p.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, "X-API-Key", key[:len(key)-1]+flipped)
		}
		if n := wire.Statements(lookUp) - beforeLookUps; n != 0 {
			t.Errorf("%d queries", n)
		}
		// The follower polls twice a second, and that is all that goes on.
		if n := wire.Statements("") - before; n > 50 {
			t.Errorf("%d statements of any kind", n)
		}
	})
	t.Run("ever new unknown keys", func(t *testing.T) {
		before := wire.Statements(lookUp)
		var refused, slowed atomic.Int64
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for range 200 {
					a, err := p.Try("GET", "/keyed/x", nil, "X-API-Key", unknownKey())
					switch {
					case err != nil:
						t.Error(err)
					case a.Status == http.StatusUnauthorized:
						refused.Add(1)
					case a.Status == http.StatusTooManyRequests && a.Header.Get("Retry-After") != "":
						slowed.Add(1)
					default:
						t.Errorf("status %d: %s", a.Status, a.Body)
					}
				}
			})
		}
		for range 50 {
			works(t) // as before: it is in memory
		}
		callers.Wait()
		queries := int64(wire.Statements(lookUp) - before)
		if queries > refused.Load() || slowed.Load() == 0 {
			t.Errorf("%d queries; %d keys refused, %d told to wait", queries, refused.Load(), slowed.Load())
		}
		works(t)
	})
	t.Run("a secret without verifier needs bcrypt, which would be noticed", func(t *testing.T) {
		if _, err := db.Exec(t.Context(), `UPDATE api_key_secrets SET verifier = NULL`); err != nil {
			t.Fatal(err)
		}
		p.Platform.KeyCheck.Reset()
		apptest.Eventually(t, "bcrypt is used", func() bool { // once the limit on misses lets a look-up through
			return p.Call(t, "GET", "/keyed/x", nil, k.Auth()...).Status == http.StatusServiceUnavailable
		})
	})
}

// junkKeys are keys that no look at a database is needed for.
func junkKeys(real string) map[string]string {
	body := real[len("kw_live_"):]
	swapped := []byte(real)
	swapped[10], swapped[30] = swapped[30]+1, swapped[10]
	return map[string]string{
		"one character short":  real[:len(real)-1],
		"one character more":   real + "0",
		"first cut off":        real[1:],
		"upper case":           strings.ToUpper(real),
		"a transposition":      string(swapped),
		"another environment":  "kw_test_" + body, // the check covers the whole
		"no environment":       "kw__" + body,
		"unknown environment":  checked("kw_prod_" + body[:keyIDLength+keySecretLength]),
		"id only":              real[:len("kw_live_")+keyIDLength],
		"no base62":            "kw_live_" + strings.Repeat("-", len(body)),
		"quotes":               "kw_live_' OR '1'='1",
		"a template":           "kw_live_{{env \"KEYWARDEN_MASTER_KEY\"}}",
		"three characters":     "kw_",
		"long":                 "kw_live_" + strings.Repeat("a", 5000),
		"not ASCII":            "kw_live_" + strings.Repeat("ａ", len(body)),
		"two in one":           real + "," + real,
		"percent-encoded":      strings.Replace(real, "_", "%5f", 2),
		"with a space":         real[:20] + " " + real[20:],
		"wrong check, all new": "kw_live_" + randomText(keyIDLength+keySecretLength+keyCheckLength),
	}
}

// KEY-18: junk is refused without asking the database, as its absence shows; a
// key that could be one is not refused while nobody can be asked.
func TestJunkIsRefusedWithoutTheDatabase(t *testing.T) {
	server := pgtest.NewServer(t)
	p, _ := startBehind(t, apptest.Options{DatabaseURL: server.URL(), Set: roomy()})
	real := p.Key(t, p.User(t), nil).Secret
	server.Stop()
	for name, junk := range junkKeys(real) {
		for _, path := range []string{"/keyed/x", "/api/test"} {
			a := ask(t, p.Addr, rawRequest("GET "+path+" HTTP/1.1", "X-API-Key: "+junk))
			if a.Status != http.StatusUnauthorized || a.Header.Get("Www-Authenticate") == "" {
				t.Errorf("%s on %s: status %d: %s", name, path, a.Status, a.Body)
			}
			a = ask(t, p.Addr, rawRequest("GET "+path+" HTTP/1.1", "Authorization: Bearer "+junk))
			if a.Status != http.StatusUnauthorized || a.Header.Get("Www-Authenticate") == "" {
				t.Errorf("%s as bearer on %s: status %d: %s", name, path, a.Status, a.Body)
			}
		}
	}
	for _, key := range []string{unknownKey(), guessOf(unknownKey()), real} { // real was never used
		a := ask(t, p.Addr, rawRequest("GET /keyed/x HTTP/1.1", "X-API-Key: "+key))
		if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
			t.Errorf("a key that cannot be decided on: status %d, Retry-After %q", a.Status, a.Header.Get("Retry-After"))
		}
	}
}

// KEY-21: nothing of one user is seen or touched by another, by any filter,
// cursor, id or word, and a new account with an old address inherits nothing.
func TestUsersAreIsolated(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{Set: roomy()})
	a, b := p.User(t), p.User(t)
	var keysOfA []apptest.Key
	for range 3 {
		keysOfA = append(keysOfA, p.Key(t, a, object{"name": "of a", "scopes": []string{"profile:read"}}))
	}
	keyOfB := p.Key(t, b, object{"name": "of b", "scopes": []string{"keys:read", "keys:write"}})
	page := p.Want(t, http.StatusOK, "GET", "/api-keys?limit=1", nil, a.Auth()...)
	cursorOfA := page.Text(t, "next_cursor")
	for _, credential := range [][]string{b.Auth(), keyOfB.Auth()} {
		for _, query := range []string{"", "?limit=200", "?revoked=true", "?user_id=" + b.ID, "?cursor=" + cursorOfA, "?limit=1&cursor=" + cursorOfA} {
			got := p.Call(t, "GET", "/api-keys"+query, nil, credential...)
			for _, k := range keysOfA {
				if strings.Contains(string(got.Body), k.ID) || strings.Contains(string(got.Body), a.ID) {
					t.Errorf("GET /api-keys%s shows a key of another user", query)
				}
			}
		}
		for _, query := range []string{"?user_id=" + a.ID, "?user_id=*", "?user_id=%25", "?user_id=" + a.ID + "&user_id=" + b.ID, "?user_id[]=" + a.ID} {
			if got := p.Call(t, "GET", "/api-keys"+query, nil, credential...); got.Status != http.StatusForbidden && got.Status != http.StatusBadRequest {
				t.Errorf("GET /api-keys%s: status %d: %s", query, got.Status, got.Body)
			}
		}
		for _, id := range []string{keysOfA[0].ID, strings.ToUpper(keysOfA[0].ID), "{" + keysOfA[0].ID + "}", strings.ReplaceAll(keysOfA[0].ID, "-", "")} {
			for _, c := range []struct {
				method, path string
				body         any
			}{
				{"GET", "", nil}, {"PATCH", "", object{"name": "taken"}}, {"DELETE", "", nil}, {"DELETE", "?wait=true", nil},
				{"POST", "/rotate", object{"grace_seconds": 0}},
			} {
				got := p.Call(t, c.method, "/api-keys/"+id+c.path, c.body, credential...)
				if got.Status != http.StatusNotFound || strings.Contains(string(got.Body), "of a") {
					t.Errorf("%s /api-keys/%s%s: status %d: %s", c.method, id, c.path, got.Status, got.Body)
				}
			}
		}
	}
	sessions := items(t, p.Want(t, http.StatusOK, "GET", "/auth/sessions", nil, a.Auth()...))
	for _, id := range idsOf(sessions) {
		p.Want(t, http.StatusNotFound, "DELETE", "/auth/sessions/"+id, nil, b.Auth()...)
	}
	p.Want(t, http.StatusOK, "GET", "/users/me", nil, a.Auth()...)
	for _, k := range keysOfA {
		p.Want(t, http.StatusOK, "GET", "/keyed/x", nil, k.Auth()...)
	}

	admin := p.Admin(t)
	p.Want(t, http.StatusNoContent, "DELETE", "/users/"+a.ID, nil, admin.Auth()...)
	heir := &apptest.User{Email: a.Email, Password: apptest.Password}
	made := p.Want(t, http.StatusCreated, "POST", "/auth/register", object{"email": heir.Email, "password": heir.Password})
	p.SignIn(t, heir)
	if made.Text(t, "id") == a.ID {
		t.Error("an id was used again")
	}
	if list := items(t, p.Want(t, http.StatusOK, "GET", "/api-keys?revoked=true", nil, heir.Auth()...)); len(list) != 0 {
		t.Errorf("the heir of an address has %d keys", len(list))
	}
	if list := items(t, p.Want(t, http.StatusOK, "GET", "/auth/sessions", nil, heir.Auth()...)); len(list) != 1 {
		t.Errorf("the heir of an address has %d sessions", len(list))
	}
	p.Want(t, http.StatusUnauthorized, "GET", "/users/me", nil, a.Auth()...)
	p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": a.Refresh})
	for _, k := range keysOfA {
		p.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, k.Auth()...)
		p.Want(t, http.StatusNotFound, "GET", "/api-keys/"+k.ID, nil, heir.Auth()...)
	}
}

// Keys that are bound to addresses are judged by the address of the peer, not by
// what a header claims, and their refusal comes only after the secret was right.
func TestAllowedAddressesOfAKey(t *testing.T) {
	p, up := startBehind(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	elsewhere := p.Key(t, u, object{"allowed_ips": []string{"192.0.2.0/24"}})
	here := p.Key(t, u, object{"allowed_ips": []string{"127.0.0.1"}})
	for _, line := range []string{"X-A: 1", "X-Forwarded-For: 192.0.2.1", "X-Real-IP: 192.0.2.1", "Forwarded: for=192.0.2.1", "X_Forwarded_For: 192.0.2.1"} {
		a, seen := askBehind(t, p, up, rawRequest("GET /keyed/x HTTP/1.1", "X-API-Key: "+elsewhere.Secret, line))
		if a.Status != http.StatusForbidden || len(seen) != 0 {
			t.Errorf("with %q: status %d, %d requests reached the backend", line, a.Status, len(seen))
		}
		if a := ask(t, p.Addr, rawRequest("GET /keyed/x HTTP/1.1", "X-API-Key: "+guessOf(elsewhere.Secret), line)); a.Status != http.StatusUnauthorized {
			t.Errorf("a guess at it with %q: status %d", line, a.Status)
		}
	}
	p.Want(t, http.StatusOK, "GET", "/keyed/x", nil, here.Auth()...)
}

// Whatever is wrong with a key, the answer is the same.
func TestBadKeysCannotBeToldApart(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{Set: roomy()})
	admin, u, gone := p.Admin(t), p.User(t), p.User(t)
	revoked, orphan, disabled := p.Key(t, u, nil), p.Key(t, gone, nil), p.User(t)
	ofDisabled := p.Key(t, disabled, nil)
	expired := p.Key(t, u, object{"expires_in": 1})
	live := p.Key(t, u, nil)
	p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+revoked.ID, nil, u.Auth()...)
	p.Want(t, http.StatusNoContent, "DELETE", "/users/"+gone.ID, nil, admin.Auth()...)
	p.Want(t, http.StatusOK, "PATCH", "/users/"+disabled.ID, object{"disabled": true}, admin.Auth()...)
	apptest.Eventually(t, "the key expires", func() bool {
		return p.Call(t, "GET", "/api/test", nil, expired.Auth()...).Status == http.StatusUnauthorized
	})
	for _, path := range []string{"/keyed/x", "/api/test"} {
		try := func(key string) apptest.Answer { return p.Call(t, "GET", path, nil, "X-API-Key", key) }
		unknown := try(unknownKey())
		wantProblem(t, unknown, http.StatusUnauthorized, "auth.key_invalid")
		for name, key := range map[string]string{
			"revoked": revoked.Secret, "an owner that is gone": orphan.Secret, "a disabled owner": ofDisabled.Secret, "expired": expired.Secret,
			"a wrong secret": guessOf(live.Secret), "a wrong secret of a revoked one": guessOf(revoked.Secret), "a wrong check": live.Secret[:len(live.Secret)-1],
			"junk": "junk",
		} {
			sameAnswer(t, fmt.Sprintf("%s: %s and an unknown key", path, name), try(key), unknown)
		}
	}
}

// A rotated secret ends when its grace does, on every path, and never comes back.
func TestRotatedSecretEndsWithItsGrace(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	k := p.Key(t, u, nil)
	secrets := []string{k.Secret}
	rotate := func(grace int) {
		t.Helper()
		a := p.Want(t, http.StatusOK, "POST", "/api-keys/"+k.ID+"/rotate", object{"grace_seconds": grace}, u.Auth()...)
		secrets = append(secrets, a.Text(t, "key"))
	}
	status := func(i int) int { return p.Call(t, "GET", "/keyed/x", nil, "X-API-Key", secrets[i]).Status }
	rotate(3600)
	if got := []int{status(0), status(1)}; !slices.Equal(got, []int{200, 200}) {
		t.Errorf("within the grace: %v", got)
	}
	rotate(1) // the first secret's hour is cut too
	apptest.Eventually(t, "the grace ends", func() bool { return status(0) == 401 && status(1) == 401 })
	rotate(0)
	if got := []int{status(0), status(1), status(2), status(3)}; !slices.Equal(got, []int{401, 401, 401, 200}) {
		t.Errorf("after the last rotation: %v", got)
	}
	p.Platform.KeyCheck.Reset()
	if got := []int{status(0), status(1), status(2), status(3)}; !slices.Equal(got, []int{401, 401, 401, 200}) {
		t.Errorf("asked from the database: %v", got)
	}
}
