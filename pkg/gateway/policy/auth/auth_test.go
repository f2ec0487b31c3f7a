package auth_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/policy/auth"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

type authenticator func(accept access.Methods) (*access.Principal, error)

func (a authenticator) Authenticate(_ *http.Request, accept access.Methods) (*access.Principal, error) {
	return a(accept)
}

func TestCallerPassesWithItsPrincipal(t *testing.T) {
	caller := &access.Principal{Kind: access.KindKey, UserID: "user-1", KeyID: "key-1"}
	var accepted access.Methods
	step, err := auth.New(authenticator(func(accept access.Methods) (*access.Principal, error) {
		accepted = accept
		return caller, nil
	}), auth.Config{Accept: access.MethodKey})
	if err != nil {
		t.Fatal(err)
	}
	info := &reqctx.Info{}
	r := httptest.NewRequest("GET", "/", nil)
	var got *access.Principal
	step.Apply(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = access.PrincipalFrom(r.Context()) })).
		ServeHTTP(httptest.NewRecorder(), r.WithContext(reqctx.With(r.Context(), info)))
	if got != caller || accepted != access.MethodKey {
		t.Errorf("principal %v, accepted methods %b", got, accepted)
	}
	if info.Subject != "user-1" || info.KeyID != "key-1" {
		t.Errorf("info has subject %q and key %q", info.Subject, info.KeyID)
	}
}

func TestNobodyElsePasses(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
	}{
		{"no credential", access.ErrMissing.WithChallenge("Bearer"), 401, "auth.missing"},
		{"undecided", access.ErrUndecided, 503, "auth.unavailable"},
		{"other error", errors.New("broken"), 500, "internal"},
		{"neither principal nor error", nil, 500, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			step, err := auth.New(authenticator(func(access.Methods) (*access.Principal, error) { return nil, c.err }), auth.Config{Accept: access.AnyMethod})
			if err != nil {
				t.Fatal(err)
			}
			info := &reqctx.Info{}
			r := httptest.NewRequest("GET", "/", nil)
			w := httptest.NewRecorder()
			step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("passed") })).
				ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
			if w.Code != c.status || info.Code != c.code {
				t.Errorf("got %d %s, want %d %s", w.Code, info.Code, c.status, c.code)
			}
			if w.Code == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
				t.Error("401 without a challenge")
			}
		})
	}
}

// showing is an authenticator for which everybody is p.
func showing(p *access.Principal) authenticator {
	return func(access.Methods) (*access.Principal, error) { return p, nil }
}

func TestScopesAreNeededAllAndRolesOneOf(t *testing.T) {
	caller := func(role access.Role, scopes ...string) *access.Principal {
		return &access.Principal{UserID: "u", Role: role, Scopes: scopes}
	}
	demand := auth.Config{Accept: access.AnyMethod, Scopes: []string{"orders:read", "orders:write"}, Roles: []access.Role{"clerk", "admin"}}
	for _, c := range []struct {
		name   string
		caller *access.Principal
		code   string // empty: passes
	}{
		{"both scopes and a role", caller("clerk", "orders:read", "orders:write"), ""},
		{"every scope", caller("admin", "*"), ""},
		{"one scope is missing", caller("clerk", "orders:read"), "access.scope_missing"},
		{"another role", caller("user", "orders:read", "orders:write"), "access.role_missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			step, err := auth.New(showing(c.caller), demand)
			if err != nil {
				t.Fatal(err)
			}
			r, w, passed := httptest.NewRequest("GET", "/", nil), httptest.NewRecorder(), false
			info := &reqctx.Info{}
			r = r.WithContext(reqctx.With(r.Context(), info))
			step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true })).ServeHTTP(w, r)
			if passed != (c.code == "") || info.Code != c.code {
				t.Errorf("passed %t with code %q, want code %q", passed, info.Code, c.code)
			}
			previewed := ""
			if err := step.Preview(r.WithContext(access.WithPrincipal(r.Context(), c.caller))); err != nil {
				previewed = problem.From(err).Code
			}
			if previewed != c.code {
				t.Errorf("the preview says %q, the step %q", previewed, c.code)
			}
		})
	}
}

func TestOptionalLetsAnonymousPassAndBadCredentialsNot(t *testing.T) {
	for err, want := range map[error]bool{access.ErrMissing.WithChallenge("Bearer"): true, access.ErrKey: false, access.ErrUndecided: false, access.ErrAmbiguous: false} {
		step, _ := auth.New(authenticator(func(access.Methods) (*access.Principal, error) { return nil, err }),
			auth.Config{Accept: access.AnyMethod, Optional: true})
		passed := false
		step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true })).
			ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		if passed != want {
			t.Errorf("%v: passed %t, want %t", err, passed, want)
		}
	}
}

func TestShadowReportsAndPassesWithoutPretendingToKnowTheCaller(t *testing.T) {
	step, _ := auth.New(authenticator(func(access.Methods) (*access.Principal, error) { return nil, access.ErrKey }),
		auth.Config{Accept: access.AnyMethod})
	var reported error
	passed := false
	step.Watch(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		passed = access.PrincipalFrom(r.Context()) == nil
	}), func(_ *http.Request, err error) { reported = err }).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if !passed || !errors.Is(reported, access.ErrKey) {
		t.Errorf("passed as anonymous: %t, reported %v", passed, reported)
	}
}

func TestNewRefusesOpenDoors(t *testing.T) {
	if _, err := auth.New(nil, auth.Config{Accept: access.AnyMethod}); err == nil {
		t.Error("accepted without an authenticator")
	}
	if _, err := auth.New(authenticator(nil), auth.Config{}); err == nil {
		t.Error("accepted without methods")
	}
}

func TestScopesThatLetACallerInAreHeardOf(t *testing.T) {
	for _, c := range []struct {
		name   string
		held   []string
		role   access.Role
		report []string
	}{
		{"all that are demanded", []string{"a", "b", "c"}, access.RoleUser, []string{"a", "b"}},
		{"one is missing", []string{"a"}, access.RoleUser, nil},
		{"the role is missing", []string{"a", "b"}, access.RoleAdmin, nil},
	} {
		caller := &access.Principal{Kind: access.KindKey, KeyID: "k", Scopes: c.held, Role: c.role}
		var used []string
		demand := auth.Config{
			Accept: access.MethodKey, Scopes: []string{"a", "b"}, Roles: []access.Role{access.RoleUser},
			Used: func(p *access.Principal, scope string) {
				if p != caller {
					t.Errorf("%s: told of %v", c.name, p)
				}
				used = append(used, scope)
			},
		}
		step, err := auth.New(showing(caller), demand)
		if err != nil {
			t.Fatal(err)
		}
		nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		r := httptest.NewRequest("GET", "/", nil)
		r = r.WithContext(reqctx.With(r.Context(), &reqctx.Info{}))
		step.Apply(nothing).ServeHTTP(httptest.NewRecorder(), r)
		if !slices.Equal(used, c.report) {
			t.Errorf("%s: %q", c.name, used)
		}
		used = nil
		step.Watch(nothing, func(*http.Request, error) {}).ServeHTTP(httptest.NewRecorder(), r)
		if !slices.Equal(used, c.report) {
			t.Errorf("%s: in shadow mode %q", c.name, used)
		}
		used = nil
		_ = step.Preview(r.WithContext(access.WithPrincipal(r.Context(), caller)))
		_ = auth.Standing(showing(caller), demand)(r)
		if used != nil {
			t.Errorf("%s: looking leaves a trace: %q", c.name, used)
		}
	}
}

// showingWhen notes the time at which it is asked to look.
type showingWhen struct {
	caller *access.Principal
	at     time.Time
}

func (s *showingWhen) Authenticate(r *http.Request, _ access.Methods) (*access.Principal, error) {
	s.at = reqctx.From(r.Context()).Start
	return s.caller, nil
}

// A credential may have expired since the request was read.
func TestStandingIsOfTheMomentAndNotOfTheRequest(t *testing.T) {
	a := &showingWhen{caller: &access.Principal{Kind: access.KindKey}}
	read := time.Now().Add(-time.Hour)
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(reqctx.With(r.Context(), &reqctx.Info{Start: read}))
	if err := auth.Standing(a, auth.Config{Accept: access.MethodKey})(r); err != nil {
		t.Fatal(err)
	}
	if !a.at.After(read) {
		t.Errorf("looked at as of %s", a.at)
	}
}
