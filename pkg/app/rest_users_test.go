package app_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// userMembers is all that anyone gets to see of an account.
var userMembers = []string{"id", "email", "name", "role", "disabled", "created_at", "updated_at"}

func TestProfile(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)

	got := p.Want(t, http.StatusOK, "GET", "/users/me", nil, u.Auth()...).JSON(t)
	wantMembers(t, got, slices.Clone(userMembers)...)
	if got["id"] != u.ID || got["email"] != u.Email || got["role"] != "user" || got["disabled"] != false {
		t.Errorf("profile: %v", got)
	}

	patch := func(body any) apptest.Answer { return p.Call(t, "PATCH", "/users/me", body, u.Auth()...) }
	a := patch(object{"name": " Ada King "})
	wantMembers(t, a.JSON(t), slices.Clone(userMembers)...)
	if a.Text(t, "name") != "Ada King" {
		t.Errorf("name %q", a.Text(t, "name"))
	}
	for _, body := range []any{object{}, `{"name":null}`} {
		if a := patch(body); a.Status != http.StatusOK || a.Text(t, "name") != "Ada King" {
			t.Errorf("%v changes the profile: %d %s", body, a.Status, a.Body)
		}
	}
	if a := patch(object{"name": ""}); a.Status != http.StatusOK || a.Text(t, "name") != "" {
		t.Errorf("the name cannot be removed: %d %s", a.Status, a.Body)
	}
	for field, body := range map[string]any{
		"role": object{"role": "admin"}, "disabled": object{"disabled": true}, "email": object{"email": "new@example.com"},
		"id": object{"id": unknownID}, "password": object{"password": anotherPassword}, "Name": object{"Name": "Ada"},
		"name": `{"name":"a","name":"b"}`,
	} {
		wantProblem(t, patch(body), http.StatusBadRequest, "request.invalid", field)
	}
	for _, name := range []any{strings.Repeat("a", 101), "a\u0000b", "a\u202eb", "a\nb", 5, true, object{}} {
		wantProblem(t, patch(object{"name": name}), http.StatusBadRequest, "request.invalid", "name")
	}
}

func TestUsersAreForAdmins(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin, u := p.Admin(t), p.User(t)
	keyOfAdmin := p.Key(t, admin, nil)
	for _, c := range []struct {
		method, path, scope string
		body                any
	}{
		{"GET", "/users", "users:read", nil},
		{"GET", "/users/" + u.ID, "users:read", nil},
		{"GET", "/users/" + unknownID, "users:read", nil},
		{"PATCH", "/users/" + u.ID, "users:write", object{"role": "admin"}},
		{"DELETE", "/users/" + u.ID, "users:write", nil},
		{"GET", "/audit", "audit:read", nil},
	} {
		for who, auth := range map[string][]string{"a user": u.Auth(), "an admin's key without scopes": keyOfAdmin.Auth()} {
			a := p.Call(t, c.method, c.path, c.body, auth...)
			wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
			want := `Bearer error="insufficient_scope", scope="` + c.scope + `"`
			if got := a.Header.Get("WWW-Authenticate"); got != want {
				t.Errorf("%s: %s %s: WWW-Authenticate %q, want %q", who, c.method, c.path, got, want)
			}
		}
	}
	if got := p.Want(t, http.StatusOK, "GET", "/users/me", nil, u.Auth()...).Text(t, "role"); got != "user" {
		t.Errorf("the user became %s", got)
	}

	reader := p.Key(t, admin, map[string]any{"scopes": []string{"users:read"}})
	p.Want(t, http.StatusOK, "GET", "/users/"+u.ID, nil, reader.Auth()...)
	a := p.Call(t, "PATCH", "/users/"+u.ID, object{"disabled": true}, reader.Auth()...)
	wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
}

func TestListUsers(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin := p.Admin(t)
	want := []string{admin.ID} // newest first
	for _, name := range []string{"Ada 100%", "Grace_Hopper", "Ada", "Linus", "Émile", "Barbara"} {
		u := p.User(t)
		p.Want(t, http.StatusOK, "PATCH", "/users/me", object{"name": name}, u.Auth()...)
		want = slices.Insert(want, 0, u.ID)
	}
	get := func(query string) apptest.Answer { return p.Call(t, "GET", "/users?"+query, nil, admin.Auth()...) }
	names := func(t *testing.T, query string) []string {
		t.Helper()
		found := []string{}
		for _, u := range items(t, get(query)) {
			wantMembers(t, u, slices.Clone(userMembers)...)
			found = append(found, u["name"].(string))
		}
		return found
	}

	t.Run("page by page, newest first, each one once", func(t *testing.T) {
		for limit, pages := range map[string]int{"1": 7, "2": 4, "3": 3, "7": 1, "200": 1} {
			got := collect(t, p, admin, "/users", "limit="+limit)
			if diff := cmp.Diff(want, idsOf(slices.Concat(got...))); diff != "" || len(got) != pages {
				t.Errorf("limit %s: %d pages, want %d (-want +got):\n%s", limit, len(got), pages, diff)
			}
		}
		wantMembers(t, get("limit=2").JSON(t), "items", "next_cursor")
		wantMembers(t, get("").JSON(t), "items")
	})

	t.Run("who comes meanwhile moves no page", func(t *testing.T) {
		first := get("limit=3")
		p.User(t)
		rest := get("limit=200&cursor=" + first.Text(t, "next_cursor"))
		if diff := cmp.Diff(want, append(idsOf(items(t, first)), idsOf(items(t, rest))...)); diff != "" {
			t.Errorf("users (-want +got):\n%s", diff)
		}
	})

	t.Run("filtered", func(t *testing.T) {
		for query, want := range map[string][]string{
			"q=ada":                             {"Ada", "Ada 100%"},
			"q=ADA&limit=1":                     {"Ada"},
			"q=%25":                             {"Ada 100%"},
			"q=_":                               {"Grace_Hopper"},
			"q=" + url.QueryEscape(`\`):         {},
			"q=%C3%89mile":                      {"Émile"},
			"q=nobody":                          {},
			"q=%00":                             {},
			"role=admin":                        {""},
			"role=admin&q=ada":                  {},
			"role=user&q=ada":                   {"Ada", "Ada 100%"},
			"q=" + url.QueryEscape(admin.Email): {""},
		} {
			if diff := cmp.Diff(want, names(t, query)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", query, diff)
			}
		}
		pages := collect(t, p, admin, "/users", "role=user&q=ada&limit=1")
		if len(pages) != 2 {
			t.Errorf("%d pages of two users", len(pages))
		}
	})

	t.Run("refuses what it does not understand", func(t *testing.T) {
		cursor := get("limit=1&role=user").Text(t, "next_cursor")
		flipped := "A" + cursor[1:]
		if flipped == cursor {
			flipped = "B" + cursor[1:]
		}
		for query, field := range map[string]string{
			"limit=0": "limit", "limit=201": "limit", "limit=-1": "limit", "limit=x": "limit", "limit=": "limit", "limit=1.5": "limit",
			"limit=1&limit=2": "limit", "role=root": "role", "sort=email": "sort", "Limit=1": "Limit", "q=a&q=b": "q",
			"cursor=x": "cursor", "cursor=%00": "cursor",
			"role=user&cursor=" + flipped:         "cursor",
			"cursor=" + cursor:                    "cursor", // of another filter
			"role=admin&cursor=" + cursor:         "cursor",
			"role=user&q=a&cursor=" + cursor:      "cursor",
			"role=user&cursor=" + cursor + "AAAA": "cursor",
		} {
			wantProblem(t, get(query), http.StatusBadRequest, "request.invalid", field)
		}
		p.Want(t, http.StatusOK, "GET", "/users?role=user&limit=9&cursor="+cursor, nil, admin.Auth()...)
		p.Want(t, http.StatusBadRequest, "GET", "/audit?cursor="+cursor, nil, admin.Auth()...)
		p.Want(t, http.StatusBadRequest, "GET", "/users?q=%zz", nil, admin.Auth()...)
	})
}

func TestChangeUser(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin := p.Admin(t)
	patch := func(id string, body any) apptest.Answer {
		return p.Call(t, "PATCH", "/users/"+id, body, admin.Auth()...)
	}

	t.Run("a role takes effect on live tokens and keys at once", func(t *testing.T) {
		u := p.User(t)
		p.Want(t, http.StatusForbidden, "GET", "/users", nil, u.Auth()...)
		a := patch(u.ID, object{"role": "admin"})
		wantMembers(t, a.JSON(t), slices.Clone(userMembers)...)
		if a.Text(t, "role") != "admin" {
			t.Fatalf("role %s", a.Text(t, "role"))
		}
		p.Want(t, http.StatusOK, "GET", "/users", nil, u.Auth()...)
		key := p.Key(t, u, map[string]any{"scopes": []string{"users:read", "audit:read", "profile:read"}})
		p.Want(t, http.StatusOK, "GET", "/users", nil, key.Auth()...)

		p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, object{"role": "user"}, admin.Auth()...)
		for _, path := range []string{"/users", "/users/" + admin.ID, "/audit"} {
			p.Want(t, http.StatusForbidden, "GET", path, nil, u.Auth()...)
			p.Want(t, http.StatusForbidden, "GET", path, nil, key.Auth()...)
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, key.Auth()...)
		self := p.Want(t, http.StatusOK, "GET", "/api-keys/self", nil, key.Auth()...).JSON(t)
		if diff := cmp.Diff([]any{"profile:read"}, self["effective_scopes"]); diff != "" {
			t.Errorf("effective_scopes (-want +got):\n%s", diff)
		}
		if got := p.Want(t, http.StatusOK, "GET", "/api/test", nil, u.Auth()...).Text(t, "role"); got != "user" {
			t.Errorf("the live token has the role %s", got)
		}
	})

	t.Run("disabling refuses everything the user holds at once", func(t *testing.T) {
		u := p.User(t)
		key := p.Key(t, u, nil)
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
		if a := patch(u.ID, object{"disabled": true}); a.Status != http.StatusOK || a.JSON(t)["disabled"] != true {
			t.Fatalf("status %d: %s", a.Status, a.Body)
		}
		wantProblem(t, p.Call(t, "GET", "/api/test", nil, u.Auth()...), http.StatusUnauthorized, "auth.token_invalid")
		wantProblem(t, p.Call(t, "GET", "/api/test", nil, key.Auth()...), http.StatusUnauthorized, "auth.key_invalid")
		p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
		p.Want(t, http.StatusUnauthorized, "POST", "/auth/login", object{"email": u.Email, "password": u.Password})

		p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, object{"disabled": false}, admin.Auth()...)
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
		p.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, u.Auth()...) // sessions have ended for good
		p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
		p.SignIn(t, u)
	})

	t.Run("refuses what it does not know", func(t *testing.T) {
		u := p.User(t)
		for field, body := range map[string]any{
			"role": object{"role": "root"}, "email": object{"email": "new@example.com"}, "name": object{"name": "Ada"},
			"disabled": object{"disabled": "yes"}, "password": object{"password": anotherPassword},
		} {
			wantProblem(t, patch(u.ID, body), http.StatusBadRequest, "request.invalid", field)
		}
		wantProblem(t, patch(u.ID, `{"role":"user","role":"admin"}`), http.StatusBadRequest, "request.invalid", "role")
		for _, body := range []any{object{}, `{"role":null,"disabled":null}`} {
			if a := patch(u.ID, body); a.Status != http.StatusOK || a.Text(t, "role") != "user" {
				t.Errorf("%v: status %d: %s", body, a.Status, a.Body)
			}
		}
	})
}

func TestDeleteUser(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin, u := p.Admin(t), p.User(t)
	key := p.Key(t, u, nil)
	p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
	if a := p.Call(t, "DELETE", "/users/"+u.ID, nil, admin.Auth()...); a.Status != http.StatusNoContent || len(a.Body) > 0 {
		t.Fatalf("status %d: %s", a.Status, a.Body)
	}
	wantProblem(t, p.Call(t, "GET", "/api/test", nil, u.Auth()...), http.StatusUnauthorized, "auth.token_invalid")
	wantProblem(t, p.Call(t, "GET", "/api/test", nil, key.Auth()...), http.StatusUnauthorized, "auth.key_invalid")
	p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
	p.Want(t, http.StatusUnauthorized, "POST", "/auth/login", object{"email": u.Email, "password": u.Password})
	wantProblem(t, p.Call(t, "GET", "/api-keys/"+key.ID, nil, admin.Auth()...), http.StatusNotFound, "apikey.not_found")
	p.Want(t, http.StatusCreated, "POST", "/auth/register", object{"email": u.Email, "password": u.Password})

	for _, id := range []string{u.ID, unknownID, "1", strings.ToUpper(admin.ID), "{id}", "me%20", "%C3%A9"} {
		for method, body := range map[string]any{"GET": nil, "DELETE": nil, "PATCH": object{"disabled": true}} {
			wantProblem(t, p.Call(t, method, "/users/"+id, body, admin.Auth()...), http.StatusNotFound, "user.not_found")
		}
	}
	wantMembers(t, p.Want(t, http.StatusOK, "GET", "/users/"+admin.ID, nil, admin.Auth()...).JSON(t), slices.Clone(userMembers)...)
}

// removals are the ways to lose an admin.
var removals = []struct {
	name, method string
	body         any
	status       int
}{
	{"demote", "PATCH", object{"role": "user"}, http.StatusOK},
	{"disable", "PATCH", object{"disabled": true}, http.StatusOK},
	{"delete", "DELETE", nil, http.StatusNoContent},
	{"demote and disable", "PATCH", object{"role": "user", "disabled": true}, http.StatusOK},
}

func TestTheLastAdminStays(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin, disabled := p.Admin(t), p.Admin(t)
	p.User(t)
	p.Want(t, http.StatusOK, "PATCH", "/users/"+disabled.ID, object{"disabled": true}, admin.Auth()...) // does not count
	for _, r := range removals {
		a := p.Call(t, r.method, "/users/"+admin.ID, r.body, admin.Auth()...)
		wantProblem(t, a, http.StatusConflict, "user.last_admin")
	}
	p.Want(t, http.StatusOK, "PATCH", "/users/"+admin.ID, object{"role": "admin", "disabled": false}, admin.Auth()...)
	p.Want(t, http.StatusOK, "GET", "/users", nil, admin.Auth()...)
}

// Two admins that leave at the same moment: one of them stays.
func TestTheLastAdminStaysWhenTwoLeaveAtOnce(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	stays := p.Admin(t)
	const rounds = 40
	for round := range rounds {
		both := []*apptest.User{stays, p.Admin(t)}
		ways := []int{round % len(removals), round / len(removals) % len(removals)}
		got := atOnce(t, 2, func(i int) (apptest.Answer, error) {
			r := removals[ways[i]]
			return p.Try(r.method, "/users/"+both[i].ID, r.body, both[i].Auth()...)
		})
		refused := slices.IndexFunc(got, func(a apptest.Answer) bool { return a.Status == http.StatusConflict })
		if refused < 0 || got[1-refused].Status != removals[ways[1-refused]].status {
			t.Fatalf("round %d: %s and %s at once: status %d and %d", round,
				removals[ways[0]].name, removals[ways[1]].name, got[0].Status, got[1].Status)
		}
		wantProblem(t, got[refused], http.StatusConflict, "user.last_admin")
		stays = both[refused]
		active := 0
		for _, u := range items(t, p.Want(t, http.StatusOK, "GET", "/users?role=admin&limit=200", nil, stays.Auth()...)) {
			if u["disabled"] == false {
				active++
			}
		}
		if active != 1 {
			t.Fatalf("round %d: %d active admins are left", round, active)
		}
	}
}
