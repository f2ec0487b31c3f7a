package app_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// keyMembers is what is shown of a key: everything but the key.
var keyMembers = []string{
	"id", "user_id", "name", "env", "prefix", "last_four", "scopes", "allowed_ips",
	"expires_at", "created_at", "updated_at", "last_used_at",
}

func withMembers(more ...string) []string { return append(slices.Clone(keyMembers), more...) }

// keyPattern is the form of a key: prefix, environment, then 12 characters of
// id, 32 of secret and 6 of check.
var keyPattern = regexp.MustCompile(`^(kw_(?:live|test)_[0-9A-Za-z]{12})[0-9A-Za-z]{38}$`)

// keyCheck is the end of a key that begins with head: CRC-32 (IEEE) in base62.
func keyCheck(head string) string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := crc32.ChecksumIEEE([]byte(head))
	check := make([]byte, 6)
	for i := len(check) - 1; i >= 0; i-- {
		check[i] = alphabet[sum%62]
		sum /= 62
	}
	return string(check)
}

// inventedKey is well-formed, with the right check, and nobody's.
func inventedKey(n int) string {
	head := fmt.Sprintf("kw_live_%012d%s", n, strings.Repeat("x", 32))
	return head + keyCheck(head)
}

// wrongSecret is the key with another secret and the right check for it.
func wrongSecret(key string) string {
	head := key[:len("kw_live_")+12] + strings.Repeat("x", 32)
	return head + keyCheck(head)
}

func TestCreateKey(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	create := func(body any, headers ...string) apptest.Answer {
		return p.Call(t, "POST", "/api-keys", body, u.With(headers...)...)
	}

	t.Run("shows the key once", func(t *testing.T) {
		a := create(object{"name": " ci "})
		got := a.JSON(t)
		wantMembers(t, got, withMembers("key")...)
		key := got["key"].(string)
		form := keyPattern.FindStringSubmatch(key)
		if form == nil || keyCheck(key[:len(key)-6]) != key[len(key)-6:] {
			t.Fatalf("the key %q has not the form of one", key)
		}
		want := object{
			"name": "ci", "env": "live", "prefix": form[1], "last_four": key[len(key)-4:], "user_id": u.ID,
			"scopes": []any{}, "allowed_ips": []any{}, "expires_at": nil, "last_used_at": nil,
			"id": got["id"], "key": key, "created_at": got["created_at"], "updated_at": got["created_at"],
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("key (-want +got):\n%s", diff)
		}
		if loc := a.Header.Get("Location"); a.Status != http.StatusCreated || loc != "/api-keys/"+a.Text(t, "id") {
			t.Errorf("status %d, Location %q", a.Status, loc)
		}
		if got := a.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control: %q", got)
		}
		for _, path := range []string{"/api-keys", "/api-keys/" + a.Text(t, "id")} {
			if again := p.Want(t, http.StatusOK, "GET", path, nil, u.Auth()...); strings.Contains(string(again.Body), key) {
				t.Errorf("%s shows the key: %s", path, again.Body)
			}
		}
	})

	t.Run("with everything", func(t *testing.T) {
		soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		a := create(object{
			"name": "everything", "env": "test", "scopes": []string{"profile:read", "keys:read", "profile:read"},
			"expires_at": soon.In(time.FixedZone("", 3600)).Format(time.RFC3339), "allowed_ips": []string{"127.0.0.1", "2001:db8::/32", "10.1.2.3/8"},
		})
		got := a.JSON(t)
		if !strings.HasPrefix(got["key"].(string), "kw_test_") {
			t.Errorf("key %v of the environment test", got["key"])
		}
		want := object{
			"env": "test", "scopes": []any{"keys:read", "profile:read"}, "expires_at": soon.Format(time.RFC3339),
			"allowed_ips": []any{"127.0.0.1/32", "2001:db8::/32", "10.0.0.0/8"},
		}
		for member, want := range want {
			if diff := cmp.Diff(want, got[member]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", member, diff)
			}
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, "X-API-Key", a.Text(t, "key"))
	})

	t.Run("expires_in counts from now", func(t *testing.T) {
		before := time.Now().Truncate(time.Second)
		at, err := time.Parse(time.RFC3339, create(object{"name": "a", "expires_in": 3600}).Text(t, "expires_at"))
		if err != nil || at.Before(before.Add(time.Hour)) || at.After(time.Now().Add(time.Hour)) {
			t.Errorf("expires_at %v, %v", at, err)
		}
	})

	t.Run("names every wrong field", func(t *testing.T) {
		many := make([]string, 51)
		for i := range many {
			many[i] = fmt.Sprintf("10.0.0.%d", i)
		}
		for name, test := range map[string]struct {
			change object
			fields []string
		}{
			"no name":              {object{"name": nil}, []string{"name"}},
			"blank name":           {object{"name": "  "}, []string{"name"}},
			"long name":            {object{"name": strings.Repeat("é", 101)}, []string{"name"}},
			"name with line break": {object{"name": "a\nb"}, []string{"name"}},
			"env":                  {object{"env": "prod"}, []string{"env"}},
			"wildcard":             {object{"scopes": []string{"*"}}, []string{"scopes[0]"}},
			"scope not held":       {object{"scopes": []string{"profile:read", "users:read"}}, []string{"scopes[1]"}},
			"admin's scopes":       {object{"scopes": []string{"keys:admin", "audit:read", "users:write"}}, []string{"scopes[0]", "scopes[1]", "scopes[2]"}},
			"no scope name":        {object{"scopes": []string{"Profile:Read", "", "a b"}}, []string{"scopes[0]", "scopes[1]", "scopes[2]"}},
			"scopes as text":       {object{"scopes": "profile:read"}, []string{"scopes"}},
			"past":                 {object{"expires_at": "2020-01-01T00:00:00Z"}, []string{"expires_at"}},
			"far future":           {object{"expires_at": "2999-01-01T00:00:00Z"}, []string{"expires_at"}},
			"no time":              {object{"expires_at": "tomorrow"}, []string{"expires_at"}},
			"both expiries":        {object{"expires_at": "2030-01-01T00:00:00Z", "expires_in": 5}, []string{"expires_in"}},
			"no time at all":       {object{"expires_in": 0}, []string{"expires_in"}},
			"negative":             {object{"expires_in": -1}, []string{"expires_in"}},
			"twenty years":         {object{"expires_in": 20 * 366 * 24 * 3600}, []string{"expires_in"}},
			"fraction":             {object{"expires_in": 1.5}, []string{"expires_in"}},
			"immense":              {object{"expires_in": int64(1) << 62}, []string{"expires_in"}},
			"address":              {object{"allowed_ips": []string{"127.0.0.1", "localhost", "10.0.0.0/33", "fe80::1%eth0", "::ffff:10.0.0.0/104"}}, []string{"allowed_ips[1]", "allowed_ips[2]", "allowed_ips[3]", "allowed_ips[4]"}},
			"too many addresses":   {object{"allowed_ips": many}, []string{"allowed_ips"}},
			"owner":                {object{"user_id": unknownID}, []string{"user_id"}},
			"key of one's own":     {object{"key": inventedKey(1)}, []string{"key"}},
			"several":              {object{"name": "", "env": "x", "scopes": []string{"*"}, "allowed_ips": []string{"x"}}, []string{"name", "env", "scopes[0]", "allowed_ips[0]"}},
		} {
			t.Run(name, func(t *testing.T) {
				body := object{"name": "a"}
				for member, value := range test.change {
					body[member] = value
				}
				wantProblem(t, create(body), http.StatusBadRequest, "request.invalid", test.fields...)
			})
		}
	})
}

func TestKeysPerUserAreLimited(t *testing.T) {
	p := start(t, apptest.Options{Set: map[string]string{"keys.max_per_user": "3"}})
	u, other := p.User(t), p.User(t)
	got := atOnce(t, 8, func(int) (apptest.Answer, error) {
		return p.Try("POST", "/api-keys", object{"name": "a"}, u.Auth()...)
	})
	if diff := cmp.Diff(map[int]int{http.StatusCreated: 3, http.StatusConflict: 5}, byStatus(got)); diff != "" {
		t.Fatalf("answers by status (-want +got):\n%s", diff)
	}
	wantProblem(t, p.Call(t, "POST", "/api-keys", object{"name": "a"}, u.Auth()...), http.StatusConflict, "apikey.too_many")
	p.Key(t, other, nil)
	list := items(t, p.Want(t, http.StatusOK, "GET", "/api-keys", nil, u.Auth()...))
	p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+list[0]["id"].(string), nil, u.Auth()...)
	p.Key(t, u, nil)
}

func TestExpiredKeyIsRefused(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	key := p.Key(t, u, map[string]any{"expires_in": 2})
	want := p.Call(t, "GET", "/api/test", nil, "X-API-Key", inventedKey(1))
	apptest.Eventually(t, "the key expires", func() bool {
		a := p.Call(t, "GET", "/api/test", nil, key.Auth()...)
		if a.Status != http.StatusOK {
			wantSameAnswer(t, want, a)
		}
		return a.Status == http.StatusUnauthorized
	})
	// The owner may prolong it.
	p.Want(t, http.StatusOK, "PATCH", "/api-keys/"+key.ID, `{"expires_at":null}`, u.Auth()...)
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
}

func TestReadAndChangeKeys(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	var want []string // newest first
	for range 5 {
		want = slices.Insert(want, 0, p.Key(t, u, nil).ID)
	}

	t.Run("page by page, newest first, each one once", func(t *testing.T) {
		for limit, pages := range map[string]int{"1": 5, "2": 3, "5": 1, "200": 1} {
			got := collect(t, p, u, "/api-keys", "limit="+limit)
			if diff := cmp.Diff(want, idsOf(slices.Concat(got...))); diff != "" || len(got) != pages {
				t.Errorf("limit %s: %d pages, want %d (-want +got):\n%s", limit, len(got), pages, diff)
			}
		}
		for _, k := range items(t, p.Want(t, http.StatusOK, "GET", "/api-keys", nil, u.Auth()...)) {
			wantMembers(t, k, withMembers()...)
		}
	})

	t.Run("revoked ones on request", func(t *testing.T) {
		p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+want[1], nil, u.Auth()...)
		live := append([]string{want[0]}, want[2:]...)
		for query, want := range map[string][]string{"": live, "revoked=false": live, "revoked=true": want} {
			a := p.Want(t, http.StatusOK, "GET", "/api-keys?"+query, nil, u.Auth()...)
			if diff := cmp.Diff(want, idsOf(items(t, a))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", query, diff)
			}
		}
		wantMembers(t, p.Want(t, http.StatusOK, "GET", "/api-keys/"+want[1], nil, u.Auth()...).JSON(t), withMembers("revoked_at")...)
	})

	t.Run("refuses what it does not understand", func(t *testing.T) {
		for query, field := range map[string]string{
			"revoked=yes": "revoked", "limit=500": "limit", "cursor=AAAA": "cursor", "owner=me": "owner", "user_id=a&user_id=b": "user_id",
		} {
			wantProblem(t, p.Call(t, "GET", "/api-keys?"+query, nil, u.Auth()...), http.StatusBadRequest, "request.invalid", field)
		}
	})

	t.Run("changes what is given and nothing else", func(t *testing.T) {
		key := p.Key(t, u, map[string]any{"scopes": []string{"profile:read"}, "expires_in": 3600, "allowed_ips": []string{"127.0.0.0/8"}})
		patch := func(body any) apptest.Answer { return p.Call(t, "PATCH", "/api-keys/"+key.ID, body, u.Auth()...) }
		before := p.Want(t, http.StatusOK, "GET", "/api-keys/"+key.ID, nil, u.Auth()...).JSON(t)
		for _, step := range []struct {
			body   any
			change object
		}{
			{object{}, nil},
			{`{"name":null,"scopes":null,"allowed_ips":null}`, nil},
			{object{"name": " new "}, object{"name": "new"}},
			{object{"scopes": []string{}}, object{"scopes": []any{}}},
			{object{"scopes": []string{"profile:write", "profile:read"}}, object{"scopes": []any{"profile:read", "profile:write"}}},
			{object{"allowed_ips": []string{"127.0.0.1"}}, object{"allowed_ips": []any{"127.0.0.1/32"}}},
			{`{"expires_at":null}`, object{"expires_at": nil}},
			{object{"expires_at": "2030-01-31T12:00:00Z"}, object{"expires_at": "2030-01-31T12:00:00Z"}},
		} {
			a := patch(step.body)
			got := a.JSON(t)
			wantMembers(t, got, withMembers()...)
			for member, value := range step.change {
				before[member] = value
			}
			before["updated_at"] = got["updated_at"]
			if diff := cmp.Diff(before, got); a.Status != http.StatusOK || diff != "" {
				t.Errorf("%v: status %d (-want +got):\n%s", step.body, a.Status, diff)
			}
		}
		p.Want(t, http.StatusOK, "PATCH", "/users/me", object{"name": "x"}, key.Auth()...)
		for field, body := range map[string]object{
			"scopes[0]": {"scopes": []string{"users:read"}}, "name": {"name": " "}, "expires_at": {"expires_at": "2020-01-01T00:00:00Z"},
			"allowed_ips[0]": {"allowed_ips": []string{"x"}}, "env": {"env": "test"}, "revoked_at": {"revoked_at": nil}, "user_id": {"user_id": u.ID},
		} {
			wantProblem(t, patch(body), http.StatusBadRequest, "request.invalid", field)
		}
	})

	t.Run("less takes effect at once", func(t *testing.T) {
		key := p.Key(t, u, map[string]any{"scopes": []string{"profile:read"}})
		patch := func(body any) {
			t.Helper()
			p.Want(t, http.StatusOK, "PATCH", "/api-keys/"+key.ID, body, u.Auth()...)
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, key.Auth()...)
		patch(object{"scopes": []string{}})
		wantProblem(t, p.Call(t, "GET", "/users/me", nil, key.Auth()...), http.StatusForbidden, "access.scope_missing")
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
		patch(object{"allowed_ips": []string{"203.0.113.0/24"}})
		wantProblem(t, p.Call(t, "GET", "/api/test", nil, key.Auth()...), http.StatusForbidden, "auth.address_not_allowed")
		patch(object{"allowed_ips": []string{}})
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
	})

	t.Run("last use is known to the minute", func(t *testing.T) {
		key := p.Key(t, u, nil)
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
		after := time.Now()
		p.Platform.KeyCheck.FlushUsage(context.Background()) // which it does by itself every few seconds
		text := p.Want(t, http.StatusOK, "GET", "/api-keys/"+key.ID, nil, u.Auth()...).Text(t, "last_used_at")
		used, err := time.Parse(time.RFC3339, text)
		if err != nil || used != used.Truncate(time.Minute) || used.After(after) || after.Sub(used) > 5*time.Minute {
			t.Errorf("last_used_at %q, %v", text, err)
		}
	})
}

func TestRotateKey(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	rotate := func(t *testing.T, key apptest.Key, grace int) (next apptest.Key) {
		t.Helper()
		a := p.Want(t, http.StatusOK, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": grace}, u.Auth()...)
		wantMembers(t, a.JSON(t), withMembers("key")...)
		next = apptest.Key{ID: a.Text(t, "id"), Secret: a.Text(t, "key")}
		if next.ID != key.ID || next.Secret == key.Secret || !strings.HasPrefix(next.Secret, key.Secret[:20]) ||
			a.Text(t, "last_four") != next.Secret[len(next.Secret)-4:] {
			t.Fatalf("rotated from %v to %v", key, next)
		}
		return next
	}
	good := func(t *testing.T, key apptest.Key) {
		t.Helper()
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
	}
	refused := func(t *testing.T, key apptest.Key) {
		t.Helper()
		wantProblem(t, p.Call(t, "GET", "/api/test", nil, key.Auth()...), http.StatusUnauthorized, "auth.key_invalid")
	}

	t.Run("without grace the old secret is refused at once", func(t *testing.T) {
		key := p.Key(t, u, nil)
		good(t, key)
		next := rotate(t, key, 0)
		refused(t, key)
		good(t, next)
	})

	t.Run("within the grace both work, after it the new one", func(t *testing.T) {
		key := p.Key(t, u, nil)
		second := rotate(t, key, 3600)
		good(t, key)
		good(t, second)
		third := rotate(t, second, 2) // cuts the grace of the first too
		good(t, third)
		apptest.Eventually(t, "the grace ends", func() bool {
			return p.Call(t, "GET", "/api/test", nil, second.Auth()...).Status == http.StatusUnauthorized
		})
		refused(t, key)
		good(t, third)
	})

	t.Run("keeps what the key is", func(t *testing.T) {
		key := p.Key(t, u, map[string]any{"name": "kept", "env": "test", "scopes": []string{"profile:read"}, "allowed_ips": []string{"127.0.0.1"}})
		before := p.Want(t, http.StatusOK, "GET", "/api-keys/"+key.ID, nil, u.Auth()...).JSON(t)
		next := rotate(t, key, 0)
		after := p.Want(t, http.StatusOK, "GET", "/api-keys/"+key.ID, nil, u.Auth()...).JSON(t)
		before["updated_at"], before["last_four"] = after["updated_at"], next.Secret[len(next.Secret)-4:]
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("key (-before +after):\n%s", diff)
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, next.Auth()...)
	})

	t.Run("one of many secrets made at once is the current one", func(t *testing.T) {
		key := p.Key(t, u, nil)
		got := atOnce(t, 6, func(int) (apptest.Answer, error) {
			return p.Try("POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 0}, u.Auth()...)
		})
		refused(t, key)
		working := 0
		for _, a := range got {
			if p.Call(t, "GET", "/api/test", nil, "X-API-Key", a.Text(t, "key")).Status == http.StatusOK {
				working++
			}
		}
		if working != 1 {
			t.Errorf("%d secrets work", working)
		}
	})

	t.Run("refuses a grace that cannot be", func(t *testing.T) {
		key := p.Key(t, u, nil)
		for _, grace := range []any{-1, 30*24*3600 + 1, int64(1) << 62, 1.5, "60"} {
			a := p.Call(t, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": grace}, u.Auth()...)
			wantProblem(t, a, http.StatusBadRequest, "request.invalid", "grace_seconds")
		}
		a := p.Call(t, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace": 5}, u.Auth()...)
		wantProblem(t, a, http.StatusBadRequest, "request.invalid", "grace")
		good(t, key)
		rotate(t, key, 30*24*3600)
	})
}

func TestRevokeKey(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)

	t.Run("the key is refused at once and for good", func(t *testing.T) {
		key := p.Key(t, u, nil)
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
		if a := p.Call(t, "DELETE", "/api-keys/"+key.ID, nil, u.Auth()...); a.Status != http.StatusNoContent || len(a.Body) > 0 {
			t.Fatalf("status %d: %s", a.Status, a.Body)
		}
		wantProblem(t, p.Call(t, "GET", "/api/test", nil, key.Auth()...), http.StatusUnauthorized, "auth.key_invalid")
		wantProblem(t, p.Call(t, "PATCH", "/api-keys/"+key.ID, object{"name": "b"}, u.Auth()...), http.StatusConflict, "apikey.revoked")
		a := p.Call(t, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 5}, u.Auth()...)
		wantProblem(t, a, http.StatusConflict, "apikey.revoked")
		p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+key.ID, nil, u.Auth()...) // again: it is as it should be
	})

	t.Run("ends old secrets too", func(t *testing.T) {
		key := p.Key(t, u, nil)
		p.Want(t, http.StatusOK, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 3600}, u.Auth()...)
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
		p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+key.ID, nil, u.Auth()...)
		p.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, key.Auth()...)
	})

	t.Run("with wait there is a receipt", func(t *testing.T) {
		key := p.Key(t, u, nil)
		for range 2 { // of a revoked key as well
			got := p.Want(t, http.StatusOK, "DELETE", "/api-keys/"+key.ID+"?wait=true", nil, u.Auth()...).JSON(t)
			wantMembers(t, got, "complete", "milliseconds", "replicas", "silent")
			replicas := got["replicas"].([]any)
			if got["complete"] != true || got["silent"] != float64(0) || len(replicas) != 1 {
				t.Fatalf("receipt: %v", got)
			}
			wantMembers(t, replicas[0], "replica", "acknowledged", "milliseconds")
			if replicas[0].(object)["acknowledged"] != true {
				t.Errorf("receipt: %v", got)
			}
		}
		p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+p.Key(t, u, nil).ID+"?wait=false", nil, u.Auth()...)
		other := p.Key(t, u, nil)
		a := p.Call(t, "DELETE", "/api-keys/"+other.ID+"?wait=yes", nil, u.Auth()...)
		wantProblem(t, a, http.StatusBadRequest, "request.invalid", "wait")
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, other.Auth()...)
	})

	t.Run("a key can end itself", func(t *testing.T) {
		key := p.Key(t, u, map[string]any{"scopes": []string{"keys:write"}})
		p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+key.ID, nil, key.Auth()...)
		p.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, key.Auth()...)
	})
}

// keyVerbs is everything that can be done with one key.
var keyVerbs = []struct {
	method, suffix string
	body           any
	status         int
}{
	{"GET", "", nil, http.StatusOK},
	{"PATCH", "", object{"name": "changed"}, http.StatusOK},
	{"PATCH", "", object{}, http.StatusOK},
	{"POST", "/rotate", object{"grace_seconds": 60}, http.StatusOK},
	{"DELETE", "?wait=true", nil, http.StatusOK},
	{"DELETE", "", nil, http.StatusNoContent},
}

func TestAnothersKeyDoesNotExist(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	owner, stranger, admin := p.User(t), p.User(t), p.Admin(t)
	key := p.Key(t, owner, nil)
	everything := map[string]any{"scopes": []string{"keys:read", "keys:write"}}
	strangers := map[string][]string{
		"a user": stranger.Auth(), "a user's key": p.Key(t, stranger, everything).Auth(),
		"an admin's key without keys:admin": p.Key(t, admin, everything).Auth(),
	}
	for who, auth := range strangers {
		for _, v := range keyVerbs {
			a := p.Call(t, v.method, "/api-keys/"+key.ID+v.suffix, v.body, auth...)
			none := p.Call(t, v.method, "/api-keys/"+unknownID+v.suffix, v.body, auth...)
			wantProblem(t, a, http.StatusNotFound, "apikey.not_found")
			t.Run(who+" "+v.method+v.suffix, func(t *testing.T) { wantSameAnswer(t, none, a) })
		}
		a := p.Call(t, "GET", "/api-keys?user_id="+owner.ID, nil, auth...)
		wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
	}
	got := p.Want(t, http.StatusOK, "GET", "/api-keys/"+key.ID, nil, owner.Auth()...)
	if got.Text(t, "name") != "a key" {
		t.Errorf("the key was changed: %s", got.Body)
	}
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)

	for who, auth := range map[string][]string{
		"an admin":       admin.Auth(),
		"an admin's key": p.Key(t, admin, map[string]any{"scopes": []string{"keys:read", "keys:write", "keys:admin"}}).Auth(),
	} {
		key := p.Key(t, owner, nil)
		list := items(t, p.Want(t, http.StatusOK, "GET", "/api-keys?user_id="+owner.ID, nil, auth...))
		if !slices.Contains(idsOf(list), key.ID) {
			t.Errorf("%s does not see the key in the list", who)
		}
		for _, v := range keyVerbs {
			p.Want(t, v.status, v.method, "/api-keys/"+key.ID+v.suffix, v.body, auth...)
		}
		p.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, key.Auth()...)
	}
}

func TestKeysDoNotExceedThemselves(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u, admin := p.User(t), p.Admin(t)
	scopes := func(list ...string) map[string]any { return map[string]any{"scopes": list} }

	t.Run("without keys:write they make nothing", func(t *testing.T) {
		for _, key := range []apptest.Key{
			p.Key(t, u, nil), p.Key(t, u, scopes("profile:read", "profile:write", "keys:read")), p.Key(t, admin, scopes("users:write", "keys:admin")),
		} {
			for method, path := range map[string]string{
				"POST": "/api-keys", "PATCH": "/api-keys/" + key.ID, "DELETE": "/api-keys/" + key.ID,
			} {
				wantProblem(t, p.Call(t, method, path, object{"name": "b"}, key.Auth()...), http.StatusForbidden, "access.scope_missing")
			}
			a := p.Call(t, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 0}, key.Auth()...)
			wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
		}
	})

	t.Run("with keys:write they give no scope that they do not hold", func(t *testing.T) {
		for _, owner := range []*apptest.User{u, admin} {
			key := p.Key(t, owner, scopes("keys:write"))
			create := func(body object) apptest.Answer { return p.Call(t, "POST", "/api-keys", body, key.Auth()...) }
			for _, wider := range []string{"profile:read", "keys:read", "users:read", "audit:read", "orders:read"} {
				a := create(object{"name": "b", "scopes": []string{"keys:write", wider}})
				wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
				a = p.Call(t, "PATCH", "/api-keys/"+key.ID, object{"scopes": []string{"keys:write", wider}}, key.Auth()...)
				wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
			}
			if a := create(object{"name": "b", "scopes": []string{"keys:write"}}); a.Status != http.StatusCreated {
				t.Errorf("a key of the same scope: %d %s", a.Status, a.Body)
			}
			if a := create(object{"name": "b"}); a.Status != http.StatusCreated || a.Text(t, "user_id") != owner.ID {
				t.Errorf("a key of no scope: %d %s", a.Status, a.Body)
			}
		}
	})

	t.Run("they do not get the secret of a wider key", func(t *testing.T) {
		for _, test := range []struct{ narrow, wide apptest.Key }{
			{p.Key(t, u, scopes("keys:write")), p.Key(t, u, scopes("keys:write", "profile:write"))},
			{p.Key(t, admin, scopes("keys:write", "keys:admin")), p.Key(t, admin, scopes("users:write"))},
			{p.Key(t, admin, scopes("keys:write", "keys:admin")), p.Key(t, u, scopes("profile:read"))},
		} {
			a := p.Call(t, "POST", "/api-keys/"+test.wide.ID+"/rotate", object{"grace_seconds": 0}, test.narrow.Auth()...)
			wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
			p.Want(t, http.StatusOK, "GET", "/api/test", nil, test.wide.Auth()...)
			p.Want(t, http.StatusOK, "POST", "/api-keys/"+test.narrow.ID+"/rotate", object{"grace_seconds": 60}, test.narrow.Auth()...)
		}
	})
}

func TestSelf(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	key := p.Key(t, u, map[string]any{"name": "self", "scopes": []string{"profile:read"}})
	got := p.Want(t, http.StatusOK, "GET", "/api-keys/self", nil, key.Auth()...).JSON(t)
	wantMembers(t, got, withMembers("effective_scopes")...)
	if got["id"] != key.ID || got["name"] != "self" || !cmp.Equal(got["effective_scopes"], []any{"profile:read"}) {
		t.Errorf("self: %v", got)
	}
	got = p.Want(t, http.StatusOK, "GET", "/api-keys/self", nil, p.Key(t, u, nil).Auth()...).JSON(t)
	if !cmp.Equal(got["effective_scopes"], []any{}) {
		t.Errorf("effective_scopes of a key without: %v", got["effective_scopes"])
	}
	wantProblem(t, p.Call(t, "GET", "/api-keys/self", nil, u.Auth()...), http.StatusForbidden, "access.key_only")
}

func TestIdempotencyKey(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	create := func(who *apptest.User, token string, body any) apptest.Answer {
		return p.Call(t, "POST", "/api-keys", body, who.With("Idempotency-Key", token)...)
	}
	count := func(who *apptest.User) int {
		return len(items(t, p.Want(t, http.StatusOK, "GET", "/api-keys?limit=200", nil, who.Auth()...)))
	}
	wantSame := func(t *testing.T, want, got apptest.Answer) {
		t.Helper()
		if got.Status != want.Status || string(got.Body) != string(want.Body) {
			t.Errorf("status %d: %s\nwant %d: %s", got.Status, got.Body, want.Status, want.Body)
		}
	}

	t.Run("the same answer comes again and there is one key", func(t *testing.T) {
		before := count(u)
		body := object{"name": "once", "scopes": []string{"profile:read"}, "expires_at": "2030-01-31T12:00:00Z", "allowed_ips": []string{"127.0.0.1"}}
		first := create(u, "once", body)
		wantSame(t, first, create(u, "once", body))
		if first.Status != http.StatusCreated || count(u) != before+1 {
			t.Errorf("status %d, %d keys more", first.Status, count(u)-before)
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, "X-API-Key", first.Text(t, "key"))
	})

	t.Run("a time that counts from now does not make it another request", func(t *testing.T) {
		body := object{"name": "later", "expires_in": 3600}
		first := create(u, "later", body)
		second := time.Now().Unix()
		apptest.Eventually(t, "the clock goes on", func() bool { return time.Now().Unix() > second })
		wantSame(t, first, create(u, "later", body))
	})

	t.Run("another body is refused", func(t *testing.T) {
		create(u, "other", object{"name": "a"})
		before := count(u)
		for _, body := range []object{
			{"name": "b"}, {"name": "a", "env": "test"}, {"name": "a", "scopes": []string{"keys:read"}},
			{"name": "a", "expires_in": 5}, {"name": "a", "allowed_ips": []string{"127.0.0.1"}},
		} {
			wantProblem(t, create(u, "other", body), http.StatusUnprocessableEntity, "request.idempotency_mismatch")
		}
		if count(u) != before {
			t.Error("a refused request has made a key")
		}
	})

	t.Run("of many at once one makes the key and all get it", func(t *testing.T) {
		before := count(u)
		got := atOnce(t, 8, func(int) (apptest.Answer, error) {
			return p.Try("POST", "/api-keys", object{"name": "a", "expires_in": 60}, u.With("Idempotency-Key", "many")...)
		})
		for _, a := range got {
			wantSame(t, got[0], a)
		}
		if got[0].Status != http.StatusCreated || count(u) != before+1 {
			t.Errorf("status %d, %d keys more", got[0].Status, count(u)-before)
		}
	})

	t.Run("belongs to its user", func(t *testing.T) {
		other := p.User(t)
		mine, theirs := create(u, "shared", object{"name": "a"}), create(other, "shared", object{"name": "a"})
		if theirs.Status != http.StatusCreated || theirs.Text(t, "key") == mine.Text(t, "key") || theirs.Text(t, "user_id") != other.ID {
			t.Errorf("status %d: %s", theirs.Status, theirs.Body)
		}
	})

	t.Run("makes rotation safe to repeat", func(t *testing.T) {
		key := p.Key(t, u, nil)
		rotate := func(id, token string, grace int) apptest.Answer {
			return p.Call(t, "POST", "/api-keys/"+id+"/rotate", object{"grace_seconds": grace}, u.With("Idempotency-Key", token)...)
		}
		first := rotate(key.ID, "turn", 0)
		wantSame(t, first, rotate(key.ID, "turn", 0))
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, "X-API-Key", first.Text(t, "key"))
		wantProblem(t, rotate(key.ID, "turn", 5), http.StatusUnprocessableEntity, "request.idempotency_mismatch")
		wantProblem(t, rotate(p.Key(t, u, nil).ID, "turn", 0), http.StatusUnprocessableEntity, "request.idempotency_mismatch")
		wantProblem(t, create(u, "turn", object{"name": "a"}), http.StatusUnprocessableEntity, "request.idempotency_mismatch")
		got := atOnce(t, 6, func(int) (apptest.Answer, error) {
			return p.Try("POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 0}, u.With("Idempotency-Key", "turns")...)
		})
		for _, a := range got {
			wantSame(t, got[0], a)
		}
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, "X-API-Key", got[0].Text(t, "key"))
	})

	t.Run("has a form", func(t *testing.T) {
		for _, token := range []string{strings.Repeat("a", 256), "a b", "é"} {
			wantProblem(t, create(u, token, object{"name": "a"}), http.StatusBadRequest, "request.invalid", "Idempotency-Key")
		}
		if a := create(u, strings.Repeat("a", 255), object{"name": "a"}); a.Status != http.StatusCreated {
			t.Errorf("255 characters: %d %s", a.Status, a.Body)
		}
	})

	t.Run("a refused request keeps nothing", func(t *testing.T) {
		wantProblem(t, create(u, "refused", object{"name": ""}), http.StatusBadRequest, "request.invalid", "name")
		if a := create(u, "refused", object{"name": "a"}); a.Status != http.StatusCreated {
			t.Errorf("status %d: %s", a.Status, a.Body)
		}
	})
}
