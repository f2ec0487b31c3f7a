package auth_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/policy/auth"
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
	}), access.MethodKey)
	if err != nil {
		t.Fatal(err)
	}
	info := &reqctx.Info{}
	r := httptest.NewRequest("GET", "/", nil)
	var got *access.Principal
	step(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = access.PrincipalFrom(r.Context()) })).
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
			step, err := auth.New(authenticator(func(access.Methods) (*access.Principal, error) { return nil, c.err }), access.AnyMethod)
			if err != nil {
				t.Fatal(err)
			}
			info := &reqctx.Info{}
			r := httptest.NewRequest("GET", "/", nil)
			w := httptest.NewRecorder()
			step(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("passed") })).
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

func TestNewRefusesOpenDoors(t *testing.T) {
	if _, err := auth.New(nil, access.AnyMethod); err == nil {
		t.Error("accepted without an authenticator")
	}
	if _, err := auth.New(authenticator(nil), 0); err == nil {
		t.Error("accepted without methods")
	}
}
