package app_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// anotherPassword is as good as apptest.Password.
const anotherPassword = "seven green lamps over the harbour"

func TestRegister(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})

	t.Run("answers with the account and nothing else", func(t *testing.T) {
		a := p.Want(t, http.StatusCreated, "POST", "/auth/register",
			object{"email": " Ada.Register@EXAMPLE.com", "password": apptest.Password, "name": " Ada Lovelace "})
		got := a.JSON(t)
		wantMembers(t, got, "id", "email", "name", "role", "disabled", "created_at", "updated_at")
		for _, generated := range []string{"id", "created_at", "updated_at"} {
			if got[generated] == "" {
				t.Errorf("%s is empty", generated)
			}
			delete(got, generated)
		}
		want := object{"email": "ada.register@example.com", "name": "Ada Lovelace", "role": "user", "disabled": false}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("account (-want +got):\n%s", diff)
		}
		if got := a.Header.Get("Location"); got != "/users/me" {
			t.Errorf("Location: %q", got)
		}
		if got := a.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control: %q", got)
		}
	})

	t.Run("refuses an address that is taken, however it is written", func(t *testing.T) {
		u := p.User(t)
		for _, email := range []string{u.Email, strings.ToUpper(u.Email), " " + u.Email + " "} {
			a := p.Call(t, "POST", "/auth/register", object{"email": email, "password": apptest.Password})
			wantProblem(t, a, http.StatusConflict, "user.email_taken")
		}
	})

	t.Run("gives one address to one of many who ask at once", func(t *testing.T) {
		email := apptest.NewEmail()
		got := atOnce(t, 8, func(int) (apptest.Answer, error) {
			return p.Try("POST", "/auth/register", object{"email": email, "password": apptest.Password})
		})
		if diff := cmp.Diff(map[int]int{http.StatusCreated: 1, http.StatusConflict: 7}, byStatus(got)); diff != "" {
			t.Errorf("answers by status (-want +got):\n%s", diff)
		}
	})

	t.Run("names every wrong field", func(t *testing.T) {
		good := func(change object) object {
			body := object{"email": apptest.NewEmail(), "password": apptest.Password}
			for name, value := range change {
				body[name] = value
			}
			return body
		}
		long := strings.Repeat("a1 b2 ", 50)
		for name, test := range map[string]struct {
			body   any
			fields []string
		}{
			"role":                       {good(object{"role": "admin"}), []string{"role"}},
			"disabled":                   {good(object{"disabled": false}), []string{"disabled"}},
			"unknown":                    {good(object{"nickname": "ada"}), []string{"nickname"}},
			"other case":                 {`{"Email":"a@example.com","password":"correct horse battery staple"}`, []string{"Email"}},
			"wrong type":                 {good(object{"email": 5}), []string{"email"}},
			"wrong type of a secret":     {good(object{"password": object{"a": 1}}), []string{"password"}},
			"duplicate":                  {`{"email":"a@example.com","email":"b@example.com","password":"correct horse battery staple"}`, []string{"email"}},
			"nothing":                    {object{}, []string{"email", "password"}},
			"null":                       {`{"email":null,"password":null}`, []string{"email", "password"}},
			"no password":                {object{"email": apptest.NewEmail()}, []string{"password"}},
			"short password":             {good(object{"password": "elevenchars"}), []string{"password"}},
			"long password":              {good(object{"password": long}), []string{"password"}},
			"common password":            {good(object{"password": "passwordpassword"}), []string{"password"}},
			"common password, disguised": {good(object{"password": "P@ssw0rdP@ssw0rd"}), []string{"password"}},
			"pattern":                    {good(object{"password": "abcdefghijklmnop"}), []string{"password"}},
			"password is the address":    {object{"email": "grace.hopper@example.com", "password": "grace.hopper@example.com"}, []string{"password"}},
			"no address":                 {good(object{"email": "ada"}), []string{"email"}},
			"two addresses":              {good(object{"email": "a@example.com, b@example.com"}), []string{"email"}},
			"address with a line break":  {good(object{"email": "a@example.com\r\nBcc: b@example.com"}), []string{"email"}},
			"name with a line break":     {good(object{"name": "Ada\nLovelace"}), []string{"name"}},
			"long name":                  {good(object{"name": strings.Repeat("a", 101)}), []string{"name"}},
			"all at once":                {object{"email": "ada", "password": "short", "name": "a\x00b"}, []string{"email", "name", "password"}},
		} {
			t.Run(name, func(t *testing.T) {
				wantProblem(t, p.Call(t, "POST", "/auth/register", test.body), http.StatusBadRequest, "request.invalid", test.fields...)
			})
		}
	})

	t.Run("refuses what is no JSON object", func(t *testing.T) {
		for _, body := range []string{
			"", " ", "{", `{"email"`, `{"email":}`, "[]", "null", `"text"`, "5", `{} {}`, `{},`, "{}x", "{'email':1}",
			"\xef\xbb\xbf{}", `{"email":"` + "\xff" + `"}`, `{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}",
		} {
			wantProblem(t, p.Call(t, "POST", "/auth/register", body), http.StatusBadRequest, "request.invalid")
		}
	})

	t.Run("takes JSON with a character set", func(t *testing.T) {
		p.Want(t, http.StatusCreated, "POST", "/auth/register",
			object{"email": apptest.NewEmail(), "password": apptest.Password}, "Content-Type", "application/json; charset=utf-8")
	})
}

func TestRegistrationCanBeSwitchedOff(t *testing.T) {
	p := start(t, apptest.Options{Set: map[string]string{"accounts.registration": "false"}})
	a := p.Call(t, "POST", "/auth/register", object{"email": apptest.NewEmail(), "password": apptest.Password})
	wantProblem(t, a, http.StatusForbidden, "auth.registration_off")
	p.Admin(t) // whom an operator makes can sign in all the same
}

func TestLogin(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	login := func(t *testing.T, email, password string) apptest.Answer {
		t.Helper()
		return p.Call(t, "POST", "/auth/login", object{"email": email, "password": password})
	}

	t.Run("answers with the tokens and nothing else", func(t *testing.T) {
		u := p.User(t)
		a := login(t, strings.ToUpper(u.Email), u.Password)
		got := a.JSON(t)
		wantMembers(t, got, "access_token", "token_type", "expires_in", "refresh_token")
		if got["token_type"] != "Bearer" || got["expires_in"] != float64(900) {
			t.Errorf("token_type %v, expires_in %v", got["token_type"], got["expires_in"])
		}
		if got := a.Header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control: %q", got)
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, "Authorization", "Bearer "+a.Text(t, "access_token"))
	})

	t.Run("does not tell why it refuses", func(t *testing.T) {
		admin, known, disabled := p.Admin(t), p.User(t), p.User(t)
		p.Want(t, http.StatusOK, "PATCH", "/users/"+disabled.ID, object{"disabled": true}, admin.Auth()...)
		want := login(t, apptest.NewEmail(), apptest.Password)
		wantProblem(t, want, http.StatusUnauthorized, "auth.credentials_invalid")
		for name, got := range map[string]apptest.Answer{
			"wrong password":             login(t, known.Email, anotherPassword),
			"password in another case":   login(t, known.Email, strings.ToUpper(known.Password)),
			"password longer than any":   login(t, known.Email, strings.Repeat("long", 1000)),
			"disabled":                   login(t, disabled.Email, disabled.Password),
			"disabled, wrong password":   login(t, disabled.Email, anotherPassword),
			"no address":                 login(t, "ada", apptest.Password),
			"address that cannot be":     login(t, "a\x00b@example.com", apptest.Password),
			"address longer than any":    login(t, strings.Repeat("a", 10_000)+"@example.com", apptest.Password),
			"admin with a user's secret": login(t, admin.Email, known.Password+"x"),
		} {
			t.Run(name, func(t *testing.T) { wantSameAnswer(t, want, got) })
		}
	})

	t.Run("says the same of an empty password, whose ever it is", func(t *testing.T) {
		u := p.User(t)
		want := login(t, apptest.NewEmail(), "")
		wantProblem(t, want, http.StatusBadRequest, "request.invalid", "password")
		wantSameAnswer(t, want, login(t, u.Email, ""))
		wantProblem(t, login(t, "", ""), http.StatusBadRequest, "request.invalid", "email", "password")
	})

	t.Run("takes no unknown field", func(t *testing.T) {
		a := p.Call(t, "POST", "/auth/login", object{"email": "a@example.com", "password": apptest.Password, "remember": true})
		wantProblem(t, a, http.StatusBadRequest, "request.invalid", "remember")
	})
}

// wantSameAnswer fails when two answers differ in more than the request id and
// the date.
func wantSameAnswer(t *testing.T, want, got apptest.Answer) {
	t.Helper()
	if want.Status != got.Status || anonymous(want) != anonymous(got) {
		t.Errorf("status %d: %s\nwant %d: %s", got.Status, got.Body, want.Status, want.Body)
	}
	if diff := cmp.Diff(comparable(want.Header), comparable(got.Header)); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

// comparable is a header without what differs from answer to answer.
func comparable(h http.Header) http.Header {
	h = h.Clone()
	h.Del("X-Request-Id")
	h.Del("Date")
	return h
}

// atOnce makes n calls at the same moment; the answers are in the order of i.
func atOnce(t *testing.T, n int, call func(i int) (apptest.Answer, error)) []apptest.Answer {
	t.Helper()
	got, errs := make([]apptest.Answer, n), make([]error, n)
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-begin
			got[i], errs[i] = call(i)
		})
	}
	close(begin)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func byStatus(list []apptest.Answer) map[int]int {
	count := map[int]int{}
	for _, a := range list {
		count[a.Status]++
	}
	return count
}

func TestRefresh(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	refresh := func(token any) apptest.Answer {
		return p.Call(t, "POST", "/auth/refresh", object{"refresh_token": token})
	}
	refused := func(t *testing.T, token string) {
		t.Helper()
		wantProblem(t, refresh(token), http.StatusUnauthorized, "auth.refresh_invalid")
	}

	t.Run("replaces both tokens and goes on", func(t *testing.T) {
		u := p.User(t)
		a := refresh(u.Refresh)
		wantMembers(t, a.JSON(t), "access_token", "token_type", "expires_in", "refresh_token")
		if a.Text(t, "access_token") == u.Token || a.Text(t, "refresh_token") == u.Refresh {
			t.Error("a token came again")
		}
		for _, token := range []string{u.Token, a.Text(t, "access_token")} {
			p.Want(t, http.StatusOK, "GET", "/users/me", nil, "Authorization", "Bearer "+token)
		}
		if again := refresh(a.Text(t, "refresh_token")); again.Status != http.StatusOK {
			t.Errorf("the new refresh token: %d", again.Status)
		}
	})

	t.Run("ends the session when a token comes twice, newer tokens included", func(t *testing.T) {
		u := p.User(t)
		other := *u
		p.SignIn(t, &other)
		newer := refresh(u.Refresh)
		newest := refresh(newer.Text(t, "refresh_token"))
		refused(t, u.Refresh)
		refused(t, newest.Text(t, "refresh_token"))
		for _, token := range []string{u.Token, newer.Text(t, "access_token"), newest.Text(t, "access_token")} {
			a := p.Call(t, "GET", "/users/me", nil, "Authorization", "Bearer "+token)
			wantProblem(t, a, http.StatusUnauthorized, "auth.token_invalid")
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, other.Auth()...) // another session of the user
	})

	t.Run("lets one of many win who use a token at once", func(t *testing.T) {
		u := p.User(t)
		got := atOnce(t, 8, func(int) (apptest.Answer, error) {
			return p.Try("POST", "/auth/refresh", object{"refresh_token": u.Refresh})
		})
		if diff := cmp.Diff(map[int]int{http.StatusOK: 1, http.StatusUnauthorized: 7}, byStatus(got)); diff != "" {
			t.Errorf("answers by status (-want +got):\n%s", diff)
		}
		p.Want(t, http.StatusUnauthorized, "GET", "/users/me", nil, u.Auth()...)
	})

	t.Run("refuses what is no refresh token of ours", func(t *testing.T) {
		u := p.User(t)
		last := u.Refresh[len(u.Refresh)-1]
		flipped := byte('A')
		if last == flipped {
			flipped = 'E'
		}
		for _, token := range []string{
			"kwr_", "kwr_unknown", u.Refresh[:len(u.Refresh)-1] + string(flipped), u.Refresh + "A", u.Token, p.Key(t, u, nil).Secret,
			strings.Repeat("kwr_", 1000), "kwr_" + strings.Repeat("A", 43), "\x00",
		} {
			refused(t, token)
		}
		wantProblem(t, refresh(""), http.StatusBadRequest, "request.invalid", "refresh_token")
		wantProblem(t, refresh(5), http.StatusBadRequest, "request.invalid", "refresh_token")
	})
}

func TestLogout(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	other := *u
	p.SignIn(t, &other)
	a := p.Want(t, http.StatusNoContent, "POST", "/auth/logout", nil, u.Auth()...)
	if len(a.Body) > 0 {
		t.Errorf("204 with a body: %s", a.Body)
	}
	for _, path := range []string{"/users/me", "/api/test", "/auth/sessions"} {
		wantProblem(t, p.Call(t, "GET", path, nil, u.Auth()...), http.StatusUnauthorized, "auth.token_invalid")
	}
	wantProblem(t, p.Call(t, "POST", "/auth/logout", nil, u.Auth()...), http.StatusUnauthorized, "auth.token_invalid")
	wantProblem(t, p.Call(t, "POST", "/auth/refresh", object{"refresh_token": u.Refresh}), http.StatusUnauthorized, "auth.refresh_invalid")
	p.Want(t, http.StatusOK, "GET", "/users/me", nil, other.Auth()...)
}

// A signed-out token stays refused when all memory of it is gone.
func TestLogoutSurvivesARestart(t *testing.T) {
	before := apptest.Start(t, apptest.Options{})
	out := before.User(t)
	in := *out
	before.SignIn(t, &in)
	before.Want(t, http.StatusNoContent, "POST", "/auth/logout", nil, out.Auth()...)
	if err := before.Stop(); err != nil {
		t.Fatal(err)
	}

	p := start(t, apptest.Options{DatabaseURL: before.DatabaseURL, MasterKey: before.MasterKey})
	p.Want(t, http.StatusOK, "GET", "/users/me", nil, in.Auth()...)
	wantProblem(t, p.Call(t, "GET", "/users/me", nil, out.Auth()...), http.StatusUnauthorized, "auth.token_invalid")
	wantProblem(t, p.Call(t, "POST", "/auth/refresh", object{"refresh_token": out.Refresh}), http.StatusUnauthorized, "auth.refresh_invalid")
}

func TestChangePassword(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	change := func(u *apptest.User, current, next any) apptest.Answer {
		return p.Call(t, "POST", "/auth/password", object{"current_password": current, "new_password": next}, u.Auth()...)
	}

	t.Run("ends the other sessions and keeps this one", func(t *testing.T) {
		u := p.User(t)
		other := *u
		p.SignIn(t, &other)
		key := p.Key(t, u, nil)
		if a := change(u, u.Password, anotherPassword); a.Status != http.StatusNoContent || len(a.Body) > 0 {
			t.Fatalf("status %d: %s", a.Status, a.Body)
		}
		p.Want(t, http.StatusOK, "GET", "/users/me", nil, u.Auth()...)
		p.Want(t, http.StatusOK, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, key.Auth()...)
		wantProblem(t, p.Call(t, "GET", "/users/me", nil, other.Auth()...), http.StatusUnauthorized, "auth.token_invalid")
		wantProblem(t, p.Call(t, "POST", "/auth/refresh", object{"refresh_token": other.Refresh}), http.StatusUnauthorized, "auth.refresh_invalid")
		p.Want(t, http.StatusUnauthorized, "POST", "/auth/login", object{"email": u.Email, "password": u.Password})
		p.Want(t, http.StatusOK, "POST", "/auth/login", object{"email": u.Email, "password": anotherPassword})
	})

	t.Run("refuses and changes nothing", func(t *testing.T) {
		u := p.User(t)
		wantProblem(t, change(u, anotherPassword, "a fine new passphrase"), http.StatusBadRequest, "user.current_password_wrong", "current_password")
		for _, bad := range []string{"", "short", "passwordpassword", u.Email, strings.Repeat("a1 b2 ", 50)} {
			wantProblem(t, change(u, u.Password, bad), http.StatusBadRequest, "request.invalid", "new_password")
		}
		wantProblem(t, change(u, 5, anotherPassword), http.StatusBadRequest, "request.invalid", "current_password")
		a := p.Call(t, "POST", "/auth/password", object{"password": anotherPassword}, u.Auth()...)
		wantProblem(t, a, http.StatusBadRequest, "request.invalid", "password")
		p.SignIn(t, u)
	})

	t.Run("limits guesses at the current password of a stolen token", func(t *testing.T) {
		u := p.User(t)
		for range 10 {
			wantProblem(t, change(u, anotherPassword, "a fine new passphrase"), http.StatusBadRequest, "user.current_password_wrong", "current_password")
		}
		wantProblem(t, change(u, u.Password, "a fine new passphrase"), http.StatusTooManyRequests, "auth.throttled")
		other := p.User(t)
		if a := change(other, other.Password, anotherPassword); a.Status != http.StatusNoContent {
			t.Errorf("another user: status %d: %s", a.Status, a.Body)
		}
	})
}

func TestSessions(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	a := p.Want(t, http.StatusOK, "POST", "/auth/login", object{"email": u.Email, "password": u.Password}, "User-Agent", "telephone/1.0")
	phone := *u
	phone.Token, phone.Refresh = a.Text(t, "access_token"), a.Text(t, "refresh_token")

	list := items(t, p.Want(t, http.StatusOK, "GET", "/auth/sessions", nil, u.Auth()...))
	if len(list) != 2 {
		t.Fatalf("%d sessions, want 2", len(list))
	}
	newest, own := list[0], list[1]
	for _, s := range list {
		wantMembers(t, s, "id", "created_at", "used_at", "expires_at", "client", "user_agent", "current")
		if s["client"] != "127.0.0.1" {
			t.Errorf("client %v", s["client"])
		}
	}
	if newest["current"] != false || own["current"] != true || newest["user_agent"] != "telephone/1.0" {
		t.Errorf("sessions: %v", list)
	}

	end := func(who *apptest.User, id string) apptest.Answer {
		return p.Call(t, "DELETE", "/auth/sessions/"+id, nil, who.Auth()...)
	}
	id := newest["id"].(string)
	wantProblem(t, end(p.User(t), id), http.StatusNotFound, "session.not_found")
	wantProblem(t, end(p.Admin(t), id), http.StatusNotFound, "session.not_found")
	for _, none := range []string{unknownID, "1", strings.ToUpper(id), "%20"} {
		wantProblem(t, end(u, none), http.StatusNotFound, "session.not_found")
	}
	p.Want(t, http.StatusOK, "GET", "/users/me", nil, phone.Auth()...)

	if a := end(u, id); a.Status != http.StatusNoContent || len(a.Body) > 0 {
		t.Fatalf("status %d: %s", a.Status, a.Body)
	}
	p.Want(t, http.StatusUnauthorized, "GET", "/users/me", nil, phone.Auth()...)
	p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": phone.Refresh})
	wantProblem(t, end(u, id), http.StatusNotFound, "session.not_found")
	if got := idsOf(items(t, p.Want(t, http.StatusOK, "GET", "/auth/sessions", nil, u.Auth()...))); !cmp.Equal(got, []string{own["id"].(string)}) {
		t.Errorf("sessions left: %v", got)
	}
	if a := end(u, own["id"].(string)); a.Status != http.StatusNoContent {
		t.Fatalf("the own session: status %d", a.Status)
	}
	p.Want(t, http.StatusUnauthorized, "GET", "/auth/sessions", nil, u.Auth()...)
}

// However much it may do, an API key cannot act as the person.
func TestAccountCallsAreForPeopleOnly(t *testing.T) {
	p := start(t, apptest.Options{})
	admin := p.Admin(t)
	key := p.Key(t, admin, map[string]any{"scopes": []string{
		"profile:read", "profile:write", "keys:read", "keys:write", "keys:admin", "users:read", "users:write", "audit:read",
	}})
	for _, c := range [][2]string{
		{"POST", "/auth/logout"}, {"POST", "/auth/password"}, {"GET", "/auth/sessions"}, {"DELETE", "/auth/sessions/" + unknownID},
	} {
		wantProblem(t, p.Call(t, c[0], c[1], nil, key.Auth()...), http.StatusForbidden, "access.user_only")
		wantProblem(t, p.Call(t, c[0], c[1], nil, "Authorization", "Bearer "+key.Secret), http.StatusForbidden, "access.user_only")
	}
}

func TestGuessingIsLimitedWithoutLockingTheOwnerOut(t *testing.T) {
	p := start(t, apptest.Options{Set: map[string]string{
		"throttle.account_failures": "3", "throttle.account_refill": "24h",
		"throttle.address_failures": "15", "throttle.address_refill": "24h",
		"throttle.registrations": "2", "throttle.registration_refill": "24h",
	}})
	login := func(email, password string) apptest.Answer {
		return p.Call(t, "POST", "/auth/login", object{"email": email, "password": password})
	}
	u := p.User(t)
	p.User(t)
	a := p.Call(t, "POST", "/auth/register", object{"email": apptest.NewEmail(), "password": apptest.Password})
	wantProblem(t, a, http.StatusTooManyRequests, "auth.throttled")

	// An account that was never used from here, and one that does not exist, look
	// the same.
	for _, stranger := range []string{apptest.NewEmail(), neverSignedIn(t, p)} {
		for range 3 {
			wantProblem(t, login(stranger, anotherPassword), http.StatusUnauthorized, "auth.credentials_invalid")
		}
		for range 3 {
			wantProblem(t, login(stranger, apptest.Password), http.StatusTooManyRequests, "auth.throttled")
		}
	}
	// 12 of the address's 15 are spent. The owner still gets in, from where the
	// account was used before.
	for range 2 {
		wantProblem(t, login(u.Email, anotherPassword), http.StatusUnauthorized, "auth.credentials_invalid")
	}
	for range 5 {
		if a := login(u.Email, u.Password); a.Status != http.StatusOK {
			t.Fatalf("the owner: status %d: %s", a.Status, a.Body)
		}
	}
	wantProblem(t, login(apptest.NewEmail(), apptest.Password), http.StatusUnauthorized, "auth.credentials_invalid")
	wantProblem(t, login(u.Email, u.Password), http.StatusTooManyRequests, "auth.throttled")
	a = p.Call(t, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
	wantProblem(t, a, http.StatusTooManyRequests, "auth.throttled")
	p.Want(t, http.StatusOK, "GET", "/users/me", nil, u.Auth()...)
}

// neverSignedIn is the address of an account that was not used yet.
func neverSignedIn(t *testing.T, p *apptest.Program) string {
	t.Helper()
	email := apptest.NewEmail()
	_, err := p.Platform.Accounts.Register(t.Context(), account.Registration{Email: email, Password: apptest.Password}, access.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	return email
}
