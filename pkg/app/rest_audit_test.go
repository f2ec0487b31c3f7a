package app_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// sessionOf is the session that an access token names.
func sessionOf(t *testing.T, token string) string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ SID string }
	if err := json.Unmarshal(payload, &claims); err != nil || claims.SID == "" {
		t.Fatalf("no sid in %s: %v", payload, err)
	}
	return claims.SID
}

// A story with every kind of change leaves exactly these records: who, what,
// whom, from where, with which result, found by the request id.
func TestEveryChangeIsAudited(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	begin := time.Now().Add(-time.Second)
	admin := p.Admin(t)
	secrets := []string{apptest.Password, anotherPassword}

	var want []object // oldest first
	// record notes what the call must have left.
	record := func(a apptest.Answer, action, result string, actor, target, detail object) apptest.Answer {
		t.Helper()
		entry := object{"action": action, "result": result, "client": "127.0.0.1", "request_id": a.Header.Get("X-Request-Id")}
		for _, part := range []object{actor, target} {
			for name, value := range part {
				entry[name] = value
			}
		}
		if detail != nil {
			entry["detail"] = detail
		}
		want = append(want, entry)
		return a
	}
	nobody := object{"actor_kind": "anonymous"}
	by := func(id string) object { return object{"actor_kind": "user", "actor_id": id} }
	user := func(id string) object { return object{"target_kind": "user", "target_id": id} }
	session := func(token string) object { return object{"target_kind": "session", "target_id": sessionOf(t, token)} }
	apiKey := func(id string) object { return object{"target_kind": "apikey", "target_id": id} }

	u := &apptest.User{Email: apptest.NewEmail(), Password: apptest.Password}
	credentials := object{"email": u.Email, "password": u.Password}
	a := p.Want(t, http.StatusCreated, "POST", "/auth/register", credentials)
	u.ID = a.Text(t, "id")
	record(a, "user.registered", "success", nobody, user(u.ID), object{"role": "user"})

	a = p.Want(t, http.StatusUnauthorized, "POST", "/auth/login", object{"email": u.Email, "password": anotherPassword})
	record(a, "session.login_failed", "failure", nobody, user(u.ID), nil)
	a = p.Want(t, http.StatusUnauthorized, "POST", "/auth/login", object{"email": apptest.NewEmail(), "password": anotherPassword})
	record(a, "session.login_failed", "failure", nobody, object{"target_kind": "user"}, nil)

	login := func() (token, refresh string) {
		t.Helper()
		a := p.Want(t, http.StatusOK, "POST", "/auth/login", credentials)
		token, refresh = a.Text(t, "access_token"), a.Text(t, "refresh_token")
		secrets = append(secrets, token, refresh)
		record(a, "session.login", "success", by(u.ID), session(token), nil)
		return token, refresh
	}
	u.Token, u.Refresh = login()
	a = p.Want(t, http.StatusOK, "PATCH", "/users/me", object{"name": "Ada"}, u.Auth()...)
	record(a, "user.updated", "success", by(u.ID), user(u.ID), object{"name": "changed"})

	a = p.Want(t, http.StatusCreated, "POST", "/api-keys", object{"name": "ci", "scopes": []string{"keys:write", "keys:read"}}, u.Auth()...)
	key := apptest.Key{ID: a.Text(t, "id"), Secret: a.Text(t, "key")}
	owner := object{"owner": u.ID}
	record(a, "apikey.created", "success", by(u.ID), apiKey(key.ID), object{"owner": u.ID, "scopes": "keys:read keys:write"})
	byKey := object{"actor_kind": "key", "actor_id": u.ID, "actor_key_id": key.ID}
	a = p.Want(t, http.StatusOK, "PATCH", "/api-keys/"+key.ID, object{"name": "build"}, key.Auth()...)
	record(a, "apikey.updated", "success", byKey, apiKey(key.ID), owner)
	a = p.Want(t, http.StatusOK, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 60}, key.Auth()...)
	record(a, "apikey.rotated", "success", byKey, apiKey(key.ID), object{"owner": u.ID, "grace": "1m0s"})
	secrets = append(secrets, key.Secret, a.Text(t, "key"))
	a = p.Want(t, http.StatusForbidden, "GET", "/users/"+admin.ID, nil, key.Auth()...)
	record(a, "access.denied", "failure", byKey, object{"target_kind": "route", "target_id": "GET /users/:id"}, object{"needs": "users:read"})
	a = p.Want(t, http.StatusForbidden, "POST", "/auth/logout", nil, key.Auth()...)
	record(a, "access.denied", "failure", byKey, object{"target_kind": "route", "target_id": "POST /auth/logout"}, object{"needs": "user only"})
	a = p.Want(t, http.StatusOK, "DELETE", "/api-keys/"+key.ID+"?wait=true", nil, admin.Auth()...)
	record(a, "apikey.revoked", "success", by(admin.ID), apiKey(key.ID), owner)

	_, spent := login()
	a = p.Want(t, http.StatusOK, "POST", "/auth/refresh", object{"refresh_token": spent})
	token := a.Text(t, "access_token")
	secrets = append(secrets, token, a.Text(t, "refresh_token"))
	a = p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": spent})
	record(a, "session.refresh_reused", "failure", by(u.ID), session(token), nil)

	token, _ = login()
	a = p.Want(t, http.StatusNoContent, "DELETE", "/auth/sessions/"+sessionOf(t, token), nil, u.Auth()...)
	record(a, "session.ended", "success", by(u.ID), session(token), nil)
	token, _ = login()
	a = p.Want(t, http.StatusNoContent, "POST", "/auth/logout", nil, "Authorization", "Bearer "+token)
	record(a, "session.ended", "success", by(u.ID), session(token), nil)
	a = p.Want(t, http.StatusNoContent, "POST", "/auth/password", object{"current_password": u.Password, "new_password": anotherPassword}, u.Auth()...)
	record(a, "user.password_changed", "success", by(u.ID), user(u.ID), nil)

	a = p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, object{"role": "admin", "disabled": true}, admin.Auth()...)
	record(a, "user.updated", "success", by(admin.ID), user(u.ID), object{"role": "admin", "disabled": "true"})
	a = p.Want(t, http.StatusNoContent, "DELETE", "/users/"+u.ID, nil, admin.Auth()...)
	record(a, "user.deleted", "success", by(admin.ID), user(u.ID), nil)

	// What was refused has changed nothing and left nothing.
	p.Want(t, http.StatusConflict, "DELETE", "/users/"+admin.ID, nil, admin.Auth()...)
	p.Want(t, http.StatusNotFound, "DELETE", "/users/"+u.ID, nil, admin.Auth()...)
	p.Want(t, http.StatusUnauthorized, "GET", "/users/me", nil)

	trail := auditTrail(t, p, admin, "")
	slices.Reverse(trail)
	var got []object
	for i, r := range trail {
		if r["seq"] != float64(i+1) {
			t.Errorf("record %d has the number %v", i+1, r["seq"])
		}
		at, err := time.Parse(time.RFC3339, r["at"].(string))
		if err != nil || at.Before(begin) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("record %d is of %v", i+1, r["at"])
		}
		if r["actor_kind"] == "system" || r["actor_id"] == admin.ID && r["action"] == "session.login" {
			continue // the start, and the making of the admin
		}
		delete(r, "seq")
		delete(r, "at")
		got = append(got, r)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	for _, secret := range secrets {
		text, err := json.Marshal(trail)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), secret) {
			t.Errorf("the trail holds %q", secret)
		}
	}
	t.Run("filters", func(t *testing.T) { checkAuditFilters(t, p, admin, u.ID, key.ID) })
}

// checkAuditFilters reads the trail of the story above in parts.
func checkAuditFilters(t *testing.T, p *apptest.Program, admin *apptest.User, userID, keyID string) {
	whole := auditTrail(t, p, admin, "")
	for query, of := range map[string]func(object) bool{
		"&action=session.login":                         func(r object) bool { return r["action"] == "session.login" },
		"&actor_id=" + userID:                           func(r object) bool { return r["actor_id"] == userID },
		"&target_id=" + keyID:                           func(r object) bool { return r["target_id"] == keyID },
		"&actor_id=" + userID + "&action=access.denied": func(r object) bool { return r["actor_id"] == userID && r["action"] == "access.denied" },
		"&action=no.such":                               func(object) bool { return false },
	} {
		want := slices.DeleteFunc(slices.Clone(whole), func(r object) bool { return !of(r) })
		got := auditTrail(t, p, admin, query)
		if diff := cmp.Diff(want, got); len(want) == 0 && len(got) > 0 || len(want) > 0 && diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	if got := slices.Concat(collect(t, p, admin, "/audit", "limit=3")...); !cmp.Equal(whole, got) {
		t.Errorf("in pages of 3 there are %d records, in one %d", len(got), len(whole))
	}
	for query, field := range map[string]string{
		"action=a%20b": "action", "actor_id=%27": "actor_id", "target_id=" + strings.Repeat("a", 65): "target_id",
		"limit=0": "limit", "since=2020": "since", "action=a&action=b": "action", "cursor=x": "cursor",
	} {
		wantProblem(t, p.Call(t, "GET", "/audit?"+query, nil, admin.Auth()...), http.StatusBadRequest, "request.invalid", field)
	}
}
