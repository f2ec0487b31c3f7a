package postureapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/posture"
	"github.com/keywarden/keywarden/pkg/throttle"
)

var at = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

// callers authenticates by the role that a header names.
type callers struct{ roles access.Roles }

func (a callers) Authenticate(r *http.Request, _ access.Methods) (*access.Principal, error) {
	role := access.Role(r.Header.Get("Role"))
	if role == "" {
		return nil, access.ErrMissing
	}
	return &access.Principal{Kind: access.KindUser, UserID: "u", Role: role, Scopes: a.roles.Scopes(role)}, nil
}

func TestReportIsForAdminsAndChecksQuestions(t *testing.T) {
	roles, err := access.NewRoles(nil)
	if err != nil {
		t.Fatal(err)
	}
	denials, err := throttle.New(100, time.Second, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h := &Handler{
		Facts: func(context.Context, time.Time) (posture.Facts, error) {
			return posture.Facts{Keys: []posture.Key{{ID: "a", CreatedAt: at}, {ID: "b", CreatedAt: at}}, Listeners: posture.Listeners{Addr: ":80", Operators: "[::1]:9"}}, nil
		},
		Guard: &httpapi.Guard{
			Auth: callers{roles}, Record: func(context.Context, audit.Entry) error { return nil }, Denials: denials, Logger: slog.New(slog.DiscardHandler),
		},
		Now: func() time.Time { return at },
	}
	engine := httpapi.NewEngine(1<<20, httpapi.Nothing)
	h.Mount(engine)
	for _, c := range []struct {
		role, query string
		status      int
		ids         string
	}{
		{"", "", 401, ""},
		{"user", "", 403, ""},
		{"operator", "", 403, ""},
		{"admin", "", 200, "listener.plaintext:main key.no-expiry:a key.no-expiry:b"},
		{"admin", "?severity=high", 200, "listener.plaintext:main"},
		{"admin", "?limit=2", 200, "listener.plaintext:main key.no-expiry:a"},
		{"admin", "?suppress=key.no-expiry:a&suppress=listener.plaintext:main", 200, "key.no-expiry:b"},
		{"admin", "?severity=bad", 400, ""},
		{"admin", "?severity=low&severity=high", 400, ""},
		{"admin", "?limit=0", 400, ""},
		{"admin", "?limit=1001", 400, ""},
		{"admin", "?suppres=x", 400, ""},
		{"admin", "?suppress=" + strings.Repeat("x", 201), 400, ""},
	} {
		r := httptest.NewRequest("GET", "/admin/v1/posture"+c.query, nil)
		r.Header.Set("Role", c.role)
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, r)
		var got Report
		_ = json.Unmarshal(w.Body.Bytes(), &got)
		var ids []string
		for _, f := range got.Findings {
			ids = append(ids, f.ID)
		}
		if w.Code != c.status || strings.Join(ids, " ") != c.ids {
			t.Errorf("%q %q: status %d, findings %v: %s", c.role, c.query, w.Code, ids, w.Body)
		}
	}
}
