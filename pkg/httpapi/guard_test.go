package httpapi

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// authFunc decides about every request.
type authFunc func(r *http.Request, accept access.Methods) (*access.Principal, error)

func (f authFunc) Authenticate(r *http.Request, accept access.Methods) (*access.Principal, error) {
	return f(r, accept)
}

// guarded is a guard for one caller, with what it records.
type guarded struct {
	*Guard
	records []audit.Entry
	fail    error
	logged  bytes.Buffer
}

const denialBurst = 3

func newGuarded(t *testing.T, p *access.Principal, authErr error) *guarded {
	t.Helper()
	stopped := time.Now()
	denials, err := throttle.New(denialBurst, time.Hour, func() time.Time { return stopped })
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{}
	g.Guard = &Guard{
		Auth: authFunc(func(_ *http.Request, accept access.Methods) (*access.Principal, error) {
			if accept != access.AnyMethod {
				t.Errorf("accepts %v", accept)
			}
			return p, authErr
		}),
		Record: func(ctx context.Context, e audit.Entry) error {
			if ctx.Err() != nil {
				t.Error("the recording ends with the request")
			}
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the recording has no end")
			}
			g.records = append(g.records, e)
			return g.fail
		},
		Denials: denials, Logger: slog.New(slog.NewTextHandler(&g.logged, nil)),
	}
	return g
}

// run makes a call through a guard; seen is the caller that the handler saw.
func run(guard gin.HandlerFunc, ctx context.Context) (c call, seen *access.Principal, ran bool) {
	c = newCall(http.MethodGet, "/", "")
	if ctx != nil {
		c.Request = c.Request.WithContext(ctx)
	}
	guard(c.Context)
	if c.IsAborted() {
		return c, nil, false
	}
	return c, Principal(c.Context), true
}

var (
	person  = &access.Principal{Kind: access.KindUser, UserID: "user", Role: access.RoleUser, Scopes: []string{"keys:read"}, SessionID: "session"}
	program = &access.Principal{Kind: access.KindKey, UserID: "user", Role: access.RoleUser, Scopes: []string{"keys:read"}, KeyID: "key"}
)

func TestGuardAdmitsWhomItIsFor(t *testing.T) {
	for name, c := range map[string]struct {
		guard           func(*Guard) gin.HandlerFunc
		person, program string // codes of their refusals
	}{
		"authenticated": {(*Guard).Authenticated, "", ""},
		"scope":         {func(g *Guard) gin.HandlerFunc { return g.Require("keys:read") }, "", ""},
		"other scope":   {func(g *Guard) gin.HandlerFunc { return g.Require("keys:write") }, access.ErrScope.Code, access.ErrScope.Code},
		"user":          {(*Guard).User, "", access.ErrUserOnly.Code},
		"key":           {(*Guard).Key, access.ErrKeyOnly.Code, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for caller, refusal := range map[*access.Principal]string{person: c.person, program: c.program} {
				g := newGuarded(t, caller, nil)
				answer, seen, ran := run(c.guard(g.Guard), nil)
				if ran != (refusal == "") || ran && seen != caller {
					t.Errorf("%s: ran %v, as %+v", caller.Kind, ran, seen)
				}
				if answer.info.Subject != "user" || answer.info.KeyID != caller.KeyID {
					t.Errorf("%s: the log has user %q and key %q", caller.Kind, answer.info.Subject, answer.info.KeyID)
				}
				if ran {
					if len(g.records) > 0 {
						t.Errorf("%s: %+v", caller.Kind, g.records)
					}
					continue
				}
				if d := document(t, answer.Result()); d.Status != http.StatusForbidden || d.Code != refusal {
					t.Errorf("%s: %+v", caller.Kind, d)
				}
				if len(g.records) != 1 {
					t.Errorf("%s: %d records", caller.Kind, len(g.records))
				}
			}
		})
	}
}

func TestGuardPassesOnWhatTheAuthenticatorSays(t *testing.T) {
	for _, refusal := range []struct {
		err    error
		status int
	}{
		{access.ErrMissing.WithChallenge("Bearer"), http.StatusUnauthorized}, {access.ErrAmbiguous, http.StatusBadRequest},
		{access.ErrThrottled, http.StatusTooManyRequests}, {access.ErrUndecided, http.StatusServiceUnavailable},
		{errors.New("unknown"), http.StatusInternalServerError},
	} {
		g := newGuarded(t, nil, refusal.err)
		for _, guard := range []gin.HandlerFunc{g.Authenticated(), g.Require("x"), g.User(), g.Key()} {
			answer, _, ran := run(guard, nil)
			if d := document(t, answer.Result()); ran || d.Status != refusal.status {
				t.Errorf("%v: ran %v, %+v", refusal.err, ran, d)
			}
			if answer.info.Subject != "" {
				t.Errorf("%v: as %q", refusal.err, answer.info.Subject)
			}
		}
		if len(g.records) > 0 {
			t.Errorf("%v: %+v", refusal.err, g.records)
		}
	}
}

func TestDenialSaysWhoAndWhat(t *testing.T) {
	g := newGuarded(t, program, nil)
	e := NewEngine(testBodyLimit, Serve(http.NotFoundHandler()))
	e.GET("/users/:id", g.Require("users:read"), func(*gin.Context) { t.Error("it runs") })
	if answer, _ := get(t, serve(t, Shielded(e)), "/users/somebody"); answer.StatusCode != http.StatusForbidden ||
		!strings.Contains(answer.Header.Get("WWW-Authenticate"), `scope="users:read"`) {
		t.Errorf("%d %v", answer.StatusCode, answer.Header)
	}
	want := []audit.Entry{{
		Action: audit.AccessDenied, ActorKind: "key", ActorID: "user", ActorKeyID: "key", TargetKind: "route",
		TargetID: "GET /users/:id", Result: audit.Failure, Detail: map[string]string{"needs": "users:read"},
	}}
	if diff := cmp.Diff(want, g.records); diff != "" {
		t.Error(diff)
	}
}

func TestDenialsAreRecordedBoundedly(t *testing.T) {
	g := newGuarded(t, person, nil)
	for range 100 {
		if answer, _, ran := run(g.Require("x"), nil); ran || answer.Result().StatusCode != http.StatusForbidden {
			t.Fatal("not refused")
		}
	}
	if len(g.records) != denialBurst {
		t.Errorf("%d records of 100 refusals", len(g.records))
	}
	another := *person
	another.UserID = "another"
	g.Auth = authFunc(func(*http.Request, access.Methods) (*access.Principal, error) { return &another, nil })
	run(g.Require("x"), nil)
	if len(g.records) != denialBurst+1 {
		t.Error("one user's refusals hide another's")
	}
}

func TestDenialHoldsWhenItCannotBeRecorded(t *testing.T) {
	g := newGuarded(t, person, nil)
	g.fail = errors.New("the store is away")
	answer, _, ran := run(g.Require("x"), nil)
	if d := document(t, answer.Result()); ran || d.Code != access.ErrScope.Code {
		t.Errorf("ran %v, %+v", ran, d)
	}
	if !strings.Contains(g.logged.String(), "could not be audited") {
		t.Errorf("log: %s", &g.logged)
	}
}

func TestDenialIsRecordedWhenTheCallerHangsUp(t *testing.T) {
	g := newGuarded(t, person, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, ran := run(g.Require("x"), ctx); ran || len(g.records) != 1 {
		t.Errorf("ran %v, %d records", ran, len(g.records))
	}
}

func TestUnguardedCallHasNoPrincipal(t *testing.T) {
	if p := Principal(newCall(http.MethodGet, "/", "").Context); p != nil {
		t.Errorf("%+v", p)
	}
}

func TestScopesThatCallsNeedAreHeardOf(t *testing.T) {
	caller := &access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k", Scopes: []string{"a", "b", "c"}}
	g := newGuarded(t, caller, nil)
	var used []string
	g.Used = func(p *access.Principal, scope string) {
		if p != caller {
			t.Errorf("told of %v", p)
		}
		used = append(used, scope)
	}
	for _, scope := range []string{"a", "z"} {
		engine := NewEngine(1<<20, Nothing)
		engine.GET("/", g.Require(scope), Handle(func(*gin.Context) error { return nil }))
		engine.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}
	if !g.Holds(caller, "b") || g.Holds(caller, "y") || g.Check(caller, "c") != nil || g.Check(caller, "x") == nil || g.Holds(nil, "a") {
		t.Error("the guard is wrong about what a caller holds")
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, used); diff != "" {
		t.Error(diff)
	}
	g.Used = nil
	if !g.Holds(caller, "b") {
		t.Error("nobody needs to hear")
	}
}
